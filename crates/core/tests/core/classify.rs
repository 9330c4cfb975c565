//! All kinds of responses and errors, with both classifiers.

use std::{io, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tower::ServiceExt as _;
use tower_claude_core::{
    BoxError, Class, Classify, ClassifyResponse, ClaudeClassify, HttpClassify, Kind, Reach,
    STREAM_TRUNCATED,
};
use tower_claude_wire::{ApiError, StreamState};

use crate::frames::{Cut, error_fixtures, fixture, headers};

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).expect("a status")
}

/// Classifies as a layer does, by the head first, and by the body only if that is not enough.
fn claude(code: u16, headers: &HeaderMap, body: &[u8]) -> Class {
    let classify: &dyn ClassifyResponse = &ClaudeClassify::default();
    classify
        .head(status(code), headers)
        .unwrap_or_else(|| classify.body(status(code), headers, body))
}

#[test]
fn error_fixtures_have_the_documented_class() {
    let kind = |name: &str| match name {
        "400_credit_balance.json"
        | "400_own_spend_limit.json"
        | "402_linked_org_spend.json"
        | "429_contract_spend.json"
        | "429_long_context.json"
        | "429_tier_spend_cap_NO_RETRY_AFTER.json" => Kind::SpendLimit,
        "429_ramp.json" => Kind::RampLimited,
        "400_prompt_too_long.json" => Kind::TooLarge,
        name => match &name[..3] {
            "400" => Kind::BadRequest,
            "401" => Kind::Unauthorized,
            "403" => Kind::Forbidden,
            "404" => Kind::NotFound,
            "409" => Kind::Conflict,
            "413" => Kind::TooLarge,
            "429" => Kind::RateLimited,
            "500" | "503" => Kind::ServerError,
            "504" => Kind::Timeout,
            "529" => Kind::Overloaded,
            other => panic!("no kind for a {other}"),
        },
    };
    let names = error_fixtures();
    assert!(names.len() >= 24, "fixtures are missing: {names:?}");
    for name in names {
        let code = name[..3].parse().expect("a status");
        let class = claude(code, &HeaderMap::new(), &fixture(&name));
        let kind = kind(&name);
        let reach = match &*name {
            "503_cmek.json" => Reach::Credential,
            "429_long_context.json" => Reach::Model,
            _ => Class::new(kind).reach,
        };
        assert_eq!(class, Class::new(kind).with_reach(reach), "{name}");
        let again = !matches!(code, 400..=404 | 413) && kind != Kind::SpendLimit;
        assert_eq!(class.is_retryable(), again, "{name}");
        assert_eq!(class.is_rate_limit(), code == 429 && again, "{name}");

        // The same error inside a stream has the same class, if its type allows it.
        let error = ApiError::parse(&fixture(&name)).expect("Claude's shape");
        let classify: &dyn ClassifyResponse = &ClaudeClassify::default();
        assert_eq!(
            classify.stream_error(&error).kind,
            kind,
            "{name} in a stream"
        );
    }
}

#[test]
fn foreign_error_body_is_classified_by_status() {
    for name in ["bedrock_invoke_429.json", "vertex_429_LIKELY.json"] {
        let class = claude(429, &HeaderMap::new(), &fixture(name));
        assert_eq!(class, Class::new(Kind::RateLimited), "{name}");
    }
    for body in ["", "<html>", "{\"type\":\"error\"", "\u{0}", "null", "[]"] {
        let class = claude(400, &HeaderMap::new(), body.as_bytes());
        assert_eq!(class, Class::new(Kind::BadRequest), "{body:?}");
    }
    // The message of a spend limit counts only with status 400.
    let unpaid = claude(429, &HeaderMap::new(), &fixture("400_credit_balance.json"));
    assert_eq!(unpaid, Class::new(Kind::RateLimited));
}

#[test]
fn success_is_classified_by_its_head() {
    for code in [100, 200, 201, 204, 299, 302, 304] {
        let head =
            ClassifyResponse::head(&ClaudeClassify::default(), status(code), &HeaderMap::new());
        assert_eq!(head, Some(Class::SUCCESS), "{code}");
    }
}

