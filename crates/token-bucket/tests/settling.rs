//! Tests of settling by the actual usage.

mod common;

use common::{EventLog, layer, left, message, only, over, send_ok, stream, with};
use http::Request;
use http_body_util::BodyExt;
use tokio::{task::JoinSet, time::Instant};
use tower::{Layer, ServiceExt};
use tower_claude_core::{Cost, RequestBody, Settle, event::Event};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_tests::{Broken, MINUTE, Piece, Reply, SECOND, SONNET, Script, request};
use tower_claude_token_bucket::TokenBucketLayer;
use tower_claude_wire::StreamState;

const LIMITS: common::PerMinute = (1_000, 100_000, 50_000);

fn fake() -> FakeClaude {
    FakeClaude::builder().build()
}

#[tokio::test(start_paused = true)]
async fn json_response_settles_by_its_usage() {
    let layer = layer(LIMITS);
    let request = with(message(700, 90), "x-planned-input", 4_000);
    let request = with(request, "x-planned-output", 3_000);
    let response = layer
        .layer(fake())
        .oneshot(request)
        .await
        .expect("an answer");
    assert_eq!(left(&layer.limiter()), [999, 96_000, 47_000]);
    assert_eq!(only(&layer.limiter()).in_flight, 1);
    let _ = response.into_body().collect().await.expect("a body");
    assert_eq!(left(&layer.limiter()), [999, 99_300, 49_910]);
    assert_eq!(only(&layer.limiter()).in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn usage_above_the_estimate_is_charged() {
    let layer = layer(LIMITS);
    let request = with(message(7_000, 900), "x-planned-input", 10);
    let request = with(request, "x-planned-output", 5);
    send_ok(&over(&layer, &fake()), request).await;
    assert_eq!(left(&layer.limiter()), [999, 93_000, 49_100]);
}

/// A service of another kind reports usage in an object of the same name.
#[tokio::test(start_paused = true)]
async fn own_cost_is_not_settled_by_usage_unless_asked_for() {
    let own = |request: &Request<RequestBody>| {
        let cost = Cost::new(10, 2);
        match request.uri().query() {
            Some("counted") => cost.with_counted_input(10),
            Some("usage") => cost.with_settle(Settle::ByUsage),
            _ => cost,
        }
    };
    let layer = layer(LIMITS).with_estimate(own);
    let service = layer.layer(fake());
    send_ok(&service, message(500, 90)).await;
    assert_eq!(left(&layer.limiter()), [999, 99_990, 49_998]);
    let charged = async |request: Request<RequestBody>, query: &str| {
        let before = left(&layer.limiter());
        let (mut parts, body) = request.into_parts();
        let uri = format!("{}?{query}", parts.uri);
        parts.uri = uri.parse().expect("a URI");
        send_ok(&service, Request::from_parts(parts, body)).await;
        let after = left(&layer.limiter());
        [0, 1, 2].map(|index| before[index] - after[index])
    };
    for query in ["", "counted"] {
        assert_eq!(
            charged(message(500, 90), query).await,
            [1, 10, 2],
            "{query}"
        );
        assert_eq!(
            charged(stream(500, 2_000), query).await,
            [1, 10, 2],
            "{query}"
        );
    }
    let ratio = only(&layer.limiter()).input_ratio;
    assert_eq!(ratio, 1.0);
    assert_eq!(charged(message(500, 90), "usage").await, [1, 500, 90]);
}

#[tokio::test(start_paused = true)]
async fn cache_reads_are_free_and_cache_writes_are_charged() {
    let layer = layer(LIMITS);
    let request = with(message(9_000, 10), "x-fake-cache-read-tokens", 6_000);
    let request = with(request, "x-fake-cache-creation-tokens", 2_000);
    send_ok(&over(&layer, &fake()), request).await;
    assert_eq!(left(&layer.limiter())[1], 97_000);
}

#[tokio::test(start_paused = true)]
async fn stream_settles_by_its_usage_as_it_arrives() {
    let layer = layer(LIMITS);
    let request = with(stream(700, 2_000), "x-planned-input", 4_000);
    let request = with(request, "x-planned-output", 100);
    let response = layer
        .layer(fake())
        .oneshot(request)
        .await
        .expect("an answer");
    assert_eq!(left(&layer.limiter()), [999, 96_000, 49_900]);
    let mut body = response.into_body();
    let mut stream = StreamState::new();
    let mut lowest = i64::MAX;
    while let Some(frame) = body.frame().await {
        stream.feed(&frame.expect("no error").into_data().expect("data"));
        let [_, input, output] = left(&layer.limiter());
        if stream.started() {
            assert_eq!(input, 99_300, "the input is known at message_start");
        }
        if !stream.is_complete() {
            lowest = lowest.min(output);
            assert_eq!(only(&layer.limiter()).in_flight, 1);
        } else {
            // At message_stop, before the body ends.
            assert_eq!(only(&layer.limiter()).in_flight, 0);
        }
    }
    assert!(lowest < 49_000, "a long answer extends its reservation");
    assert_eq!(left(&layer.limiter()), [999, 99_300, 48_000]);
}

#[tokio::test(start_paused = true)]
async fn broken_stream_settles_by_reported_usage() {
    for fault in [
        Fault::ErrorMidStream { after_tokens: 40 },
        Fault::Truncated { after_tokens: 40 },
        Fault::Cut { after_tokens: 40 },
    ] {
        let fake = fake();
        fake.inject(fault.clone());
        let layer = layer(LIMITS);
        let request = with(stream(700, 500), "x-planned-input", 4_000);
        let response = layer.layer(fake).oneshot(request).await.expect("an answer");
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        let [requests, input, output] = left(&layer.limiter());
        assert_eq!((requests, input), (999, 99_300), "{fault:?}");
        assert!(
            output > 49_500,
            "{fault:?}: unmade output is kept: {output}"
        );
        assert_eq!(only(&layer.limiter()).in_flight, 0, "{fault:?}");
        assert_eq!(only(&layer.limiter()).outstanding_output, 0, "{fault:?}");
        drop(body);
    }
}

/// The server has probably counted the request and its input, and produced no output.
#[tokio::test(start_paused = true)]
async fn failed_attempt_keeps_request_and_input() {
    for fault in [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::Unavailable,
        Fault::Timeout504,
        Fault::Reset,
    ] {
        let fake = fake();
        fake.inject(fault.clone());
        let layer = layer(LIMITS);
        let _ = layer.layer(fake).oneshot(message(4_000, 900)).await;
        assert_eq!(left(&layer.limiter()), [999, 96_000, 50_000], "{fault:?}");
        assert_eq!(only(&layer.limiter()).in_flight, 0, "{fault:?}");
        assert!(only(&layer.limiter()).paused_for.is_zero(), "{fault:?}");
    }
}

/// An invalid request uses no tokens.
#[tokio::test(start_paused = true)]
async fn invalid_request_keeps_the_request_only() {
    let layer = layer(LIMITS);
    let service = over(&layer, &fake());
    let mut request = message(4_000, 900);
    request.headers_mut().remove("anthropic-version");
    assert_eq!(send_ok(&service, request).await.status, 400);
    assert_eq!(left(&layer.limiter()), [999, 100_000, 50_000]);
    let unlearned = only(&layer.limiter());
    assert_eq!((unlearned.input_ratio, unlearned.mean_output), (1.0, None));
}

/// The inner layer has not sent the request.
#[tokio::test(start_paused = true)]
async fn local_rejection_refunds_everything() {
    use tower_claude_core::{RejectReason, Rejection};
    let late = RejectReason::DeadlineWouldPass {
        estimated: std::time::Duration::from_secs(9),
        remaining: std::time::Duration::from_secs(1),
    };
    let script = Script::always(Reply::refusal(Rejection::new("inner", late)));
    let layer = layer(LIMITS);
    let answer = send_ok(&layer.layer(script), message(4_000, 900)).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.headers["x-tower-claude-refused-by"], "inner");
    assert_eq!(left(&layer.limiter()), [1_000, 100_000, 50_000]);
    assert!(only(&layer.limiter()).paused_for.is_zero());
}

#[tokio::test(start_paused = true)]
async fn service_error_settles() {
    let layer = layer(LIMITS);
    let script = Script::always(Reply::error(Broken("wire cut")));
    let error = layer
        .layer(script)
        .oneshot(message(4_000, 900))
        .await
        .expect_err("its error");
    assert_eq!(error, Broken("wire cut"));
    assert_eq!(left(&layer.limiter()), [999, 96_000, 50_000]);
    assert_eq!(only(&layer.limiter()).in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn response_without_usage_keeps_the_estimate() {
    let html = Reply::status(200)
        .header(http::header::CONTENT_TYPE, "text/html")
        .data("<p>");
    let gzip = Reply::message().header(http::header::CONTENT_ENCODING, "gzip");
    let unread = Reply::json(r#"{"content":[]}"#);
    let other = Reply::json(r#"{"data":[]}"#);
    let empty = Reply::status(204);
    // What is no message is a failure, whose output is given back.
    for (reply, output) in [
        (html, 50_000),
        (gzip, 49_100),
        (unread, 49_100),
        (other, 50_000),
        (empty, 49_100),
    ] {
        let layer = layer(LIMITS);
        send_ok(&layer.layer(Script::always(reply)), message(4_000, 900)).await;
        assert_eq!(left(&layer.limiter()), [999, 96_000, output]);
        assert_eq!(only(&layer.limiter()).in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_body_settles_once() {
    let reply = Reply::message()
        .chunked()
        .piece(Piece::Error(Broken("cut")));
    let layer = layer(LIMITS);
    let response = layer
        .layer(Script::always(reply))
        .oneshot(message(4_000, 900))
        .await
        .expect("a head");
    let error = response.into_body().collect().await.expect_err("its error");
    assert_eq!(error, Broken("cut"));
    assert_eq!(only(&layer.limiter()).in_flight, 0);
    // The usage reported by then: 11 and 7.
    assert_eq!(left(&layer.limiter()), [999, 99_989, 49_993]);
}

/// The claim of one response closed a limit of two million tokens for 29 minutes.
#[tokio::test(start_paused = true)]
async fn absurd_usage_is_charged_as_its_bound_and_reported_once() {
    let claims = r#""usage":{"input_tokens":60000000,"output_tokens":60000000}"#;
    let message = format!(r#"{{"type":"message","content":[],"stop_reason":"end_turn",{claims}}}"#);
    let start = format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{{claims}}}}}\n\n"
    );
    let stop = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    for reply in [
        Reply::json(message),
        Reply::stream([start, stop.to_owned()]),
    ] {
        let events = common::EventLog::default();
        let layer = TokenBucketLayer::new(common::limits((10_000, 2_000_000, 400_000)))
            .with_max_wait(common::HOUR)
            .with_observer(events.clone());
        let service = layer.layer(Script::always(reply));
        let begin = Instant::now();
        for _ in 0..3 {
            send_ok(&service, request(SONNET, false)).await;
        }
        assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
        assert_eq!(
            events.count("token-bucket usage_capped"),
            1,
            "{:?}",
            events.lines()
        );
        let snapshot = only(&layer.limiter());
        assert_eq!((snapshot.input_ratio, snapshot.mean_output), (1.0, None));
        let mut calls = JoinSet::new();
        for _ in 0..100 {
            calls.spawn(send_ok(&service, request(SONNET, false)));
        }
        calls.join_all().await;
        let begin = Instant::now();
        send_ok(&service, request(SONNET, false)).await;
        assert!(begin.elapsed() <= 6 * MINUTE, "{:?}", begin.elapsed());
        assert_eq!(events.count("token-bucket usage_capped"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn settled_event_has_the_charge_at_sending_where_usage_replaces_it() {
    let log = EventLog::new(|event| match event {
        Event::Settled {
            estimated, usage, ..
        } => Some(format!("{estimated:?} {:?}", estimated.ratios(usage))),
        _ => None,
    });
    let layer = layer(LIMITS).with_observer(log.clone());
    let request = with(message(700, 90), "x-planned-input", 350);
    let request = with(request, "x-planned-output", 45);
    send_ok(&over(&layer, &fake()), request).await;
    let settled = "EstimatedTokens { input: Some(350), output: Some(45) } [Some(2.0), Some(2.0)]";
    assert_eq!(log.take(), [settled]);
    // The estimates are corrected by what was learned, and a stream gives its input early.
    let request = with(stream(700, 90), "x-planned-input", 350);
    let request = with(request, "x-planned-output", 45);
    send_ok(&over(&layer, &fake()), request).await;
    let settled = log.take();
    assert_eq!(settled.len(), 1);
    assert!(!settled[0].contains("Some(2.0)"), "{settled:?}");
    // A failure has no usage.
    let failing = FakeClaude::builder().build();
    failing.inject(Fault::Overloaded);
    let _ = over(&layer, &failing).oneshot(message(7, 9)).await;
    assert_eq!(log.take(), Vec::<String>::new());
}
