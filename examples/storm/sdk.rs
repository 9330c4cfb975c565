//! The waits of the official SDKs before a retry (Python 2.12, TypeScript 1.12).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};

/// The number of retries after the first attempt.
pub(crate) const MAX_RETRIES: u32 = 2;
/// The longest wait that the SDKs can express, about 49.7 days.
const LONGEST: f64 = 4_294_967.0;

/// Returns true if a response with this error status is retried.
pub(crate) fn should_retry(status: StatusCode, headers: &HeaderMap) -> bool {
    match text(headers, "x-should-retry") {
        Some("true") => true,
        Some("false") => false,
        _ => matches!(status.as_u16(), 408 | 409 | 429 | 500..),
    }
}

/// Returns the wait before retry number `taken + 1`. `random` is from 0 to 1.
///
/// A wait from the server is used unchanged, without jitter. Otherwise the wait is half a second,
/// doubled up to eight seconds, less up to a quarter.
pub(crate) fn delay(
    headers: Option<&HeaderMap>,
    taken: u32,
    random: f64,
    now: SystemTime,
) -> Duration {
    if let Some(wait) = headers.and_then(|headers| named_wait(headers, now)) {
        return wait;
    }
    let backoff = (0.5 * 2_f64.powi(taken.min(16) as i32)).min(8.0);
    Duration::from_secs_f64(backoff * (1.0 - 0.25 * random.clamp(0.0, 1.0)))
}

fn named_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let number = |name| text(headers, name)?.parse::<f64>().ok();
    let positive = |seconds: f64| {
        let usable = seconds > 0.0 && seconds <= LONGEST;
        usable.then(|| Duration::from_secs_f64(seconds))
    };
    if let Some(wait) = number("retry-after-ms").and_then(|ms| positive(ms / 1_000.0)) {
        return Some(wait);
    }
    if let Some(seconds) = number("retry-after") {
        return positive(seconds);
    }
    let date = httpdate::parse_http_date(text(headers, "retry-after")?).ok()?;
    positive(date.duration_since(now).ok()?.as_secs_f64())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        pairs.collect()
    }

    fn wait(pairs: &[(&'static str, &str)]) -> Duration {
        // 1994-11-06 08:49:37 UTC
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        delay(Some(&headers(pairs)), 0, 0.0, now)
    }

    #[test]
    fn backoff_doubles_to_eight_seconds_less_up_to_a_quarter() {
        let now = SystemTime::UNIX_EPOCH;
        let longest: Vec<u128> = (0..6)
            .map(|n| delay(None, n, 0.0, now).as_millis())
            .collect();
        assert_eq!(longest, [500, 1_000, 2_000, 4_000, 8_000, 8_000]);
        assert_eq!(delay(None, 0, 1.0, now).as_millis(), 375);
        assert_eq!(delay(None, 9, 1.0, now).as_millis(), 6_000);
    }

    #[test]
    fn the_servers_wait_is_taken_as_it_is() {
        let ms = Duration::from_millis;
        assert_eq!(
            wait(&[("retry-after-ms", "1500"), ("retry-after", "9")]),
            ms(1_500)
        );
        assert_eq!(
            wait(&[("retry-after-ms", "0"), ("retry-after", "9")]),
            ms(9_000)
        );
        assert_eq!(wait(&[("retry-after", "2.5")]), ms(2_500));
        assert_eq!(wait(&[("retry-after", "86400")]), ms(86_400_000));
        assert_eq!(
            wait(&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")]),
            ms(10_000)
        );
        // A past time, zero and invalid text are no wait.
        for odd in [
            "Sun, 06 Nov 1994 08:49:27 GMT",
            "0",
            "-1",
            "nan",
            "inf",
            "1e30",
            "soon",
        ] {
            assert_eq!(wait(&[("retry-after", odd)]), ms(500), "{odd}");
        }
    }

    #[test]
    fn the_server_decides_what_is_tried_again_and_then_the_status() {
        let says = |value| headers(&[("x-should-retry", value)]);
        let status = |code| StatusCode::from_u16(code).unwrap();
        assert!(should_retry(status(400), &says("true")));
        assert!(!should_retry(status(529), &says("false")));
        for code in [408, 409, 429, 500, 503, 529] {
            assert!(should_retry(status(code), &says("maybe")), "{code}");
        }
        for code in [400, 401, 403, 404, 413] {
            assert!(!should_retry(status(code), &HeaderMap::new()), "{code}");
        }
    }
}
