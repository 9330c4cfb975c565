//! Estimate of the text in a prompt.

use proptest::prelude::*;
use tower_claude_wire::{Peek, Tokenizer, text_bytes};

/// Returns a source with `length` bytes of data that start with `begin`.
fn source(begin: &str, length: usize) -> String {
    let data = format!("{begin}{}", "A".repeat(length - begin.len()));
    format!(r#"{{"type":"base64","media_type":"x/y","data":"{data}"}}"#)
}

/// Returns the bytes that do not count as text.
fn non_text(json: &str) -> u64 {
    json.len() as u64 - text(json)
}

fn text(json: &str) -> u64 {
    text_bytes(json.as_bytes())
}

#[test]
fn images_and_documents_are_counted() {
    assert_eq!(non_text(&source("iVBOR", 40_000)), 39_000);
    assert_eq!(non_text(&source("JVBER", 40_000)), 35_000);
    // An image has at most some thousand tokens.
    assert_eq!(non_text(&source("iVBOR", 4_000_000)), 4_000_000 - 12_000);
    let both = [source("iVBOR", 40_000), source("JVBER", 40_000)];
    let body = format!(r#"{{"messages":[{}]}}"#, both.join(","));
    assert_eq!(non_text(&body), 39_000 + 35_000);
}

#[test]
fn source_in_any_order_and_layout_is_counted() {
    let data = "A".repeat(40_000);
    for json in [
        format!(r#"{{"data":"{data}","media_type":"image/png","type":"base64"}}"#),
        format!("{{\n  \"type\" : \"base64\",\n  \"data\" :\n    \"{data}\"\n}}"),
    ] {
        let spaces = json.bytes().filter(u8::is_ascii_whitespace).count() as u64;
        assert_eq!(non_text(&json), 39_000 + spaces);
    }
}

#[test]
fn text_is_not_counted() {
    let text = "A".repeat(40_000);
    for json in [
        format!(r#"{{"type":"text","data":"{text}"}}"#),
        format!(r#"{{"type":"base64","text":"{text}"}}"#),
        format!(r#"{{"type":"base64","data":["{text}"]}}"#),
        format!(r#"{{"type":"base64","data":null,"text":"{text}"}}"#),
        source("iVBOR", 1_023),
        text,
    ] {
        // Only the frame of a text.
        assert!(non_text(&json) <= 21, "{}", &json[..40]);
    }
}

/// A plain document is text, even if its neighbour is an image.
#[test]
fn text_beside_an_image_is_not_counted() {
    let text = "A".repeat(40_000);
    let text = format!(r#"{{"type":"text","media_type":"text/plain","data":"{text}"}}"#);
    let image = source("iVBOR", 40_000);
    for both in [format!("[{text},{image}]"), format!("[{image},{text}]")] {
        assert_eq!(non_text(&both), 39_000 + 21);
    }
    let small = source("iVBOR", 60);
    for both in [format!("[{text},{small}]"), format!("[{small},{text}]")] {
        assert_eq!(non_text(&both), 21);
    }
}

proptest! {
    #[test]
    fn count_is_at_most_the_length(
        pieces in prop::collection::vec(
            prop::sample::select(vec!["\"data\"", "\"base64\"", ":", "\"", " ", "{", "JVBER", "DATA", "\\"]),
            0..40,
        ),
    ) {
        let json = pieces.concat().replace("DATA", &"A".repeat(5_000));
        prop_assert!(non_text(&json) <= json.len() as u64);
    }

    #[test]
    fn peek_of_any_messages_agrees_with_the_text_of_the_value(
        members in prop::collection::vec(
            prop::sample::select(vec![
                r#""type":"base64""#,
                r#""type" : "text""#,
                r#""data":"JVBERDATA""#,
                "\"data\" :\n \"DATA\"",
                r#""data":"short""#,
                r#""data":null"#,
                r#""text":"DATA""#,
                r#""text":"data""#,
                r#""x":{"type":"base64","data":"DATA"}"#,
                r#""long":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#,
            ]),
            0..12,
        ),
    ) {
        let messages = members.join(",").replace("DATA", &"A".repeat(5_000));
        let body = format!("{{\"messages\":[{{{messages}}}]}}");
        let peek = Peek::parse(body.as_bytes()).expect("an object");
        let messages = &body[r#"{"messages":"#.len()..body.len() - 1];
        prop_assert_eq!(peek.text_bytes(), text(messages), "{}", body);
    }

    #[test]
    fn any_text_counts_its_utf8_however_it_is_escaped(characters in ".{0,80}") {
        let plain = format!("[\"{}\"]", "a".repeat(characters.len().max(12)));
        let mut escaped = String::from("[\"");
        for unit in characters.encode_utf16() {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
        escaped.push_str(&"a".repeat(12_usize.saturating_sub(characters.len())));
        escaped.push_str("\"]");
        prop_assert_eq!(text(&escaped), text(&plain));
    }

    #[test]
    fn any_value_counts_the_same_pretty_and_tight(
        keys in prop::collection::vec("[a-z]{1,20}", 1..8),
        words in prop::collection::vec("[a-z ]{0,40}", 1..8),
    ) {
        let value = serde_json::json!([
            keys.iter().map(|key| serde_json::json!({key.as_str(): words})).collect::<Vec<_>>(),
            {"nested": {"n": 12, "none": null}},
        ]);
        let pretty = serde_json::to_string_pretty(&value).expect("a value");
        prop_assert_eq!(text(&pretty), text(&value.to_string()));
        prop_assert_eq!(text(&value.to_string()), value.to_string().len() as u64);
    }

    /// The usual beginnings of messages and text blocks are read as a whole.
    #[test]
    fn conversation_counts_the_same_tight_and_spaced(
        turns in prop::collection::vec((any::<bool>(), any::<bool>(), "[a-z\"\n]{0,40}"), 1..8),
        space in prop::sample::select(vec![" ", "\t", "\n    ", "\n              "]),
    ) {
        let count = |space: &str| {
            let turns = turns.iter().map(|(is_user, has_block, text)| {
                let role = if *is_user { "user" } else { "assistant" };
                let text = serde_json::Value::from(text.as_str());
                let content = match has_block {
                    true => format!(r#"[{{"type":{space}"text","text":{text}}}]"#),
                    false => text.to_string(),
                };
                format!(r#"{{"role":{space}"{role}","content":{content}}}"#)
            });
            let turns = turns.collect::<Vec<_>>().join(",");
            let body = format!(r#"{{"messages":[{turns}]}}"#);
            let peek = Peek::parse(body.as_bytes()).expect("an object");
            let bytes = peek.text_bytes();
            (bytes, peek.estimate_tokens(bytes, Tokenizer::New))
        };
        prop_assert_eq!(count(""), count(space));
    }
}

#[test]
fn escaped_code_counts_as_its_text() {
    let code = "fn main() {\n\tprintln!(\"{}\\n\", 1);\r\n}\n".repeat(20);
    let json = serde_json::json!([code]).to_string();
    assert!(json.len() > code.len() + 4);
    assert_eq!(text(&json), code.len() as u64 + 4);
    let alone = serde_json::json!(code).to_string();
    assert_eq!(text(&alone), code.len() as u64 + 2);
}

#[test]
fn referenced_media_counts_as_media_of_common_size() {
    let block = |kind: &str, source: &str| {
        let before = format!(r#"{{"type":"{kind}","source":{source}}}"#);
        let after = format!(r#"{{"source":{source},"type":"{kind}"}}"#);
        let cached = format!(
            r#"{{"type": "{kind}", "cache_control": {{"type": "ephemeral"}}, "source": {source}}}"#
        );
        [before, after, cached]
    };
    let url = r#"{"type":"url","url":"https://example.org/a"}"#;
    let file = r#"{ "file_id": "file_011", "type" : "file" }"#;
    for source in [url, file] {
        for (kind, least) in [("image", 4_000), ("document", 25_000)] {
            for json in block(kind, source) {
                let text = text(&json);
                assert!((least..least + 200).contains(&text), "{json}: {text}");
                let body = format!(r#"{{"messages":[{json}]}}"#);
                let peek = Peek::parse(body.as_bytes()).expect("an object");
                assert!(peek.has_media());
                assert!(peek.text_bytes() >= least);
            }
        }
    }
    for json in [
        r#"{"type":"object","properties":{"url":{"type":"string"},"file":{"type":"string"}}}"#,
        r#"{"kind":"url","source":1,"file":"url"}"#,
    ] {
        assert_eq!(text(json), json.len() as u64);
    }
}

#[test]
fn tool_of_the_server_counts_with_its_definition() {
    let tool = r#"{"type":"web_search_20260209","name":"web_search"}"#;
    assert_eq!(text(tool), tool.len() as u64 + 1_750);
    for own in [
        r#"{"name":"web_search_20260209","input_schema":{"type":"object"}}"#,
        r#"{"type":"custom","name":"bash"}"#,
    ] {
        assert_eq!(text(own), own.len() as u64);
    }
}

#[test]
fn text_outside_of_the_prompt_changes_nothing() {
    let prompt = r#""messages":[{"role":"user","content":"hello"}]"#;
    let plain = format!("{{{prompt}}}");
    let others = format!(
        r#"{{"metadata":{{ "user_id" : "東京東京" }},{prompt},"stop_sequences":[ "






" ]}}"#
    );
    let text = |body: &str| {
        Peek::parse(body.as_bytes())
            .expect("an object")
            .text_bytes()
    };
    assert_eq!(text(&plain), text(&others));
}

/// A conversation of short turns has hardly more tokens than its text.
#[test]
fn frames_of_messages_and_text_blocks_hardly_count() {
    let plain = r#"{"role":"user","content":"How are you?"}"#;
    let blocks = r#"{"role":"user","content":[{"type":"text","text":"How are you?"}]}"#;
    for message in [plain, blocks] {
        let turns = [message; 50].join(",");
        let body = format!(r#"{{"messages":[{turns}]}}"#);
        let peek = Peek::parse(body.as_bytes()).expect("an object");
        let each = peek.text_bytes() / 50;
        assert!((22..30).contains(&each), "{each}");
    }
}
