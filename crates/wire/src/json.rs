//! Walk over the members of a JSON object that steps over nested values without reading them.
//!
//! Only the balance of quotes and brackets is checked: the API decides which JSON it accepts.

mod number;
mod skip;

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

use self::number::digits;
pub(crate) use self::number::{integer, whole_number};
pub(crate) use self::skip::{
    StringVisitor, escape_and_end, find_byte, long_string_end, nested_end, skip_space, string_end,
    value_end, value_end_visiting,
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
    /// The byte at `at` if another member follows: a brace before the first member, then a comma.
    separator: u8,
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
            separator: b'{',
            nested: false,
        })
    }

    /// Continues after a member that ends at `at`.
    pub(crate) const fn resume(json: &'a [u8], at: usize) -> Self {
        Self {
            json,
            at,
            separator: b',',
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
            .then(|| Self::nested(self.json, self.at))
    }

    /// Continues after the end of this object.
    pub(crate) const fn leave(&mut self, inner: &Self) {
        self.pass(inner.at);
    }

    /// Starts at the `{` at this position. Other text may follow the object.
    pub(crate) const fn nested(json: &'a [u8], at: usize) -> Self {
        Self {
            json,
            at,
            separator: b'{',
            nested: true,
        }
    }

    /// Returns the text from the quote of the next key on. Empty if white space comes before it, or
    /// if there is no other key.
    #[inline(always)]
    pub(crate) fn upcoming(&self) -> &'a [u8] {
        match self.json.get(self.at..) {
            Some([byte, text @ ..]) if *byte == self.separator => text,
            _ => b"",
        }
    }

    /// Returns the position of the [upcoming](Self::upcoming) text, unless that is empty.
    #[inline(always)]
    pub(crate) const fn upcoming_at(&self) -> usize {
        self.at + 1
    }

    /// Steps over this member if the [upcoming](Self::upcoming) text begins with it. Members that
    /// are nearly always the same are compared as a whole, which takes a tenth of the time of a
    /// walk.
    #[inline(always)]
    pub(crate) fn skip(&mut self, member: &[u8]) -> bool {
        let is_next = self.upcoming().starts_with(member);
        if is_next {
            self.pass(self.upcoming_at() + member.len());
        }
        is_next
    }

    /// Steps over this member if the [upcoming](Self::upcoming) text begins with `start`, which is
    /// a key, its colon and the opening quote of its value.
    #[inline(always)]
    pub(crate) fn skip_string(&mut self, start: &[u8]) -> bool {
        if !self.upcoming().starts_with(start) {
            return false;
        }
        let end = string_end(self.json, self.upcoming_at() + start.len());
        if let Some(end) = end {
            self.pass(end);
        }
        end.is_some()
    }

    /// Like [`skip_string`](Self::skip_string), and returns the positions of the string's first
    /// byte, first escape and closing quote. That of the escape is that of the quote if there is
    /// none.
    #[inline(always)]
    pub(crate) fn skip_text(&mut self, start: &[u8]) -> Option<[usize; 3]> {
        if !self.upcoming().starts_with(start) {
            return None;
        }
        let from = self.upcoming_at() + start.len();
        let (escape, end) = escape_and_end(self.json, from)?;
        self.pass(end);
        Some([from, escape, end - 1])
    }

    /// Steps over this member and returns its value, if the [upcoming](Self::upcoming) text begins
    /// with `start`, which is a key, its colon and a bracket. Shows the strings inside the value to
    /// `visitor`.
    #[inline(always)]
    pub(crate) fn skip_array(
        &mut self,
        start: &[u8],
        visitor: &mut impl StringVisitor,
    ) -> Option<&'a [u8]> {
        if !self.upcoming().starts_with(start) {
            return None;
        }
        let from = self.upcoming_at() + start.len();
        let end = nested_end(self.json, from, visitor)?;
        self.pass(end);
        Some(&self.json[from - 1..end])
    }

    /// Returns the object that is the value of the next member if the
    /// [upcoming](Self::upcoming) text begins with `start`, which is a key, its colon and a brace.
    /// See [`enter`](Self::enter).
    #[inline(always)]
    pub(crate) fn enter_upcoming(&self, start: &[u8]) -> Option<Self> {
        let is_next = self.upcoming().starts_with(start);
        is_next.then(|| Self::nested(self.json, self.upcoming_at() + start.len() - 1))
    }

    /// Steps over this member and returns its value, if the [upcoming](Self::upcoming) text begins
    /// with `start`, which is a key and its colon, and the value is written in digits only, at most
    /// 18.
    #[inline(always)]
    pub(crate) fn skip_digits(&mut self, start: &[u8]) -> Option<u64> {
        let text = self.upcoming().strip_prefix(start)?;
        let (number, length) = digits(text)?;
        self.pass(self.upcoming_at() + start.len() + length);
        Some(number)
    }

    /// Like [`skip_digits`](Self::skip_digits) for an object with a single member. `start` is the
    /// key and the colon of the object, its brace, and those of its member.
    #[inline(always)]
    pub(crate) fn skip_nested_digits(&mut self, start: &[u8]) -> Option<u64> {
        let text = self.upcoming().strip_prefix(start)?;
        let (number, length) = digits(text)?;
        if text[length] != b'}' {
            return None;
        }
        self.pass(self.upcoming_at() + start.len() + length + 1);
        Some(number)
    }

    /// Continues after the value of a key, which ends here and was read by the caller.
    #[inline(always)]
    pub(crate) const fn pass(&mut self, end: usize) {
        self.at = end;
        self.separator = b',';
    }

    /// Returns the position of the value after [`Object::key`], or after the end of the object.
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
            [byte, b'"', ..] if *byte == self.separator => self.at + 1,
            _ => {
                let first = self.separator == b'{';
                match separator(json, self.at + usize::from(first), b'}', first)? {
                    Next::Item(at) if json.get(at) == Some(&b'"') => at,
                    Next::Item(_) => return None,
                    Next::End(at) => {
                        self.at = at;
                        return (self.nested || skip_space(json, at) == json.len()).then_some(None);
                    }
                }
            }
        };
        self.separator = b',';
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
        let at = open(json, b'[')? + 1;
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

/// Position of the next item, or after the closing bracket.
enum Next {
    Item(usize),
    End(usize),
}

/// Returns the position of the bracket with which the text begins.
fn open(json: &[u8], bracket: u8) -> Option<usize> {
    let at = skip_space(json, 0);
    (json.get(at) == Some(&bracket)).then_some(at)
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
