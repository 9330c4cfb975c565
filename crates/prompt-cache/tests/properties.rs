//! Properties of marked bodies, over random prompts.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};
use serde_json::{Value, json};
use tower::Layer;
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{FakeClaude, GroupLimits};
use tower_claude_prompt_cache::{Existing, PromptCacheLayer};
use tower_claude_tests::{BASE, SONNET, post, send};

/// The texts that the layer inserts.
const MARKERS: [&str; 2] = [
    r#","cache_control":{"type":"ephemeral","ttl":"1h"}"#,
    r#","cache_control":{"type":"ephemeral"}"#,
];

/// The number of bodies that got markers, so that the properties are not true of nothing.
static MARKED: AtomicUsize = AtomicUsize::new(0);

/// A step of a conversation.
#[derive(Clone, Debug)]
enum Step {
    /// The next turn, after a pause in seconds.
    Turn { blocks: Vec<Block>, pause: u64 },
    /// A new conversation.
    Restart { text: u8 },
    /// Another system prompt.
    System { text: u8, is_string: bool },
}

#[derive(Clone, Copy, Debug)]
enum Block {
    Text(u8),
    Empty,
    Image,
    Thinking,
    Tools(u8),
    Marked(u8),
}

fn words(seed: u8, count: usize) -> String {
    (0..count)
        .map(|at| format!("{seed} word \"{at}\" \u{e9}. "))
        .collect()
}

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![
        4 => (0..6u8).prop_map(Block::Text),
        1 => Just(Block::Empty),
        1 => Just(Block::Image),
        1 => Just(Block::Thinking),
        2 => (1..4u8).prop_map(Block::Tools),
        1 => (0..6u8).prop_map(Block::Marked),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let pause = select(vec![0, 5, 200, 400, 1_500, 4_000]);
    prop_oneof![
        8 => (vec(block(), 1..4), pause).prop_map(|(blocks, pause)| Step::Turn { blocks, pause }),
        1 => (0..4u8).prop_map(|text| Step::Restart { text }),
        1 => (0..3u8, any::<bool>()).prop_map(|(text, is_string)| Step::System { text, is_string }),
    ]
}

fn add(messages: &mut Vec<Value>, blocks: &[Block]) {
    let mut user = Vec::new();
    for block in blocks {
        match *block {
            Block::Text(seed) => user.push(json!({"type": "text", "text": words(seed, 80)})),
            Block::Empty => user.push(json!({"type": "text", "text": ""})),
            Block::Image => user.push(json!({"type": "image", "source":
                {"type": "base64", "media_type": "image/png", "data": "aGk="}})),
            Block::Thinking => messages.push(json!({"role": "assistant", "content":
                [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]})),
            Block::Tools(count) => {
                let id = |at| format!("toolu_{}_{at}", messages.len());
                let uses = (0..count).map(|at| {
                    json!({
                        "type": "tool_use", "id": id(at), "name": "one", "input": {"at": at},
                    })
                });
                let results = (0..count).map(|at| {
                    json!({
                        "type": "tool_result", "tool_use_id": id(at), "content": words(at, 20),
                    })
                });
                let (uses, results): (Vec<_>, Vec<_>) = (uses.collect(), results.collect());
                messages.push(json!({"role": "assistant", "content": uses}));
                user.extend(results);
            }
            Block::Marked(seed) => user.push(json!({"type": "text", "text": words(seed, 30),
                "cache_control": {"type": "ephemeral"}})),
        }
    }
    match &user[..] {
        [] => messages.push(json!({"role": "user", "content": words(1, 40)})),
        _ => messages.push(json!({"role": "user", "content": user})),
    }
}

/// Returns the body without markers, and with texts in place of lone blocks of text.
fn plain(mut body: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.remove("cache_control");
                members.values_mut().for_each(strip);
                for key in ["system", "content"] {
                    let text = match members
                        .get(key)
                        .and_then(Value::as_array)
                        .map(Vec::as_slice)
                    {
                        Some([block]) if block["type"] == "text" => block["text"].clone(),
                        _ => continue,
                    };
                    members.insert(key.into(), text);
                }
            }
            Value::Array(elements) => elements.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut body);
    body
}

