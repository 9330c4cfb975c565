//! The layer and its settings.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tower_claude_core::{
    BufferRequest, RequestBody,
    event::{Event, EventSink, Observer, emit},
};
use tower_layer::Layer;

use super::{CountTokens, NAME, memory::Memory};

/// Has the input tokens of each Messages request counted by the API before the bucket charges them.
///
/// It goes directly outside of a [`TokenBucketLayer`](crate::TokenBucketLayer), which charges the count
/// instead of an estimate, less what will be read from the prompt cache. For each prompt it has not seen it
/// sends one request to [`count_tokens`](https://docs.claude.com/en/api/messages-count-tokens) through the
/// same service, with the headers and extensions of the original: that costs a round trip but nothing else, and has limits of its own, which the bucket keeps
/// apart from those of Messages. Whatever goes wrong with it (a refusal, an error, an answer that is not a
/// count, [no answer in time](Self::with_timeout)) leaves the request to the estimate, with an
/// [event](Event::Uncounted).
///
/// Other requests, and bodies too long to be buffered, pass through. The request itself and its answer are
/// not touched.
///
/// * **Readiness**: always ready; the inner service is polled ready inside the future, before each of both
///   calls.
/// * **Clones**, and all services of a layer, share what was counted: up to 4,096 prompts, as hashes.
/// * **Cancellation**: dropping the future drops the count with it.
/// * **Streaming**: bodies pass as they are.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CountTokensLayer {
    counter: Arc<Counter>,
    body_limit: usize,
}

/// What all services of a layer share.
#[derive(Clone)]
pub(super) struct Counter {
    pub(super) timeout: Duration,
    observers: EventSink,
    memory: Arc<Mutex<Memory>>,
}

impl CountTokensLayer {
    /// The longest wait for a count by default.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

    /// Counts every Messages request.
    pub fn new() -> Self {
        Self {
            counter: Arc::new(Counter {
                timeout: Self::DEFAULT_TIMEOUT,
                observers: EventSink::default(),
                memory: Arc::default(),
            }),
            body_limit: RequestBody::DEFAULT_LIMIT,
        }
    }

    fn map(self, change: impl FnOnce(&mut Counter)) -> Self {
        let mut counter = Arc::unwrap_or_clone(self.counter);
        change(&mut counter);
        Self {
            counter: Arc::new(counter),
            ..self
        }
    }

    /// Waits for a count no longer than this (default: 2 s), its own place in the queue included.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        self.map(|counter| counter.timeout = timeout)
    }

    /// Tells this observer every decision, beside `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.map(|counter| counter.observers = EventSink::new(observer))
    }

    /// Buffers request bodies up to this many bytes (default: 32 MiB); longer ones pass through uncounted.
    /// In a stack the outermost layer's limit is the one that counts.
    pub const fn with_body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }
}

impl Default for CountTokensLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CountTokensLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountTokensLayer")
            .field("timeout", &self.counter.timeout)
            .field("body_limit", &self.body_limit)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for CountTokensLayer {
    type Service = BufferRequest<CountTokens<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        let service = CountTokens::new(inner, self.counter.clone());
        BufferRequest::with_limit(service, self.body_limit)
    }
}

impl Counter {
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a request is left to its estimate.
    pub(super) fn uncounted(&self, because: &'static str) {
        let event = Event::Uncounted {
            layer: NAME,
            because,
        };
        emit(&self.observers, &event);
    }
}
