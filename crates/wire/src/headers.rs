//! What the response headers say: rate-limit families, request id, dates, content type.
//!
//! Names and meanings: <https://platform.claude.com/docs/en/api/rate-limits#response-headers>.

use std::time::SystemTime;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    stamp::{self, Day},
    unified::Unified,
};

/// One bucket as the server reports it. Every part may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Capacity of the bucket, per minute, in requests or tokens.
    pub limit: Option<u64>,
    /// What is left. Token counts are rounded to the nearest thousand by the server.
    pub remaining: Option<u64>,
    /// When the bucket will be *full* again, by the server's clock; may lie in the past.
    pub reset: Option<SystemTime>,
}

impl Gauge {
    /// Whether the server said nothing about this bucket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All rate-limit headers of one response.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RateLimits {
    /// Requests per minute.
    pub requests: Gauge,
    /// The tightest token limit in effect now: a view of one of the others, not a bucket of its own.
    pub tokens: Gauge,
    /// Input tokens per minute; cache reads do not count.
    pub input_tokens: Gauge,
    /// Output tokens per minute, counted as they are generated.
    pub output_tokens: Gauge,
    /// Priority Tier input tokens.
    pub priority_input_tokens: Gauge,
    /// Priority Tier output tokens.
    pub priority_output_tokens: Gauge,
    /// Fast mode input tokens.
    pub fast_input_tokens: Gauge,
    /// Fast mode output tokens.
    pub fast_output_tokens: Gauge,
    /// Subscription windows (undocumented family); boxed because API-key traffic never has it.
    pub unified: Option<Box<Unified>>,
}

impl RateLimits {
    /// Reads every family in one pass. Malformed values count as absent; of repeated headers the
    /// first good value stands.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut limits = Self::default();
        let mut day = Day::default();
        for (name, value) in headers {
            let name = name.as_str();
            if let Some(rest) = name.as_bytes().strip_prefix(b"anthropic-ratelimit-")
                && limits.quick(rest, value, &mut day)
            {
                continue;
            }
            let Some(rest) = name.strip_prefix("anthropic-") else {
                continue;
            };
            if let Some(rest) = rest.strip_prefix("ratelimit-") {
                if let Some(rest) = rest.strip_prefix("unified-") {
                    limits.unified.get_or_insert_default().read(rest, value);
                    continue;
                }
                limits.read(rest, value, Family::Standard);
            } else if let Some(rest) = rest.strip_prefix("priority-") {
                limits.read(rest, value, Family::Priority);
            } else if let Some(rest) = rest.strip_prefix("fast-") {
                limits.read(rest, value, Family::Fast);
            }
        }
        // Nothing but names we do not know says nothing.
        limits.unified = limits.unified.filter(|u| **u != Unified::default());
        limits
    }

    /// Whether no rate-limit header was present and well formed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads what nearly all responses say; false for all else.
    #[inline]
    fn quick(&mut self, name: &[u8], value: &HeaderValue, day: &mut Day) -> bool {
        let (gauge, part) = match name {
            [b'r', rest @ ..] => (&mut self.requests, rest.strip_prefix(b"equests-")),
            [b'i', rest @ ..] => (&mut self.input_tokens, rest.strip_prefix(b"nput-tokens-")),
            [b'o', rest @ ..] => (&mut self.output_tokens, rest.strip_prefix(b"utput-tokens-")),
            [b't', rest @ ..] => (&mut self.tokens, rest.strip_prefix(b"okens-")),
            _ => return false,
        };
        let Some(part) = part else { return false };
        let bytes = value.as_bytes();
        match part.first_chunk() {
            Some(b"limit") if part.len() == 5 => {
                gauge.limit = gauge.limit.or_else(|| count(bytes));
            }
            Some(b"reset") if part.len() == 5 => {
                gauge.reset = gauge.reset.or_else(|| day.rfc3339(bytes));
            }
            Some(_) if part == b"remaining" => {
                gauge.remaining = gauge.remaining.or_else(|| count(bytes));
            }
            _ => return false,
        }
        true
    }

    fn read(&mut self, name: &str, value: &HeaderValue, family: Family) {
        let (dimension, part) = if let Some(dimension) = name.strip_suffix("-limit") {
            (dimension, Part::Limit)
        } else if let Some(dimension) = name.strip_suffix("-remaining") {
            (dimension, Part::Remaining)
        } else if let Some(dimension) = name.strip_suffix("-reset") {
            (dimension, Part::Reset)
        } else {
            return;
        };
        let gauge = match (family, dimension) {
            (Family::Standard, "requests") => &mut self.requests,
            (Family::Standard, "tokens") => &mut self.tokens,
            (Family::Standard, "input-tokens") => &mut self.input_tokens,
            (Family::Standard, "output-tokens") => &mut self.output_tokens,
            (Family::Priority, "input-tokens") => &mut self.priority_input_tokens,
            (Family::Priority, "output-tokens") => &mut self.priority_output_tokens,
            (Family::Fast, "input-tokens") => &mut self.fast_input_tokens,
            (Family::Fast, "output-tokens") => &mut self.fast_output_tokens,
            _ => return,
        };
        let bytes = value.as_bytes();
        match part {
            Part::Limit => gauge.limit = gauge.limit.or_else(|| count(bytes)),
            Part::Remaining => gauge.remaining = gauge.remaining.or_else(|| count(bytes)),
            Part::Reset => gauge.reset = gauge.reset.or_else(|| rfc3339(bytes)),
        }
    }
}

