//! The prompts that get markers, and those that do not.

use serde_json::json;
use tower::Layer;
use tower_claude_core::RequestBody;
use tower_claude_prompt_cache::{Existing, PromptCacheLayer};
use tower_claude_retry::RetryLayer;
use tower_claude_tests::{BASE, post, send};
use tower_layer::Stack;

use crate::common::{
    SECOND, SONNET, ask, breakpoints, converse, fake, last_body, prompt, question, text,
};

#[tokio::test(start_paused = true)]
async fn conversations_read_their_earlier_turns() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    converse(&layer, &fake, 0..1, 6).await;
    let first = layer.handle().snapshot();
    converse(&layer, &fake, 1..6, 6).await;
    let all = layer.handle().snapshot();
    let read = all.usage.read - first.usage.read;
    let total = all.usage.total() - first.usage.total();
    assert!(read * 10 > total * 8, "{read} of {total}");
    assert!(!all.saved.is_negative());
    assert_eq!(all.usage.read, all.unlimited_tokens);
    assert_eq!(all.misses, Default::default());
    fake.with_log(|log| {
        let charged: u64 = log.iter().map(|attempt| attempt.charged_input).sum();
        let read: u64 = log.iter().map(|attempt| attempt.cache_read).sum();
        assert_eq!(read, all.usage.read);
        assert!(charged < all.usage.total() / 2);
    });
}

#[tokio::test(start_paused = true)]
async fn prompts_that_never_come_again_stay_as_they_are() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    for seed in 0..40 {
        let body = prompt(&text(seed, 2_000), &[text(seed, 500)]);
        ask(&layer, &fake, &body).await;
        assert_eq!(last_body(&fake), body.to_string());
        tokio::time::sleep(30 * SECOND).await;
    }
    let snapshot = layer.handle().snapshot();
    assert_eq!((snapshot.requests, snapshot.marked), (40, 0));
}

#[tokio::test(start_paused = true)]
async fn shared_system_prompt_is_marked_without_its_questions() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    let system = text(0, 3_000);
    for seed in 0..20 {
        ask(&layer, &fake, &prompt(&system, &[text(seed, 2_000)])).await;
        tokio::time::sleep(20 * SECOND).await;
    }
    let body: serde_json::Value = serde_json::from_str(&last_body(&fake)).expect("JSON");
    assert_eq!(body["system"][0]["text"], json!(system));
    assert_eq!(
        body["system"][0]["cache_control"],
        json!({"type": "ephemeral"})
    );
    assert_eq!(breakpoints(&body.to_string()), 1);
    fake.with_log(|log| assert!(log.last().expect("a request").cache_read > 2_000));
}

#[tokio::test(start_paused = true)]
async fn conversations_with_long_pauses_are_cached_for_an_hour() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    let system = text(0, 2_000);
    for seed in 0..12 {
        let mut messages = Vec::new();
        for turn in 0..8 {
            messages.push(text(100 * seed + turn + 1, 300));
            ask(&layer, &fake, &prompt(&system, &messages)).await;
            messages.push(text(50_000 + 100 * seed + turn, 100));
            tokio::time::sleep(900 * SECOND).await;
        }
    }
    let snapshot = layer.handle().snapshot();
    assert!(last_body(&fake).contains(r#""ttl":"1h""#));
    assert!(snapshot.usage.written_1h > 0);
    assert!(!snapshot.saved.is_negative(), "{}", snapshot.saved);
}

#[tokio::test(start_paused = true)]
async fn body_with_a_breakpoint_of_the_caller_stays_as_it_is() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    converse(&layer, &fake, 0..3, 4).await;
    let mut body = prompt(&text(0, 2_000), &[text(7, 300)]);
    body["system"] = json!([
        {"type": "text", "text": text(0, 2_000), "cache_control": {"type": "ephemeral"}},
    ]);
    ask(&layer, &fake, &body).await;
    assert_eq!(last_body(&fake), body.to_string());
    let snapshot = layer.handle().snapshot();
    ask(&layer, &fake, &body).await;
    assert!(layer.handle().snapshot().usage.read > snapshot.usage.read);
}

#[tokio::test(start_paused = true)]
async fn free_slots_are_filled_if_the_caller_asks_for_it() {
    let layer = PromptCacheLayer::new().with_existing(Existing::Complete);
    let fake = fake();
    let system = json!([
        {"type": "text", "text": text(0, 2_000), "cache_control": {"type": "ephemeral"}},
    ]);
    let mut messages = Vec::new();
    for turn in 0..6 {
        messages.push(text(turn + 1, 600));
        let mut body = prompt("", &messages);
        body["system"] = system.clone();
        assert_eq!(ask(&layer, &fake, &body).await.status, 200);
        messages.push(text(500 + turn, 100));
        tokio::time::sleep(20 * SECOND).await;
    }
    let body: serde_json::Value = serde_json::from_str(&last_body(&fake)).expect("JSON");
    assert_eq!(body["system"], system);
    assert!(breakpoints(&body["messages"].to_string()) >= 1);
}

#[tokio::test(start_paused = true)]
async fn requests_without_rules_pass_untouched() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    let body = prompt(&text(0, 5_000), &[text(1, 20)]);
    let with = |key: &str, value| {
        let mut body = body.clone();
        body[key] = value;
        body
    };
    let bodies = [
        with(
            "model",
            json!("arn:aws:bedrock:us-east-1:1:application-inference-profile/x"),
        ),
        with("thread", json!({"id": "thread_1"})),
        with("system", json!("short")),
    ];
    for body in &bodies {
        for _ in 0..3 {
            ask(&layer, &fake, body).await;
            assert_eq!(last_body(&fake), body.to_string());
        }
    }
    let mut count = post::<RequestBody>(BASE, body.to_string());
    *count.uri_mut() = format!("{BASE}/v1/messages/count_tokens")
        .parse()
        .expect("a URI");
    let _ = send(&layer.layer(fake.clone()), count).await;
    assert_eq!(layer.handle().snapshot().requests, 0);
}

