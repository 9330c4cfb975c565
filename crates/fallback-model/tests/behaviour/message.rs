//! The message for end users.

use tower_claude_core::Kind;
use tower_claude_fallback_model::{FallbackMessage, FallbackModelLayer, LAST_MESSAGE};
use tower_claude_wire::{ApiError, StreamState};

use crate::api::*;

const WORDS: &str = "Busy. Please try again {eta}.";

#[tokio::test(start_paused = true)]
async fn availability_error_gets_the_message_and_the_shortest_wait() {
    let (layer, _) = layer();
    let layer = layer.with_error_message(WORDS);
    // The shortest wait of all models.
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
    let last = answer.extensions.get::<FallbackMessage>().unwrap();
    assert_eq!(last.eta, Some(100 * SECOND));
    assert_eq!(api.alive(), 0);
}

/// A cool-down takes an hour at most, whatever the server asks for.
#[tokio::test(start_paused = true)]
async fn wait_in_the_message_is_the_servers_and_not_the_cool_downs() {
    let layer = FallbackModelLayer::new([SONNET]).with_error_message(WORDS);
    let api = Api::by_model(|_| Reply::overloaded().header("retry-after", "7200"));
    for _ in 0..3 {
        let answer = through(&layer, &api).await;
        let last = answer.extensions.get::<FallbackMessage>().unwrap();
        assert_eq!(last.eta, Some(7_200 * SECOND));
    }
}

/// Without `retry-after`, the wait is the cool-down.
#[tokio::test(start_paused = true)]
async fn all_models_out_names_the_wait_for_the_soonest() {
    let layer = FallbackModelLayer::new([SONNET]).with_error_message(WORDS);
    let api = Api::by_model(|_| Reply::overloaded());
    let mut eta = None;
    for _ in 0..4 {
        let answer = through(&layer, &api).await;
        eta = answer.extensions.get::<FallbackMessage>().unwrap().eta;
    }
    assert_eq!(api.models().len(), 7);
    let eta = eta.expect("a wait");
    assert!((20 * SECOND..40 * SECOND).contains(&eta), "{eta:?}");
}

#[tokio::test(start_paused = true)]
async fn truncated_response_keeps_its_body() {
    let layer = FallbackModelLayer::new([SONNET]).with_error_message(WORDS);
    let cut = r#"{"type":"mess"#;
    let answer = through(&layer, &Api::by_model(move |_| Reply::json(200, cut))).await;
    assert_eq!((answer.text(), answer.class().kind), (cut, Kind::Truncated));
    assert!(answer.extensions.get::<FallbackMessage>().is_none());
}

#[tokio::test(start_paused = true)]
async fn stream_gets_the_message_in_an_error_event() {
    let layer = layer().0.with_error_message(WORDS);
    let api = Api::by_model(|_| Reply::stream([data(START), data(ERROR)]));
    let answer = through(&layer, &api).await;
    let mut stream = StreamState::new();
    stream.feed(&answer.body);
    let error = stream.error().unwrap();
    assert_eq!((answer.status, &*error.kind), (200, "overloaded_error"));
    assert_eq!(error.message, "Busy. Please try again in a little while.");
}

#[tokio::test(start_paused = true)]
async fn client_error_keeps_its_message() {
    let layer = layer().0.with_error_message(WORDS);
    for status in [400, 401, 404, 413] {
        let api = Api::by_model(move |_| Reply::error(status, "some_error"));
        let answer = through(&layer, &api).await;
        assert_eq!(answer.status, status);
        assert!(answer.text().contains("scripted"), "{}", answer.text());
        assert!(answer.extensions.get::<FallbackMessage>().is_none());
    }
    // Nothing is replaced by default.
    let answer = through(&self::layer().0, &Api::by_model(|_| Reply::overloaded())).await;
    assert!(answer.text().contains("scripted"));
}
