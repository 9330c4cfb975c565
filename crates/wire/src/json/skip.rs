//! Steps over JSON values by their quotes and brackets. Most of the parsing time is spent here.

use memchr::{memchr, memchr2};

#[inline]
pub(crate) fn skip_space(json: &[u8], at: usize) -> usize {
    #[cold]
    fn skip(json: &[u8], mut at: usize) -> usize {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = json.get(at) {
            at += 1;
        }
        at
    }
    // Machines write no space.
    match json.get(at) {
        Some(..=b' ') => skip(json, at),
        _ => at,
    }
}

/// A visitor of the strings and the white space that are stepped over.
pub(crate) trait StringVisitor {
    /// True if the visitor reads the position of escapes, which takes a little longer to find.
    const READS_ESCAPES: bool;

    /// Visits a key or a string inside of an object or array. Its text is `json[from..to]`. The
    /// first escape is at `escape`, which is `to` if there is none or the visitor does not read it.
    fn visit(&mut self, json: &[u8], from: usize, escape: usize, to: usize);

    /// Records white space inside of an object or array, outside of strings.
    #[inline]
    fn skip(&mut self, spaces: usize) {
        let _ = spaces;
    }
}

impl StringVisitor for () {
    const READS_ESCAPES: bool = false;

    #[inline]
    fn visit(&mut self, _: &[u8], _: usize, _: usize, _: usize) {}
}

/// Returns the index after the value that begins at `at`.
pub(crate) fn value_end(json: &[u8], at: usize) -> Option<usize> {
    value_end_visiting(json, at, &mut ())
}

/// Like [`value_end`], and shows the strings inside the value to `visitor`.
#[inline]
pub(crate) fn value_end_visiting(
    json: &[u8],
    at: usize,
    visitor: &mut impl StringVisitor,
) -> Option<usize> {
    match json.get(at)? {
        b'"' => string_end(json, at + 1),
        _ => other_end(json, at, visitor),
    }
}

/// Returns the index after the value that begins at `at` and is no string.
fn other_end(json: &[u8], at: usize, visitor: &mut impl StringVisitor) -> Option<usize> {
    match json.get(at)? {
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
        at = quote + 1;
        if !is_escaped(json, from, quote) {
            return Some(at);
        }
    }
}

/// Returns true if an odd number of backslashes ends at `quote`, in a string that begins at `from`.
#[inline]
fn is_escaped(json: &[u8], from: usize, quote: usize) -> bool {
    #[cold]
    fn is_odd(text: &[u8]) -> bool {
        text.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
    }
    quote > from && json[quote - 1] == b'\\' && is_odd(&json[from..quote])
}

/// Returns the position of the first escape of the string whose content begins at `from`, or of its
/// closing quote if there is none, and the index after the closing quote.
#[inline]
fn escape_and_end(json: &[u8], from: usize) -> Option<(usize, usize)> {
    let escape = from + find_quote_or_escape(json.get(from..)?)?;
    if json[escape] == b'"' {
        return Some((escape, escape + 1));
    }
    Some((escape, string_end(json, escape)?))
}

/// Returns the index of the first `byte`. The call of `memchr` costs more than the search in a
/// short string, and most strings are keys, roles and types, so these are searched here.
#[inline]
pub(crate) fn find_byte(text: &[u8], byte: u8) -> Option<usize> {
    let marks = |word| bytes_equal(word, byte);
    find_marked(text, marks, |rest| memchr(byte, rest))
}

/// Returns the index of the first quote or backslash.
#[inline]
fn find_quote_or_escape(text: &[u8]) -> Option<usize> {
    let marks = |word| bytes_equal(word, b'"') | bytes_equal(word, b'\\');
    find_marked(text, marks, |rest| memchr2(b'"', b'\\', rest))
}

/// Words of eight bytes that are searched before `memchr` is called.
const SHORT_WORDS: usize = 4;

/// Returns the index of the first byte that `marks` marks, or that `search` finds after the first
/// words.
#[inline]
fn find_marked(
    text: &[u8],
    marks: impl Fn(u64) -> u64,
    search: impl Fn(&[u8]) -> Option<usize>,
) -> Option<usize> {
    let (words, _) = text.as_chunks::<8>();
    // A known number of words is searched without a loop.
    let (searched, found) = match words.first_chunk::<SHORT_WORDS>() {
        Some(words) => (SHORT_WORDS * 8, find_in_words(words, marks)),
        None => (words.len() * 8, find_in_words(words, marks)),
    };
    found.or_else(|| Some(searched + search(&text[searched..])?))
}

#[inline]
fn find_in_words(words: &[[u8; 8]], marks: impl Fn(u64) -> u64) -> Option<usize> {
    for (index, word) in words.iter().enumerate() {
        let found = marks(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    None
}

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
pub(crate) fn nested_end(
    json: &[u8],
    mut at: usize,
    visitor: &mut impl StringVisitor,
) -> Option<usize> {
    const SPACES: &[u8; 8] = &[b' '; 8];
    let mut depth = 1usize;
    loop {
        let byte = *json.get(at)?;
        at += 1;
        // The most common byte first, then what follows a string.
        if byte == b'"' {
            at = visit_string(json, at, visitor)?;
            if let Some(b':' | b',') = json.get(at) {
                at += 1;
            }
            continue;
        }
        match byte {
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

/// Shows the string whose content begins at `from` to the visitor, and returns the index after its
/// closing quote.
#[inline]
fn visit_string<V: StringVisitor>(json: &[u8], from: usize, visitor: &mut V) -> Option<usize> {
    let (escape, end) = if V::READS_ESCAPES {
        escape_and_end(json, from)?
    } else {
        let end = string_end(json, from)?;
        (end - 1, end)
    };
    visitor.visit(json, from, escape, end - 1);
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{escape_and_end, find_byte, string_end};

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
            let both = end.map(|quote| {
                let escape = memchr::memchr(b'\\', &text.as_bytes()[..quote]);
                (escape.unwrap_or(quote), quote + 1)
            });
            prop_assert_eq!(escape_and_end(text.as_bytes(), 0), both);
        }
    }
}
