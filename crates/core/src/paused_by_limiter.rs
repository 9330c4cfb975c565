//! A limiter's word to retry layers: the wait is mine.

use std::time::Duration;

/// The extension on a 429 whose wait a limiter inside has already taken on: it has paused the whole
/// scope, and the next attempt waits there for its turn.
///
/// A retry layer outside then does not sleep itself, so the pause is served once and the waiting
/// requests are let out one by one. It still gives up when `pause` is longer than it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PausedByLimiter {
    /// How long the limiter lets nothing through, from when the response arrived.
    pub pause: Duration,
}