#[tokio::test(start_paused = true)]
async fn another_attempt_is_no_other_use_of_the_prompt() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    let stack = Stack::new(layer.clone(), RetryLayer::new());
    for seed in 0..20 {
        fake.inject_times(tower_claude_fake_claude::Fault::Overloaded, 2);
        let body = prompt(&text(seed, 2_000), &[text(seed, 500)]);
        let answer = send(
            &stack.layer(fake.clone()),
            post::<RequestBody>(BASE, body.to_string()),
        )
        .await;
        assert_eq!(answer.expect("an answer").status, 200);
        tokio::time::sleep(60 * SECOND).await;
    }
    assert_eq!(layer.handle().snapshot().marked, 0);
}

#[tokio::test(start_paused = true)]
async fn documents_are_marked_before_their_questions() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    for number in 0..10 {
        ask(&layer, &fake, &question(&text(1, 3_000), number)).await;
        tokio::time::sleep(10 * SECOND).await;
    }
    let body: serde_json::Value = serde_json::from_str(&last_body(&fake)).expect("JSON");
    let content = &body["messages"][0]["content"];
    assert_eq!(content[0]["cache_control"], json!({"type": "ephemeral"}));
    assert_eq!(content[1].get("cache_control"), None);
    assert_eq!(body["model"], SONNET);
}

/// The fake rejects such markers, as the API does.
#[tokio::test(start_paused = true)]
async fn results_of_calls_from_code_are_not_marked() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    let call = json!({"type": "tool_use", "id": "t", "name": "look", "input": {},
        "caller": {"type": "code_execution_20250825", "tool_id": "s"}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": text(7, 500)});
    for seed in 0..20 {
        let mut body = prompt(&text(0, 3_000), &[text(seed / 10, 500)]);
        let messages = body["messages"].as_array_mut().expect("messages");
        messages.push(json!({"role": "assistant", "content": [call]}));
        messages.push(json!({"role": "user", "content": [result]}));
        ask(&layer, &fake, &body).await;
        tokio::time::sleep(20 * SECOND).await;
    }
    assert!(layer.handle().snapshot().marked > 10);
    fake.with_log(|log| assert!(log.iter().all(|attempt| attempt.status == 200)));
}

/// The API rejects a fifth breakpoint, wherever the four others are.
#[tokio::test(start_paused = true)]
async fn body_with_breakpoints_inside_of_blocks_stays_as_it_is() {
    let layer = PromptCacheLayer::new().with_existing(Existing::Complete);
    let fake = fake();
    converse(&layer, &fake, 0..3, 4).await;
    let inner =
        json!({"type": "text", "text": text(9, 40), "cache_control": {"type": "ephemeral"}});
    let mut body = prompt(&text(0, 2_000), &[text(1, 300)]);
    let messages = body["messages"].as_array_mut().expect("messages");
    messages.push(json!({"role": "assistant", "content": [
        {"type": "tool_use", "id": "t", "name": "look", "input": {}}]}));
    messages.push(json!({"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t", "content": [inner, inner, inner, inner,
            {"type": "text", "text": "end"}]}]}));
    for _ in 0..3 {
        ask(&layer, &fake, &body).await;
        assert_eq!(last_body(&fake), body.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn breakpoint_with_an_escaped_name_counts() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    converse(&layer, &fake, 0..3, 4).await;
    let mut body = prompt(&text(0, 2_000), &[text(7, 300)]);
    body["system"] = json!([
        {"type": "text", "text": text(0, 2_000), "cache_control": {"type": "ephemeral"}},
    ]);
    let body = body
        .to_string()
        .replace("cache_control", r"cach\u0065_control");
    let request = post::<RequestBody>(BASE, body.clone());
    send(&layer.layer(fake.clone()), request)
        .await
        .expect("an answer");
    assert_eq!(last_body(&fake), body);
}

/// The fast mode costs more, and so does what the cache saves in it.
#[tokio::test(start_paused = true)]
async fn savings_in_the_fast_mode_are_at_its_prices() {
    let model = tower_claude_wire::ModelCatalog::builtin().lookup("claude-opus-5-5");
    let prices = model.about.prices.as_ref().expect("prices");
    let fast = prices.fast.expect("a fast mode");
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    for number in 0..6 {
        let mut body = question(&text(1, 3_000), number);
        body["model"] = json!("claude-opus-5-5");
        body["speed"] = json!("fast");
        let mut request = post::<RequestBody>(BASE, body.to_string());
        let beta = model.capabilities.fast_beta.as_deref().unwrap_or_default();
        let beta = beta.parse().expect("a header");
        request.headers_mut().insert("anthropic-beta", beta);
        let answer = send(&layer.layer(fake.clone()), request).await;
        assert_eq!(answer.expect("an answer").status, 200);
        tokio::time::sleep(10 * SECOND).await;
    }
    let snapshot = layer.handle().snapshot();
    let price = |tokens: u64, price: u64| i128::from(tokens) * i128::from(price) * 1_000;
    let usage = snapshot.usage;
    let saved = price(usage.read, fast.input - fast.cache_read)
        - price(usage.written_5m, fast.cache_write_5m - fast.input);
    assert!(usage.read > 0);
    assert_eq!(snapshot.saved.picos(), saved);
}
