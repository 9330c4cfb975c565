//! The bills in the events at the end of attempts and calls.

use std::{convert::Infallible, future::ready};

use http::{Request, Response};
use tower::service_fn;
use tower_claude_core::{
    RequestBody,
    event::{Event, Observer},
};
use tower_claude_retry::RetryLayer;
use tower_claude_tests::{
    self as body, FrameBody,
    api::{Api, Piece, Reply},
    request_to, request_with,
};
use tower_claude_wire::{ModelCatalog, Prices, RateCard};
use tower_layer::Layer;

use crate::common::{EventLog, SONNET, request, send};

const USAGE: &str = r#""input_tokens":1000,"cache_read_input_tokens":10000,"output_tokens":100"#;

/// 1,000 tokens at 2 USD per million, 10,000 at 0.1 and 100 at 10.
const COST: &str = "$0.004";

fn line_of(event: &Event<'_>) -> Option<String> {
    let (name, bill) = match event {
        Event::AttemptEnded(end) => ("attempt", end.bill),
        Event::CallEnded(end) => ("call", end.bill),
        _ => return None,
    };
    let cost = bill.map_or("none".to_owned(), |bill| bill.cost.to_string());
    Some(format!("{name} {cost}"))
}

fn message_text(usage: &str) -> String {
    let content = r#"[{"type":"text","text":"Hi"}]"#;
    format!(
        r#"{{"type":"message","role":"assistant","content":{content},"stop_reason":"end_turn","usage":{{{usage}}}}}"#
    )
}

fn message(usage: &str) -> Reply {
    Reply::json(200, message_text(usage))
}

/// Returns the lines of a call with these replies.
async fn lines(
    replies: impl IntoIterator<Item = Reply>,
    request: Request<RequestBody>,
) -> Vec<String> {
    let log = EventLog::new(line_of);
    let layer = RetryLayer::new().with_observer(log.clone());
    let seen = send(&layer.layer(Api::new(replies)), request).await;
    seen.expect("it is answered");
    log.lines()
}

#[tokio::test(start_paused = true)]
async fn answer_has_its_bill_in_both_events() {
    let lines = lines([message(USAGE)], request(SONNET, false)).await;
    assert_eq!(lines, [format!("attempt {COST}"), format!("call {COST}")]);
}

/// The only frame comes later than the head, as from a slow server.
#[tokio::test(start_paused = true)]
async fn answer_whose_body_is_awaited_has_its_bill_in_both_events() {
    for waits in 0..4 {
        let log = EventLog::new(line_of);
        let layer = RetryLayer::new().with_observer(log.clone());
        let service = service_fn(move |_: Request<RequestBody>| {
            let waits = std::iter::repeat_n(body::Piece::Wait, waits);
            let data = body::Piece::Data(message_text(USAGE).into());
            let body = FrameBody::new(waits.chain([data])).exact();
            let response = Response::builder().header("content-type", "application/json");
            ready(Ok::<_, Infallible>(
                response.body(body).expect("a response"),
            ))
        });
        let seen = send(&layer.layer(service), request(SONNET, false)).await;
        seen.expect("it is answered");
        let expected = [format!("attempt {COST}"), format!("call {COST}")];
        assert_eq!(log.lines(), expected, "{waits} waits");
    }
}

#[tokio::test(start_paused = true)]
async fn call_has_the_bills_of_all_attempts_that_reported_a_usage() {
    let failed = [
        Piece::data(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"type\":\"message\",\"usage\":{\"input_tokens\":1000,\"output_tokens\":1}}}\n\n",
        ),
        Piece::data(
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"later\"}}\n\n",
        ),
    ];
    let replies = [Reply::overloaded(), Reply::stream(failed), message(USAGE)];
    let lines = lines(replies, request(SONNET, false)).await;
    let expected = [
        "attempt none",
        "attempt $0.00201",
        "attempt $0.004",
        "call $0.00601",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test(start_paused = true)]
async fn call_with_an_attempt_of_unknown_price_has_no_bill() {
    let failed = [
        Piece::data(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"type\":\"message\",\"usage\":{\"input_tokens\":1000}}}\n\n",
        ),
        Piece::data(
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"later\"}}\n\n",
        ),
    ];
    let replies = [Reply::stream(failed), message(USAGE)];
    let half = lines(replies, request(SONNET, false)).await;
    assert_eq!(half, ["attempt none", "attempt $0.004", "call none"]);
    let unlisted = lines([message(USAGE)], request("my-model", false)).await;
    assert_eq!(unlisted, ["attempt none", "call none"]);
    let elsewhere = request_to(
        "https://bedrock-mantle.us-east-1.api.aws/anthropic",
        SONNET,
        false,
    );
    let cloud = lines([message(USAGE)], elsewhere).await;
    assert_eq!(cloud, ["attempt none", "call none"]);
}

#[tokio::test(start_paused = true)]
async fn refusal_before_any_output_has_no_bill_but_a_written_cache_has() {
    let none = r#""input_tokens":1000,"output_tokens":0"#;
    let refused = lines([message(none)], request(SONNET, false)).await;
    assert_eq!(refused[1], "call none");
    let warm = request_with(SONNET, r#","max_tokens":0"#);
    assert_eq!(lines([message(none)], warm).await[1], "call $0.002");
}

#[tokio::test(start_paused = true)]
async fn what_the_request_asks_for_counts_where_the_usage_is_silent() {
    let fields = r#","max_tokens":9,"inference_geo":"us","speed":"fast""#;
    let asks = || request_with("claude-opus-5-5", fields);
    let usage = r#""input_tokens":1000,"output_tokens":100"#;
    // 8 and 40 USD per million, and a tenth more.
    assert_eq!(lines([message(usage)], asks()).await[1], "call $0.0132");
    let ran = format!(r#"{usage},"speed":"standard","inference_geo":"global""#);
    assert_eq!(lines([message(&ran)], asks()).await[1], "call $0.006");
}

/// A log whose bills have prices of its own.
struct OwnPrices(EventLog, ModelCatalog);

impl Observer for OwnPrices {
    fn on_event(&self, event: &Event<'_>) {
        self.0.on_event(event);
    }

    fn catalog(&self) -> &ModelCatalog {
        &self.1
    }
}

#[tokio::test(start_paused = true)]
async fn observers_catalog_replaces_the_prices() {
    let prices = Prices::new(RateCard::new(1_000, 5_000));
    let catalog = ModelCatalog::builtin().clone();
    let catalog = catalog.with_prices(SONNET, Some(&prices));
    let log = EventLog::new(line_of);
    let layer = RetryLayer::new().with_observer(OwnPrices(log.clone(), catalog));
    let service = layer.layer(Api::new([message(USAGE)]));
    send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(log.lines(), ["attempt $0.0025", "call $0.0025"]);
}
