//! Usage of requests with markers.

use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_wire::RateLimits;

use crate::common::{fake, full, messages, post};

const MINUTE: Duration = Duration::from_secs(60);

/// Tokens that were read, written for five minutes, written for one hour, and neither.
type Tokens = (u64, u64, u64, u64);

/// Returns about 1,000 tokens.
fn long(word: &str) -> String {
    let mut text = word.repeat(3_500 / word.len() + 1);
    text.truncate(3_500);
    text
}

fn mark() -> Value {
    json!({"type": "ephemeral"})
}

fn hour() -> Value {
    json!({"type": "ephemeral", "ttl": "1h"})
}

/// A request with two marked parts: a system prompt for one hour and a turn for five minutes.
fn body() -> Value {
    json!({
        "model": "claude-opus-5-5",
        "max_tokens": 100,
        "tools": [{"name": "look", "description": long("tool "), "input_schema": {"type": "object"}}],
        "system": [{"type": "text", "text": long("system "), "cache_control": hour()}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": long("one "), "cache_control": mark()}]},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And now?"},
        ],
    })
}

fn tokens(usage: &Value) -> Tokens {
    let count = |value: &Value| value.as_u64().expect("a count");
    let split = &usage["cache_creation"];
    let (short, long) = (
        &split["ephemeral_5m_input_tokens"],
        &split["ephemeral_1h_input_tokens"],
    );
    let written = count(&usage["cache_creation_input_tokens"]);
    assert_eq!(written, count(short) + count(long), "{usage}");
    let read = count(&usage["cache_read_input_tokens"]);
    (
        read,
        count(short),
        count(long),
        count(&usage["input_tokens"]),
    )
}

async fn send_with(fake: &FakeClaude, headers: &[(&str, &str)], body: &Value) -> Tokens {
    let mut request = post("/v1/messages");
    for (name, value) in headers {
        request.headers_mut().unwrap().remove(*name);
        request = request.header(*name, *value);
    }
    let request = request.body(full(body.to_string())).unwrap();
    let response = fake.clone().oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let message: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(message["type"], "message", "{message}");
    tokens(&message["usage"])
}

async fn send(fake: &FakeClaude, body: &Value) -> Tokens {
    send_with(fake, &[], body).await
}

/// Returns the tokens that `second` reads after `first`.
async fn read_after(first: &Value, second: &Value) -> u64 {
    let fake = fake();
    send(&fake, first).await;
    send(&fake, second).await.0
}

#[tokio::test(start_paused = true)]
async fn second_request_reads_what_the_first_has_written() {
    let fake = fake();
    let (read, short, long, plain) = send(&fake, &body()).await;
    assert_eq!(read, 0);
    assert!((2_000..2_100).contains(&long), "{long}");
    assert!((1_000..1_010).contains(&short), "{short}");
    assert!((1..100).contains(&plain), "{plain}");
    assert_eq!(send(&fake, &body()).await, (long + short, 0, 0, plain));
    tokio::time::advance(10 * MINUTE).await;
    assert_eq!(send(&fake, &body()).await, (long, short, 0, plain));
    tokio::time::advance(61 * MINUTE).await;
    assert_eq!(send(&fake, &body()).await, (0, short, long, plain));
    fake.clear_prompt_cache();
    assert_eq!(send(&fake, &body()).await, (0, short, long, plain));
    let log = fake.log();
    let logged: Vec<_> = log
        .iter()
        .map(|attempt| (attempt.cache_read, attempt.cache_creation))
        .collect();
    assert_eq!(
        logged[..3],
        [(0, long + short), (long + short, 0), (long, short)]
    );
    assert_eq!(log[1].charged_input, plain);
}

#[tokio::test(start_paused = true)]
async fn reads_are_free_in_the_input_limit() {
    let limits = GroupLimits::new().with_input_tokens_per_minute(10_000);
    let fake = FakeClaude::builder().limits(limits).build();
    let (_, short, long, plain) = send(&fake, &body()).await;
    let level = || fake.gauges("opus-5.5").input_tokens.level;
    let written = i64::try_from(short + long + plain).unwrap();
    assert_eq!(level(), 10_000 - written);
    for _ in 0..2 {
        send(&fake, &body()).await;
    }
    let plain = i64::try_from(plain).unwrap();
    assert_eq!(level(), 10_000 - written - 2 * plain);
}

#[tokio::test(start_paused = true)]
async fn stream_has_the_usage_in_its_first_event() {
    let fake = fake();
    let whole = send(&fake, &body()).await;
    let mut streamed = body();
    streamed["stream"] = true.into();
    let request = messages().body(full(streamed.to_string())).unwrap();
    let response = fake.clone().oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&bytes).expect("UTF-8");
    let data = text
        .lines()
        .nth(1)
        .and_then(|line| line.strip_prefix("data: "));
    let start: Value = serde_json::from_str(data.expect("data")).expect("JSON");
    let usage = tokens(&start["message"]["usage"]);
    assert_eq!(usage, (whole.1 + whole.2, 0, 0, whole.3));
}

