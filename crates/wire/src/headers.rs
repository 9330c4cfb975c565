//! Response headers: rate limits, request id, date, content type.
//!
//! Names and meanings: <https://platform.claude.com/docs/en/api/rate-limits#response-headers>.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::json::integer;
use crate::timestamp::{TimestampParser, http_date};

/// State of one rate limit as the server reports it. Every part may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Capacity of the bucket, per minute, in requests or tokens.
    pub limit: Option<u64>,
    /// Remaining requests or tokens. The server rounds token counts to the nearest thousand.
    pub remaining: Option<u64>,
    /// Time at which the bucket is *full* again, by the server's clock. It may be in the past.
    pub reset: Option<SystemTime>,
}

impl Gauge {
    /// Returns true if no header of this limit was present and well formed.
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
    /// The most restrictive token limit at the moment. It repeats one of the other limits.
    pub tokens: Gauge,
    /// Input tokens per minute. Cache reads do not count.
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
    /// Limits of subscription traffic (undocumented). Boxed, because API-key traffic never has
    /// them.
    pub unified: Option<Box<Unified>>,
}

impl RateLimits {
    /// Returns requests, input and output tokens of the pool of usual requests, or of fast ones.
    #[must_use]
    pub const fn of_pool(&self, fast: bool) -> [&Gauge; 3] {
        match fast {
            true => [
                &self.requests,
                &self.fast_input_tokens,
                &self.fast_output_tokens,
            ],
            false => [&self.requests, &self.input_tokens, &self.output_tokens],
        }
    }

    /// Reads every family in one pass. A malformed value counts as absent. Of repeated headers the
    /// first well-formed value is used.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut limits = Self::default();
        let mut timestamps = TimestampParser::default();
        for (name, value) in headers {
            let Some(name) = name.as_str().strip_prefix("anthropic-") else {
                continue;
            };
            if let Some(name) = name.strip_prefix("ratelimit-unified-") {
                limits.unified.get_or_insert_default().read(name, value);
            } else {
                limits.read(name, value, &mut timestamps);
            }
        }
        // A family of unknown names only is an empty one.
        limits.unified = limits.unified.filter(|u| **u != Unified::default());
        limits
    }

    /// Returns true if no rate-limit header was present and well formed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn read(&mut self, name: &str, value: &HeaderValue, timestamps: &mut TimestampParser) {
        let (gauge, part) = if let Some(part) = name.strip_prefix("ratelimit-requests-") {
            (&mut self.requests, part)
        } else if let Some(part) = name.strip_prefix("ratelimit-input-tokens-") {
            (&mut self.input_tokens, part)
        } else if let Some(part) = name.strip_prefix("ratelimit-output-tokens-") {
            (&mut self.output_tokens, part)
        } else if let Some(part) = name.strip_prefix("ratelimit-tokens-") {
            (&mut self.tokens, part)
        } else if let Some(part) = name.strip_prefix("priority-input-tokens-") {
            (&mut self.priority_input_tokens, part)
        } else if let Some(part) = name.strip_prefix("priority-output-tokens-") {
            (&mut self.priority_output_tokens, part)
        } else if let Some(part) = name.strip_prefix("fast-input-tokens-") {
            (&mut self.fast_input_tokens, part)
        } else if let Some(part) = name.strip_prefix("fast-output-tokens-") {
            (&mut self.fast_output_tokens, part)
        } else {
            return;
        };
        let bytes = value.as_bytes();
        match part {
            "limit" => gauge.limit = gauge.limit.or_else(|| count(bytes)),
            "remaining" => gauge.remaining = gauge.remaining.or_else(|| count(bytes)),
            "reset" => gauge.reset = gauge.reset.or_else(|| timestamps.rfc3339(bytes)),
            _ => {}
        }
    }
}

/// Rate limits of subscription (OAuth) traffic, from the headers `anthropic-ratelimit-unified-*`.
///
/// This family is not documented. It is parsed from observed responses, and no layer depends on it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Unified {
    /// `allowed`, `allowed_warning`, `rejected` or something newer.
    pub status: Option<String>,
    /// Time at which the representative window starts again.
    pub reset: Option<SystemTime>,
    /// Name of the window that is decisive at the moment, e.g. `five_hour`.
    pub representative_claim: Option<String>,
    /// The windows, in header order, at most [`Unified::MAX_WINDOWS`].
    pub windows: Vec<UnifiedWindow>,
    /// Used share of the limit above which a cheaper model is suggested.
    pub fallback_percentage: Option<f64>,
    /// Status of paid overage.
    pub overage_status: Option<String>,
    /// Reason for which overage is disabled, e.g. `out_of_credits`.
    pub overage_disabled_reason: Option<String>,
}

