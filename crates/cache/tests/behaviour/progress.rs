//! Shared calls whose leader, or whose server, makes no progress.

use std::{
    convert::Infallible,
    future::{Pending, pending, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_cache::{CacheLayer, Entry, Key, Store};
use tower_claude_core::{Call, Deadline, Priority, RequestBody};
use tower_service::Service;

use crate::api::*;

type Answering = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

fn message() -> Response<Full<Bytes>> {
    let response = Response::builder().header("content-type", "application/json");
    response.body(MESSAGE.into()).expect("valid")
}

/// A service that answers each call after this time, or never, and its number of calls.
fn answering(
    after: impl Fn(usize) -> Option<Duration> + Clone,
) -> (
    impl Service<
        Request<RequestBody>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future = Answering,
    > + Clone,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let service = service_fn(move |_: Request<RequestBody>| -> Answering {
        let after = after(counter.fetch_add(1, Ordering::SeqCst));
        Box::pin(async move {
            match after {
                Some(after) => sleep(after).await,
                None => pending().await,
            }
            Ok(message())
        })
    });
    (service, calls)
}

#[tokio::test(start_paused = true)]
async fn leader_cancelled_before_the_head_leaves_its_call_to_the_others() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream);
    let mut calls: Vec<_> = (0..5)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, request()).await })
        })
        .collect();
    let script = scripts.next().await;
    for _ in 1..5 {
        settle().await;
        calls.remove(0).abort();
    }
    settle().await;
    script.message();
    let last = calls.remove(0).await.expect("no panic").expect("an answer");
    assert_eq!((last.text(), scripts.calls()), (MESSAGE, 1));
    let seen = layer.handle().snapshot();
    assert_eq!((seen.takeovers, seen.in_flight, seen.stored), (0, 0, 1));
    assert_eq!(scripts.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn cancelled_leader_of_another_service_is_replaced() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let mut calls: Vec<_> = (0..5)
        .map(|_| {
            let service = layer.layer(upstream.clone());
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
async fn last_caller_gone_ends_the_call() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream);
    let mut calls: Vec<_> = (0..3)
        .map(|_| Box::pin(service.clone().oneshot(request())))
        .collect();
    for call in &mut calls {
        assert!(call.as_mut().now_or_never().is_none());
    }
    let _script = scripts.next().await;
    while let Some(call) = calls.pop() {
        assert_eq!((scripts.alive(), scripts.calls()), (1, 1));
        drop(call);
    }
    let in_flight = layer.handle().snapshot().in_flight;
    assert_eq!((scripts.alive(), in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn error_of_a_cancelled_leaders_call_goes_to_one_caller() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let lead = tokio::spawn(service.clone().oneshot(request()));
    let script = scripts.next().await;
    let others = [(); 2].map(|()| tokio::spawn(service.clone().oneshot(request())));
    settle().await;
    lead.abort();
    settle().await;
    script.error(tower_claude_tests::Broken("reset"));
    let mut errors = 0;
    for other in others {
        match other.await.expect("no panic") {
            Ok(response) => assert_eq!(response.status(), 502),
            Err(_) => errors += 1,
        }
    }
    assert_eq!((errors, scripts.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn callers_with_less_patience_than_the_answer_takes_share_one_call() {
    for detached in [false, true] {
        let (inner, calls) = answering(|_| Some(1_500 * SECOND / 1_000));
        let layer = layer();
        let mut callers = JoinSet::new();
        macro_rules! storm {
            ($service:expr) => {{
                let service = $service;
                for number in 0..100 {
                    let service = service.clone();
                    callers.spawn(async move {
                        sleep(number * SECOND / 10).await;
                        timeout(SECOND, send(&service, request())).await.is_ok()
                    });
                }
            }};
        }
        if detached {
            storm!(layer.detached().layer(inner));
        } else {
            storm!(layer.layer(inner));
        }
        let answered = callers.join_all().await.into_iter().filter(|ok| *ok);
        assert_eq!((answered.count(), calls.load(Ordering::SeqCst)), (95, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn unpolled_leader_is_driven_by_callers_of_its_service() {
    let (inner, calls) = answering(|_| Some(SECOND));
    let service = layer().layer(inner);
    let mut lead = Box::pin(service.clone().oneshot(request()));
    assert!(lead.as_mut().now_or_never().is_none());
    let before = Instant::now();
    let follower = send(&service, request()).await.expect("an answer");
    assert_eq!((follower.text(), before.elapsed()), (MESSAGE, SECOND));
    let lead = lead.await.expect("an answer");
    assert_eq!(lead.headers()["x-tower-claude-cache"], "miss");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn unpolled_leader_of_another_service_is_replaced_once() {
    let (inner, calls) = answering(|_| Some(SECOND));
    let layer = layer();
    let mut lead = Box::pin(layer.layer(inner.clone()).oneshot(request()));
    assert!(lead.as_mut().now_or_never().is_none());
    let before = Instant::now();
    let others = [(); 3].map(|()| {
        let service = layer.layer(inner.clone());
        tokio::spawn(async move { send(&service, request()).await })
    });
    for other in others {
        let other = other.await.expect("no panic").expect("an answer");
        // The first call wakes, is not polled for a second, and the second call takes a second.
        assert_eq!((other.text(), before.elapsed()), (MESSAGE, 3 * SECOND));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let lead = lead.await.expect("an answer");
    assert_eq!(
        (lead.status().as_u16(), layer.handle().snapshot().in_flight),
        (200, 0)
    );
}

/// A leader that waits for its server is no reason for a second call.
#[tokio::test(start_paused = true)]
async fn slow_leader_of_another_service_is_not_replaced() {
    let (inner, calls) = answering(|_| Some(300 * SECOND));
    let layer = layer();
    let (a, b) = tokio::join!(
        layer.layer(inner.clone()).oneshot(request()),
        layer.layer(inner.clone()).oneshot(request()),
    );
    let status = [a, b].map(|got| got.expect("an answer").status().as_u16());
    assert_eq!((status, calls.load(Ordering::SeqCst)), ([200, 200], 1));
}

#[tokio::test(start_paused = true)]
async fn panicking_call_is_replaced() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let service = layer().layer(service_fn(move |_: Request<RequestBody>| {
        let call = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            sleep(SECOND).await;
            assert!(call > 0, "the first call panics");
            Ok::<_, Infallible>(message())
        }
    }));
    let callers = [(); 3].map(|()| {
        let service = service.clone();
        tokio::spawn(async move { send(&service, request()).await })
    });
    let mut panics = 0;
    for caller in callers {
        match caller.await {
            Ok(got) => assert_eq!(got.expect("an answer").text(), MESSAGE),
            Err(_) => panics += 1,
        }
    }
    assert_eq!((panics, calls.load(Ordering::SeqCst)), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn followers_of_a_call_without_progress_share_a_new_call() {
    for (layer, after) in [
        (layer(), 600 * SECOND),
        (layer().with_idle_timeout(MINUTE), MINUTE),
    ] {
        let (inner, calls) = answering(|call| (call > 0).then_some(Duration::ZERO));
        let service = layer.layer(inner);
        let lead = tokio::spawn(service.clone().oneshot(request()));
        settle().await;
        let before = Instant::now();
        let followers = [(); 2].map(|()| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, request()).await })
        });
        for follower in followers {
            let got = follower.await.expect("no panic").expect("an answer");
            assert_eq!((got.text(), before.elapsed()), (MESSAGE, after));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        lead.abort();
        let _ = lead.await;
        assert_eq!(layer.handle().snapshot().in_flight, 0);
    }
}

/// The point at which the first call of a service hangs.
#[derive(Clone, Copy, Debug)]
enum Hang {
    BeforeHead,
    InJson,
    InStream,
}

#[tokio::test(start_paused = true)]
async fn detached_call_without_progress_ends_and_is_replaced() {
    for hang in [Hang::BeforeHead, Hang::InJson, Hang::InStream] {
        let (upstream, scripts) = upstream();
        let layer = layer().with_idle_timeout(5 * MINUTE).detached();
        let service = layer.layer(upstream);
        let streams = matches!(hang, Hang::InStream);
        let ask = || send(&service, marked("Hi", streams));
        let (first, sender) = tokio::join!(timeout(SECOND, ask()), async {
            let script = scripts.next().await;
            match hang {
                Hang::BeforeHead => Err(script),
                Hang::InJson => {
                    let sender = script.head(200, &[("content-type", "application/json")]);
                    feed(&sender, &MESSAGE[..20]);
                    Ok(sender)
                }
                Hang::InStream => {
                    let sender = script.stream();
                    [START, CONTENT].iter().for_each(|part| feed(&sender, part));
                    Ok(sender)
                }
            }
        });
        assert!(first.is_err(), "{hang:?}");
        // Callers that join do not prolong its life.
        for _ in 0..3 {
            assert!(timeout(MINUTE, ask()).await.is_err(), "{hang:?}");
        }
        assert_eq!((scripts.calls(), scripts.alive()), (1, 1), "{hang:?}");
        // This caller waits at the end, and leads then.
        let waiting = tokio::spawn({
            let service = service.clone();
            async move { send(&service, marked("Hi", streams)).await }
        });
        if streams {
            let got = waiting.await.expect("no panic").expect("a head");
            assert!(got.text().contains("event: error\n"), "{hang:?}");
        } else {
            scripts.next().await.message();
            let got = waiting.await.expect("no panic").expect("an answer");
            assert_eq!(got.text(), MESSAGE, "{hang:?}");
        }
        drop(sender);
        settle().await;
        let in_flight = layer.handle().snapshot().in_flight;
        assert_eq!((in_flight, scripts.alive()), (0, 0), "{hang:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn detached_call_with_progress_has_no_longest_life() {
    let (upstream, scripts) = upstream();
    let layer = layer().with_idle_timeout(MINUTE).detached();
    let service = layer.layer(upstream);
    let (got, ()) = tokio::join!(send(&service, marked("Hi", true)), async {
        let sender = scripts.next().await.stream();
        for part in STREAM {
            sleep(50 * SECOND).await;
            feed(&sender, part);
        }
    });
    assert_eq!(got.expect("an answer").text(), STREAM.concat());
    assert_eq!(layer.handle().snapshot().stored, 1);
}

#[tokio::test(start_paused = true)]
async fn urgent_follower_raises_the_priority_of_the_call() {
    for detached in [false, true] {
        let call = Arc::new(Mutex::new(None));
        let polls = Arc::new(AtomicUsize::new(0));
        let (seen, counter) = (call.clone(), polls.clone());
        let inner = service_fn(move |request: Request<RequestBody>| {
            *seen.lock().expect("not poisoned") = Call::of(&request).cloned();
            let counter = counter.clone();
            poll_fn(move |_: &mut Context<'_>| {
                counter.fetch_add(1, Ordering::SeqCst);
                Poll::<Result<Response<Full<Bytes>>, Infallible>>::Pending
            })
        });
        let ask = |priority| {
            let mut request = request();
            request.extensions_mut().insert(priority);
            request
        };
        macro_rules! check {
            ($service:expr) => {{
                let service = $service;
                let mut cx = Context::from_waker(Waker::noop());
                let mut callers = Vec::new();
                for (priority, expected) in [
                    (Priority::Batch, Priority::Batch),
                    (Priority::Interactive, Priority::Interactive),
                    (Priority::Normal, Priority::Interactive),
                ] {
                    let before = polls.load(Ordering::SeqCst);
                    let mut caller = Box::pin(service.clone().oneshot(ask(priority)));
                    assert!(caller.as_mut().poll(&mut cx).is_pending());
                    settle().await;
                    callers.push(caller);
                    let call = call.lock().expect("not poisoned").clone();
                    assert_eq!(call.expect("a record").priority(), expected);
                    // A queue reads the priority again.
                    let is_polled = polls.load(Ordering::SeqCst) > before;
                    assert_eq!(is_polled, priority == expected, "{priority:?}");
                }
            }};
        }
        let layer: CacheLayer = layer();
        if detached {
            check!(layer.detached().layer(inner));
        } else {
            check!(layer.layer(inner));
        }
    }
}

/// A store whose `get` hangs.
#[derive(Clone)]
struct Hanging;

impl Store for Hanging {
    type Get = Pending<Option<Entry>>;

    fn get(&self, _: &Key) -> Self::Get {
        pending()
    }

    fn insert(&self, _: Key, _: Entry) {}

    fn remove(&self, _: &Key) {}
}

#[tokio::test(start_paused = true)]
async fn hanging_store_is_a_miss_after_its_timeout() {
    let (inner, calls) = answering(|_| Some(Duration::ZERO));
    for (layer, deadline, after) in [
        (layer(), None, SECOND),
        (layer().with_store_timeout(3 * SECOND), None, 3 * SECOND),
        (layer(), Some(SECOND / 2), SECOND / 2),
    ] {
        let before = Instant::now();
        let mut request = request();
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline(before + deadline));
        }
        let service = layer.with_store(Hanging).layer(inner.clone());
        let got = send(&service, request).await.expect("an answer");
        let elapsed = before.elapsed().as_millis() as u64;
        assert_eq!((got.text(), elapsed), (MESSAGE, after.as_millis() as u64));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}
