//! The contract of every layer.

use tower_claude_spread::{SpreadLayer, SpreadTarget};
use tower_claude_tests::Reply;
use tower_claude_wire::cloud::Target;

/// A layer with one target, at the host of the suite's requests, so that nothing is changed.
fn layer() -> SpreadLayer {
    let target = Target::claude_api().with_host("https://proxy.example:8443");
    let target = SpreadTarget::new(target.expect("a host"));
    SpreadLayer::new([target.with_callers_credential()])
}

tower_claude_tests::contract!(
    layer(),
    observe = |layer: &SpreadLayer| layer.handle().snapshot(),
    observe_over = Reply::claude_error(529, "overloaded_error"),
);
