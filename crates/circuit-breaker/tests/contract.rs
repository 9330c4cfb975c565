//! The contract tests of every layer.

use tower_claude_circuit_breaker::CircuitBreakerLayer;
use tower_claude_tests::Reply;

tower_claude_tests::contract!(
    CircuitBreakerLayer::new(),
    observe = |layer: &CircuitBreakerLayer| layer.handle().snapshot(),
    observe_over = Reply::claude_error(529, "overloaded_error"),
);
