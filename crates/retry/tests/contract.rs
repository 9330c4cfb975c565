//! The contract of every layer.

use tower_claude_retry::RetryLayer;
use tower_claude_tests::Reply;

tower_claude_tests::contract!(
    RetryLayer::new(),
    observe = |layer: &RetryLayer| layer.handle().snapshot(),
    observe_over = Reply::claude_error(529, "overloaded_error"),
);
