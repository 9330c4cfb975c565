//! Behaviour that is off by default: early heads, and pages of other origins.

use crate::common::*;
use axum::response::Response;
use tokio::sync::{mpsc, oneshot};

/// An upstream whose responses the test sends.
async fn held_upstream() -> (Upstream, mpsc::UnboundedReceiver<oneshot::Sender<Response>>) {
    let (senders, receiver) = mpsc::unbounded_channel();
    let upstream = Upstream::new(move |request| {
        let senders = senders.clone();
        async move {
            if request.uri.path().ends_with("count_tokens") {
                return json(200, COUNT);
            }
            let (sender, response) = oneshot::channel();
            senders.send(sender).unwrap();
            response.await.unwrap()
        }
    })
    .await;
    (upstream, receiver)
}

#[tokio::test]
async fn early_head_is_a_ping_and_a_later_stream_or_failure_follows_in_it() {
    let (upstream, mut heads) = held_upstream().await;
    let early = "[stream]\nearly_head = \"50ms\"\n";
    let gateway = TestGateway::new(config_for(&upstream, early, "max_attempts = 1")).await;
    let (mut live, head) = tokio::join!(Live::new(gateway.message(), STREAM_REQUEST), heads.recv());
    assert_eq!((live.status, live.text.as_str()), (200, ""));
    assert_eq!(
        live.headers["content-type"],
        "text/event-stream; charset=utf-8"
    );
    live.read_to(PING).await;
    let (response, events) = stream();
    head.unwrap().send(response).unwrap();
    for event in [START, DELTA, END] {
        events.send(event).unwrap();
    }
    drop(events);
    assert!(live.read_all().await);
    assert_eq!(live.text, format!("{PING}{START}{DELTA}{END}"));

    // A failure after the head keeps the type of the API.
    let (mut live, head) = tokio::join!(Live::new(gateway.message(), STREAM_REQUEST), heads.recv());
    live.read_to(PING).await;
    let error =
        "{\"type\":\"error\",\n\"error\":{\"type\":\"invalid_request_error\",\"message\":\"x\"}}";
    head.unwrap().send(json(400, error)).unwrap();
    assert!(live.read_all().await);
    let line = error.replace('\n', " ");
    assert_eq!(live.text, format!("{PING}event: error\ndata: {line}\n\n"));

    // A response in time, and a request for no stream, keep their status.
    let answer = async { heads.recv().await.unwrap().send(json(400, error)).unwrap() };
    let (got, ()) = tokio::join!(send(gateway.message(), STREAM_REQUEST), answer);
    assert_eq!((got.status, got.text()), (400, error));
    let answer = async {
        let head = heads.recv().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        head.send(json(200, MESSAGE)).unwrap();
    };
    let (got, ()) = tokio::join!(send(gateway.message(), REQUEST), answer);
    assert_eq!((got.status, got.text()), (200, MESSAGE));
}

#[tokio::test]
async fn caller_that_leaves_after_an_early_head_ends_the_call() {
    let (upstream, mut heads) = held_upstream().await;
    let early = "[stream]\nearly_head = \"10ms\"\n";
    let gateway = TestGateway::new(config_for(&upstream, early, "")).await;
    let (mut live, head) = tokio::join!(Live::new(gateway.message(), STREAM_REQUEST), heads.recv());
    live.read_to(PING).await;
    drop(live);
    within(async { head.unwrap().closed().await }).await;
}

#[tokio::test]
async fn pages_of_configured_origins_may_use_the_gateway_and_no_others() {
    let upstream = Upstream::with_message().await;
    let origins = "cors_origins = [\"https://app.example.com\"]\n";
    let gateway = TestGateway::new(config_for(&upstream, origins, "")).await;
    let ask = |origin| {
        gateway
            .request("OPTIONS", "/v1/messages")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "x-api-key,anthropic-beta")
    };
    let allowed = send(ask("https://app.example.com"), "").await;
    let origin = "access-control-allow-origin";
    assert_eq!(allowed.header(origin), "https://app.example.com");
    assert_eq!(
        allowed.header("access-control-allow-headers"),
        "x-api-key,anthropic-beta"
    );
    assert!(upstream.received().is_empty());
    let refused = send(ask("https://evil.example.com"), "").await;
    assert_eq!(refused.header(origin), "");
    let message = gateway
        .message()
        .header("origin", "https://app.example.com");
    let got = send(message, REQUEST).await;
    assert_eq!(
        (got.status, got.header(origin)),
        (200, "https://app.example.com")
    );
    assert_eq!(got.header("access-control-expose-headers"), "*");

    // Without configuration the request goes upstream, and nothing is allowed.
    let gateway = TestGateway::before(&upstream).await;
    let plain = gateway
        .request("OPTIONS", "/v1/messages")
        .header("origin", "https://a.b");
    assert_eq!(send(plain, "").await.header(origin), "");
    assert_eq!(upstream.last().method, "OPTIONS");
}

#[tokio::test]
async fn prompts_that_come_again_are_marked_if_the_upstream_asks_for_it() {
    let system = "Answer by these rules. ".repeat(400);
    for (setting, markers) in [("prompt_cache = true", 1), ("", 0)] {
        let upstream = Upstream::with_message().await;
        let gateway = TestGateway::new(config_for(&upstream, "", setting)).await;
        for question in 0..4 {
            let body = format!(
                r#"{{"model":"claude-sonnet-5-5","max_tokens":64,"system":"{system}","messages":[{{"role":"user","content":"{question}"}}]}}"#
            );
            assert_eq!(send(gateway.message(), body).await.status, 200);
        }
        let body = upstream.last().body;
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(text.matches("cache_control").count(), markers, "{setting}");
    }
}
