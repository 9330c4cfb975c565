//! Steps over JSON values by their quotes and brackets. Most of the parsing time is spent here.

use memchr::memchr;

pub(crate) fn skip_space(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = json.get(at) {
        at += 1;
    }
    at
}

/// A visitor of the strings and the white space that are stepped over.
pub(crate) trait StringVisitor {
    /// Visits a key or a string inside of an object or array. Its text is `json[from..to]`.
    fn visit(&mut self, json: &[u8], from: usize, to: usize);

    /// Records white space inside of an object or array, outside of strings.
    #[inline]
    fn skip(&mut self, spaces: usize) {
        let _ = spaces;
    }
}

impl StringVisitor for () {
    #[inline]
    fn visit(&mut self, _: &[u8], _: usize, _: usize) {}
}

/// Returns the index after the value that begins at `at`.
pub(crate) fn value_end(json: &[u8], at: usize) -> Option<usize> {
    value_end_visiting(json, at, &mut ())
}

/// Like [`value_end`], and shows the strings inside the value to `visitor`.
pub(crate) fn value_end_visiting(
    json: &[u8],
    at: usize,
    visitor: &mut impl StringVisitor,
) -> Option<usize> {
    match json.get(at)? {
        b'"' => string_end(json, at + 1),
        b'{' | b'[' => nested_end(json, at + 1, visitor),
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

/// Returns the index after the closing quote of the string whose content begins at `from`.
///
/// Searches for quotes and counts the backslashes before each, because text has many `\n` and few
/// `\"`.
#[inline]
pub(crate) fn string_end(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let quote = at + find_byte(json.get(at..)?, b'"')?;
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

/// Returns the index of the first `byte`. The call of `memchr` costs more than the search in a
/// short string, and most strings are keys, roles and types, so these are searched here.
#[inline]
pub(crate) fn find_byte(text: &[u8], byte: u8) -> Option<usize> {
    let (words, tail) = text.as_chunks::<8>();
    for (index, word) in words.iter().take(SHORT_WORDS).enumerate() {
        let found = bytes_equal(u64::from_le_bytes(*word), byte);
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    if words.len() < SHORT_WORDS {
        let at = text.len() - tail.len();
        return tail.iter().position(|b| *b == byte).map(|found| at + found);
    }
    memchr(byte, &text[SHORT_WORDS * 8..]).map(|found| SHORT_WORDS * 8 + found)
}

/// Words of eight bytes that are searched before `memchr` is called.
const SHORT_WORDS: usize = 2;

/// Returns a word with the high bit set in each byte of `word` that equals `byte`. Exact up to the
/// lowest such byte.
#[inline]
fn bytes_equal(word: u64, byte: u8) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let word = word ^ (ONES * u64::from(byte));
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// Returns the index after the bracket that closes the object or array whose content begins at
/// `at`.
fn nested_end(json: &[u8], mut at: usize, visitor: &mut impl StringVisitor) -> Option<usize> {
    const SPACES: &[u8; 8] = &[b' '; 8];
    let mut depth = 1usize;
    loop {
        let byte = *json.get(at)?;
        at += 1;
        match byte {
            b'"' => {
                let end = string_end(json, at)?;
                visitor.visit(json, at, end - 1);
                at = end;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            // Indentation, eight spaces at once.
            b'\n' => {
                let newline = at - 1;
                while json[at..].first_chunk() == Some(SPACES) {
                    at += 8;
                }
                visitor.skip(at - newline);
            }
            b' ' | b'\t' | b'\r' => visitor.skip(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{find_byte, string_end};

    proptest! {
        #[test]
        fn find_byte_in_any_bytes_agrees_with_memchr(
            text in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'#')], 0..60),
            byte in prop_oneof![any::<u8>(), Just(b'"')],
        ) {
            prop_assert_eq!(find_byte(&text, byte), memchr::memchr(byte, &text));
        }

        #[test]
        fn string_end_in_any_text_is_after_the_first_quote_without_escape(text in "[\\\\\"a\n]{0,40}") {
            let mut escaped = false;
            let end = text.bytes().position(|byte| {
                let closes = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                closes
            });
            prop_assert_eq!(string_end(text.as_bytes(), 0), end.map(|quote| quote + 1));
        }
    }
}
