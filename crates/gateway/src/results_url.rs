//! The `results_url` of message batches.
//!
//! The SDKs follow this absolute URL with the credential of the caller. Unchanged, a gateway key
//! would be sent to the upstream.

use bytes::Bytes;
use memchr::memmem::find_iter;

/// The name of the field, in its quotes. Within a JSON string the quotes would be escaped.
const FIELD: &[u8] = b"\"results_url\"";

/// Returns the body with the base URL `to` in place of scheme, host and the path `from` in each
/// `results_url`. `None` if there is nothing to change. All other bytes stay as they are.
pub(crate) fn rewrite(body: &[u8], from: &str, to: &str) -> Option<Bytes> {
    let mut new = Vec::new();
    let mut copied = 0;
    for at in find_iter(body, FIELD) {
        let Some(start) = value_start(body, at + FIELD.len()) else {
            continue;
        };
        let Some(length) = origin_length(&body[start..]) else {
            continue;
        };
        new.extend_from_slice(&body[copied..start]);
        new.extend_from_slice(to.as_bytes());
        let path = &body[start + length..];
        copied = start
            + length
            + if path.starts_with(from.as_bytes()) {
                from.len()
            } else {
                0
            };
    }
    if copied == 0 {
        return None;
    }
    new.extend_from_slice(&body[copied..]);
    Some(new.into())
}

/// Returns the position after the opening quote of a value. `None` if it is no string.
fn value_start(body: &[u8], at: usize) -> Option<usize> {
    let skip_space = |at: usize| {
        let rest = body.get(at..)?;
        Some(at + rest.iter().position(|byte| !byte.is_ascii_whitespace())?)
    };
    let colon = skip_space(at)?;
    if body[colon] != b':' {
        return None;
    }
    let quote = skip_space(colon + 1)?;
    (body[quote] == b'"').then_some(quote + 1)
}

/// Returns the length of scheme and host. `None` for another kind of text.
fn origin_length(url: &[u8]) -> Option<usize> {
    let scheme = [&b"https://"[..], b"http://"];
    let scheme = scheme.iter().find(|scheme| url.starts_with(scheme))?.len();
    let host = &url[scheme..];
    let end = host
        .iter()
        .position(|byte| matches!(byte, b'/' | b'"' | b'?' | b'\\'))?;
    Some(scheme + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_origin_of_each_url_is_replaced() {
        let body = br#"{"data":[{"id":"a","results_url":"https://api.anthropic.com/v1/messages/batches/a/results"},
            {"id":"\"results_url\"","results_url" : null},{"results_url" :
            "http://127.0.0.1:80/b"}]}"#;
        let expected =
            br#"{"data":[{"id":"a","results_url":"http://gw/p/v1/messages/batches/a/results"},
            {"id":"\"results_url\"","results_url" : null},{"results_url" :
            "http://gw/p/b"}]}"#;
        assert_eq!(
            rewrite(body, "", "http://gw/p").as_deref(),
            Some(&expected[..])
        );
    }

    #[test]
    fn body_without_a_url_stays() {
        for body in [
            "",
            "{}",
            r#"{"results_url":null}"#,
            r#"{"results_url"#,
            r#"{"results_url":"#,
            r#"{"results_url":"https://unterminated"#,
            r#"["results_url","https://x/y"]"#,
        ] {
            assert_eq!(rewrite(body.as_bytes(), "", "http://gw"), None, "{body}");
        }
    }
}
