//! The recommended stack.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use tower_claude_cache::{CacheLayer, Store};
use tower_claude_circuit_breaker::{BreakerPolicy, CircuitBreakerLayer};
use tower_claude_core::{
    ClaudeClassify, DeadlineLayer, HeuristicCost, Rejection, RejectionLayer, RenderRejection,
    RequestBody, Scope, SetDeadline,
    driver::{CallPolicy, Driver, DriverLayer},
    event::Observer,
};
use tower_claude_fallback_model::{FallbackModelLayer, FallbackPolicy};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{LimitPolicy, Limiter, Limits, LocalLimiter};
#[cfg(feature = "prompt-cache")]
use tower_claude_prompt_cache::{PromptCacheLayer, PromptCachePolicy};
use tower_claude_retry::{RetryLayer, RetryPolicy};
#[cfg(feature = "spread")]
use tower_claude_spread::{SpreadLayer, SpreadPolicy};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::{Identity, Layer};

/// The policies that send a call again, the outer one first.
type CallPolicies = (FallbackPolicy, RetryPolicy);

/// The policies that admit an attempt. One limit policy does the work of token bucket and header
/// budget.
type AttemptPolicies<L, E> = (
    OptionalSpread,
    (OptionalPromptCache, (BreakerPolicy, LimitPolicy<L, E>)),
);

#[cfg(feature = "spread")]
type OptionalSpread = Option<SpreadPolicy>;
#[cfg(not(feature = "spread"))]
type OptionalSpread = ();

#[cfg(feature = "prompt-cache")]
type OptionalPromptCache = Option<PromptCachePolicy>;
#[cfg(not(feature = "prompt-cache"))]
type OptionalPromptCache = ();

type Inner<S, C, L, E> = Driver<S, CallPolicies, AttemptPolicies<L, E>, C>;

/// All six layers in the recommended order, and others that are switched on. Start from
/// [`recommended`].
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
///
/// # Type parameters
///
/// Each has a default, and the setter that replaces the part changes it: `C` is the classifier, `H`
/// the cache layer, `L` the limiter, `E` the estimate of the cost, and `B` the batch layer.
///
/// # On incoming routes
///
/// The layers may also wrap a route or a whole axum service. Then note:
///
/// - The credential must be in the request before it reaches the layers, because each credential
///   has limits of its own. If the handler adds the key, put a `SetRequestHeaderLayer` outside of
///   the layers instead, and remove the `authorization` header of the callers there.
/// - A request body of up to 32 MiB is buffered before the handler runs. Put a
///   `RequestBodyLimitLayer` outside for a lower limit.
/// - Browsers send `accept-encoding`. A compressed response is classified by its status only, so
///   remove this header, and compress outside of the layers.
/// - A response that asks for a retry calls the handler again. Use the layers on routes that
///   forward to the API, not on the whole router.
#[derive(Clone)]
#[must_use = "layers do nothing until they wrap a service"]
pub struct Recommended<
    C = ClaudeClassify,
    H = CacheLayer,
    L = LocalLimiter,
    E = HeuristicCost,
    B = Identity,
> {
    deadline: DeadlineLayer,
    rejections: RejectionLayer,
    cache: H,
    batches: B,
    fallback: FallbackModelLayer,
    retry: RetryLayer,
    #[cfg(feature = "spread")]
    spread: Option<SpreadLayer>,
    #[cfg(feature = "prompt-cache")]
    prompt_cache: Option<PromptCacheLayer>,
    breaker: CircuitBreakerLayer,
    bucket: TokenBucketLayer<L, E>,
    budget: HeaderBudgetLayer<L>,
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
        deadline: DeadlineLayer::disabled(),
        rejections: RejectionLayer::disabled(),
        cache: CacheLayer::default(),
        batches: Identity::new(),
        fallback: FallbackModelLayer::new::<&str>([]),
        retry: RetryLayer::new(),
        #[cfg(feature = "spread")]
        spread: None,
        #[cfg(feature = "prompt-cache")]
        prompt_cache: None,
        breaker: CircuitBreakerLayer::new(),
        bucket: TokenBucketLayer::over(limiter.clone()),
        budget: HeaderBudgetLayer::over(limiter),
        classifier: ClaudeClassify::default(),
        is_own_classifier: false,
    }
}

