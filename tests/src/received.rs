//! Calls, and responses read to their end.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use http::{Extensions, HeaderMap, Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_claude_core::{Class, Kind, Rejection};
use tower_service::Service;

/// A response that was read until its body ended or failed.
#[derive(Clone, Debug)]
pub struct Received<E> {
    /// The status.
    pub status: u16,
    /// The version.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The extensions.
    pub extensions: Extensions,
    /// The data of the body.
    pub body: Bytes,
    /// The trailers of the body.
    pub trailers: Option<HeaderMap>,
    /// The error that ended the body, if there was one.
    pub error: Option<E>,
}

impl<E> Received<E> {
    /// Reads a response until its body ends or fails.
    pub async fn read<B>(response: Response<B>) -> Self
    where
        B: Body<Data = Bytes, Error = E> + Unpin,
    {
        let (head, body) = response.into_parts();
        let (body, trailers, error) = read(body).await;
        Self {
            status: head.status.as_u16(),
            version: head.version,
            headers: head.headers,
            extensions: head.extensions,
            body,
            trailers,
            error,
        }
    }

    /// Returns the body as text.
    ///
    /// # Panics
    /// If the body is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// Returns true if the body contains this text.
    ///
    /// # Panics
    /// If the body is not UTF-8.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    /// Returns the value of a header, or an empty text.
    ///
    /// # Panics
    /// If the value is not text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("text"))
    }

    /// Returns the class that the layers left in the extensions.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn class(&self) -> Class {
        *self.extensions.get().expect("a class")
    }

    /// Returns the kind of the class in the extensions, if there is one.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        let class: Option<&Class> = self.extensions.get();
        class.map(|class| class.kind)
    }

    /// Returns the rejection in the extensions, if a layer rejected the request.
    #[must_use]
    pub fn rejected(&self) -> Option<Rejection> {
        self.extensions.get().copied()
    }

    /// Returns true if a layer rejected the request.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        self.rejected().is_some()
    }

    /// Returns true if this is a whole message or a whole stream, with usage and the end.
    ///
    /// # Panics
    /// If the body is not UTF-8.
    #[must_use]
    pub fn is_complete(&self, stream: bool) -> bool {
        let ended = if stream {
            self.contains("event: message_stop")
        } else {
            self.text().ends_with('}')
        };
        self.status == 200 && self.error.is_none() && self.contains("\"usage\"") && ended
    }
}

/// Sends a request on a clone of the service, and reads the response until it ends or fails.
///
/// # Errors
/// The error of the service.
pub fn send<S, B, R>(
    service: &S,
    request: Request<B>,
) -> impl Future<Output = Result<Received<R::Error>, S::Error>> + use<S, B, R>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    R: Body<Data = Bytes> + Unpin,
{
    let service = service.clone();
    async move { Ok(Received::read(service.oneshot(request).await?).await) }
}

/// Sends a request on a clone of the service, and reads the response to its end.
///
/// # Panics
/// If the service or the body fails.
pub fn send_ok<S, B, R>(
    service: &S,
    request: Request<B>,
) -> impl Future<Output = Received<R::Error>> + use<S, B, R>
where
    S: Service<Request<B>, Response = Response<R>, Error: Debug> + Clone,
    R: Body<Data = Bytes, Error: Debug> + Unpin,
{
    let call = send(service, request);
    async move {
        let received = call.await.expect("a response");
        assert!(
            received.error.is_none(),
            "a broken body: {:?}",
            received.error
        );
        received
    }
}

/// Reads a body until it ends or fails. Returns its data, its trailers and its error.
pub async fn read<B>(mut body: B) -> (Bytes, Option<HeaderMap>, Option<B::Error>)
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut trailers = None;
    let mut error = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => chunks.push(data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    let data = match chunks.len() {
        1 => chunks.swap_remove(0),
        _ => {
            let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
            for chunk in &chunks {
                whole.extend_from_slice(chunk);
            }
            whole.freeze()
        }
    };
    (data, trailers, error)
}

/// Returns headers as pairs, sorted by name. The values of a name keep their order.
pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<_> = headers.keys().collect();
    names.sort_by_key(|name| name.as_str());
    names
        .into_iter()
        .flat_map(|name| {
            headers
                .get_all(name)
                .iter()
                .map(move |value| (name.to_string(), value.as_bytes().to_vec()))
        })
        .collect()
}
