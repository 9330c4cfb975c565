//! Execution of the call that several callers share.

use http::Request;
use tower_claude_core::RequestBody;
use tower_service::Service;

use crate::coalesce::leader_call::LeaderCall;

/// A mode of running the call that fills the cache: [`Inline`] by default, [`Spawn`] after
/// [`detached`](crate::CacheLayer::detached). Implement it for the spawner of another executor.
pub trait Detach<F> {
    /// True if the call continues when all its callers are gone.
    const DETACHED: bool;

    /// Starts the call in a task, or returns it to the caller, which then drives it.
    fn detach(&self, call: F) -> Option<F>;
}

/// The mode that runs the call within its first caller.
///
/// If the caller is cancelled or not polled before the response head, the other callers of the same
/// service drive its call. Callers of another service of the layer make a new call. After the head,
/// the remaining readers drive the body.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Inline;

impl<F> Detach<F> for Inline {
    const DETACHED: bool = false;

    fn detach(&self, call: F) -> Option<F> {
        Some(call)
    }
}

/// The mode that runs the call in a tokio task, which continues to the end of the response if
/// callers are cancelled, or until it makes no progress for the
/// [idle timeout](crate::CacheLayer::with_idle_timeout).
///
/// It needs a runtime, and a service and a response body that are `Send + 'static`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Spawn;

impl<S> Detach<LeaderCall<S>> for Spawn
where
    S: Service<Request<RequestBody>>,
    LeaderCall<S>: Future<Output = ()> + Send + 'static,
{
    const DETACHED: bool = true;

    fn detach(&self, call: LeaderCall<S>) -> Option<LeaderCall<S>> {
        tokio::spawn(call);
        None
    }
}
