//! Walk over the members of a JSON object that steps over nested values without reading them.
//!
//! Only the balance of quotes and brackets is checked: the API decides which JSON it accepts.

mod skip;

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

pub(crate) use self::skip::{
    StringVisitor, find_byte, nested_end, skip_space, string_end, value_end, value_end_visiting,
};

/// Error for text that is cut short, is not an object, or has a key that is not a JSON string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidJson;

impl fmt::Display for InvalidJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a complete JSON object")
    }
}

impl std::error::Error for InvalidJson {}

/// Returns the index after the closing quote of the JSON string whose content begins at `from`, or
/// `None` if the string has no end.
///
/// ```
/// use tower_claude_wire::json_string_end;
/// assert_eq!(json_string_end(br#""a\"b","#, 1), Some(6));
/// assert_eq!(json_string_end(br#""a\""#, 1), None);
/// ```
#[must_use]
pub fn json_string_end(json: &[u8], from: usize) -> Option<usize> {
    string_end(json, from)
}

/// One `"key": value` of an object, both raw.
pub(crate) struct Member<'a> {
    /// The key between its quotes, escapes not resolved.
    pub(crate) key: &'a [u8],
    /// Position of `value` in the JSON text.
    pub(crate) at: usize,
    /// The value as written, without the white space around it.
    pub(crate) value: &'a [u8],
}

impl Member<'_> {
    /// Returns true if the key is `name`, with or without escapes. Keys hardly ever have any.
    #[inline]
    pub(crate) fn is(&self, name: &[u8]) -> bool {
        // An escape of a letter takes six bytes.
        self.key == name
            || self.key.len() > name.len()
                && (self.key.len() - name.len()).is_multiple_of(5)
                && self.unescaped().is_some_and(|key| key.as_bytes() == name)
    }

    /// Returns the key with its escapes resolved. `None` if it has none, or invalid ones.
    #[inline]
    pub(crate) fn unescaped(&self) -> Option<String> {
        find_byte(self.key, b'\\')?;
        let quoted = [b"\"", self.key, b"\""].concat();
        serde_json::from_slice(&quoted).ok()
    }
}

/// Walk over the members of one object.
pub(crate) struct Object<'a> {
    json: &'a [u8],
    at: usize,
    first: bool,
    /// Other text may follow after the end of the object.
    nested: bool,
}

impl<'a> Object<'a> {
    /// Starts at the `{`. `None` if the text is not an object.
    pub(crate) fn open(json: &'a [u8]) -> Option<Self> {
        let at = open(json, b'{')?;
        Some(Self {
            json,
            at,
            first: true,
            nested: false,
        })
    }

    /// Continues after a member that ends at `at`.
    pub(crate) const fn resume(json: &'a [u8], at: usize) -> Self {
        Self {
            json,
            at,
            first: false,
            nested: false,
        }
    }

