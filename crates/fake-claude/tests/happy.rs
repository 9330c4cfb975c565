//! Answers when nothing goes wrong.

mod common;

use std::time::Duration;

use common::{fake, messages, sse_names, text};
use http::StatusCode;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use tower_claude_fake_claude::{
    Endpoint, FakeClaude, GroupLimits, HeaderFamily, HeaderSnapshot, Platform,
};
use tower_claude_wire::{Peek, RateLimits, SseScanner, Usage};

#[tokio::test(start_paused = true)]
async fn json_response_has_usage_headers_and_log_entry() {
    let fake = fake();
    let request = messages()
        .header("x-fake-tag", "a-1")
        .header("x-fake-input-tokens", "1200")
        .header("x-fake-cache-read-tokens", "1000")
        .header("x-fake-output-tokens", "7")
        .header("x-stainless-retry-count", "2")
        .body(text(false))
        .unwrap();
    let response = fake.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    for name in [
        "request-id",
        "anthropic-organization-id",
        "anthropic-workspace-id",
        "date",
    ] {
        assert!(headers.contains_key(name), "{name}");
    }
    let limits = RateLimits::from_headers(&headers);
    assert_eq!(limits.requests.limit, Some(1_000));
    assert_eq!(limits.requests.remaining, Some(999));
    assert_eq!(limits.input_tokens.limit, Some(2_000_000));
    assert_eq!(limits.tokens.limit, Some(2_400_000));
    assert_eq!(fake.in_flight(), 1);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let usage = Usage::from_message(&body).unwrap();
    assert_eq!(usage.input_tokens, Some(200));
    assert_eq!(usage.cache_read_input_tokens, Some(1_000));
    assert_eq!(usage.output_tokens, Some(7));
    assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());

    let log = fake.log();
    assert_eq!(log.len(), 1);
    let attempt = &log[0];
    assert_eq!(attempt.tag.as_deref(), Some("a-1"));
    assert_eq!(
        (attempt.endpoint, attempt.status),
        (Endpoint::Messages, 200)
    );
    assert_eq!((attempt.charged_input, attempt.charged_output), (200, 7));
    assert_eq!(attempt.retry_count, Some(2));
    assert_eq!(&*attempt.group, "sonnet-5.5");
    assert!(attempt.completed && attempt.content_sent && !attempt.client_gone);
    assert_eq!(fake.in_flight(), 0);
    assert_eq!(
        fake.gauges("sonnet-5.5").input_tokens.level,
        2_000_000 - 200
    );
    assert_eq!(fake.gauges("sonnet-5.5").output_tokens.level, 400_000 - 7);
}

