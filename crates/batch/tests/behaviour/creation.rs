//! Creations that fail, or of which it is not known.

use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::{Instant, sleep};
use tower::ServiceBuilder;
use tower_claude_batch::BatchLayer;
use tower_claude_core::Kind;
use tower_claude_fake_claude::{Endpoint, Fault, LostCreation};
use tower_claude_retry::RetryLayer;

use crate::api::*;

fn count(world: &World, path: &str) -> usize {
    world
        .requests()
        .iter()
        .filter(|known| *known == path)
        .count()
}

#[tokio::test(start_paused = true)]
async fn creation_that_was_executed_without_an_answer_is_found_and_not_repeated() {
    for end in [LostCreation::Reset, LostCreation::ServerError] {
        let world = World::new(api());
        world.fake.lose_creation(end);
        let calls = ["a", "b"].map(|text| world.ask(text, 5 * HOUR));
        sleep(6 * MINUTE).await;
        assert_eq!(world.snapshot().unknown, 1);
        for call in calls {
            assert_eq!(call.await.unwrap().status, 200);
        }
        assert_eq!((count(&world, "create"), world.live()), (1, 0), "{end:?}");
        let snapshot = world.snapshot();
        assert_eq!((snapshot.answered, snapshot.unknown), (2, 0));
        let log = world.log.take();
        assert!(log.contains(&"ambiguous  2".to_owned()) && log.contains(&"found  2".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn creation_that_was_not_executed_is_repeated_when_the_list_has_settled() {
    let world = World::new(api());
    let call = world.ask("a", 5 * HOUR);
    sleep(4 * MINUTE).await;
    // Answered by 500, and not executed.
    world.fake.inject(Fault::ServerError);
    let started = Instant::now();
    assert_eq!(call.await.unwrap().status, 200);
    assert!(
        started.elapsed() > 16 * MINUTE,
        "five minutes for the list, ten for the batch"
    );
    assert_eq!((count(&world, "create"), world.live()), (2, 0));
    assert!(world.log.take().contains(&"not_created  1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn batches_of_others_with_the_same_size_are_not_taken_for_the_lost_one() {
    let world = World::new(api());
    let call = world.ask("mine", 5 * HOUR);
    sleep(4 * MINUTE).await;
    // Another program's batch of one call, and one that ends later.
    for seconds in ["30", "1200"] {
        let body = format!(
            r#"{{"requests":[{{"custom_id":"theirs","params":{}}}]}}"#,
            body("theirs")
        );
        let request = http::Request::post("http://localhost/v1/messages/batches")
            .header("x-api-key", "key-a")
            .header("anthropic-version", "2023-06-01")
            .header("x-fake-batch-seconds", seconds)
            .body(tower_claude_core::RequestBody::from(body))
            .unwrap();
        assert_eq!(world.start(request).await.unwrap().status, 200);
    }
    world.fake.lose_creation(LostCreation::Reset);
    let answer = call.await.unwrap();
    assert!(answer.status == 200 && world.live() == 0);
    let mine = world
        .batched()
        .into_iter()
        .filter(|params| params.contains("mine"));
    assert_eq!(
        (mine.count(), count(&world, "results")),
        (1, 2),
        "theirs and mine"
    );
}

#[tokio::test(start_paused = true)]
async fn retry_layer_does_not_send_a_creation_twice() {
    // Issue 16, case 23: the retry layer repeats what was certainly not taken, and nothing else.
    let (layer, driver) = BatchLayer::in_memory().pair();
    let fake = api().build();
    let stack = ServiceBuilder::new()
        .layer(layer.clone())
        .layer(RetryLayer::new())
        .service(fake.clone());
    tokio::spawn(driver.run(stack.clone()));
    fake.lose_creation(LostCreation::Reset);
    let ask = |text: &str| {
        let (stack, request) = (stack.clone(), question(text, 5 * HOUR));
        tokio::spawn(async move { tower_claude_tests::send(&stack, request).await })
    };
    let creations =
        || fake.with_log(|log| log.iter().filter(|attempt| is_creation(attempt)).count());
    let answer = ask("a").await.unwrap().expect("a response");
    assert_eq!((answer.status, creations()), (200, 1));
    fake.inject_times(Fault::Overloaded, 2);
    let answer = ask("b").await.unwrap().expect("a response");
    assert_eq!(
        (answer.status, creations()),
        (200, 4),
        "an overloaded server has created nothing"
    );
    let live = fake.with_log(|log| {
        log.iter()
            .filter(|a| a.endpoint == Endpoint::Messages)
            .count()
    });
    assert_eq!(live, 0);
}

#[tokio::test(start_paused = true)]
async fn creation_that_was_not_taken_is_repeated() {
    let world = World::new(api());
    let faults = [
        Fault::Overloaded,
        Fault::RateLimited {
            retry_after: 20 * SECOND,
        },
        Fault::RateLimitedBare,
    ];
    for fault in faults {
        world.fake.inject(fault);
    }
    assert_eq!(world.ask("a", 5 * HOUR).await.unwrap().status, 200);
    assert_eq!((count(&world, "create"), world.live()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn creation_that_is_never_taken_leaves_its_calls_live_in_time() {
    let world = World::new(api());
    let started = Instant::now();
    let call = world.ask("a", 2 * HOUR);
    sleep(MINUTE).await;
    world.fake.inject_times(Fault::Overloaded, 1_000);
    sleep(2 * HOUR - 4 * MINUTE).await;
    world.fake.clear_injected();
    let batched = world.snapshot().in_batches;
    assert_eq!(batched, 1);
    // Not in flight, so it cannot be billed.
    world.driver.abort();
    assert_eq!(call.await.unwrap().status, 200);
    assert_eq!(started.elapsed(), 2 * HOUR - 2 * MINUTE);
    assert_eq!(world.snapshot().sent_twice, 0);
}

#[tokio::test(start_paused = true)]
async fn rejected_creation_sends_all_calls_live_and_closes_the_queue() {
    let world = World::new(api());
    let rejected = Fault::Custom {
        status: StatusCode::BAD_REQUEST,
        headers: vec![(
            HeaderName::from_static("content-type"),
            HeaderValue::from_static("application/json"),
        )],
        body: bytes(
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"no","details":{"error_code":"workspace_human_review_disabled"}}}"#,
        ),
    };
    let calls = ["a", "b"].map(|text| world.ask(text, 5 * HOUR));
    sleep(MINUTE).await;
    world.fake.inject(rejected);
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(world.snapshot().went_live["rejected"], 2);
    let started = Instant::now();
    assert_eq!(world.ask("c", 5 * HOUR).await.unwrap().status, 200);
    assert!(started.elapsed().is_zero(), "closed");
    sleep(11 * MINUTE).await;
    assert_eq!(world.ask("d", 5 * HOUR).await.unwrap().status, 200);
    assert_eq!(
        (count(&world, "create"), world.live()),
        (2, 3),
        "open again"
    );
}

#[tokio::test(start_paused = true)]
async fn key_without_the_permission_for_batches_sends_its_calls_live() {
    let world = World::new(api());
    let call = world.ask("a", 5 * HOUR);
    sleep(MINUTE).await;
    world.fake.inject(Fault::Custom {
        status: StatusCode::FORBIDDEN,
        headers: Vec::new(),
        body: bytes(r#"{"type":"error","error":{"type":"permission_error","message":"no"}}"#),
    });
    assert_eq!(call.await.unwrap().status, 200);
    assert_eq!(world.snapshot().went_live["rejected"], 1);
}

#[tokio::test(start_paused = true)]
async fn rejected_credential_is_reported_to_all_callers_of_the_pool() {
    let world = World::new(api().api_key("another"));
    let calls = ["a", "b"].map(|text| world.ask(text, 5 * HOUR));
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!(
            (answer.status, answer.kind()),
            (401, Some(Kind::Unauthorized))
        );
        assert!(answer.contains("authentication_error"));
    }
    assert_eq!((world.live(), world.snapshot().failed), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn batch_that_is_too_large_is_divided() {
    let world = World::new(api());
    let calls: Vec<_> = (0..4)
        .map(|n| world.ask(&format!("q{n}"), 5 * HOUR))
        .collect();
    sleep(MINUTE).await;
    let too_large = Fault::Custom {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        headers: Vec::new(),
        body: bytes(r#"{"type":"error","error":{"type":"request_too_large","message":"no"}}"#),
    };
    world.fake.inject(too_large);
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!((count(&world, "create"), world.live()), (3, 0));
    assert_eq!(world.batched().len(), 4 + 2 + 2);
}

#[tokio::test(start_paused = true)]
async fn queue_of_the_api_that_is_full_is_waited_for() {
    let world = World::new(api().batch_queue(2));
    let first = ["a", "b"].map(|text| world.ask(text, 5 * HOUR));
    sleep(6 * MINUTE).await;
    let more = world.ask("c", 5 * HOUR);
    assert_eq!(more.await.unwrap().status, 200);
    for call in first {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(world.live(), 0);
}
