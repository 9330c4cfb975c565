//! What of a prompt the model does not read letter by letter.

use std::sync::LazyLock;

use memchr::{memchr, memmem::Finder, memrchr};

use crate::json::skip_space;

static DATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"data\""));
static BASE64: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"base64\""));

/// Data that is shorter is worth no search.
pub(crate) const SHORT: usize = 4_096;

/// How far from the data the rest of its source is looked for.
const NEAR: usize = 256;

/// An image takes a token for every 100 bytes or so, and no more tokens than this many bytes of text.
const IMAGE: usize = 40;
const LONGEST_IMAGE: usize = 12_000;

/// A document has one for every 20 bytes or so: text in it is compressed.
const PDF: usize = 8;

/// `%PDF`.
const PDF_BEGINS: &[u8] = b"JVBER";

/// Bytes of base64 data in a prompt, or a part of it, over the text that would be about as many tokens: what
/// to leave out before [`estimate_tokens`](crate::estimate_tokens).
///
/// Rough, since neither pixels nor pages are counted. Sources:
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
    if json.len() < SHORT {
        return 0;
    }
    let mut surplus = 0;
    let mut at = 0;
    while let Some(found) = DATA.find(&json[at..]) {
        let key = at + found;
        at = key + DATA.needle().len();
        let Some(data) = string_after(json, at) else {
            continue;
        };
        let end = at_end(json, data);
        at = end;
        let length = end - data;
        // Not beyond its braces: what stands beside a text may be an image.
        let before = &json[key.saturating_sub(NEAR)..key];
        let after = &json[end..json.len().min(end + NEAR)];
        let near = [
            &before[memrchr(b'{', before).unwrap_or(0)..],
            &after[..memchr(b'}', after).unwrap_or(after.len())],
        ];
        if length < SHORT || near.iter().all(|near| BASE64.find(near).is_none()) {
            continue;
        }
        let text = if json[data..].starts_with(PDF_BEGINS) {
            length / PDF
        } else {
            (length / IMAGE).min(LONGEST_IMAGE)
        };
        surplus += (length - text) as u64;
    }
    surplus
}

/// The same of one string between its quotes, if it is such data.
pub(crate) fn of_string(json: &[u8], from: usize, to: usize) -> u64 {
    let before = &json[from.saturating_sub(NEAR)..from - 1];
    let Some(colon) = before.trim_ascii_end().strip_suffix(b":") else {
        return 0;
    };
    let Some(before) = colon.trim_ascii_end().strip_suffix(b"\"data\"") else {
        return 0;
    };
    let after = &json[to..json.len().min(to + NEAR)];
    let near = [
        &before[memrchr(b'{', before).unwrap_or(0)..],
        &after[..memchr(b'}', after).unwrap_or(after.len())],
    ];
    if near.iter().all(|near| BASE64.find(near).is_none()) {
        return 0;
    }
    let length = to - from;
    let text = if json[from..].starts_with(PDF_BEGINS) {
        length / PDF
    } else {
        (length / IMAGE).min(LONGEST_IMAGE)
    };
    (length - text) as u64
}

/// Where the string begins that is the value of the key that ends here.
fn string_after(json: &[u8], key: usize) -> Option<usize> {
    let colon = skip_space(json, key);
    let value = skip_space(json, colon + 1);
    (json.get(colon) == Some(&b':') && json.get(value) == Some(&b'"')).then_some(value + 1)
}

/// Base64 has no quotes, so that none is escaped.
fn at_end(json: &[u8], from: usize) -> usize {
    memchr(b'"', &json[from..]).map_or(json.len(), |end| from + end)
}