async fn run(steps: Vec<Step>, existing: Existing) -> Result<(), TestCaseError> {
    let fake = || {
        let fake = FakeClaude::builder()
            .limits(GroupLimits::unlimited())
            .keep_requests(1);
        fake.time_to_first_token(Duration::from_millis(500)).build()
    };
    let (alone, behind) = (fake(), fake());
    let layer = PromptCacheLayer::new().with_existing(existing);
    let service = layer.layer(behind.clone());
    let mut body = json!({
        "model": SONNET, "max_tokens": 32, "system": words(0, 300), "messages": [],
        "tools": [{"name": "one", "description": words(9, 40), "input_schema": {"type": "object"}}],
    });
    let mut messages = Vec::new();
    for step in steps {
        match step {
            Step::System {
                text,
                is_string: true,
            } => body["system"] = words(text, 300).into(),
            Step::System { text, .. } => {
                body["system"] = json!([{"type": "text", "text": words(text, 150)},
                    {"type": "text", "text": words(text + 1, 150)}]);
            }
            Step::Restart { text } => {
                messages = vec![json!({"role": "user", "content": words(text, 90)})];
            }
            Step::Turn { blocks, pause } => {
                add(&mut messages, &blocks);
                body["messages"] = messages.clone().into();
                let text = body.to_string();
                let direct = send(&alone, post::<RequestBody>(BASE, text.clone())).await;
                let direct = direct.expect("an answer");
                let answer = send(&service, post::<RequestBody>(BASE, text.clone())).await;
                let answer = answer.expect("an answer");
                prop_assert_eq!(answer.status, direct.status, "{}", answer.text());
                let received = behind.with_log(|log| {
                    let request = log.last().and_then(|attempt| attempt.request.clone());
                    request.expect("a kept request").body.clone()
                });
                let received = String::from_utf8(received.to_vec()).expect("JSON");
                let is_marked = text.contains("cache_control");
                if is_marked && existing == Existing::Leave {
                    prop_assert_eq!(&received, &text);
                }
                let markers = received.matches(r#""cache_control":"#).count();
                prop_assert!(is_marked || markers <= 4, "{} markers", markers);
                // Exact but for texts that became blocks.
                let value: Value = serde_json::from_str(&received).expect("JSON");
                prop_assert_eq!(plain(value), plain(body.clone()));
                let mut stripped = received;
                if !is_marked {
                    MARKED.fetch_add(usize::from(markers > 0), Ordering::Relaxed);
                    MARKERS
                        .iter()
                        .for_each(|marker| stripped = stripped.replace(marker, ""));
                    let as_text = |text: &str| {
                        text.replace(r#"[{"type":"text","text":"#, "")
                            .replace("\"}]", "\"")
                    };
                    prop_assert_eq!(as_text(&stripped), as_text(&text));
                }
                tokio::time::sleep(Duration::from_secs(pause)).await;
                messages.push(json!({"role": "assistant", "content": words(3, 30)}));
            }
        }
    }
    prop_assert_eq!(layer.handle().snapshot().waiting, 0);
    Ok(())
}

fn check(steps: Vec<Step>, existing: Existing) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(run(steps, existing))
}

/// Checks random conversations.
fn check_all(existing: Existing) {
    let config = ProptestConfig {
        source_file: Some(file!()),
        ..ProptestConfig::with_cases(16)
    };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&vec(step(), 8..24), |steps| check(steps, existing));
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(MARKED.load(Ordering::Relaxed) > 0, "no body was marked");
}

#[test]
fn markers_are_all_that_changes_and_the_api_accepts_them() {
    check_all(Existing::Leave);
}

#[test]
fn completed_bodies_are_accepted_as_well() {
    check_all(Existing::Complete);
}