#[test]
fn error_body_is_read_only_if_it_can_decide() {
    let head = |code, headers: &HeaderMap| {
        ClassifyResponse::head(&ClaudeClassify::default(), status(code), headers).is_some()
    };
    let none = HeaderMap::new();
    assert!(head(529, &none));
    // An overload comes with any status, and a code may overrule it.
    for code in [
        400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504,
    ] {
        assert!(!head(code, &none), "{code}");
        let gzip = headers(&[("content-encoding", "gzip")]);
        assert!(head(code, &gzip), "a compressed {code} goes by its head");
    }
    // The header contradicts the status, and an error code may overrule it.
    assert!(!head(529, &headers(&[("x-should-retry", "false")])));
    assert!(!head(404, &headers(&[("x-should-retry", "true")])));
    assert!(head(529, &headers(&[("x-should-retry", "true")])));
}

#[test]
fn should_retry_header_overrules_the_status() {
    let yes = headers(&[("x-should-retry", "true")]);
    let no = headers(&[("x-should-retry", "false")]);
    let body = |kind: &str| ApiError::body(kind, "m", None).into_bytes();
    assert!(claude(404, &yes, &body("not_found_error")).is_retryable());
    assert!(!claude(529, &no, &body("overloaded_error")).is_retryable());
    let limited = claude(429, &no, &body("rate_limit_error"));
    assert!(!limited.is_retryable());
    // No wait changes it, so it delays no other request.
    assert!(!limited.is_rate_limit());
    assert_eq!(limited.reach, Reach::Request);
    let odd = headers(&[("x-should-retry", "maybe")]);
    assert!(claude(529, &odd, &[]).is_retryable());
}

#[test]
fn error_code_overrules_the_should_retry_header() {
    let yes = headers(&[("x-should-retry", "true")]);
    let no = headers(&[("x-should-retry", "false")]);
    for name in [
        "402_linked_org_spend.json",
        "429_contract_spend.json",
        "429_tier_spend_cap_NO_RETRY_AFTER.json",
        "400_own_spend_limit.json",
        "400_credit_balance.json",
    ] {
        let class = claude(name[..3].parse().expect("a status"), &yes, &fixture(name));
        assert_eq!(class.kind, Kind::SpendLimit, "{name}");
        assert!(!class.is_retryable(), "{name}");
    }
    let ramp = claude(429, &no, &fixture("429_ramp.json"));
    assert_eq!(ramp, Class::new(Kind::RampLimited));
    assert!(ramp.is_retryable());
    let cmek = claude(503, &no, &fixture("503_cmek.json"));
    assert!(cmek.is_retryable());
    // An unknown code is ignored, and the type counts.
    let mut error = ApiError::new("rate_limit_error", "m");
    error.error_code = Some("x_new_code".into());
    let class = claude(429, &no, error.to_body().as_bytes());
    assert_eq!(
        (class.kind, class.is_retryable()),
        (Kind::RateLimited, false)
    );
}

