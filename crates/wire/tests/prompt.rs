//! Blocks of a prompt, and the bodies of `count_tokens`.

use std::time::Duration;

use proptest::prelude::*;
use tower_claude_wire::{Peek, Prompt, PromptPart, count_tokens_body, counted_tokens};

/// Part, role and JSON of every block, and the seconds of its breakpoint.
fn blocks(body: &str) -> Vec<(PromptPart, String, String, Option<u64>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut seen = Vec::new();
    Prompt::parse(body.as_bytes())
        .expect("an object")
        .blocks(|block| {
            let seconds = block.breakpoint.map(|keep| keep.as_secs());
            seen.push((block.part, text(block.role), text(block.json), seconds));
        });
    seen
}

#[test]
fn blocks_are_in_the_order_of_the_cache() {
    let body = r#"{
        "messages": [
            {"content": [{"type":"text","text":"a"}, {"x":1,"cache_control":{"type":"ephemeral"}}], "role": "user"},
            {"role": "assistant", "content": "b"}
        ],
        "system": [{"text":"s","cache_control":{"ttl":"1h","type":"ephemeral"}}],
        "tools": [{"name":"t","cache_control":null}]
    }"#;
    let seen = blocks(body);
    let parts: Vec<_> = seen
        .iter()
        .map(|block| (block.0, block.1.as_str(), block.3))
        .collect();
    let expected = [
        (PromptPart::Tools, "", None),
        (PromptPart::System, "", Some(3_600)),
        (PromptPart::Messages, r#""user""#, None),
        (PromptPart::Messages, r#""user""#, Some(300)),
        (PromptPart::Messages, r#""assistant""#, None),
    ];
    assert_eq!(parts, expected);
    assert_eq!(seen[4].2, r#""b""#);
}

#[test]
fn automatic_caching_is_read_from_the_top_level() {
    let automatic = |body: &str| {
        Prompt::parse(body.as_bytes())
            .expect("an object")
            .automatic()
    };
    let hour = r#"{"cache_control":{"type":"ephemeral","ttl":"1h"}}"#;
    assert_eq!(automatic(hour), Some(Duration::from_secs(3_600)));
    assert_eq!(automatic(r#"{"cache_control":null}"#), None);
    assert_eq!(automatic(r#"{"system":[{"cache_control":{}}]}"#), None);
    let mentions = |body: &str| {
        Peek::parse(body.as_bytes())
            .unwrap()
            .mentions_cache_control()
    };
    assert!(mentions(hour));
    assert!(!mentions(r#"{"cache":1}"#));
}

#[test]
fn count_tokens_body_has_only_accepted_fields() {
    let body = br#"{"max_tokens":9,"model":"m","metadata":{},"system":"s","stream":true,"me\u0073sages":[ 1 ],"tools":[],"x":{}}"#;
    let counted = count_tokens_body(body).expect("an object");
    assert_eq!(
        counted,
        br#"{"model":"m","system":"s","me\u0073sages":[ 1 ],"tools":[]}"#
    );
    assert_eq!(count_tokens_body(b"{}").as_deref(), Some(&b"{}"[..]));
    assert_eq!(count_tokens_body(b"[]"), None);
    assert_eq!(counted_tokens(br#"{"a":0,"input_tokens":7}"#), Some(7));
    assert_eq!(counted_tokens(br#"{"input_tokens":null}"#), None);
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = count_tokens_body(&body);
        let _ = counted_tokens(&body);
        if let Some(prompt) = Prompt::parse(&body) {
            prompt.blocks(|_| {});
        }
    }

    #[test]
    fn count_tokens_body_has_unchanged_values(max in any::<u32>(), text in ".*", tools in any::<bool>()) {
        let mut body = serde_json::json!({
            "max_tokens": max, "messages": [{"role": "user", "content": text}], "model": text,
        });
        if tools {
            body["tools"] = serde_json::json!([{"name": text}]);
        }
        let counted = count_tokens_body(body.to_string().as_bytes()).expect("an object");
        let counted: serde_json::Value = serde_json::from_slice(&counted).expect("JSON");
        body.as_object_mut().expect("an object").remove("max_tokens");
        prop_assert_eq!(counted, body);
    }
}
