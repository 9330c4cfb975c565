//! Hashes of JSON values that are equal if the API reads the values as equal.

use std::borrow::Cow;
use std::hash::Hasher;

use crate::json::{Elements, Object, find, json_text, skip_space, value_end};

/// Members whose values the model reads as they are written, with their order.
const VERBATIM: [&[u8]; 4] = [b"input", b"input_schema", b"input_examples", b"schema"];

/// Members of blocks and tools with a value that means the same as their absence.
const DEFAULTS: [(&[u8], &[u8]); 8] = [
    (b"is_error", b"false"),
    (b"strict", b"false"),
    (b"defer_loading", b"false"),
    (b"eager_input_streaming", b"false"),
    (b"disable_parallel_tool_use", b"false"),
    (b"citations", b"[]"),
    (b"citations", br#"{"enabled":false}"#),
    (b"type", br#""custom""#),
];

/// The most levels of objects whose members are sorted. Deeper values count as they are written.
const MAX_DEPTH: usize = 8;

/// The key and the raw value of a member.
type Member<'a> = (Cow<'a, [u8]>, &'a [u8]);

/// Hashes a block, or the first elements of its content.
pub(super) fn block(json: &[u8], elements: usize, hasher: &mut impl Hasher) {
    match json {
        [b'"', ..] => text_block(json, hasher),
        _ => object(json, elements, 0, hasher),
    }
}

/// Hashes a top-level setting. One without effect counts as absent.
pub(super) fn setting(json: &[u8], default_effort: Option<&str>, hasher: &mut impl Hasher) {
    let text = |key| find(json, key).and_then(json_text);
    let members = members(json);
    let only = |key: &[u8]| matches!(&members[..], [(name, _)] if **name == *key);
    let is_absent = json == b"null"
        || members.is_empty() && json.first() == Some(&b'{')
        || only(b"type") && text(b"type").is_some_and(|kind| kind == "auto")
        || only(b"effort") && text(b"effort").as_deref() == default_effort;
    if is_absent {
        tokens(b"", hasher);
    } else {
        value(json, 0, hasher);
    }
}

/// Hashes the tokens of a value: strings by their text, all else as it is written.
pub(super) fn tokens(json: &[u8], hasher: &mut impl Hasher) {
    let mut at = skip_space(json, 0);
    while let Some(&byte) = json.get(at) {
        let end = match byte {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => {
                hasher.write_u8(byte);
                at = skip_space(json, at + 1);
                continue;
            }
            _ => value_end(json, at).filter(|end| *end > at),
        };
        // Text that is no JSON counts as it is written.
        let end = end.unwrap_or(json.len());
        let token = &json[at..end];
        match json_text(token) {
            Some(text) => {
                hasher.write_u8(b'"');
                bytes(text.as_bytes(), hasher);
            }
            None => bytes(token, hasher),
        }
        at = skip_space(json, end);
    }
    hasher.write_u8(b'.');
}

fn bytes(bytes: &[u8], hasher: &mut impl Hasher) {
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
}

fn value(json: &[u8], depth: usize, hasher: &mut impl Hasher) {
    match json.first() {
        Some(b'{') if depth < MAX_DEPTH => object(json, usize::MAX, depth, hasher),
        Some(b'[') if depth < MAX_DEPTH => {
            hasher.write_u8(b'[');
            for element in Elements::open(json).into_iter().flatten() {
                value(element, depth + 1, hasher);
            }
            hasher.write_u8(b']');
        }
        _ => tokens(json, hasher),
    }
}

/// Hashes the members of an object in the order of their names, with its content last.
fn object(json: &[u8], elements: usize, depth: usize, hasher: &mut impl Hasher) {
    let mut members = members(json);
    let content = members.iter().position(|(key, _)| **key == *b"content");
    let content = content.map(|at| members.remove(at).1);
    hasher.write_u8(b'{');
    for (key, json) in &members {
        bytes(key, hasher);
        if **key == *b"text" {
            text(json, hasher);
        } else if VERBATIM.contains(&&**key) {
            tokens(json, hasher);
        } else {
            value(json, depth + 1, hasher);
        }
    }
    hasher.write_u8(b'}');
    // After all else and without an end, so that the first elements have a hash of their own.
    match content {
        Some(json @ [b'"', ..]) => text_block(json, hasher),
        Some(json) if depth < MAX_DEPTH && json.first() == Some(&b'[') => {
            let all = Elements::open(json).into_iter().flatten();
            all.take(elements)
                .for_each(|element| value(element, depth + 1, hasher));
        }
        Some(json) => value(json, depth + 1, hasher),
        None => {}
    }
}

/// Returns the members of an object in the order of their names, without those that have no effect.
/// Of duplicates the last one remains.
fn members(json: &[u8]) -> Vec<Member<'_>> {
    let mut members: Vec<Member<'_>> = Vec::with_capacity(8);
    let Some(mut object) = Object::open(json) else {
        return members;
    };
    while let Ok(Some(member)) = object.next() {
        let key = match member.unescaped() {
            Some(key) => Cow::Owned(key.into_bytes()),
            None => Cow::Borrowed(member.key),
        };
        members.retain(|(name, _)| *name != key);
        if *key != *super::CACHE_CONTROL
            && member.value != b"null"
            && !is_default(&key, member.value)
        {
            members.push((key, member.value));
        }
    }
    members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    members
}

fn is_default(key: &[u8], value: &[u8]) -> bool {
    // The longest default has 17 bytes, and some more with white space.
    if value.len() > 40 {
        return false;
    }
    let has_space = value.iter().any(u8::is_ascii_whitespace);
    let dense = || {
        value
            .iter()
            .copied()
            .filter(|byte| !byte.is_ascii_whitespace())
    };
    DEFAULTS.iter().any(|(name, default)| {
        key == *name && (value == *default || has_space && dense().eq(default.iter().copied()))
    })
}

/// Hashes a text like the block that has it.
fn text_block(json: &[u8], hasher: &mut impl Hasher) {
    hasher.write_u8(b'{');
    bytes(b"text", hasher);
    text(json, hasher);
    bytes(b"type", hasher);
    tokens(br#""text""#, hasher);
    hasher.write_u8(b'}');
}

/// Hashes a text without the changing value of an attribution.
fn text(json: &[u8], hasher: &mut impl Hasher) {
    const ATTRIBUTION: &str = "x-anthropic-billing-header:";
    const CHANGING: &str = "cch=";
    let parts = json_text(json).filter(|text| text.starts_with(ATTRIBUTION));
    let parts = parts.as_deref().and_then(|text| text.split_once(CHANGING));
    let Some((before, after)) = parts else {
        return tokens(json, hasher);
    };
    let end = after.find(|char: char| !char.is_ascii_alphanumeric());
    bytes(before.as_bytes(), hasher);
    bytes(&after.as_bytes()[end.unwrap_or(after.len())..], hasher);
}
