//! The response extension by which a limiter takes over a wait.

use std::time::Duration;

/// A response extension on a 429. A limiter has already paused the scope, so an outer retry layer
/// must not sleep as well.
///
/// The next attempt waits in the limiter instead. The pause is therefore served once, and the
/// limiter admits the waiting requests one after the other. The retry layer still gives up if
/// `pause` is longer than it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PausedByLimiter {
    /// The time after the arrival of the response during which the limiter admits nothing.
    pub pause: Duration,
}