#[derive(Clone, Copy)]
enum Family {
    Standard,
    Priority,
    Fast,
}

#[derive(Clone, Copy)]
enum Part {
    Limit,
    Remaining,
    Reset,
}

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const WORKSPACE_ID: HeaderName = HeaderName::from_static("anthropic-workspace-id");
const ORGANIZATION_ID: HeaderName = HeaderName::from_static("anthropic-organization-id");

/// `x-should-retry`: the server's own verdict, `true` or `false`; anything else is `None`.
#[must_use]
pub fn should_retry(headers: &HeaderMap) -> Option<bool> {
    let value = headers.get(SHOULD_RETRY)?.as_bytes().trim_ascii();
    if value.eq_ignore_ascii_case(b"true") {
        Some(true)
    } else if value.eq_ignore_ascii_case(b"false") {
        Some(false)
    } else {
        None
    }
}

/// The server's clock when it answered (`Date`).
#[must_use]
pub fn date(headers: &HeaderMap) -> Option<SystemTime> {
    http_date(headers.get(DATE)?)
}

/// `request-id`, the `req_…` that Anthropic's support asks for.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> Option<&str> {
    text(headers, &REQUEST_ID)
}

/// `anthropic-workspace-id`, the workspace the credential resolved to.
#[must_use]
pub fn workspace_id(headers: &HeaderMap) -> Option<&str> {
    text(headers, &WORKSPACE_ID)
}

/// `anthropic-organization-id`, the organization of the credential.
#[must_use]
pub fn organization_id(headers: &HeaderMap) -> Option<&str> {
    text(headers, &ORGANIZATION_ID)
}

/// What `content-type` says the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Media {
    /// `application/json` or any `…+json`.
    Json,
    /// `text/event-stream`.
    EventStream,
    /// Anything else, or nothing said.
    Other,
}

/// What the body is, by one look at `content-type`; parameters and case do not matter.
#[must_use]
#[inline]
pub fn media(headers: &HeaderMap) -> Media {
    match headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
        None => Media::Other,
        // Nearly always to the byte, which is quicker to see.
        Some(b"application/json") => Media::Json,
        Some(b"text/event-stream" | b"text/event-stream; charset=utf-8") => Media::EventStream,
        Some(other) => dressed_media(other),
    }
}

