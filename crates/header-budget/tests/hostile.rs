//! Property tests of arbitrary headers: none stalls a scope beyond the documented maxima or panics.

mod common;

use std::{sync::Arc, time::Duration};

use common::{HOUR, MINUTE, layer, limits, message, only, send_ok};
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use tokio::time::Instant;
use tower::Layer;
use tower_claude_core::Rejection;
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{LimiterConfig, LocalLimiter};
use tower_claude_tests::{Reply, Script, paused};

const NAMES: [&str; 26] = [
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-tokens-limit",
    "anthropic-ratelimit-tokens-remaining",
    "anthropic-ratelimit-tokens-reset",
    "anthropic-ratelimit-input-tokens-limit",
    "anthropic-ratelimit-input-tokens-remaining",
    "anthropic-ratelimit-input-tokens-reset",
    "anthropic-ratelimit-output-tokens-limit",
    "anthropic-ratelimit-output-tokens-remaining",
    "anthropic-ratelimit-output-tokens-reset",
    "anthropic-priority-input-tokens-limit",
    "anthropic-priority-input-tokens-remaining",
    "anthropic-fast-input-tokens-limit",
    "anthropic-fast-input-tokens-remaining",
    "anthropic-ratelimit-unified-status",
    "anthropic-ratelimit-unified-reset",
    "anthropic-ratelimit-unified-5h-utilization",
    "anthropic-ratelimit-unified-fallback-percentage",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "date",
    "request-id",
    "content-type",
];

/// Generates numbers, dates and garbage, some of it seen from servers and middleboxes.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let odd = proptest::sample::select(vec![
        "0",
        "1",
        "-1",
        "-9223372036854775808",
        "999",
        "1000",
        "18446744073709551615",
        "18446744073709551616",
        "1000000000000000000",
        "1e18",
        "1.5",
        "NaN",
        "inf",
        "0x10",
        "",
        " 12 ",
        "1970-01-01T00:00:00Z",
        "2026-11-22T10:00:00Z",
        "2026-11-22T10:01:00Z",
        "9999-12-31T23:59:59Z",
        "-9999-01-01T00:00:00Z",
        "0000-00-00T00:00:00Z",
        "Sun, 22 Nov 2026 10:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "true",
        "false",
    ]);
    prop_oneof![
        6 => odd.prop_map(|text| text.as_bytes().to_vec()),
        1 => any::<u64>().prop_map(|number| number.to_string().into_bytes()),
        1 => (0_u64..5_000).prop_map(|number| number.to_string().into_bytes()),
        1 => proptest::collection::vec(prop_oneof![32_u8..127, 128_u8..=255], 0..40),
    ]
}

fn headers() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    proptest::collection::vec((proptest::sample::select(NAMES.to_vec()), value()), 0..16)
}

fn reply(status: u16, headers: &[(&'static str, Vec<u8>)]) -> Reply {
    let mut reply = match status {
        200 => Reply::message(),
        429 => Reply::claude_error(429, "rate_limit_error"),
        status => Reply::claude_error(status, "api_error"),
    };
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value).expect("no control characters");
        reply = reply.raw_header(HeaderName::from_static(name), value);
    }
    reply
}

