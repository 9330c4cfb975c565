//! The recommended stack with batches.

use std::time::Duration;

use tokio::task::JoinSet;
use tower::Layer;
use tower_claude::{BatchLayer, CacheLayer, RequestBody, Tolerance, cache::Cacheable, recommended};
use tower_claude_fake_claude::{FakeClaude, GroupLimits};
use tower_claude_tests::{BASE, SONNET, post, prompt, send, with};

fn server() -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .batch_time(Duration::from_secs(600))
        .build()
}

#[tokio::test(start_paused = true)]
async fn calls_that_can_wait_are_answered_by_one_batch_through_the_whole_stack() {
    let server = server();
    let (batches, driver) = BatchLayer::in_memory().pair();
    let handle = batches.handle();
    let stack = recommended().with_prompt_cache().with_batches(batches);
    let service = stack.layer(server.clone());
    tokio::spawn(driver.run(service.clone()));
    let mut calls = JoinSet::new();
    for number in 0..20 {
        let service = service.clone();
        let body = prompt(SONNET, false).replace("Hi", &format!("Question {number}"));
        let request = post::<RequestBody>(BASE, body);
        let request = with(request, "x-tower-claude-tolerance", "7200");
        calls.spawn(async move { send(&service, request).await.expect("an answer") });
    }
    while let Some(answer) = calls.join_next().await {
        let answer = answer.expect("no panic");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(
            answer.contains(r#""service_tier":"batch""#),
            "{}",
            answer.text()
        );
    }
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.answered, 20);
    let messages = server.with_log(|log| {
        let is_message = |kind| kind == tower_claude_fake_claude::Endpoint::Messages;
        log.iter()
            .filter(|attempt| is_message(attempt.endpoint))
            .count()
    });
    assert_eq!(messages, 0);
}

#[tokio::test(start_paused = true)]
async fn deadline_of_the_stack_counts_instead_of_a_longer_tolerance() {
    let server = server();
    let (batches, driver) = BatchLayer::in_memory().pair();
    let stack = recommended()
        .with_deadline(Duration::from_secs(30))
        .with_batches(batches);
    let service = stack.layer(server.clone());
    tokio::spawn(driver.run(service.clone()));
    let request = post::<RequestBody>(BASE, prompt(SONNET, false));
    let request = with(request, "x-tower-claude-tolerance", "7200");
    let begun = tokio::time::Instant::now();
    let answer = send(&service, request).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn call_that_cannot_wait_does_not_share_the_call_of_one_that_can() {
    let server = server();
    let (batches, driver) = BatchLayer::in_memory().pair();
    let cache = CacheLayer::default().with_policy(|_| Some(Cacheable::new()));
    let stack = recommended().with_batches(batches).with_cache(cache);
    let service = stack.layer(server.clone());
    tokio::spawn(driver.run(service.clone()));
    let request = || post::<RequestBody>(BASE, prompt(SONNET, false));
    let mut by_extension = request();
    by_extension
        .extensions_mut()
        .insert(Tolerance(Duration::from_secs(9_000)));
    let by_header = with(request(), "x-tower-claude-tolerance", "7200");
    let waiting = [by_extension, by_header].map(|request| {
        let service = service.clone();
        tokio::spawn(async move { send(&service, request).await.expect("an answer").status })
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = tokio::time::Instant::now();
    let answer = send(&service, request()).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    for call in waiting {
        assert_eq!(call.await.expect("no panic"), 200);
    }
}