fn dressed_media(value: &[u8]) -> Media {
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    let name = value[..end].trim_ascii();
    let ends = |end: &[u8]| {
        let from = name.len().checked_sub(end.len());
        from.is_some_and(|from| name[from..].eq_ignore_ascii_case(end))
    };
    if name.eq_ignore_ascii_case(b"application/json") || ends(b"+json") {
        Media::Json
    } else if name.eq_ignore_ascii_case(b"text/event-stream") {
        Media::EventStream
    } else {
        Media::Other
    }
}

/// What the body can be read as: its [`media`], unless it is compressed. What is neither JSON nor a stream
/// is not looked at twice.
#[must_use]
pub fn readable(headers: &HeaderMap) -> Media {
    let media = media(headers);
    if media != Media::Other && headers.contains_key(CONTENT_ENCODING) && is_compressed(headers) {
        return Media::Other;
    }
    media
}

/// Whether the body is a server-sent event stream. See [`media`].
#[must_use]
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    media(headers) == Media::EventStream
}

/// Whether the body is JSON (`application/json` or any `…+json`). See [`media`].
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    media(headers) == Media::Json
}

/// Whether the body is compressed, so that its text cannot be read as it is.
#[must_use]
pub fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| {
        value
            .as_bytes()
            .split(|b| *b == b',')
            .map(<[u8]>::trim_ascii)
            .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then_some(value)
}

/// Plain base-10, nothing else: no sign, no fraction.
pub(crate) fn count(bytes: &[u8]) -> Option<u64> {
    digits(bytes.trim_ascii())
}

/// Digits only, at least one.
pub(crate) fn digits(bytes: &[u8]) -> Option<u64> {
    if let 1..=16 = bytes.len() {
        let mut padded = [b'0'; 16];
        padded[16 - bytes.len()..].copy_from_slice(bytes);
        let (eights, _) = padded.as_chunks::<8>();
        return Some(eight_digits(eights[0])? * 100_000_000 + eight_digits(eights[1])?);
    }
    // Nineteen nines fit, and nobody sends more.
    let (head, tail) = bytes.split_at(bytes.len().min(19));
    let mut sum = 0;
    for byte in head {
        sum = sum * 10 + digit(*byte)?;
    }
    let add = |sum: u64, byte: &u8| sum.checked_mul(10)?.checked_add(digit(*byte)?);
    tail.iter().try_fold(sum, add).filter(|_| !bytes.is_empty())
}

/// Eight digits at once: pairs, then fours, then all.
#[inline]
fn eight_digits(eight: [u8; 8]) -> Option<u64> {
    const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);
    const HIGH: u64 = u64::from_le_bytes([0xf0; 8]);
    const SIXES: u64 = u64::from_le_bytes([6; 8]);
    let word = u64::from_le_bytes(eight);
    // A byte is a digit when its high half is that of `0`, and still is with six added.
    if (word & HIGH) | ((word.wrapping_add(SIXES) & HIGH) >> 4) != ZEROS | (ZEROS >> 4) {
        return None;
    }
    let digits = word - ZEROS;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    Some(fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff)
}

fn digit(byte: u8) -> Option<u64> {
    let digit = byte.wrapping_sub(b'0');
    (digit <= 9).then_some(u64::from(digit))
}

/// An HTTP date in any of its forms.
pub(crate) fn http_date(value: &HeaderValue) -> Option<SystemTime> {
    stamp::http_date(value.as_bytes())
        .or_else(|| httpdate::parse_http_date(value.to_str().ok()?.trim()).ok())
}

pub(crate) fn rfc3339(bytes: &[u8]) -> Option<SystemTime> {
    stamp::rfc3339(bytes).or_else(|| any_rfc3339(bytes))
}

fn any_rfc3339(bytes: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let stamp: jiff::Timestamp = text.parse().ok()?;
    let since = stamp.as_duration();
    if since.is_negative() {
        SystemTime::UNIX_EPOCH.checked_sub(since.unsigned_abs())
    } else {
        SystemTime::UNIX_EPOCH.checked_add(since.unsigned_abs())
    }
}
