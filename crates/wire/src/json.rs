//! Top-level scan of a JSON object: hands out keys and raw values, steps over nested ones without looking inside.
//!
//! Only the balance of quotes and brackets is checked: what the API accepts is the API's to say.

use std::borrow::Cow;

use memchr::memchr;

/// The text is no JSON object, or is cut short.
pub(crate) struct Broken;

/// One `"key": value` of an object, both raw.
pub(crate) struct Member<'a> {
    /// The key between its quotes, escapes not resolved.
    pub(crate) key: &'a [u8],
    /// Where `value` begins in the scanned bytes.
    pub(crate) at: usize,
    /// The value as written, without the white space around it.
    pub(crate) value: &'a [u8],
}

impl<'a> Member<'a> {
    /// The key with its escapes resolved; keys nearly never have any.
    pub(crate) fn name(&self) -> Cow<'a, [u8]> {
        if memchr(b'\\', self.key).is_none() {
            return Cow::Borrowed(self.key);
        }
        let quoted = [b"\"", self.key, b"\""].concat();
        match serde_json::from_slice::<String>(&quoted) {
            Ok(key) => Cow::Owned(key.into_bytes()),
            Err(_) => Cow::Borrowed(self.key),
        }
    }
}

/// Walks over the members of one object.
pub(crate) struct Object<'a> {
    json: &'a [u8],
    at: usize,
    first: bool,
}

impl<'a> Object<'a> {
    /// Starts at the `{`; `None` if the text is not an object.
    pub(crate) fn open(json: &'a [u8]) -> Option<Self> {
        let at = open(json, b'{')?;
        Some(Self {
            json,
            at,
            first: true,
        })
    }

    /// The next member, or `Ok(None)` after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Member<'a>>, Broken> {
        self.step().ok_or(Broken)
    }

    fn step(&mut self) -> Option<Option<Member<'a>>> {
        let json = self.json;
        let at = match separator(json, self.at, b'}', self.first)? {
            Next::Item(at) => at,
            Next::End => return Some(None),
        };
        self.first = false;
        if json.get(at) != Some(&b'"') {
            return None;
        }
        let end = string_end(json, at + 1)?;
        let key = &json[at + 1..end - 1];
        let colon = skip_space(json, end);
        if json.get(colon) != Some(&b':') {
            return None;
        }
        let at = skip_space(json, colon + 1);
        self.at = value_end(json, at)?;
        Some(Some(Member {
            key,
            at,
            value: &json[at..self.at],
        }))
    }
}

/// Walks over the elements of one array.
pub(crate) struct Array<'a> {
    json: &'a [u8],
    at: usize,
    first: bool,
}

impl<'a> Array<'a> {
    /// Starts at the `[`; `None` if the text is not an array.
    pub(crate) fn open(json: &'a [u8]) -> Option<Self> {
        let at = open(json, b'[')?;
        Some(Self {
            json,
            at,
            first: true,
        })
    }

    /// The next element, or `None` after the last one or where the text breaks.
    pub(crate) fn next(&mut self) -> Option<&'a [u8]> {
        let Next::Item(at) = separator(self.json, self.at, b']', self.first)? else {
            return None;
        };
        self.first = false;
        self.at = value_end(self.json, at)?;
        Some(&self.json[at..self.at])
    }
}

/// The text of a raw JSON string; `None` for any other value or a string that is not valid.
pub(crate) fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr(b'\\', inner).is_some() {
        return serde_json::from_slice(value).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// A raw JSON number that is a non-negative integer of 64 bits.
pub(crate) fn integer(value: &[u8]) -> Option<u64> {
    if !value.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

enum Next {
    Item(usize),
    End,
}

fn open(json: &[u8], bracket: u8) -> Option<usize> {
    let at = skip_space(json, 0);
    (json.get(at) == Some(&bracket)).then_some(at + 1)
}

/// Steps over the comma before an item, or over the closing bracket and the white space that may follow it.
fn separator(json: &[u8], at: usize, close: u8, first: bool) -> Option<Next> {
    let at = skip_space(json, at);
    let byte = *json.get(at)?;
    if byte == close {
        return (skip_space(json, at + 1) == json.len()).then_some(Next::End);
    }
    if first {
        return Some(Next::Item(at));
    }
    (byte == b',').then(|| Next::Item(skip_space(json, at + 1)))
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = json.get(at) {
        at += 1;
    }
    at
}

/// The index after the value that begins at `at`.
fn value_end(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => string_end(json, at + 1),
        b'{' | b'[' => nested_end(json, at + 1),
        b'-' | b'0'..=b'9' => {
            let number = json[at..].iter().take_while(|b| is_number(**b)).count();
            Some(at + number)
        }
        b't' => literal_end(json, at, b"true"),
        b'f' => literal_end(json, at, b"false"),
        b'n' => literal_end(json, at, b"null"),
        _ => None,
    }
}

fn is_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

fn literal_end(json: &[u8], at: usize, literal: &[u8]) -> Option<usize> {
    json[at..]
        .starts_with(literal)
        .then_some(at + literal.len())
}

/// The index after the closing quote of the string whose content begins at `from`.
///
/// Looks for quotes only and counts the backslashes before each: text is full of `\n` and has few `\"`.
#[inline]
fn string_end(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let quote = at + find_quote(&json[at..])?;
        let escapes = json[from..quote]
            .iter()
            .rev()
            .take_while(|b| **b == b'\\')
            .count();
        at = quote + 1;
        if escapes % 2 == 0 {
            return Some(at);
        }
    }
}

/// `memchr` with its call saved for short strings: keys, roles, types.
#[inline]
fn find_quote(json: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
    if let Some(word) = json.first_chunk() {
        let word = u64::from_le_bytes(*word) ^ QUOTES;
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(zeros.trailing_zeros() as usize / 8);
        }
        return memchr(b'"', &json[8..]).map(|at| at + 8);
    }
    json.iter().position(|b| *b == b'"')
}

/// The index after the bracket that closes the object or array whose content begins at `at`.
fn nested_end(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 1usize;
    loop {
        let byte = *json.get(at)?;
        at += 1;
        match byte {
            b'"' => at = string_end(json, at)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
}
