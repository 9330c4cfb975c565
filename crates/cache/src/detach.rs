//! Who drives a call that several wait for.

use crate::Fill;

/// Where the call that fills the cache runs. [`Inline`] is the default; [`Spawn`] is what
/// [`detached`](crate::CacheLayer::detached) chooses. Another executor's spawner fits too.
pub trait Detach<F> {
    /// Whether the call goes on when all who wait for it are gone.
    const DETACHED: bool;

    /// Runs the call elsewhere, or gives it back, to be driven by the caller that made it.
    fn detach(&self, fill: F) -> Option<F>;
}

/// Within the caller that came first. When it gives up before there is an answer, one of those who wait asks again;
/// after that, whoever still reads drives the rest.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Inline;

impl<F> Detach<F> for Inline {
    const DETACHED: bool = false;

    fn detach(&self, fill: F) -> Option<F> {
        Some(fill)
    }
}

/// In a task of tokio's, which goes on to the end of the answer whoever gives up. Needs a runtime, and that service
/// and response body are `Send + 'static`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Spawn;

impl<S, R> Detach<Fill<S, R>> for Spawn
where
    S: tower_service::Service<http::Request<tower_claude_core::RequestBody>>,
    Fill<S, R>: Future<Output = ()> + Send + 'static,
{
    const DETACHED: bool = true;

    fn detach(&self, fill: Fill<S, R>) -> Option<Fill<S, R>> {
        tokio::spawn(fill);
        None
    }
}
