//! The contract suite.

use std::num::NonZeroU64;

use tower_claude_limiter::{Limiter, Limits};
use tower_claude_token_bucket::TokenBucketLayer;

fn layer() -> TokenBucketLayer {
    let plenty = NonZeroU64::new(10_000_000).expect("plenty");
    TokenBucketLayer::new(
        Limits::new()
            .with_requests_per_minute(plenty)
            .with_input_tokens_per_minute(plenty)
            .with_output_tokens_per_minute(plenty),
    )
}

tower_claude_tests::contract!(layer(), observe = |layer| layer.handle().snapshot());
