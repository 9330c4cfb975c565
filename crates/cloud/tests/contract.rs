//! The contract of layers: all of it for requests without a target, and what holds for requests
//! that are translated.

use tower_claude_cloud::{Bearer, CloudLayer};
use tower_claude_wire::cloud::Target;

mod without_a_target {
    use super::*;

    tower_claude_tests::contract!(CloudLayer::new(), stateless);
}

fn vertex() -> CloudLayer {
    let target = Target::vertex("project", "global").expect("a target");
    let token = Bearer::fixed("token").expect("a token");
    CloudLayer::new().with_default_target(target, token)
}

/// A translation changes the head of a request and of its response, and nothing else.
mod with_a_target {
    use super::*;

    tower_claude_tests::contract!(@each vertex(),
        auto_traits
        poll_ready_is_always_ready
        inner_is_readied_inside_the_future
        readiness_error_is_the_service_error
        calls_run_side_by_side
        serves_a_borrowed_service
        streams_are_untouched
        trailers_come_through
        body_error_comes_through
        service_error_comes_through
        inner_refusals_come_through
        request_that_fails_while_read
        dropped_at_any_poll
        body_dropped_at_any_frame
        stalled_calls_can_be_dropped
        sleeping_holds_nothing
        content_is_not_held_back
    );
}
