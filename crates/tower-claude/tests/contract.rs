//! The contract of every layer: the recommended stack keeps it as a whole.

use tower_claude::{Recommended, recommended};
use tower_claude_tests::Reply;

tower_claude_tests::contract!(
    recommended(),
    observe = |layer: &Recommended| (
        layer.retry().handle().snapshot(),
        layer.breaker().handle().snapshot(),
        layer.fallback().handle().snapshot(),
    ),
    observe_over = Reply::claude_error(529, "overloaded_error"),
);
