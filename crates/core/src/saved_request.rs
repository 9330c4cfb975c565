//! Requests that are kept to be sent again.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use tower_claude_wire::Model;

use crate::{request::model, request_body::RequestBody};

/// A request that is kept for another attempt. The call policies of one driver share it.
///
/// Few requests are ever sent again, so this is optimised for cheap copies. The headers are stored
/// as one text, because a copy of a header map takes more allocations, and two changes of a
/// reference count for each header.
pub struct SavedRequest {
    method: Method,
    uri: Uri,
    version: Version,
    headers: PackedHeaders,
    /// Boxed, because few requests have extensions.
    extensions: Option<Box<Extensions>>,
    body: RequestBody,
    /// The same request with a header map, created by [`get`](Self::get).
    whole: OnceLock<Box<Request<RequestBody>>>,
}

impl SavedRequest {
    /// Saves a copy of a request. Returns `None` if its body is a stream, which cannot be sent
    /// again.
    #[must_use]
    pub fn of(request: &Request<RequestBody>) -> Option<Arc<Self>> {
        let body = request.body().try_clone()?;
        let extensions = request.extensions();
        Some(Arc::new(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: PackedHeaders::of(request.headers()),
            extensions: (!extensions.is_empty()).then(|| Box::new(extensions.clone())),
            body,
            whole: OnceLock::new(),
        }))
    }

    /// Returns the request.
    #[must_use]
    pub fn get(&self) -> &Request<RequestBody> {
        self.whole.get_or_init(|| Box::new(self.copy()))
    }

    /// Returns the model that the request names. See
    /// [`requested_model`](crate::toolkit::requested_model).
    #[must_use]
    pub fn model(&self) -> Option<Cow<'_, str>> {
        model(&self.uri, &self.body)
    }

    /// Returns the entry of the model in the built-in catalog, if the body names a listed one. It
    /// was looked up before.
    #[must_use]
    #[inline]
    pub fn listed_model(&self) -> Option<&'static Model> {
        self.body.listed_model()
    }

    /// Returns the method of the request.
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// Returns the URI of the request.
    pub const fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Returns the body of the request.
    pub const fn body(&self) -> &RequestBody {
        &self.body
    }

    /// Returns the request for its last attempt. Its extensions are moved if no other
    /// layer shares the request.
    #[must_use]
    pub fn into_request(self: Arc<Self>) -> Request<RequestBody> {
        match Arc::try_unwrap(self) {
            Ok(mut saved) => {
                let extensions = saved.extensions.take();
                let mut request = saved.copy();
                if let Some(extensions) = extensions {
                    *request.extensions_mut() = *extensions;
                }
                request
            }
            Err(shared) => shared.copy(),
        }
    }

    /// Returns a copy of the request to send.
    #[must_use]
    pub fn copy(&self) -> Request<RequestBody> {
        let body = self.body.try_clone().unwrap_or_default();
        let mut copy = Request::new(body);
        *copy.method_mut() = self.method.clone();
        *copy.uri_mut() = self.uri.clone();
        *copy.version_mut() = self.version;
        *copy.headers_mut() = self.headers.unpack();
        if let Some(extensions) = &self.extensions {
            copy.extensions_mut().clone_from(extensions);
        }
        copy
    }
}

impl fmt::Debug for SavedRequest {
    /// Leaves the headers, the query and the body out, because they hold keys and prompts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedRequest")
            .field("method", &self.method)
            .field("path", &self.uri.path())
            .finish_non_exhaustive()
    }
}

/// A header map in one allocation.
///
/// Each entry consists of the lengths of its name and value, with a bit for a sensitive value, and
/// of the name and the value.
struct PackedHeaders {
    text: Vec<u8>,
    count: usize,
}

/// The size of a typical header with its two lengths, in bytes.
const TYPICAL_ENTRY: usize = 64;

/// The size of the two lengths in bytes.
const LENGTHS: usize = 8;
/// The bit in the length of a value that marks it as sensitive.
const SENSITIVE: u32 = 1 << 31;

impl PackedHeaders {
    fn of(headers: &HeaderMap) -> Self {
        // A guess instead of the exact size, which would take a pass of its own.
        let mut text = Vec::with_capacity(headers.len() * TYPICAL_ENTRY);
        for (name, value) in headers {
            let name = name.as_str();
            text.extend_from_slice(&lengths(name, value));
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(value.as_bytes());
        }
        Self {
            text,
            count: headers.len(),
        }
    }

    fn unpack(&self) -> HeaderMap {
        let all = Bytes::copy_from_slice(&self.text);
        let mut headers = HeaderMap::with_capacity(self.count);
        let mut at = 0;
        while let Some((name, value, sensitive, next)) = entry(&self.text, at) {
            let name = HeaderName::from_bytes(&self.text[name]);
            let found = HeaderValue::from_maybe_shared(all.slice(value));
            // Both were valid headers before, so no entry is lost here.
            if let (Ok(name), Ok(mut value)) = (name, found) {
                value.set_sensitive(sensitive);
                headers.append(name, value);
            }
            at = next;
        }
        headers
    }
}

/// Returns the lengths of a header as stored.
fn lengths(name: &str, value: &HeaderValue) -> [u8; LENGTHS] {
    // A name is at most 64 KiB long, and a value is shorter than 2 GiB.
    let flag = if value.is_sensitive() { SENSITIVE } else { 0 };
    let lengths = (name.len() as u64) << 32 | u64::from(value.len() as u32 | flag);
    lengths.to_le_bytes()
}

/// The ranges of a name and a value, the mark of a sensitive value, and the position of the next
/// entry.
type Entry = (std::ops::Range<usize>, std::ops::Range<usize>, bool, usize);

/// Returns the entry at this position, or `None` at the end.
fn entry(text: &[u8], at: usize) -> Option<Entry> {
    let lengths = u64::from_le_bytes(*text.get(at..)?.first_chunk()?);
    let name = at + LENGTHS;
    let value = name + (lengths >> 32) as usize;
    let next = value + (lengths as u32 & !SENSITIVE) as usize;
    Some((
        name..value,
        value..next,
        lengths as u32 & SENSITIVE != 0,
        next,
    ))
}