    /// Returns the next member, or `Ok(None)` after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Member<'a>>, InvalidJson> {
        self.next_visiting(&mut ())
    }

    /// Like [`Object::next`], and shows the strings inside the value to `visitor`.
    #[inline]
    pub(crate) fn next_visiting(
        &mut self,
        visitor: &mut impl StringVisitor,
    ) -> Result<Option<Member<'a>>, InvalidJson> {
        match self.key().ok_or(InvalidJson)? {
            Some(key) => self.value(key, visitor).ok_or(InvalidJson).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the object that is the value of the key, if it is one. Called after
    /// [`Object::key`]. It must be read to its end, and then be [left](Object::leave). A second
    /// pass over the value is saved that way.
    pub(crate) fn enter(&self) -> Option<Self> {
        self.value_begins_with(b'{')
            .then(|| Self::nested(self.json, self.at + 1))
    }

    /// Continues after the end of this object.
    pub(crate) const fn leave(&mut self, inner: &Self) {
        self.at = inner.at;
    }

    /// Starts at the first member of an object that other text may follow.
    pub(crate) const fn nested(json: &'a [u8], at: usize) -> Self {
        Self {
            json,
            at,
            first: true,
            nested: true,
        }
    }

    /// Returns the text from the quote of the next key on. Empty if white space comes before it, or
    /// if there is no other key.
    #[inline(always)]
    pub(crate) fn upcoming(&self) -> &'a [u8] {
        match self.json.get(self.at..) {
            Some([b',', text @ ..]) if !self.first => text,
            Some(text) if self.first => text,
            _ => b"",
        }
    }

    /// Steps over this member if the [upcoming](Self::upcoming) text begins with it. Members that
    /// are nearly always the same are compared as a whole, which takes a tenth of the time of a
    /// walk.
    #[inline(always)]
    pub(crate) fn skip(&mut self, member: &[u8]) -> bool {
        let is_next = self.upcoming().starts_with(member);
        if is_next {
            self.at = self.upcoming_at() + member.len();
            self.first = false;
        }
        is_next
    }

    /// Steps over this member if the [upcoming](Self::upcoming) text begins with `start`, which is a
    /// key, its colon and the opening quote of its value.
    #[inline(always)]
    pub(crate) fn skip_string(&mut self, start: &[u8]) -> bool {
        if !self.upcoming().starts_with(start) {
            return false;
        }
        let end = string_end(self.json, self.upcoming_at() + start.len());
        if let Some(end) = end {
            self.at = end;
            self.first = false;
        }
        end.is_some()
    }

    /// Returns the position of the [upcoming](Self::upcoming) text, unless that is empty.
    #[inline(always)]
    pub(crate) const fn upcoming_at(&self) -> usize {
        self.at + !self.first as usize
    }

    /// Continues after the value of a key, which ends here and was read by the caller.
    pub(crate) const fn pass(&mut self, end: usize) {
        self.at = end;
    }

    /// Returns the position of the next key, or of the value after [`Object::key`].
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// Returns true if the next value begins with this bracket. Called after [`Object::key`].
    pub(crate) fn value_begins_with(&self, bracket: u8) -> bool {
        self.json.get(self.at) == Some(&bracket)
    }

    /// Steps over the next key and its colon, to its value.
    #[inline(always)]
    pub(crate) fn key(&mut self) -> Option<Option<&'a [u8]>> {
        let json = self.json;
        // Machines write no space.
        let at = match json.get(self.at..)? {
            [b',', b'"', ..] if !self.first => self.at + 1,
            [b'"', ..] if self.first => self.at,
            _ => match separator(json, self.at, b'}', self.first)? {
                Next::Item(at) if json.get(at) == Some(&b'"') => at,
                Next::Item(_) => return None,
                Next::End(at) => {
                    self.at = at;
                    return (self.nested || skip_space(json, at) == json.len()).then_some(None);
                }
            },
        };
        self.first = false;
        let end = string_end(json, at + 1)?;
        self.at = match json.get(end..)? {
            [b':', next, ..] if *next > b' ' => end + 1,
            _ => {
                let colon = skip_space(json, end);
                if json.get(colon) != Some(&b':') {
                    return None;
                }
                skip_space(json, colon + 1)
            }
        };
        Some(Some(&json[at + 1..end - 1]))
    }

    /// Returns the value after the first `length` bytes of the [upcoming](Self::upcoming) text, and
    /// steps over it, if it is written in digits only, at most 18.
    #[inline]
    pub(crate) fn digits_after(&mut self, length: usize) -> Option<u64> {
        let (number, end) = digits(self.json, self.upcoming_at() + length)?;
        self.at = end;
        self.first = false;
        Some(number)
    }

    /// Returns the same as [`digits_after`](Self::digits_after) for the only member of an object,
    /// and steps over the object.
    #[inline]
    pub(crate) fn last_digits_after(&mut self, length: usize) -> Option<u64> {
        let (number, end) = digits(self.json, self.upcoming_at() + length)?;
        if self.json[end] != b'}' {
            return None;
        }
        self.at = end + 1;
        self.first = false;
        Some(number)
    }

    /// Steps over the value of a key.
    #[inline]
    pub(crate) fn value(
        &mut self,
        key: &'a [u8],
        visitor: &mut impl StringVisitor,
    ) -> Option<Member<'a>> {
        let at = self.at;
        self.at = value_end_visiting(self.json, at, visitor)?;
        Some(Member {
            key,
            at,
            value: &self.json[at..self.at],
        })
    }
}

/// Walk over the raw elements of one JSON array.
pub struct Elements<'a> {
    json: &'a [u8],
    at: usize,
    first: bool,
}

impl<'a> Elements<'a> {
    /// Starts at the `[`. `None` if the text is not an array.
    #[must_use]
    pub fn open(json: &'a [u8]) -> Option<Self> {
        let at = open(json, b'[')?;
        Some(Self {
            json,
            at,
            first: true,
        })
    }
}

impl<'a> Elements<'a> {
    /// Starts at the first element of an array that other text may follow.
    pub(crate) const fn nested(json: &'a [u8], at: usize) -> Self {
        Self {
            json,
            at,
            first: true,
        }
    }
}

impl Elements<'_> {
    /// Returns the position of the next element, which is then read by the caller and
    /// [passed](Self::pass). `None` after the last one, or where the text is invalid.
    pub(crate) fn next_at(&mut self) -> Option<usize> {
        let Next::Item(at) = separator(self.json, self.at, b']', self.first)? else {
            return None;
        };
        self.first = false;
        self.at = at;
        Some(at)
    }

    /// Returns the position after the end of the array. `None` before it, or if it has no end.
    pub(crate) fn end(&self) -> Option<usize> {
        match separator(self.json, self.at, b']', self.first)? {
            Next::End(end) => Some(end),
            Next::Item(_) => None,
        }
    }

    /// Continues after an element that ends here.
    pub(crate) const fn pass(&mut self, end: usize) {
        self.at = end;
    }

    /// Returns true if the next byte is this bracket.
    pub(crate) fn begins_with(&self, bracket: u8) -> bool {
        self.json.get(self.at) == Some(&bracket)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    /// Returns the next element. `None` after the last one, or where the text is invalid.
    fn next(&mut self) -> Option<&'a [u8]> {
        let Next::Item(at) = separator(self.json, self.at, b']', self.first)? else {
            return None;
        };
        self.first = false;
        self.at = value_end(self.json, at)?;
        Some(&self.json[at..self.at])
    }
}

