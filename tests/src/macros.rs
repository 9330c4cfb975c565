//! The macro that makes a test of every check.

/// Runs the contract suite over a layer: a module `contract` with one test per check.
///
/// The expression is evaluated for every test, so that each begins with a fresh layer. The layer
/// should let a few dozen small requests through without refusing them: generous limits, a
/// threshold that a handful of failures does not reach.
///
/// The second argument says how to see the layer's state, so that the suite can tell whether it is
/// shared: `observe = |layer| …`, or `stateless`. `observe_over = reply` names the reply that
/// changes it, where a success does not.
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
