//! Limits and prompt caches of accounts and locations.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tower_claude_fake_claude::{Dimension, FakeClaude, FakeCloud, Fault, GroupLimits, Incident};

use crate::{INVOKE, invoke_body, post, send, with_header};

fn vertex(location: &str, requests: u64) -> FakeClaude {
    FakeClaude::builder()
        .cloud(FakeCloud::vertex("project", location))
        .limits(GroupLimits::new().with_requests_per_minute(requests))
        .build()
}

fn ask_vertex(location: &str, model: &str) -> Request<Full<Bytes>> {
    let path = format!(
        "/v1/projects/project/locations/{location}/publishers/anthropic/models/{model}:rawPredict"
    );
    let body = json!({"anthropic_version": "2026-10-21", "max_tokens": 9, "messages": []});
    post(&path, &body)
}

#[tokio::test(start_paused = true)]
async fn models_of_a_lineage_share_limits_on_global_and_multi_region_endpoints() {
    let status = async |fake: &FakeClaude, location: &str, model: &str| {
        send(fake, ask_vertex(location, model)).await.status
    };
    for location in ["global", "us", "eu"] {
        let fake = vertex(location, 1);
        assert_eq!(status(&fake, location, "claude-opus-5-5").await, 200);
        let answer = send(&fake, ask_vertex(location, "claude-opus-4-8")).await;
        assert_eq!(answer.status, 429);
        assert!(
            answer
                .message()
                .contains("with base model: anthropic-claude-opus.")
        );
        assert_eq!(status(&fake, location, "claude-opus-4-7").await, 200);
        assert_eq!(status(&fake, location, "claude-sonnet-5-5").await, 200);
        assert_eq!(status(&fake, location, "claude-sonnet-5").await, 429);
        assert_eq!(
            status(&fake, location, "claude-haiku-4-5@20251001").await,
            200
        );
        assert_eq!(status(&fake, location, "claude-haiku-5-5").await, 200);
        assert_eq!(&*fake.log()[2].group, "anthropic-claude-opus-4-7");
        assert_eq!(fake.log()[1].dimension, Some(Dimension::Requests));
    }
    let fake = vertex("us-east5", 1);
    for model in ["claude-opus-5-5", "claude-opus-4-8"] {
        assert_eq!(status(&fake, "us-east5", model).await, 200);
        assert_eq!(status(&fake, "us-east5", model).await, 429);
    }
}

#[tokio::test(start_paused = true)]
async fn quota_of_google_is_named_by_its_metric() {
    for (location, metric) in [
        ("global", "global_online_prediction_requests_per_base_model"),
        (
            "us",
            "us_multi_region_online_prediction_requests_per_base_model",
        ),
        ("us-east5", "com/online_prediction_requests_per_base_model"),
    ] {
        let fake = vertex(location, 0);
        let answer = send(&fake, ask_vertex(location, "claude-opus-5-5")).await;
        assert!(answer.message().contains(metric), "{}", answer.message());
    }
}

fn with_tokens(max_tokens: u64, input: u64, output: u64) -> Request<Full<Bytes>> {
    let request = post(INVOKE, &invoke_body(&json!({"max_tokens": max_tokens})));
    let request = with_header(request, "x-fake-input-tokens", &input.to_string());
    let request = with_header(request, "x-fake-estimate-tokens", &input.to_string());
    with_header(request, "x-fake-output-tokens", &output.to_string())
}

#[tokio::test(start_paused = true)]
async fn combined_limit_holds_max_tokens_and_then_charges_the_burndown() {
    let limits = GroupLimits::unlimited()
        .with_combined_tokens_per_minute(60_000)
        .with_output_weight(5)
        .with_held_max_tokens(true);
    let fake = FakeClaude::builder()
        .cloud(FakeCloud::bedrock("us-east-1"))
        .limits(limits)
        .time_to_first_token(Duration::from_millis(1))
        .build();
    let level = || {
        fake.gauges("claude-opus-5-5")
            .combined_tokens
            .unwrap()
            .level
    };
    let running = tokio::spawn({
        let fake = fake.clone();
        async move { send(&fake, with_tokens(50_000, 1_000, 100)).await.status }
    });
    fake.wait_for(|log| !log.is_empty()).await;
    assert_eq!(level(), 9_000);
    let answer = send(&fake, with_tokens(20_000, 1_000, 100)).await;
    assert_eq!(answer.status, 429);
    assert_eq!(
        answer.message(),
        "Too many tokens, please wait before trying again."
    );
    assert_eq!(fake.log()[1].dimension, Some(Dimension::Tokens));
    assert_eq!(running.await.unwrap(), 200);
    // 1,000 of input and 5 times 100 of output are charged. One token has been refilled meanwhile.
    assert_eq!(level(), 58_501);
}

