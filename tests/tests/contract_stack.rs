//! Layers keep the contract together as well: in the recommended order, and with a layer twice.

use std::num::NonZeroU64;

use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Stack;

fn bucket() -> TokenBucketLayer {
    let plenty = NonZeroU64::new(10_000_000).expect("plenty");
    TokenBucketLayer::new(
        Limits::new()
            .with_requests_per_minute(plenty)
            .with_input_tokens_per_minute(plenty)
            .with_output_tokens_per_minute(plenty),
    )
}

type Three = Stack<HeaderBudgetLayer, Stack<TokenBucketLayer, RetryLayer>>;

/// Retry outside, then the bucket, then the budget: on one ledger.
fn three() -> Three {
    let bucket = bucket();
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    Stack::new(budget, Stack::new(bucket, RetryLayer::new()))
}

mod one_ledger {
    use super::*;

    tower_claude_tests::contract!(three(), stateless);
}

mod with_a_breaker {
    use super::*;

    fn four()
    -> Stack<Stack<HeaderBudgetLayer, TokenBucketLayer>, Stack<CircuitBreakerLayer, RetryLayer>>
    {
        let bucket = bucket();
        let budget = HeaderBudgetLayer::over(bucket.limiter());
        let outside = Stack::new(CircuitBreakerLayer::new(), RetryLayer::new());
        Stack::new(Stack::new(budget, bucket), outside)
    }

    tower_claude_tests::contract!(four(), stateless);
}

mod two_ledgers {
    use super::*;

    tower_claude_tests::contract!(
        Stack::new(
            HeaderBudgetLayer::new(),
            Stack::new(bucket(), RetryLayer::new())
        ),
        stateless
    );
}

mod retry_in_retry {
    use super::*;

    tower_claude_tests::contract!(Stack::new(RetryLayer::new(), RetryLayer::new()), stateless);
}

mod retry_inside {
    use super::*;

    tower_claude_tests::contract!(Stack::new(RetryLayer::new(), bucket()), stateless);
}
