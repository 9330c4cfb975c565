//! The layers as methods of tower's builder.

use tower::ServiceBuilder;
#[cfg(any(
    feature = "cache",
    feature = "circuit-breaker",
    feature = "fallback-model",
    feature = "header-budget",
    feature = "prompt-cache",
    feature = "retry",
    feature = "spread",
    feature = "token-bucket"
))]
use tower_layer::Stack;

mod sealed {
    pub trait Sealed {}
    impl<L> Sealed for tower::ServiceBuilder<L> {}
}

/// Adds layers with their recommended settings to a [`ServiceBuilder`].
///
/// The layer that is added first is the outermost. For other settings, or to get the handle of a
/// layer, create the layer first and add it with [`ServiceBuilder::layer`].
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// Adds all six layers in the recommended order, as [`recommended`](crate::recommended) does.
    ///
    /// They have no limits but the limits learned from response headers, no fallback models, and a
    /// cache for requests that are marked cacheable. Five of them run in one
    /// [driver](crate::driver), so this costs less than six separate layers.
    #[cfg(all(
        feature = "cache",
        feature = "circuit-breaker",
        feature = "fallback-model",
        feature = "header-budget",
        feature = "retry",
        feature = "token-bucket"
    ))]
    fn claude_recommended(self) -> ServiceBuilder<Stack<crate::Recommended, L>>;

    /// Adds a cache, which keeps responses to requests that are marked cacheable for five minutes.
    #[cfg(feature = "cache")]
    fn claude_cache(self) -> ServiceBuilder<Stack<crate::CacheLayer, L>>;

    /// Adds fallback models, which are used in this order while the requested model is down.
    #[cfg(feature = "fallback-model")]
    fn claude_fallback<M: AsRef<str>>(
        self,
        models: impl IntoIterator<Item = M>,
    ) -> ServiceBuilder<Stack<crate::FallbackModelLayer, L>>;

    /// Adds retries of failed requests.
    #[cfg(feature = "retry")]
    fn claude_retry(self) -> ServiceBuilder<Stack<crate::RetryLayer, L>>;

    /// Adds a choice among these targets for each attempt. A `CloudLayer` belongs around the
    /// client.
    #[cfg(feature = "spread")]
    fn claude_spread<T: Into<crate::spread::SpreadTarget>>(
        self,
        targets: impl IntoIterator<Item = T>,
    ) -> ServiceBuilder<Stack<crate::SpreadLayer, L>>;

    /// Adds markers for the prompt cache of the API, where they pay.
    #[cfg(feature = "prompt-cache")]
    fn claude_prompt_cache(self) -> ServiceBuilder<Stack<crate::PromptCacheLayer, L>>;

    /// Adds a circuit breaker, which stops calls to a model that is down.
    #[cfg(feature = "circuit-breaker")]
    fn claude_circuit_breaker(self) -> ServiceBuilder<Stack<crate::CircuitBreakerLayer, L>>;

    /// Adds a token bucket, which delays requests that would exceed these limits.
    #[cfg(feature = "token-bucket")]
    fn claude_token_bucket(
        self,
        limits: crate::Limits,
    ) -> ServiceBuilder<Stack<crate::TokenBucketLayer, L>>;

    /// Adds a header budget, which learns the limits from response headers and keeps to them.
    ///
    /// It has a limiter of its own. To correct the limiter of a token bucket instead, add
    /// [`HeaderBudgetLayer::over`](crate::HeaderBudgetLayer::over) with that limiter.
    #[cfg(feature = "header-budget")]
    fn claude_header_budget(self) -> ServiceBuilder<Stack<crate::HeaderBudgetLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    #[cfg(all(
        feature = "cache",
        feature = "circuit-breaker",
        feature = "fallback-model",
        feature = "header-budget",
        feature = "retry",
        feature = "token-bucket"
    ))]
    fn claude_recommended(self) -> ServiceBuilder<Stack<crate::Recommended, L>> {
        self.layer(crate::recommended())
    }

    #[cfg(feature = "cache")]
    fn claude_cache(self) -> ServiceBuilder<Stack<crate::CacheLayer, L>> {
        self.layer(crate::CacheLayer::default())
    }

    #[cfg(feature = "fallback-model")]
    fn claude_fallback<M: AsRef<str>>(
        self,
        models: impl IntoIterator<Item = M>,
    ) -> ServiceBuilder<Stack<crate::FallbackModelLayer, L>> {
        self.layer(crate::FallbackModelLayer::new(models))
    }

    #[cfg(feature = "retry")]
    fn claude_retry(self) -> ServiceBuilder<Stack<crate::RetryLayer, L>> {
        self.layer(crate::RetryLayer::new())
    }

    #[cfg(feature = "spread")]
    fn claude_spread<T: Into<crate::spread::SpreadTarget>>(
        self,
        targets: impl IntoIterator<Item = T>,
    ) -> ServiceBuilder<Stack<crate::SpreadLayer, L>> {
        self.layer(crate::SpreadLayer::new(targets))
    }

    #[cfg(feature = "prompt-cache")]
    fn claude_prompt_cache(self) -> ServiceBuilder<Stack<crate::PromptCacheLayer, L>> {
        self.layer(crate::PromptCacheLayer::new())
    }

    #[cfg(feature = "circuit-breaker")]
    fn claude_circuit_breaker(self) -> ServiceBuilder<Stack<crate::CircuitBreakerLayer, L>> {
        self.layer(crate::CircuitBreakerLayer::new())
    }

    #[cfg(feature = "token-bucket")]
    fn claude_token_bucket(
        self,
        limits: crate::Limits,
    ) -> ServiceBuilder<Stack<crate::TokenBucketLayer, L>> {
        self.layer(crate::TokenBucketLayer::new(limits))
    }

    #[cfg(feature = "header-budget")]
    fn claude_header_budget(self) -> ServiceBuilder<Stack<crate::HeaderBudgetLayer, L>> {
        self.layer(crate::HeaderBudgetLayer::new())
    }
}
