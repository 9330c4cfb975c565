//! The content of JSON responses, whole or in pieces.

use memchr::memchr;

use crate::error::ApiError;
use crate::json::{
    Object, json_text, long_string_end, nested_end, skip_space, value_end, whole_number,
};
use crate::sse::BOM;
use crate::usage::Usage;

/// The content of a JSON response, by the members of its outermost object.
///
/// ```
/// use tower_claude_wire::JsonResponse;
///
/// assert_eq!(JsonResponse::of(br#"{"type":"message","content":[]}"#), JsonResponse::Message);
/// assert_eq!(JsonResponse::of(br#"{"input_tokens":12}"#), JsonResponse::TokenCount);
/// assert_eq!(JsonResponse::of(b"{}"), JsonResponse::Other);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonResponse {
    /// A message: an object with a `content` array, and with no `type` but `message` before it. A
    /// `model` or a `usage` beside the type takes the place of the content.
    Message,
    /// A count of tokens: an object with a number in `input_tokens`.
    TokenCount,
    /// An error envelope of any platform.
    Error(Box<ApiError>),
    /// Any other text.
    Other,
}

/// The members of a message before its content, as the API writes them. The model comes first or
/// last.
const ID: &[u8] = b"\"id\":\"";
const MODEL: &[u8] = b"\"model\":\"";
const MESSAGE: &[u8] = b"\"type\":\"message\"";
const ROLE: &[u8] = b"\"role\":\"assistant\"";
const CONTENT: &[u8] = b"\"content\":[";

impl JsonResponse {
    /// Reads the members until the content is certain. The content of a message is not read, so
    /// damage in it remains unnoticed: see [`is_cut_json`].
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        match Self::read(body) {
            Ok(_) => Self::Message,
            Err(other) => other,
        }
    }

    /// Reads a body to its end. Returns `None` if it is cut: see [`is_cut_json`].
    #[must_use]
    pub fn of_whole(body: &[u8]) -> Option<Self> {
        match Self::read(body) {
            // The walk has stopped inside of the outermost object, so it goes on from there.
            Ok(content) => {
                let content = content_end(body, content)?;
                nested_end(body, content, &mut ()).map(|_| Self::Message)
            }
            Err(other) => (!is_cut_json(body)).then_some(other),
        }
    }

    /// Reads a body to its end, and its usage into `usage`. The same as
    /// [`of_whole`](Self::of_whole) and [`Usage::from_message`], in one pass over a message whose
    /// usage follows the content.
    ///
    /// ```
    /// use tower_claude_wire::JsonResponse;
    ///
    /// let body = br#"{"type":"message","content":[],"usage":{"output_tokens":8}}"#;
    /// let mut usage = None;
    /// let response = JsonResponse::with_usage(body, &mut usage);
    /// assert_eq!(response, Some(JsonResponse::Message));
    /// assert_eq!(usage.and_then(|usage| usage.output_tokens), Some(8));
    /// ```
    #[must_use]
    pub fn with_usage(body: &[u8], usage: &mut Option<Usage>) -> Option<Self> {
        *usage = None;
        let response = match Self::read(body) {
            Ok(content) => {
                if let Some(end) = content_end(body, content) {
                    // In place, since a copy of the counts takes time.
                    Usage::read_rest(body, end, usage);
                    if usage.is_some() {
                        return Some(Self::Message);
                    }
                }
                nested_end(body, content, &mut ()).map(|_| Self::Message)
            }
            Err(other) => (!is_cut_json(body)).then_some(other),
        };
        *usage = Usage::from_message(body);
        response
    }

    /// Returns the position of the content if the body is a message.
    fn read(body: &[u8]) -> Result<usize, Self> {
        let (mut is_error, mut is_count) = (false, false);
        let (mut is_message, mut is_other_type, mut has_facts) = (false, false, false);
        if let Some(mut object) = Object::open(body) {
            loop {
                has_facts |= object.skip_string(MODEL);
                object.skip_string(ID);
                if object.skip(MESSAGE) {
                    (is_error, is_message, is_other_type) = (false, true, false);
                }
                object.skip(ROLE);
                has_facts |= object.skip_string(MODEL);
                if !is_other_type && object.upcoming().starts_with(CONTENT) {
                    return Ok(object.upcoming_at() + CONTENT.len() - 1);
                }
                let Some(Some(key)) = object.key() else {
                    break;
                };
                if key == b"content" && object.value_begins_with(b'[') && !is_other_type {
                    return Ok(object.at());
                }
                let Some(member) = object.value(key, &mut ()) else {
                    break;
                };
                match key {
                    b"type" if member.value == b"\"message\"" => {
                        (is_error, is_message, is_other_type) = (false, true, false);
                    }
                    b"type" => {
                        let kind = json_text(member.value);
                        is_error = kind.as_deref() == Some("error");
                        is_message = kind.as_deref() == Some("message");
                        is_other_type = !is_message;
                    }
                    b"model" | b"usage" => has_facts = true,
                    b"error" => is_error |= member.value != b"null",
                    b"input_tokens" => is_count = whole_number(member.value).is_some(),
                    _ => {}
                }
            }
        } else {
            // Google writes the errors of a stream in an array.
            is_error = body.trim_ascii_start().first() == Some(&b'[');
        }
        if is_error {
            match ApiError::parse_any(body) {
                Some(error) => return Err(Self::Error(Box::new(error))),
                None if body.trim_ascii_start().first() == Some(&b'{') => {
                    let unread = ApiError::new("api_error", "an error that could not be read");
                    return Err(Self::Error(Box::new(unread)));
                }
                None => {}
            }
        }
        Err(if is_message && has_facts {
            Self::Message
        } else if is_count {
            Self::TokenCount
        } else {
            Self::Other
        })
    }
}

