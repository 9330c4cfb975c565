//! Requests that are kept to be sent again.

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    uri::{self, Authority, PathAndQuery, Scheme},
};

use tower_claude_wire::Model;

use crate::{request::model, request_body::RequestBody};

/// A request that is kept for another attempt.
///
/// Few requests are ever sent again, so this is optimised for being saved. The method, the URI and
/// the headers are stored as one text, because a copy of a URI and of a header map takes more
/// allocations, and two changes of a reference count for each part.
// Small, because it may move with the future of a call.
pub struct SavedRequest {
    head: PackedHead,
    version: Version,
    /// Boxed, because few requests have extensions.
    extensions: Option<Box<Extensions>>,
    body: RequestBody,
}

impl SavedRequest {
    /// Saves a copy of a request. Returns `None` if its body is a stream, which cannot be sent
    /// again.
    #[must_use]
    pub fn of(request: &Request<RequestBody>) -> Option<Self> {
        let body = request.body().try_clone()?;
        let extensions = request.extensions();
        Some(Self {
            head: PackedHead::of(request),
            version: request.version(),
            extensions: (!extensions.is_empty()).then(|| Box::new(extensions.clone())),
            body,
        })
    }

    /// Returns the model that the request names. See
    /// [`requested_model`](crate::toolkit::requested_model).
    #[must_use]
    pub fn model(&self) -> Option<Cow<'_, str>> {
        model(self.path(), &self.body)
    }

    /// Returns the entry of the model in the built-in catalog, if the body names a listed one. It
    /// was looked up before.
    #[must_use]
    #[inline]
    pub fn listed_model(&self) -> Option<&'static Model> {
        self.body.listed_model()
    }

    /// Returns the method of the request.
    #[must_use]
    pub fn method(&self) -> Method {
        self.head.method()
    }

    /// Returns the path of the request, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.path()
    }

    /// Returns the body of the request.
    pub const fn body(&self) -> &RequestBody {
        &self.body
    }

    /// Returns the request for its last attempt. Its extensions are moved.
    #[must_use]
    pub fn into_request(mut self) -> Request<RequestBody> {
        let extensions = self.extensions.take();
        let mut request = self.copy();
        if let Some(extensions) = extensions {
            *request.extensions_mut() = *extensions;
        }
        request
    }

    /// Returns a copy of the request to send.
    #[must_use]
    pub fn copy(&self) -> Request<RequestBody> {
        let body = self.body.try_clone().unwrap_or_default();
        let mut copy = Request::new(body);
        *copy.version_mut() = self.version;
        self.head.unpack(&mut copy);
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
            .field("method", &self.method())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

/// The method, the URI and the headers of a request in one allocation.
///
/// Each entry consists of the lengths of its name and value, with a mark, and of the name and the
/// value. The first entry is the method with the path. If it is marked, the second is the scheme
/// with the authority. Parts that are absent are empty. The others are the headers, of which those
/// with a sensitive value are marked.
struct PackedHead(Vec<u8>);

/// The size of a typical header with its two lengths, in bytes. The method and the URI together
/// take as much.
const TYPICAL_ENTRY: usize = 64;

/// The size of the two lengths in bytes.
const LENGTHS: usize = 8;
/// The bit in the length of a value that marks the entry.
const MARK: u32 = 1 << 31;

impl PackedHead {
    fn of(request: &Request<RequestBody>) -> Self {
        let (uri, headers) = (request.uri(), request.headers());
        // A guess instead of the exact size, which would take a pass of its own.
        let mut text = Vec::with_capacity((headers.len() + 1) * TYPICAL_ENTRY);
        // The text of an empty path would be "/".
        let path = uri.path_and_query().filter(|_| !uri.path().is_empty());
        let path = path.map_or("", PathAndQuery::as_str);
        let (method, authority) = (request.method().as_str(), uri.authority());
        push(&mut text, method, path.as_bytes(), authority.is_some());
        if let Some(authority) = authority {
            let scheme = uri.scheme_str().unwrap_or_default();
            push(&mut text, scheme, authority.as_str().as_bytes(), false);
        }
        for (name, value) in headers {
            let (name, is_sensitive) = (name.as_str(), value.is_sensitive());
            push(&mut text, name, value.as_bytes(), is_sensitive);
        }
        Self(text)
    }

    fn method(&self) -> Method {
        let method = self.entries().next().map(|entry| &self.0[entry.name]);
        // It was valid before, like all other parts.
        let method = method.and_then(|method| Method::from_bytes(method).ok());
        method.unwrap_or_default()
    }

    fn path(&self) -> &str {
        let path = self.entries().next().map(|entry| &self.0[entry.value]);
        let path = path.and_then(|path| std::str::from_utf8(path).ok());
        let path = path.unwrap_or_default();
        match path.split_once('?') {
            // As [`Uri::path`] returns it.
            Some(("", _)) => "/",
            Some((path, _)) => path,
            None => path,
        }
    }

    /// Puts the parts into a request.
    fn unpack(&self, request: &mut Request<RequestBody>) {
        let all = Bytes::copy_from_slice(&self.0);
        let mut entries = self.entries();
        if let Some(first) = entries.next() {
            let site = if first.is_marked {
                entries.next()
            } else {
                None
            };
            *request.method_mut() = self.method();
            *request.uri_mut() = self.uri(first.value, site).unwrap_or_default();
        }
        let mut headers = HeaderMap::with_capacity(entries.clone().count());
        for entry in entries {
            let name = HeaderName::from_bytes(&self.0[entry.name]);
            let found = HeaderValue::from_maybe_shared(all.slice(entry.value));
            if let (Ok(name), Ok(mut value)) = (name, found) {
                value.set_sensitive(entry.is_marked);
                headers.append(name, value);
            }
        }
        *request.headers_mut() = headers;
    }

    /// Returns the URI of this path, and of the entry of the scheme and the authority.
    fn uri(&self, path: Range<usize>, site: Option<Entry>) -> Option<Uri> {
        // Copied, since a client may keep an authority, and the text holds keys.
        let copy = |range| Bytes::copy_from_slice(&self.0[range]);
        let mut parts = uri::Parts::default();
        if !path.is_empty() {
            parts.path_and_query = Some(PathAndQuery::from_maybe_shared(copy(path)).ok()?);
        }
        if let Some(Entry { name, value, .. }) = site {
            if !name.is_empty() {
                parts.scheme = Some(Scheme::try_from(&self.0[name]).ok()?);
            }
            parts.authority = Some(Authority::from_maybe_shared(copy(value)).ok()?);
        }
        Uri::from_parts(parts).ok()
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + Clone {
        let mut at = 0;
        std::iter::from_fn(move || {
            let entry = entry(&self.0, at)?;
            at = entry.value.end;
            Some(entry)
        })
    }
}

/// Appends an entry.
#[inline(always)]
fn push(text: &mut Vec<u8>, name: &str, value: &[u8], is_marked: bool) {
    let mark = if is_marked { MARK } else { 0 };
    // A name is at most 64 KiB long, and a value is shorter than 2 GiB.
    let lengths = (name.len() as u64) << 32 | u64::from(value.len() as u32 | mark);
    text.extend_from_slice(&lengths.to_le_bytes());
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(value);
}

/// The position of a name and a value.
struct Entry {
    name: Range<usize>,
    value: Range<usize>,
    is_marked: bool,
}

/// Returns the entry at this position, or `None` at the end.
fn entry(text: &[u8], at: usize) -> Option<Entry> {
    let lengths = u64::from_le_bytes(*text.get(at..)?.first_chunk()?);
    let name = at + LENGTHS;
    let value = name + (lengths >> 32) as usize;
    let end = value + (lengths as u32 & !MARK) as usize;
    Some(Entry {
        name: name..value,
        value: value..end,
        is_marked: lengths as u32 & MARK != 0,
    })
}
