//! Estimate of the text in a prompt: the bytes of its JSON that become tokens.

use std::sync::LazyLock;

use memchr::{
    memchr,
    memmem::{Finder, rfind},
    memrchr,
};

use crate::json::{StringVisitor, find_byte, value_end_visiting};

static BASE64: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"base64\""));
static IMAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"image\""));

/// Shorter data does not change an estimate enough to be worth a search.
const MIN_DATA: usize = 1_024;

/// A shorter string has too few escapes to change an estimate.
const MIN_ESCAPED: usize = 12;

/// Distance within which the other members of a source or its block are searched.
const NEAR: usize = 256;

/// An image has about one token per 100 bytes, which is one 40th of the tokens of as much text, and
/// never more tokens than `MAX_IMAGE_TEXT` bytes of text.
const IMAGE_DIVISOR: usize = 40;
const MAX_IMAGE_TEXT: usize = 12_000;

/// A document has about one token per 20 bytes: the text in it is compressed.
const PDF_DIVISOR: usize = 8;

/// `%PDF` in base64.
const PDF_PREFIX: &[u8] = b"JVBER";

/// The text of an image of common size, and of a document of a few pages, whose bytes are not in
/// the request.
const REFERENCED_IMAGE_TEXT: i64 = 4_000;
const REFERENCED_DOCUMENT_TEXT: i64 = 25_000;

/// The JSON around a message and around a text block, beyond the length of a text with as many
/// tokens as the API counts for it.
const MESSAGE_FRAME: i64 = 17;
const TEXT_FRAME: i64 = 21;

/// The quotes of a string, and the strings of a message with a plain text and of a text block: two
/// keys and their values.
const QUOTES: i64 = 2;
const FRAME_STRINGS: i64 = 4;

/// The text of the definition that the server has of a tool of its own.
const SERVER_TOOL_TEXT: i64 = 1_750;

/// The tools that the server defines and the client runs.
const CLIENT_TOOLS: [&[u8]; 4] = [b"bash_", b"text_editor_", b"computer_", b"memory_"];

/// Returns the length of a text with about as many tokens as this JSON, which is a prompt or a part
/// of one. Pass it to [`estimate_tokens`](crate::estimate_tokens).
///
/// An escape counts as the character that it stands for. White space between JSON tokens and the
/// frames of messages and text blocks hardly count. Images and documents count by the size of their
/// base64 data, or as one of common size if the request only refers to them. A tool of the server
/// counts with its definition.
///
/// This is a rough estimate, since neither pixels nor pages are counted. Sources:
/// <https://platform.claude.com/docs/en/build-with-claude/vision>,
/// <https://platform.claude.com/docs/en/build-with-claude/pdf-support>.
///
/// ```
/// use tower_claude_wire::text_bytes;
///
/// assert_eq!(text_bytes(br#"{"text":"\u6771\u4eac"}"#), r#"{"text":"東京"}"#.len() as u64);
/// let image = format!(
///     r#"{{"source":{{"type":"base64","media_type":"image/png","data":"{}"}}}}"#,
///     "iVBORw0K".repeat(5_000)
/// );
/// assert_eq!(text_bytes(image.as_bytes()), image.len() as u64 - 39_000);
/// ```
#[must_use]
pub fn text_bytes(json: &[u8]) -> u64 {
    let mut strings = StringFindings::default();
    if let Some(end) = value_end_visiting(json, 0, &mut strings)
        && json[0] == b'"'
    {
        strings.visit_value(&json[..end]);
    }
    strings.text_of(json.len())
}

/// Findings in the strings and the white space of nested values. They are visited anyway, so this
/// saves other passes over the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StringFindings {
    pub(crate) cache_control: bool,
    pub(crate) media: bool,
    /// A tool that runs at the server.
    pub(crate) server_tool: bool,
    /// The bytes that are no text. Less than zero if the text is longer than the JSON.
    surplus: i64,
    /// The marks of structure in the text: quotes and escapes of one character. Those of the frames
    /// of messages and text blocks are subtracted.
    marks: i64,
    /// Twice the tokens of escaped rare characters beyond those of their bytes.
    rare: u32,
}

