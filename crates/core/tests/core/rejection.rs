//! A layer's own answer looks like Claude's.

use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use tower::{Layer, ServiceExt};
use tower_claude_core::{
    Class, Dimension, Kind, REJECTED_BY, RejectReason, Rejection, RejectionLayer, ResponseBody,
    toolkit::ReadableDuration,
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
); 12] {
    [
        (
            RejectReason::WaitTooLong {
                estimated: 6 * SECOND,
                max_wait: Duration::ZERO,
            },
            429,
            "rate_limit_error",
            Kind::RateLimited,
            &["is 6 s, the longest wait allowed is 0 s"],
        ),
        (
            RejectReason::SharedCallFailed {
                because: Kind::Transport,
            },
            502,
            "api_error",
            Kind::Transport,
            &["got no answer"],
        ),
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
            &["wait for the rate limit is 1 min 30 s", "allowed is 1 min"],
        ),
        (
            RejectReason::DeadlineWouldPass {
                estimated: 9 * SECOND,
                remaining: SECOND / 2,
            },
            504,
            "timeout_error",
            Kind::Timeout,
            &["wait 9 s", "in 500 ms"],
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
            &["within 30 s"],
        ),
        (
            RejectReason::CircuitOpen {
                because: Kind::Timeout,
            },
            529,
            "overloaded_error",
            Kind::Overloaded,
            &["timeout", "again in 4 s"],
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
        assert_eq!(refusal.status(), status);
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
        let sent = matches!(
            reason,
            RejectReason::TimedOut { .. } | RejectReason::SharedCallFailed { .. }
        );
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
fn duration_in_a_message_is_written_as_people_do() {
    for (millis, text) in [
        (0, "0 s"),
        (1, "1 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (1_549, "1.5 s"),
        (59_949, "59.9 s"),
        (59_950, "1 min"),
        (125_000, "2 min 5 s"),
        (3_599_499, "59 min 59 s"),
        (3_599_500, "1 h"),
        (3_600_000, "1 h"),
        (4_500_000, "1 h 15 min"),
        (86_399_000, "23 h 59 min"),
        (90_000_000, "1 d 1 h"),
    ] {
        let duration = ReadableDuration(Duration::from_millis(millis));
        assert_eq!(duration.to_string(), text);
    }
    let tiny = ReadableDuration(Duration::from_nanos(1));
    assert_eq!(tiny.to_string(), "1 ms");
    assert!(ReadableDuration(Duration::MAX).to_string().contains(" d "));
}

/// Returns the response of a service through a [`RejectionLayer`].
async fn rendered<F>(layer: RejectionLayer, service: F) -> Response<ResponseBody<Frames>>
where
    F: Fn() -> Response<ResponseBody<Frames>> + Clone,
{
    let service = layer.layer(tower::service_fn(move |_: Request<()>| {
        std::future::ready(Ok::<_, std::convert::Infallible>(service()))
    }));
    let response = service.oneshot(Request::new(())).await;
    response.expect("infallible")
}

#[tokio::test]
async fn rejection_layer_sets_status_and_body_and_keeps_the_marks() {
    let wait = Some(Duration::from_millis(4_001));
    for (reason, ..) in reasons() {
        let rejection = Rejection::new("breaker", reason).with_retry_after(wait);
        let layer = RejectionLayer::new(|rejection| {
            let response = Response::builder()
                .status(503)
                .header("content-type", "text/plain")
                .header("content-length", "1")
                .extension(7_u8);
            let body = format!("{}: come back later", rejection.by);
            response.body(body).expect("valid")
        });
        let response = rendered(layer, move || {
            let mut response = rejection.into_response();
            let marker = HeaderValue::from_static("miss");
            response
                .headers_mut()
                .insert("x-tower-claude-cache", marker);
            response
        });
        let response = response.await;
        assert_eq!(response.status(), 503);
        let headers = response.headers();
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(headers["content-length"], "24");
        assert_eq!(headers[REJECTED_BY], "breaker");
        assert_eq!(headers["retry-after"], "5");
        assert_eq!(headers["x-tower-claude-cache"], "miss");
        let extensions = response.extensions();
        assert_eq!(extensions.get(), Some(&rejection));
        assert_eq!(extensions.get(), Some(&rejection.class()));
        assert_eq!(extensions.get(), Some(&7_u8));
        let (body, ..) = drain(response.into_body());
        assert_eq!(&*body, b"breaker: come back later");
    }
}

#[tokio::test]
async fn rejection_layer_leaves_other_responses_alone() {
    let other = || {
        let mut response = Response::new(ResponseBody::full("busy".into()));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    };
    let layer = RejectionLayer::new(|_| Response::new("never"));
    let response = rendered(layer, other).await;
    assert_eq!(
        (response.status().as_u16(), response.headers().len()),
        (503, 0)
    );
    let rejection = Rejection::new("x", RejectReason::TimedOut { after: SECOND });
    let response = rendered(RejectionLayer::disabled(), move || {
        rejection.into_response()
    })
    .await;
    assert_eq!(response.status(), 504);
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