/// Returns the longest time that a response may hold back the next request: its explicit wait, or
/// the longest inferred pause.
fn longest(status: u16, headers: &[(&'static str, Vec<u8>)]) -> Duration {
    let explicit = status == 429 && headers.iter().any(|(name, _)| name.starts_with("retry"));
    if explicit {
        LimiterConfig::MAX_EXPLICIT_PAUSE
    } else {
        LimiterConfig::new().max_pause
    }
}

/// The interval at which a patient caller sends.
const SLACK: Duration = Duration::from_millis(1_010);

/// Sends a request until it is admitted, and returns the time that this took.
async fn persist<S, R>(service: &S, input: u64) -> Duration
where
    S: tower_service::Service<
            http::Request<tower_claude_core::RequestBody>,
            Response = http::Response<R>,
        > + Clone,
    S::Error: std::fmt::Debug,
    R: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug> + Unpin,
{
    let start = Instant::now();
    loop {
        let response = send_ok(service, message(input, 10)).await;
        if response.extensions.get::<Rejection>().is_none() {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < 2 * HOUR,
            "refused for two hours: {response:?}"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        max_shrink_iters: 500,
        ..ProptestConfig::default()
    })]

    /// Up to three hostile responses are followed by responses without headers, with configured
    /// limits and without.
    #[test]
    fn arbitrary_headers_never_stall(
        hostile in proptest::collection::vec(
            (proptest::sample::select(vec![200_u16, 429, 500, 529, 400, 401]), headers()),
            1..=3,
        ),
        input in proptest::sample::select(vec![0_u64, 10, 5_000]),
        configured in any::<bool>(),
    ) {
        paused(async {
            let layer = if configured {
                let limiter = LocalLimiter::new(limits((100, 10_000, 10_000)));
                HeaderBudgetLayer::over(limiter)
                    .with_estimate(common::by_size as common::BySize)
                    .with_max_wait(24 * HOUR)
            } else {
                layer()
            };
            let replies = hostile.iter().map(|(status, headers)| reply(*status, headers));
            let service = layer.layer(Script::new(replies.chain([Reply::message()])));
            let mut most = Duration::ZERO;
            for turn in 0..hostile.len() + 4 {
                let waited = persist(&service, input).await;
                prop_assert!(waited <= most + SLACK, "request {turn} waited {waited:?}");
                if let Some((status, headers)) = hostile.get(turn) {
                    most = most.max(longest(*status, headers));
                }
            }
            let scope = only(&layer.limiter());
            prop_assert_eq!((scope.in_flight, scope.queued), (0, 0));
            Ok(())
        })?;
    }

    /// Hostile responses in sequence, to concurrent requests.
    #[test]
    fn arbitrary_responses_never_panic_or_leak(
        replies in proptest::collection::vec(
            (proptest::sample::select(vec![200_u16, 429, 500]), headers()),
            1..12,
        ),
    ) {
        paused(async {
            let layer = layer();
            let script = Script::new(replies.iter().map(|(status, headers)| reply(*status, headers)));
            let service = Arc::new(layer.layer(script));
            let calls: Vec<_> = (0..12)
                .map(|_| {
                    let service = service.clone();
                    tokio::spawn(async move { send_ok(&*service, message(100, 10)).await })
                })
                .collect();
            for call in calls {
                call.await.expect("no panic");
            }
            let scope = only(&layer.limiter());
            prop_assert_eq!((scope.in_flight, scope.queued), (0, 0));
            prop_assert!(scope.paused_for <= LimiterConfig::MAX_EXPLICIT_PAUSE);
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_beyond_an_hour_is_clamped() {
    for value in [
        "1000000000000000000",
        "1e30",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ] {
        let layer = layer();
        let limited =
            Reply::claude_error(429, "rate_limit_error").header(http::header::RETRY_AFTER, value);
        let service = layer.layer(Script::new([limited, Reply::message()]));
        send_ok(&service, message(10, 10)).await;
        let waited = persist(&service, 10).await;
        assert!(waited >= HOUR - MINUTE, "{value}: {waited:?}");
        assert!(waited <= HOUR + MINUTE, "{value}: {waited:?}");
    }
}

/// A limit of 0 counts as malformed.
#[tokio::test(start_paused = true)]
async fn malformed_headers_are_ignored() {
    let nonsense: [&[u8]; 6] = [b"0", b"-5", b"many", b"\xff\xfe", b"", b"1.5"];
    for value in nonsense {
        let layer = layer();
        let hostile = [
            ("anthropic-ratelimit-requests-limit", value.to_vec()),
            ("anthropic-ratelimit-input-tokens-limit", value.to_vec()),
            ("anthropic-ratelimit-input-tokens-remaining", b"0".to_vec()),
        ];
        let service = layer.layer(Script::always(reply(200, &hostile)));
        let start = Instant::now();
        for _ in 0..20 {
            send_ok(&service, message(1_000, 10)).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO, "{value:?}");
        assert!(only(&layer.limiter()).dimensions.is_empty(), "{value:?}");
    }
}

/// The server's clock may be far off. A reset in the past means full, and a far one is not
/// believed.
#[tokio::test(start_paused = true)]
async fn reset_stamps_far_from_now_do_not_stall() {
    for reset in [
        "1970-01-01T00:00:00Z",
        "2026-11-22T09:59:59Z",
        "2099-01-01T00:00:00Z",
    ] {
        let layer = layer();
        let said = [
            ("anthropic-ratelimit-requests-limit", b"60".to_vec()),
            ("anthropic-ratelimit-requests-remaining", b"0".to_vec()),
            ("anthropic-ratelimit-requests-reset", reset.into()),
            ("date", b"Sun, 22 Nov 2026 10:00:00 GMT".to_vec()),
        ];
        let service = layer.layer(Script::new([reply(200, &said), Reply::message()]));
        send_ok(&service, message(10, 10)).await;
        let waited = persist(&service, 10).await;
        assert!(waited <= MINUTE, "{reset}: {waited:?}");
    }
}
