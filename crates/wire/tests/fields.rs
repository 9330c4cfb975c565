//! Members of JSON objects by their position.

use proptest::prelude::*;
use tower_claude_wire::{Elements, Fields, InvalidJson, json_text};

#[test]
fn fields_have_position_and_unescaped_name() {
    let json = br#" { "a\u0062" : [1, {"x":2}] ,"c":"}" ,"c":-1.5e3 } "#;
    let fields: Vec<_> = Fields::open(json).unwrap().map(Result::unwrap).collect();
    let names: Vec<_> = fields.iter().map(|field| &*field.name).collect();
    assert_eq!(names, ["ab", "c", "c"]);
    let values: Vec<_> = fields.iter().map(|field| field.value_in(json)).collect();
    assert_eq!(values, [&br#"[1, {"x":2}]"#[..], br#""}""#, b"-1.5e3"]);
    assert_eq!(
        &json[fields[0].span.clone()],
        br#""a\u0062" : [1, {"x":2}]"#
    );
    assert_eq!(fields[0].value_in(b"short"), b"");
    let list: Vec<_> = Elements::open(b"[1 , \"]\",[ ]] ").unwrap().collect();
    assert_eq!(list, [&b"1"[..], br#""]""#, b"[ ]"]);
    assert_eq!(json_text(br#""\u0061b""#).as_deref(), Some("ab"));
    assert_eq!(json_text(b"1"), None);
}

#[test]
fn invalid_object_ends_with_one_error() {
    assert!(Fields::open(b"[]").is_none() && Elements::open(b"{}").is_none());
    for json in [
        &br#"{"a":1"#[..],
        br#"{"a":1} x"#,
        br#"{"a":1,"\q":2}"#,
        b"{\"a\":1,\"\xff\":2}",
    ] {
        let mut fields = Fields::open(json).unwrap();
        let ends: Vec<_> = fields.by_ref().filter_map(Result::err).collect();
        assert_eq!(ends, [InvalidJson], "{json:?}");
        assert!(fields.next().is_none());
    }
    let mut fields = Fields::open(b"{}").unwrap();
    assert!(fields.next().is_none() && fields.next().is_none());
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(json in "[{}\\[\\]\",:a-z\\\\0-9é ]{0,60}", raw in prop::collection::vec(any::<u8>(), 0..60)) {
        for json in [json.as_bytes(), &raw] {
            for field in Fields::open(json).into_iter().flatten().flatten() {
                let value = field.value_in(json);
                prop_assert!(!value.is_empty() && json[field.span.clone()].ends_with(value));
                Elements::open(value).into_iter().flatten().for_each(drop);
            }
        }
    }
}
