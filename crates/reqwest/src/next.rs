//! The rest of a chain of middleware as the service that layers go around.

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
pub(crate) struct Shared {
    /// As the caller gave them: what each attempt begins with.
    given: Extensions,
    /// As the last attempt to end left them.
    left: Mutex<Option<Extensions>>,
}

impl Shared {
    fn left(&self) -> std::sync::MutexGuard<'_, Option<Extensions>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caller's extensions while they are with the stack. Gives them back when dropped, so that a call that is
/// cancelled does too.
pub(crate) struct Borrowed<'a> {
    home: &'a mut Extensions,
    shared: Arc<Shared>,
}

impl<'a> Borrowed<'a> {
    pub(crate) fn take(home: &'a mut Extensions) -> Self {
        let shared = Arc::new(Shared {
            given: mem::take(home),
            left: Mutex::new(None),
        });
        Self { home, shared }
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

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let left = self.shared.left().take();
        *self.home = left.unwrap_or_else(|| self.shared.given.clone());
    }
}

/// The rest of a chain of middleware, as a service. Always ready; each call runs the rest once, with a clone of the
/// extensions that the caller of the chain gave.
#[derive(Clone)]
pub struct NextService<'a> {
    next: Next<'a>,
    extensions: Arc<Shared>,
}

/// Future of [`NextService`]: reqwest-middleware boxes, and its extensions must stay beside the call.
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
        let request = reqwest::Request::try_from(convert::outgoing(request));
        Box::pin(async move {
            let mut extensions = shared.given.clone();
            let answer = next.run(request?, &mut extensions).await;
            *shared.left() = Some(extensions);
            answer.map(convert::incoming)
        })
    }
}

impl fmt::Debug for NextService<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextService").finish_non_exhaustive()
    }
}
