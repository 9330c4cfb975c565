//! The accept loop and the connections of clients.

use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use http::{HeaderValue, Request, StatusCode, header::CONNECTION};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tower_service::Service;

use crate::config::ServerConfig;

/// The pause after a failed accept, in which open connections may end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The bytes by which each HTTP/2 connection begins, and no request of HTTP/1.
const HTTP2: &[u8; 3] = b"PRI";

/// The pause after a part of [`HTTP2`].
const PEEK_PAUSE: Duration = Duration::from_millis(10);

/// The time after the start of a drain in which the first request of an open connection is still
/// answered. It may have been sent before.
const LAST_REQUEST: Duration = Duration::from_millis(500);

/// The interval of the pings that find dead HTTP/2 connections.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The time that connections have to send the last event after their streams were cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(5);

/// The open connections of an address. Dropping it closes them.
pub(crate) type Connections = JoinSet<()>;

/// Accepts connections until `drain` becomes true. Returns those that are still open.
pub(crate) async fn accept<S>(
    listener: TcpListener,
    service: S,
    config: ServerConfig,
    mut drain: watch::Receiver<bool>,
) -> Connections
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let mut connections = JoinSet::new();
    let slots = usize::try_from(config.max_connections.get()).unwrap_or(usize::MAX);
    let slots = Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS)));
    let config = Arc::new(config);
    loop {
        // The slot comes first: a connection over the limit waits in the queue of the system.
        let next = async {
            let slot = slots.clone().acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            Some(_) = connections.join_next() => continue,
            _ = drain.wait_for(|is_draining| *is_draining) => return connections,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = serve(stream, service.clone(), config.clone(), drain.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            // The process has no free descriptor, or the client has closed the connection.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection to its end.
async fn serve<S>(
    stream: TcpStream,
    service: S,
    config: Arc<ServerConfig>,
    mut drain: watch::Receiver<bool>,
) where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Events are small. With Nagle's algorithm each would wait for the previous acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let header_timeout = Instant::now() + config.header_timeout;
    let is_http2 = tokio::select! {
        is_http2 = timeout_at(header_timeout, is_http2(&stream)) => match is_http2 {
            Ok(Ok(is_http2)) => is_http2,
            Ok(Err(error)) => return tracing::debug!(%error, "connection failed"),
            Err(_) => return tracing::debug!("no request arrived in time"),
        },
        () = async {
            let _ = drain.wait_for(|is_draining| *is_draining).await;
            sleep(LAST_REQUEST).await;
        } => return,
    };
    let (has_request, header_bytes) = (&AtomicBool::new(false), config.header_bytes);
    let requests = service_fn(move |request: Request<Incoming>| {
        has_request.store(true, Ordering::Relaxed);
        // hyper's limit is one of its buffer, and lets headers of up to twice the size pass.
        let fits = size_of_head(&request) <= header_bytes;
        let answering = fits.then(|| service.clone().call(request.map(Body::new)));
        async move {
            match answering {
                Some(answering) => answering.await,
                None => Ok(headers_too_large()),
            }
        }
    });
    let builder = builder(&config);
    let builder = if is_http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), requests));
    let mut first_request = pin!(sleep_until(header_timeout));
    let (mut is_timed, mut is_draining) = (is_http2, false);
    let ended = loop {
        tokio::select! {
            // The connection reads its first request before its end may be requested.
            biased;
            ended = connection.as_mut() => break ended,
            // hyper has no timeout for the headers of HTTP/2.
            () = first_request.as_mut(), if is_timed => {
                if !has_request.load(Ordering::Relaxed) {
                    tracing::debug!("no request arrived in time");
                    return;
                }
                is_timed = false;
            }
            _ = drain.wait_for(|is_draining| *is_draining), if !is_draining => {
                is_draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection failed");
    }
}

/// Returns true if a connection begins as HTTP/2 does. Its bytes remain to be read.
///
/// The builder of the server could find out as well, but would then keep a buffer of twice the size
/// for as long as the connection is open.
async fn is_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; HTTP2.len()];
    loop {
        let read = stream.peek(&mut start).await?;
        let is_part = read > 0 && read < start.len() && HTTP2.starts_with(&start[..read]);
        if !is_part {
            return Ok(start == *HTTP2);
        }
        // The bytes are still there, so that the next call would return at once.
        sleep(PEEK_PAUSE).await;
    }
}

/// Returns the size of the target and the headers of a request, as HTTP/1 writes them.
fn size_of_head(request: &Request<Incoming>) -> usize {
    let target = request.uri().path_and_query();
    let target = target.map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + headers.sum::<usize>()
}

/// Returns the response of hyper to headers that exceed its own limits.
fn headers_too_large() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

fn builder(config: &ServerConfig) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let count = usize::try_from(config.header_count.get()).unwrap_or(usize::MAX);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(config.header_bytes)
        .max_headers(count);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(config.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE);
    builder
}

/// Waits until all connections have ended. After `time`, ends their streams with an `error` event
/// by way of `cut`, and closes what is left.
pub(crate) async fn drain(mut connections: Connections, time: Duration, cut: &watch::Sender<bool>) {
    let ended = timeout(time, async {
        while connections.join_next().await.is_some() {}
    });
    if ended.await.is_ok() {
        return;
    }
    tracing::warn!(
        open = connections.len(),
        "drain timeout passed, streams are cut"
    );
    cut.send_replace(true);
    let ended = timeout(CUT_TIMEOUT, async {
        while connections.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::warn!(open = connections.len(), "connections closed");
    }
    // The ends of the calls of what was closed are reported before the event log ends.
    connections.shutdown().await;
}
