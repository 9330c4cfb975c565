//! A request body as what the model sees of it: the fields of its top level in the order of their names, each value as
//! it was written, without the white space between its tokens.
//!
//! The order of inner keys stays: it is part of what the model reads. Only quotes and brackets are looked at; whether
//! the rest is JSON is the API's to say, and no two bodies that differ in a token are made equal.

use std::borrow::Cow;

use memchr::memchr;

/// One field of the top level.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    /// Its name, escapes resolved.
    pub(crate) name: Cow<'a, [u8]>,
    /// Its value without white space between tokens; borrowed where there was none.
    pub(crate) value: Cow<'a, [u8]>,
}

/// The fields of an object by name; `None` for anything but one whole object without a repeated name.
pub(crate) fn fields(json: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::with_capacity(12);
    let mut at = skip_space(json, 0);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at = skip_space(json, at + 1);
    if json.get(at) == Some(&b'}') {
        return is_over(json, at + 1).then_some(fields);
    }
    loop {
        if json.get(at) != Some(&b'"') {
            return None;
        }
        let end = string_end(json, at + 1)?;
        let name = name(&json[at..end])?;
        at = skip_space(json, end);
        if json.get(at) != Some(&b':') {
            return None;
        }
        at = skip_space(json, at + 1);
        let (end, spaced) = value_end(json, at)?;
        let raw = &json[at..end];
        let value = if spaced {
            Cow::Owned(squeezed(raw))
        } else {
            Cow::Borrowed(raw)
        };
        fields.push(Field { name, value });
        at = skip_space(json, end);
        match json.get(at)? {
            b',' => at = skip_space(json, at + 1),
            b'}' if is_over(json, at + 1) => break,
            _ => return None,
        }
    }
    fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let repeated = fields.windows(2).any(|pair| pair[0].name == pair[1].name);
    (!repeated).then_some(fields)
}

/// Out of the quotes; `None` where an escape is wrong, or a control character is not escaped.
fn name(quoted: &[u8]) -> Option<Cow<'_, [u8]>> {
    let inner = &quoted[1..quoted.len() - 1];
    if inner.iter().any(|byte| *byte < b' ') {
        return None;
    }
    if memchr(b'\\', inner).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    let text: String = serde_json::from_slice(quoted).ok()?;
    Some(Cow::Owned(text.into_bytes()))
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).copied().is_some_and(is_space) {
        at += 1;
    }
    at
}

fn is_over(json: &[u8], at: usize) -> bool {
    skip_space(json, at) == json.len()
}

/// The index after the closing quote of the string whose content begins at `from`.
fn string_end(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let quote = at + memchr(b'"', json.get(at..)?)?;
        let before = &json[from..quote];
        let escapes = before.iter().rev().take_while(|byte| **byte == b'\\');
        at = quote + 1;
        if escapes.count() % 2 == 0 {
            return Some(at);
        }
    }
}

/// The index after the value that begins at `start`, and whether there is white space between its tokens.
fn value_end(json: &[u8], start: usize) -> Option<(usize, bool)> {
    let mut at = start;
    let mut depth = 0usize;
    let mut spaced = false;
    loop {
        match *json.get(at)? {
            b'"' => {
                at = string_end(json, at + 1)?;
                if depth == 0 {
                    return Some((at, spaced));
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 1 => depth -= 1,
            b'}' | b']' if depth == 1 => return Some((at + 1, spaced)),
            // The end of a number or a literal, which must have been one.
            b',' | b'}' | b']' if depth == 0 => return (at > start).then_some((at, spaced)),
            byte if is_space(byte) => {
                if depth == 0 {
                    return (at > start).then_some((at, spaced));
                }
                spaced = true;
            }
            _ => {}
        }
        at += 1;
    }
}

/// The value without white space between its tokens. Two tokens that only white space keeps apart stay apart, so that
/// a broken `[1 2]` does not become a sound `[12]`.
fn squeezed(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        if byte == b'"' {
            let end = string_end(value, at + 1).unwrap_or(value.len());
            out.extend_from_slice(&value[at..end]);
            at = end;
        } else if is_space(byte) {
            at = skip_space(value, at);
            let next = value.get(at).copied().unwrap_or(b',');
            if out.last().copied().is_some_and(is_word) && is_word(next) {
                out.push(b' ');
            }
        } else {
            out.push(byte);
            at += 1;
        }
    }
    out
}

const fn is_word(byte: u8) -> bool {
    !matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':')
}
