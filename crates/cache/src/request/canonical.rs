//! Canonical form of a request body: the top-level fields in the order of their names, each value
//! as it was written, without the white space between its tokens.
//!
//! The order of nested keys is kept, because it is part of what the model reads. Only quotes and
//! brackets are checked, since validating JSON is the API's task. Two bodies that differ in a token
//! are never made equal.

use std::borrow::Cow;

use tower_claude_wire::{Fields, json_string_end};

/// One top-level field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    /// The name, escapes resolved.
    pub(crate) name: Cow<'a, str>,
    /// The value without white space between tokens. Borrowed if there was none.
    pub(crate) value: Cow<'a, [u8]>,
}

/// Returns the fields of an object by name, or `None` unless `json` is one complete object without
/// a repeated name.
pub(crate) fn fields(json: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::with_capacity(12);
    for field in Fields::open(json)? {
        let field = field.ok()?;
        let value = without_spaces(field.value_in(json));
        let begin = field.span.start;
        let quoted = &json[begin..json_string_end(json, begin + 1)?];
        // A name with an unescaped control character must not equal the valid name that has the
        // escape.
        if quoted.iter().any(|byte| *byte < b' ') {
            return None;
        }
        let name = field.name;
        fields.push(Field { name, value });
    }
    fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let repeated = fields.windows(2).any(|pair| pair[0].name == pair[1].name);
    (!repeated).then_some(fields)
}

/// Returns the value without white space between its tokens.
///
/// Two tokens that only white space separates stay separate, so that an invalid `[1 2]` does not
/// become a valid `[12]`.
fn without_spaces(value: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    // End of the part of `value` that `out` covers.
    let mut copied = 0;
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        if byte == b'"' {
            at = json_string_end(value, at + 1).unwrap_or(value.len());
        } else if is_space(byte) {
            if copied == 0 {
                out.reserve_exact(value.len());
            }
            out.extend_from_slice(&value[copied..at]);
            while value.get(at).copied().is_some_and(is_space) {
                at += 1;
            }
            copied = at;
            let next = value.get(at);
            if out.last().is_some_and(is_word) && next.is_some_and(is_word) {
                out.push(b' ');
            }
        } else {
            at += 1;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(value);
    }
    out.extend_from_slice(&value[copied..]);
    Cow::Owned(out)
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

const fn is_word(byte: &u8) -> bool {
    !matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':')
}
