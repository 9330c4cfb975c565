//! Responses of the scripted API.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Response};
use http_body::Frame;
use tokio::time::{Sleep, sleep};

use crate::Guard;

/// A piece of a body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// A data frame.
    Data(Bytes),
    /// A pause.
    Wait(Duration),
    /// A reset of the connection.
    Broken,
    /// An endless pause.
    Stall,
}

impl Piece {
    /// Returns a data frame of this text.
    #[must_use]
    pub const fn data(text: &'static str) -> Self {
        Self::Data(Bytes::from_static(text.as_bytes()))
    }
}

/// A response of the API, or an error in its place.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The delay before the head. `None` means forever.
    pub(super) after: Option<Duration>,
    broken: Option<io::ErrorKind>,
    status: u16,
    headers: HeaderMap,
    extensions: Extensions,
    body: Vec<Piece>,
}

impl Reply {
    /// Returns a response of this status, without headers or body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self {
            after: Some(Duration::ZERO),
            broken: None,
            status,
            headers: HeaderMap::new(),
            extensions: Extensions::new(),
            body: Vec::new(),
        }
    }

    /// Returns JSON with this status.
    #[must_use]
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status)
            .header("content-type", "application/json")
            .pieces([Piece::Data(body.into())])
    }

    /// Returns a whole message.
    #[must_use]
    pub fn fine() -> Self {
        Self::json(200, r#"{"type":"message","content":[]}"#)
    }

    /// Returns an error of this type.
    #[must_use]
    pub fn error(status: u16, kind: &str) -> Self {
        Self::json(
            status,
            format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"scripted"}}}}"#),
        )
    }

    /// Returns the 404 of a model that does not exist, or not for this account.
    #[must_use]
    pub fn no_model() -> Self {
        let error = r#"{"type":"not_found_error","message":"model: gone"}"#;
        Self::json(404, format!(r#"{{"type":"error","error":{error}}}"#))
    }

    /// Returns a 529.
    #[must_use]
    pub fn overloaded() -> Self {
        Self::error(529, "overloaded_error")
    }

    /// Returns a 429 with this `retry-after`.
    #[must_use]
    pub fn rate_limited(retry_after: &str) -> Self {
        Self::error(429, "rate_limit_error").header("retry-after", retry_after)
    }

    /// Returns a stream.
    #[must_use]
    pub fn stream(pieces: impl IntoIterator<Item = Piece>) -> Self {
        Self::new(200)
            .header("content-type", "text/event-stream")
            .pieces(pieces)
    }

    /// Returns a failure of the client.
    #[must_use]
    pub fn broken(kind: io::ErrorKind) -> Self {
        Self {
            broken: Some(kind),
            ..Self::new(200)
        }
    }

    /// Returns a call that never ends.
    #[must_use]
    pub fn never() -> Self {
        Self {
            after: None,
            ..Self::new(200)
        }
    }

    /// Replaces the status.
    #[must_use]
    pub const fn into_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Sets the delay before the head.
    #[must_use]
    pub const fn after(mut self, wait: Duration) -> Self {
        self.after = Some(wait);
        self
    }

    /// Sets a header.
    ///
    /// # Panics
    /// If the value is not a header value.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header value");
        self.headers.insert(name, value);
        self
    }

    /// Sets an extension.
    #[must_use]
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn pieces(mut self, pieces: impl IntoIterator<Item = Piece>) -> Self {
        self.body = pieces.into_iter().collect();
        self
    }

    pub(super) fn into_response(self, guard: Guard) -> io::Result<Response<Body>> {
        if let Some(kind) = self.broken {
            return Err(kind.into());
        }
        let mut response = Response::new(Body {
            pieces: self.body.into(),
            sleep: None,
            _guard: guard,
        });
        *response.status_mut() = self.status.try_into().expect("a status");
        *response.headers_mut() = self.headers;
        *response.extensions_mut() = self.extensions;
        Ok(response)
    }
}

/// A body that is sent piece by piece.
#[derive(Debug)]
pub struct Body {
    pieces: VecDeque<Piece>,
    sleep: Option<Pin<Box<Sleep>>>,
    _guard: Guard,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            match self.pieces.pop_front() {
                None => return Poll::Ready(None),
                Some(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Piece::Wait(wait)) => self.sleep = Some(Box::pin(sleep(wait))),
                Some(Piece::Broken) => {
                    self.pieces.clear();
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
                }
                Some(Piece::Stall) => {
                    self.pieces.push_front(Piece::Stall);
                    return Poll::Pending;
                }
            }
        }
    }
}
