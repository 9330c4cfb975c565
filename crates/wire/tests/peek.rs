//! `Peek` agrees with a full parser on every JSON object, and survives everything else.

use proptest::prelude::*;
use serde_json::{Map, Value};
use tower_claude_wire::{Peek, Thinking};

fn peek(body: &str) -> Peek {
    Peek::parse(body.as_bytes()).unwrap_or_else(|| panic!("not read: {body}"))
}

fn model(body: &str) -> Option<String> {
    peek(body).model(body.as_bytes()).map(str::to_owned)
}

#[test]
fn request_facts_are_read() {
    let body = r#" {
        "model": "claude-opus-5-5", "max_tokens": 1024, "speed": "fast",
        "thinking": {"budget_tokens": 2048, "type": "enabled"},
        "system": "Be brief.",
        "tools": [{"name": "a]}\"", "input_schema": {"type": "object"}}],
        "messages": [{"role": "user", "content": "{\"model\": \"other\""}],
        "metadata": null, "temperature": -1.5e-3, "stream": true
    } "#;
    let peek = peek(body);
    assert_eq!(peek.model(body.as_bytes()), Some("claude-opus-5-5"));
    assert_eq!(peek.max_tokens(), Some(1024));
    assert!(peek.stream());
    assert!(peek.fast());
    assert!(peek.has_tools());
    assert_eq!(peek.thinking(), Some(Thinking::Enabled));
    assert_eq!(peek.system_bytes(), r#""Be brief.""#.len());
    assert_eq!(
        peek.tools_bytes(),
        r#"[{"name": "a]}\"", "input_schema": {"type": "object"}}]"#.len()
    );
    assert_eq!(
        peek.messages_bytes(),
        r#"[{"role": "user", "content": "{\"model\": \"other\""}]"#.len()
    );
}

#[test]
fn empty_object_has_no_facts() {
    assert_eq!(peek("{}"), Peek::default());
    assert_eq!(peek(" { } "), Peek::default());
    assert_eq!(peek("{}").model(b"{}"), None);
}

