//! The upstream: a plain server that answers at once.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::{
    messages::{DELTA, END, EVENTS, IDLE, KIND, START, STREAM, headers, message},
    process,
};

/// Serves until the process ends, on one thread.
pub(crate) fn serve() -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = process::listen().await;
        process::announce(listener.local_addr().expect("an address"));
        accept(listener).await
    })
}

async fn accept(listener: TcpListener) -> ! {
    let json = (headers("application/json"), Answer::Whole(Some(message())));
    let stream = headers("text/event-stream; charset=utf-8");
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            continue;
        };
        connection.set_nodelay(true).expect("a socket");
        let (json, stream) = (json.clone(), stream.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let kind = request.headers().get(KIND).map(http::HeaderValue::as_bytes);
            let (headers, answer): (HeaderMap, Answer) = match kind {
                Some(kind) if kind == STREAM.as_bytes() => (stream.clone(), Answer::stream()),
                Some(kind) if kind == IDLE.as_bytes() => (stream.clone(), Answer::Idle(false)),
                _ => json.clone(),
            };
            async move {
                // The response comes after the whole request, as with the API.
                let _ = request.into_body().collect().await;
                let mut response = Response::new(answer);
                *response.headers_mut() = headers;
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
    }
}

/// A response body.
#[derive(Clone)]
enum Answer {
    Whole(Option<Bytes>),
    /// The number of events that were sent, and true if the last one has been written.
    Stream {
        sent: usize,
        is_written: bool,
    },
    /// True after the first event.
    Idle(bool),
}

impl Answer {
    const fn stream() -> Self {
        Self::Stream {
            sent: 0,
            is_written: true,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let text = match self.get_mut() {
            Self::Whole(body) => return Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Idle(true) => return Poll::Pending,
            Self::Idle(is_sent) => {
                *is_sent = true;
                START
            }
            // A model writes each event by itself. A pending body makes hyper write what it has.
            Self::Stream { is_written, .. } if !*is_written => {
                *is_written = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Self::Stream { sent, is_written } => {
                let text = match *sent {
                    0 => START,
                    n if n <= EVENTS => DELTA,
                    n if n == EVENTS + 1 => END,
                    _ => return Poll::Ready(None),
                };
                *sent += 1;
                *is_written = false;
                text
            }
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(Some(body)) => SizeHint::with_exact(body.len() as u64),
            _ => SizeHint::default(),
        }
    }
}
