//! The contract of every layer, for a layer without calls that can wait, and for one whose calls
//! all can wait, but not for long enough.

use std::time::Duration;

use tower_claude_batch::BatchLayer;
use tower_claude_tests::contract as suite;

fn layer() -> BatchLayer {
    BatchLayer::in_memory().pair().0
}

tower_claude_tests::contract!(layer(), stateless);

/// Checks a layer that looks at each call and sends it at once.
macro_rules! tolerant {
    ($name:ident, $tolerance:expr, $($check:ident)*) => {
        mod $name {
            use super::*;

            fn layer() -> BatchLayer {
                let layer = BatchLayer::in_memory().with_policy(|_| Some($tolerance));
                layer.pair().0
            }

            $(
                #[test]
                fn $check() {
                    suite::$check(layer);
                }
            )*
        }
    };
}

tolerant!(too_tight, Duration::from_secs(60),
    poll_ready_is_always_ready
    inner_is_readied_inside_the_future
    readiness_error_is_the_service_error
    calls_run_side_by_side
    serves_a_borrowed_service
    request_is_untouched
    response_is_untouched
    streams_are_untouched
    compressed_body_is_untouched
    trailers_come_through
    bodies_without_frames
    body_error_comes_through
    service_error_comes_through
    error_responses_come_through
    inner_refusals_come_through
    other_request_bodies_come_through
    buffered_request_is_not_copied
    request_over_the_limit_streams
    request_that_fails_while_read
    request_trailers_come_through
    dropped_at_any_poll
    body_dropped_at_any_frame
    stalled_calls_can_be_dropped
    sleeping_holds_nothing
    content_is_not_held_back
);

// The driver was dropped, so that no batch is ever created.
tolerant!(without_driver, Duration::from_secs(7_200),
    poll_ready_is_always_ready
    readiness_error_is_the_service_error
    calls_run_side_by_side
    response_is_untouched
    streams_are_untouched
    body_error_comes_through
    service_error_comes_through
    request_that_fails_while_read
    dropped_at_any_poll
    stalled_calls_can_be_dropped
);

#[test]
fn state_is_shared() {
    suite::state_is_shared(
        || {
            let layer = BatchLayer::in_memory().with_policy(|_| Some(Duration::from_secs(60)));
            layer.pair().0
        },
        |layer| layer.handle().snapshot(),
        &tower_claude_tests::Reply::message(),
    );
}
