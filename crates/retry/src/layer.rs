//! The layer: configuration and shared state.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use tower_claude_core::{
    ClaudeClassify, RequestBody,
    driver::{Driven, DriverLayer},
    event::{EventSink, Observer},
};
use tower_layer::Layer;

use crate::{
    Backoff, Retry, RetryBudget, RetryHandle, Timeouts,
    handle::Counters,
    policy::{LONGEST_RETRY_AFTER, Policy},
};

/// Sends failed requests again. See the [crate documentation](crate).
///
/// The default is the recommendation: five attempts, 1 s doubling to 60 s with upward jitter,
/// `retry-after` up to 60 s, the default [`RetryBudget`] and [`Timeouts`].
///
/// Budget and counters live here and are shared by every clone and every service made from it.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct RetryLayer<C = ClaudeClassify> {
    config: Arc<Config>,
    classifier: C,
}

/// What every call needs to know, behind one `Arc`.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) policy: Policy,
    pub(crate) budget: RetryBudget,
    pub(crate) timeouts: Timeouts,
    /// Whether to take the `Class` that an inner layer left.
    pub(crate) reuse_class: bool,
    pub(crate) observers: EventSink,
    pub(crate) body_limit: usize,
    pub(crate) counters: Arc<Counters>,
}

impl RetryLayer {
    /// The recommended layer.
    pub fn new() -> Self {
        Self {
            config: Arc::new(Config {
                policy: Policy {
                    max_attempts: const { NonZeroU32::new(5).expect("five is not zero") },
                    backoff: Backoff::default(),
                    max_retry_after: Duration::from_secs(60),
                },
                budget: RetryBudget::new(),
                timeouts: Timeouts::new(),
                reuse_class: true,
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
    /// How often a request is sent at most, the first time included. 5 by default; 1 never retries.
    ///
    /// Attempts that a model fallback outside has already spent on the same call count, so that targets and
    /// attempts do not multiply: with 5, a call that failed five times at its first model is sent once to the
    /// next. Each target gets one attempt at least, and one that is only probed no more.
    pub fn with_max_attempts(self, attempts: NonZeroU32) -> Self {
        self.with(|config| config.policy.max_attempts = attempts)
    }

    /// The waits where the server names none.
    pub fn with_backoff(self, backoff: Backoff) -> Self {
        self.with(|config| config.policy.backoff = backoff)
    }

    /// The longest `retry-after` worth waiting for: 60 s by default, at most one hour. A response
    /// that asks for more goes up as it is.
    pub fn with_max_retry_after(self, longest: Duration) -> Self {
        self.with(|config| config.policy.max_retry_after = longest.min(LONGEST_RETRY_AFTER))
    }

    /// What pays for retries. Layers with the same upstream may share one.
    pub fn with_budget(self, budget: RetryBudget) -> Self {
        self.with(|config| config.budget = budget)
    }

    /// How long to wait for the head, through silence, and in all.
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        self.with(|config| config.timeouts = timeouts)
    }

    /// Where events go, beside `tracing`.
    pub fn with_observer(self, observer: impl Observer + 'static) -> Self {
        self.with(|config| config.observers = EventSink::new(observer))
    }

    /// Buffers request bodies up to this many bytes (default: 32 MiB); longer ones pass through and
    /// are sent once. In a stack the outermost layer's limit is the one that counts.
    pub fn with_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.body_limit = bytes)
    }

    /// Another reading of responses and errors. It is asked even where an inner layer has left its
    /// own reading; only a local refusal stays one.
    pub fn with_classifier<C2>(self, classifier: C2) -> RetryLayer<C2> {
        let Self { config, .. } = self.with(|config| config.reuse_class = false);
        RetryLayer { config, classifier }
    }

    /// This layer as a stage of a driver.
    #[doc(hidden)]
    #[must_use]
    pub fn stage(&self) -> crate::RetryPolicy {
        crate::stage::RetryPolicy(self.config.clone())
    }

    /// A view of what the layer does.
    #[must_use]
    pub fn handle(&self) -> RetryHandle {
        RetryHandle::new(self.config.budget.clone(), self.config.counters.clone())
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S: Clone, C: Clone> Layer<S> for RetryLayer<C> {
    type Service = Driven<S, crate::RetryPolicy, (), C>;

    fn layer(&self, inner: S) -> Self::Service {
        let (policy, classifier) = (self.stage(), self.classifier.clone());
        DriverLayer::with_reuse(policy, (), classifier, self.config.reuse_class)
            .with_body_limit(self.config.body_limit)
            .layer(inner)
    }
}

impl<C> fmt::Debug for RetryLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("policy", &self.config.policy)
            .field("timeouts", &self.config.timeouts)
            .finish_non_exhaustive()
    }
}
