//! Equal requests under way share one call.

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
use tower_claude_core::{
    Class, Deadline, Kind,
    event::{CacheDecision, Event},
};
use tower_claude_tests::Broken;

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn equal_requests_under_way_are_one_call() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream.clone());
    let other = layer.clone().layer(upstream);
    for stream in [false, true] {
        let calls = (0..20).map(|number| {
            let service = if number % 2 == 0 { &service } else { &other };
            call(service, marked("Hi", stream))
        });
        let answering = async {
            let script = scripts.next().await;
            settle().await;
            if stream {
                let mouth = script.stream();
                for part in STREAM {
                    settle().await;
                    say(&mouth, part);
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
            assert_eq!(got.expect("an answer").text, text);
        }
    }
    let seen = layer.handle().snapshot();
    assert_eq!((scripts.calls(), seen.misses, seen.joined), (2, 2, 38));
    assert_eq!((seen.in_flight, seen.stored, scripts.alive()), (0, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn who_comes_late_reads_from_the_start() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let first = tokio::spawn({
        let service = service.clone();
        async move { call(&service, marked("Hi", true)).await }
    });
    let mouth = scripts.next().await.stream();
    say(&mouth, START);
    say(&mouth, CONTENT);
    settle().await;
    let second = tokio::spawn(async move { call(&service, marked("Hi", true)).await });
    settle().await;
    [DELTA, END, STOP].iter().for_each(|part| say(&mouth, part));
    drop(mouth);
    for got in [first, second] {
        assert_eq!(
            got.await.expect("no panic").expect("an answer").text,
            STREAM.concat()
        );
    }
    assert_eq!(scripts.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_gives_up_before_the_head_is_followed_by_another() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream);
    let mut calls: Vec<_> = (0..5)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { call(&service, request()).await })
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
    assert_eq!((last.text.as_str(), scripts.calls()), (MESSAGE, 5));
    let seen = layer.handle().snapshot();
    assert_eq!((seen.takeovers, seen.in_flight, seen.stored), (4, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_gives_up_after_the_head_leaves_the_body_to_the_others() {
    for frames in 0..STREAM.len() {
        let (upstream, scripts) = upstream();
        let service = layer().layer(upstream);
        let lead = service.clone().oneshot(marked("Hi", true));
        let (lead, mouth) = tokio::join!(lead, async { scripts.next().await.stream() });
        let mut lead = lead.expect("a head").into_body();
        let follower = tokio::spawn(async move { call(&service, marked("Hi", true)).await });
        for part in &STREAM[..frames] {
            say(&mouth, part);
            lead.frame().await.expect("a frame").expect("no error");
        }
        settle().await;
        drop(lead);
        for part in &STREAM[frames..] {
            settle().await;
            say(&mouth, part);
        }
        drop(mouth);
        let got = follower.await.expect("no panic").expect("an answer");
        assert_eq!((got.text, scripts.calls()), (STREAM.concat(), 1));
        assert_eq!(scripts.alive(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn with_the_last_reader_the_inner_call_ends() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream);
    let lead = service.clone().oneshot(marked("Hi", true));
    let (lead, mouth) = tokio::join!(lead, async { scripts.next().await.stream() });
    let follower = service
        .clone()
        .oneshot(marked("Hi", true))
        .await
        .expect("a head");
    say(&mouth, START);
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
    assert!(mouth.is_closed());
}

#[tokio::test(start_paused = true)]
async fn errors_go_to_those_who_wait_and_to_nobody_else() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let error = r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}"#;
    let calls = join_all((0..3).map(|_| call(&service, request())));
    let (all, ()) = tokio::join!(calls, async {
        let script = scripts.next().await;
        settle().await;
        let headers = [
            ("content-type", "application/json"),
            ("retry-after", "3"),
            ("request-id", "req_9"),
        ];
        say(&script.head(429, &headers), error);
    });
    for got in &all {
        let got = got.as_ref().expect("the error");
        assert_eq!(
            (got.status, got.text.as_str(), got.said()),
            (429, error, "miss")
        );
        assert_eq!(got.header("retry-after"), "3");
    }
    assert_eq!(filled(&service, &scripts, request()).await.said(), "miss");
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
async fn of_a_body_that_breaks_off_one_gets_the_error_and_the_others_are_told() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let (a, b, ()) = tokio::join!(
        call(&service, marked("Hi", true)),
        call(&service, marked("Hi", true)),
        async {
            let script = scripts.next().await;
            settle().await;
            let mouth = script.stream();
            say(&mouth, START);
            say(&mouth, &CONTENT[..20]);
            settle().await;
            let _ = mouth.send(Err(Broken("reset")));
        }
    );
    let (a, b) = (a.expect("a head"), b.expect("a head"));
    let (with, without) = if a.error.is_some() { (a, b) } else { (b, a) };
    let begun = format!("{START}{}", &CONTENT[..20]);
    assert_eq!(
        (with.error, with.text),
        (Some(Broken("reset")), begun.clone())
    );
    assert_eq!(without.error, None);
    let words = without.text.strip_prefix(&begun).expect("the same begin");
    let mut state = tower_claude_wire::StreamState::new();
    state.feed(without.text.as_bytes());
    assert_eq!(
        state.error().expect("an error event").kind,
        "api_error",
        "{words}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_broken_json_answer_is_lost_for_those_who_wait() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let (own, other, ()) = tokio::join!(
        call(&service, request()),
        call(&service, request()),
        async {
            let script = scripts.next().await;
            settle().await;
            let mouth = script.head(200, &[("content-type", "application/json")]);
            say(&mouth, "{\"id\":");
            let _ = mouth.send(Err(Broken("reset")));
        }
    );
    assert_eq!(other.expect("a response").status, 502);
    assert_eq!(own.expect("a head").text, "{\"id\":");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_not_shared() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let calls = join_all((0..3).map(|_| call(&service, request())));
    let (all, ()) = tokio::join!(calls, async {
        let headers = [
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
        ];
        for number in 0..3 {
            let script = scripts.next().await;
            settle().await;
            say(&script.head(200, &headers), &format!("{number}"));
        }
    });
    let mut texts: Vec<_> = all
        .into_iter()
        .map(|got| got.expect("an answer").text)
        .collect();
    texts.sort();
    assert_eq!(texts, ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn too_many_waiters_go_alone() {
    let (upstream, scripts) = upstream();
    let layer = layer().with_max_waiters(NonZeroUsize::new(2).expect("not 0"));
    let service = layer.layer(upstream);
    let calls = join_all((0..4).map(|_| call(&service, request())));
    let (all, ()) = tokio::join!(calls, async {
        settle().await;
        for _ in 0..3 {
            scripts.next().await.message();
        }
    });
    let said: Vec<_> = all
        .iter()
        .map(|got| got.as_ref().expect("an answer").said())
        .collect();
    assert_eq!(said, ["miss", "hit", "bypass", "bypass"]);
    assert_eq!(layer.handle().snapshot().bypassed, 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_keeps_its_own_deadline() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let lead = tokio::spawn({
        let service = service.clone();
        async move { call(&service, request()).await }
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
async fn a_leader_out_of_time_does_not_take_the_others_along() {
    use tower_claude_core::{RejectReason, Rejection, ResponseBody};

    // An inner layer that refuses what comes with a deadline.
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
                call(&service, hurried),
                call(&service, request()),
                call(&service, request()),
                answering
            );
            (own, other, third)
        } else {
            let service = layer.layer(timed.clone());
            let (own, other, third, ()) = tokio::join!(
                call(&service, hurried),
                call(&service, request()),
                call(&service, request()),
                answering
            );
            (own, other, third)
        };
        assert_eq!(own.expect("a refusal").status, 504);
        // One of those who wait asks, and for all of them.
        let (other, third) = (other.expect("an answer"), third.expect("an answer"));
        let mut said = [other.said(), third.said()];
        said.sort_unstable();
        assert_eq!((said, &*other.text), (["hit", "miss"], MESSAGE));
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_an_error_event_does_not_share_it() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream);
    let first = service.clone().oneshot(marked("Hi", true));
    let (first, mouth) = tokio::join!(first, async { scripts.next().await.stream() });
    let mut first = first.expect("a head").into_body();
    for part in [START, CONTENT, ERROR] {
        say(&mouth, part);
        first.frame().await.expect("a frame").expect("no error");
    }
    let (second, ()) = tokio::join!(call(&service, marked("Hi", true)), async {
        let mouth = scripts.next().await.stream();
        STREAM.iter().for_each(|part| say(&mouth, part));
    });
    assert_eq!(second.expect("an answer").text, STREAM.concat());
    drop((first, mouth));
    let seen = layer.handle().snapshot();
    assert_eq!((seen.in_flight, seen.stored, scripts.calls()), (0, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn who_waited_sees_that_another_model_answered() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let told = [
        ("x-tower-claude-served-model", "claude-haiku-5-5"),
        ("x-tower-claude-fallback-reason", "overloaded"),
        ("x-tower-claude-fallback-losses", "thinking"),
        ("x-tower-claude-last-message", "fallback-model"),
    ];
    let (own, other, ()) = tokio::join!(
        call(&service, request()),
        call(&service, request()),
        async {
            let script = scripts.next().await;
            settle().await;
            let mut headers = vec![("content-type", "application/json")];
            headers.extend(told);
            say(&script.head(200, &headers), MESSAGE);
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

/// The observer stands for another thread, which comes after the last seat was left and before the flight is forgotten.
#[tokio::test(start_paused = true)]
async fn who_comes_while_the_last_one_goes_begins_anew() {
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
        let coming: Late = Box::pin(async move { call(&again, marked("Hi", true)).await });
        if has_head {
            let _mouth = script.stream();
            let response = lead.await.expect("a head");
            *late.lock().expect("not poisoned") = Some(coming);
            drop(response);
        } else {
            *late.lock().expect("not poisoned") = Some(coming);
            drop(lead);
        }
        let mouth = scripts.next().await.stream();
        STREAM.iter().for_each(|part| say(&mouth, part));
        drop(mouth);
        let late = late.lock().expect("not poisoned").take().expect("it came");
        assert_eq!(late.await.expect("an answer").text, STREAM.concat());
    }
}

/// What is no part of the key may be what was wrong with the other request.
#[tokio::test(start_paused = true)]
async fn an_error_is_shared_with_none_that_differs_in_anything() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let of = |user: &str| {
        let body = body("Hi", false).replace(
            r#""stream""#,
            &format!(r#""metadata":{{"user_id":{user}}},"stream""#),
        );
        request().map(|_| body.into())
    };
    let asking = |user: &str| call(&service, of(user));
    let (wrong, same, right, ()) = tokio::join!(asking("1"), asking("1"), asking("\"u\""), async {
        let first = scripts.next().await;
        settle().await;
        first.json(400, "{}");
        scripts.next().await.message();
    });
    let status = [wrong, same, right].map(|got| got.expect("an answer").status);
    assert_eq!((status, scripts.calls()), ([400, 400, 200], 2));
    // What went well is for all of them.
    let (first, second, ()) = tokio::join!(asking("\"v\""), asking("\"w\""), async {
        let script = scripts.next().await;
        settle().await;
        script.message();
    });
    let said = [first, second].map(|got| got.expect("an answer").said().to_owned());
    assert_eq!((said, scripts.calls()), (["miss".into(), "hit".into()], 3));
}

/// Whose request it was does not matter then, and a server in trouble is not asked once for each of those who wait.
#[tokio::test(start_paused = true)]
async fn an_error_of_the_moment_is_shared_whatever_the_metadata() {
    for status in [429, 500, 529] {
        let (upstream, scripts) = upstream();
        let service = layer().layer(upstream);
        let asking = |aside: &str| {
            let body = body("Hi", false).replace(r#""stream""#, &format!(r#"{aside},"stream""#));
            call(&service, request().map(|_| body.into()))
        };
        let users =
            ["a", "b", "c"].map(|user| asking(&format!(r#""metadata":{{"user_id":"{user}"}}"#)));
        let other_tier = asking(r#""service_tier":"standard_only""#);
        let answering = async {
            let first = scripts.next().await;
            settle().await;
            first.json(status, "{}");
            // It has other capacity.
            scripts.next().await.message();
        };
        let all = async { tokio::join!(join_all(users), other_tier, answering) };
        let all = tokio::time::timeout(SECOND, all).await;
        let (shared, other, ()) = all.expect("nobody else asks");
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
async fn a_body_that_panics_is_broken_for_the_others() {
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
        tokio::spawn(async move { call(&service, marked("Hi", true)).await })
    });
    let mouth = scripts.next().await.stream();
    say(&mouth, START);
    settle().await;
    say(&mouth, CONTENT);
    let [a, b] = calls;
    let (panicked, told): (Vec<_>, Vec<_>) =
        [a.await, b.await].into_iter().partition(Result::is_err);
    assert_eq!((panicked.len(), scripts.alive()), (1, 0));
    for told in told.into_iter().flatten() {
        assert!(told.expect("a head").text.contains("event: error\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_is_forgotten() {
    struct Nobody;
    impl std::task::Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let lead = service.clone().oneshot(marked("Hi", true));
    let (lead, _mouth) = tokio::join!(lead, async { scripts.next().await.stream() });
    let mut body = service
        .oneshot(marked("Hi", true))
        .await
        .expect("a head")
        .into_body();
    let nobody = Arc::new(Nobody);
    let mut reading = Box::pin(async move { body.frame().await.is_some() });
    let waker = Waker::from(nobody.clone());
    assert!(
        reading
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop((reading, waker));
    assert_eq!(Arc::strong_count(&nobody), 1);
    drop(lead);
}

#[tokio::test(start_paused = true)]
async fn a_shared_body_is_at_its_end_when_all_of_it_was_read() {
    for broken in [false, true] {
        let (upstream, scripts) = upstream();
        let service = layer().layer(upstream);
        let lead = service.clone().oneshot(marked("Hi", true));
        let (lead, mouth) = tokio::join!(lead, async { scripts.next().await.stream() });
        let other = service.oneshot(marked("Hi", true)).await.expect("a head");
        say(&mouth, START);
        let last = if broken {
            Err(Broken("reset"))
        } else {
            Ok(http_body::Frame::trailers(http::HeaderMap::new()))
        };
        mouth.send(last).expect("it is read");
        drop(mouth);
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
async fn a_timeout_of_the_servers_is_for_all_who_wait() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream.map_response(|mut response: http::Response<Pipe>| {
        response.extensions_mut().insert(Class::new(Kind::Timeout));
        response
    }));
    let (a, b, ()) = tokio::join!(
        call(&service, request()),
        call(&service, request()),
        async {
            let script = scripts.next().await;
            settle().await;
            script.json(504, "{}");
        }
    );
    let status = [a, b].map(|got| got.expect("an answer").status);
    assert_eq!((status, scripts.calls()), ([504, 504], 1));
}