#[tokio::test(start_paused = true)]
async fn default_limits_of_bedrock_hold_a_large_max_tokens() {
    let fake = FakeClaude::builder()
        .cloud(FakeCloud::bedrock("us-east-1"))
        .build();
    let gauges = fake.gauges("claude-opus-5-5");
    assert_eq!(gauges.combined_tokens.unwrap().limit, 15_000_000);
    let mantle = FakeClaude::builder()
        .cloud(FakeCloud::bedrock_messages("us-east-1"))
        .build();
    let gauges = mantle.gauges("claude-opus-5-5");
    assert_eq!(gauges.input_tokens.limit, 10_000_000);
    assert_eq!(gauges.output_tokens.limit, 2_000_000);
    assert_eq!(gauges.combined_tokens, None);
}

#[tokio::test(start_paused = true)]
async fn regions_have_limits_and_incidents_of_their_own() {
    let region = |name: &str| {
        FakeClaude::builder()
            .cloud(FakeCloud::bedrock(name))
            .limits(GroupLimits::unlimited().with_requests_per_minute(1))
    };
    let hour = Duration::from_secs(3_600);
    let outage = Incident::new(Duration::ZERO, hour, Fault::Unavailable);
    let east = region("us-east-1").build();
    let west = region("us-west-2").build();
    let ohio = region("us-east-2").incident(outage).build();
    let ask = || post(INVOKE, &invoke_body(&json!({})));
    let mut seen = Vec::new();
    for fake in [&east, &east, &west, &ohio] {
        seen.push(send(fake, ask()).await.status);
    }
    assert_eq!(seen, [200, 429, 200, 503]);
    assert_eq!([east.log_len(), west.log_len(), ohio.log_len()], [2, 1, 1]);
}

/// Returns the tokens that a response has read from and written to the cache.
fn cached(usage: &Value) -> (u64, u64) {
    let count = |name: &str| usage[name].as_u64().unwrap();
    (
        count("cache_read_input_tokens"),
        count("cache_creation_input_tokens"),
    )
}

#[tokio::test(start_paused = true)]
async fn prompt_cache_belongs_to_the_region_and_not_to_the_token() {
    let marked = json!([{
        "type": "text",
        "text": "word ".repeat(2_000),
        "cache_control": {"type": "ephemeral"},
    }]);
    let region = |name: &str| {
        FakeClaude::builder()
            .cloud(FakeCloud::bedrock(name))
            .build()
    };
    let (east, west) = (region("us-east-1"), region("us-west-2"));
    let ask = async |fake: &FakeClaude, token: &str| {
        let request = post(INVOKE, &invoke_body(&json!({"system": marked})));
        let request = with_header(request, "authorization", &format!("Bearer {token}"));
        cached(&send(fake, request).await.json()["usage"])
    };
    let (read, written) = ask(&east, "one").await;
    assert!(read == 0 && written > 1_000);
    assert_eq!(ask(&east, "two").await, (written, 0));
    assert_eq!(ask(&west, "one").await, (0, written));
}

#[tokio::test(start_paused = true)]
async fn prompt_cache_of_google_is_chosen_by_the_head_of_the_body() {
    let system = format!(
        "\"system\":[{{\"type\":\"text\",\"text\":\"{}\",\"cache_control\":{{\"type\":\"ephemeral\"}}}}]",
        "word ".repeat(2_000)
    );
    let rest = "\"anthropic_version\":\"2026-10-21\",\"max_tokens\":9";
    let messages = |turn: usize| {
        format!("\"messages\":[{{\"role\":\"user\",\"content\":\"Question {turn}\"}}]")
    };
    let path = "/v1/projects/project/locations/global/publishers/anthropic/models/claude-opus-5-5:rawPredict";
    let reads = async |stores: u64, body: &dyn Fn(usize) -> String| {
        let cloud = FakeCloud::vertex("project", "global").cache_stores(stores);
        let fake = FakeClaude::builder().cloud(cloud).build();
        let mut reads = 0;
        for turn in 0..8 {
            let request = Request::post(path).header("authorization", "Bearer token");
            let request = request.body(Full::new(Bytes::from(body(turn)))).unwrap();
            let answer = send(&fake, request).await;
            reads += usize::from(cached(&answer.json()["usage"]).0 > 0);
        }
        reads
    };
    let messages_last = |turn| format!("{{{system},{rest},{}}}", messages(turn));
    let messages_first = |turn| format!("{{{},{system},{rest}}}", messages(turn));
    assert_eq!(reads(4, &messages_last).await, 7);
    let scattered = reads(4, &messages_first).await;
    assert!((1..7).contains(&scattered), "{scattered}");
    assert_eq!(reads(1, &messages_first).await, 7);
}
