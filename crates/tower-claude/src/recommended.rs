//! The recommended stack.

use std::fmt;

use tower_claude_cache::CacheLayer;
use tower_claude_circuit_breaker::{BreakerPolicy, CircuitBreakerLayer};
use tower_claude_core::{
    ClaudeClassify,
    driver::{Driven, DriverLayer},
    event::Observer,
};
use tower_claude_fallback_model::{FallbackModelLayer, FallbackPolicy};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{LimitPolicy, Limits, LocalLimiter};
use tower_claude_retry::{RetryLayer, RetryPolicy};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;

/// The policies that send a call again, the outer one first.
type CallPolicies = (FallbackPolicy, RetryPolicy);

/// The policies that admit an attempt. One limit policy does the work of token bucket and header
/// budget.
type AttemptPolicies = (BreakerPolicy, LimitPolicy<LocalLimiter>);

type Inner<S, C> = Driven<S, CallPolicies, AttemptPolicies, C>;

/// All six layers in the recommended order. Start from [`recommended`].
///
/// The cache is a service of its own. The other five run as policies in one driver.
///
/// # The order
///
/// From the outer to the inner layer, each attempt passes:
///
/// 1. **Cache.** A hit costs nothing further: no token, no wait, no probe. The cache stores no
///    response of another model or of a layer, so it can be outermost.
/// 2. **Fallback.** It acts on failures that retries could not mend, and at once on a rejection by
///    an inner layer: an open circuit or a queue that is too long costs no second.
/// 3. **Retry.** All layers inside see every attempt.
/// 4. **Circuit breaker.** Outside the bucket, so that an open circuit rejects a call before it
///    waits for tokens. It ignores rejections of inner layers, and the time that a probe may take
///    begins when the probe is sent.
/// 5. **Token bucket.** Every attempt pays.
/// 6. **Header budget.** Innermost: it sees every real response and nothing else. Both use one
///    limiter.
///
/// Other orders work, since no layer needs another. Minimum and maximum of seven runs through the
/// same incidents, at a tenth over the limit and without fallback models (`cargo test -p
/// tower-claude --test orders -- --nocapture` prints one run):
///
/// | incident | order | attempts per request | errors seen | p99 wait | good again after |
/// |---|---|---|---|---|---|
/// | 529 for 60 s | as recommended | 0.73 to 0.75 | 584 to 634 | 1.2 to 1.3 s | 28 to 40 s |
/// | 529 for 60 s | breaker inside the bucket | 0.73 | 621 | 1.1 s | 32 s |
/// | 529 for 60 s | bucket inside the budget | 0.72 to 0.75 | 584 to 647 | 1.2 to 1.3 s | 28 to 40 s |
/// | half reset, 60 s | as recommended | 0.75 to 0.78 | 554 to 602 | 4.4 to 4.8 s | 33 s |
/// | half reset, 60 s | breaker inside the bucket | 0.75 to 0.84 | 472 to 585 | 4.2 to 17.3 s | 31 to 32 s |
/// | half reset, 60 s | bucket inside the budget | 0.75 to 0.78 | 554 to 602 | 4.4 to 4.8 s | 33 s |
///
/// In a clean outage the order hardly matters. Where half of the connections are reset, a breaker
/// inside the bucket mostly opens later, because its calls come more slowly: fewer errors and
/// longer waits, but not in every run. In the recommended order, a call that will be rejected does
/// not wait first, so that a fallback model can act at once.
///
/// The layers are made once, here. Clones, and the services of every call to [`Layer::layer`],
/// share their state.
#[derive(Clone)]
#[must_use = "layers do nothing until they wrap a service"]
pub struct Recommended<C = ClaudeClassify> {
    cache: CacheLayer,
    fallback: FallbackModelLayer,
    retry: RetryLayer,
    breaker: CircuitBreakerLayer,
    bucket: TokenBucketLayer,
    budget: HeaderBudgetLayer,
    classifier: C,
    /// True if the classifier is the user's, and so overrules the class of an inner layer.
    is_own_classifier: bool,
}

/// Returns all six layers as recommended: no limits but those learned from the API's headers, no
/// other models, and a cache for requests that are marked cacheable. See [`Recommended`] for the
/// order.
pub fn recommended() -> Recommended {
    let limiter = LocalLimiter::new(Limits::unlimited());
    Recommended {
        cache: CacheLayer::default(),
        fallback: FallbackModelLayer::new::<&str>([]),
        retry: RetryLayer::new(),
        breaker: CircuitBreakerLayer::new(),
        bucket: TokenBucketLayer::over(limiter.clone()),
        budget: HeaderBudgetLayer::over(limiter),
        classifier: ClaudeClassify::default(),
        is_own_classifier: false,
    }
}

impl<C> Recommended<C> {
    /// Paces calls by these limits from the first request on. Headers still correct them.
    pub fn with_limits(self, limits: Limits) -> Self {
        self.with_limiter(LocalLimiter::new(limits))
    }

