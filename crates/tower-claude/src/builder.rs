//! The layers as methods of tower's builder.

use tower::ServiceBuilder;
#[cfg(any(
    feature = "cache",
    feature = "circuit-breaker",
    feature = "fallback-model",
    feature = "header-budget",
    feature = "retry",
    feature = "token-bucket"
))]
use tower_layer::Stack;

mod sealed {
    pub trait Sealed {}
    impl<L> Sealed for tower::ServiceBuilder<L> {}
}

/// Adds layers with their recommended settings to a [`ServiceBuilder`]. For a layer with other
/// settings, or one whose handle is wanted, build it first and add it with
/// [`ServiceBuilder::layer`].
///
/// As always with that builder, what is added first is outermost.
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// Answers from a cache what the caller has marked, for five minutes.
    #[cfg(feature = "cache")]
    fn claude_cache(self) -> ServiceBuilder<Stack<crate::CacheLayer, L>>;

    /// Sends a request to these models, in this order, when the one asked for cannot serve.
    #[cfg(feature = "fallback-model")]
    fn claude_fallback<M: AsRef<str>>(
        self,
        models: impl IntoIterator<Item = M>,
    ) -> ServiceBuilder<Stack<crate::FallbackModelLayer, L>>;

    /// Sends failed requests again.
    #[cfg(feature = "retry")]
    fn claude_retry(self) -> ServiceBuilder<Stack<crate::RetryLayer, L>>;

    /// Stops sending to a model that is down.
    #[cfg(feature = "circuit-breaker")]
    fn claude_circuit_breaker(self) -> ServiceBuilder<Stack<crate::CircuitBreakerLayer, L>>;

    /// Paces requests and tokens by these limits.
    #[cfg(feature = "token-bucket")]
    fn claude_token_bucket(
        self,
        limits: crate::Limits,
    ) -> ServiceBuilder<Stack<crate::TokenBucketLayer, L>>;

    /// Learns limits from response headers and keeps to them. To correct a token bucket instead of
    /// keeping a ledger of its own, add [`HeaderBudgetLayer::over`](crate::HeaderBudgetLayer::over)
    /// the bucket's limiter.
    #[cfg(feature = "header-budget")]
    fn claude_header_budget(self) -> ServiceBuilder<Stack<crate::HeaderBudgetLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
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
