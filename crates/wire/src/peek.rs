//! What a layer must know of a request body.

use std::borrow::Cow;
use std::ops::Range;

use crate::json::{Array, Member, Notice, Object, integer, text};
use crate::surplus;

/// Kind of the request's [`thinking`](https://docs.claude.com/en/api/messages) setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Thinking {
    /// `adaptive`
    Adaptive,
    /// `enabled`, with a token budget
    Enabled,
    /// `disabled`
    Disabled,
    /// `between_tools`
    BetweenTools,
    /// A kind this crate does not know, or none named.
    Other,
}

/// Top-level facts of a [Messages request](https://docs.claude.com/en/api/messages), read without a DOM.
///
/// It keeps positions in the body, no borrow, so that it can live beside the bytes it describes.
///
/// ```
/// use tower_claude_wire::Peek;
///
/// let body = br#"{"model":"claude-opus-5-5","max_tokens":1024,"messages":[],"stream":true}"#;
/// let peek = Peek::parse(body).expect("a JSON object");
/// assert_eq!(peek.model(body), Some("claude-opus-5-5"));
/// assert_eq!(peek.max_tokens(), Some(1024));
/// assert!(peek.stream());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peek {
    model: Model,
    max_tokens: Option<u64>,
    stream: bool,
    fast: bool,
    thinking: Option<Thinking>,
    has_tools: bool,
    system_bytes: u32,
    tools_bytes: u32,
    messages_bytes: u32,
    seen: Seen,
}

/// What is noticed on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    cache_control: bool,
    surplus: u64,
}

impl Notice for Seen {
    #[inline]
    fn string(&mut self, json: &[u8], from: usize, to: usize) {
        let length = to - from;
        if length == b"cache_control".len() {
            self.cache_control |= json[from..to] == *b"cache_control";
        } else if length >= surplus::SHORT {
            self.surplus += surplus::of_string(json, from, to);
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Model {
    #[default]
    Absent,
    /// Position between the quotes.
    Span(Range<u32>),
    /// The name was written with escapes.
    Owned(Box<str>),
}

impl Peek {
    /// Reads the top level of a JSON object in one pass; of duplicate keys the last one wins.
    ///
    /// Nested values are stepped over: only their quotes and brackets have to balance. `None` when `body` is not
    /// a JSON object, is cut short, or is longer than 4 GiB.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        u32::try_from(body.len()).ok()?;
        let mut peek = Self::default();
        let mut object = Object::open(body)?;
        while let Some(member) = object.next_noticed(&mut peek.seen).ok()? {
            if !peek.take(member.key, &member)
                && let Some(key) = member.unescaped()
            {
                peek.take(key.as_bytes(), &member);
            }
        }
        Some(peek)
    }

    /// Whether the key is one of ours.
    #[inline]
    fn take(&mut self, key: &[u8], member: &Member<'_>) -> bool {
        let value = member.value;
        match key {
            b"model" => self.model = Model::read(member.at, value),
            b"max_tokens" => self.max_tokens = integer(value),
            b"stream" => self.stream = value == b"true",
            b"speed" => self.fast = text(value).is_some_and(|speed| speed == "fast"),
            b"thinking" => self.thinking = Thinking::read(value),
            b"tools" => {
                self.has_tools = Array::open(value).is_some_and(|mut tools| tools.next().is_some());
                self.tools_bytes = narrow(value.len());
            }
            b"system" => self.system_bytes = narrow(value.len()),
            b"messages" => self.messages_bytes = narrow(value.len()),
            b"cache_control" => self.seen.cache_control = true,
            _ => return false,
        }
        true
    }

    /// The `model`, out of the same `body` that was parsed; `None` if absent or not a string.
    #[must_use]
    pub fn model<'a>(&'a self, body: &'a [u8]) -> Option<&'a str> {
        match &self.model {
            Model::Absent => None,
            Model::Span(span) => {
                let name = body.get(span.start as usize..span.end as usize)?;
                std::str::from_utf8(name).ok()
            }
            Model::Owned(name) => Some(name),
        }
    }

    /// The `max_tokens`; `None` if absent or not a non-negative integer.
    #[must_use]
    pub fn max_tokens(&self) -> Option<u64> {
        self.max_tokens
    }

    /// Whether `stream` is `true`.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// Whether `speed` is `"fast"`.
    #[must_use]
    pub fn fast(&self) -> bool {
        self.fast
    }

    /// Kind of `thinking`; `None` if absent or not an object.
    #[must_use]
    pub fn thinking(&self) -> Option<Thinking> {
        self.thinking
    }

    /// Whether `tools` is an array with at least one element.
    #[must_use]
    pub fn has_tools(&self) -> bool {
        self.has_tools
    }

    /// Whether prompt caching is asked for anywhere.
    #[must_use]
    pub const fn mentions_cache_control(&self) -> bool {
        self.seen.cache_control
    }

    /// Bytes of base64 data over the text that would be about as many tokens: see
    /// [`non_text_bytes`](crate::non_text_bytes).
    #[must_use]
    pub const fn non_text_bytes(&self) -> u64 {
        self.seen.surplus
    }

    /// Length of the raw JSON value of `system` in bytes, quotes included; 0 if absent.
    #[must_use]
    pub fn system_bytes(&self) -> usize {
        self.system_bytes as usize
    }

    /// Length of the raw JSON value of `tools` in bytes; 0 if absent.
    #[must_use]
    pub fn tools_bytes(&self) -> usize {
        self.tools_bytes as usize
    }

    /// Length of the raw JSON value of `messages` in bytes; 0 if absent.
    #[must_use]
    pub fn messages_bytes(&self) -> usize {
        self.messages_bytes as usize
    }
}

impl Model {
    fn read(at: usize, value: &[u8]) -> Self {
        match text(value) {
            None => Self::Absent,
            Some(Cow::Borrowed(name)) => Self::Span(narrow(at + 1)..narrow(at + 1 + name.len())),
            Some(Cow::Owned(name)) => Self::Owned(name.into()),
        }
    }
}

impl Thinking {
    fn read(value: &[u8]) -> Option<Self> {
        let mut object = Object::open(value)?;
        let mut kind = Self::Other;
        while let Some(member) = object.next().ok()? {
            if member.is(b"type") {
                kind = match text(member.value).as_deref() {
                    Some("adaptive") => Self::Adaptive,
                    Some("enabled") => Self::Enabled,
                    Some("disabled") => Self::Disabled,
                    Some("between_tools") => Self::BetweenTools,
                    _ => Self::Other,
                };
            }
        }
        Some(kind)
    }
}

/// `parse` has checked that every position of the body fits.
fn narrow(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
