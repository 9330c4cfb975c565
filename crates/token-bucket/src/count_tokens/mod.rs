//! A layer that has input tokens counted by the API before the token bucket charges them.

mod future;
mod request;

use std::{
    collections::HashMap,
    fmt,
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use foldhash::quality::RandomState;
use http::{Request, Response};
use http_body::Body;
use tower_claude_core::{
    RequestBody,
    event::{Event, EventSink, Observer, emit},
    toolkit::BufferRequest,
};
use tower_layer::Layer;
use tower_service::Service;

pub use future::CountTokensFuture;

/// The name of the layer in events.
const LAYER: &str = "count-tokens";

/// Counts in one of the two generations of [`KnownCounts`]. When the younger is full, the older is
/// dropped.
const GENERATION: usize = 2_048;

/// A layer that has the input tokens of Messages requests counted by the API.
///
/// It goes directly around a [`TokenBucketLayer`](crate::TokenBucketLayer), which charges the count
/// instead of an estimate, less the expected cache reads. For each new prompt, the layer sends one
/// request to [`count_tokens`](https://docs.claude.com/en/api/messages-count-tokens) through the
/// same service, with the headers and extensions of the original. This costs a round trip and no
/// tokens. The endpoint has limits of its own, which the bucket keeps in another scope.
/// [`with_condition`](Self::with_condition) has only those requests counted whose estimate is not
/// good enough.
///
/// If the count fails (a rejection, an error, a response without a count, a count over the
/// [bound](tower_claude_core::UsageBound) of the request, or [a timeout](Self::with_timeout)), the
/// request keeps its estimate and the layer emits [`Event::Uncounted`]. A prompt that the endpoint
/// of a host rejects is not counted there again. A prompt that is
/// known to be rejected keeps its estimate without a request: with server tools other than the
/// advisor, the MCP connector, images or documents by URL or file, or a thread.
///
/// Other requests, and bodies too long to be buffered, pass through. The request and its response
/// are not changed.
///
/// * **Readiness**: always ready. The call waits for the inner service before each of its two
///   requests.
/// * **Clones** and all services of a layer share the counts of up to 4,096 prompts, kept as
///   hashes.
/// * **Cancellation**: dropping the future drops the count with it.
/// * **Streaming**: bodies pass through unchanged.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CountTokensLayer {
    counter: Arc<Counter>,
    body_limit: usize,
}

impl CountTokensLayer {
    /// The default of [`with_timeout`](Self::with_timeout): 2 seconds.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

    /// Creates a layer that counts every Messages request that the endpoint takes.
    pub fn new() -> Self {
        Self {
            counter: Arc::new(Counter {
                timeout: Self::DEFAULT_TIMEOUT,
                condition: None,
                events: EventSink::default(),
                known: Arc::default(),
            }),
            body_limit: RequestBody::DEFAULT_LIMIT,
        }
    }

    /// Waits for a count no longer than this, including its time in the queue. The default is
    /// 2 seconds. After the timeout, the request keeps its estimate.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.counter).timeout = timeout;
        self
    }

    /// Counts only requests for which the condition returns true. The others keep their estimate.
    ///
    /// The condition of a token bucket is true if what is left of a limit on input is less than the
    /// request may use beyond its estimate. While the limit is far, the estimates cost nothing and
    /// are good enough:
    ///
    /// ```
    /// use tower::Layer;
    /// use tower_claude_fake_claude::FakeClaude;
    /// use tower_claude_limiter::Limits;
    /// use tower_claude_token_bucket::{CountTokensLayer, TokenBucketLayer};
    /// use tower_claude_wire::Tier;
    ///
    /// let bucket = TokenBucketLayer::new(Limits::tier(Tier::Start));
    /// let count = CountTokensLayer::new().with_condition(bucket.is_estimate_doubtful());
    /// let claude = count.layer(bucket.layer(FakeClaude::builder().build()));
    /// # let _ = claude;
    /// ```
    pub fn with_condition(
        mut self,
        condition: impl Fn(&Request<RequestBody>) -> bool + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.counter).condition = Some(Arc::new(condition));
        self
    }

    /// Reports each decision to this observer, in addition to `tracing`.
    pub fn with_observer(mut self, observer: impl Observer + 'static) -> Self {
        Arc::make_mut(&mut self.counter).events = EventSink::new(observer);
        self
    }

    /// Buffers request bodies of up to this many bytes. The default is 32 MiB. A longer body passes
    /// through uncounted. In a stack, the limit of the outermost layer applies.
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
        let counter = self.counter.clone();
        BufferRequest::with_limit(CountTokens { inner, counter }, self.body_limit)
    }
}

/// The service of a [`CountTokensLayer`]. It sends two requests through the inner service, so it
/// cannot be a policy of a driver.
#[derive(Clone)]
pub struct CountTokens<S> {
    inner: S,
    counter: Arc<Counter>,
}

impl<S, B> Service<Request<RequestBody>> for CountTokens<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes> + Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CountTokensFuture<S, B>;

    /// Always ready. The future waits for the inner service.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        CountTokensFuture::new(self.counter.clone(), self.inner.clone(), request)
    }
}

impl<S: fmt::Debug> fmt::Debug for CountTokens<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountTokens")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

type Condition = dyn Fn(&Request<RequestBody>) -> bool + Send + Sync;

/// The state that all services of a layer share.
#[derive(Clone)]
struct Counter {
    timeout: Duration,
    /// Requests for which it returns false are not counted.
    condition: Option<Arc<Condition>>,
    events: EventSink,
    known: Arc<Mutex<KnownCounts>>,
}

impl Counter {
    fn known(&self) -> MutexGuard<'_, KnownCounts> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that a request keeps its estimate.
    fn report_uncounted(&self, because: &'static str) {
        let event = Event::Uncounted {
            layer: LAYER,
            because,
        };
        emit(&self.events, &event);
    }
}

/// The hash of a host and a `count_tokens` body, keyed for this process. The body contains the
/// model. Another host may count differently, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PromptHash(u64);

/// A bounded map of the counts by prompt. A prompt that the endpoint rejects has none.
#[derive(Debug, Default)]
struct KnownCounts {
    key: RandomState,
    young: HashMap<PromptHash, Option<u64>, RandomState>,
    old: HashMap<PromptHash, Option<u64>, RandomState>,
}

impl KnownCounts {
    fn hash(&self, host: &str, body: &[u8]) -> PromptHash {
        PromptHash(self.key.hash_one((host, body)))
    }

    /// Returns the result for a prompt, and keeps it in the younger generation.
    fn get(&mut self, prompt: PromptHash) -> Option<Option<u64>> {
        if let Some(tokens) = self.young.get(&prompt) {
            return Some(*tokens);
        }
        let tokens = self.old.remove(&prompt)?;
        self.insert(prompt, tokens);
        Some(tokens)
    }

    fn insert(&mut self, prompt: PromptHash, tokens: Option<u64>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(prompt, tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::{GENERATION, KnownCounts};

    #[test]
    fn known_counts_beyond_capacity_evicts_unused_and_keeps_used() {
        let mut known = KnownCounts::default();
        let used = known.hash("a", b"used");
        let unused = known.hash("a", b"unused");
        known.insert(used, Some(7));
        known.insert(unused, None);
        for number in 0..10 * GENERATION as u64 {
            let prompt = known.hash("a", &number.to_le_bytes());
            known.insert(prompt, Some(number));
            assert_eq!(known.get(used), Some(Some(7)));
            assert!(known.young.len() + known.old.len() <= 2 * GENERATION);
        }
        assert_eq!(known.get(unused), None);
    }
}
