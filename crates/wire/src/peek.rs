//! Facts of a request body that the layers need.

use std::borrow::Cow;
use std::ops::Range;

use crate::json::{Elements, Member, Object, find, find_byte, json_text, whole_number};
use crate::text_bytes::StringFindings;

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
    /// An unknown kind, or none.
    Other,
}

/// Top-level facts of a [Messages request](https://docs.claude.com/en/api/messages), read in one
/// pass.
///
/// It has positions in the body and does not borrow it, so that both can be stored together.
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
    us_inference: bool,
    thinking: Option<Thinking>,
    has_tools: bool,
    system_bytes: u32,
    tools_bytes: u32,
    messages_bytes: u32,
    /// The text of system, tools and messages.
    text_bytes: [u32; 3],
    mentions_cache_control: bool,
    has_media: bool,
    expands_at_server: bool,
}

/// The fields with which the server uses more than the request contains, beside its tools.
const EXPANDING: [&[u8]; 6] = [
    b"mcp_servers",
    b"container",
    b"thread",
    b"fallbacks",
    b"context_management",
    b"compaction",
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Model {
    #[default]
    Absent,
    /// Position of the text between the quotes.
    Span(Range<u32>),
    /// The name was written with escapes.
    Owned(Box<str>),
}

impl Peek {
    /// Reads the top level of a JSON object in one pass. Of duplicate keys the last one wins.
    ///
    /// In nested values, only the balance of quotes and brackets is checked. `None` if `body` is
    /// not a JSON object, is cut short, or is longer than 4 GiB.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        u32::try_from(body.len()).ok()?;
        let mut peek = Self::default();
        let mut strings = StringFindings::default();
        let mut object = Object::open(body)?;
        while let Some(member) = object.next_visiting(&mut strings).ok()? {
            if !peek.take(member.key, &member, &mut strings)
                && let Some(key) = member.unescaped()
            {
                peek.take(key.as_bytes(), &member, &mut strings);
            }
            strings.text_of(0);
        }
        peek.mentions_cache_control |= strings.cache_control;
        peek.has_media = strings.media;
        peek.expands_at_server |= strings.server_tool;
        Some(peek)
    }

    /// Stores the value of a known key. Returns false for any other key.
    #[inline]
    fn take(&mut self, key: &[u8], member: &Member<'_>, strings: &mut StringFindings) -> bool {
        let value = member.value;
        let mut measure = |part: usize, bytes: &mut u32| {
            *bytes = narrow(value.len());
            if value.starts_with(b"\"") {
                strings.visit_value(value);
            }
            let text = strings.text_of(value.len());
            self.text_bytes[part] = u32::try_from(text).unwrap_or(u32::MAX);
        };
        match key {
            b"model" => self.model = Model::read(member.at, value),
            b"max_tokens" => self.max_tokens = whole_number(value),
            b"stream" => self.stream = value == b"true",
            b"speed" => self.fast = json_text(value).is_some_and(|speed| speed == "fast"),
            b"inference_geo" => {
                self.us_inference = json_text(value).is_some_and(|geo| geo == "us");
            }
            b"thinking" => self.thinking = Thinking::read(value),
            b"tools" => {
                // An object was stepped over already, so it need not be read again.
                self.has_tools = Elements::open(value)
                    .is_some_and(|mut tools| tools.begins_with(b'{') || tools.next().is_some());
                measure(1, &mut self.tools_bytes);
            }
            b"system" => measure(0, &mut self.system_bytes),
            b"messages" => measure(2, &mut self.messages_bytes),
            b"cache_control" => self.mentions_cache_control = true,
            _ if EXPANDING.contains(&key) => self.expands_at_server = true,
            _ => return false,
        }
        true
    }

    /// Returns the `model` from the same `body` that was parsed. `None` if it is absent or not a
    /// string.
    #[must_use]
    pub fn model<'a>(&'a self, body: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(self.model_bytes(body)?).ok()
    }

    /// Returns the same as [`model`](Self::model), but does not check that it is UTF-8.
    #[must_use]
    pub fn model_bytes<'a>(&'a self, body: &'a [u8]) -> Option<&'a [u8]> {
        match &self.model {
            Model::Absent => None,
            Model::Span(span) => body.get(span.start as usize..span.end as usize),
            Model::Owned(name) => Some(name.as_bytes()),
        }
    }

    /// Returns the `max_tokens`. `None` if it is absent or not a non-negative whole
    /// number.
    #[must_use]
    pub fn max_tokens(&self) -> Option<u64> {
        self.max_tokens
    }

    /// Returns true if `stream` is `true`.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// Returns true if `speed` is `"fast"`.
    #[must_use]
    pub fn fast(&self) -> bool {
        self.fast
    }

    /// Returns true if `inference_geo` is `"us"`.
    #[must_use]
    pub fn us_inference(&self) -> bool {
        self.us_inference
    }

    /// Returns the kind of `thinking`. `None` if it is absent or not an object.
    #[must_use]
    pub fn thinking(&self) -> Option<Thinking> {
        self.thinking
    }

    /// Returns true if `tools` is an array with at least one element.
    #[must_use]
    pub fn has_tools(&self) -> bool {
        self.has_tools
    }

    /// Returns true if the request has `cache_control` at any level. A nested string of exactly
    /// that text counts as well.
    #[must_use]
    pub const fn mentions_cache_control(&self) -> bool {
        self.mentions_cache_control
    }

    /// Returns the length of a text with about as many tokens as system, tools and messages: see
    /// [`text_bytes`](crate::text_bytes).
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes.iter().map(|bytes| u64::from(*bytes)).sum()
    }

    /// Returns true if the request has an image or a document, as data or by reference.
    #[must_use]
    pub const fn has_media(&self) -> bool {
        self.has_media
    }

    /// Returns true if the server may add input and output that the request does not contain: with
    /// tools that run there, an MCP connector, a container, a thread, fallbacks of the server, or
    /// context management.
    #[must_use]
    pub const fn expands_at_server(&self) -> bool {
        self.expands_at_server
    }

    /// Returns the length in bytes of the raw JSON value of `system`, quotes included. 0 if absent.
    #[must_use]
    pub fn system_bytes(&self) -> usize {
        self.system_bytes as usize
    }

    /// Returns the length in bytes of the raw JSON value of `tools`. 0 if absent.
    #[must_use]
    pub fn tools_bytes(&self) -> usize {
        self.tools_bytes as usize
    }

    /// Returns the length in bytes of the raw JSON value of `messages`. 0 if absent.
    #[must_use]
    pub fn messages_bytes(&self) -> usize {
        self.messages_bytes as usize
    }
}

