//! Credentials: their refresh, their expiry and their failure.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, request::Parts};
use tokio::{
    sync::Notify,
    time::{Sleep, advance},
};
use tower::ServiceExt;
use tower_claude_cloud::{Authorization, Authorize, AuthorizeError, Bearer, CloudLayer, Issued};
use tower_claude_core::{Kind, RejectReason, RequestBody};
use tower_claude_tests::{
    FrameBody, HOUR, MINUTE, Readiness, Reply, SECOND, Script, paused, serve, settle,
};
use tower_layer::Layer;
use tower_service::Service;

use super::{bedrock_messages, request, send, vertex};

/// A source that counts its calls. Its tokens are `token-1`, `token-2` and so on.
#[derive(Clone)]
struct Source {
    calls: Arc<AtomicU32>,
    lifetime: Duration,
    /// Set to let fetches wait.
    gate: Arc<Mutex<Option<Arc<Notify>>>>,
    fails: Arc<AtomicU32>,
}

impl Source {
    fn new(lifetime: Duration) -> Self {
        Self {
            calls: Arc::default(),
            lifetime,
            gate: Arc::default(),
            fails: Arc::default(),
        }
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Lets fetches wait until the result is notified.
    fn block(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        *self.gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    fn unblock(&self) {
        *self.gate.lock().unwrap() = None;
    }

    /// Lets this many fetches fail.
    fn fail(&self, fetches: u32) {
        self.fails.store(fetches, Ordering::SeqCst);
    }

    fn bearer(&self) -> Bearer {
        let source = self.clone();
        Bearer::refreshing(move || {
            let source = source.clone();
            async move {
                let number = source.calls.fetch_add(1, Ordering::SeqCst) + 1;
                let gate = source.gate.lock().unwrap().clone();
                if let Some(gate) = gate {
                    gate.notified().await;
                }
                let left = source.fails.load(Ordering::SeqCst);
                if left > 0 {
                    source.fails.store(left - 1, Ordering::SeqCst);
                    return Err("the metadata server has secret-1".into());
                }
                Ok(Issued::lasting(format!("token-{number}"), source.lifetime))
            }
        })
    }

    fn layer(&self) -> CloudLayer {
        CloudLayer::new().with_default_target(vertex(), self.bearer())
    }
}

fn tokens(script: &Script) -> Vec<String> {
    let token = |headers: &http::HeaderMap| {
        let value = headers["authorization"].to_str().expect("text");
        value.trim_start_matches("Bearer ").to_owned()
    };
    script
        .seen()
        .iter()
        .map(|seen| token(&seen.headers))
        .collect()
}

fn unauthorized() -> Reply {
    Reply::claude_error(401, "authentication_error")
}

#[test]
fn many_calls_without_a_token_fetch_one() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        let script = Script::always(Reply::message());
        let gate = source.block();
        let service = layer.layer(script.clone());
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let service = service.clone();
                tokio::spawn(async move { serve(&service, request(false)).await })
            })
            .collect();
        settle().await;
        assert_eq!((source.calls(), script.calls()), (1, 0));
        gate.notify_waiters();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().status(), 200);
        }
        assert_eq!(source.calls(), 1);
        assert!(tokens(&script).iter().all(|token| token == "token-1"));
    });
}

#[test]
fn fetch_goes_on_if_the_call_that_started_it_is_dropped() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        let script = Script::always(Reply::message());
        let gate = source.block();
        let service = layer.layer(script.clone());
        let first = {
            let service = service.clone();
            tokio::spawn(async move { serve(&service, request(false)).await })
        };
        settle().await;
        let second = tokio::spawn(async move { serve(&service, request(false)).await });
        settle().await;
        first.abort();
        settle().await;
        gate.notify_waiters();
        assert_eq!(second.await.unwrap().unwrap().status(), 200);
        assert_eq!(source.calls(), 1);
        assert_eq!(script.clones_alive(), 0);
    });
}

#[test]
fn token_is_fetched_again_early_and_no_call_waits() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        let script = Script::always(Reply::message());
        send(&layer, &script, request(false)).await;
        advance(54 * MINUTE).await;
        send(&layer, &script, request(false)).await;
        settle().await;
        assert_eq!(source.calls(), 1);
        advance(2 * MINUTE).await;
        // It does not end, but the old token is valid.
        let gate = source.block();
        send(&layer, &script, request(false)).await;
        send(&layer, &script, request(false)).await;
        settle().await;
        assert_eq!(source.calls(), 2);
        gate.notify_waiters();
        settle().await;
        send(&layer, &script, request(false)).await;
        assert_eq!(
            tokens(&script),
            ["token-1", "token-1", "token-1", "token-1", "token-2"]
        );
    });
}

