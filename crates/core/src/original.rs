//! A request that is kept to be sent again.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request};

use crate::RequestBody;

/// A request as it came, kept for another attempt. Layers that would keep the same one share it, by way of the
/// [`CallContext`](crate::CallContext): to copy its headers is most of what a layer that re-sends costs.
#[derive(Debug)]
pub struct Original(Request<RequestBody>);

impl Original {
    /// Keeps this request.
    ///
    /// # Errors
    /// Gives it back when its body is a stream, which cannot be sent again.
    // The request comes back: it is not an error to be boxed.
    #[allow(clippy::result_large_err)]
    pub fn keep(request: Request<RequestBody>) -> Result<Arc<Self>, Request<RequestBody>> {
        match request.body().bytes() {
            Some(_) => Ok(Arc::new(Self(request))),
            None => Err(request),
        }
    }

    /// The request.
    #[must_use]
    pub const fn get(&self) -> &Request<RequestBody> {
        &self.0
    }

    /// A copy, to be sent.
    #[must_use]
    pub fn copy(&self) -> Request<RequestBody> {
        let kept = &self.0;
        let mut body = kept.body().try_clone().unwrap_or_default();
        if kept.body().is_under_way() {
            body.set_under_way();
        }
        let mut copy = Request::new(body);
        *copy.method_mut() = kept.method().clone();
        *copy.uri_mut() = kept.uri().clone();
        *copy.version_mut() = kept.version();
        *copy.headers_mut() = kept.headers().clone();
        if !kept.extensions().is_empty() {
            *copy.extensions_mut() = kept.extensions().clone();
        }
        copy
    }

    /// The request, to be sent for the last time: a copy only if another layer keeps it too.
    #[must_use]
    pub fn into_request(self: Arc<Self>) -> Request<RequestBody> {
        Arc::try_unwrap(self).map_or_else(|kept| kept.copy(), |kept| kept.0)
    }

    /// Whether `request` is a copy that nobody has changed, but for the context that was put into its extensions.
    /// Values are compared by where they lie in memory: one that was replaced by its equal counts as another. So
    /// does a request with extensions of the caller's, which cannot be compared.
    pub(crate) fn is_copied_in(&self, request: &Request<RequestBody>) -> bool {
        let (kept, other) = (&self.0, request);
        let same_body = match (kept.body().bytes(), other.body().bytes()) {
            (Some(a), Some(b)) => is_same(a, b),
            _ => false,
        };
        same_body
            && kept.extensions().is_empty()
            && other.extensions().len() == 1
            && kept.method() == other.method()
            && kept.version() == other.version()
            && have_same_values(kept.headers(), other.headers())
            && kept.uri() == other.uri()
    }
}

fn have_same_values(a: &HeaderMap, b: &HeaderMap) -> bool {
    let same = |a: &HeaderValue, b: &HeaderValue| {
        is_same(a.as_bytes(), b.as_bytes()) && a.is_sensitive() == b.is_sensitive()
    };
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|((name, value), (other, found))| same(value, found) && name == other)
}

fn is_same(a: &[u8], b: &[u8]) -> bool {
    std::ptr::eq(a, b)
}