#[test]
fn retry_after_is_read_in_all_its_forms() {
    let wait = |pairs: &[(&'static str, &str)]| claude(529, &headers(pairs), &[]).retry_after;
    assert_eq!(wait(&[]), None);
    assert_eq!(
        wait(&[("retry-after", "11")]),
        Some(Duration::from_secs(11))
    );
    assert_eq!(
        wait(&[("retry-after", "0.5")]),
        Some(Duration::from_millis(500))
    );
    assert_eq!(
        wait(&[("retry-after-ms", "250"), ("retry-after", "9")]),
        Some(Duration::from_millis(250))
    );
    assert_eq!(wait(&[("retry-after", "-3")]), None);
    // A date is compared with the server's clock, not with the local one.
    let date = ("date", "Fri, 01 Jan 1999 00:00:00 GMT");
    assert_eq!(
        wait(&[("retry-after", "Fri, 01 Jan 1999 00:01:30 GMT"), date]),
        Some(Duration::from_secs(90))
    );
    assert_eq!(
        wait(&[("retry-after", "Thu, 31 Dec 1998 23:59:59 GMT"), date]),
        Some(Duration::ZERO)
    );
    assert_eq!(
        wait(&[("retry-after", "Fri, 01 Jan 1999 00:01:30 GMT")]),
        Some(Duration::ZERO),
        "without Date, our own clock is all there is"
    );
    let spend = claude(
        429,
        &headers(&[("retry-after", "3")]),
        &fixture("429_contract_spend.json"),
    );
    assert_eq!(
        spend.retry_after,
        Some(Duration::from_secs(3)),
        "told, though no retry follows"
    );
}

#[test]
fn spend_limit_with_a_date_waits_by_the_clock_of_the_server() {
    let wait = |date: Option<&'static str>, name: &str| {
        let mut headers = HeaderMap::new();
        if let Some(date) = date {
            headers.insert("date", HeaderValue::from_static(date));
        }
        let code = name[..3].parse().expect("a status");
        claude(code, &headers, &fixture(name)).retry_after
    };
    for name in [
        "400_own_spend_limit.json",
        "429_tier_spend_cap_NO_RETRY_AFTER.json",
    ] {
        let day_before = Some("Mon, 30 Nov 2026 23:00:00 GMT");
        assert_eq!(wait(day_before, name), Some(Duration::from_secs(3_600)));
        assert_eq!(wait(None, name), None, "no clock to compare with");
        assert_eq!(wait(Some("Wed, 02 Dec 2026 00:00:00 GMT"), name), None);
    }
    let day_before = Some("Mon, 30 Nov 2026 23:00:00 GMT");
    assert_eq!(wait(day_before, "400_credit_balance.json"), None);
}

#[test]
fn stream_errors_are_classified_by_type() {
    for name in [
        "sse_error_first_event.txt",
        "sse_error_before_content.txt",
        "sse_error_midstream.txt",
    ] {
        let mut state = StreamState::new();
        state.feed(&fixture(name));
        let class =
            ClassifyResponse::stream_error(&ClaudeClassify::default(), state.error().expect(name));
        assert_eq!(class.kind, Kind::Overloaded, "{name}");
        assert!(!class.unprocessed, "{name}");
    }
    for (kind, expected) in [
        ("rate_limit_error", Kind::RateLimited),
        ("timeout_error", Kind::Timeout),
        ("api_error", Kind::ServerError),
        ("request_too_large", Kind::TooLarge),
        ("billing_error", Kind::SpendLimit),
        ("x_new_error", Kind::ServerError),
    ] {
        let error = ApiError::new(kind, "m");
        let class = ClassifyResponse::stream_error(&ClaudeClassify::default(), &error);
        assert_eq!(class.kind, expected, "{kind}");
    }
    let mut broken = ApiError::new("api_error", "the stream is broken");
    broken.error_code = Some(STREAM_TRUNCATED.to_owned());
    let class = ClassifyResponse::stream_error(&ClaudeClassify::default(), &broken);
    assert_eq!((class.kind, class.reach), (Kind::Truncated, Reach::Model));
    assert!(class.is_retryable() && !class.unprocessed);
}

#[derive(Debug)]
struct Wrapped(BoxError);

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("wrapped")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.as_ref())
    }
}

#[test]
fn io_errors_are_timeouts_or_transport_errors() {
    assert_eq!(
        ClaudeClassify::default().error(&Cut),
        Class::new(Kind::Transport)
    );
    assert_eq!(
        HttpClassify::default().error(&Cut),
        Class::new(Kind::Transport)
    );
    let reset = io::Error::from(io::ErrorKind::ConnectionReset);
    assert_eq!(
        ClaudeClassify::default().error(&reset).kind,
        Kind::Transport
    );
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    assert_eq!(ClaudeClassify::default().error(&late()).kind, Kind::Timeout);
    let boxed: BoxError = late().into();
    assert_eq!(ClaudeClassify::default().error(&boxed).kind, Kind::Timeout);
    let deep: BoxError = Wrapped(Wrapped(late().into()).into()).into();
    assert_eq!(HttpClassify::default().error(&deep).kind, Kind::Timeout);
    let deep: BoxError = Wrapped(reset.into()).into();
    assert_eq!(HttpClassify::default().error(&deep).kind, Kind::Transport);
}

#[tokio::test(start_paused = true)]
async fn tokio_timeout_is_a_timeout() {
    let elapsed = tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>())
        .await
        .expect_err("it never ends");
    assert_eq!(
        ClaudeClassify::default().error(&elapsed).kind,
        Kind::Timeout
    );
    let boxed: BoxError = Wrapped(elapsed.into()).into();
    assert_eq!(ClaudeClassify::default().error(&boxed).kind, Kind::Timeout);
}

