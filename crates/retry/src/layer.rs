//! The layer: its settings, and the state that all its services share.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use http::Request;
use tower_claude_core::{
    ClaudeClassify, RequestBody,
    driver::{Driver, DriverLayer},
    event::{EventSink, Observer},
};
use tower_layer::Layer;

use crate::{
    backoff::Backoff,
    budget::RetryBudget,
    decide::RetryRules,
    handle::RetryHandle,
    policy::{Config, RetryPolicy},
    timeouts::Timeouts,
};

/// The upper limit of `max_retry_after`. The program that called decides about longer waits.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The service that a [`RetryLayer`] makes.
pub type Retry<S, C = ClaudeClassify> = Driver<S, RetryPolicy, (), C>;

/// A layer that sends failed requests again. See the [crate documentation](crate).
///
/// The default is the recommendation: five attempts, waits of 1 s doubling to 60 s with upward
/// jitter, `retry-after` up to 60 s, the default [`RetryBudget`] and [`Timeouts`].
///
/// The layer owns its budget and its counters. All clones and all services made from it share them.
#[derive(Clone)]
#[must_use = "layers do nothing until they wrap a service"]
pub struct RetryLayer<C = ClaudeClassify> {
    config: Arc<Config>,
    classifier: C,
}

impl RetryLayer {
    /// Creates the recommended layer.
    pub fn new() -> Self {
        Self {
            config: Arc::new(Config {
                rules: RetryRules {
                    max_attempts: const { NonZeroU32::new(5).expect("five is not zero") },
                    backoff: Backoff::default(),
                    max_retry_after: Duration::from_secs(60),
                },
                budget: RetryBudget::new(),
                timeouts: Timeouts::new(),
                is_repeatable: None,
                reuses_class: true,
                observers: EventSink::default(),
                body_limit: RequestBody::DEFAULT_LIMIT,
                counters: Arc::default(),
            }),
            classifier: ClaudeClassify::default(),
        }
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> RetryLayer<C> {
    /// Sets the maximum number of attempts, including the first. 5 by default. With 1, no request
    /// is sent again.
    ///
    /// Attempts that an outer model fallback has made at other models count, so that models and
    /// attempts do not multiply. With 5, a call that failed five times at its first model is sent
    /// once to the next. Each model gets at least one attempt, and a probe exactly one. Up to three
    /// attempts that the server did not take do not count, unless they are the last.
    pub fn with_max_attempts(self, attempts: NonZeroU32) -> Self {
        self.with(|config| config.rules.max_attempts = attempts)
    }

    /// Sets the waits before retries for which the server gives no `retry-after`. From 1 s doubling
    /// to 60 s by default.
    pub fn with_backoff(self, backoff: Backoff) -> Self {
        self.with(|config| config.rules.backoff = backoff)
    }

    /// Sets the longest `retry-after` that is waited for. 60 s by default, at most one hour. A
    /// response with a longer one goes to the caller unchanged.
    pub fn with_max_retry_after(self, longest: Duration) -> Self {
        self.with(|config| config.rules.max_retry_after = longest.min(LONGEST_RETRY_AFTER))
    }

    /// Sets the budget that pays for retries. Layers with the same upstream may share one.
    pub fn with_budget(self, budget: RetryBudget) -> Self {
        self.with(|config| config.budget = budget)
    }

    /// Sets the function that returns true for a request that may be processed twice. Other
    /// requests are sent again only if the server has certainly not processed them: it refused the
    /// connection, the stream or the request. By default all methods but POST and PATCH may be, and
    /// POST to the Messages and `count_tokens` endpoints.
    ///
    /// ```
    /// use tower_claude_retry::RetryLayer;
    ///
    /// // A service whose requests only read.
    /// let layer = RetryLayer::new().with_repeatable(|_| true);
    /// # let _ = layer;
    /// ```
    pub fn with_repeatable(
        self,
        is_repeatable: impl Fn(&Request<RequestBody>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.is_repeatable = Some(Arc::new(is_repeatable)))
    }

    /// Sets the timeouts for the head, for silence and for the whole call. See [`Timeouts`] for the
    /// defaults.
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        self.with(|config| config.timeouts = timeouts)
    }

    /// Sets an observer of events. `tracing` gets them as well. None by default.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|config| config.observers = EventSink::new(observer))
    }

    /// Sets the number of bytes up to which request bodies are buffered. 32 MiB by default. A
    /// longer body passes through as a stream and is sent once. In a stack the limit of the
    /// outermost layer applies.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.body_limit = bytes)
    }

    /// Sets the classifier of responses and errors. It overrules the class that an inner layer
    /// left, except for a local rejection.
    pub fn with_classifier<C2>(self, classifier: C2) -> RetryLayer<C2> {
        let Self { config, .. } = self.with(|config| config.reuses_class = false);
        RetryLayer { config, classifier }
    }

    /// Returns the policy of this layer for a driver that runs several policies.
    #[must_use]
    pub fn policy(&self) -> RetryPolicy {
        RetryPolicy(self.config.clone())
    }

    /// Returns a handle to observe the layer.
    #[must_use]
    pub fn handle(&self) -> RetryHandle {
        RetryHandle {
            budget: self.config.budget.clone(),
            counters: self.config.counters.clone(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S: Clone, C: Clone> Layer<S> for RetryLayer<C> {
    type Service = Retry<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let (policy, classifier) = (self.policy(), self.classifier.clone());
        DriverLayer::with_reuse(policy, (), classifier, self.config.reuses_class)
            .with_body_limit(self.config.body_limit)
            .layer(inner)
    }
}

impl<C> fmt::Debug for RetryLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("rules", &self.config.rules)
            .field("timeouts", &self.config.timeouts)
            .finish_non_exhaustive()
    }
}
