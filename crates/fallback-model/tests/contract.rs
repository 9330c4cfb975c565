//! The contract of every layer.

use tower_claude_fallback_model::FallbackModelLayer;
use tower_claude_tests::Reply;

tower_claude_tests::contract!(
    FallbackModelLayer::new(["claude-opus-5-5", "claude-haiku-5-5"]),
    observe = |layer: &FallbackModelLayer| layer.handle().snapshot(),
    observe_over = Reply::claude_error(529, "overloaded_error"),
);
