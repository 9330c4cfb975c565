use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::value::RawValue;

use crate::request::canonical::fields;

/// Returns the top-level names and the tokens of their values, by a full JSON parser. Equal bodies
/// must agree in them.
fn slow(body: &[u8]) -> Option<BTreeMap<String, Vec<String>>> {
    let map: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body).ok()?;
    Some(
        map.into_iter()
            .map(|(name, value)| (name, tokens(value.get())))
            .collect(),
    )
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = c.to_string();
        if c == '"' {
            while let Some(c) = chars.next() {
                token.push(c);
                match c {
                    '\\' => token.extend(chars.next()),
                    '"' => break,
                    _ => {}
                }
            }
        } else if c.is_ascii_whitespace() {
            continue;
        } else if !"{}[],:".contains(c) {
            while let Some(c) =
                chars.next_if(|c| !"{}[],:\"".contains(*c) && !c.is_ascii_whitespace())
            {
                token.push(c);
            }
        }
        tokens.push(token);
    }
    tokens
}

fn space() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", " ", "\n\t", "\r\n  "])
}

fn scalar() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "1",
        "12",
        "-1.5e3",
        "true",
        "null",
        "\"\"",
        "\"a b\"",
        "\"a\\\" {\"",
        "\"\\\\\"",
        "\"é, \\n\"",
        "\"a  b\"",
    ])
    .prop_map(str::to_owned)
}

/// Generates few different values, each with random white space.
fn value() -> impl Strategy<Value = String> {
    scalar().prop_recursive(3, 12, 3, |inner| {
        let item = (space(), inner.clone(), space())
            .prop_map(|(a, value, b)| format!("{a}{value}{b}"))
            .boxed();
        let name = prop::sample::select(vec!["\"a\"", "\"b c\""]);
        let member = (space(), name, space(), item.clone())
            .prop_map(|(a, name, b, item)| format!("{a}{name}{b}:{item}"));
        prop_oneof![
            prop::collection::vec(item, 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 0..3)
                .prop_map(|items| format!("{{{}}}", items.join(","))),
        ]
    })
}

fn object() -> impl Strategy<Value = String> {
    let names = vec!["\"a\"", "\"b\"", "\"\\u0061\"", "\"c\""];
    let member = (
        space(),
        prop::sample::select(names),
        space(),
        space(),
        value(),
        space(),
    )
        .prop_map(|(a, name, b, c, value, d)| format!("{a}{name}{b}:{c}{value}{d}"));
    (space(), prop::collection::vec(member, 0..4), space())
        .prop_map(|(a, members, b)| format!("{a}{{{}}}{b}", members.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 1_000 } else { 100_000 }))]

    #[test]
    fn equal_fields_mean_equal_bodies(a in object(), b in object()) {
        for body in [&a, &b] {
            let json: BTreeMap<String, Box<RawValue>> = serde_json::from_str(body).expect("sound JSON");
            // A parser that keeps the last of repeated names sees fewer of them.
            let names = fields(body.as_bytes()).map(|fields| fields.len());
            prop_assert!(names.is_none_or(|names| names == json.len()));
        }
        if let (Some(left), Some(right)) = (fields(a.as_bytes()), fields(b.as_bytes())) {
            prop_assert_eq!(left == right, slow(a.as_bytes()) == slow(b.as_bytes()), "{} | {}", a, b);
        }
    }

    #[test]
    fn canonical_body_is_a_fixed_point(body in object()) {
        let Some(once) = fields(body.as_bytes()) else { return Ok(()); };
        let mut again = String::from("{");
        for field in &once {
            let name = serde_json::to_string(&field.name).expect("a string");
            let value = std::str::from_utf8(&field.value).expect("UTF-8");
            let comma = if again.len() > 1 { "," } else { "" };
            again.push_str(&format!("{comma}{name}:{value}"));
        }
        again.push('}');
        prop_assert_eq!(fields(again.as_bytes()), Some(once));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(prop::sample::select(b"{}[],:\"\\ a1\xff\n".to_vec()), 0..60)) {
        let _ = fields(&bytes);
        let _ = fields(&[b"{\"a\":", &*bytes, b"}"].concat());
    }
}

#[test]
fn tokens_separated_by_white_space_stay_separate() {
    for (a, b) in [
        ("{\"a\":[1 2]}", "{\"a\":[12]}"),
        ("{\"a\":[tr ue]}", "{\"a\":[true]}"),
        ("{\"a\":[\"b\" \"c\"]}", "{\"a\":[\"b\"\"c\"]}"),
        ("{\"a\":\"b  c\"}", "{\"a\":\"b c\"}"),
        ("{\"a\":{\"b\":1,\"c\":2}}", "{\"a\":{\"c\":2,\"b\":1}}"),
    ] {
        assert_ne!(fields(a.as_bytes()), fields(b.as_bytes()), "{a} {b}");
    }
}

#[test]
fn invalid_or_ambiguous_object_has_no_fields() {
    for body in [
        "",
        "{",
        "[]",
        "1",
        "{}x",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1 2}",
        "{\"a\":\"b}",
        "{\"a\":[1}",
        "{\"a\":1,\"a\":1}",
        "{\"a\":1,\"\\u0061\":1}",
        "{\"\\x\":1}",
        // It must not equal the valid name that has the escape.
        "{\"a\nb\":1}",
    ] {
        assert_eq!(fields(body.as_bytes()), None, "{body}");
    }
}
