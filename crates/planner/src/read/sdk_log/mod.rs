//! The debug logs of the official SDKs (`ANTHROPIC_LOG=debug`).

pub(super) mod python;
pub(super) mod typescript;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Returns true for a line of either SDK.
pub(super) fn is_line(line: &str) -> bool {
    is_python(line) || typescript::begins_entry(line)
}

/// Returns true for a line of the Python SDK.
pub(super) fn is_python(line: &str) -> bool {
    line.starts_with('[') && line.contains(" - anthropic._base_client:")
}

/// Returns the text between quotes after `key`.
fn quoted<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let at = text.rfind(key)? + key.len();
    let rest = text[at..].trim_start();
    let quote = rest
        .chars()
        .next()
        .filter(|first| matches!(first, '\'' | '"'))?;
    rest[1..].split(quote).next()
}

/// Returns the number after `key`.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let at = text.rfind(key)? + key.len();
    let rest = text[at..].trim_start();
    let end = rest
        .find(|digit: char| !digit.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Adds a header, if its name and value are valid.
fn add_header(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}