impl<C, H, L, E, B> Recommended<C, H, L, E, B> {
    /// Gives each call this much time, from the arrival of its request. Default: no limit.
    ///
    /// A request with an earlier [`Deadline`](crate::Deadline) keeps it. See [`DeadlineLayer`].
    pub const fn with_deadline(mut self, time: Duration) -> Self {
        self.deadline = DeadlineLayer::new(time);
        self
    }

    /// Answers a request that any layer rejects with the response of this function, for callers of
    /// another service or with an error format of their own. Default: the shape of Claude's errors.
    /// See [`RejectionLayer`].
    pub fn with_rejection<F, T>(mut self, render: F) -> Self
    where
        F: Fn(&Rejection) -> Response<T> + Send + Sync + 'static,
        T: Into<Bytes>,
    {
        self.rejections = RejectionLayer::new(render);
        self
    }

    /// Paces calls by these limits from the first request on. They are caps: headers may lower
    /// them, and raise them up to this again. For limits that headers may also raise, use
    /// [`LimiterConfig::with_limits_as_hint`](crate::LimiterConfig::with_limits_as_hint).
    pub fn with_limits(self, limits: Limits) -> Recommended<C, H, LocalLimiter, HeuristicCost, B> {
        self.with_limiter(LocalLimiter::new(limits))
    }

    /// Paces calls by this limiter, which other stacks may share. Replaces token bucket and header
    /// budget. `RedisLimiter` of `tower-claude-redis` shares the limits with other processes.
    pub fn with_limiter<L2: Limiter>(self, limiter: L2) -> Recommended<C, H, L2, HeuristicCost, B> {
        self.with_bucket(TokenBucketLayer::over(limiter))
    }

    /// Replaces the token bucket. The header budget then works on the limiter of this one.
    pub fn with_bucket<L2: Limiter, E2: Clone>(
        self,
        layer: TokenBucketLayer<L2, E2>,
    ) -> Recommended<C, H, L2, E2, B> {
        Recommended {
            deadline: self.deadline,
            rejections: self.rejections,
            cache: self.cache,
            batches: self.batches,
            fallback: self.fallback,
            retry: self.retry,
            #[cfg(feature = "spread")]
            spread: self.spread,
            #[cfg(feature = "prompt-cache")]
            prompt_cache: self.prompt_cache,
            breaker: self.breaker,
            budget: HeaderBudgetLayer::over(layer.limiter()),
            bucket: layer,
            classifier: self.classifier,
            is_own_classifier: self.is_own_classifier,
        }
    }

    /// Replaces the cache, for instance by a larger one, a detached one or one with another store.
    pub fn with_cache<H2>(self, layer: H2) -> Recommended<C, H2, L, E, B> {
        Recommended {
            deadline: self.deadline,
            rejections: self.rejections,
            cache: layer,
            batches: self.batches,
            fallback: self.fallback,
            retry: self.retry,
            #[cfg(feature = "spread")]
            spread: self.spread,
            #[cfg(feature = "prompt-cache")]
            prompt_cache: self.prompt_cache,
            breaker: self.breaker,
            bucket: self.bucket,
            budget: self.budget,
            classifier: self.classifier,
            is_own_classifier: self.is_own_classifier,
        }
    }

    /// Answers calls that can wait by Message Batches, at half the price. Off by default. See
    /// [`BatchLayer`](crate::BatchLayer).
    ///
    /// It stands between the cache and the fallback, so that a call that goes live has all layers
    /// below it. A [deadline](Self::with_deadline) that ends before the tolerance of a call counts
    /// instead of it. It has an observer of its own. The driver of the layer may run through a
    /// clone of the whole stack:
    ///
    /// ```
    /// use tower::Layer;
    /// use tower_claude::{BatchLayer, recommended};
    /// # use tower_claude_fake_claude::FakeClaude;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let client = FakeClaude::builder().build();
    /// let (batches, driver) = BatchLayer::in_memory().pair();
    /// let claude = recommended().with_batches(batches).layer(client);
    /// tokio::spawn(driver.run(claude.clone()));
    /// # }
    /// ```
    #[cfg(feature = "batch")]
    pub fn with_batches(
        self,
        layer: crate::BatchLayer,
    ) -> Recommended<C, H, L, E, crate::BatchLayer> {
        Recommended {
            deadline: self.deadline,
            rejections: self.rejections,
            cache: self.cache,
            batches: layer,
            fallback: self.fallback,
            retry: self.retry,
            #[cfg(feature = "spread")]
            spread: self.spread,
            #[cfg(feature = "prompt-cache")]
            prompt_cache: self.prompt_cache,
            breaker: self.breaker,
            bucket: self.bucket,
            budget: self.budget,
            classifier: self.classifier,
            is_own_classifier: self.is_own_classifier,
        }
    }

