//! Under the layers: hyper-util's client. Beyond it: the fake on a port of this machine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Uri};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::task::JoinSet;
use tower::{ServiceBuilder, ServiceExt};
use tower_claude_core::{Kind, RequestBody};
use tower_claude_fake_claude::{FakeClaude, FakeServer, Fault};
use tower_claude_limiter::{Limiter, Limits};
use tower_claude_retry::{Backoff, Jitter, RetryLayer};
use tower_claude_token_bucket::TokenBucketLayer;

use crate::{
    bounded,
    common::{HOUR, SONNET, Stack, at_once, quiet, request_to, send, statuses},
};

type Http = Client<HttpConnector, RequestBody>;

fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The stack over a client of its own, with retries that do not wait.
fn stack(limits: Limits) -> Stack<Http> {
    let backoff = Backoff::new(Duration::ZERO, Duration::ZERO, Jitter::None);
    let retry = RetryLayer::new().with_backoff(backoff);
    Stack::with(client(), retry, TokenBucketLayer::new(limits))
}

async fn served(fake: &FakeClaude) -> FakeServer {
    fake.serve().await.expect("a free port")
}

/// Without what tells the time.
fn timeless(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), format!("{value:?}")))
        .filter(|(name, _)| name != "date" && !name.ends_with("-reset"))
        .collect();
    headers.sort();
    headers
}

#[tokio::test]
async fn answers_are_the_same_with_and_without_layers() {
    bounded(async {
        for stream in [false, true] {
            let (plain, layered) = (quiet(), quiet());
            let (one, other) = (served(&plain).await, served(&layered).await);
            let stack = stack(Limits::new());
            for _ in 0..3 {
                let request = || request_to(&one.url(), SONNET, stream);
                let bare = send(&client(), request()).await.expect("an answer");
                let request = request_to(&other.url(), SONNET, stream);
                let seen = send(&stack.service, request).await.expect("an answer");
                assert!(seen.is_complete(stream), "{seen:?}");
                assert_eq!(seen.body, bare.body);
                assert_eq!(seen.status, bare.status);
                assert_eq!(timeless(&seen.headers), timeless(&bare.headers));
            }
            let (left, right) = (plain.log(), layered.log());
            assert_eq!(left.len(), right.len());
            for (left, right) in left.iter().zip(&right) {
                assert_eq!(left.charged_input, right.charged_input);
                assert_eq!(left.charged_output, right.charged_output);
            }
            stack.assert_idle("happy answers");
        }
    })
    .await;
}

#[tokio::test]
async fn failure_before_content_is_retried() {
    bounded(async {
        let fake = quiet();
        let server = served(&fake).await;
        let stack = stack(Limits::new());
        let cut = Fault::Cut { after_tokens: 4 };
        for (fault, stream) in [
            (Fault::Reset, false),
            (Fault::Reset, true),
            (Fault::Overloaded, true),
            (Fault::ErrorBeforeContent, true),
            (Fault::TruncatedBeforeContent, true),
            (cut, false),
        ] {
            let before = fake.log_len();
            fake.inject(fault.clone());
            let seen = send(&stack.service, request_to(&server.url(), SONNET, stream)).await;
            let seen = seen.expect("an answer");
            assert!(seen.is_complete(stream), "{fault:?}: {seen:?}");
            assert_eq!(fake.log_len() - before, 2, "{fault:?}");
            stack.assert_idle(fault.name());
        }
    })
    .await;
}

#[tokio::test]
async fn lasting_resets_are_returned_as_the_error_of_the_client() {
    bounded(async {
        let fake = quiet();
        let server = served(&fake).await;
        let stack = stack(Limits::new());
        fake.inject_times(Fault::Reset, 100);
        let sent = send(&stack.service, request_to(&server.url(), SONNET, false)).await;
        let error: hyper_util::client::legacy::Error = sent.expect_err("nobody answers");
        assert!(!error.is_connect(), "{error:?}");
        assert_eq!(statuses(&fake.log()), [0; 5]);
        stack.assert_idle("resets");
    })
    .await;
}

#[tokio::test]
async fn refused_connection_is_returned_as_the_error_of_the_client() {
    bounded(async {
        let server = served(&quiet()).await;
        let url = server.url();
        server.shutdown().await;
        let stack = stack(Limits::new());
        let sent = send(&stack.service, request_to(&url, SONNET, false)).await;
        assert!(sent.expect_err("nobody listens").is_connect());
        assert_eq!(stack.retry.snapshot().retries, 4);
        stack.assert_idle("nobody");
    })
    .await;
}

#[tokio::test]
async fn failure_after_content_is_forwarded_unchanged() {
    bounded(async {
        let fake = quiet();
        let server = served(&fake).await;
        let stack = stack(Limits::new());
        let after_tokens = 4;
        for (fault, breaks) in [
            (Fault::Cut { after_tokens }, true),
            (Fault::Truncated { after_tokens }, false),
            (Fault::ErrorMidStream { after_tokens }, false),
        ] {
            let before = fake.log_len();
            fake.inject(fault.clone());
            let seen = send(&stack.service, request_to(&server.url(), SONNET, true)).await;
            let seen = seen.expect("an answer");
            assert_eq!(seen.status, 200);
            assert!(seen.contains("content_block_delta"), "{fault:?}: {seen:?}");
            assert!(!seen.contains("message_stop"), "{fault:?}: {seen:?}");
            assert_eq!(seen.error.is_some(), breaks, "{fault:?}: {seen:?}");
            assert_eq!(fake.log_len() - before, 1, "{fault:?}");
            stack.assert_idle(fault.name());
        }
        assert_eq!(stack.retry.snapshot().broken, 3);
        assert_eq!(stack.events.count("retry broken truncated"), 1);
        assert_eq!(stack.events.count("retry broken transport"), 1);
        assert_eq!(stack.events.count("retry broken overloaded"), 1);
    })
    .await;
}

