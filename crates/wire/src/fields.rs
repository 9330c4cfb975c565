//! Where the members of a JSON object stand, for those who rewrite one in place.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::json::{Array, Object, string_end, text};

/// The text of a raw JSON string, its escapes resolved; `None` for any other value or a string that is not valid.
#[must_use]
pub fn json_text(value: &[u8]) -> Option<Cow<'_, str>> {
    text(value)
}

/// Returns the index after the closing quote of the JSON string whose content begins at `from`, or
/// `None` if the string has no end.
///
/// ```
/// # use tower_claude_wire::json_string_end;
/// assert_eq!(json_string_end(br#""a\"b","#, 1), Some(6));
/// assert_eq!(json_string_end(br#""a\""#, 1), None);
/// ```
#[must_use]
pub fn json_string_end(json: &[u8], from: usize) -> Option<usize> {
    string_end(json, from)
}

/// The text is cut short, is not an object, or has a key that is no JSON string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonBroken;

impl fmt::Display for JsonBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a complete JSON object")
    }
}

impl std::error::Error for JsonBroken {}

/// One member of a JSON object, by its position.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field<'a> {
    /// The key, escapes resolved.
    pub name: Cow<'a, str>,
    /// From the first quote of the key to the end of the value.
    pub span: Range<usize>,
    /// Where the value begins; it ends where `span` does.
    pub value: usize,
}

impl Field<'_> {
    /// The raw value, out of the `json` that the field was read from; empty for any other text that is too short.
    #[must_use]
    pub fn value_in<'j>(&self, json: &'j [u8]) -> &'j [u8] {
        json.get(self.value..self.span.end).unwrap_or_default()
    }
}

/// Walks over the members of one JSON object without looking inside their values.
///
/// Only the balance of quotes and brackets is checked. Duplicate keys are handed out as often as they stand there.
///
/// ```
/// # use tower_claude_wire::Fields;
/// let json = br#"{"mo\u0064el": "x", "max_tokens": 5}"#;
/// let fields: Vec<_> = Fields::open(json).unwrap().map(Result::unwrap).collect();
/// assert_eq!(fields[0].name, "model");
/// assert_eq!(fields[1].value_in(json), b"5");
/// ```
pub struct Fields<'a> {
    json: &'a [u8],
    object: Option<Object<'a>>,
}

impl<'a> Fields<'a> {
    /// Starts at the `{`; `None` if the text is not an object.
    #[must_use]
    pub fn open(json: &'a [u8]) -> Option<Self> {
        let object = Some(Object::open(json)?);
        Some(Self { json, object })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, JsonBroken>;

    /// The next member. After an error, nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        let member = match self.object.as_mut()?.next() {
            Ok(Some(member)) => member,
            over => {
                self.object = None;
                return over.err().map(|_| Err(JsonBroken));
            }
        };
        // The key is a part of the text, after its first quote.
        let quote = member.key.as_ptr().addr() - self.json.as_ptr().addr() - 1;
        let end = member.at + member.value.len();
        let Some(name) = text(&self.json[quote..quote + member.key.len() + 2]) else {
            self.object = None;
            return Some(Err(JsonBroken));
        };
        Some(Ok(Field {
            name,
            span: quote..end,
            value: member.at,
        }))
    }
}

/// Walks over the raw elements of one JSON array.
pub struct Elements<'a>(Array<'a>);

impl<'a> Elements<'a> {
    /// Starts at the `[`; `None` if the text is not an array.
    #[must_use]
    pub fn open(json: &'a [u8]) -> Option<Self> {
        Array::open(json).map(Self)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    /// The next element; `None` after the last one, or where the text breaks.
    fn next(&mut self) -> Option<&'a [u8]> {
        self.0.next()
    }
}
