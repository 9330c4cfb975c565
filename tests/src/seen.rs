//! What arrived: at the inner service, and at the caller.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::BodyExt;

use crate::{Broken, Marker};

/// A request as the inner service received it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The URI.
    pub uri: Uri,
    /// The version.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The [`Marker`] in the extensions.
    pub marker: Option<Marker>,
    /// The body's data.
    pub body: Bytes,
    /// The body's trailers.
    pub trailers: Option<HeaderMap>,
    /// The body's error, when it is a [`Broken`]; `Broken("?")` when it is another.
    pub error: Option<Broken>,
}

/// A response as the caller received it, body and all.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The version.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The extensions.
    pub extensions: http::Extensions,
    /// The body's data.
    pub body: Bytes,
    /// The body's trailers.
    pub trailers: Option<HeaderMap>,
    /// The body's error.
    pub error: Option<Broken>,
}

/// Reads a body to its end: data, trailers, error.
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

impl Answer {
    /// Reads a response to the end of its body.
    pub async fn of<B>(response: Response<B>) -> Self
    where
        B: Body<Data = Bytes, Error = Broken> + Unpin,
    {
        let (head, body) = response.into_parts();
        let (body, trailers, error) = read(body).await;
        Self {
            status: head.status,
            version: head.version,
            headers: head.headers,
            extensions: head.extensions,
            body,
            trailers,
            error,
        }
    }
}

/// Headers as pairs, sorted by name, the values of one name in their order.
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