#[tokio::test(start_paused = true)]
async fn entry_is_readable_when_the_content_begins() {
    for stream in [false, true] {
        let fake = FakeClaude::builder()
            .time_to_first_token(Duration::from_secs(3))
            .tokens_per_second(2.0)
            .build();
        let mut leading = body();
        leading["stream"] = stream.into();
        let request = messages().body(full(leading.to_string())).unwrap();
        let led = fake.clone();
        let leader = tokio::spawn(async {
            let response = led.oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        });
        let follower = |fake: FakeClaude| {
            let request = messages().header("x-fake-output-tokens", "1");
            let request = request.body(full(body().to_string())).unwrap();
            async move {
                let response = fake.oneshot(request).await.unwrap();
                let bytes = response.into_body().collect().await.unwrap().to_bytes();
                let message: Value = serde_json::from_slice(&bytes).expect("JSON");
                tokens(&message["usage"]).0
            }
        };
        tokio::time::sleep(Duration::from_millis(2_900)).await;
        let early = tokio::spawn(follower(fake.clone()));
        tokio::time::sleep(Duration::from_millis(101)).await;
        let late = tokio::spawn(follower(fake.clone()));
        assert_eq!(early.await.unwrap(), 0, "stream: {stream}");
        assert!(late.await.unwrap() > 3_000, "stream: {stream}");
        leader.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn response_without_content_writes_nothing() {
    let fake = FakeClaude::builder()
        .time_to_first_token(Duration::from_secs(3))
        .build();
    let request = || messages().body(full(body().to_string())).unwrap();
    fake.inject(Fault::ErrorBeforeContent);
    assert_eq!(fake.clone().oneshot(request()).await.unwrap().status(), 529);
    // The caller leaves before the first token.
    let pending = fake.clone().oneshot(request());
    assert!(
        tokio::time::timeout(Duration::from_secs(1), pending)
            .await
            .is_err()
    );
    assert_eq!(send(&fake, &body()).await.0, 0);
    assert!(send(&fake, &body()).await.0 > 3_000);
}

#[tokio::test(start_paused = true)]
async fn pre_warming_writes_without_output() {
    let fake = fake();
    let mut warm = body();
    warm["max_tokens"] = 0.into();
    let written = send(&fake, &warm).await;
    assert_eq!(send(&fake, &body()).await.0, written.1 + written.2);
}

#[tokio::test(start_paused = true)]
async fn scripted_usage_wins_and_leaves_the_cache_alone() {
    let fake = fake();
    let scripted = [("x-fake-cache-read-tokens", "7")];
    assert_eq!(send_with(&fake, &scripted, &body()).await.0, 7);
    let scripted = [("x-fake-cache-creation-tokens", "9")];
    let (read, short, hour, _) = send_with(&fake, &scripted, &body()).await;
    assert_eq!((read, short, hour), (0, 9, 0));
    assert_eq!(send(&fake, &body()).await.0, 0);
    // A scripted size scales the parts of the prompt.
    let (read, _, _, plain) = send_with(&fake, &[("x-fake-input-tokens", "30000")], &body()).await;
    assert_eq!(read + plain, 30_000);
    assert!(read > 29_000, "{read}");
}

#[tokio::test(start_paused = true)]
async fn caches_are_separate_by_credential_workspace_and_model() {
    let fake = fake();
    let whole = send(&fake, &body()).await;
    let all = whole.1 + whole.2;
    assert_eq!(
        send_with(&fake, &[("x-api-key", "other")], &body()).await.0,
        0
    );
    let workspace = [("anthropic-workspace-id", "wrkspc_1")];
    assert_eq!(send_with(&fake, &workspace, &body()).await.0, 0);
    assert_eq!(send_with(&fake, &workspace, &body()).await.0, all);
    let mut other = body();
    other["model"] = "claude-opus-5".into();
    assert_eq!(send(&fake, &other).await.0, 0);
    // The same credential in another header.
    let request = http::Request::post("/v1/messages")
        .header("authorization", "Bearer sk-test")
        .header("anthropic-version", "2023-06-01")
        .body(full(body().to_string()))
        .unwrap();
    let response = fake.clone().oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let message: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(tokens(&message["usage"]).0, all);
}

/// By the table of the documentation.
#[tokio::test(start_paused = true)]
async fn changed_setting_loses_the_parts_that_depend_on_it() {
    // Markers on tools, system and messages.
    let mut base = body();
    base["tools"][0]["cache_control"] = hour();
    let fake = fake();
    let all = send(&fake, &base).await;
    let all = all.1 + all.2;
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}});
    let document = json!({"type": "document", "citations": {"enabled": true},
        "source": {"type": "text", "media_type": "text/plain", "data": "a"}});
    let turn = |block: &Value| json!({"role": "user", "content": [block]});
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(&str, Change<'_>, usize); 13] = [
        ("nothing", &|_| (), 3),
        ("max_tokens", &|body| body["max_tokens"] = 5.into(), 3),
        (
            "default effort",
            &|body| body["output_config"] = json!({"effort": "medium"}),
            3,
        ),
        (
            "automatic choice",
            &|body| body["tool_choice"] = json!({"type": "auto"}),
            3,
        ),
        (
            "tool choice",
            &|body| body["tool_choice"] = json!({"type": "none"}),
            2,
        ),
        (
            "thinking",
            &|body| body["thinking"] = json!({"type": "adaptive"}),
            2,
        ),
        (
            "effort",
            &|body| body["output_config"] = json!({"effort": "high"}),
            2,
        ),
        ("image", &|body| body["messages"][2] = turn(&image), 2),
        (
            "citations",
            &|body| body["messages"][2] = turn(&document),
            1,
        ),
        ("fast", &|body| body["speed"] = "fast".into(), 1),
        (
            "web search",
            &|body| {
                let tool = json!({"type": "web_search_20250305", "name": "web_search"});
                body["tools"].as_array_mut().unwrap().push(tool);
            },
            1,
        ),
        (
            "system",
            &|body| body["system"][0]["text"] = long("other ").into(),
            1,
        ),
        ("tool", &|body| body["tools"][0]["name"] = "see".into(), 0),
    ];
    for (name, change, kept) in cases {
        let mut changed = base.clone();
        change(&mut changed);
        let read = read_after(&base, &changed).await;
        let range = match kept {
            3 => all..all + 1,
            parts => 1_000 * parts as u64..1_000 * parts as u64 + 100,
        };
        let range = if kept == 0 { 0..1 } else { range };
        assert!(range.contains(&read), "{name}: {read}");
    }
}

