//! The last resort.

use tower_claude_core::Kind;
use tower_claude_fallback_model::{FallbackModelLayer, LAST_MESSAGE, LastResort};
use tower_claude_wire::{ApiError, StreamState};

use crate::api::*;

const WORDS: &str = "Busy. Please try again {eta}.";

#[tokio::test(start_paused = true)]
async fn availability_failures_speak_to_end_users() {
    let (layer, _) = layer();
    let layer = layer.with_last_message(WORDS);
    // The shortest of what the models say.
    let api = Api::by_model(|model| match model {
        OPUS => Reply::overloaded().header("retry-after", "300"),
        SONNET => Reply::rate_limited("100"),
        _ => Reply::error(503, "api_error").header("request-id", "req_9"),
    });
    let answer = through(&layer, &api).await;
    assert_eq!(answer.status, 503);
    let error = ApiError::parse(&answer.body).unwrap();
    assert_eq!(error.kind, "api_error");
    assert_eq!(error.message, "Busy. Please try again in about 2 minutes.");
    assert_eq!(answer.headers[LAST_MESSAGE], "fallback-model");
    let last = answer.extensions.get::<LastResort>().unwrap();
    assert_eq!(last.eta, Some(100 * SECOND));
    assert_eq!(api.alive(), 0);
}

/// A circuit is open for an hour at most, whatever it was told.
#[tokio::test(start_paused = true)]
async fn the_wait_is_the_servers_and_not_the_circuits() {
    let layer = FallbackModelLayer::new([SONNET]).with_last_message(WORDS);
    let api = Api::by_model(|_| Reply::overloaded().header("retry-after", "7200"));
    for _ in 0..3 {
        let answer = through(&layer, &api).await;
        let last = answer.extensions.get::<LastResort>().unwrap();
        assert_eq!(last.eta, Some(7_200 * SECOND));
    }
}

/// Nobody was told how long to wait, but a circuit knows when it lets the next one through.
#[tokio::test(start_paused = true)]
async fn when_all_are_out_the_wait_is_for_the_first_to_be_back() {
    let layer = FallbackModelLayer::new([SONNET]).with_last_message(WORDS);
    let api = Api::by_model(|_| Reply::overloaded());
    let mut eta = None;
    for _ in 0..4 {
        let answer = through(&layer, &api).await;
        eta = answer.extensions.get::<LastResort>().unwrap().eta;
    }
    assert_eq!(api.models().len(), 7);
    let eta = eta.expect("a wait");
    assert!((20 * SECOND..40 * SECOND).contains(&eta), "{eta:?}");
}

#[tokio::test(start_paused = true)]
async fn what_has_no_error_keeps_what_it_has() {
    let layer = FallbackModelLayer::new([SONNET]).with_last_message(WORDS);
    let cut = r#"{"type":"mess"#;
    let answer = through(&layer, &Api::by_model(move |_| Reply::json(200, cut))).await;
    assert_eq!((answer.text(), answer.class().kind), (cut, Kind::Truncated));
    assert!(answer.extensions.get::<LastResort>().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_it_in_an_error_event() {
    let layer = layer().0.with_last_message(WORDS);
    let api = Api::by_model(|_| Reply::stream([data(START), data(ERROR)]));
    let answer = through(&layer, &api).await;
    let mut stream = StreamState::new();
    stream.feed(&answer.body);
    let error = stream.error().unwrap();
    assert_eq!((answer.status, &*error.kind), (200, "overloaded_error"));
    assert_eq!(error.message, "Busy. Please try again in a little while.");
}

#[tokio::test(start_paused = true)]
async fn what_a_developer_must_mend_keeps_its_words() {
    let layer = layer().0.with_last_message(WORDS);
    for status in [400, 401, 404, 413] {
        let api = Api::by_model(move |_| Reply::error(status, "some_error"));
        let answer = through(&layer, &api).await;
        assert_eq!(answer.status, status);
        assert!(answer.text().contains("scripted"), "{}", answer.text());
        assert!(answer.extensions.get::<LastResort>().is_none());
    }
    // And nothing is replaced unasked.
    let answer = through(&self::layer().0, &Api::by_model(|_| Reply::overloaded())).await;
    assert!(answer.text().contains("scripted"));
}
