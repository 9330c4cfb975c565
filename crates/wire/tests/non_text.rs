//! Estimate of images and documents in a prompt.

use proptest::prelude::*;
use tower_claude_wire::{Peek, non_text_bytes};

/// Returns a source with `length` bytes of data that start with `begin`.
fn source(begin: &str, length: usize) -> String {
    let data = format!("{begin}{}", "A".repeat(length - begin.len()));
    format!(r#"{{"type":"base64","media_type":"x/y","data":"{data}"}}"#)
}

fn non_text(json: &str) -> u64 {
    non_text_bytes(json.as_bytes())
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
        format!(r#"{{"type":"base64","data":"{data}"#),
    ] {
        assert_eq!(non_text(&json), 39_000);
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
        source("iVBOR", 4_095),
        text,
    ] {
        assert_eq!(non_text(&json), 0, "{}", &json[..40]);
    }
}

/// A plain document is text, even if its neighbour is an image.
#[test]
fn text_beside_an_image_is_not_counted() {
    let text = "A".repeat(40_000);
    let text = format!(r#"{{"type":"text","media_type":"text/plain","data":"{text}"}}"#);
    let image = source("iVBOR", 40_000);
    for both in [format!("{text},{image}"), format!("{image},{text}")] {
        assert_eq!(non_text(&both), 39_000);
    }
    let small = source("iVBOR", 60);
    for both in [format!("{text},{small}"), format!("{small},{text}")] {
        assert_eq!(non_text(&both), 0);
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

    /// The visitor of `Peek` and the search of `non_text_bytes` count the same.
    #[test]
    fn peek_of_any_messages_agrees_with_the_search(
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
        prop_assert_eq!(peek.non_text_bytes(), non_text(&body), "{}", body);
    }
}