/// Returns the raw value of a top-level key, the last one of duplicates. `None` if the key is
/// absent or the object is not complete.
pub(crate) fn find<'a>(json: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut object = Object::open(json)?;
    let mut found = None;
    while let Some(member) = object.next().ok()? {
        if member.is(key) {
            found = Some(member.value);
        }
    }
    found
}

/// Returns the text of a raw JSON string, its escapes resolved. `None` for any other value, and for
/// an invalid string.
#[must_use]
pub fn json_text(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr(b'\\', inner).is_some() {
        return serde_json::from_slice(value).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// Parses the digits from `from` on, at most 18, up to a comma or a closing brace. Returns the
/// number and the position after it.
#[inline]
fn digits(json: &[u8], from: usize) -> Option<(u64, usize)> {
    let mut sum = 0;
    for (length, byte) in json.get(from..)?.iter().enumerate().take(19) {
        match (byte, digit(*byte)) {
            (_, Some(digit)) => sum = sum * 10 + digit,
            (b',' | b'}', None) if length > 0 => return Some((sum, from + length)),
            _ => return None,
        }
    }
    None
}

/// Parses a non-negative integer of 64 bits: digits and nothing else, at least one.
pub(crate) fn integer(value: &[u8]) -> Option<u64> {
    // Nineteen digits always fit, so the usual number needs no checked arithmetic.
    let (head, tail) = value.split_at(value.len().min(19));
    let mut sum = 0;
    for byte in head {
        sum = sum * 10 + digit(*byte)?;
    }
    let add = |sum: u64, byte: &u8| sum.checked_mul(10)?.checked_add(digit(*byte)?);
    tail.iter().try_fold(sum, add).filter(|_| !value.is_empty())
}

/// Parses a non-negative whole number in any notation of JSON: `2700`, `2700.0` or `2.7e3`.
pub(crate) fn whole_number(value: &[u8]) -> Option<u64> {
    integer(value).or_else(|| decimal(value))
}

#[cold]
fn decimal(value: &[u8]) -> Option<u64> {
    /// Up to here, every whole number has an exact `f64`.
    const EXACT: f64 = (1_u64 << 53) as f64;
    // Rust's parser also accepts signs, `inf` and `nan`.
    if !value.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let number: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (number <= EXACT && number.fract() == 0.0).then_some(number as u64)
}

fn digit(byte: u8) -> Option<u64> {
    let digit = byte.wrapping_sub(b'0');
    (digit <= 9).then_some(u64::from(digit))
}

/// Position of the next item, or after the closing bracket.
enum Next {
    Item(usize),
    End(usize),
}

fn open(json: &[u8], bracket: u8) -> Option<usize> {
    let at = skip_space(json, 0);
    (json.get(at) == Some(&bracket)).then_some(at + 1)
}

/// Steps over the comma before an item, or over the closing bracket.
fn separator(json: &[u8], at: usize, close: u8, first: bool) -> Option<Next> {
    let at = skip_space(json, at);
    let byte = *json.get(at)?;
    if byte == close {
        return Some(Next::End(at + 1));
    }
    if first {
        return Some(Next::Item(at));
    }
    (byte == b',').then(|| Next::Item(skip_space(json, at + 1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{integer, whole_number};

    #[test]
    fn whole_number_in_any_notation_is_parsed() {
        for (text, number) in [
            ("0", 0),
            ("2700", 2_700),
            ("2700.0", 2_700),
            ("2.7e3", 2_700),
            ("27E+2", 2_700),
            ("27000e-1", 2_700),
            ("9007199254740992.0", 1 << 53),
        ] {
            assert_eq!(whole_number(text.as_bytes()), Some(number), "{text}");
        }
        for text in [
            "", "-1", "-0.5", "1.5", "1e99", "1e999", "null", "\"3\"", "inf", "nan", "+1", ".5",
            "1 2", "{}",
        ] {
            assert_eq!(whole_number(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn integer_of_any_text_is_parsed_as_by_the_standard_library(
            text in prop_oneof![any::<u64>().prop_map(|number| number.to_string()), "[0-9]{0,24}", "[0-9+. -]{0,6}", any::<String>()],
        ) {
            let expected = text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
            prop_assert_eq!(integer(text.as_bytes()), expected);
        }
    }
}
