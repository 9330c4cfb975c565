//! Steps over JSON values by their quotes and brackets; this is where the time goes.

use memchr::memchr;

pub(crate) fn skip_space(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = json.get(at) {
        at += 1;
    }
    at
}

/// Is shown what is stepped over.
pub(crate) trait Notice {
    /// A string inside of objects or arrays, between its quotes.
    fn string(&mut self, json: &[u8], from: usize, to: usize);
}

impl Notice for () {
    #[inline]
    fn string(&mut self, _: &[u8], _: usize, _: usize) {}
}

/// The index after the value that begins at `at`.
pub(crate) fn value_end(json: &[u8], at: usize) -> Option<usize> {
    value_end_noticed(json, at, &mut ())
}

/// The same, showing what is stepped over.
pub(crate) fn value_end_noticed(json: &[u8], at: usize, notice: &mut impl Notice) -> Option<usize> {
    match json.get(at)? {
        b'"' => string_end(json, at + 1),
        b'{' | b'[' => nested_end(json, at + 1, notice),
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
/// Looks for quotes only and counts the backslashes before each: text is full of `\n` and has few `\"`.
#[inline]
pub(crate) fn string_end(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let quote = at + find(json.get(at..)?, b'"')?;
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
pub(crate) fn find(text: &[u8], byte: u8) -> Option<usize> {
    let (words, tail) = text.as_chunks::<8>();
    for (index, word) in words.iter().take(SHORT).enumerate() {
        let found = bytes_equal(u64::from_le_bytes(*word), byte);
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    if words.len() < SHORT {
        let at = text.len() - tail.len();
        return tail.iter().position(|b| *b == byte).map(|found| at + found);
    }
    memchr(byte, &text[SHORT * 8..]).map(|found| SHORT * 8 + found)
}

/// Strings of up to this many words are searched without a call.
const SHORT: usize = 2;

/// The high bit of each byte of `word` that equals `byte`; exact up to the lowest such byte.
#[inline]
fn bytes_equal(word: u64, byte: u8) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let word = word ^ (ONES * u64::from(byte));
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// The index after the bracket that closes the object or array whose content begins at `at`.
fn nested_end(json: &[u8], mut at: usize, notice: &mut impl Notice) -> Option<usize> {
    const SPACES: &[u8; 8] = &[b' '; 8];
    let mut depth = 1usize;
    loop {
        let byte = *json.get(at)?;
        at += 1;
        match byte {
            b'"' => {
                let end = string_end(json, at)?;
                notice.string(json, at, end - 1);
                at = end;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            // Indentation.
            b'\n' => {
                while json[at..].first_chunk() == Some(SPACES) {
                    at += 8;
                }
            }
            _ => {}
        }
    }
}
