//! The contract of every layer, for a layer that caches nothing and for a layer that caches all it
//! can.

use std::time::Duration;

use tower_claude_cache::{CacheLayer, Cacheable};
use tower_claude_tests::contract as suite;

tower_claude_tests::contract!(CacheLayer::new(Duration::from_secs(60)), stateless);

/// Caches all that can be cached. Checks that compare response headers with the inner headers are
/// left out, because the cache adds its own header.
macro_rules! cacheable {
    ($name:ident, $layer:expr, $($check:ident)*) => {
        mod $name {
            use super::*;

            $(
                #[test]
                fn $check() {
                    suite::$check(|| $layer);
                }
            )*
        }
    };
}

fn everything() -> CacheLayer {
    CacheLayer::new(Duration::from_secs(60)).with_policy(|_| Some(Cacheable::new()))
}

cacheable!(everything_cacheable, everything(),
    auto_traits
    poll_ready_is_always_ready
    inner_is_readied_inside_the_future
    readiness_error_is_the_service_error
    calls_run_side_by_side
    serves_a_borrowed_service
    request_is_untouched
    streams_are_untouched
    trailers_come_through
    bodies_without_frames
    body_error_comes_through
    service_error_comes_through
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

cacheable!(detached, everything().detached(),
    auto_traits
    poll_ready_is_always_ready
    readiness_error_is_the_service_error
    calls_run_side_by_side
    request_is_untouched
    streams_are_untouched
    trailers_come_through
    body_error_comes_through
    service_error_comes_through
    content_is_not_held_back
);

#[test]
fn state_is_shared() {
    suite::state_is_shared(
        everything,
        |layer| layer.handle().snapshot(),
        &tower_claude_tests::Reply::message(),
    );
}
