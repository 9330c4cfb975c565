//! The wait that a response requests.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName};

use crate::headers::{count, date};
use crate::timestamp::http_date;

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Longest wait that [`retry_after`] returns, about 136 years. In nanoseconds it still fits an
/// `i64`, and adding it to a clock does not overflow.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(u32::MAX as u64);

/// Returns the value of `retry-after-ms` (milliseconds, zero is ignored), else of `retry-after`
/// (seconds with an optional fraction, or an HTTP date).
///
/// A date is compared with the response's own `Date`, or with `now` if it has none. A date in the
/// past is zero. Negative numbers, `NaN` and malformed values are `None`. Huge values are
/// [`MAX_RETRY_AFTER`].
///
/// ```
/// use std::time::{Duration, SystemTime};
/// let mut headers = http::HeaderMap::new();
/// headers.insert("retry-after", "11".parse().unwrap());
/// let wait = tower_claude_wire::retry_after(&headers, SystemTime::now());
/// assert_eq!(wait, Some(Duration::from_secs(11)));
/// ```
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if let Some(value) = headers.get(RETRY_AFTER_MS)
        && let Some(wait) = decimal(value.as_bytes(), 1e-3)
        && !wait.is_zero()
    {
        return Some(wait);
    }
    let value = headers.get(RETRY_AFTER)?;
    let bytes = value.as_bytes();
    if let Some(seconds) = count(bytes) {
        return Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    }
    if let Some(wait) = decimal(bytes, 1.0) {
        return Some(wait);
    }
    let until = http_date(bytes)?;
    let now = date(headers).unwrap_or(now);
    let wait = until.duration_since(now).unwrap_or(Duration::ZERO);
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Parses a non-negative decimal number of `unit` seconds.
fn decimal(bytes: &[u8], unit: f64) -> Option<Duration> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    // Rust's float parser also accepts signs, `inf` and `nan`.
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    let wait = Duration::try_from_secs_f64(number * unit).unwrap_or(MAX_RETRY_AFTER);
    Some(wait.min(MAX_RETRY_AFTER))
}
