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

    /// Visits the strings of a usual beginning of an object, and returns its length. `text` begins
    /// after the brace. 0 if it begins in another way.
    #[inline]
    fn opening(&mut self, text: &[u8]) -> usize {
        let _ = text;
        0
    }

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
    match find_in_words(json, from, |word| bytes_equal(word, b'"')) {
        Some(quote) if json.get(quote.wrapping_sub(1)) != Some(&b'\\') => Some(quote + 1),
        found => long_string_end(json, from, found.unwrap_or(from)),
    }
}

/// Returns the same as [`string_end`] for a string without a quote before `at`, which is probably
/// long.
#[inline(never)]
pub(crate) fn long_string_end(json: &[u8], from: usize, mut at: usize) -> Option<usize> {
    loop {
        let quote = at + memchr(b'"', json.get(at..)?)?;
        at = quote + 1;
        if !is_escaped(&json[from..quote]) {
            return Some(at);
        }
    }
}

/// Returns true if the text ends with an odd number of backslashes.
#[inline]
fn is_escaped(text: &[u8]) -> bool {
    text.ends_with(b"\\") && text.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
}

/// Returns the position of the first escape of the string whose content begins at `from`, or of its
/// closing quote if there is none, and the index after the closing quote.
#[inline(always)]
pub(crate) fn escape_and_end(json: &[u8], from: usize) -> Option<(usize, usize)> {
    let escape = match find_in_words(json, from, quote_or_escape) {
        Some(found) => found,
        None => from + memchr2(b'"', b'\\', json.get(from..)?)?,
    };
    if json[escape] == b'"' {
        return Some((escape, escape + 1));
    }
    Some((escape, long_string_end(json, from, escape)?))
}

/// Returns the index of the first `byte`.
#[inline]
pub(crate) fn find_byte(text: &[u8], byte: u8) -> Option<usize> {
    find_in_words(text, 0, |word| bytes_equal(word, byte)).or_else(|| {
        // The bytes of a shorter text were all searched.
        (text.len() >= SHORT).then(|| memchr(byte, text))?
    })
}

/// The length up to which a string is searched here. The call of `memchr` costs more than the
/// search in a short string, and most strings are keys, roles and types.
const SHORT: usize = 32;

/// Returns the index of the first byte from `from` on that `marks` marks, if it is among the next
/// [`SHORT`] bytes.
#[inline(always)]
fn find_in_words(text: &[u8], from: usize, marks: impl Fn(u64) -> u64) -> Option<usize> {
    let text = text.get(from..)?;
    let Some(block) = text.first_chunk::<SHORT>() else {
        return Some(from + find_in_short(text, marks)?);
    };
    let (words, _) = block.as_chunks();
    Some(from + find_in_each(words, &marks)?)
}

/// Returns the index of the first byte of a short text that `marks` marks.
#[inline(never)]
fn find_in_short(text: &[u8], marks: impl Fn(u64) -> u64) -> Option<usize> {
    let Some(last) = text.last_chunk() else {
        let word = text
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        let found = find_in_each(&[u64::to_le_bytes(word)], &marks);
        return found.filter(|found| *found < text.len());
    };
    // The last word may overlap the one before it, in which nothing was found.
    let (words, _) = text.as_chunks();
    let in_last = || Some(text.len() - last.len() + find_in_each(&[*last], &marks)?);
    find_in_each(words, &marks).or_else(in_last)
}

#[inline(always)]
fn find_in_each(words: &[[u8; 8]], marks: &impl Fn(u64) -> u64) -> Option<usize> {
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
    let word = word ^ (ONES * u64::from(byte));
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// Returns the same as [`bytes_equal`] for a quote or a backslash. Neither changes the high bits of
/// a word, so that these are compared once for both.
#[inline]
fn quote_or_escape(word: u64) -> u64 {
    let less = |byte: u8| (word ^ (ONES * u64::from(byte))).wrapping_sub(ONES);
    (less(b'"') | less(b'\\')) & !word & (ONES << 7)
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);

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
        } else if byte > b' ' {
            // One match of all bytes would be a jump table, and slower after each string.
            match byte {
                b'{' => {
                    depth += 1;
                    at += visitor.opening(&json[at..]);
                }
                b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(at);
                    }
                }
                _ => {}
            }
        } else if byte == b' ' {
            visitor.skip(1);
        } else if byte == b'\n' {
            // Indentation, eight spaces at once as far as possible.
            let newline = at - 1;
            while json[at..].first_chunk() == Some(SPACES) {
                at += 8;
            }
            while json.get(at) == Some(&b' ') {
                at += 1;
            }
            visitor.skip(at - newline);
        } else if matches!(byte, b'\t' | b'\r') {
            visitor.skip(1);
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
