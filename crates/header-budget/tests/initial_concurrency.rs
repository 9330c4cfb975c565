//! Tests of the initial concurrency, which lasts until the first headers.

mod common;

use std::sync::Arc;

use common::{ClaudeService, gauge, layer, message, only, send_all, send_ok};
use http::Request;
use tokio::sync::Semaphore;
use tower::{Layer, service_fn};
use tower_claude_core::RequestBody;
use tower_claude_tests::{Alive, Reply};

/// Returns a service that responds once `gate` has a permit.
fn gated(gate: Arc<Semaphore>, reply: Reply) -> impl ClaudeService {
    service_fn(move |_: Request<RequestBody>| {
        let (gate, reply) = (gate.clone(), reply.clone());
        async move {
            gate.acquire().await.expect("open").forget();
            let alive = Alive::new();
            reply.response(alive.guard())
        }
    })
}

async fn settle_down() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn initial_concurrency_doubles_with_each_response() {
    let gate = Arc::new(Semaphore::new(0));
    let layer = layer();
    let service = layer.layer(gated(gate.clone(), Reply::message()));
    let calls = tokio::spawn(async move {
        send_all(&service, (0..100).map(|_| message(10, 10)).collect()).await
    });
    settle_down().await;
    let state = || {
        let scope = only(&layer.limiter());
        (scope.in_flight, scope.queued)
    };
    assert_eq!(state(), (8, 92));
    gate.add_permits(1);
    settle_down().await;
    assert_eq!(state(), (16, 83));
    gate.add_permits(1);
    settle_down().await;
    assert_eq!(state(), (32, 66));
    gate.add_permits(98);
    assert_eq!(calls.await.expect("no panic"), [200; 100]);
    assert_eq!(state(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn first_headers_end_the_initial_concurrency() {
    let gate = Arc::new(Semaphore::new(0));
    let reply = gauge(Reply::message(), "ratelimit-requests", 1_000, 999, 1);
    let layer = layer();
    let service = layer.layer(gated(gate.clone(), reply));
    let calls = tokio::spawn(async move {
        send_all(&service, (0..100).map(|_| message(10, 10)).collect()).await
    });
    settle_down().await;
    assert_eq!(only(&layer.limiter()).in_flight, 8);
    gate.add_permits(1);
    settle_down().await;
    assert_eq!(only(&layer.limiter()).in_flight, 99);
    gate.add_permits(99);
    assert_eq!(calls.await.expect("no panic"), [200; 100]);
}

/// After the first eight calls are dropped, the next eight are sent.
#[tokio::test(start_paused = true)]
async fn dropped_calls_do_not_block_the_initial_concurrency() {
    let gate = Arc::new(Semaphore::new(0));
    let layer = layer();
    let service = layer.layer(gated(gate.clone(), Reply::message()));
    let mut calls: Vec<_> = (0..20)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send_ok(&service, message(10, 10)).await })
        })
        .collect();
    settle_down().await;
    let last = calls.split_off(8);
    for call in calls {
        call.abort();
    }
    settle_down().await;
    assert_eq!(only(&layer.limiter()).in_flight, 8);
    gate.add_permits(12);
    for call in last {
        assert_eq!(call.await.expect("no panic").status, 200);
    }
}
