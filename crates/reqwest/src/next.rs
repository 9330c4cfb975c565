//! The rest of a middleware chain as the innermost service.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http::{Extensions, Request, Response};
use reqwest::Body;
use reqwest_middleware::{Error, Next};
use tower_claude_core::RequestBody;
use tower_service::Service;

use crate::convert;

/// The extensions of one call of the chain.
pub(crate) struct SharedExtensions {
    /// The caller's extensions, with which each attempt starts.
    given: Extensions,
    /// The extensions of the last attempt that ended.
    left: Mutex<Option<Extensions>>,
}

impl SharedExtensions {
    fn left(&self) -> std::sync::MutexGuard<'_, Option<Extensions>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard of the caller's extensions while the stack uses them. Its drop gives them back, so that
/// a cancelled call returns them too.
pub(crate) struct BorrowedExtensions<'a> {
    owner: &'a mut Extensions,
    shared: Arc<SharedExtensions>,
}

impl<'a> BorrowedExtensions<'a> {
    pub(crate) fn take(owner: &'a mut Extensions) -> Self {
        let shared = Arc::new(SharedExtensions {
            given: mem::take(owner),
            left: Mutex::new(None),
        });
        Self { owner, shared }
    }

    pub(crate) fn given(&self) -> &Extensions {
        &self.shared.given
    }

    pub(crate) fn service<'n>(&self, next: Next<'n>) -> NextService<'n> {
        NextService {
            next,
            extensions: self.shared.clone(),
        }
    }
}

impl Drop for BorrowedExtensions<'_> {
    fn drop(&mut self) {
        let left = self.shared.left().take();
        *self.owner = left.unwrap_or_else(|| self.shared.given.clone());
    }
}

/// A service that runs the rest of a middleware chain. It is always ready. Each call runs the rest
/// once, with a clone of the caller's extensions.
#[derive(Clone)]
pub struct NextService<'a> {
    next: Next<'a>,
    extensions: Arc<SharedExtensions>,
}

/// The future of [`NextService`]. It is boxed, because reqwest-middleware boxes its futures and
/// borrows the extensions.
pub type NextFuture<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send + 'a>>;

impl<'a> Service<Request<RequestBody>> for NextService<'a> {
    type Response = Response<Body>;
    type Error = Error;
    type Future = NextFuture<'a>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let Self {
            next,
            extensions: shared,
        } = self.clone();
        let authority = request.uri().authority().cloned();
        let request = reqwest::Request::try_from(convert::outgoing(request));
        Box::pin(async move {
            let mut extensions = shared.given.clone();
            let answer = next.run(request?, &mut extensions).await;
            // Dropped after the lock, because extensions run foreign destructors.
            let last = shared.left().replace(extensions);
            drop(last);
            answer.map(|answer| convert::incoming(answer, authority.as_ref()))
        })
    }
}

impl fmt::Debug for NextService<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextService").finish_non_exhaustive()
    }
}
