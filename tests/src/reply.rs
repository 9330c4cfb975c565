//! Responses of a scripted service.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body;
use tower_claude_core::Rejection;

use crate::{Broken, FrameBody, Guard, Piece};

/// An extension that must pass through the layers, in a request as in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker(pub u32);

/// A response of a [`Script`](crate::Script).
#[derive(Clone, Debug)]
pub struct Reply {
    pub(crate) waits: usize,
    pub(crate) result: Result<Head, Broken>,
    pieces: Vec<Piece>,
    exact: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    version: Version,
    pub(crate) headers: HeaderMap,
    extensions: http::Extensions,
}

impl Reply {
    /// Returns a response of this status without headers or body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            waits: 0,
            result: Ok(Head {
                status: StatusCode::from_u16(status).expect("the script names a valid status"),
                version: Version::HTTP_11,
                headers: HeaderMap::new(),
                extensions: http::Extensions::new(),
            }),
            pieces: Vec::new(),
            exact: true,
        }
    }

    /// Returns an error in place of a response.
    #[must_use]
    pub fn error(error: Broken) -> Self {
        Self {
            result: Err(error),
            ..Self::status(200)
        }
    }

    /// Returns a 200 with this JSON and its length.
    #[must_use]
    pub fn json(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::status(200)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, &body.len().to_string())
            .data(body)
    }

    /// Returns a message of Claude, with usage.
    #[must_use]
    pub fn message() -> Self {
        Self::json(MESSAGE)
    }

    /// Returns a 200 with an event stream of these chunks.
    #[must_use]
    pub fn stream<C: Into<Bytes>>(chunks: impl IntoIterator<Item = C>) -> Self {
        let mut reply = Self::status(200)
            .header(CONTENT_TYPE, "text/event-stream; charset=utf-8")
            .chunked();
        for chunk in chunks {
            reply = reply.data(chunk);
        }
        reply
    }

    /// Returns an error response in Claude's format.
    #[must_use]
    pub fn claude_error(status: u16, kind: &str) -> Self {
        let body = format!(
            r#"{{"type":"error","error":{{"type":"{kind}","message":"scripted"}},"request_id":"req_1"}}"#
        );
        let mut reply = Self::json(body).header(HeaderName::from_static("request-id"), "req_1");
        if let Ok(head) = &mut reply.result {
            head.status = StatusCode::from_u16(status).expect("the script names a valid status");
        }
        reply
    }

    /// Returns the rejection by an inner layer.
    #[must_use]
    pub fn refusal(refusal: Rejection) -> Self {
        let (head, mut body) = refusal.into_response::<FrameBody>().into_parts();
        let mut reply = Self::status(head.status.as_u16());
        reply.result = Ok(Head {
            status: head.status,
            version: head.version,
            headers: head.headers,
            extensions: head.extensions,
        });
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Some(Ok(frame))) =
            std::pin::Pin::new(&mut body).poll_frame(&mut cx)
        {
            if let Ok(data) = frame.into_data() {
                reply = reply.data(data);
            }
        }
        reply
    }

    /// Adds a header. A name may occur more than once.
    ///
    /// # Panics
    /// If the value is not a header value.
    #[must_use]
    pub fn header(self, name: HeaderName, value: &str) -> Self {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a valid header value");
        self.raw_header(name, value)
    }

    /// Adds a header of any bytes.
    #[must_use]
    pub fn raw_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Ok(head) = &mut self.result {
            head.headers.append(name, value);
        }
        self
    }

    /// Adds an extension.
    #[must_use]
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        if let Ok(head) = &mut self.result {
            head.extensions.insert(value);
        }
        self
    }

    /// Adds a data frame.
    #[must_use]
    pub fn data(self, data: impl Into<Bytes>) -> Self {
        self.piece(Piece::Data(data.into()))
    }

    /// Adds a piece of the body.
    #[must_use]
    pub fn piece(mut self, piece: Piece) -> Self {
        self.pieces.push(piece);
        self
    }

    /// Makes the length of the body unknown.
    #[must_use]
    pub const fn chunked(mut self) -> Self {
        self.exact = false;
        self
    }

    /// Makes the call pending this many times before the head.
    #[must_use]
    pub const fn waits(mut self, times: usize) -> Self {
        self.waits = times;
        self
    }

    /// Makes the body pending once before each piece and before its end.
    #[must_use]
    pub fn slow_body(mut self) -> Self {
        self.pieces = self
            .pieces
            .into_iter()
            .flat_map(|piece| [Piece::Wait, piece])
            .collect();
        self.exact = false;
        self.piece(Piece::Wait)
    }

    /// Returns the response. The guard counts its body.
    ///
    /// # Errors
    /// The scripted error.
    pub fn response(&self, guard: Guard) -> Result<Response<FrameBody>, Broken> {
        let head = self.result.clone()?;
        let mut body = FrameBody::new(self.pieces.iter().cloned()).guarded(guard);
        if self.exact {
            body = body.exact();
        }
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.headers;
        *response.extensions_mut() = head.extensions;
        Ok(response)
    }
}

const MESSAGE: &str = concat!(
    r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","#,
    r#""content":[{"type":"text","text":"Hi","x_unknown":[1,2.50,null]}],"stop_reason":"end_turn","#,
    r#""x_future":{"b":1,"a":{}},  "usage":{"input_tokens":11,"output_tokens":7,"x_new":3}}"#
);
