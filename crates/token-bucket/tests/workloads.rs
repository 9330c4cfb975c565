//! Tests of estimates by workload.

mod common;

use common::{left, message, over, send_ok, with};
use http::{HeaderName, Request};
use tower_claude_core::{RequestBody, Workload};
use tower_claude_fake_claude::{FakeClaude, GroupLimits};

const LIMITS: common::PerMinute = (100_000, 100_000_000, 100_000_000);
const ROUTE: HeaderName = HeaderName::from_static("x-feature");

fn chat() -> Request<RequestBody> {
    message(1_000, 100)
}

fn report() -> Request<RequestBody> {
    message(1_000, 4_000)
}

fn extended(mut request: Request<RequestBody>, workload: &str) -> Request<RequestBody> {
    request.extensions_mut().insert(Workload::named(workload));
    request
}

/// Returns the output reserved for a request in flight, after forty requests of both kinds.
async fn reserved(
    chat: impl Fn() -> Request<RequestBody>,
    report: impl Fn() -> Request<RequestBody>,
) -> [i64; 2] {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .build();
    let layer = common::layer(LIMITS).with_workload_header(ROUTE);
    let service = over(&layer, &fake);
    for _ in 0..40 {
        send_ok(&service, chat()).await;
        send_ok(&service, report()).await;
    }
    let mut reserved = [0; 2];
    for (request, reserved) in [chat(), report()].into_iter().zip(&mut reserved) {
        let before = left(&layer.limiter())[2];
        let service = service.clone();
        let response = tower::ServiceExt::oneshot(service, request);
        let response = response.await.expect("an answer");
        *reserved = before - left(&layer.limiter())[2];
        drop(response);
    }
    reserved
}

#[tokio::test(start_paused = true)]
async fn workload_header_separates_output_estimates() {
    let named = reserved(
        || with(chat(), "x-feature", "chat"),
        || with(report(), "x-feature", "report"),
    );
    assert_eq!(named.await, [100, 4_000]);
}

#[tokio::test(start_paused = true)]
async fn workload_extension_overrides_the_header() {
    let named = reserved(
        || extended(with(chat(), "x-feature", "all"), "chat"),
        || extended(with(report(), "x-feature", "all"), "report"),
    );
    assert_eq!(named.await, [100, 4_000]);
}

#[tokio::test(start_paused = true)]
async fn requests_without_workload_share_one_estimate() {
    let [chat, report] = reserved(chat, || with(report(), "x-feature", "")).await;
    assert!(chat.abs_diff(2_050) < 600, "{chat}");
    assert!(report.abs_diff(2_050) < 600, "{report}");
}