#[test]
fn expired_token_is_never_sent() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        let script = Script::always(Reply::message());
        send(&layer, &script, request(false)).await;
        advance(HOUR).await;
        send(&layer, &script, request(false)).await;
        assert_eq!(tokens(&script), ["token-1", "token-2"]);
    });
}

#[test]
fn token_that_seems_expired_on_arrival_is_used_for_a_minute() {
    paused(async {
        let source = Source::new(Duration::ZERO);
        let layer = source.layer();
        let script = Script::always(Reply::message());
        for _ in 0..3 {
            send(&layer, &script, request(false)).await;
        }
        assert_eq!(source.calls(), 1);
        advance(MINUTE + SECOND).await;
        assert_eq!(send(&layer, &script, request(false)).await.status, 200);
    });
}

#[test]
fn failed_early_fetch_is_no_failure_of_a_call_and_rests_a_second() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        let script = Script::always(Reply::message());
        send(&layer, &script, request(false)).await;
        advance(56 * MINUTE).await;
        source.fail(1);
        for _ in 0..5 {
            assert_eq!(send(&layer, &script, request(false)).await.status, 200);
            settle().await;
        }
        assert_eq!(source.calls(), 2);
        advance(2 * SECOND).await;
        send(&layer, &script, request(false)).await;
        settle().await;
        assert_eq!(source.calls(), 3);
    });
}

#[test]
fn call_without_a_token_is_rejected_and_the_cause_is_for_the_operator() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        let script = Script::always(Reply::message());
        source.fail(1);
        let got = send(&layer, &script, request(false)).await;
        assert_eq!((got.status, script.calls()), (529, 0));
        let rejection = got.rejected().unwrap();
        assert_eq!(rejection.reason, RejectReason::NoCredential);
        assert!(rejection.class().local && rejection.class().kind == Kind::Overloaded);
        assert!(!got.contains("secret"), "{}", got.text());
        let error = got.extensions.get::<AuthorizeError>().unwrap();
        let cause = std::error::Error::source(error).unwrap();
        assert!(cause.to_string().contains("secret-1"));
        // The source rests for a second. Calls in between do not ask it.
        let got = send(&layer, &script, request(false)).await;
        assert_eq!((got.status, source.calls()), (529, 1));
        advance(2 * SECOND).await;
        assert_eq!(send(&layer, &script, request(false)).await.status, 200);
    });
}

#[test]
fn source_that_hangs_is_given_up_after_half_a_minute() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        let script = Script::always(Reply::message());
        source.block();
        let begin = tokio::time::Instant::now();
        let got = send(&layer, &script, request(false)).await;
        assert_eq!(got.status, 529);
        assert_eq!(begin.elapsed(), 30 * SECOND);
        source.unblock();
        advance(2 * SECOND).await;
        assert_eq!(send(&layer, &script, request(false)).await.status, 200);
    });
}

#[test]
fn source_that_panics_is_an_error_and_can_be_called_again() {
    paused(async {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let bearer = Bearer::refreshing(move || {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(number > 0, "the first fetch panics");
                Ok(Issued::forever("token".to_owned()))
            }
        });
        let layer = CloudLayer::new().with_default_target(vertex(), bearer);
        let script = Script::always(Reply::message());
        assert_eq!(send(&layer, &script, request(false)).await.status, 529);
        assert_eq!(send(&layer, &script, request(false)).await.status, 200);
    });
}

#[test]
fn rejected_token_is_fetched_again_and_the_request_sent_once_more() {
    paused(async {
        let mut forbidden =
            Reply::status(403).header(http::header::CONTENT_TYPE, "application/json");
        forbidden = forbidden.data(r#"{"message":"the bearer token has expired"}"#);
        let name = HeaderName::from_static("x-amzn-errortype");
        let exception = Reply::status(403).header(name, "ExpiredTokenException:http://x");
        for reply in [unauthorized(), forbidden, exception] {
            let source = Source::new(HOUR);
            let layer = CloudLayer::new().with_default_target(bedrock_messages(), source.bearer());
            let script = Script::new([reply, Reply::message()]);
            let got = send(&layer, &script, request(false)).await;
            assert_eq!(got.status, 200);
            assert_eq!(tokens(&script), ["token-1", "token-2"]);
            let seen = script.seen();
            assert_eq!((&seen[0].body, &seen[0].uri), (&seen[1].body, &seen[1].uri));
        }
    });
}

#[test]
fn token_that_is_rejected_twice_is_the_callers_answer() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        let script = Script::always(unauthorized());
        let got = send(&layer, &script, request(false)).await;
        assert_eq!((got.status, script.calls()), (401, 2));
        assert!(!got.is_rejected());
        // The second token is new, so that it is kept. Each further request causes one fetch.
        for _ in 0..3 {
            send(&layer, &script, request(false)).await;
        }
        assert_eq!(source.calls(), 5);
    });
}

