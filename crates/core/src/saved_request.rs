//! A request that is kept to be sent again.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::RequestBody;

/// A request as it came, kept for another attempt. Call policies of one driver share it.
///
/// Nearly none is ever sent again, so its headers are kept as one text: to copy a map of them takes more allocations, and
/// two steps of a counter for each name and value.
#[derive(Debug)]
pub struct SavedRequest {
    method: Method,
    uri: Uri,
    version: Version,
    headers: Packed,
    /// Boxed: few requests bring any.
    extensions: Option<Box<Extensions>>,
    body: RequestBody,
    /// The same as a request, once somebody asks for it.
    whole: OnceLock<Box<Request<RequestBody>>>,
}

impl SavedRequest {
    /// Keeps a copy of this request; `None` when its body is a stream, which cannot be sent again.
    #[must_use]
    pub fn of(request: &Request<RequestBody>) -> Option<Arc<Self>> {
        let mut body = request.body().try_clone()?;
        if request.body().is_under_way() {
            body.set_under_way();
        }
        let extensions = request.extensions();
        Some(Arc::new(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: Packed::of(request.headers()),
            extensions: (!extensions.is_empty()).then(|| Box::new(extensions.clone())),
            body,
            whole: OnceLock::new(),
        }))
    }

    /// The request.
    #[must_use]
    pub fn get(&self) -> &Request<RequestBody> {
        self.whole.get_or_init(|| Box::new(self.copy()))
    }

    /// Its body.
    pub const fn body(&self) -> &RequestBody {
        &self.body
    }

    /// The request, to be sent for the last time.
    #[must_use]
    pub fn into_request(self: Arc<Self>) -> Request<RequestBody> {
        match Arc::try_unwrap(self) {
            Ok(mut own) => {
                let extensions = own.extensions.take();
                let mut request = own.copy();
                if let Some(extensions) = extensions {
                    *request.extensions_mut() = *extensions;
                }
                request
            }
            Err(shared) => shared.copy(),
        }
    }

    /// A copy, to be sent.
    #[must_use]
    pub fn copy(&self) -> Request<RequestBody> {
        let mut body = self.body.try_clone().unwrap_or_default();
        if self.body.is_under_way() {
            body.set_under_way();
        }
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

/// Headers as one text: the length of a name, that of a value with a bit for a sensitive one, the name, the value.
#[derive(Debug)]
struct Packed {
    text: Box<[u8]>,
    count: usize,
}

const LENGTHS: usize = 8;
const SENSITIVE: u32 = 1 << 31;

impl Packed {
    fn of(headers: &HeaderMap) -> Self {
        let length = |(name, value): (&HeaderName, &HeaderValue)| {
            LENGTHS + name.as_str().len() + value.len()
        };
        let mut text = Vec::with_capacity(headers.iter().map(length).sum());
        for (name, value) in headers {
            text.extend_from_slice(&lengths(name, value));
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(value.as_bytes());
        }
        Self {
            text: text.into_boxed_slice(),
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
            // Both were valid when they came.
            if let (Ok(name), Ok(mut value)) = (name, found) {
                value.set_sensitive(sensitive);
                headers.append(name, value);
            }
            at = next;
        }
        headers
    }
}

fn lengths(name: &HeaderName, value: &HeaderValue) -> [u8; LENGTHS] {
    // No name is longer than 64 KiB, and no value than 2 GiB.
    let mark = if value.is_sensitive() { SENSITIVE } else { 0 };
    let of = (name.as_str().len() as u64) << 32 | u64::from(value.len() as u32 | mark);
    of.to_le_bytes()
}

type Found = (std::ops::Range<usize>, std::ops::Range<usize>, bool, usize);

fn entry(text: &[u8], at: usize) -> Option<Found> {
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
