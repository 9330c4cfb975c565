//! Requests that the client cannot send and bodies that the caller does not finish are no failures
//! of the server.

use std::{error::Error as StdError, io, time::Duration};

use bytes::Bytes;
use http::{Request, Version};
use http_body::Frame;
use http_body_util::StreamBody;
use tower::{Layer, ServiceExt};
use tower_claude::{Limits, RequestBody};
use tower_claude_core::{BoxError, Classify, ClaudeClassify, Kind};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_tests::{SONNET, request_to};

use crate::{bounded, hyper_client, reqwest_client, stack};

/// Sends the request and then a good one. The stack must blame no one for the first.
macro_rules! assert_own_side {
    ($client:expr, $request:expr, $url:expr, $what:expr) => {{
        let stack = stack();
        let service = stack.layer($client);
        let before = stack.retry().handle().snapshot().budget_tokens;
        for _ in 0..6 {
            let error = service.clone().oneshot($request).await.err();
            let error = error.unwrap_or_else(|| panic!("{}: answered", $what));
            let class = ClaudeClassify::default().error(&error);
            assert_eq!(
                (class.kind, class.local),
                (Kind::BadRequest, true),
                "{}: {error:?}",
                $what
            );
        }
        let retry = stack.retry().handle().snapshot();
        assert_eq!(retry.retries, 0, "{}", $what);
        assert!(retry.budget_tokens >= before, "{}", $what);
        let good = service.oneshot(request_to($url, SONNET, false)).await;
        assert_eq!(good.expect("answered").status(), 200, "{}", $what);
        assert_eq!(stack.breaker().handle().snapshot().opened, 0, "{}", $what);
    }};
}

fn with_version(url: &str, version: Version) -> Request<RequestBody> {
    let mut request = request_to(url, SONNET, false);
    *request.version_mut() = version;
    request
}

#[tokio::test]
async fn request_that_the_client_refuses_to_send_blames_no_server() {
    bounded(async {
        let server = FakeClaude::default().serve().await.expect("a port");
        let (url, ftp) = (server.url(), format!("ftp://{}", server.addr()));
        assert_own_side!(
            hyper_client(false),
            with_version(&url, Version::HTTP_2),
            &url,
            "HTTP/2"
        );
        assert_own_side!(
            hyper_client(false),
            request_to("", SONNET, false),
            &url,
            "relative"
        );
        assert_own_side!(
            reqwest_client(false, true),
            request_to("", SONNET, false),
            &url,
            "relative"
        );
        assert_own_side!(
            hyper_client(false),
            request_to(&ftp, SONNET, false),
            &url,
            "ftp"
        );
        assert_own_side!(
            reqwest_client(false, true),
            request_to(&ftp, SONNET, false),
            &url,
            "ftp"
        );
        let https = format!("https://{}", server.addr());
        assert_own_side!(
            hyper_client(false),
            request_to(&https, SONNET, false),
            &url,
            "https"
        );
    })
    .await;
}

/// The version of an incoming request that a proxy passes on.
#[tokio::test]
async fn version_of_the_request_is_not_handed_to_reqwest() {
    bounded(async {
        let server = FakeClaude::default().serve().await.expect("a port");
        for version in [Version::HTTP_10, Version::HTTP_2, Version::HTTP_3] {
            let service = stack().layer(reqwest_client(false, true));
            let answer = service.oneshot(with_version(&server.url(), version)).await;
            assert_eq!(answer.expect("answered").status(), 200);
        }
    })
    .await;
}

/// A request body that fails, with this error, after it has begun to be sent.
fn upload(url: &str, error: BoxError) -> Request<RequestBody> {
    let start = Ok(Frame::data(Bytes::from(vec![b' '; 1 << 20])));
    let frames = futures_util::stream::iter([start, Err(error)]);
    let body = RequestBody::new(StreamBody::new(frames));
    Request::post(format!("{url}/v1/files"))
        .header("x-api-key", "k")
        .body(body)
        .expect("a request")
}

async fn elapsed() -> BoxError {
    let never = std::future::pending::<()>();
    let elapsed = tokio::time::timeout(Duration::from_millis(1), never).await;
    elapsed.expect_err("it never ends").into()
}

#[tokio::test]
async fn upload_that_fails_blames_no_server() {
    bounded(async {
        let server = FakeClaude::default().serve().await.expect("a port");
        let url = server.url();
        for http2 in [false, true] {
            let what = format!("HTTP/2: {http2}");
            assert_own_side!(hyper_client(http2), upload(&url, "cut".into()), &url, what);
            assert_own_side!(
                reqwest_client(http2, true),
                upload(&url, "cut".into()),
                &url,
                what
            );
            let timed_out = || io::Error::from(io::ErrorKind::TimedOut).into();
            assert_own_side!(hyper_client(http2), upload(&url, timed_out()), &url, what);
            assert_own_side!(
                reqwest_client(http2, true),
                upload(&url, elapsed().await),
                &url,
                what
            );
        }
    })
    .await;
}

/// An upload that fails takes nothing of a limit.
#[tokio::test]
async fn failed_uploads_are_not_charged() {
    bounded(async {
        let server = FakeClaude::default().serve().await.expect("a port");
        let six = std::num::NonZeroU64::new(6).expect("not zero");
        let limits = Limits::unlimited().with_requests_per_minute(six);
        let stack = tower_claude::recommended().with_limits(limits);
        let service = stack.layer(hyper_client(false));
        for _ in 0..7 {
            let failed = service
                .clone()
                .oneshot(upload(&server.url(), "cut".into()))
                .await;
            let source = failed.expect_err("an error of the body");
            assert!(source.source().is_some());
        }
    })
    .await;
}

#[tokio::test]
async fn refused_connection_is_unprocessed_and_no_time_limit() {
    bounded(async {
        let server = FakeClaude::default().serve().await.expect("a port");
        let url = server.url();
        server.shutdown().await;
        let request = || request_to(&url, SONNET, false);
        let classify = ClaudeClassify::default();
        let by_hyper = hyper_client(false)
            .oneshot(request())
            .await
            .expect_err("refused");
        let by_reqwest = reqwest_client(false, true).oneshot(request()).await;
        for class in [
            classify.error(&by_hyper),
            classify.error(&by_reqwest.expect_err("refused")),
        ] {
            assert_eq!(class.kind, Kind::Transport);
            assert!(class.unprocessed && !class.local && !class.is_not_taken());
        }
    })
    .await;
}

/// A batch that the server refused to take is created once, and sent again.
#[tokio::test]
async fn create_is_repeated_only_if_it_cannot_have_arrived() {
    use tower_claude_fake_claude::{BreakKind, BreakPoint};
    bounded(async {
        for (how, attempts) in [(BreakKind::ResetStream(7), 2), (BreakKind::Close, 1)] {
            let fake = FakeClaude::default();
            let server = fake.serve().await.expect("a port");
            let at = BreakPoint::BeforeHead;
            fake.inject(Fault::Break { how, at });
            let request = Request::post(format!("{}/v1/messages/batches", server.url()))
                .header("x-api-key", "k")
                .header("anthropic-version", "2023-06-01")
                .body(RequestBody::from(r#"{"requests":[]}"#))
                .expect("a request");
            let _ = stack().layer(hyper_client(true)).oneshot(request).await;
            assert_eq!(fake.log_len(), attempts, "{how:?}");
        }
    })
    .await;
}