impl StringFindings {
    /// Returns the text of a value of this length that was visited, and begins the next value.
    pub(crate) fn text_of(&mut self, length: usize) -> u64 {
        let surplus = std::mem::take(&mut self.surplus);
        (length as u64).saturating_add_signed(surplus.saturating_neg())
    }

    /// Returns the marks of structure.
    pub(crate) fn marks(&self) -> u32 {
        u32::try_from(self.marks.max(0)).unwrap_or(u32::MAX)
    }

    /// Returns the tokens of escaped rare characters beyond those of their bytes.
    pub(crate) const fn rare_tokens(&self) -> u32 {
        self.rare / 2
    }

    /// Visits a value that is a string itself, with its quotes.
    pub(crate) fn visit_value(&mut self, value: &[u8]) {
        let to = value.len() - 1;
        let escape = find_byte(&value[1..to], b'\\').map_or(to, |found| 1 + found);
        self.visit(value, 1, escape, to);
    }

    /// Measures a string that is long enough for escapes or data.
    #[inline]
    fn measure(&mut self, json: &[u8], from: usize, escape: usize, to: usize) {
        if to - from >= MIN_DATA
            && let Some(before) = before_key(json, from, b"\"data\"")
            && let Some(surplus) = surplus_of_data(json, before, from, to)
        {
            self.media = true;
            self.surplus += surplus as i64;
        } else if escape < to {
            let escapes = Escapes::of(&json[escape..to]);
            self.surplus += escapes.surplus as i64;
            self.marks += escapes.short as i64;
            self.rare = self.rare.saturating_add(escapes.rare);
        }
    }
}

impl StringVisitor for StringFindings {
    const READS_ESCAPES: bool = true;

    #[inline]
    fn visit(&mut self, json: &[u8], from: usize, escape: usize, to: usize) {
        let text = &json[from..to];
        self.marks += QUOTES;
        match text.len() {
            4 if text == b"role" => {
                self.surplus += MESSAGE_FRAME;
                self.marks -= FRAME_STRINGS * QUOTES;
            }
            4 if text == b"text" && is_type(json, from) => {
                self.surplus += TEXT_FRAME;
                self.marks -= FRAME_STRINGS * QUOTES;
            }
            3 | 4 if (text == b"url" || text == b"file") && is_type(json, from) => {
                let text = text_of_reference(json, from, to);
                self.media |= text > 0;
                self.surplus -= text;
            }
            length @ MIN_ESCAPED.. => {
                if length <= 32 && text[length - 9..].starts_with(b"_20") && is_type(json, from) {
                    self.surplus -= SERVER_TOOL_TEXT;
                    self.server_tool |= !CLIENT_TOOLS.iter().any(|tool| text.starts_with(tool));
                }
                self.cache_control |= text == b"cache_control";
                self.measure(json, from, escape, to);
            }
            _ => {}
        }
    }

    #[inline]
    fn opening(&mut self, text: &[u8]) -> usize {
        const USER: &[u8] = br#""role":"user","content":"#;
        const ASSISTANT: &[u8] = br#""role":"assistant","content":"#;
        const TEXT: &[u8] = br#""type":"text","text":"#;
        let (length, frame) = match text.get(1) {
            Some(b'r') if text.starts_with(USER) => (USER.len(), MESSAGE_FRAME),
            Some(b'r') if text.starts_with(ASSISTANT) => (ASSISTANT.len(), MESSAGE_FRAME),
            Some(b't') if text.starts_with(TEXT) => (TEXT.len(), TEXT_FRAME),
            _ => return 0,
        };
        self.surplus += frame;
        // Three of the four strings of the frame. The marks of the last one are added by its visit.
        self.marks -= QUOTES;
        length
    }

    #[inline]
    fn skip(&mut self, spaces: usize) {
        self.surplus += spaces as i64;
    }
}

