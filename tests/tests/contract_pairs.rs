//! The contract of all ordered pairs of layers, each in a driver of its own.

use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;

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
    retry: fallback breaker bucket budget;
    fallback: retry breaker bucket budget;
    breaker: retry fallback bucket budget;
    bucket: retry fallback breaker budget;
    budget: retry fallback breaker bucket;
}
