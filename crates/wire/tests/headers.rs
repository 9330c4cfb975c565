//! Rate-limit headers, from fixtures and from hostile servers.

mod common;

use std::time::{Duration, SystemTime};

use common::{at, headers, of};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use tower_claude_wire::{
    Gauge, Media, RateLimits, Unified, date, is_compressed, is_event_stream, is_json, is_page,
    is_text, organization_id, readable, request_id, retry_after, should_retry, unified_wait,
    workspace_id,
};

/// 2026-11-22T10:00:00Z
const TEN: u64 = 1_795_341_600;

fn gauge(limit: u64, remaining: u64, reset: u64) -> Gauge {
    Gauge {
        limit: Some(limit),
        remaining: Some(remaining),
        reset: Some(at(reset)),
    }
}

#[test]
fn standard_headers_are_parsed() {
    let map = headers("200_headers_standard.txt");
    let limits = RateLimits::from_headers(&map);
    assert_eq!(limits.requests, gauge(1000, 999, TEN + 1));
    assert_eq!(limits.input_tokens, gauge(2_000_000, 1_999_000, TEN + 1));
    assert_eq!(limits.output_tokens, gauge(400_000, 400_000, TEN));
    assert_eq!(limits.tokens, gauge(2_400_000, 2_399_000, TEN + 1));
    assert!(limits.priority_input_tokens.is_empty());
    assert!(limits.fast_output_tokens.is_empty());
    assert_eq!(limits.unified, None);
    assert_eq!(request_id(&map), Some("req_011FixtureAAAAAAAAAAAAAA"));
    assert_eq!(workspace_id(&map), Some("wrkspc_01FixtureWorkspace"));
    assert_eq!(
        organization_id(&map),
        Some("00000000-0000-4000-8000-000000000000")
    );
    assert!(is_json(&map));
}

#[test]
fn priority_headers_are_parsed() {
    let limits = RateLimits::from_headers(&headers("200_headers_priority.txt"));
    assert_eq!(
        limits.priority_input_tokens,
        gauge(10_000, 9_618, 1_736_723_519)
    );
    assert_eq!(
        limits.priority_output_tokens,
        gauge(10_000, 6_000, 1_736_723_541)
    );
    assert!(limits.input_tokens.is_empty());
    assert!(limits.requests.is_empty());
}

#[test]
fn fast_headers_are_parsed() {
    let limits = RateLimits::from_headers(&headers("200_headers_fast.txt"));
    assert_eq!(limits.fast_input_tokens, gauge(100_000, 98_000, TEN + 2));
    assert_eq!(limits.fast_output_tokens, gauge(20_000, 20_000, TEN));
    assert!(limits.input_tokens.is_empty());
}

#[test]
fn headers_of_a_429_are_parsed() {
    let map = headers("429_headers_input_tokens.txt");
    let limits = RateLimits::from_headers(&map);
    assert_eq!(limits.input_tokens, gauge(2_000_000, 0, TEN + 60));
    assert_eq!(limits.requests, gauge(1000, 994, TEN + 1));
    assert!(limits.output_tokens.is_empty());
    assert_eq!(
        retry_after(&map, SystemTime::UNIX_EPOCH),
        Some(Duration::from_secs(11))
    );
}

#[test]
fn unified_headers_are_parsed() {
    let map = headers("429_headers_unified_subscription_OBSERVED_3P.txt");
    let limits = RateLimits::from_headers(&map);
    let unified = limits.unified.as_deref().expect("the unified family");
    assert_eq!(unified.status.as_deref(), Some("rejected"));
    assert_eq!(unified.reset, None);
    assert_eq!(unified.representative_claim.as_deref(), Some("five_hour"));
    assert_eq!(unified.fallback_percentage, Some(0.5));
    assert_eq!(unified.overage_status.as_deref(), Some("rejected"));
    assert_eq!(
        unified.overage_disabled_reason.as_deref(),
        Some("out_of_credits")
    );
    let windows: Vec<_> = unified
        .windows
        .iter()
        .map(|w| (w.name.as_str(), w.status.as_deref(), w.reset, w.utilization))
        .collect();
    assert_eq!(
        windows,
        [
            ("5h", Some("rejected"), Some(at(1_774_472_400)), Some(1.0)),
            ("7d", Some("allowed"), Some(at(1_774_580_400)), Some(0.59)),
        ]
    );
    assert!(limits.requests.is_empty());
    assert_eq!(
        retry_after(&map, SystemTime::UNIX_EPOCH),
        Some(Duration::from_secs(2094))
    );
}

