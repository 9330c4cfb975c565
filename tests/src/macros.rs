//! The macro that makes a test of each check.

/// Defines a module `contract` with a test of a layer for each check.
///
/// The expression is evaluated for each test, so that each starts with a fresh layer. The layer
/// must admit a few dozen small requests and bear a few failures. Give it generous limits.
///
/// The second argument is `observe = |layer| …`, which reads the layer's state to check that it
/// is shared, or `stateless`. `observe_over = reply` is a reply that changes the state if a
/// success does not.
#[macro_export]
macro_rules! contract {
    ($layer:expr, stateless $(,)?) => {
        $crate::contract!(@tests $layer, {});
    };
    ($layer:expr, observe = $observe:expr $(,)?) => {
        $crate::contract!($layer, observe = $observe, observe_over = $crate::Reply::message());
    };
    ($layer:expr, observe = $observe:expr, observe_over = $reply:expr $(,)?) => {
        $crate::contract!(@tests $layer, {
            #[test]
            fn state_is_shared() {
                $crate::contract::state_is_shared(|| $layer, $observe, &$reply);
            }
        });
    };
    (@tests $layer:expr, { $($more:item)* }) => {
        mod contract {
            #[allow(unused_imports)]
            use super::*;

            $($more)*

            $crate::contract!(@each $layer,
                auto_traits
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
        }
    };
    (@each $layer:expr, $($check:ident)*) => {
        $(
            #[test]
            fn $check() {
                $crate::contract::$check(|| $layer);
            }
        )*
    };
}
