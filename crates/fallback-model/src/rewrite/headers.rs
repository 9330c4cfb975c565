//! The headers of a rewritten request (rule 15).

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::losses::{Losses, Why, push};

const BETA: HeaderName = HeaderName::from_static("anthropic-beta");
/// The first API version without sampling parameters.
const NO_SAMPLING: &str = "2026-10-21";

/// Returns true if the API version of the request has no sampling parameters. Versions are dates.
pub(super) fn is_new_version(headers: &HeaderMap) -> bool {
    let version = headers
        .get("anthropic-version")
        .and_then(|value| value.to_str().ok());
    version.is_some_and(|version| version.trim() >= NO_SAMPLING)
}

/// Returns true if the credential signs the body (AWS `SigV4`), so that no other body is accepted.
pub(super) fn is_signed(headers: &HeaderMap) -> bool {
    let signature = headers.get(AUTHORIZATION);
    let scheme = signature.and_then(|value| value.as_bytes().trim_ascii().get(..5));
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"AWS4-"))
}

/// The betas that follow from the changes of the body, by the prefixes of their names.
#[derive(Default)]
pub(super) struct BetaChanges {
    /// The betas whose fields were removed.
    pub(super) removed: Vec<&'static str>,
    /// The beta that a field needs for the target.
    pub(super) added: Option<Box<str>>,
}

/// Returns the headers for `body`.
pub(super) fn rewrite(
    headers: &HeaderMap,
    body: &Bytes,
    changes: BetaChanges,
    losses: &mut Losses,
) -> HeaderMap {
    let mut headers = headers.clone();
    // With the old length, the server would truncate the body or wait for more.
    headers.remove(TRANSFER_ENCODING);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let asked: Vec<HeaderValue> = headers.get_all(BETA).iter().cloned().collect();
    let kept = asked
        .iter()
        .filter_map(|line| without(line, &changes.removed));
    let mut sent: Vec<HeaderValue> = kept.collect();
    let mut why = Why::Pointless;
    if let Some(beta) = changes.added
        && !sent.iter().any(|line| has(line, &beta))
        && let Ok(line) = HeaderValue::from_str(&beta)
    {
        sent.push(line);
        why = Why::Translated;
    }
    if asked != sent {
        headers.remove(BETA);
        for line in &sent {
            headers.append(BETA, line.clone());
        }
        push(losses, "anthropic-beta", joined(&asked), joined(&sent), why);
    }
    headers
}

/// Returns true if the line contains this beta.
fn has(line: &HeaderValue, beta: &str) -> bool {
    let text = line.to_str().unwrap_or_default();
    text.split(',').any(|name| name.trim() == beta)
}

/// Returns the line without these betas, or `None` if nothing is left of it. Another line is
/// unchanged.
fn without(line: &HeaderValue, gone: &[&str]) -> Option<HeaderValue> {
    let Ok(text) = line.to_str() else {
        return Some(line.clone());
    };
    let is_gone = |name: &str| gone.iter().any(|prefix| name.trim().starts_with(prefix));
    if !text.split(',').any(is_gone) {
        return Some(line.clone());
    }
    let kept: Vec<&str> = text
        .split(',')
        .filter(|name| !is_gone(name))
        .map(str::trim)
        .collect();
    let kept = kept.join(",");
    if kept.is_empty() {
        return None;
    }
    HeaderValue::from_str(&kept).ok()
}

fn joined(lines: &[HeaderValue]) -> Option<Bytes> {
    let lines: Vec<&[u8]> = lines.iter().map(HeaderValue::as_bytes).collect();
    (!lines.is_empty()).then(|| lines.join(&b","[..]).into())
}
