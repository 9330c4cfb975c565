//! The price of retries.

use tower::{Layer, Service};
use tower_claude_core::{RejectReason, Rejection};
use tower_claude_retry::RetryBudget;

use crate::api::*;

fn budget(tokens: u32) -> RetryBudget {
    RetryBudget::new()
        .with_initial(tokens)
        .with_refill_per_second(0.0)
}

#[tokio::test(start_paused = true)]
async fn empty_budget_returns_response() {
    let (layer, events) = layer();
    let layer = layer.with_budget(budget(1));
    let api = Api::new([Reply::overloaded(), Reply::overloaded()]);
    assert_eq!(through(&layer, &api).await.status, 529);
    assert_eq!(api.arrivals(), [0, 1]);
    assert_eq!(
        events.lines().last().unwrap(),
        "gave up 2 overloaded budget"
    );
}

#[tokio::test(start_paused = true)]
async fn shared_budget_is_charged_by_both_layers() {
    let shared = budget(1);
    let layers = [layer().0, layer().0].map(|layer| layer.with_budget(shared.clone()));
    let api = Api::new([Reply::overloaded(), Reply::fine()]);
    assert_eq!(through(&layers[0], &api).await.status, 200);
    // The success deposited half a token.
    assert_eq!(layers[1].handle().snapshot().budget_tokens, 0.5);
    let api = Api::new([Reply::overloaded()]);
    assert_eq!(through(&layers[1], &api).await.status, 529);
}

#[tokio::test(start_paused = true)]
async fn rate_limit_with_empty_budget_is_retried() {
    let (layer, _) = layer();
    let layer = layer.with_budget(budget(0));
    let api = Api::new([Reply::rate_limited("1"), Reply::fine()]);
    assert_eq!(through(&layer, &api).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn locally_rejected_retry_is_refunded() {
    let (layer, _) = layer();
    let layer = layer.with_budget(budget(3));
    let reason = RejectReason::QueueFull {
        waiting: 1,
        limit: 1,
    };
    let refused = Reply::rate_limited("1").extension(Rejection::new("limiter", reason).class());
    let api = Api::new([Reply::overloaded(), refused]);
    assert!(through(&layer, &api).await.class().local);
    assert_eq!(layer.handle().snapshot().budget_tokens, 3.0);
}

#[tokio::test(start_paused = true)]
async fn call_dropped_during_wait_is_refunded() {
    let (layer, _) = layer();
    let layer = layer.with_budget(budget(3));
    let api = Api::new([Reply::overloaded(), Reply::never()]);
    let mut service = layer.layer(api.clone());
    let call = service.call(request());
    assert!(tokio::time::timeout(SECOND / 2, call).await.is_err());
    assert_eq!(layer.handle().snapshot().budget_tokens, 3.0);
    // A retry that was sent is not refunded.
    let api = Api::new([Reply::overloaded(), Reply::never()]);
    let call = layer.layer(api.clone()).call(request());
    assert!(tokio::time::timeout(5 * SECOND, call).await.is_err());
    assert_eq!(api.seen().len(), 2);
    assert_eq!(layer.handle().snapshot().budget_tokens, 2.0);
}

#[tokio::test(start_paused = true)]
async fn successful_call_deposits_once() {
    let (layer, _) = layer();
    let layer = layer.with_budget(budget(0));
    for reply in [
        Reply::fine(),
        Reply::stream([data(START), data(CONTENT), data(DELTA), data(STOP)]),
    ] {
        through(&layer, &Api::new([reply])).await;
    }
    through(&layer, &Api::new([Reply::error(404, "not_found_error")])).await;
    assert_eq!(layer.handle().snapshot().budget_tokens, 1.0);
}

/// The outage lasts a minute, at 10 calls a second.
#[tokio::test(start_paused = true)]
async fn full_outage_is_not_amplified() {
    let (layer, _) = layer();
    let api = Api::new((0..3000).map(|_| Reply::overloaded()));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..600 {
        let (layer, api) = (layer.clone(), api.clone());
        calls.spawn(async move { through(&layer, &api).await.status });
        tokio::time::sleep(SECOND / 10).await;
    }
    let statuses = calls.join_all().await;
    assert!(statuses.iter().all(|status| *status == 529));
    let attempts = api.seen().len();
    // 10 at the start, and 0.1 a second for at most 75 s.
    assert!((600..=618).contains(&attempts), "{attempts}");
}
