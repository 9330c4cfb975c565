//! Tests of priorities, tenants and queue positions.

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{EventLog, layer, message, with};
use http::{HeaderName, Request};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_claude_core::{Call, Priority, Rejection, RequestBody, Tenant, Workload, event::Event};
use tower_claude_fake_claude::FakeClaude;

const PRIORITY: HeaderName = HeaderName::from_static("x-priority");
const TENANT: HeaderName = HeaderName::from_static("x-tenant");

/// Returns the order in which requests are admitted that arrived while the limit was used up.
async fn order(requests: Vec<Request<RequestBody>>) -> Vec<usize> {
    let layer = layer((1_000, 60_000, 1_000_000))
        .with_priority_header(PRIORITY)
        .with_tenant_header(TENANT);
    let service = layer.layer(FakeClaude::builder().build());
    drop(service.clone().oneshot(message(60_000, 1)).await.unwrap());
    let out = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for (number, request) in requests.into_iter().enumerate() {
        let (service, out) = (service.clone(), out.clone());
        tasks.spawn(async move {
            let response = service.oneshot(request).await.unwrap();
            out.lock().unwrap().push(number);
            drop(response);
        });
        // Each enters the queue before the next.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tasks.join_all().await;
    Arc::into_inner(out).unwrap().into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn priority_header_orders_the_queue() {
    let of = |name: &'static str| with(message(1_000, 1), "x-priority", name);
    let requests = vec![
        of("batch"),
        of("what"),
        of("Interactive"),
        message(1_000, 1),
    ];
    assert_eq!(order(requests).await, [2, 1, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn priority_extension_overrides_the_header() {
    let mut urgent = with(message(1_000, 1), "x-priority", "batch");
    urgent.extensions_mut().insert(Priority::Interactive);
    let mut plain = with(message(1_000, 1), "x-priority", "interactive");
    plain.extensions_mut().insert(Priority::Normal);
    assert_eq!(order(vec![plain, urgent]).await, [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn tenant_header_shares_the_limit() {
    let of = |name: &'static str| with(message(1_000, 1), "x-tenant", name);
    let mut b = with(message(1_000, 1), "x-tenant", "a");
    b.extensions_mut().insert(Tenant(Arc::from("b")));
    // Alternating between the tenants, not in the order of arrival.
    assert_eq!(
        order(vec![of("a"), of("a"), of("a"), b, of("b")]).await,
        [0, 3, 1, 4, 2]
    );
}

/// Returns a request of 1,000 tokens by a user that the body names.
fn by_user(user: &str) -> Request<RequestBody> {
    message(1_000, 1).map(|body| {
        let body = std::str::from_utf8(body.bytes().unwrap()).unwrap();
        let metadata = format!("{{\"metadata\":{{\"user_id\":{user:?}}},");
        RequestBody::from(body.replacen('{', &metadata, 1))
    })
}

#[tokio::test(start_paused = true)]
async fn users_and_workloads_without_a_tenant_share_the_limit() {
    let (a, b) = (|| by_user("a"), || by_user("b"));
    let requests = vec![a(), a(), a(), b(), b()];
    assert_eq!(order(requests).await, [0, 3, 1, 4, 2]);
    let of = |name: &str| {
        let mut request = message(1_000, 1);
        request.extensions_mut().insert(Workload::named(name));
        request
    };
    let requests = vec![of("a"), of("a"), of("a"), of("b"), of("")];
    assert_eq!(order(requests).await, [0, 3, 4, 1, 2]);
    // A tenant is not mistaken for a user of the same name.
    let tenant = || with(message(1_000, 1), "x-tenant", "a");
    let requests = vec![a(), a(), tenant(), with(a(), "x-tenant", "a")];
    assert_eq!(order(requests).await, [0, 2, 1, 3]);
}

/// A user floods the queue with more requests than are admitted within the longest wait.
#[tokio::test(start_paused = true)]
async fn flood_of_a_user_delays_no_other_user() {
    let service = layer((60, 60_000_000, 1_000_000)).layer(FakeClaude::builder().build());
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        flood.spawn(service.clone().oneshot(by_user("flood")));
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    let start = Instant::now();
    for _ in 0..10 {
        let response = service.clone().oneshot(by_user("other")).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    let waited = start.elapsed();
    assert!(waited <= Duration::from_secs(21), "{waited:?}");
    flood.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_and_rejected_requests_report_their_position() {
    let queued = EventLog::new(|event| match event {
        Event::Queued {
            layer,
            position,
            estimated_wait,
            ..
        } => Some(format!("{layer} {position} {estimated_wait:?}")),
        _ => None,
    });
    let layer = layer((1_000, 60_000, 1_000_000))
        .with_max_wait(Duration::from_secs(5))
        .with_observer(queued.clone());
    let service = layer.layer(FakeClaude::builder().build());
    drop(service.clone().oneshot(message(60_000, 1)).await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        tasks.spawn(service.clone().oneshot(message(2_000, 1)));
        tokio::task::yield_now().await;
    }
    assert_eq!(queued.lines(), ["token-bucket 1 2s", "token-bucket 2 4s"]);
    let response = service.oneshot(message(2_000, 1)).await.unwrap();
    let refused = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(refused.queue_position, Some(3));
    assert_eq!(queued.lines().len(), 2, "once each");
}

/// A caller of high priority that joins a waiting call lifts it.
#[tokio::test(start_paused = true)]
async fn raised_priority_of_a_call_moves_it_in_the_queue() {
    let layer = layer((1_000, 60_000, 1_000_000)).with_priority_header(PRIORITY);
    let service = layer.layer(FakeClaude::builder().build());
    drop(service.clone().oneshot(message(60_000, 1)).await.unwrap());
    let start = Instant::now();
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..20 {
        others.spawn(service.clone().oneshot(message(1_000, 1)));
    }
    tokio::task::yield_now().await;
    let mut lifted = message(1_000, 1);
    lifted.extensions_mut().insert(Priority::Batch);
    let call = Call::get_or_insert(lifted.extensions_mut(), start);
    let mut lifted = Box::pin(service.oneshot(lifted));
    let soon = Duration::from_millis(500);
    assert!(tokio::time::timeout(soon, &mut lifted).await.is_err());
    call.raise_priority(Priority::Interactive);
    lifted.await.unwrap();
    assert!(
        start.elapsed() <= Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    others.join_all().await;
}