#[test]
fn fixed_token_that_is_rejected_is_sent_once() {
    paused(async {
        let layer = CloudLayer::new().with_default_target(vertex(), super::bearer("token"));
        let script = Script::always(unauthorized());
        let got = send(&layer, &script, request(false)).await;
        assert_eq!((got.status, script.calls()), (401, 1));
    });
}

#[test]
fn other_403_is_not_sent_again() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        let script = Script::always(Reply::claude_error(403, "permission_error"));
        let got = send(&layer, &script, request(false)).await;
        assert_eq!((got.status, script.calls(), source.calls()), (403, 1, 1));
    });
}

#[test]
fn late_rejection_of_an_old_token_keeps_the_new_one() {
    paused(async {
        let source = Source::new(HOUR);
        let layer = source.layer();
        // Two calls with the first token. Both are rejected, one after the other.
        let slow = unauthorized().waits(10_000);
        let script = Script::new([slow, unauthorized(), Reply::message(), Reply::message()]);
        let service = layer.layer(script.clone());
        let late = {
            let service = service.clone();
            tokio::spawn(async move { serve(&service, request(false)).await })
        };
        while script.calls() < 1 {
            tokio::task::yield_now().await;
        }
        let early = serve(&service, request(false)).await.unwrap();
        let late = late.await.unwrap().unwrap();
        assert_eq!(
            (early.status().as_u16(), late.status().as_u16()),
            (200, 200)
        );
        assert_eq!(source.calls(), 2, "{:?}", tokens(&script));
    });
}

/// A signature that names the time at which it was made.
#[derive(Clone, Default)]
struct Signer(Arc<AtomicU32>);

impl Authorize for Signer {
    fn authorize(&self, head: &mut Parts, body: &Bytes, _: SystemTime) -> Authorization {
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        let value = format!("signature-{number} of {} bytes", body.len());
        head.headers.insert(
            "authorization",
            HeaderValue::from_str(&value).expect("text"),
        );
        Authorization::Done(0)
    }
}

#[test]
fn signature_covers_the_body_that_is_sent() {
    paused(async {
        let signer = Signer::default();
        let layer = CloudLayer::new().with_default_target(vertex(), signer.clone());
        let script = Script::always(Reply::message()).readiness(Readiness::After(3));
        send(&layer, &script, request(false)).await;
        let seen = &script.seen()[0];
        let value = seen.headers["authorization"].to_str().unwrap();
        assert_eq!(value, format!("signature-1 of {} bytes", seen.body.len()));
    });
}

/// A service that is ready after a while.
struct ReadyLater {
    after: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    signature: Arc<Mutex<String>>,
}

impl Clone for ReadyLater {
    fn clone(&self) -> Self {
        Self {
            after: self.after,
            sleep: None,
            signature: self.signature.clone(),
        }
    }
}

impl Service<Request<RequestBody>> for ReadyLater {
    type Response = Response<FrameBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.after)));
        sleep.as_mut().poll(cx).map(Ok)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let value = request.headers()["authorization"].to_str().expect("text");
        value.clone_into(&mut self.signature.lock().unwrap());
        ready(Ok(Response::new(FrameBody::full("{}"))))
    }
}

#[test]
fn signature_is_made_again_if_the_service_was_not_ready_for_long() {
    paused(async {
        for (after, number) in [(59 * SECOND, 1), (61 * SECOND, 2)] {
            let signature = Arc::default();
            let inner = ReadyLater {
                after,
                sleep: None,
                signature: Arc::clone(&signature),
            };
            let layer = CloudLayer::new().with_default_target(vertex(), Signer::default());
            let response = layer.layer(inner).oneshot(request(false)).await.unwrap();
            assert_eq!(response.status(), 200);
            let signature = signature.lock().unwrap().clone();
            assert!(
                signature.starts_with(&format!("signature-{number} ")),
                "{signature}"
            );
        }
    });
}