/// One window of [`Unified`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct UnifiedWindow {
    /// A time: `5h`, `7d`, `7d_oi` or something newer.
    pub name: String,
    /// As [`Unified::status`], for this window.
    pub status: Option<String>,
    /// Time at which the window starts again.
    pub reset: Option<SystemTime>,
    /// Used share of the window. 1.0 is all of it, and larger values occur.
    pub utilization: Option<f64>,
}

impl Unified {
    /// Maximum number of windows. Further ones are ignored, so that a server cannot make a client
    /// use unbounded memory.
    pub const MAX_WINDOWS: usize = 16;

    pub(crate) fn read(&mut self, name: &str, value: &HeaderValue) {
        let bytes = value.as_bytes();
        match name {
            "status" => set_text(&mut self.status, value),
            "reset" => self.reset = self.reset.or_else(|| epoch(bytes)),
            "representative-claim" => set_text(&mut self.representative_claim, value),
            "fallback-percentage" => {
                self.fallback_percentage = self.fallback_percentage.or_else(|| share(value));
            }
            "overage-status" => set_text(&mut self.overage_status, value),
            "overage-disabled-reason" => set_text(&mut self.overage_disabled_reason, value),
            _ => {
                let Some((window, part)) = name.rsplit_once('-') else {
                    return;
                };
                // Names such as `overage`, `grace` and `slow` are no windows.
                let is_window = window.starts_with(|first: char| first.is_ascii_digit());
                if !is_window || !matches!(part, "status" | "reset" | "utilization") {
                    return;
                }
                let Some(window) = self.window(window) else {
                    return;
                };
                match part {
                    "status" => set_text(&mut window.status, value),
                    "reset" => window.reset = window.reset.or_else(|| epoch(bytes)),
                    _ => window.utilization = window.utilization.or_else(|| share(value)),
                }
            }
        }
    }

    fn window(&mut self, name: &str) -> Option<&mut UnifiedWindow> {
        if let Some(at) = self.windows.iter().position(|w| w.name == name) {
            return self.windows.get_mut(at);
        }
        if self.windows.len() == Self::MAX_WINDOWS {
            return None;
        }
        self.windows.push(UnifiedWindow {
            name: name.to_owned(),
            ..UnifiedWindow::default()
        });
        self.windows.last_mut()
    }
}

fn set_text(slot: &mut Option<String>, value: &HeaderValue) {
    if slot.is_none() {
        *slot = value.to_str().ok().map(str::to_owned);
    }
}

fn epoch(bytes: &[u8]) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(count(bytes)?))
}

fn share(value: &HeaderValue) -> Option<f64> {
    let share: f64 = value.to_str().ok()?.trim().parse().ok()?;
    (share.is_finite() && share >= 0.0).then_some(share)
}

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const UNIFIED_STATUS: HeaderName = HeaderName::from_static("anthropic-ratelimit-unified-status");
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const WORKSPACE_ID: HeaderName = HeaderName::from_static("anthropic-workspace-id");
const ORGANIZATION_ID: HeaderName = HeaderName::from_static("anthropic-organization-id");

/// Returns the value of `x-should-retry`: `true` or `false`. Anything else is `None`.
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

/// Returns the wait until a subscription may be used again, if the unified headers reject the
/// request: `anthropic-ratelimit-unified-status: rejected`, and the end of the window in `-reset`.
///
/// Without an end of its own, the latest end of a rejected window counts. A time in the past, and
/// a time of more than 31 days, is `None`.
#[must_use]
pub fn unified_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    const MOST: Duration = Duration::from_secs(31 * 86_400);
    let rejects = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"rejected");
    headers
        .get(UNIFIED_STATUS)
        .filter(|value| rejects(value.as_bytes()))?;
    let unified = RateLimits::from_headers(headers).unified?;
    let windows = unified.windows.iter().filter(|window| {
        let status = window.status.as_ref();
        status.is_some_and(|status| rejects(status.as_bytes()))
    });
    let ends = windows.filter_map(|window| window.reset).max();
    let wait = unified.reset.or(ends)?.duration_since(now).ok()?;
    (wait <= MOST).then_some(wait)
}

