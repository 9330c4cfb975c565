//! The contract of all ordered pairs of layers, each layer with its own driver or service.

use tower_claude::{CacheLayer, PromptCacheLayer};
use tower_claude_batch::BatchLayer;
use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;

fn batch() -> BatchLayer {
    BatchLayer::in_memory().pair().0
}

fn cache() -> CacheLayer {
    CacheLayer::default()
}

fn retry() -> RetryLayer {
    RetryLayer::new()
}

fn fallback() -> FallbackModelLayer {
    FallbackModelLayer::new(["claude-opus-5-5"])
}

fn breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new()
}

fn bucket() -> TokenBucketLayer {
    TokenBucketLayer::new(Limits::unlimited())
}

fn budget() -> HeaderBudgetLayer {
    HeaderBudgetLayer::new()
}

fn prompt_cache() -> PromptCacheLayer {
    PromptCacheLayer::new()
}

/// Runs the contract suite over an outer layer around each of the inner ones.
macro_rules! pairs {
    ($($outer:ident: $($inner:ident)+;)+) => {
        $(mod $outer {
            $(mod $inner {
                use tower_layer::Stack;

                tower_claude_tests::contract!(
                    Stack::new(crate::$inner(), crate::$outer()),
                    stateless
                );
            })+
        })+
    };
}

pairs! {
    batch: cache fallback bucket;
    cache: batch fallback retry breaker bucket budget;
    fallback: cache retry breaker bucket budget;
    retry: batch cache fallback breaker bucket budget prompt_cache;
    breaker: cache fallback retry bucket budget;
    bucket: cache fallback retry breaker budget;
    budget: cache fallback retry breaker bucket;
    prompt_cache: breaker bucket;
}