#[test]
fn thinking_kind_is_read() {
    let kind = |value: &str| peek(&format!(r#"{{"thinking":{value}}}"#)).thinking();
    assert_eq!(kind(r#"{"type":"adaptive"}"#), Some(Thinking::Adaptive));
    assert_eq!(kind(r#"{"type":"disabled"}"#), Some(Thinking::Disabled));
    assert_eq!(
        kind(r#"{"type":"between_tools"}"#),
        Some(Thinking::BetweenTools)
    );
    assert_eq!(kind(r#"{"type":"n\u0065w"}"#), Some(Thinking::Other));
    assert_eq!(kind(r#"{"type":"en\u0061bled"}"#), Some(Thinking::Enabled));
    assert_eq!(kind("{}"), Some(Thinking::Other));
    assert_eq!(kind("null"), None);
    assert_eq!(kind(r#""enabled""#), None);
}

#[test]
fn escapes_are_resolved_and_wrong_types_are_absent() {
    assert_eq!(
        model(r#"{"mod\u0065l":"claud\u0065-\ud83d\ude00"}"#).as_deref(),
        Some("claude-😀")
    );
    assert_eq!(model(r#"{"model":"a","model":"b"}"#).as_deref(), Some("b"));
    assert_eq!(model(r#"{"model":"a","model":5}"#), None);
    assert_eq!(model(r#"{"model":"lone \ud83d"}"#), None);
    assert_eq!(
        model(r#"{"a\\":"\\","model":"a\\\"b"}"#).as_deref(),
        Some(r#"a\"b"#)
    );
    assert_eq!(peek(r#"{"max_tokens":-1}"#).max_tokens(), None);
    assert_eq!(
        peek(r#"{"max_tokens":18446744073709551616}"#).max_tokens(),
        None
    );
    assert_eq!(peek(r#"{"max_tokens":4096.0}"#).max_tokens(), Some(4_096));
    assert_eq!(peek(r#"{"max_tokens":1.5}"#).max_tokens(), None);
    assert!(!peek(r#"{"stream":true,"stream":false}"#).stream());
    assert!(!peek(r#"{"stream":"true"}"#).stream());
    assert!(!peek(r#"{"tools":[ ]}"#).has_tools());
    assert!(!peek(r#"{"tools":{"a":1}}"#).has_tools());
}

#[test]
fn invalid_object_is_none() {
    for body in [
        "",
        " ",
        "[]",
        "null",
        "\"a\"",
        "1",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{a:1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":}",
        "{\"a\":tru}",
        "{} x",
        "{\"a\":[}",
        "{\"a\":\"}",
        "{\"a\":\"\\\"}",
        "{\"a\":{\"b\":[1,2}",
        "{}{}",
        "{\"a\":,\"b\":1}",
    ] {
        assert_eq!(Peek::parse(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn every_prefix_of_a_request_is_none() {
    let body = r#"{"model":"c\"","thinking":{"type":"adaptive"},"tools":[[1,"]"]],"messages":[{"a":"\\"}]}"#;
    for end in 0..body.len() {
        assert_eq!(
            Peek::parse(&body.as_bytes()[..end]),
            None,
            "{}",
            &body[..end]
        );
    }
    assert!(Peek::parse(body.as_bytes()).is_some());
}

#[test]
fn another_body_does_not_panic() {
    let parsed = peek(r#"{"max_tokens":10,"model":"claude-opus-5-5"}"#);
    assert_eq!(parsed.model(b"{}"), None);
    assert_eq!(parsed.model("é".repeat(40).as_bytes()), None);
}

#[test]
fn strings_of_every_length_are_read() {
    for len in 0..64 {
        for end in ["", "\\\\", "\\\"", "\\\\\\\"", "\\n", "}]"] {
            for after in ["", "          "] {
                let long = format!("{}{end}", "x".repeat(len));
                let body =
                    format!(r#"{{"{long}":["{long}"],"model":"m","system":"{long}"}}{after}"#);
                let peek = peek(&body);
                assert_eq!(peek.model(body.as_bytes()), Some("m"), "{body}");
                assert_eq!(peek.system_bytes(), long.len() + 2, "{body}");
            }
        }
    }
}

#[test]
fn deeply_nested_body_does_not_overflow_the_stack() {
    let deep = 1_000_000;
    let body = format!(
        r#"{{"messages":{}{},"model":"m"}}"#,
        "[".repeat(deep),
        "]".repeat(deep)
    );
    assert_eq!(model(&body).as_deref(), Some("m"));
}

/// Strings full of what could confuse a scanner.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(vec![
            "claude-opus-5-5",
            "fast",
            "adaptive",
            "enabled",
            "between_tools",
            "",
            "\\",
            "\""
        ])
        .prop_map(str::to_owned),
        proptest::collection::vec(
            proptest::sample::select("\"\\{}[],: \n\u{1}aé😀".chars().collect::<Vec<_>>()),
            0..24
        )
        .prop_map(|chars| chars.into_iter().collect()),
        ".{0,40}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((key(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    let known = [
        "model",
        "max_tokens",
        "stream",
        "speed",
        "thinking",
        "tools",
        "system",
        "messages",
        "type",
    ]
    .map(str::to_owned);
    prop_oneof![4 => proptest::sample::select(known.to_vec()), 1 => text()]
}

/// Returns a number that is whole, in any notation.
fn whole(value: &Value) -> Option<u64> {
    let float = value.as_f64().filter(|float| {
        // A sign is not accepted, not even before zero.
        float.is_sign_positive() && *float <= 9_007_199_254_740_992.0 && float.fract() == 0.0
    });
    value.as_u64().or(float.map(|float| float as u64))
}

/// Writes a string with some characters escaped that need not be.
fn write_string(out: &mut String, text: &str, escape: u8) {
    out.push('"');
    for (index, c) in text.chars().enumerate() {
        let needed = c == '"' || c == '\\' || c < ' ';
        if needed && escape.is_multiple_of(2) && c > ' ' {
            out.push('\\');
            out.push(c);
        } else if needed || (usize::from(escape) + index).is_multiple_of(5) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out.push('"');
}

proptest! {
    #[test]
    fn peek_of_any_object_agrees_with_serde_json(
        members in proptest::collection::vec((key(), value(), any::<u8>(), any::<bool>()), 0..12),
        space in proptest::sample::select(vec!["", " ", "\n\t", " \r\n "]),
    ) {
        let mut body = format!("{space}{{{space}");
        for (index, (key, value, escape, pretty)) in members.iter().enumerate() {
            if index > 0 {
                body.push_str(&format!("{space},{space}"));
            }
            write_string(&mut body, key, *escape);
            body.push_str(&format!("{space}:{space}"));
            match value {
                Value::String(text) => write_string(&mut body, text, *escape),
                other if *pretty => body.push_str(&format!("{other:#}")),
                other => body.push_str(&other.to_string()),
            }
        }
        body.push_str(&format!("{space}}}{space}"));

        let full: Value = serde_json::from_str(&body).expect("the generator writes valid JSON");
        let peek = Peek::parse(body.as_bytes()).expect("the same object");
        prop_assert_eq!(peek.model(body.as_bytes()), full["model"].as_str());
        prop_assert_eq!(peek.max_tokens(), whole(&full["max_tokens"]));
        prop_assert_eq!(peek.stream(), full["stream"] == true);
        prop_assert_eq!(peek.fast(), full["speed"] == "fast");
        prop_assert_eq!(peek.has_tools(), full["tools"].as_array().is_some_and(|tools| !tools.is_empty()));
        let kind = full["thinking"].as_object().map(|thinking| match thinking.get("type").and_then(Value::as_str) {
            Some("adaptive") => Thinking::Adaptive,
            Some("enabled") => Thinking::Enabled,
            Some("between_tools") => Thinking::BetweenTools,
            _ => Thinking::Other,
        });
        prop_assert_eq!(peek.thinking(), kind);
        for (key, bytes) in
            [("system", peek.system_bytes()), ("tools", peek.tools_bytes()), ("messages", peek.messages_bytes())]
        {
            let raw: std::collections::HashMap<String, &serde_json::value::RawValue> =
                serde_json::from_str(&body).expect("valid JSON");
            prop_assert_eq!(bytes, raw.get(key).map_or(0, |raw| raw.get().len()), "{}", key);
        }
    }

    #[test]
    fn cache_control_of_any_object_is_found_as_in_the_parsed_value(
        key in prop::sample::select(vec!["cache_control", "messages", "x"]),
        inner in prop::sample::select(vec!["cache_control", "cache_contro", "type", "cache_control2"]),
        text in prop::sample::select(vec!["cache_control", "\"cache_control\"", "cache_control:", "a"]),
    ) {
        let body = serde_json::json!({key: [{inner: [text]}]}).to_string();
        let expected = [key, inner, text].contains(&"cache_control");
        prop_assert_eq!(peek(&body).mentions_cache_control(), expected, "{}", body);
    }

    #[test]
    fn any_bytes_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(peek) = Peek::parse(&body) {
            let _ = peek.model(&body);
        }
    }

    #[test]
    fn json_like_bytes_do_not_panic(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "{", "}", "[", "]", "\"", "\\", ":", ",", " ", "\"model\"", "\"thinking\"", "\"tools\"", "1", "true", "null",
            ]),
            0..40,
        ),
    ) {
        let body = format!("{{\"model\":{}", parts.concat());
        if let Some(peek) = Peek::parse(body.as_bytes()) {
            let _ = peek.model(body.as_bytes());
        }
    }
}
