//! Renewals of cached prefixes in pauses.

use tokio::time::Instant;
use tower_claude_core::{Deadline, RequestBody};
use tower_claude_prompt_cache::{CacheRules, PromptCacheLayer};
use tower_claude_tests::{BASE, post, send};
use tower_claude_wire::RateCard;
use tower_layer::Layer;

use crate::common::{SECOND, SONNET, fake, question, text};

/// A layer for a model whose reads cost a fortieth, and its driver.
fn layer() -> (PromptCacheLayer, tower_claude_prompt_cache::KeepAliveDriver) {
    let mut rates = RateCard::new(10_000, 50_000);
    rates.cache_read = 250;
    let rules = CacheRules::new(512, rates);
    PromptCacheLayer::new()
        .with_rules(SONNET, rules)
        .with_keep_alive()
}

/// Asks two questions about each of these documents, 12 minutes apart.
async fn ask_twice(
    layer: &PromptCacheLayer,
    fake: &tower_claude_fake_claude::FakeClaude,
    documents: std::ops::Range<usize>,
) {
    let service = layer.layer(fake.clone());
    for document in documents {
        let document = text(document, 4_000);
        for number in 0..2 {
            let body = question(&document, number).to_string();
            let mut request = post::<RequestBody>(BASE, body);
            let deadline = Deadline(Instant::now() + 60 * SECOND);
            request.extensions_mut().insert(deadline);
            let answer = send(&service, request).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            tokio::time::sleep(720 * SECOND).await;
        }
        tokio::time::sleep(3_600 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn prefix_that_returns_after_a_pause_is_renewed_and_read() {
    let ((layer, driver), fake) = (layer(), fake());
    let driver = tokio::spawn(driver.run(fake.clone()));
    ask_twice(&layer, &fake, 0..12).await;
    let snapshot = layer.handle().snapshot();
    assert!(snapshot.renewals >= 6, "{snapshot:?}");
    assert_eq!(snapshot.kept_alive, 0);
    assert!(!snapshot.saved.is_negative(), "{}", snapshot.saved);
    fake.with_log(|log| {
        let renewals = log.iter().filter(|attempt| attempt.charged_output == 0);
        assert_eq!(renewals.count() as u64, snapshot.renewals);
        let questions = log.iter().filter(|attempt| attempt.charged_output > 0);
        assert!(
            questions
                .filter(|attempt| attempt.cache_read > 3_000)
                .count()
                >= 4
        );
    });
    drop(layer);
    driver.await.expect("the driver ends with its layer");
}

#[tokio::test(start_paused = true)]
async fn without_a_driver_nothing_is_renewed() {
    let ((layer, driver), fake) = (layer(), fake());
    drop(driver);
    ask_twice(&layer, &fake, 0..8).await;
    assert_eq!(layer.handle().snapshot().renewals, 0);
    assert_eq!(fake.log_len(), 16);
}

#[tokio::test(start_paused = true)]
async fn renewals_end_when_one_fails() {
    let ((layer, driver), fake) = (layer(), fake());
    tokio::spawn(
        driver.run(tower::service_fn(|_: http::Request<RequestBody>| async {
            let response = http::Response::builder().status(529);
            response.body(RequestBody::from("{}"))
        })),
    );
    ask_twice(&layer, &fake, 0..8).await;
    let snapshot = layer.handle().snapshot();
    assert_eq!((snapshot.renewals, snapshot.kept_alive), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn setter_after_the_driver_keeps_it_connected() {
    let ((layer, driver), fake) = (layer(), fake());
    let task = tokio::spawn(driver.run(fake.clone()));
    tokio::task::yield_now().await;
    let layer = layer.with_body_limit(1024 * 1024);
    ask_twice(&layer, &fake, 0..12).await;
    assert!(layer.handle().snapshot().renewals >= 6);
    drop(layer);
    task.await.expect("the driver ends with its layer");
}

#[tokio::test(start_paused = true)]
async fn dropped_driver_keeps_no_request() {
    let ((layer, driver), fake) = (layer(), fake());
    let task = tokio::spawn(driver.run(fake.clone()));
    ask_twice(&layer, &fake, 0..8).await;
    let service = layer.layer(fake.clone());
    let body = question(&text(8, 4_000), 0).to_string();
    send(&service, post::<RequestBody>(BASE, body))
        .await
        .expect("an answer");
    assert_eq!(layer.handle().snapshot().kept_alive, 1);
    task.abort();
    let _ = task.await;
    assert_eq!(layer.handle().snapshot().kept_alive, 0);
    let body = question(&text(9, 4_000), 0).to_string();
    send(&service, post::<RequestBody>(BASE, body))
        .await
        .expect("an answer");
    assert_eq!(layer.handle().snapshot().kept_alive, 0);
}

/// A renewal after five minutes would write the prefix again.
#[tokio::test(start_paused = true)]
async fn renewal_that_is_too_late_is_not_sent() {
    let ((layer, driver), fake) = (layer(), fake());
    ask_twice(&layer, &fake, 0..8).await;
    let body = question(&text(8, 4_000), 0).to_string();
    let request = post::<RequestBody>(BASE, body);
    send(&layer.layer(fake.clone()), request)
        .await
        .expect("an answer");
    assert!(layer.handle().snapshot().kept_alive > 0);
    tokio::time::sleep(400 * SECOND).await;
    let before = fake.log_len();
    tokio::spawn(driver.run(fake.clone()));
    tokio::time::sleep(SECOND).await;
    assert_eq!(fake.log_len(), before);
    assert_eq!(layer.handle().snapshot().kept_alive, 0);
}
