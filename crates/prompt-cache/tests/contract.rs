//! The contract tests of every layer.

use tower_claude_prompt_cache::{CacheRules, PromptCacheLayer};
use tower_claude_wire::RateCard;

mod short_prompts {
    tower_claude_tests::contract!(crate::PromptCacheLayer::new(), stateless);
}

/// A layer that follows every request, whatever its length.
fn follows_all() -> PromptCacheLayer {
    let rules = CacheRules::new(1, RateCard::new(5_000, 25_000));
    PromptCacheLayer::new().with_rules("claude-sonnet-5-5", rules)
}

mod followed_prompts {
    use super::*;

    tower_claude_tests::contract!(
        follows_all(),
        observe = |layer: &PromptCacheLayer| layer.handle().snapshot(),
    );
}
