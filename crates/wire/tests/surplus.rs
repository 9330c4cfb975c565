//! What of a prompt is not read letter by letter.

use proptest::prelude::*;
use tower_claude_wire::non_text_bytes;

/// A source of so many bytes of data that begin like this.
fn source(begin: &str, length: usize) -> String {
    let data = format!("{begin}{}", "A".repeat(length - begin.len()));
    format!(r#"{{"type":"base64","media_type":"x/y","data":"{data}"}}"#)
}

fn surplus(json: &str) -> u64 {
    non_text_bytes(json.as_bytes())
}

#[test]
fn images_and_documents() {
    assert_eq!(surplus(&source("iVBOR", 40_000)), 39_000);
    assert_eq!(surplus(&source("JVBER", 40_000)), 35_000);
    // No image is more than some thousand tokens.
    assert_eq!(surplus(&source("iVBOR", 4_000_000)), 4_000_000 - 12_000);
    let both = [source("iVBOR", 40_000), source("JVBER", 40_000)];
    let body = format!(r#"{{"messages":[{}]}}"#, both.join(","));
    assert_eq!(surplus(&body), 39_000 + 35_000);
}

#[test]
fn in_any_order_and_dress() {
    let data = "A".repeat(40_000);
    for json in [
        format!(r#"{{"data":"{data}","media_type":"image/png","type":"base64"}}"#),
        format!("{{\n  \"type\" : \"base64\",\n  \"data\" :\n    \"{data}\"\n}}"),
        format!(r#"{{"type":"base64","data":"{data}"#),
    ] {
        assert_eq!(surplus(&json), 39_000);
    }
}

#[test]
fn text_is_text() {
    let text = "A".repeat(40_000);
    for json in [
        format!(r#"{{"type":"text","data":"{text}"}}"#),
        format!(r#"{{"type":"base64","text":"{text}"}}"#),
        format!(r#"{{"type":"base64","data":["{text}"]}}"#),
        format!(r#"{{"type":"base64","data":null,"text":"{text}"}}"#),
        source("iVBOR", 4_095),
        text,
    ] {
        assert_eq!(surplus(&json), 0, "{}", &json[..40]);
    }
}

/// A plain document is text, whatever stands beside it.
#[test]
fn a_text_beside_an_image_is_text() {
    let text = "A".repeat(40_000);
    let text = format!(r#"{{"type":"text","media_type":"text/plain","data":"{text}"}}"#);
    let image = source("iVBOR", 40_000);
    for both in [format!("{text},{image}"), format!("{image},{text}")] {
        assert_eq!(surplus(&both), 39_000);
    }
    let small = source("iVBOR", 60);
    for both in [format!("{text},{small}"), format!("{small},{text}")] {
        assert_eq!(surplus(&both), 0);
    }
}

proptest! {
    #[test]
    fn never_more_than_there_is(
        pieces in prop::collection::vec(
            prop::sample::select(vec!["\"data\"", "\"base64\"", ":", "\"", " ", "{", "JVBER", "DATA", "\\"]),
            0..40,
        ),
    ) {
        let json = pieces.concat().replace("DATA", &"A".repeat(5_000));
        prop_assert!(surplus(&json) <= json.len() as u64);
    }
}
