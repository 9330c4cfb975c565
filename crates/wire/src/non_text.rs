//! Estimate of the part of a prompt that is not text: images and documents as base64.

use std::sync::LazyLock;

use memchr::{memchr, memmem::Finder, memrchr};

use crate::json::skip_space;

static DATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"data\""));
static BASE64: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"base64\""));

/// Shorter data does not change an estimate enough to be worth a search.
pub(crate) const MIN_LENGTH: usize = 4_096;

/// Distance from the data within which the other members of its source are searched.
const NEAR: usize = 256;

/// An image has about one token per 100 bytes, which is one 40th of the tokens of as much text, and
/// never more tokens than `MAX_IMAGE_TEXT` bytes of text.
const IMAGE_DIVISOR: usize = 40;
const MAX_IMAGE_TEXT: usize = 12_000;

/// A document has about one token per 20 bytes: the text in it is compressed.
const PDF_DIVISOR: usize = 8;

/// `%PDF` in base64.
const PDF_PREFIX: &[u8] = b"JVBER";

/// Returns the number of bytes to leave out before [`estimate_tokens`](crate::estimate_tokens): the
/// base64 data in a prompt, or a part of a prompt, less the length of a text with about as many
/// tokens.
///
/// This is a rough estimate, since neither pixels nor pages are counted. Sources:
/// <https://platform.claude.com/docs/en/build-with-claude/vision>,
/// <https://platform.claude.com/docs/en/build-with-claude/pdf-support>.
///
/// ```
/// use tower_claude_wire::non_text_bytes;
///
/// let image = format!(
///     r#"{{"source":{{"type":"base64","media_type":"image/png","data":"{}"}}}}"#,
///     "iVBORw0K".repeat(5_000)
/// );
/// assert_eq!(non_text_bytes(image.as_bytes()), 39_000);
/// ```
#[must_use]
pub fn non_text_bytes(json: &[u8]) -> u64 {
    if json.len() < MIN_LENGTH {
        return 0;
    }
    let mut sum = 0;
    let mut at = 0;
    while let Some(found) = DATA.find(&json[at..]) {
        let key = at + found;
        at = key + DATA.needle().len();
        let Some(from) = string_after(json, at) else {
            continue;
        };
        // Base64 has no quotes, so none is escaped.
        let to = memchr(b'"', &json[from..]).map_or(json.len(), |end| from + end);
        at = to;
        sum += of_data(json, key, from, to);
    }
    sum
}

/// Returns the same for the string `json[from..to]`, or 0 if it is not the base64 data of a source.
pub(crate) fn of_string(json: &[u8], from: usize, to: usize) -> u64 {
    if to - from < MIN_LENGTH {
        return 0;
    }
    let before = json[..from - 1].trim_ascii_end();
    let before = before.strip_suffix(b":").map(<[u8]>::trim_ascii_end);
    match before.and_then(|before| before.strip_suffix(DATA.needle())) {
        Some(before) => of_data(json, before.len(), from, to),
        None => 0,
    }
}

/// Returns the same for `json[from..to]`, the value of a key `"data"` that begins at `key`.
fn of_data(json: &[u8], key: usize, from: usize, to: usize) -> u64 {
    let length = to - from;
    // The search ends at the braces: the object beside a text may be an image.
    let before = &json[key.saturating_sub(NEAR)..key];
    let after = &json[to..json.len().min(to + NEAR)];
    let near = [
        &before[memrchr(b'{', before).unwrap_or(0)..],
        &after[..memchr(b'}', after).unwrap_or(after.len())],
    ];
    if length < MIN_LENGTH || near.iter().all(|near| BASE64.find(near).is_none()) {
        return 0;
    }
    let text = if json[from..].starts_with(PDF_PREFIX) {
        length / PDF_DIVISOR
    } else {
        (length / IMAGE_DIVISOR).min(MAX_IMAGE_TEXT)
    };
    (length - text) as u64
}

/// Returns the position of the text of the string that is the value of the key that ends at `key`.
fn string_after(json: &[u8], key: usize) -> Option<usize> {
    let colon = skip_space(json, key);
    let value = skip_space(json, colon + 1);
    (json.get(colon) == Some(&b':') && json.get(value) == Some(&b'"')).then_some(value + 1)
}