/// Returns the index after the content of a message, which begins at `at`. Mostly that is one text.
fn content_end(body: &[u8], at: usize) -> Option<usize> {
    const TEXT: &[u8] = br#"[{"type":"text","text":""#;
    if !body[at..].starts_with(TEXT) {
        return value_end(body, at);
    }
    let from = at + TEXT.len();
    // Few answers are short.
    let text = long_string_end(body, from, from)?;
    if body[text..].starts_with(b"}]") {
        return Some(text + 2);
    }
    let block = nested_end(body, text, &mut ())?;
    nested_end(body, block, &mut ())
}

/// Returns true if the text begins a JSON object, array or string that it does not end.
#[must_use]
pub fn is_cut_json(text: &[u8]) -> bool {
    let from = skip_space(text, 0);
    matches!(text.get(from), Some(b'{' | b'[' | b'"')) && value_end(text, from).is_none()
}

/// A scanner of a JSON text in pieces, which needs little memory however long the text is.
///
/// It keeps an [outline](Self::outline) of the text and counts the brackets outside of strings.
///
/// ```
/// use tower_claude_wire::{JsonScanner, Usage};
///
/// let mut scanner = JsonScanner::default();
/// scanner.feed(br#"{"content":[{"text":"}"#);
/// assert!(scanner.is_cut());
/// scanner.feed(br#""}],"usage":{"output_tokens":5}}"#);
/// assert!(!scanner.is_cut());
/// assert_eq!(scanner.outline(), br#"{"content":[],"usage":{"output_tokens":5}}"#);
/// ```
#[derive(Clone, Debug, Default)]
pub struct JsonScanner {
    outline: Vec<u8>,
    /// The number of open brackets.
    depth: usize,
    in_string: bool,
    /// The piece ended after an odd number of backslashes inside a string.
    is_escaped: bool,
    /// The outermost value is an object.
    is_object: bool,
    /// Inside an array of the outermost object.
    skips: bool,
}

/// The longest outline. A message without the items of its arrays is much shorter.
const OUTLINE_LIMIT: usize = 64 * 1024;

impl JsonScanner {
    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        // The start of what is kept of the piece.
        let mut from = 0;
        let mut at = 0;
        while at < piece.len() {
            if self.in_string {
                match self.string_end(piece, at) {
                    Some(end) => at = end,
                    None => break,
                }
                self.in_string = false;
                continue;
            }
            let byte = piece[at];
            at += 1;
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    match self.depth {
                        1 => self.is_object = byte == b'{',
                        2 if byte == b'[' && self.is_object => {
                            self.keep(&piece[from..at]);
                            self.skips = true;
                        }
                        _ => {}
                    }
                }
                b'}' | b']' => {
                    if self.depth == 2 && self.skips {
                        self.skips = false;
                        from = at - 1;
                    }
                    self.depth = self.depth.saturating_sub(1);
                }
                _ => {}
            }
        }
        if !self.skips {
            self.keep(&piece[from..]);
        }
    }

    /// Returns true if a bracket or string is not closed.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.depth > 0 || self.in_string
    }

    /// Returns the text without the items of the arrays in its outermost object and without a byte
    /// order mark, up to 64 KiB.
    #[must_use]
    pub fn outline(&self) -> &[u8] {
        // Part of the mark may have been read as another format.
        let text = self.outline.iter().position(|byte| !BOM.contains(byte));
        &self.outline[text.unwrap_or_default()..]
    }

    fn keep(&mut self, text: &[u8]) {
        let room = OUTLINE_LIMIT - self.outline.len();
        self.outline
            .extend_from_slice(&text[..text.len().min(room)]);
    }

    /// Returns the index after the closing quote of the string that continues at `at`.
    fn string_end(&mut self, piece: &[u8], mut at: usize) -> Option<usize> {
        let start = at;
        loop {
            let quote = memchr(b'"', &piece[at..]).map(|found| at + found);
            let text = &piece[start..quote.unwrap_or(piece.len())];
            let slashes = text.iter().rev().take_while(|byte| **byte == b'\\').count();
            // A run of backslashes may have begun in an earlier piece.
            let carried = slashes == text.len() && self.is_escaped;
            let is_escaped = (slashes % 2 == 1) != carried;
            match quote {
                Some(quote) if !is_escaped => {
                    self.is_escaped = false;
                    return Some(quote + 1);
                }
                Some(quote) => at = quote + 1,
                None => {
                    self.is_escaped = is_escaped;
                    return None;
                }
            }
        }
    }
}