    /// Paces calls by this limiter, which other stacks may share. Replaces token bucket and header
    /// budget.
    pub fn with_limiter(mut self, limiter: LocalLimiter) -> Self {
        self.bucket = TokenBucketLayer::over(limiter.clone());
        self.budget = HeaderBudgetLayer::over(limiter);
        self
    }

    /// Replaces the models that are asked, in this order, while the model of a request is down.
    pub fn with_fallback<M: AsRef<str>>(self, models: impl IntoIterator<Item = M>) -> Self {
        self.with_fallback_layer(FallbackModelLayer::new(models))
    }

    /// Replaces the cache, for instance by a larger one.
    pub fn with_cache(mut self, layer: CacheLayer) -> Self {
        self.cache = layer;
        self
    }

    /// Replaces the fallback, for instance to set chains for single models or a message for end
    /// users.
    pub fn with_fallback_layer(mut self, layer: FallbackModelLayer) -> Self {
        self.fallback = layer;
        self
    }

    /// Replaces the retry layer, with its attempts, budget and timeouts.
    pub fn with_retry(mut self, layer: RetryLayer) -> Self {
        self.retry = layer;
        self
    }

    /// Replaces the circuit breaker.
    pub fn with_breaker(mut self, layer: CircuitBreakerLayer) -> Self {
        self.breaker = layer;
        self
    }

    /// Replaces the token bucket. The header budget then works on the limiter of this one.
    pub fn with_bucket(mut self, layer: TokenBucketLayer) -> Self {
        self.budget = HeaderBudgetLayer::over(layer.limiter());
        self.bucket = layer;
        self
    }

    /// Replaces the classifier of responses and errors in all layers but the cache, which uses
    /// none. For instance, the classifier of your HTTP client knows its errors.
    pub fn with_classifier<C2>(self, classifier: C2) -> Recommended<C2> {
        Recommended {
            cache: self.cache,
            fallback: self.fallback,
            retry: self.retry,
            breaker: self.breaker,
            bucket: self.bucket,
            budget: self.budget,
            classifier,
            is_own_classifier: true,
        }
    }

    /// Reports every decision of every layer to this observer, beside `tracing`. Layers that are
    /// set after this have their own observer.
    pub fn with_observer(mut self, observer: impl Observer + Clone + 'static) -> Self {
        self.cache = self.cache.with_observer(observer.clone());
        self.fallback = self.fallback.with_observer(observer.clone());
        self.retry = self.retry.with_observer(observer.clone());
        self.breaker = self.breaker.with_observer(observer.clone());
        self.bucket = self.bucket.with_observer(observer.clone());
        self.budget = self.budget.with_observer(observer);
        self
    }

    /// Returns the cache. Its `handle()` counts hits and misses.
    pub const fn cache(&self) -> &CacheLayer {
        &self.cache
    }

    /// Returns the fallback layer. Its `handle()` shows the models that are down.
    pub const fn fallback(&self) -> &FallbackModelLayer {
        &self.fallback
    }

    /// Returns the retry layer. Its `handle()` counts retries and shows the budget.
    pub const fn retry(&self) -> &RetryLayer {
        &self.retry
    }

    /// Returns the circuit breaker. Its `handle()` shows the circuits, and opens and closes them by
    /// hand.
    pub const fn breaker(&self) -> &CircuitBreakerLayer {
        &self.breaker
    }

    /// Returns the token bucket. Its `handle()` is the limiter, whose `snapshot()` shows levels and
    /// queues (a method of the trait [`Limiter`](tower_claude_limiter::Limiter)).
    pub const fn bucket(&self) -> &TokenBucketLayer {
        &self.bucket
    }

    /// Returns the header budget, which uses the limiter of the token bucket.
    pub const fn budget(&self) -> &HeaderBudgetLayer {
        &self.budget
    }
}

impl<S: Clone, C: Clone> Layer<S> for Recommended<C>
where
    CacheLayer: Layer<Inner<S, C>>,
{
    type Service = <CacheLayer as Layer<Inner<S, C>>>::Service;

    fn layer(&self, inner: S) -> Self::Service {
        let calls = (self.fallback.policy(), self.retry.policy());
        let limits = self.bucket.policy();
        let limits = limits.with_header_budget(&self.budget.policy());
        let attempts = (self.breaker.policy(), limits);
        let reuses_class = !self.is_own_classifier;
        let driver =
            DriverLayer::with_reuse(calls, attempts, self.classifier.clone(), reuses_class);
        self.cache.layer(driver.layer(inner))
    }
}

impl<C> fmt::Debug for Recommended<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recommended")
            .field("cache", &self.cache)
            .field("fallback", &self.fallback)
            .field("retry", &self.retry)
            .field("breaker", &self.breaker)
            .field("bucket", &self.bucket)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
