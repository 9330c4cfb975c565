//! Coalescing of equal requests in flight.

use std::{
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Waker},
};

use futures_util::future::join_all;
use http_body::Body as _;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_claude_core::RequestBody;
use tower_claude_core::{
    Class, Deadline, Kind,
    event::{CacheDecision, Event},
};
use tower_claude_tests::Broken;

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn equal_requests_in_flight_share_one_call() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream.clone());
    let other = layer.clone().layer(upstream);
    for stream in [false, true] {
        let calls = (0..20).map(|number| {
            let service = if number % 2 == 0 { &service } else { &other };
            send(service, marked("Hi", stream))
        });
        let answering = async {
            let script = scripts.next().await;
            settle().await;
            if stream {
                let sender = script.stream();
                for part in STREAM {
                    settle().await;
                    feed(&sender, part);
                }
            } else {
                script.message();
            }
        };
        let (all, ()) = tokio::join!(join_all(calls), answering);
        for got in all {
            let text = if stream {
                STREAM.concat()
            } else {
                MESSAGE.to_owned()
            };
            assert_eq!(got.expect("an answer").text(), text);
        }
    }
    let seen = layer.handle().snapshot();
    assert_eq!((scripts.calls(), seen.misses, seen.joined), (2, 2, 38));
    assert_eq!((seen.in_flight, seen.stored, scripts.alive()), (0, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn late_subscriber_reads_from_the_start() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let first = tokio::spawn({
        let service = service.clone();
        async move { send(&service, marked("Hi", true)).await }
    });
    let sender = scripts.next().await.stream();
    feed(&sender, START);
    feed(&sender, CONTENT);
    settle().await;
    let second = tokio::spawn(async move { send(&service, marked("Hi", true)).await });
    settle().await;
    [DELTA, END, STOP]
        .iter()
        .for_each(|part| feed(&sender, part));
    drop(sender);
    for got in [first, second] {
        assert_eq!(
            got.await.expect("no panic").expect("an answer").text(),
            STREAM.concat()
        );
    }
    assert_eq!(scripts.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn leader_cancelled_before_the_head_is_replaced() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream);
    let mut calls: Vec<_> = (0..5)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, request()).await })
        })
        .collect();
    let mut old = Vec::new();
    for number in 1..5 {
        old.push(scripts.next().await);
        settle().await;
        assert_eq!(scripts.calls(), number);
        calls.remove(0).abort();
    }
    scripts.next().await.message();
    let last = calls.remove(0).await.expect("no panic").expect("an answer");
    assert_eq!((last.text(), scripts.calls()), (MESSAGE, 5));
    let seen = layer.handle().snapshot();
    assert_eq!((seen.takeovers, seen.in_flight, seen.stored), (4, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn leader_cancelled_after_the_head_leaves_the_body_to_the_others() {
    for frames in 0..STREAM.len() {
        let (upstream, scripts) = upstream();
        let service = layer().layer(upstream);
        let lead = service.clone().oneshot(marked("Hi", true));
        let (lead, sender) = tokio::join!(lead, async { scripts.next().await.stream() });
        let mut lead = lead.expect("a head").into_body();
        let follower = tokio::spawn(async move { send(&service, marked("Hi", true)).await });
        for part in &STREAM[..frames] {
            feed(&sender, part);
            lead.frame().await.expect("a frame").expect("no error");
        }
        settle().await;
        drop(lead);
        for part in &STREAM[frames..] {
            settle().await;
            feed(&sender, part);
        }
        drop(sender);
        let got = follower.await.expect("no panic").expect("an answer");
        assert_eq!((got.text(), scripts.calls()), (&*STREAM.concat(), 1));
        assert_eq!(scripts.alive(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn last_reader_gone_ends_the_inner_call() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream);
    let lead = service.clone().oneshot(marked("Hi", true));
    let (lead, sender) = tokio::join!(lead, async { scripts.next().await.stream() });
    let follower = service
        .clone()
        .oneshot(marked("Hi", true))
        .await
        .expect("a head");
    feed(&sender, START);
    drop(lead);
    assert_eq!(
        (scripts.alive(), layer.handle().snapshot().in_flight),
        (1, 1)
    );
    drop(follower);
    assert_eq!(
        (scripts.alive(), layer.handle().snapshot().in_flight),
        (0, 0)
    );
    assert!(sender.is_closed());
}

#[tokio::test(start_paused = true)]
async fn error_is_shared_with_waiters_only() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let error = r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}"#;
    let calls = join_all((0..3).map(|_| send(&service, request())));
    let (all, ()) = tokio::join!(calls, async {
        let script = scripts.next().await;
        settle().await;
        let headers = [
            ("content-type", "application/json"),
            ("retry-after", "3"),
            ("request-id", "req_9"),
        ];
        feed(&script.head(429, &headers), error);
    });
    for got in &all {
        let got = got.as_ref().expect("the error");
        assert_eq!(
            (got.status, got.text(), got.cache_status()),
            (429, error, "miss")
        );
        assert_eq!(got.header("retry-after"), "3");
    }
    assert_eq!(
        filled(&service, &scripts, request()).await.cache_status(),
        "miss"
    );
    assert_eq!(scripts.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_service_is_the_leaders_and_a_502_for_the_others() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let lead = service.clone().oneshot(request());
    let follow = service.clone().oneshot(request());
    let (lead, follow, ()) = tokio::join!(lead, follow, async {
        let script = scripts.next().await;
        settle().await;
        script.error(Broken("reset"));
    });
    assert_eq!(lead.expect_err("the error itself"), Broken("reset"));
    let follow = follow.expect("a response");
    assert_eq!(follow.status(), 502);
    assert_eq!(
        follow.extensions().get(),
        Some(&Class::new(Kind::Transport))
    );
    assert_eq!(follow.headers()["x-tower-claude-refused-by"], "cache");
    assert_eq!(scripts.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn broken_body_gives_one_reader_the_error_and_the_others_an_event() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let (a, b, ()) = tokio::join!(
        send(&service, marked("Hi", true)),
        send(&service, marked("Hi", true)),
        async {
            let script = scripts.next().await;
            settle().await;
            let sender = script.stream();
            feed(&sender, START);
            feed(&sender, &CONTENT[..20]);
            settle().await;
            let _ = sender.send(Err(Broken("reset")));
        }
    );
    let (a, b) = (a.expect("a head"), b.expect("a head"));
    let (with, without) = if a.error.is_some() { (a, b) } else { (b, a) };
    let begun = format!("{START}{}", &CONTENT[..20]);
    assert_eq!(
        (with.error, with.text()),
        (Some(Broken("reset")), begun.as_str())
    );
    assert_eq!(without.error, None);
    let words = without.text().strip_prefix(&begun).expect("the same begin");
    let mut state = tower_claude_wire::StreamState::new();
    state.feed(&without.body);
    assert_eq!(
        state.error().expect("an error event").kind,
        "api_error",
        "{words}"
    );
}

#[tokio::test(start_paused = true)]
async fn broken_json_body_fails_for_waiters() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let (own, other, ()) = tokio::join!(
        send(&service, request()),
        send(&service, request()),
        async {
            let script = scripts.next().await;
            settle().await;
            let sender = script.head(200, &[("content-type", "application/json")]);
            feed(&sender, "{\"id\":");
            let _ = sender.send(Err(Broken("reset")));
        }
    );
    assert_eq!(other.expect("a response").status, 502);
    assert_eq!(own.expect("a head").text(), "{\"id\":");
}

#[tokio::test(start_paused = true)]
async fn unreadable_response_is_not_shared() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let calls = join_all((0..3).map(|_| send(&service, request())));
    let (all, ()) = tokio::join!(calls, async {
        let headers = [
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
        ];
        for number in 0..3 {
            let script = scripts.next().await;
            settle().await;
            feed(&script.head(200, &headers), &format!("{number}"));
        }
    });
    let mut texts: Vec<_> = all
        .into_iter()
        .map(|got| got.expect("an answer").body)
        .collect();
    texts.sort();
    assert_eq!(texts, ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn caller_over_max_waiters_makes_its_own_call() {
    let (upstream, scripts) = upstream();
    let layer = layer().with_max_waiters(NonZeroUsize::new(2).expect("not 0"));
    let service = layer.layer(upstream);
    let calls = join_all((0..4).map(|_| send(&service, request())));
    let (all, ()) = tokio::join!(calls, async {
        settle().await;
        for _ in 0..3 {
            scripts.next().await.message();
        }
    });
    let said: Vec<_> = all
        .iter()
        .map(|got| got.as_ref().expect("an answer").cache_status())
        .collect();
    assert_eq!(said, ["miss", "hit", "bypass", "bypass"]);
    assert_eq!(layer.handle().snapshot().bypassed, 2);
}

#[tokio::test(start_paused = true)]
async fn waiter_keeps_its_own_deadline() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let lead = tokio::spawn({
        let service = service.clone();
        async move { send(&service, request()).await }
    });
    let script = scripts.next().await;
    let mut hurried = request();
    hurried
        .extensions_mut()
        .insert(Deadline(tokio::time::Instant::now() + 3 * SECOND));
    let before = tokio::time::Instant::now();
    let late = service.clone().oneshot(hurried).await.expect("a refusal");
    assert_eq!(
        (late.status().as_u16(), before.elapsed()),
        (504, 3 * SECOND)
    );
    assert_eq!(late.headers()["x-tower-claude-refused-by"], "cache");
    script.message();
    assert_eq!(
        lead.await.expect("no panic").expect("an answer").status,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn leader_past_its_deadline_does_not_fail_the_waiters() {
    use tower_claude_core::{RejectReason, Rejection, ResponseBody};

    // An inner layer that rejects requests with a deadline.
    let (upstream, scripts) = upstream();
    let timed = tower::service_fn(
        move |request: http::Request<tower_claude_core::RequestBody>| {
            let upstream = upstream.clone();
            async move {
                if request.extensions().get::<Deadline>().is_some() {
                    tokio::time::sleep(SECOND).await;
                    let reason = RejectReason::TimedOut { after: SECOND };
                    return Ok::<_, Broken>(Rejection::new("retry", reason).into_response());
                }
                Ok(upstream.oneshot(request).await?.map(ResponseBody::inner))
            }
        },
    );
    for detached in [false, true] {
        let layer = layer();
        let mut hurried = request();
        hurried
            .extensions_mut()
            .insert(Deadline(tokio::time::Instant::now() + 2 * SECOND));
        let answering = async { scripts.next().await.message() };
        let (own, other, third) = if detached {
            let service = layer.detached().layer(timed.clone());
            let (own, other, third, ()) = tokio::join!(
                send(&service, hurried),
                send(&service, request()),
                send(&service, request()),
                answering
            );
            (own, other, third)
        } else {
            let service = layer.layer(timed.clone());
            let (own, other, third, ()) = tokio::join!(
                send(&service, hurried),
                send(&service, request()),
                send(&service, request()),
                answering
            );
            (own, other, third)
        };
        assert_eq!(own.expect("a refusal").status, 504);
        // One of the waiters makes a call for all of them.
        let (other, third) = (other.expect("an answer"), third.expect("an answer"));
        let mut said = [other.cache_status(), third.cache_status()];
        said.sort_unstable();
        assert_eq!((said, other.text()), (["hit", "miss"], MESSAGE));
    }
}

#[tokio::test(start_paused = true)]
async fn caller_after_an_error_event_starts_a_new_call() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream);
    let first = service.clone().oneshot(marked("Hi", true));
    let (first, sender) = tokio::join!(first, async { scripts.next().await.stream() });
    let mut first = first.expect("a head").into_body();
    for part in [START, CONTENT, ERROR] {
        feed(&sender, part);
        first.frame().await.expect("a frame").expect("no error");
    }
    let (second, ()) = tokio::join!(send(&service, marked("Hi", true)), async {
        let sender = scripts.next().await.stream();
        STREAM.iter().for_each(|part| feed(&sender, part));
    });
    assert_eq!(second.expect("an answer").text(), STREAM.concat());
    drop((first, sender));
    let seen = layer.handle().snapshot();
    assert_eq!((seen.in_flight, seen.stored, scripts.calls()), (0, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn waiter_sees_fallback_headers() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let told = [
        ("x-tower-claude-served-model", "claude-haiku-5-5"),
        ("x-tower-claude-fallback-reason", "overloaded"),
        ("x-tower-claude-fallback-losses", "thinking"),
        ("x-tower-claude-last-message", "fallback-model"),
    ];
    let (own, other, ()) = tokio::join!(
        send(&service, request()),
        send(&service, request()),
        async {
            let script = scripts.next().await;
            settle().await;
            let mut headers = vec![("content-type", "application/json")];
            headers.extend(told);
            feed(&script.head(200, &headers), MESSAGE);
        }
    );
    for got in [own, other] {
        let got = got.expect("an answer");
        for (name, value) in told {
            assert_eq!(got.header(name), value);
        }
    }
    assert_eq!(scripts.calls(), 1);
}

/// The observer acts as another thread, between the drop of the last subscriber and the removal of
/// the fetch.
#[tokio::test(start_paused = true)]
async fn caller_joining_as_the_last_one_leaves_starts_a_new_call() {
    type Late = Pin<Box<dyn Future<Output = Result<Got, Broken>> + Send>>;

    for has_head in [false, true] {
        let (upstream, scripts) = upstream();
        let late = Arc::new(Mutex::new(None::<Late>));
        let comes = late.clone();
        let layer = layer().with_observer(move |event: &Event<'_>| {
            let Event::Cache {
                decision: CacheDecision::NotStored,
                ..
            } = event
            else {
                return;
            };
            let late = comes.lock().expect("not poisoned").take();
            if let Some(mut late) = late {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(late.as_mut().poll(&mut cx).is_pending());
                *comes.lock().expect("not poisoned") = Some(late);
            }
        });
        let service = layer.layer(upstream);
        let mut lead = Box::pin(service.clone().oneshot(marked("Hi", true)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(lead.as_mut().poll(&mut cx).is_pending());
        let script = scripts.next().await;
        let again = service.clone();
        let coming: Late = Box::pin(async move { send(&again, marked("Hi", true)).await });
        if has_head {
            let _sender = script.stream();
            let response = lead.await.expect("a head");
            *late.lock().expect("not poisoned") = Some(coming);
            drop(response);
        } else {
            *late.lock().expect("not poisoned") = Some(coming);
            drop(lead);
        }
        let sender = scripts.next().await.stream();
        STREAM.iter().for_each(|part| feed(&sender, part));
        drop(sender);
        let late = late.lock().expect("not poisoned").take().expect("it came");
        assert_eq!(late.await.expect("an answer").text(), STREAM.concat());
    }
}

/// An unkeyed field may be the reason of the leader's error.
#[tokio::test(start_paused = true)]
async fn error_is_not_shared_with_different_unkeyed_fields() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let of = |user: &str| {
        let body = body("Hi", false).replace(
            r#""stream""#,
            &format!(r#""metadata":{{"user_id":{user}}},"stream""#),
        );
        request().map(|_| RequestBody::from(body))
    };
    let asking = |user: &str| send(&service, of(user));
    let (wrong, same, right, ()) = tokio::join!(asking("1"), asking("1"), asking("\"u\""), async {
        let first = scripts.next().await;
        settle().await;
        first.json(400, "{}");
        scripts.next().await.message();
    });
    let status = [wrong, same, right].map(|got| got.expect("an answer").status);
    assert_eq!((status, scripts.calls()), ([400, 400, 200], 2));
    // A success is shared with all of them.
    let (first, second, ()) = tokio::join!(asking("\"v\""), asking("\"w\""), async {
        let script = scripts.next().await;
        settle().await;
        script.message();
    });
    let said = [first, second].map(|got| got.expect("an answer").cache_status().to_owned());
    assert_eq!((said, scripts.calls()), (["miss".into(), "hit".into()], 3));
}

/// The metadata does not matter then, and an overloaded server must not get a call per waiter.
#[tokio::test(start_paused = true)]
async fn temporary_error_is_shared_with_different_metadata() {
    for status in [429, 500, 529] {
        let (upstream, scripts) = upstream();
        let service = layer().layer(upstream);
        let asking = |aside: &str| {
            let body = body("Hi", false).replace(r#""stream""#, &format!(r#"{aside},"stream""#));
            send(&service, request().map(|_| RequestBody::from(body)))
        };
        let users =
            ["a", "b", "c"].map(|user| asking(&format!(r#""metadata":{{"user_id":"{user}"}}"#)));
        let other_tier = asking(r#""service_tier":"standard_only""#);
        let answering = async {
            let first = scripts.next().await;
            settle().await;
            first.json(status, "{}");
            // Another service tier has another capacity.
            scripts.next().await.message();
        };
        let all = async { tokio::join!(join_all(users), other_tier, answering) };
        let all = tokio::time::timeout(SECOND, all).await;
        let (shared, other, ()) = all.expect("waker_state else asks");
        for got in shared {
            assert_eq!(got.expect("an answer").status, status);
        }
        assert_eq!(
            (other.expect("an answer").status, scripts.calls()),
            (200, 2)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_body_is_broken_for_the_others() {
    let (upstream, scripts) = upstream();
    let panicking = upstream.map_response(|response: http::Response<Pipe>| {
        response.map(|body| {
            body.map_frame(|frame| {
                assert_eq!(frame.data_ref().map(|data| &**data), Some(START.as_bytes()));
                frame
            })
        })
    });
    let service = layer().layer(panicking);
    let calls = [(); 2].map(|()| {
        let service = service.clone();
        tokio::spawn(async move { send(&service, marked("Hi", true)).await })
    });
    let sender = scripts.next().await.stream();
    feed(&sender, START);
    settle().await;
    feed(&sender, CONTENT);
    let [a, b] = calls;
    let (panicked, told): (Vec<_>, Vec<_>) =
        [a.await, b.await].into_iter().partition(Result::is_err);
    assert_eq!((panicked.len(), scripts.alive()), (1, 0));
    for told in told.into_iter().flatten() {
        assert!(told.expect("a head").text().contains("event: error\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_reader_releases_its_waker() {
    struct NoopWake;
    impl std::task::Wake for NoopWake {
        fn wake(self: Arc<Self>) {}
    }

    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let lead = service.clone().oneshot(marked("Hi", true));
    let (lead, _sender) = tokio::join!(lead, async { scripts.next().await.stream() });
    let mut body = service
        .oneshot(marked("Hi", true))
        .await
        .expect("a head")
        .into_body();
    let waker_state = Arc::new(NoopWake);
    let mut reading = Box::pin(async move { body.frame().await.is_some() });
    let waker = Waker::from(waker_state.clone());
    assert!(
        reading
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop((reading, waker));
    assert_eq!(Arc::strong_count(&waker_state), 1);
    drop(lead);
}

#[tokio::test(start_paused = true)]
async fn shared_body_is_at_its_end_when_fully_read() {
    for broken in [false, true] {
        let (upstream, scripts) = upstream();
        let service = layer().layer(upstream);
        let lead = service.clone().oneshot(marked("Hi", true));
        let (lead, sender) = tokio::join!(lead, async { scripts.next().await.stream() });
        let other = service.oneshot(marked("Hi", true)).await.expect("a head");
        feed(&sender, START);
        let last = if broken {
            Err(Broken("reset"))
        } else {
            Ok(http_body::Frame::trailers(http::HeaderMap::new()))
        };
        sender.send(last).expect("it is read");
        drop(sender);
        for mut body in [lead.expect("a head").into_body(), other.into_body()] {
            let mut frames = 0;
            while !body.is_end_stream() {
                frames += usize::from(body.frame().await.is_some());
            }
            assert!(body.frame().await.is_none());
            assert_eq!(frames, 2, "the data, and what came then");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn server_timeout_is_shared_with_all_waiters() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream.map_response(|mut response: http::Response<Pipe>| {
        response.extensions_mut().insert(Class::new(Kind::Timeout));
        response
    }));
    let (a, b, ()) = tokio::join!(
        send(&service, request()),
        send(&service, request()),
        async {
            let script = scripts.next().await;
            settle().await;
            script.json(504, "{}");
        }
    );
    let status = [a, b].map(|got| got.expect("an answer").status);
    assert_eq!((status, scripts.calls()), ([504, 504], 1));
}