/// Returns the `metadata.user_id` of a Messages request. `None` if it is absent, empty or not a
/// string.
///
/// ```
/// let body = br#"{"model":"claude-opus-5-5","metadata":{"user_id":"u-7"},"messages":[]}"#;
/// assert_eq!(tower_claude_wire::user_id(body).as_deref(), Some("u-7"));
/// ```
#[must_use]
pub fn user_id(body: &[u8]) -> Option<Cow<'_, str>> {
    let metadata = find(body, b"metadata")?;
    json_text(find(metadata, b"user_id")?).filter(|user| !user.is_empty())
}

impl Model {
    fn read(at: usize, value: &[u8]) -> Self {
        let is_text = value.len() >= 2 && value[0] == b'"';
        // The characters are checked when the name is returned.
        if is_text && find_byte(value, b'\\').is_none() {
            return Self::Span(narrow(at + 1)..narrow(at + value.len() - 1));
        }
        json_text(value).map_or(Self::Absent, |name| Self::Owned(name.into()))
    }
}

impl Thinking {
    fn read(value: &[u8]) -> Option<Self> {
        let mut object = Object::open(value)?;
        let mut kind = Self::Other;
        while let Some(member) = object.next().ok()? {
            if member.is(b"type") {
                kind = match json_text(member.value).as_deref() {
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

/// Converts a position. `parse` has checked that every position of the body fits.
fn narrow(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
