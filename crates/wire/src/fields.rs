//! Positions of the members of a JSON object, for editing in place.

use std::borrow::Cow;
use std::ops::Range;

use crate::json::{InvalidJson, Object, json_text};

/// One member of a JSON object with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field<'a> {
    /// The key, escapes resolved.
    pub name: Cow<'a, str>,
    /// From the first quote of the key to the end of the value.
    pub span: Range<usize>,
    /// Position of the value, which ends at the end of `span`.
    pub value: usize,
}

impl Field<'_> {
    /// Returns the raw value from the `json` that the field was read from. Empty if `json` is
    /// another text that is too short.
    #[must_use]
    pub fn value_in<'j>(&self, json: &'j [u8]) -> &'j [u8] {
        json.get(self.value..self.span.end).unwrap_or_default()
    }
}

/// Iterator over the members of one JSON object. Nested values are not read.
///
/// Only the balance of quotes and brackets is checked. Every duplicate of a key is returned.
///
/// ```
/// use tower_claude_wire::Fields;
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
    /// Starts at the `{`. `None` if the text is not an object.
    #[must_use]
    pub fn open(json: &'a [u8]) -> Option<Self> {
        let object = Some(Object::open(json)?);
        Some(Self { json, object })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, InvalidJson>;

    /// Returns the next member. After an error, returns `None`.
    fn next(&mut self) -> Option<Self::Item> {
        let member = match self.object.as_mut()?.next() {
            Ok(Some(member)) => member,
            over => {
                self.object = None;
                return over.err().map(|_| Err(InvalidJson));
            }
        };
        // The key is a part of `json`, after its first quote.
        let quote = member.key.as_ptr().addr() - self.json.as_ptr().addr() - 1;
        let end = member.at + member.value.len();
        let Some(name) = json_text(&self.json[quote..quote + member.key.len() + 2]) else {
            self.object = None;
            return Some(Err(InvalidJson));
        };
        Some(Ok(Field {
            name,
            span: quote..end,
            value: member.at,
        }))
    }
}
