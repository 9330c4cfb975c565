//! The contract suite.

use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limiter;

tower_claude_tests::contract!(
    HeaderBudgetLayer::new(),
    observe = |layer| layer.handle().snapshot()
);
