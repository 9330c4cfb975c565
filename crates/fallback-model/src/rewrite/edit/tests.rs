//! What is kept of an object.

use bytes::Bytes;

use super::{Object, Why};

/// A body of 32 MiB has room for millions of members, of which none may cost more than its bytes.
#[test]
fn members_that_nobody_asks_for_are_one() {
    let many = r#""x":0, "#.repeat(3);
    let json = format!(r#"{{{many}"a":1, {many}"b":2, {many}"y":3}}"#);
    let mut object = Object::parse(Bytes::from(json), &["a", "b"], "").unwrap();
    assert_eq!(object.members.len(), 5);
    object.remove("a", Why::Unsupported);
    object.set("b", "4", Why::Clamped);
    let whole = format!(r#"{{{many}{many}"b":4, {many}"y":3}}"#);
    assert_eq!(object.render(), whole);
    object.keep_only(&["b"]);
    assert_eq!(object.render(), r#"{"b":4}"#);
}
