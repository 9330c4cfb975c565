//! A layer's own answer looks like Claude's.

use std::time::Duration;

use http::Response;
use http_body::Body;
use tower_claude_core::{
    Class, Dimension, Kind, REJECTED_BY, RejectReason, Rejection, ResponseBody,
};
use tower_claude_wire::ApiError;

use crate::frames::{Frames, drain};

const SECOND: Duration = Duration::from_secs(1);

fn reasons() -> [(
    RejectReason,
    u16,
    &'static str,
    Kind,
    &'static [&'static str],
); 10] {
    [
        (
            RejectReason::QueueFull {
                waiting: 17,
                limit: 16,
            },
            429,
            "rate_limit_error",
            Kind::RateLimited,
            &["17", "16"],
        ),
        (
            RejectReason::WaitTooLong {
                estimated: 90 * SECOND,
                max_wait: 60 * SECOND,
            },
            429,
            "rate_limit_error",
            Kind::RateLimited,
            &["90.0s", "60.0s"],
        ),
        (
            RejectReason::DeadlineWouldPass {
                estimated: 9 * SECOND,
                remaining: SECOND / 2,
            },
            504,
            "timeout_error",
            Kind::Timeout,
            &["9.0s", "500ms"],
        ),
        (
            RejectReason::DeadlineWouldPass {
                estimated: Duration::ZERO,
                remaining: Duration::ZERO,
            },
            504,
            "timeout_error",
            Kind::Timeout,
            &["the deadline of this request has passed"],
        ),
        (
            RejectReason::Oversized {
                dimension: Dimension::InputTokens,
                cost: 9_001,
                limit: 5_000,
            },
            413,
            "request_too_large",
            Kind::TooLarge,
            &["input tokens", "9001", "5000"],
        ),
        (
            RejectReason::TimedOut { after: 30 * SECOND },
            504,
            "timeout_error",
            Kind::Timeout,
            &["30.0s"],
        ),
        (
            RejectReason::CircuitOpen {
                because: Kind::Timeout,
            },
            529,
            "overloaded_error",
            Kind::Overloaded,
            &["timeout", "4.0s"],
        ),
        (
            RejectReason::CircuitOpen {
                because: Kind::Unauthorized,
            },
            401,
            "authentication_error",
            Kind::Unauthorized,
            &["unauthorized"],
        ),
        (
            RejectReason::CircuitOpen {
                because: Kind::SpendLimit,
            },
            402,
            "billing_error",
            Kind::SpendLimit,
            &["spend_limit"],
        ),
        (
            RejectReason::CircuitOpen {
                because: Kind::Forbidden,
            },
            403,
            "permission_error",
            Kind::Forbidden,
            &["forbidden"],
        ),
    ]
}

#[test]
fn every_reason_becomes_a_response_in_the_shape_of_the_api() {
    for (reason, status, kind, class, says) in reasons() {
        let wait = Some(Duration::from_millis(4_001));
        let refusal = Rejection::new("token-bucket", reason).with_retry_after(wait);
        let response: Response<ResponseBody<Frames>> = refusal.into_response();
        assert_eq!(response.status(), status, "{reason:?}");
        let headers = response.headers();
        assert_eq!(headers[REJECTED_BY], "token-bucket");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["retry-after"], "5", "rounded up");
        let oversized = matches!(reason, RejectReason::Oversized { .. });
        let advice = headers
            .get("x-should-retry")
            .map(http::HeaderValue::as_bytes);
        assert_eq!(advice, oversized.then_some(&b"false"[..]), "{reason:?}");

        let expected = Class::new(class).with_retry_after(wait);
        let sent = matches!(reason, RejectReason::TimedOut { .. });
        let expected = if sent {
            expected
        } else {
            expected.into_local()
        };
        assert_eq!(refusal.class(), expected, "{reason:?}");
        assert_eq!(response.extensions().get::<Class>(), Some(&expected));
        let refused = response.extensions().get::<Rejection>().expect("tagged");
        assert_eq!(refused.by, "token-bucket");
        assert_eq!(refused.reason, reason);
        assert_eq!(refused.class(), expected);
        assert_eq!(refused.retry_after, wait);

        let length = headers["content-length"]
            .to_str()
            .expect("digits")
            .to_owned();
        let (body, trailers, error) = drain(response.into_body());
        assert_eq!(body.len().to_string(), length);
        assert_eq!((trailers, error), (None, None));
        let parsed = ApiError::parse(&body).expect("Claude's shape");
        assert_eq!(parsed.kind, kind, "{reason:?}");
        assert_eq!(parsed.error_code, None);
        assert_eq!(parsed.message, refusal.to_string());
        for part in says {
            assert!(
                parsed.message.contains(part),
                "{part} in {:?}",
                parsed.message
            );
        }
        assert!(parsed.message.starts_with("token-bucket: "));
    }
}

#[test]
fn rejection_without_a_wait_has_no_retry_after() {
    let refusal = Rejection::new("retry", RejectReason::TimedOut { after: SECOND });
    let response = refusal.into_response::<Frames>();
    assert!(!response.headers().contains_key("retry-after"));
    assert_eq!(refusal.in_name_of("other").by, "other");
}

#[test]
fn oversized_message_names_the_dimension() {
    for dimension in [
        Dimension::Requests,
        Dimension::InputTokens,
        Dimension::OutputTokens,
        Dimension::TotalTokens,
        Dimension::Concurrency,
    ] {
        let reason = RejectReason::Oversized {
            dimension,
            cost: 3,
            limit: 2,
        };
        let text = Rejection::new("x", reason).to_string();
        assert!(text.contains(dimension.as_str()), "{text}");
    }
}

#[test]
fn extreme_values_do_not_panic() {
    let reason = RejectReason::WaitTooLong {
        estimated: Duration::MAX,
        max_wait: Duration::ZERO,
    };
    let refusal = Rejection::new("x", reason).with_retry_after(Some(Duration::MAX));
    let response = refusal.into_response::<Frames>();
    assert_eq!(response.headers()["retry-after"], u64::MAX.to_string());
    assert!(response.body().size_hint().exact().is_some());
    // Not a header value: the answer goes out all the same.
    let response = Rejection::new("line\nbreak", reason).into_response::<Frames>();
    assert!(response.headers().contains_key(REJECTED_BY));
    let (body, ..) = drain(response.into_body());
    assert!(
        ApiError::parse(&body)
            .expect("valid JSON")
            .message
            .contains("line\nbreak")
    );
}