/// The error of tower's timer is recognised by its message.
#[tokio::test(start_paused = true)]
async fn tower_timeout_is_a_timeout() {
    let never = tower::service_fn(|()| std::future::pending::<Result<(), BoxError>>());
    let late = tower::timeout::Timeout::new(never, Duration::from_secs(1));
    let error = late.oneshot(()).await.expect_err("it never ends");
    assert_eq!(ClaudeClassify::default().error(&error).kind, Kind::Timeout);
    let deep: BoxError = Wrapped(error).into();
    assert_eq!(HttpClassify::default().error(&deep).kind, Kind::Timeout);
    let other: BoxError = "request timed out, or so".into();
    assert_eq!(
        ClaudeClassify::default().error(&other).kind,
        Kind::Transport
    );
}

#[test]
fn http_classifier_reads_only_the_head() {
    let classify: &dyn ClassifyResponse = &HttpClassify::default();
    for (code, kind) in [
        (200, Kind::Success),
        (301, Kind::Success),
        (400, Kind::BadRequest),
        (401, Kind::Unauthorized),
        (402, Kind::SpendLimit),
        (404, Kind::NotFound),
        (408, Kind::Timeout),
        (410, Kind::NotFound),
        (429, Kind::RateLimited),
        (500, Kind::ServerError),
        (599, Kind::ServerError),
    ] {
        let head = classify.head(status(code), &HeaderMap::new());
        assert_eq!(head, Some(Class::new(kind)), "{code}");
    }
    // Claude's error codes are ignored.
    let spend = fixture("429_contract_spend.json");
    let class = classify.body(status(429), &headers(&[("retry-after", "5")]), &spend);
    assert!(class.is_retryable());
    assert_eq!(class.retry_after, Some(Duration::from_secs(5)));
}

#[test]
fn local_class_is_not_retryable() {
    let advice = Class::new(Kind::RateLimited).with_should_retry(Some(true));
    assert!(advice.is_retryable());
    assert!(!advice.into_local().is_retryable());
}

/// Even if the server advises a retry.
#[test]
fn success_and_spend_limit_are_not_retryable() {
    for kind in [Kind::Success, Kind::ModelRefusal, Kind::SpendLimit] {
        let advice = Class::new(kind).with_should_retry(Some(true));
        assert!(!advice.is_retryable(), "{kind:?}");
    }
}

#[test]
fn kinds_have_distinct_names() {
    let kinds = [
        Kind::Success,
        Kind::RateLimited,
        Kind::RampLimited,
        Kind::SpendLimit,
        Kind::Overloaded,
        Kind::ServerError,
        Kind::Timeout,
        Kind::Transport,
        Kind::Conflict,
        Kind::BadRequest,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::NotFound,
        Kind::TooLarge,
        Kind::ModelRefusal,
        Kind::Truncated,
    ];
    let names: std::collections::HashSet<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names.len(), kinds.len());
}

/// A classifier that wants to read every body.
struct Curious;

impl ClassifyResponse for Curious {
    fn head(&self, _: StatusCode, _: &HeaderMap) -> Option<Class> {
        None
    }

    fn body(&self, _: StatusCode, _: &HeaderMap, _: &[u8]) -> Class {
        unreachable!("only heads are asked for")
    }

    fn stream_error(&self, _: &ApiError) -> Class {
        unreachable!("only heads are asked for")
    }
}

#[test]
fn success_without_a_class_does_not_read_the_body() {
    let by_head = |code| {
        let response = Response::builder()
            .status(code)
            .body(())
            .expect("a response");
        Class::by_head(&Curious, true, &response)
    };
    assert_eq!(by_head(200), Some(Class::SUCCESS));
    assert_eq!(by_head(500), None);
}

#[test]
fn inserted_class_is_reused_unless_the_layer_has_its_own_classifier() {
    let by_head = |reuse, left: Class| {
        let response = Response::builder().status(529).extension(left).body(());
        let response = response.expect("a response");
        Class::by_head(&HttpClassify::default(), reuse, &response).map(|class| class.kind)
    };
    let remote = Class::new(Kind::SpendLimit);
    assert_eq!(by_head(true, remote), Some(Kind::SpendLimit));
    assert_eq!(by_head(false, remote), Some(Kind::Overloaded));
    // A local class is always reused.
    assert_eq!(by_head(false, remote.into_local()), Some(Kind::SpendLimit));
}
