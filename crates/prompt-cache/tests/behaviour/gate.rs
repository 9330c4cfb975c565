//! Requests that wait for another one, which writes the same prefix.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tower::Layer;
use tower_claude_core::{Call, Deadline, RequestBody};
use tower_claude_fake_claude::{FakeClaude, FakeError};
use tower_claude_prompt_cache::PromptCacheLayer;
use tower_claude_tests::{BASE, post, send};

use crate::common::{SECOND, ask, fake, question, text};

/// Asks 24 questions about a document at the same time, and returns the time that all took.
async fn fan_out(layer: &PromptCacheLayer, fake: &FakeClaude, document: usize) -> Duration {
    let begun = Instant::now();
    let document = text(document, 4_000);
    let questions: Vec<_> = (0..24).map(|number| question(&document, number)).collect();
    let answers = join_all(questions.iter().map(|question| ask(layer, fake, question))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn fan_out_over_a_document_writes_it_once() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    fan_out(&layer, &fake, 1).await;
    tokio::time::sleep(60 * SECOND).await;
    let before = fake.log_len();
    let time = fan_out(&layer, &fake, 2).await;
    let (written, read) = fake.with_log(|log| {
        let log = &log[before..];
        let sum =
            |of: fn(&tower_claude_fake_claude::Attempt) -> u64| log.iter().map(of).sum::<u64>();
        (sum(|it| it.cache_creation), sum(|it| it.cache_read))
    });
    assert!(read >= 20 * written, "{read} read, {written} written");
    assert!(time < 3 * SECOND, "{time:?}");
    let snapshot = layer.handle().snapshot();
    assert!(snapshot.held >= 20 && snapshot.waiting == 0, "{snapshot:?}");
}

#[tokio::test(start_paused = true)]
async fn without_the_gate_nothing_waits() {
    let layer = PromptCacheLayer::new().with_max_hold(Duration::ZERO);
    let fake = fake();
    for document in 0..3 {
        fan_out(&layer, &fake, document).await;
    }
    assert_eq!(layer.handle().snapshot().held, 0);
}

#[tokio::test(start_paused = true)]
async fn leader_that_hangs_holds_no_follower_longer_than_the_limit() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    fan_out(&layer, &fake, 1).await;
    let document = text(2, 4_000);
    // An upstream that never answers.
    let hangs = layer.layer(tower::service_fn(|_: http::Request<RequestBody>| {
        std::future::pending::<Result<http::Response<RequestBody>, std::convert::Infallible>>()
    }));
    let leader = post::<RequestBody>(BASE, question(&document, 0).to_string());
    let leader = tokio::spawn(send(&hangs, leader));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let begun = Instant::now();
    ask(&layer, &fake, &question(&document, 1)).await;
    let waited = begun.elapsed();
    assert!((3 * SECOND..5 * SECOND).contains(&waited), "{waited:?}");
    leader.abort();
}

#[tokio::test(start_paused = true)]
async fn follower_leads_when_its_leader_fails_or_is_dropped() {
    for is_dropped in [false, true] {
        let (layer, fake) = (PromptCacheLayer::new(), fake());
        fan_out(&layer, &fake, 1).await;
        let document = text(2, 4_000);
        // An upstream that fails after a second.
        let fails = layer.layer(tower::service_fn(|_: http::Request<RequestBody>| async {
            tokio::time::sleep(SECOND).await;
            let response = http::Response::builder().status(529);
            let response = response.body(RequestBody::from("{}"));
            Ok::<_, std::convert::Infallible>(response.expect("a response"))
        }));
        let leader = post::<RequestBody>(BASE, question(&document, 0).to_string());
        let leader = tokio::spawn(send(&fails, leader));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let questions: Vec<_> = (1..5).map(|number| question(&document, number)).collect();
        let followers = join_all(questions.iter().map(|it| ask(&layer, &fake, it)));
        let begun = Instant::now();
        let end_of_leader = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(layer.handle().snapshot().waiting, 4);
            if is_dropped {
                leader.abort();
            }
        };
        let (answers, ()) = tokio::join!(followers, end_of_leader);
        assert!(answers.iter().all(|answer| answer.status == 200));
        // The leader, the first follower and the others, one after the other.
        assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
        let read = fake.with_log(|log| {
            let last = log.iter().rev().take(4);
            last.filter(|it| it.cache_read > 0).count()
        });
        assert_eq!(read, 3);
        assert_eq!(layer.handle().snapshot().waiting, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_follower_leaves_the_gate() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    fan_out(&layer, &fake, 1).await;
    tokio::time::sleep(60 * SECOND).await;
    let document = text(2, 4_000);
    let questions: Vec<_> = (0..6).map(|number| question(&document, number)).collect();
    let all = join_all(questions.iter().map(|it| ask(&layer, &fake, it)));
    let _ = timeout(Duration::from_millis(300), all).await;
    let snapshot = layer.handle().snapshot();
    assert_eq!(snapshot.waiting, 0);
    fan_out(&layer, &fake, 2).await;
    assert_eq!(layer.handle().snapshot().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn follower_with_a_deadline_waits_for_half_of_its_time() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    for document in [1, 3, 4] {
        fan_out(&layer, &fake, document).await;
    }
    tokio::time::sleep(60 * SECOND).await;
    let document = text(2, 4_000);
    let hangs = tower::service_fn(|_: http::Request<RequestBody>| {
        std::future::pending::<Result<http::Response<RequestBody>, FakeError>>()
    });
    let leader = post::<RequestBody>(BASE, question(&document, 0).to_string());
    let leader = timeout(60 * SECOND, send(&layer.layer(hangs), leader));
    let follower = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let body = question(&document, 1).to_string();
        let mut request = post::<RequestBody>(BASE, body);
        let begun = Instant::now();
        request
            .extensions_mut()
            .insert(Deadline(begun + 2 * SECOND));
        let answer = send(&layer.layer(fake.clone()), request).await;
        assert_eq!(answer.expect("an answer").status, 200);
        begun.elapsed()
    };
    let held = layer.handle().snapshot().held;
    let (_, waited) = tokio::join!(leader, follower);
    assert_eq!(layer.handle().snapshot().held, held + 1);
    let waits = SECOND..Duration::from_millis(2_100);
    assert!(waits.contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn wait_for_an_inner_layer_is_no_time_to_the_first_content() {
    let (layer, fake) = (PromptCacheLayer::new(), fake());
    fan_out(&layer, &fake, 1).await;
    tokio::time::sleep(60 * SECOND).await;
    // A limiter keeps the leader for a minute.
    let inner = fake.clone();
    let limited = tower::service_fn(move |mut request: http::Request<RequestBody>| {
        let inner = inner.clone();
        let call = Call::get_or_attach(&mut request, Instant::now());
        async move {
            call.set_held_back(true);
            tokio::time::sleep(60 * SECOND).await;
            call.set_held_back(false);
            tower::ServiceExt::oneshot(inner, request).await
        }
    });
    let request = post::<RequestBody>(BASE, question(&text(2, 4_000), 0).to_string());
    send(&layer.layer(limited), request)
        .await
        .expect("an answer");
    let before = layer.handle().snapshot().held;
    fan_out(&layer, &fake, 3).await;
    assert!(layer.handle().snapshot().held >= before + 20);
}