#[tokio::test(start_paused = true)]
async fn stream_has_the_documented_events_in_one_frame_each() {
    let fake = fake();
    let request = messages()
        .header("x-fake-output-tokens", "10")
        .body(text(true))
        .unwrap();
    let response = fake.clone().oneshot(request).await.unwrap();
    assert!(tower_claude_wire::is_event_stream(response.headers()));
    let mut body = response.into_body();
    let mut names = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        let mut scanner = SseScanner::new();
        let before = names.len();
        scanner.feed(&data, |event| {
            names.push(String::from_utf8(event.name.to_vec()).unwrap());
            assert!(Peek::parse(event.data).is_some());
        });
        assert_eq!(names.len(), before + 1);
    }
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    let log = fake.log();
    assert!(log[0].completed && log[0].stream);
    assert_eq!(log[0].charged_output, 10);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_produced_and_charged_at_their_rate() {
    let fake = FakeClaude::builder()
        .time_to_first_token(Duration::from_secs(2))
        .tokens_per_second(10.0)
        .tokens_per_event(1)
        .build();
    let request = messages()
        .header("x-fake-output-tokens", "31")
        .body(text(true))
        .unwrap();
    let response = fake.clone().oneshot(request).await.unwrap();
    let mut body = response.into_body();
    for _ in 0..2 {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(fake.elapsed().as_secs(), 2);
    for _ in 0..12 {
        body.frame().await.unwrap().unwrap();
    }
    let half = fake.log()[0].charged_output;
    assert!((10..=12).contains(&half), "{half}");
    body.collect().await.unwrap();
    let log = fake.log();
    assert_eq!(log[0].charged_output, 31);
    assert_eq!(log[0].finished_at.unwrap().as_millis() / 100, 50);

    let request = messages()
        .header("x-fake-output-tokens", "31")
        .body(text(false))
        .unwrap();
    let before = fake.elapsed();
    let response = fake.clone().oneshot(request).await.unwrap();
    assert_eq!((fake.elapsed() - before).as_millis() / 100, 50);
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn max_tokens_limits_the_response() {
    let fake = fake();
    let request = messages()
        .header("x-fake-output-tokens", "5000")
        .body(text(false))
        .unwrap();
    let response = fake.clone().oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(message["stop_reason"], "max_tokens");
    assert_eq!(message["usage"]["output_tokens"], 1024);
}

#[tokio::test(start_paused = true)]
async fn snapshot_at_response_has_the_corrected_level() {
    for (snapshot, shown) in [
        (HeaderSnapshot::Admission, 1_900_000),
        (HeaderSnapshot::Response, 1_990_000),
    ] {
        let fake = FakeClaude::builder().header_snapshot(snapshot).build();
        let request = messages()
            .header("x-fake-estimate-tokens", "100000")
            .header("x-fake-input-tokens", "10000")
            .body(text(false))
            .unwrap();
        let response = fake.clone().oneshot(request).await.unwrap();
        let limits = RateLimits::from_headers(response.headers());
        assert_eq!(limits.input_tokens.remaining, Some(shown), "{snapshot:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn header_family_selects_the_headers() {
    let families = [HeaderFamily::RequestsAndTokensOnly, HeaderFamily::None];
    for family in families {
        let fake = FakeClaude::builder().header_family(family).build();
        let request = messages()
            .header("x-fake-input-tokens", "1000000")
            .header("x-fake-estimate-tokens", "1000000")
            .body(text(false))
            .unwrap();
        let response = fake.oneshot(request).await.unwrap();
        let limits = RateLimits::from_headers(response.headers());
        assert!(limits.input_tokens.is_empty() && limits.output_tokens.is_empty());
        let none = family == HeaderFamily::None;
        assert_eq!(limits.requests.is_empty(), none);
        // Half of the input is gone and none of the output: input is the tightest.
        assert_eq!(limits.tokens.remaining, (!none).then_some(1_000_000));
    }
}

#[tokio::test(start_paused = true)]
async fn reset_is_not_before_the_bucket_is_full() {
    let limits = GroupLimits::new().with_requests_per_minute(60);
    let fake = FakeClaude::builder().limits(limits).build();
    for _ in 0..10 {
        let request = messages().body(text(false)).unwrap();
        let response = fake.clone().oneshot(request).await.unwrap();
        let seen = RateLimits::from_headers(response.headers()).requests;
        let date = tower_claude_wire::date(response.headers()).unwrap();
        let missing = 60 - seen.remaining.unwrap();
        let reset = seen.reset.unwrap().duration_since(date).unwrap().as_secs();
        assert!(
            (missing..=missing + 1).contains(&reset),
            "{reset} for {missing}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn fast_and_priority_limits_have_their_own_headers() {
    let fake = FakeClaude::builder()
        .group_limits(
            "opus-5.5+fast",
            GroupLimits::new().with_input_tokens_per_minute(100_000),
        )
        .priority_limits(GroupLimits::new().with_input_tokens_per_minute(10_000))
        .build();
    let body = r#"{"model":"claude-opus-5-5","max_tokens":10,"speed":"fast","messages":[{"role":"user","content":"hi"}]}"#;
    let request = messages()
        .header("x-fake-estimate-tokens", "2000")
        .body(common::full(body))
        .unwrap();
    let response = fake.clone().oneshot(request).await.unwrap();
    let limits = RateLimits::from_headers(response.headers());
    assert_eq!(limits.fast_input_tokens.remaining, Some(98_000));
    assert!(limits.requests.is_empty() && limits.input_tokens.is_empty());

    let request = messages().body(text(false)).unwrap();
    let response = fake.clone().oneshot(request).await.unwrap();
    let limits = RateLimits::from_headers(response.headers());
    assert_eq!(limits.priority_input_tokens.limit, Some(10_000));
    // The estimate of the request before was corrected here, too.
    assert_eq!(limits.priority_input_tokens.remaining, Some(10_000));
    assert!(limits.fast_input_tokens.is_empty());
    assert_eq!(fake.gauges("sonnet-5.5").requests.level, 999);
}

#[tokio::test(start_paused = true)]
async fn count_tokens_has_its_own_bucket_and_models_has_none() {
    let limits = GroupLimits::requests_only(1);
    let fake = FakeClaude::builder()
        .group_limits("count_tokens", limits)
        .build();
    let count = || {
        common::post("/v1/messages/count_tokens")
            .header("x-fake-input-tokens", "403")
            .body(text(false))
            .unwrap()
    };
    let response = fake.clone().oneshot(count()).await.unwrap();
    let seen = RateLimits::from_headers(response.headers());
    assert_eq!(seen.requests.limit, Some(1));
    assert!(seen.input_tokens.is_empty());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], br#"{"input_tokens":403}"#);
    let response = fake.clone().oneshot(count()).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(fake.gauges("sonnet-5.5").requests.level, 1_000);

    let get = |path: &str| {
        http::Request::get(path)
            .header("x-api-key", "k")
            .header("anthropic-version", "2023-06-01")
            .body(common::full(""))
            .unwrap()
    };
    let response = fake.clone().oneshot(get("/v1/models")).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let models: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(models["data"].as_array().unwrap().len() > 10);
    let response = fake
        .clone()
        .oneshot(get("/v1/models/claude-haiku-4-5"))
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let model: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(model["max_tokens"], 64_000);
    let response = fake
        .clone()
        .oneshot(get("/v1/models/claude-none"))
        .await
        .unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(fake.log().last().unwrap().status, 404);
}

#[tokio::test(start_paused = true)]
async fn dropped_response_stays_charged() {
    let fake = FakeClaude::builder()
        .time_to_first_token(Duration::from_secs(5))
        .build();
    // The future, while the answer is made.
    let pending = fake.clone().oneshot(messages().body(text(false)).unwrap());
    let left = tokio::time::timeout(Duration::from_secs(1), pending).await;
    assert!(left.is_err());
    // A body that was not polled, and one dropped in the middle.
    drop(
        fake.clone()
            .oneshot(messages().body(text(true)).unwrap())
            .await
            .unwrap(),
    );
    let response = fake
        .clone()
        .oneshot(messages().body(text(true)).unwrap())
        .await
        .unwrap();
    let mut body = response.into_body();
    for _ in 0..4 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    let log = fake.log();
    assert_eq!(fake.in_flight(), 0);
    assert!(
        log.iter()
            .all(|attempt| attempt.client_gone && !attempt.completed)
    );
    assert!(log.iter().all(|attempt| attempt.finished_at.is_some()));
    assert_eq!(log[0].status, 0);
    assert_eq!(log.iter().filter(|attempt| attempt.content_sent).count(), 1);
    assert!(log[2].charged_output > 0);
    // A body dropped after its last event is complete.
    let response = fake
        .clone()
        .oneshot(messages().body(text(true)).unwrap())
        .await
        .unwrap();
    let mut body = response.into_body();
    let names = sse_names(&mut body).await;
    assert_eq!(names.last().map(String::as_str), Some("message_stop"));
    drop(body);
    assert!(fake.with_log(|log| !log[3].client_gone && log[3].completed));
}

#[tokio::test(start_paused = true)]
async fn platform_adds_its_own_request_id() {
    let cases = [
        (Platform::Claude, [false, false]),
        (Platform::Aws, [true, false]),
        (Platform::Foundry, [false, true]),
    ];
    for (platform, expected) in cases {
        let fake = FakeClaude::builder().platform(platform).build();
        let response = fake
            .oneshot(messages().body(text(false)).unwrap())
            .await
            .unwrap();
        let headers = response.headers();
        let seen = ["x-amzn-requestid", "apim-request-id"].map(|name| headers.contains_key(name));
        assert_eq!(seen, expected, "{platform:?}");
        assert!(headers.contains_key("request-id"));
    }
}

/// Clouds and gateways put a prefix before the path, and clients put the key into several headers.
#[tokio::test(start_paused = true)]
async fn prefix_of_a_gateway_and_key_in_any_header_are_accepted() {
    let fake = FakeClaude::builder().api_key("k").build();
    let status = async |path: &str, name: &str, value: &str| {
        let request = http::Request::post(path).header("anthropic-version", "2023-06-01");
        let request = request.header(name, value).body(text(false)).unwrap();
        fake.clone()
            .oneshot(request)
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    for path in [
        "/v1/messages",
        "/anthropic/v1/messages",
        "/v1/acct0/gw/anthropic/v1/messages",
        "/v1/projects/p/locations/global/workspaces/w/invoke/v1/messages/",
    ] {
        assert_eq!(status(path, "x-api-key", "k").await, 200, "{path}");
        assert_eq!(fake.log().last().unwrap().endpoint, Endpoint::Messages);
    }
    assert_eq!(status("/v1/chat", "x-api-key", "k").await, 404);
    assert_eq!(status("/v1/v1/messages", "x-api-key", "k").await, 404);
    for (name, value) in [
        ("api-key", "k"),
        ("authorization", "Bearer k"),
        ("authorization", "BEARER  k"),
    ] {
        assert_eq!(status("/v1/messages", name, value).await, 200, "{value}");
        let wrong = value.replace('k', "l");
        assert_eq!(status("/v1/messages", name, &wrong).await, 401, "{wrong}");
    }
}
