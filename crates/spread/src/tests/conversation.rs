use tower_claude_wire::ModelCatalog;

use crate::conversation::Conversation;

fn read(body: &str) -> Conversation {
    read_as(body, "claude-sonnet-5-5", 0)
}

fn read_as(body: &str, model: &str, salt: u64) -> Conversation {
    let model = ModelCatalog::builtin().lookup(model);
    Conversation::of(body.as_bytes(), &model, salt).expect("a prompt")
}

const SYSTEM: &str = r#""system":"be kind","tools":[{"name":"t","input_schema":{}}]"#;

fn body(messages: &str) -> String {
    format!(r#"{{"model":"m",{SYSTEM},"messages":[{messages}]}}"#)
}

const FIRST: &str = r#"{"role":"user","content":"hello"}"#;
const THOUGHT: &str = r#"{"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"s"},{"type":"text","text":"hi"}]}"#;
const SECOND: &str = r#"{"role":"user","content":"and now?"}"#;

#[test]
fn turns_of_a_conversation_have_one_key() {
    let first = read(&body(FIRST));
    let second = read(&body(&format!("{FIRST},{THOUGHT},{SECOND}")));
    assert_eq!(first.key(), second.key());
    let other = body(&FIRST.replace("hello", "hallo"));
    assert_ne!(first.key(), read(&other).key());
    let other = body(FIRST).replace("be kind", "be brief");
    assert_ne!(first.key(), read(&other).key());
}

#[test]
fn shared_system_prompt_alone_makes_no_conversation() {
    let keys: std::collections::HashSet<u64> = (0..100)
        .map(|number| read(&body(&FIRST.replace("hello", &number.to_string()))).key())
        .collect();
    assert_eq!(keys.len(), 100);
}

#[test]
fn key_is_the_same_in_every_process() {
    // Processes must agree on the target of a conversation. Another number moves conversations
    // while a program is updated.
    assert_eq!(read(&body(FIRST)).key(), 15_301_093_360_070_595_962);
}

#[test]
fn thinking_is_found_under_the_prompt_that_it_answered() {
    let first = read(&body(FIRST));
    assert!(!first.has_thinking());
    let second = read(&body(&format!("{FIRST},{THOUGHT},{SECOND}")));
    assert_eq!(second.thinking, [first.content]);
    let third = read(&body(&format!(
        "{FIRST},{THOUGHT},{SECOND},{THOUGHT},{FIRST}"
    )));
    assert_eq!(third.thinking, [second.content, first.content]);
    let redacted = THOUGHT.replace(
        "\"thinking\",\"thinking\":\"t\",\"signature\":\"s\"",
        "\"redacted_thinking\",\"data\":\"x\"",
    );
    let redacted = read(&body(&format!("{FIRST},{redacted},{SECOND}")));
    assert_eq!(redacted.thinking, [first.content]);
}

#[test]
fn what_is_no_edit_changes_no_conversation() {
    let first = read(&body(FIRST));
    let next = format!("{FIRST},{THOUGHT},{SECOND}");
    let marked = FIRST.replace(
        r#""hello""#,
        r#"[{"type":"text","text":"hello","cache_control":{"type":"ephemeral"}}]"#,
    );
    let next_marked = format!("{marked},{THOUGHT},{SECOND}");
    let with = |body: String, more: &str| body.replacen('{', &format!("{{{more},"), 1);
    for body in [
        body(&next),
        body(&next_marked),
        with(body(&next), r#""max_tokens":7"#),
        with(body(&next), r#""output_config":{"effort":"high"}"#),
        with(body(&next), r#""tool_choice":{"type":"any"}"#),
        with(body(&next), r#""cache_control":{"type":"ephemeral"}"#),
        with(body(&next), r#""thinking":{"type":"adaptive"}"#),
    ] {
        let read = read(&body);
        assert_eq!(read.key(), first.key(), "{body}");
        assert_eq!(read.thinking, [first.content], "{body}");
    }
}

#[test]
fn another_model_continues_the_conversation() {
    let first = read_as(&body(FIRST), "claude-sonnet-5-5", 0);
    let next = body(&format!("{FIRST},{THOUGHT},{SECOND}"));
    let next = read_as(&next, "claude-opus-5-5", 0);
    assert_eq!(next.thinking, [first.content]);
    // Its prompt cache is another one.
    let same = read_as(&body(FIRST), "claude-opus-5-5", 0);
    assert_ne!(
        same.prefixes.as_slice().last().map(|last| last.hash),
        first.prefixes.as_slice().last().map(|last| last.hash)
    );
}

#[test]
fn callers_with_other_salts_share_no_memory() {
    let a = read_as(&body(FIRST), "claude-sonnet-5-5", 1);
    let b = read_as(&body(FIRST), "claude-sonnet-5-5", 2);
    assert_ne!(a.content, b.content);
    assert_eq!(a.key(), b.key());
}

#[test]
fn bodies_that_are_no_prompt_have_no_conversation() {
    let model = ModelCatalog::builtin().lookup("claude-sonnet-5-5");
    for body in [
        "",
        "[]",
        "null",
        "{}",
        r#"{"messages":[]}"#,
        r#"{"messages":7}"#,
        "{\"messages\":[{",
    ] {
        let read = Conversation::of(body.as_bytes(), &model, 0);
        assert!(read.is_none(), "{body}");
    }
}