#[test]
fn unusual_unified_headers_are_parsed_or_ignored() {
    let limits = RateLimits::from_headers(&of(&[
        ("anthropic-ratelimit-unified-reset", "1774472400"),
        ("anthropic-ratelimit-unified-7d_oi-utilization", "1.08"),
        ("anthropic-ratelimit-unified-5h-utilization", "NaN"),
        ("anthropic-ratelimit-unified-5h-reset", "-5"),
        ("anthropic-ratelimit-unified-overage-reset", "1"),
        ("anthropic-ratelimit-unified-fallback-percentage", "inf"),
    ]));
    let unified = limits.unified.expect("the unified family");
    assert_eq!(unified.reset, Some(at(1_774_472_400)));
    assert_eq!(unified.fallback_percentage, None);
    let oi = &unified.windows[0];
    assert_eq!((oi.name.as_str(), oi.utilization), ("7d_oi", Some(1.08)));
    let five = &unified.windows[1];
    assert_eq!((five.utilization, five.reset), (None, None));
    assert_eq!(unified.windows.len(), 2);

    let unknown = of(&[("anthropic-ratelimit-unified-new-thing", "1")]);
    assert!(RateLimits::from_headers(&unknown).is_empty());
}

#[test]
fn unified_windows_are_limited_in_number() {
    let names: Vec<String> = (0..100)
        .map(|n| format!("anthropic-ratelimit-unified-{n}h-status"))
        .collect();
    let pairs: Vec<_> = names.iter().map(|n| (n.as_str(), "allowed")).collect();
    let unified = RateLimits::from_headers(&of(&pairs)).unified.unwrap();
    assert_eq!(unified.windows.len(), Unified::MAX_WINDOWS);
}

#[test]
fn unified_field_groups_that_are_no_windows_are_ignored() {
    let limits = RateLimits::from_headers(&of(&[
        ("anthropic-ratelimit-unified-7d-status", "allowed"),
        ("anthropic-ratelimit-unified-overage-status", "rejected"),
        ("anthropic-ratelimit-unified-overage-reset", "1774472400"),
        (
            "anthropic-ratelimit-unified-overage-period-monthly-utilization",
            "0.5",
        ),
        (
            "anthropic-ratelimit-unified-overage-period-channel-utilization",
            "0.5",
        ),
        ("anthropic-ratelimit-unified-grace-status", "allowed"),
        ("anthropic-ratelimit-unified-grace-5h-utilization", "0.5"),
        ("anthropic-ratelimit-unified-slow-status", "allowed"),
        (
            "anthropic-ratelimit-unified-slow-budget-reset",
            "1774472400",
        ),
    ]));
    let windows = limits.unified.expect("the unified family").windows;
    let names: Vec<_> = windows.iter().map(|window| &*window.name).collect();
    assert_eq!(names, ["7d"]);
}

