//! The server on a port.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tower_service::Service;

use crate::body::FakeBody;
use crate::error::FakeError;
use crate::line::{Connection, Line};

/// A server on a port. Dropping it closes the port and every connection.
#[derive(Debug)]
#[must_use = "dropping the server stops it"]
pub struct FakeServer {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl FakeServer {
    pub(crate) async fn bind<S>(service: S, addr: SocketAddr) -> io::Result<Self>
    where
        S: Service<Request<Incoming>, Response = Response<FakeBody>, Error = FakeError>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        Ok(Self {
            addr,
            task: tokio::spawn(accept(listener, service)),
        })
    }

    /// Returns the address of the port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the base URL, `http://127.0.0.1:port`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Closes the port and every connection, and waits until they are closed.
    pub async fn shutdown(mut self) {
        self.task.abort();
        // The only possible error is the cancellation.
        let _ = (&mut self.task).await;
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections and owns them, so that dropping this future closes them.
async fn accept<S>(listener: TcpListener, service: S)
where
    S: Service<Request<Incoming>, Response = Response<FakeBody>, Error = FakeError>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, service.clone()));
                }
                // The process has no free descriptor, or the client has closed the connection. The
                // pause gives the open connections time to end.
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve<S>(stream: TcpStream, service: S)
where
    S: Service<Request<Incoming>, Response = Response<FakeBody>, Error = FakeError>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    // Events are small. With Nagle's algorithm each would wait for the previous acknowledgement.
    let _ = stream.set_nodelay(true);
    let line = Line::default();
    let connection = Connection {
        stream,
        line: line.clone(),
    };
    let service = service_fn(move |mut request: Request<Incoming>| {
        line.set_http2(request.version() == Version::HTTP_2);
        request.extensions_mut().insert(line.clone());
        service.clone().call(request)
    });
    // An error is either injected or a client that left. Both are in the log.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(connection), service)
        .await;
}