#[tokio::test(start_paused = true)]
async fn prompt_in_other_words_is_the_same_prompt() {
    let mut other = body();
    other["messages"][1]["content"] = json!([{"type": "text", "text": "Yes."}]);
    other["messages"][2]["content"] =
        json!([{"text": "And now?", "type": "text", "citations": null}]);
    let fake = fake();
    let first = send(&fake, &body()).await;
    assert_eq!(send(&fake, &other).await.0, first.1 + first.2);
}

#[tokio::test(start_paused = true)]
async fn prompt_below_the_minimum_of_the_model_is_not_cached() {
    for (model, least) in [
        ("claude-opus-5-5", 512),
        ("claude-opus-4-8", 1_024),
        ("claude-opus-4-7", 2_048),
        ("claude-haiku-4-5", 4_096),
        ("claude-opus-4-6", 4_096),
        ("claude-sonnet-4-6", 1_024),
    ] {
        let body = |tokens: usize| {
            let text = "a".repeat(tokens * 7 / 2 + 1);
            json!({"model": model, "max_tokens": 10, "messages": [],
                "system": [{"type": "text", "text": text, "cache_control": mark()}]})
        };
        let fake = fake();
        assert_eq!(send(&fake, &body(least - 10)).await.1, 0, "{model}");
        assert!(send(&fake, &body(least)).await.1 > 0, "{model}");
    }
}

/// A conversation grows by one turn, which moves the marker.
#[tokio::test(start_paused = true)]
async fn automatic_marker_moves_with_the_conversation() {
    let fake = fake();
    let mut turns = vec![json!({"role": "user", "content": long("one ")})];
    let mut cached = 0;
    for turn in 0..4 {
        let body = json!({"model": "claude-opus-5-5", "max_tokens": 10,
            "cache_control": mark(), "messages": turns});
        let (read, short, hour, _) = send(&fake, &body).await;
        assert_eq!((read, hour), (cached, 0), "{turn}");
        assert!(short > 0, "{turn}");
        cached = read + short;
        turns.push(json!({"role": "assistant", "content": "Yes."}));
        turns.push(json!({"role": "user", "content": [{"type": "text", "text": "More?"}]}));
    }
    // It passes over blocks that take no marker.
    turns.truncate(1);
    let thinking = json!({"type": "thinking", "thinking": "Hm.", "signature": "s"});
    turns.push(json!({"role": "assistant", "content": [thinking]}));
    let body = json!({"model": "claude-opus-5-5", "max_tokens": 10,
        "cache_control": mark(), "messages": turns[..1]});
    let whole = send(&fake, &body).await.0;
    assert!(whole > 1_000);
}

