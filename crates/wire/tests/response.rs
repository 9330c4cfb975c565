//! JSON responses, whole and in pieces.

mod common;

use common::fixture;
use proptest::prelude::*;
use tower_claude_wire::{JsonResponse, JsonScanner, Usage, is_cut_json};

fn scanned<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> JsonScanner {
    let mut scanner = JsonScanner::default();
    pieces.into_iter().for_each(|piece| scanner.feed(piece));
    scanner
}

proptest! {
    #[test]
    fn whole_response_of_any_text_agrees_with_two_passes(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "\\\"", "\\", " ", "null", "12",
                "\"type\":\"message\",", "\"content\":[", "\"error\":{\"type\":\"a\"}",
                "\"input_tokens\":3", "\"text of more than thirty-two bytes\"", "\"usage\":{\"output_tokens\":3}",
                "\"usage\":null", "{\"type\":\"message\",\"content\":[],",
            ]),
            0..12,
        ),
    ) {
        let text = format!("{{{}", parts.concat());
        let expected = (!is_cut_json(text.as_bytes())).then(|| JsonResponse::of(text.as_bytes()));
        prop_assert_eq!(JsonResponse::of_whole(text.as_bytes()), expected.clone());
        let mut usage = None;
        prop_assert_eq!(JsonResponse::with_usage(text.as_bytes(), &mut usage), expected);
        prop_assert_eq!(usage, Usage::from_message(text.as_bytes()));
    }
}

#[test]
fn content_of_a_response_is_recognized() {
    for name in [
        "200_message.json",
        "200_refusal.json",
        "200_server_fallback.json",
    ] {
        assert_eq!(
            JsonResponse::of(&fixture(name)),
            JsonResponse::Message,
            "{name}"
        );
    }
    assert_eq!(
        JsonResponse::of(&fixture("count_tokens.json")),
        JsonResponse::TokenCount
    );
    for text in [
        "",
        "{}",
        "null",
        "[]",
        "12",
        "\"text\"",
        "<html>",
        "{\"type\":\"message\"}",
        "{\"content\":null}",
        "{\"content\":\"text\"}",
        "{\"input_tokens\":null}",
        "{\"type\":\"message_batch\",\"content\":[]}",
        "{\"choices\":[]}",
        "[{}]",
        "{\"error\":null}",
    ] {
        assert_eq!(
            JsonResponse::of(text.as_bytes()),
            JsonResponse::Other,
            "{text}"
        );
    }
    for (text, kind) in [
        (
            "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}",
            "overloaded_error",
        ),
        ("{\"error\":{\"type\":\"server_error\"}}", "server_error"),
        ("[{\"error\":{\"status\":\"UNAVAILABLE\"}}]", "UNAVAILABLE"),
        ("{\"error\":7}", "api_error"),
        ("{\"type\":\"error\"}", "api_error"),
    ] {
        let JsonResponse::Error(error) = JsonResponse::of(text.as_bytes()) else {
            panic!("no error: {text}");
        };
        assert_eq!(error.kind, kind, "{text}");
    }
}

proptest! {
    #[test]
    fn members_in_any_order_and_layout_are_read_alike(
        members in prop::collection::vec(
            prop::sample::select(vec![
                r#""id":"msg_01""#, r#""type":"message""#, r#""type":"error""#, r#""type":null"#,
                r#""role":"assistant""#, r#""role":"user""#, r#""content":[{"text":"a]}"}]"#,
                r#""content":"a""#, r#""model":"claude-sonnet-5-5""#, r#""stop_reason":"end_turn""#,
                r#""usage":{"input_tokens":12,"cache_read_input_tokens":null,"service_tier":"a"}"#,
                r#""usage":{"output_tokens":123456789,"input_tokens":2.5e1,"inference_geo":"global"}"#,
                r#""usage":{"output_tokens_details":{"thinking_tokens":7},"output_tokens":9}"#,
                r#""usage":{"output\u005ftokens":5,"iterations":[{"input_tokens":4}]}"#,
                r#""input_tokens":12"#, r#""input_tokens":"12""#,
            ]),
            0..8,
        ),
    ) {
        let dense = format!("{{{}}}", members.join(","));
        let spaced: String = dense.chars().flat_map(|char| match char {
            ':' | ',' | '{' | '[' => vec![char, ' '],
            '}' | ']' => vec!['\n', char],
            _ => vec![char],
        }).collect();
        let read = |text: &str| {
            let text = text.as_bytes();
            let response = match JsonResponse::of(text) {
                JsonResponse::Error(_) => None,
                other => Some(other),
            };
            let mut usage = None;
            let is_whole = JsonResponse::with_usage(text, &mut usage).is_some();
            (response, Usage::from_message(text), is_whole.then_some(usage))
        };
        prop_assert_eq!(read(&dense), read(&spaced));
    }
}

#[test]
fn message_that_is_cut_anywhere_is_cut() {
    let whole = fixture("200_message.json");
    let whole = whole.trim_ascii_end();
    for at in 1..whole.len() {
        let cut = &whole[..at];
        assert!(is_cut_json(cut), "at {at}");
        assert!(
            scanned([cut]).is_cut() && scanned(cut.chunks(7)).is_cut(),
            "at {at}"
        );
    }
    assert!(!is_cut_json(whole) && !scanned([whole]).is_cut());
    for text in ["", " ", "null", "hello", "<html>"] {
        assert!(!is_cut_json(text.as_bytes()), "{text}");
    }
}

#[test]
fn outline_of_a_long_message_has_its_usage() {
    let text = "word \\\" } ] ".repeat(1_000_000);
    let message = serde_json::json!({
        "type": "message", "content": [{"type": "text", "text": text}, {"input": {"usage": {}}}],
        "stop_reason": "end_turn", "usage": {"input_tokens": 5, "iterations": [{"input_tokens": 9}]},
    });
    let message = message.to_string();
    let scanner = scanned(message.as_bytes().chunks(16 * 1024));
    assert!(!scanner.is_cut());
    assert!(scanner.outline().len() < 200);
    assert_eq!(JsonResponse::of(scanner.outline()), JsonResponse::Message);
    let usage = Usage::from_message(scanner.outline()).expect("usage");
    assert_eq!(
        (usage.input_tokens, usage.iterations_input),
        (Some(5), Some(9))
    );
}

#[test]
fn outline_is_limited() {
    let mut scanner = JsonScanner::default();
    for _ in 0..100 {
        scanner.feed("{\"a\":\"b\"}".repeat(1_000).as_bytes());
    }
    assert_eq!(scanner.outline().len(), 64 * 1024);
}

proptest! {
    #[test]
    fn scanner_of_any_pieces_agrees_with_the_whole_text(
        text in "[\\[\\]{}\":,a\\\\ ]{0,60}",
        size in 1_usize..9,
    ) {
        let (whole, pieces) = (scanned([text.as_bytes()]), scanned(text.as_bytes().chunks(size)));
        prop_assert_eq!(whole.is_cut(), pieces.is_cut());
        prop_assert_eq!(whole.outline(), pieces.outline());
    }

    #[test]
    fn any_bytes_do_not_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (JsonResponse::of(&body), is_cut_json(&body));
        let _ = scanned(body.chunks(3)).is_cut();
    }
}