#[test]
fn unified_wait_is_the_end_of_the_rejected_window() {
    const STATUS: &str = "anthropic-ratelimit-unified-status";
    const RESET: &str = "anthropic-ratelimit-unified-reset";
    let wait = |pairs: &[(&'static str, &str)]| unified_wait(&of(pairs), at(1_774_470_000));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(
        wait(&[(STATUS, "rejected"), (RESET, "1774472400")]),
        seconds(2_400)
    );
    for status in ["allowed", "allowed_warning", ""] {
        assert_eq!(
            wait(&[(STATUS, status), (RESET, "1774472400")]),
            None,
            "{status}"
        );
    }
    assert_eq!(wait(&[(RESET, "1774472400")]), None);
    assert_eq!(wait(&[(STATUS, "rejected")]), None);
    // In the past, in milliseconds, or no number.
    for reset in ["1774460000", "1774472400000", "2026-03-25T21:00:00Z", "-1"] {
        assert_eq!(
            wait(&[(STATUS, "rejected"), (RESET, reset)]),
            None,
            "{reset}"
        );
    }
    let windows = [
        (STATUS, "rejected"),
        ("anthropic-ratelimit-unified-5h-status", "rejected"),
        ("anthropic-ratelimit-unified-5h-reset", "1774470060"),
        ("anthropic-ratelimit-unified-7d-status", "allowed"),
        ("anthropic-ratelimit-unified-7d-reset", "1774472400"),
        ("anthropic-ratelimit-unified-overage-status", "rejected"),
        ("anthropic-ratelimit-unified-overage-reset", "1774490000"),
    ];
    assert_eq!(wait(&windows), seconds(60));
}

#[test]
fn text_and_pages_are_recognized_by_media_type() {
    let of_type = |value: &str| of(&[("content-type", value)]);
    for kind in [
        "text/html",
        "text/plain; charset=utf-8",
        "Application/XML",
        "application/xhtml+xml",
        "application/octet-stream",
    ] {
        assert!(is_text(&of_type(kind)), "{kind}");
    }
    assert!(is_text(&HeaderMap::new()));
    for kind in [
        "application/vnd.amazon.eventstream",
        "image/png",
        "application/jsonl",
    ] {
        assert!(!is_text(&of_type(kind)), "{kind}");
    }
    assert!(is_page(&of_type("text/html; charset=utf-8")) && is_page(&of_type("text/xml")));
    assert!(!is_page(&of_type("text/plain")) && !is_page(&HeaderMap::new()));
}

#[test]
fn headers_of_requests_and_tokens_only_are_parsed() {
    let limits = RateLimits::from_headers(&of(&[
        ("anthropic-ratelimit-requests-remaining", "3"),
        ("anthropic-ratelimit-tokens-remaining", "4000"),
    ]));
    assert_eq!(limits.requests.remaining, Some(3));
    assert_eq!(limits.tokens.remaining, Some(4000));
    assert!(!limits.is_empty());
}

#[test]
fn malformed_value_counts_as_absent() {
    const LIMIT: &str = "anthropic-ratelimit-requests-limit";
    for bad in [
        &b"-1"[..],
        b"+1",
        b"",
        b"1.5",
        b"1e3",
        b"1000, 1000",
        b"0x10",
        b"18446744073709551616",
        b"99999999999999999999999999999999",
        b"\xff\xfe",
        "\u{0661}".as_bytes(),
        b"unlimited",
    ] {
        assert!(
            RateLimits::from_headers(&of(&[(LIMIT, bad)])).is_empty(),
            "{bad:?}"
        );
    }
    for (good, expected) in [
        ("0", 0),
        ("0007", 7),
        (" 12 ", 12),
        ("18446744073709551615", u64::MAX),
    ] {
        let limits = RateLimits::from_headers(&of(&[(LIMIT, good)]));
        assert_eq!(limits.requests.limit, Some(expected), "{good:?}");
    }
}

#[test]
fn reset_timestamps_are_parsed() {
    const RESET: &str = "anthropic-ratelimit-requests-reset";
    let reset = |value: &[u8]| {
        RateLimits::from_headers(&of(&[(RESET, value)]))
            .requests
            .reset
    };
    let ms = Duration::from_millis;
    for (timestamp, expected) in [
        ("2026-11-22T10:00:00Z", at(TEN)),
        ("2026-11-22t10:00:00z", at(TEN)),
        ("2026-11-22T10:00:00.250Z", at(TEN) + ms(250)),
        ("2026-11-22T12:00:00+02:00", at(TEN)),
        ("2024-02-29T23:59:59Z", at(1_709_251_199)),
        ("2000-03-01T00:00:00Z", at(951_868_800)),
        ("1970-01-01T00:00:00Z", at(0)),
        ("1969-12-31T23:59:59Z", at(0) - ms(1000)),
        ("1600-01-01T00:00:00Z", at(0) - ms(11_676_096_000_000)),
        ("9998-12-31T23:59:59Z", at(253_370_764_799)),
    ] {
        assert_eq!(reset(timestamp.as_bytes()), Some(expected), "{timestamp}");
    }
    for bad in [
        &b"2026-13-01T00:00:00Z"[..],
        b"2026-02-30T00:00:00Z",
        b"2025-02-29T00:00:00Z",
        b"2026-00-01T00:00:00Z",
        b"2026-01-00T00:00:00Z",
        b"2026-01-01T24:00:00Z",
        b"2026-01-01T00:60:00Z",
        b"2026-01-01T00:00:61Z",
        b"2026-01-01T00:00:00",
        b"+026-01-01T00:00:00Z",
        b"1774472400",
        b"6m0s",
        b"",
        b"\xff\xff26-01-01T00:00:00Z",
        b"99999-01-01T00:00:00Z",
    ] {
        assert_eq!(reset(bad), None, "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn repeated_header_uses_first_well_formed_value() {
    let limits = RateLimits::from_headers(&of(&[
        ("anthropic-ratelimit-requests-limit", "junk"),
        ("anthropic-ratelimit-requests-limit", "5"),
        ("anthropic-ratelimit-requests-limit", "9"),
    ]));
    assert_eq!(limits.requests.limit, Some(5));
}

#[test]
fn similar_header_names_are_ignored() {
    let limits = RateLimits::from_headers(&of(&[
        ("anthropic-ratelimit-limit", "1"),
        ("anthropic-ratelimit-requests", "1"),
        ("anthropic-ratelimit-requests-limits", "1"),
        ("anthropic-ratelimit-web-searches-limit", "1"),
        ("anthropic-priority-requests-limit", "1"),
        ("anthropic-fast-tokens-limit", "1"),
        ("x-anthropic-ratelimit-requests-limit", "1"),
        ("anthropic-", "1"),
    ]));
    assert!(limits.is_empty());
}

#[test]
fn should_retry_is_true_false_or_none() {
    let should = |value: &[u8]| should_retry(&of(&[("x-should-retry", value)]));
    assert_eq!(should(b"true"), Some(true));
    assert_eq!(should(b"False"), Some(false));
    assert_eq!(should(b"1"), None);
    assert_eq!(should(b"\xff"), None);
    assert_eq!(should_retry(&HeaderMap::new()), None);
}

#[test]
fn malformed_dates_and_ids_are_none() {
    let read = |value: &[u8]| date(&of(&[("date", value)]));
    assert_eq!(read(b"Sun, 22 Nov 2026 10:00:00 GMT"), Some(at(TEN)));
    assert_eq!(read(b"yesterday"), None);
    assert_eq!(read(b"\xff"), None);
    assert_eq!(request_id(&of(&[("request-id", "")])), None);
    assert_eq!(request_id(&of(&[("request-id", b"\xff")])), None);
    assert_eq!(request_id(&of(&[("x-request-id", "req_1")])), None);
}

#[test]
fn content_type_ignores_case_and_parameters() {
    let of_type = |value: &[u8]| of(&[("content-type", value)]);
    assert!(is_event_stream(&of_type(
        b"Text/Event-Stream ; charset=utf-8"
    )));
    assert!(!is_event_stream(&of_type(b"text/event-streams")));
    assert!(!is_event_stream(&HeaderMap::new()));
    assert!(is_json(&of_type(b"application/json; charset=utf-8")));
    assert!(is_json(&of_type(b"application/problem+json")));
    assert!(!is_json(&of_type(b"json")));
    assert!(!is_json(&of_type(b"\xff")));
}

#[test]
fn content_encoding_other_than_identity_is_compressed() {
    let compressed = |value: &[u8]| is_compressed(&of(&[("content-encoding", value)]));
    assert!(compressed(b"gzip"));
    assert!(compressed(b"identity, br"));
    assert!(!compressed(b"Identity"));
    assert!(!compressed(b""));
    assert!(!is_compressed(&HeaderMap::new()));
}

#[test]
fn compressed_body_is_not_readable() {
    let read = |kind: &[u8], coding: &[u8]| {
        readable(&of(&[("content-type", kind), ("content-encoding", coding)]))
    };
    assert_eq!(read(b"application/json", b"identity"), Media::Json);
    assert_eq!(read(b"application/json", b"gzip"), Media::Other);
    assert_eq!(read(b"text/event-stream", b""), Media::EventStream);
    assert_eq!(read(b"text/event-stream", b"br"), Media::Other);
    assert_eq!(read(b"text/html", b""), Media::Other);
    assert_eq!(readable(&HeaderMap::new()), Media::Other);
}

const NAMES: &[&str] = &[
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-input-tokens-reset",
    "anthropic-priority-input-tokens-limit",
    "anthropic-fast-output-tokens-reset",
    "anthropic-ratelimit-unified-status",
    "anthropic-ratelimit-unified-reset",
    "anthropic-ratelimit-unified-5h-reset",
    "anthropic-ratelimit-unified-5h-utilization",
    "anthropic-ratelimit-unified-fallback-percentage",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "date",
    "request-id",
    "content-type",
    "content-encoding",
];

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        "[0-9eE+.TZ:, -]{0,40}".prop_map(String::into_bytes),
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?(Z|[+-][0-9]{2}:[0-9]{2})"
            .prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn any_header_values_do_not_panic(
        pairs in proptest::collection::vec((proptest::sample::select(NAMES), value()), 0..20),
        odd in "[a-z0-9-]{0,20}",
        now in any::<u32>(),
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                map.append(HeaderName::from_static(name), value.clone());
                for prefix in ["anthropic-ratelimit-unified-", "anthropic-ratelimit-", "anthropic-"] {
                    if let Ok(name) = HeaderName::from_bytes(format!("{prefix}{odd}").as_bytes()) {
                        map.append(name, value.clone());
                    }
                }
            }
        }
        let limits = RateLimits::from_headers(&map);
        prop_assert_eq!(limits.is_empty(), limits == RateLimits::default());
        if let Some(wait) = retry_after(&map, at(u64::from(now))) {
            prop_assert!(wait <= tower_claude_wire::MAX_RETRY_AFTER);
        }
        let _ = (should_retry(&map), date(&map), request_id(&map));
        let _ = (is_event_stream(&map), is_json(&map), is_compressed(&map));
    }

    /// A plain reader of one name after the other.
    #[test]
    fn rate_limits_of_any_headers_agree_with_a_plain_reader(
        pairs in prop::collection::vec(
            (
                prop::sample::select(vec!["ratelimit", "priority", "fast", "other"]),
                prop::sample::select(vec!["requests", "tokens", "input-tokens", "output-tokens", "web"]),
                prop::sample::select(vec!["limit", "remaining", "reset", "limits"]),
                prop_oneof![value(), "[0-9]{1,20}".prop_map(String::into_bytes)],
            ),
            0..24,
        ),
    ) {
        let mut map = HeaderMap::new();
        for (family, dimension, part, value) in pairs {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let name = format!("anthropic-{family}-{dimension}-{part}");
                map.append(HeaderName::try_from(name).unwrap(), value);
            }
        }
        let read = |name: &str| {
            let values = |part: &str| {
                let values = map.get_all(format!("anthropic-{name}-{part}")).iter();
                values
                    .filter_map(|value| Some(std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
                    .collect::<Vec<_>>()
            };
            let count = |part: &str| {
                let number = |value: &String| {
                    let value = value.trim_matches([' ', '\t', '\n', '\r', '\x0c']);
                    value.parse().ok().filter(|_| !value.starts_with('+'))
                };
                values(part).iter().find_map(number)
            };
            let timestamp = |value: &String| value.trim().parse::<jiff::Timestamp>().ok();
            Gauge {
                limit: count("limit"),
                remaining: count("remaining"),
                reset: values("reset").iter().find_map(timestamp).map(SystemTime::from),
            }
        };
        let limits = RateLimits::from_headers(&map);
        prop_assert_eq!(limits.requests, read("ratelimit-requests"));
        prop_assert_eq!(limits.tokens, read("ratelimit-tokens"));
        prop_assert_eq!(limits.input_tokens, read("ratelimit-input-tokens"));
        prop_assert_eq!(limits.output_tokens, read("ratelimit-output-tokens"));
        prop_assert_eq!(limits.priority_input_tokens, read("priority-input-tokens"));
        prop_assert_eq!(limits.priority_output_tokens, read("priority-output-tokens"));
        prop_assert_eq!(limits.fast_input_tokens, read("fast-input-tokens"));
        prop_assert_eq!(limits.fast_output_tokens, read("fast-output-tokens"));
    }

    #[test]
    fn written_timestamp_is_parsed_back(seconds in 0_u64..253_370_764_799, nanos in 0_u32..1_000_000_000) {
        let timestamp = jiff::Timestamp::new(i64::try_from(seconds).unwrap(), nanos.try_into().unwrap()).unwrap();
        let map = of(&[("anthropic-ratelimit-requests-reset", timestamp.to_string())]);
        prop_assert_eq!(
            RateLimits::from_headers(&map).requests.reset,
            Some(at(seconds) + Duration::from_nanos(u64::from(nanos)))
        );
    }
}
