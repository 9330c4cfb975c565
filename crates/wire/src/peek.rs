//! Facts of a request body that the layers need.

use std::borrow::Cow;
use std::ops::Range;

use crate::json::{
    Elements, Member, Object, StringVisitor, find, find_byte, json_text, whole_number,
};
use crate::models::{Tokenizer, estimate_tokens};
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
    /// The marks of structure in them.
    marks: u32,
    /// The tokens of rare characters beyond those of their bytes.
    rare_tokens: u32,
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

/// A part of the prompt.
#[derive(Clone, Copy)]
enum Part {
    System,
    Tools,
    Messages,
}

/// The length of the quotes around a string.
const QUOTES: usize = 2;

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
        loop {
            if let Some(b'm' | b's') = object.upcoming().get(1) {
                peek.read_usual(body, &mut object, &mut strings);
            }
            let Some(member) = object.next_visiting(&mut strings).ok()? else {
                break;
            };
            if !peek.take(member.key, &member, &mut strings)
                && let Some(key) = member.unescaped()
            {
                peek.take(key.as_bytes(), &member, &mut strings);
            }
            strings.text_of(0);
        }
        peek.marks = strings.marks();
        peek.rare_tokens = strings.rare_tokens();
        if is_beyond_ascii(body) {
            peek.rare_tokens = peek.rare_tokens.saturating_add(rare_tokens(body));
        }
        peek.mentions_cache_control |= strings.cache_control;
        peek.has_media = strings.media;
        peek.expands_at_server |= strings.server_tool;
        Some(peek)
    }

    /// Reads the members of most requests that come next, in this order.
    #[inline(always)]
    fn read_usual(&mut self, body: &[u8], object: &mut Object<'_>, strings: &mut StringFindings) {
        if let Some([from, escape, to]) = object.skip_text(b"\"model\":\"") {
            self.model = Model::of(body, from, escape, to);
        }
        if let Some(number) = object.skip_digits(b"\"max_tokens\":") {
            self.max_tokens = Some(number);
        }
        if let Some([from, escape, to]) = object.skip_text(b"\"system\":\"") {
            strings.visit(body, from, escape, to);
            self.measure(Part::System, to - from + QUOTES, strings);
        }
        if let Some(value) = object.skip_array(b"\"messages\":[", strings) {
            self.measure(Part::Messages, value.len(), strings);
        }
        if object.skip(b"\"stream\":true") {
            self.stream = true;
        }
        if object.skip(b"\"stream\":false") {
            self.stream = false;
        }
    }

    /// Stores the length of a part of the prompt, whose strings were visited.
    #[inline]
    fn measure(&mut self, part: Part, length: usize, strings: &mut StringFindings) {
        let (at, bytes) = match part {
            Part::System => (0, &mut self.system_bytes),
            Part::Tools => (1, &mut self.tools_bytes),
            Part::Messages => (2, &mut self.messages_bytes),
        };
        *bytes = narrow(length);
        let text = strings.text_of(length);
        self.text_bytes[at] = u32::try_from(text).unwrap_or(u32::MAX);
    }

    /// Stores the value of a known key. Returns false for any other key.
    #[inline]
    fn take(&mut self, key: &[u8], member: &Member<'_>, strings: &mut StringFindings) -> bool {
        let value = member.value;
        let part = match key {
            b"system" => Part::System,
            b"messages" => Part::Messages,
            b"tools" => {
                // An object was stepped over already, so it need not be read again.
                self.has_tools = Elements::open(value)
                    .is_some_and(|mut tools| tools.begins_with(b'{') || tools.next().is_some());
                Part::Tools
            }
            _ => return self.take_setting(key, member),
        };
        if value.starts_with(b"\"") {
            strings.visit_value(value);
        }
        self.measure(part, value.len(), strings);
        true
    }

    /// Stores the value of a known key that is no part of the prompt. Returns false for any other
    /// key.
    fn take_setting(&mut self, key: &[u8], member: &Member<'_>) -> bool {
        let value = member.value;
        match key {
            b"model" => self.model = Model::read(member.at, value),
            b"max_tokens" => self.max_tokens = whole_number(value),
            b"stream" => self.stream = value == b"true",
            b"speed" => self.fast = json_text(value).is_some_and(|speed| speed == "fast"),
            b"inference_geo" => {
                self.us_inference = json_text(value).is_some_and(|geo| geo == "us");
            }
            b"thinking" => self.thinking = Thinking::read(value),
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

    /// Estimates the tokens of a text of this length, which is the [text](Self::text_bytes) of the
    /// prompt or a part of it.
    ///
    /// Up to 512 bytes it approaches the kind of text: prose has about 2.75 bytes per token of the
    /// newer tokenizer, and text with many quotes and line breaks, such as code and JSON, up to
    /// 2.2. An emoji counts as one token more than its bytes. This is a rough estimate: correct it
    /// by the reported usage.
    ///
    /// ```
    /// use tower_claude_wire::{Peek, Tokenizer};
    ///
    /// let prompt = |text: &str| {
    ///     let text = text.repeat(200);
    ///     serde_json::json!({"messages": [{"role": "user", "content": text}]}).to_string()
    /// };
    /// let bytes_per_token = |body: String| {
    ///     let peek = Peek::parse(body.as_bytes()).unwrap();
    ///     let bytes = peek.text_bytes();
    ///     bytes as f64 / peek.estimate_tokens(bytes, Tokenizer::New) as f64
    /// };
    /// assert!(bytes_per_token(prompt("The committee put off its decision. ")) > 2.7);
    /// assert!(bytes_per_token(prompt("{\"id\": 42, \"ok\": true}\n")) < 2.3);
    /// ```
    #[must_use]
    pub fn estimate_tokens(&self, bytes: u64, tokenizer: Tokenizer) -> u64 {
        let plain = estimate_tokens(bytes, tokenizer);
        let all = self.text_bytes() as f64;
        if plain == 0 || all == 0.0 {
            return plain;
        }
        let marks = f64::from(self.marks).min(all * MOST_MARKS);
        let mut structure = MARK * marks - PROSE * all;
        if self.has_media {
            // What stands for images has neither marks nor prose.
            structure = structure.max(0.0);
        }
        let certainty = (all / SURE_OF_KIND).min(1.0);
        let more = structure * certainty + f64::from(self.rare_tokens);
        let scale = match tokenizer {
            Tokenizer::New => 1.0,
            Tokenizer::Old => OLD_TOKENS,
        };
        let tokens = plain as f64 + more * scale * (bytes as f64 / all);
        // Rounded. `round` is a call into the C library.
        ((tokens + 0.5) as u64).max(1)
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

    /// Returns the name between two quotes. See [`Object::skip_text`].
    #[inline]
    fn of(body: &[u8], from: usize, escape: usize, to: usize) -> Self {
        if escape == to {
            return Self::Span(narrow(from)..narrow(to));
        }
        Self::read(from - 1, &body[from - 1..=to])
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

/// The tokens of a mark beyond those of its byte, and the most marks of a byte that count.
///
/// These and the constants below fit the ratios in `tests/fixtures/token_ratios.csv` of
/// tower-claude-core.
const MARK: f64 = 1.8;
const MOST_MARKS: f64 = 0.05;

/// The tokens of a byte of prose below those of a byte of text of unknown kind: 1/2.5 − 1/2.75.
const PROSE: f64 = 0.0364;

/// The length of a text from which on its marks show its kind.
const SURE_OF_KIND: f64 = 512.0;

/// The tokens of the older tokenizer for one of the newer.
const OLD_TOKENS: f64 = 2.5 / 3.5;

/// The words that are looked at to find out if a body has characters beyond ASCII, and the bytes
/// that are then looked at to count the rare ones.
const WORDS: usize = 4;
const SAMPLES: u32 = 1_024;

/// Returns true if a body seems to have characters beyond ASCII, which most have not.
#[inline]
fn is_beyond_ascii(body: &[u8]) -> bool {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    let words = body.chunks_exact((body.len() / WORDS).max(size_of::<u64>()));
    let first = words.map(|part| {
        let word = part.first_chunk().copied().unwrap_or_default();
        u64::from_le_bytes(word)
    });
    first.fold(0, |all, word| all | word) & HIGH_BITS != 0
}

/// Estimates the tokens of emoji and combining marks beyond those of their bytes, from a sample of
/// the body.
#[cold]
fn rare_tokens(body: &[u8]) -> u32 {
    let length = body.len() as u64;
    // One byte of each of equal parts, at a place in it that repeats for no period of a text.
    let part = length / u64::from(SAMPLES) + 1;
    let halves = (0..SAMPLES).map(|index| {
        let place = (u64::from(scattered(index)) * part) >> 32;
        let at = u64::from(index) * length / u64::from(SAMPLES) + place;
        match body.get(at as usize) {
            // The first byte of four, and that of a combining mark.
            Some(0xf0..) => 2,
            Some(0xcc | 0xcd) => 1,
            _ => 0,
        }
    });
    let halves: u64 = halves.sum();
    u32::try_from(halves * length / u64::from(SAMPLES) / 2).unwrap_or(u32::MAX)
}

/// Returns a number that has no pattern for successive indices.
fn scattered(index: u32) -> u32 {
    let mixed = index.wrapping_mul(0x9e37_79b9);
    (mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b)
}

/// Converts a position. `parse` has checked that every position of the body fits.
fn narrow(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