    /// Replaces the models that are asked, in this order, while the model of a request is down.
    pub fn with_fallback<M: AsRef<str>>(self, models: impl IntoIterator<Item = M>) -> Self {
        self.with_fallback_layer(FallbackModelLayer::new(models))
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

    /// Chooses a target on several clouds, regions or accounts for each attempt, by this layer. Off
    /// by default. See [`SpreadLayer`].
    ///
    /// It stands between retry and prompt cache, so that another attempt goes to another target,
    /// and each target has its own circuit, limits and prompt cache. A `CloudLayer` around the
    /// client translates the requests. Pass its `check` to [`SpreadLayer::with_check`], so that a
    /// target that cannot serve a request is not chosen. Set it after the observer, or get its
    /// handle from the [stack](Self::spread).
    #[cfg(feature = "spread")]
    pub fn with_spread(mut self, layer: SpreadLayer) -> Self {
        self.spread = Some(layer);
        self
    }

    /// Marks prompts for the prompt cache of the API where it pays. Off by default. See
    /// [`PromptCacheLayer`].
    ///
    /// It stands between retry and circuit breaker: each attempt is marked, and the limiter then
    /// expects what the attempt reads from the cache.
    #[cfg(feature = "prompt-cache")]
    pub fn with_prompt_cache(self) -> Self {
        self.with_prompt_cache_layer(PromptCacheLayer::new())
    }

    /// Marks prompts by this layer, with its settings. Set it after the observer, or get its handle
    /// from the [stack](Self::prompt_cache): an observer begins a new history.
    #[cfg(feature = "prompt-cache")]
    pub fn with_prompt_cache_layer(mut self, layer: PromptCacheLayer) -> Self {
        self.prompt_cache = Some(layer);
        self
    }

    /// Replaces the circuit breaker.
    pub fn with_breaker(mut self, layer: CircuitBreakerLayer) -> Self {
        self.breaker = layer;
        self
    }

    /// Replaces the classifier of responses and errors in all layers but the cache, which uses
    /// none. For instance, a classifier of your own can recognise the errors of your HTTP client.
    pub fn with_classifier<C2>(self, classifier: C2) -> Recommended<C2, H, L, E, B> {
        Recommended {
            deadline: self.deadline,
            rejections: self.rejections,
            cache: self.cache,
            batches: self.batches,
            fallback: self.fallback,
            retry: self.retry,
            #[cfg(feature = "spread")]
            spread: self.spread,
            #[cfg(feature = "prompt-cache")]
            prompt_cache: self.prompt_cache,
            breaker: self.breaker,
            bucket: self.bucket,
            budget: self.budget,
            classifier,
            is_own_classifier: true,
        }
    }

    /// Returns the cache. Its `handle()` counts hits and misses.
    pub const fn cache(&self) -> &H {
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

    /// Returns the spread layer, if it is switched on. Its `handle()` shows its targets.
    #[cfg(feature = "spread")]
    pub const fn spread(&self) -> Option<&SpreadLayer> {
        self.spread.as_ref()
    }

    /// Returns the prompt cache layer, if it is switched on. Its `handle()` shows what it has
    /// saved.
    #[cfg(feature = "prompt-cache")]
    pub const fn prompt_cache(&self) -> Option<&PromptCacheLayer> {
        self.prompt_cache.as_ref()
    }

    /// Returns the circuit breaker. Its `handle()` shows the circuits, and opens and closes them by
    /// hand.
    pub const fn breaker(&self) -> &CircuitBreakerLayer {
        &self.breaker
    }

    /// Returns the token bucket. Its `handle()` is the limiter, whose `snapshot()` shows levels and
    /// queues (a method of the trait [`Limiter`](tower_claude_limiter::Limiter)).
    pub const fn bucket(&self) -> &TokenBucketLayer<L, E> {
        &self.bucket
    }

    /// Returns the header budget, which uses the limiter of the token bucket.
    pub const fn budget(&self) -> &HeaderBudgetLayer<L> {
        &self.budget
    }
}

impl<C, H, L: Clone, E: Clone, B> Recommended<C, H, L, E, B> {
    /// Finds the scope of a request by this function, and so the limits that it draws on. Default:
    /// [`Scope::of`]. Set it after the limiter or the token bucket.
    pub fn with_scope(
        mut self,
        scope_of: impl Fn(&Request<RequestBody>) -> Scope + Clone + Send + Sync + 'static,
    ) -> Self {
        self.bucket = self.bucket.with_scope(scope_of.clone());
        self.budget = self.budget.with_scope(scope_of);
        self
    }

    /// Reads the tenant of a request from this header. Default: none. Set it after the limiter or
    /// the token bucket. See [`Tenant`](crate::Tenant).
    pub fn with_tenant_header(mut self, name: HeaderName) -> Self {
        self.bucket = self.bucket.with_tenant_header(name.clone());
        self.budget = self.budget.with_tenant_header(name);
        self
    }

    /// Reads the priority of a request from this header: `interactive`, `normal` or `batch`.
    /// Default: none. Set it after the limiter or the token bucket. See
    /// [`Priority`](crate::Priority).
    pub fn with_priority_header(mut self, name: HeaderName) -> Self {
        self.bucket = self.bucket.with_priority_header(name.clone());
        self.budget = self.budget.with_priority_header(name);
        self
    }
}

impl<C, D, T: Store, L: Clone, E: Clone, B> Recommended<C, CacheLayer<D, T>, L, E, B> {
    /// Reports every decision of every layer to this observer, beside `tracing`. Layers that are
    /// set after this have their own observer. In [`observer_fn`](crate::event::observer_fn) a
    /// closure needs no type annotation.
    pub fn with_observer(mut self, observer: impl Observer + Clone + 'static) -> Self {
        self.cache = self.cache.with_observer(observer.clone());
        self.fallback = self.fallback.with_observer(observer.clone());
        self.retry = self.retry.with_observer(observer.clone());
        #[cfg(feature = "spread")]
        {
            let layer = self.spread;
            self.spread = layer.map(|layer| layer.with_observer(observer.clone()));
        }
        #[cfg(feature = "prompt-cache")]
        {
            let layer = self.prompt_cache;
            self.prompt_cache = layer.map(|layer| layer.with_observer(observer.clone()));
        }
        self.breaker = self.breaker.with_observer(observer.clone());
        self.bucket = self.bucket.with_observer(observer.clone());
        self.budget = self.budget.with_observer(observer);
        self
    }
}

impl<S, C, H, L, E, B> Layer<S> for Recommended<C, H, L, E, B>
where
    S: Clone,
    C: Clone,
    B: Layer<Inner<S, C, L, E>>,
    H: Layer<B::Service>,
    L: Clone,
{
    type Service = SetDeadline<RenderRejection<H::Service>>;

    fn layer(&self, inner: S) -> Self::Service {
        let calls = (self.fallback.policy(), self.retry.policy());
        let timeout = calls.request_timeout();
        let limits = self.bucket.policy();
        let limits = limits.with_header_budget(&self.budget.policy());
        #[cfg(feature = "prompt-cache")]
        let prompt_cache = self.prompt_cache.as_ref().map(PromptCacheLayer::policy);
        #[cfg(not(feature = "prompt-cache"))]
        let prompt_cache = ();
        #[cfg(feature = "spread")]
        let spread = self.spread.as_ref().map(SpreadLayer::policy);
        #[cfg(not(feature = "spread"))]
        let spread = ();
        let attempts = (spread, (prompt_cache, (self.breaker.policy(), limits)));
        let reuses_class = !self.is_own_classifier;
        let driver =
            DriverLayer::with_reuse(calls, attempts, self.classifier.clone(), reuses_class);
        // The cache reads the request, and the retry layer owns the timeouts.
        let deadline = self.deadline.with_request_timeout(timeout);
        let batches = self.batches.layer(driver.layer(inner));
        let cache = self.cache.layer(batches);
        deadline.layer(self.rejections.layer(cache))
    }
}

impl<C, H: fmt::Debug, L: fmt::Debug, E, B> fmt::Debug for Recommended<C, H, L, E, B> {
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
