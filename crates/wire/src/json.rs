//! Top-level scan of a JSON object: hands out keys and raw values, steps over nested ones without looking inside.
//!
//! Only the balance of quotes and brackets is checked: what the API accepts is the API's to say.

mod skip;

use std::borrow::Cow;

use memchr::memchr;

use self::skip::value_end_noticed;
pub(crate) use self::skip::{Notice, find, skip_space, string_end, value_end};
use crate::headers::digits;

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
    /// Whether this is the key, with or without escapes; keys nearly never have any.
    #[inline]
    pub(crate) fn is(&self, name: &[u8]) -> bool {
        // An escape is longer than what it stands for.
        self.key == name
            || self.key.len() > name.len()
                && self.unescaped().is_some_and(|key| key.as_bytes() == name)
    }

    /// The key with its escapes resolved; `None` if it has none, or wrong ones.
    #[inline]
    pub(crate) fn unescaped(&self) -> Option<String> {
        find(self.key, b'\\')?;
        let quoted = [b"\"", self.key, b"\""].concat();
        serde_json::from_slice(&quoted).ok()
    }
}

/// One step of [`Object::next_or_walk`].
pub(crate) enum Step<'a, T> {
    Over(Member<'a>),
    Into(T),
}

/// Walks over the members of one object.
pub(crate) struct Object<'a> {
    json: &'a [u8],
    at: usize,
    first: bool,
    /// More may follow after its end.
    inside: bool,
}

impl<'a> Object<'a> {
    /// Starts at the `{`; `None` if the text is not an object.
    pub(crate) fn open(json: &'a [u8]) -> Option<Self> {
        let at = open(json, b'{')?;
        Some(Self {
            json,
            at,
            first: true,
            inside: false,
        })
    }

    /// The members that follow what ends here.
    pub(crate) const fn rest(json: &'a [u8], at: usize) -> Self {
        Self {
            json,
            at,
            first: false,
            inside: false,
        }
    }

    /// The next member; where its key is `name` and its value an object, that one is handed to `walk`,
    /// which must walk it to its end, and is not stepped over before.
    pub(crate) fn next_or_walk<T>(
        &mut self,
        name: &[u8],
        walk: impl FnOnce(&mut Self) -> Result<T, Broken>,
    ) -> Result<Option<Step<'a, T>>, Broken> {
        let Some(key) = self.key().ok_or(Broken)? else {
            return Ok(None);
        };
        if key != name || self.json.get(self.at) != Some(&b'{') {
            let member = self.value(key).ok_or(Broken)?;
            return Ok(Some(Step::Over(member)));
        }
        let mut inner = Self {
            json: self.json,
            at: self.at + 1,
            first: true,
            inside: true,
        };
        let walked = walk(&mut inner)?;
        self.at = inner.at;
        Ok(Some(Step::Into(walked)))
    }

    /// The next member, or `Ok(None)` after the last one; what is stepped over is shown.
    pub(crate) fn next_noticed(
        &mut self,
        notice: &mut impl Notice,
    ) -> Result<Option<Member<'a>>, Broken> {
        let Some(key) = self.key().ok_or(Broken)? else {
            return Ok(None);
        };
        let at = self.at;
        self.at = value_end_noticed(self.json, at, notice).ok_or(Broken)?;
        Ok(Some(Member {
            key,
            at,
            value: &self.json[at..self.at],
        }))
    }

    /// The next member, or `Ok(None)` after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Member<'a>>, Broken> {
        self.step().ok_or(Broken)
    }

    fn step(&mut self) -> Option<Option<Member<'a>>> {
        match self.key()? {
            Some(key) => Some(Some(self.value(key)?)),
            None => Some(None),
        }
    }

    /// Steps over the next key and its colon, to its value.
    #[inline]
    fn key(&mut self) -> Option<Option<&'a [u8]>> {
        let json = self.json;
        let at = match separator(json, self.at, b'}', self.first)? {
            Next::Item(at) => at,
            Next::End(at) => {
                self.at = at;
                return (self.inside || is_over(json, at)).then_some(None);
            }
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
        self.at = skip_space(json, colon + 1);
        Some(Some(key))
    }

    #[inline]
    fn value(&mut self, key: &'a [u8]) -> Option<Member<'a>> {
        let at = self.at;
        self.at = value_end(self.json, at)?;
        Some(Member {
            key,
            at,
            value: &self.json[at..self.at],
        })
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
    digits(value)
}

enum Next {
    Item(usize),
    /// The index after the closing bracket.
    End(usize),
}

/// Whether nothing but white space follows.
fn is_over(json: &[u8], at: usize) -> bool {
    skip_space(json, at) == json.len()
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
