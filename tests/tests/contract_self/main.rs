//! The contract suite itself: a layer that keeps to it passes, and every check fails on a layer
//! that breaks just this point.

mod body;
mod future;
mod sample;

use sample::{Fault, Sample};
use tower_claude_tests::{Reply, contract};

mod keeps_to_it {
    use super::*;

    tower_claude_tests::contract!(
        Sample::new(Fault::None),
        observe = Sample::calls,
        observe_over = Reply::message(),
    );
}

mod stateless {
    use super::*;

    tower_claude_tests::contract!(Sample::new(Fault::None), stateless);
}

/// The check panics over a layer with this fault, saying this.
macro_rules! caught {
    ($($name:ident: $check:ident, $fault:ident, $says:literal;)*) => {$(
        #[test]
        #[should_panic(expected = $says)]
        fn $name() {
            contract::$check(|| Sample::new(Fault::$fault));
        }
    )*};
}

caught! {
    readiness_forwarded: poll_ready_is_always_ready, ForwardsReadiness, "poll_ready is not ready";
    clone_called_unready: inner_is_readied_inside_the_future, CallsUnready, "without having been polled ready";
    readiness_error_hidden: readiness_error_is_the_service_error, RetriesForEver, "no response within a day";
    one_at_a_time: calls_run_side_by_side, OneAtATime, "no response within a day";
    request_header_added: request_is_untouched, AddsRequestHeader, "request headers were changed";
    request_extensions_lost: request_is_untouched, LosesRequestExtensions, "request's extensions were lost";
    request_sent_twice: request_is_untouched, SendsTwice, "one request must be sent once";
    response_header_added: response_is_untouched, AddsResponseHeader, "response headers were changed";
    response_header_order: response_is_untouched, SortsResponseHeaders, "response headers were changed";
    response_extensions_lost: response_is_untouched, LosesResponseExtensions, "response's extensions were lost";
    stream_cleaned: streams_are_untouched, DropsComments, "bytes of a stream were changed";
    encoding_lost: compressed_body_is_untouched, LosesEncoding, "assertion";
    trailers_lost: trailers_come_through, LosesTrailers, "the trailers were lost";
    head_length_lost: bodies_without_frames, LosesLengthOfEmpty, "HEAD";
    body_error_lost: body_error_comes_through, LosesBodyError, "error in the body was lost";
    error_made_a_response: service_error_comes_through, AnswersErrors, "the error must come out";
    error_body_lost: error_responses_come_through, LosesErrorBody, "was changed";
    error_body_cut: error_responses_come_through, CutsErrorBody, "was changed";
    refusal_extension_lost: inner_refusals_come_through, LosesResponseExtensions, "Rejection extension";
    refusal_retried: inner_refusals_come_through, RetriesForEver, "no response within a day";
    not_json_refused: other_request_bodies_come_through, RefusesOtherBodies, "refused";
    request_copied: buffered_request_is_not_copied, CopiesRequest, "a buffered body was copied";
    long_request_refused: request_over_the_limit_streams, RefusesOtherBodies, "was refused";
    long_request_lost: request_over_the_limit_streams, LosesStreams, "was cut";
    broken_request_hidden: request_that_fails_while_read, LosesStreams, "without its end was sent";
    request_trailers_lost: request_trailers_come_through, LosesStreams, "assertion";
    permit_lost_by_drop: dropped_at_any_poll, CountsByHand, "no response within a day";
    body_leaked: dropped_at_any_poll, LeaksBody, "alive after";
    body_leaked_by_reader: body_dropped_at_any_frame, LeaksBody, "alive after";
    response_held_while_sleeping: sleeping_holds_nothing, SleepsOnResponse, "is held while the layer sleeps";
    frame_held_back: content_is_not_held_back, OneFrameLate, "held back until the next";
    permit_lost_by_stall: stalled_calls_can_be_dropped, CountsByHand, "no call reached the inner service";
}

#[test]
#[should_panic(expected = "did not change the layer's state")]
fn state_made_in_layer() {
    let layer = || Sample::new(Fault::StateInLayer);
    contract::state_is_shared(layer, Sample::calls, &Reply::message());
}

#[test]
#[should_panic(expected = "a state of its own")]
fn state_not_shared_by_clones() {
    let layer = || Sample::new(Fault::CloneForgets);
    contract::state_is_shared(layer, Sample::calls, &Reply::message());
}

/// The sample retries: without this, the checks would not be known to bear it.
#[test]
fn sample_retries() {
    use tower_layer::Layer;

    tower_claude_tests::paused(async {
        let script = tower_claude_tests::Script::new([
            Reply::claude_error(529, "overloaded_error"),
            Reply::error(tower_claude_tests::Broken("reset")),
            Reply::message(),
        ]);
        let service = Sample::new(Fault::None).layer(script.clone());
        let request = http::Request::new(tower_claude_tests::FrameBody::full("{}"));
        let response = tower_claude_tests::serve(&service, request).await;
        assert_eq!(response.expect("served").status(), 200);
        assert_eq!(script.calls(), 3);
    });
}