/// Ten calls in one turn and their results are two positions.
#[tokio::test(start_paused = true)]
async fn parallel_tool_calls_take_two_positions() {
    let tool = |id: usize| json!({"type": "tool_use", "id": format!("t{id}"), "name": "look", "input": {}});
    let result = |id: usize| json!({"type": "tool_result", "tool_use_id": format!("t{id}"), "content": "ok"});
    let conversation = |rounds: usize, calls: usize| {
        let mut turns = vec![json!({"role": "user", "content": long("one ")})];
        for _ in 0..rounds {
            turns.push(
                json!({"role": "assistant", "content": (0..calls).map(tool).collect::<Vec<_>>()}),
            );
            turns.push(
                json!({"role": "user", "content": (0..calls).map(result).collect::<Vec<_>>()}),
            );
        }
        json!({"model": "claude-opus-5-5", "max_tokens": 10, "cache_control": mark(), "messages": turns})
    };
    // Nine rounds are 18 positions, and ten are 20.
    assert!(read_after(&conversation(0, 1), &conversation(9, 10)).await > 1_000);
    assert_eq!(
        read_after(&conversation(0, 1), &conversation(10, 10)).await,
        0
    );
}

#[tokio::test(start_paused = true)]
async fn old_model_strips_the_thinking_before_a_plain_turn() {
    let thinking = json!({"type": "thinking", "thinking": long("think "), "signature": "s"});
    let call = json!({"type": "tool_use", "id": "t", "name": "look", "input": {}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": long("result ")});
    for (model, kept) in [("claude-haiku-4-5", false), ("claude-opus-4-5", true)] {
        let mut body = json!({
            "model": model, "max_tokens": 2_000, "cache_control": mark(),
            "thinking": {"type": "enabled", "budget_tokens": 1_024},
            "messages": [
                {"role": "user", "content": long("a ").repeat(5)},
                {"role": "assistant", "content": [thinking, call]},
                {"role": "user", "content": [result]},
            ],
        });
        let fake = fake();
        // A marker before the thinking, and one at the end.
        body["messages"][0]["content"] = json!([{"type": "text", "text": body["messages"][0]["content"],
            "cache_control": mark()}]);
        assert!(send(&fake, &body).await.1 > 6_900, "{model}");
        assert!(send(&fake, &body).await.0 > 6_900, "{model}");
        let turns = body["messages"].as_array_mut().unwrap();
        turns.push(json!({"role": "assistant", "content": "So."}));
        turns.push(json!({"role": "user", "content": "And now?"}));
        let read = send(&fake, &body).await.0;
        assert_eq!(read > 6_900, kept, "{model}: {read}");
        assert!(read > 5_000, "{model}: {read}");
    }
}

#[tokio::test(start_paused = true)]
async fn batches_have_a_cache_of_their_own() {
    let fake = FakeClaude::builder().batch_time(Duration::ZERO).build();
    let live = send(&fake, &body()).await;
    let create = async |ids: &[&str]| {
        let requests: Vec<_> = ids
            .iter()
            .map(|id| json!({"custom_id": id, "params": body()}))
            .collect();
        let request =
            post("/v1/messages/batches").body(full(json!({"requests": requests}).to_string()));
        let response = fake.clone().oneshot(request.unwrap()).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let batch: Value = serde_json::from_slice(&bytes).expect("JSON");
        let path = format!(
            "/v1/messages/batches/{}/results",
            batch["id"].as_str().expect("an id")
        );
        let request = http::Request::get(path).header("x-api-key", "sk-test");
        let request = request
            .header("anthropic-version", "2023-06-01")
            .body(full(""));
        let response = fake.clone().oneshot(request.unwrap()).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let lines = std::str::from_utf8(&bytes).expect("UTF-8").lines();
        let usage = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            tokens(&line["result"]["message"]["usage"])
        };
        lines.map(usage).collect::<Vec<_>>()
    };
    let (_, short, long, plain) = live;
    // The first result is that of the request that is processed first.
    let read = (short + long, 0, 0, plain);
    assert_eq!(create(&["a", "b"]).await, [live, read]);
    assert_eq!(create(&["a"]).await, [read]);
    fake.clear_prompt_cache();
    create(&["a"]).await;
    assert_eq!(send(&fake, &body()).await, live);
}

#[tokio::test(start_paused = true)]
async fn rejected_request_writes_nothing() {
    let limits = GroupLimits::new().with_requests_per_minute(1);
    let fake = FakeClaude::builder().limits(limits).build();
    fake.inject(Fault::Overloaded);
    let request = || messages().body(full(body().to_string())).unwrap();
    assert_eq!(fake.clone().oneshot(request()).await.unwrap().status(), 529);
    assert_eq!(send(&fake, &body()).await.0, 0);
    let refused = fake.clone().oneshot(request()).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(
        RateLimits::from_headers(refused.headers())
            .requests
            .remaining,
        Some(0)
    );
    assert_eq!(fake.log()[2].cache_read, 0);
}