/// Returns the server's time of the response (`Date`).
#[must_use]
pub fn date(headers: &HeaderMap) -> Option<SystemTime> {
    http_date(headers.get(DATE)?.as_bytes())
}

/// Returns the `request-id` (`req_…`), which a support request should name.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> Option<&str> {
    text(headers, &REQUEST_ID)
}

/// Returns the `anthropic-workspace-id`, the workspace of the credential.
#[must_use]
pub fn workspace_id(headers: &HeaderMap) -> Option<&str> {
    text(headers, &WORKSPACE_ID)
}

/// Returns the `anthropic-organization-id`, the organization of the credential.
#[must_use]
pub fn organization_id(headers: &HeaderMap) -> Option<&str> {
    text(headers, &ORGANIZATION_ID)
}

/// Media type of a body, as far as the parsers of this crate distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Media {
    /// `application/json` or any `…+json`.
    Json,
    /// `text/event-stream`.
    EventStream,
    /// Any other type, or none.
    Other,
}

/// Returns the first `content-type` header.
// It is mostly the second header, and a look-up by its hash takes as long as to compare half a
// dozen names.
#[inline]
fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut headers = headers.iter();
    let (_, value) = headers.find(|(name, _)| *name == CONTENT_TYPE)?;
    Some(value)
}

/// Returns the media type by the `content-type` header, without regard to parameters and case.
#[must_use]
#[inline]
pub fn media(headers: &HeaderMap) -> Media {
    let Some(value) = content_type(headers).map(HeaderValue::as_bytes) else {
        return Media::Other;
    };
    // The usual values are compared first, because that is faster than to parse them. Patterns
    // would be compared byte by byte.
    if value == b"application/json" {
        Media::Json
    } else if value == b"text/event-stream" || value == b"text/event-stream; charset=utf-8" {
        Media::EventStream
    } else {
        parse_media(value)
    }
}

fn parse_media(value: &[u8]) -> Media {
    let name = media_name(value);
    if name.eq_ignore_ascii_case(b"application/json") || ends_with(name, b"+json") {
        Media::Json
    } else if name.eq_ignore_ascii_case(b"text/event-stream") {
        Media::EventStream
    } else {
        Media::Other
    }
}

/// Returns the [`media`] type, but [`Media::Other`] for a compressed body, whose text cannot be
/// parsed.
#[must_use]
pub fn readable(headers: &HeaderMap) -> Media {
    let media = media(headers);
    if media != Media::Other && is_compressed(headers) {
        return Media::Other;
    }
    media
}

/// Returns true if the body is a server-sent event stream. See [`media`].
#[must_use]
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    media(headers) == Media::EventStream
}

/// Returns true if the body is JSON (`application/json` or any `…+json`). See [`media`].
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    media(headers) == Media::Json
}

/// Returns true if the body may be text of any format: `text/…`, HTML, XML, `octet-stream`, or no
/// `content-type`.
#[must_use]
pub fn is_text(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_none_or(|kind| {
        let name = media_name(kind.as_bytes());
        let begins = |start: &[u8]| {
            let first = name.get(..start.len());
            first.is_some_and(|first| first.eq_ignore_ascii_case(start))
        };
        begins(b"text/") || begins(b"application/octet-stream") || is_markup(name)
    })
}

/// Returns true if the body is a page: HTML or XML.
#[must_use]
pub fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| is_markup(media_name(kind.as_bytes())))
}

fn is_markup(name: &[u8]) -> bool {
    [&b"/html"[..], b"/xml", b"+xml"]
        .iter()
        .any(|end| ends_with(name, end))
}

fn ends_with(name: &[u8], end: &[u8]) -> bool {
    let from = name.len().checked_sub(end.len());
    from.is_some_and(|from| name[from..].eq_ignore_ascii_case(end))
}

/// Returns the media type without its parameters.
fn media_name(value: &[u8]) -> &[u8] {
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    value[..end].trim_ascii()
}

/// Returns true if the body is compressed.
#[must_use]
pub fn is_compressed(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_ENCODING) && has_coding(headers)
}

/// Returns the `content-length`.
#[must_use]
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    integer(headers.get(CONTENT_LENGTH)?.as_bytes())
}

fn has_coding(headers: &HeaderMap) -> bool {
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

/// Parses a decimal number without sign and fraction.
pub(crate) fn count(bytes: &[u8]) -> Option<u64> {
    integer(bytes.trim_ascii())
}