#[tokio::test]
async fn error_response_of_the_server_keeps_its_bytes() {
    bounded(async {
        let fake = quiet();
        let server = served(&fake).await;
        let stack = stack(Limits::new());
        fake.inject(Fault::SpendCap);
        let seen = send(&stack.service, request_to(&server.url(), SONNET, true)).await;
        let seen = seen.expect("an answer");
        assert_eq!((seen.status, seen.kind()), (429, Some(Kind::SpendLimit)));
        let length = seen.headers.get("content-length").expect("a length");
        assert_eq!(
            length.to_str().ok(),
            Some(seen.body.len().to_string().as_str())
        );
        let wrong = tower_claude_tests::post::<RequestBody>(&server.url(), "no JSON at all");
        let seen = send(&stack.service, wrong).await.expect("an answer");
        assert_eq!((seen.status, seen.kind()), (400, Some(Kind::BadRequest)));
        assert!(seen.contains("invalid_request_error"));
        assert_eq!(fake.log_len(), 2);
        stack.assert_idle("refusals");
    })
    .await;
}

#[tokio::test]
async fn call_dropped_before_a_slow_head_frees_its_place() {
    bounded(async {
        let fake = quiet();
        let server = served(&fake).await;
        let stack = stack(at_once(1));
        fake.inject(Fault::SlowHead(HOUR));
        let call = tokio::spawn({
            let (service, url) = (stack.service.clone(), server.url());
            async move { send(&service, request_to(&url, SONNET, true)).await }
        });
        fake.wait_for(|log| log.len() == 1).await;
        let queued = tokio::spawn({
            let (service, url) = (stack.service.clone(), server.url());
            async move { send(&service, request_to(&url, SONNET, true)).await }
        });
        call.abort();
        assert!(call.await.expect_err("it left").is_cancelled());
        fake.wait_for(|log| log[0].client_gone).await;
        let seen = queued.await.expect("no panic").expect("an answer");
        assert!(
            seen.is_complete(true),
            "its place went to the next: {seen:?}"
        );
        fake.wait_for(|log| log.iter().all(|a| a.finished_at.is_some()))
            .await;
        assert_eq!(fake.in_flight(), 0);
        stack.assert_idle("a caller that left");
    })
    .await;
}

#[tokio::test]
async fn connections_are_reused() {
    bounded(async {
        let fake = quiet();
        let server = served(&fake).await;
        let opened = Arc::new(AtomicUsize::new(0));
        let count = opened.clone();
        let connector = ServiceBuilder::new()
            .map_request(move |uri: Uri| {
                count.fetch_add(1, Ordering::Relaxed);
                uri
            })
            .service(HttpConnector::new());
        let client: Client<_, RequestBody> = Client::builder(TokioExecutor::new()).build(connector);
        let stack = Stack::new(client, Limits::new());
        for index in 0..40 {
            let stream = index % 2 == 0;
            let seen = send(&stack.service, request_to(&server.url(), SONNET, stream)).await;
            assert!(seen.expect("an answer").is_complete(stream));
        }
        // The client takes a connection back a moment after its answer has ended: now and then too
        // late.
        let opened = opened.load(Ordering::Relaxed);
        assert!(opened < 20, "{opened} connections for 40 requests");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_dropped_midway_leave_nothing() {
    bounded(async {
        let fake = quiet();
        let server = served(&fake).await;
        let stack = stack(at_once(100));
        fake.inject_times(
            Fault::Stall {
                after_tokens: 4,
                duration: HOUR,
            },
            100,
        );
        let mut tasks = JoinSet::new();
        for index in 0..100 {
            let (service, url) = (stack.service.clone(), server.url());
            tasks.spawn(async move {
                let response = service.oneshot(request_to(&url, SONNET, true)).await;
                let mut body = response.expect("an answer").into_body();
                for _ in 0..index % 4 {
                    body.frame().await.expect("a frame").expect("no error");
                }
                body
            });
        }
        let bodies = tasks.join_all().await;
        let scopes = stack.limiter.snapshot();
        let busy: u64 = scopes.iter().map(|scope| scope.in_flight).sum();
        assert_eq!(busy, 100, "a response ends at the end of its body");
        drop(bodies);
        stack.assert_idle("a hundred bodies dropped");
        fake.wait_for(|log| log.len() == 100 && log.iter().all(|a| a.client_gone))
            .await;
        assert_eq!(fake.in_flight(), 0);
        let seen = send(&stack.service, request_to(&server.url(), SONNET, true)).await;
        assert!(seen.expect("an answer").is_complete(true));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_on_two_threads_are_served() {
    bounded(async {
        let fake = quiet();
        let server = served(&fake).await;
        let stack = stack(at_once(8));
        fake.inject_times(Fault::Overloaded, 20);
        let mut tasks = JoinSet::new();
        for index in 0..300 {
            let (service, url) = (stack.service.clone(), server.url());
            tasks.spawn(async move {
                let stream = index % 2 == 0;
                let seen = send(&service, request_to(&url, SONNET, stream)).await;
                seen.expect("an answer").is_complete(stream)
            });
        }
        let whole = tasks.join_all().await;
        // A few calls may meet all faults, and none waits for ever.
        let whole = whole.into_iter().filter(|whole| *whole).count();
        assert!(whole >= 290, "{whole} of 300");
        fake.wait_for(|log| log.iter().all(|a| a.finished_at.is_some()))
            .await;
        stack.assert_idle("three hundred");
        assert_eq!(fake.in_flight(), 0);
    })
    .await;
}
