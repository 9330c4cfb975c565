//! Tests of the editor.

use bytes::Bytes;

use super::{JsonObjectEditor, Why};

/// A body of 32 MiB may contain millions of members, and none may take more memory than its bytes.
#[test]
fn run_of_inaccessible_members_is_one_piece() {
    let many = r#""x":0, "#.repeat(3);
    let json = format!(r#"{{{many}"a":1, {many}"b":2, {many}"y":3}}"#);
    let mut object = JsonObjectEditor::parse(Bytes::from(json), &["a", "b"], "").unwrap();
    assert_eq!(object.members.len(), 5);
    object.remove("a", Why::Unsupported);
    object.set("b", "4", Why::Clamped);
    let whole = format!(r#"{{{many}{many}"b":4, {many}"y":3}}"#);
    assert_eq!(object.render(), whole);
    object.keep_only(&["b"]);
    assert_eq!(object.render(), r#"{"b":4}"#);
}