/// Returns true if the string that begins at `from` is the value of a key `type`.
fn is_type(json: &[u8], from: usize) -> bool {
    before_key(json, from, b"\"type\"").is_some()
}

/// Returns the JSON before this key if the string that begins at `from` is its value.
fn before_key<'a>(json: &'a [u8], from: usize, key: &[u8]) -> Option<&'a [u8]> {
    let before = json[..from - 1].trim_ascii_end().strip_suffix(b":")?;
    before.trim_ascii_end().strip_suffix(key)
}

/// The escapes in a string.
#[derive(Default)]
struct Escapes {
    /// Their bytes beyond those of the characters that they stand for.
    surplus: usize,
    /// Those of two bytes.
    short: usize,
    /// Two for each surrogate pair, and one for each combining mark.
    rare: u32,
}

impl Escapes {
    /// Counts the escapes of a text that begins with one.
    fn of(text: &[u8]) -> Self {
        let mut escapes = Self::default();
        let mut at = 0;
        loop {
            // Escapes come in runs.
            while text.get(at) == Some(&b'\\') {
                if text.get(at + 1) == Some(&b'u') {
                    let digits = text.get(at + 2..at + 6).unwrap_or_default();
                    escapes.surplus += 6 - utf8_length(digits);
                    escapes.rare += rare(digits);
                    at += 6;
                } else {
                    escapes.surplus += 1;
                    escapes.short += 1;
                    at += 2;
                }
            }
            match text.get(at..).and_then(|rest| find_byte(rest, b'\\')) {
                Some(found) => at += found,
                None => return escapes,
            }
        }
    }
}

/// Returns 2 if these hexadecimal digits are the first UTF-16 unit of a pair, such as an emoji, and
/// 1 if they are a combining mark.
const fn rare(digits: &[u8]) -> u32 {
    match digits {
        [b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', ..] => 2,
        [b'0', b'3', b'0'..=b'6', _] => 1,
        _ => 0,
    }
}

/// Returns the bytes in UTF-8 of the UTF-16 unit with these hexadecimal digits. Both units of a
/// pair have two.
fn utf8_length(digits: &[u8]) -> usize {
    match digits {
        [b'0', b'0', b'0'..=b'7', _] => 1,
        [b'0', b'0'..=b'7', ..] | [b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..] => 2,
        _ => 3,
    }
}

/// Returns the bytes of the string `json[from..to]` that are no text, or `None` if it is not the
/// base64 data of a source. `before` is the JSON before its key.
fn surplus_of_data(json: &[u8], before: &[u8], from: usize, to: usize) -> Option<usize> {
    let before = &before[before.len().saturating_sub(NEAR)..];
    let after = &json[to..json.len().min(to + NEAR)];
    // The search ends at the braces: the object beside a text may be an image.
    let near = [
        &before[memrchr(b'{', before).unwrap_or(0)..],
        &after[..memchr(b'}', after).unwrap_or(after.len())],
    ];
    if near.iter().all(|near| BASE64.find(near).is_none()) {
        return None;
    }
    let length = to - from;
    let text = if json[from..].starts_with(PDF_PREFIX) {
        length / PDF_DIVISOR
    } else {
        (length / IMAGE_DIVISOR).min(MAX_IMAGE_TEXT)
    };
    Some(length - text)
}

/// Returns the text of the image or document to which the source of the type `json[from..to]`
/// refers, or 0 if it is no source.
fn text_of_reference(json: &[u8], from: usize, to: usize) -> i64 {
    let before = &json[from.saturating_sub(NEAR)..from];
    let Some(source) = rfind(before, b"\"source\"") else {
        return 0;
    };
    // The type of the block is before its source, or after it.
    let block = &before[..source];
    let after = &json[to..json.len().min(to + NEAR)];
    let is_image = match (rfind(block, b"\"image\""), rfind(block, b"\"document\"")) {
        (None, None) => IMAGE.find(after).is_some(),
        (image, document) => image > document,
    };
    if is_image {
        REFERENCED_IMAGE_TEXT
    } else {
        REFERENCED_DOCUMENT_TEXT
    }
}
