//! Waits that a response requests.

mod common;

use std::time::{Duration, SystemTime};

use common::{at, of};
use proptest::prelude::*;
use tower_claude_wire::{MAX_RETRY_AFTER, retry_after};

/// 2026-11-22T10:00:00Z
const TEN: u64 = 1_795_341_600;

fn wait(value: &[u8]) -> Option<Duration> {
    retry_after(&of(&[("retry-after", value)]), at(TEN))
}

fn both(ms: &str, seconds: &str) -> Option<Duration> {
    let map = of(&[("retry-after-ms", ms), ("retry-after", seconds)]);
    retry_after(&map, at(TEN))
}

#[test]
fn seconds() {
    assert_eq!(wait(b"11"), Some(Duration::from_secs(11)));
    assert_eq!(wait(b"0"), Some(Duration::ZERO));
    assert_eq!(wait(b"1.5"), Some(Duration::from_millis(1500)));
    assert_eq!(wait(b".5"), Some(Duration::from_millis(500)));
    assert_eq!(wait(b" 2 "), Some(Duration::from_secs(2)));
    assert_eq!(wait(b"121180"), Some(Duration::from_secs(121_180)));
}

#[test]
fn milliseconds_have_precedence() {
    assert_eq!(both("250", "9"), Some(Duration::from_millis(250)));
    assert_eq!(both("1.5", "9"), Some(Duration::from_micros(1500)));
    for passed_over in ["0", "0.0", "-5", "NaN", "soon", ""] {
        assert_eq!(
            both(passed_over, "9"),
            Some(Duration::from_secs(9)),
            "{passed_over:?}"
        );
    }
    let only = of(&[("retry-after-ms", "0")]);
    assert_eq!(retry_after(&only, at(TEN)), None);
}

#[test]
fn http_date_is_relative_to_now() {
    let date = b"Sun, 22 Nov 2026 10:00:30 GMT";
    assert_eq!(wait(date), Some(Duration::from_secs(30)));
    assert_eq!(
        wait(b"Sunday, 22-Nov-26 10:00:30 GMT"),
        Some(Duration::from_secs(30))
    );
    assert_eq!(
        wait(b"Sun, 22 Nov 2026 09:00:00 GMT"),
        Some(Duration::ZERO),
        "past"
    );
    assert_eq!(wait(b"Sun, 99 Nov 2026 09:00:00 GMT"), None);
}

#[test]
fn http_date_is_relative_to_the_date_header() {
    let map = of(&[
        ("date", "Sun, 22 Nov 2026 10:00:20 GMT"),
        ("retry-after", "Sun, 22 Nov 2026 10:00:30 GMT"),
    ]);
    assert_eq!(
        retry_after(&map, SystemTime::UNIX_EPOCH),
        Some(Duration::from_secs(10))
    );
}

#[test]
fn malformed_value_is_none() {
    for bad in [
        &b"-1"[..],
        b"-0.5",
        b"+3",
        b"NaN",
        b"inf",
        b"infinity",
        b"",
        b" ",
        b"soon",
        b"5s",
        b"1,5",
        b"0x5",
        b".",
        b"\xff",
        b"2026-11-22T10:00:00Z",
    ] {
        assert_eq!(wait(bad), None, "{}", String::from_utf8_lossy(bad));
    }
    assert_eq!(retry_after(&http::HeaderMap::new(), at(TEN)), None);
}

#[test]
fn huge_wait_is_capped() {
    for huge in [
        "18446744073709551615",
        "99999999999999999999999999",
        "1e308",
        "1e999",
        "4294967296",
    ] {
        assert_eq!(wait(huge.as_bytes()), Some(MAX_RETRY_AFTER), "{huge}");
        // In thousandths the smallest of them is no longer huge.
        if huge != "4294967296" {
            assert_eq!(both(huge, "1"), Some(MAX_RETRY_AFTER), "{huge} ms");
        }
    }
    assert!(i64::try_from(MAX_RETRY_AFTER.as_nanos()).is_ok());
    let far = of(&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")]);
    assert_eq!(
        retry_after(&far, SystemTime::UNIX_EPOCH),
        Some(MAX_RETRY_AFTER)
    );
}

proptest! {
    #[test]
    fn any_value_does_not_panic_and_is_capped(
        ms in proptest::option::of(proptest::collection::vec(32_u8..=255, 0..30)),
        value in prop_oneof![
            proptest::collection::vec(32_u8..=255, 0..40),
            "[0-9.eE+-]{0,40}".prop_map(String::into_bytes),
            "(Sun|Mon), [0-9]{2} (Nov|Feb) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT".prop_map(String::into_bytes),
        ],
        now in any::<u32>(),
    ) {
        let mut pairs = vec![("retry-after", value)];
        if let Some(ms) = ms {
            pairs.push(("retry-after-ms", ms));
        }
        pairs.retain(|(_, v)| http::HeaderValue::from_bytes(v).is_ok());
        if let Some(wait) = retry_after(&of(&pairs), at(u64::from(now))) {
            prop_assert!(wait <= MAX_RETRY_AFTER);
            let _ = at(u64::from(now)) + wait;
        }
    }

    #[test]
    fn whole_seconds_are_exact(seconds in 0..=u32::MAX) {
        prop_assert_eq!(
            wait(seconds.to_string().as_bytes()),
            Some(Duration::from_secs(u64::from(seconds)))
        );
    }
}
