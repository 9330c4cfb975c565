//! Tests of the pace and the order of admission.

mod common;

use std::time::Duration;

use common::{
    PerMinute, layer, message, only, over, send_all, send_ok, server_limits, statuses, stream, with,
};
use http::Request;
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::FakeClaude;
use tower_claude_limiter::Limiter;

const PLENTY: u64 = 100_000_000;

/// Sends 200 requests at once against limits of 60 per minute. Requests beyond the burst leave at
/// one per second, in order, and none gets a 429.
async fn all_get_through(per_minute: PerMinute, request: impl Fn(u64) -> Request<RequestBody>) {
    let fake = FakeClaude::builder()
        .limits(server_limits(per_minute))
        .time_to_first_token(Duration::from_millis(300))
        .tokens_per_second(400.0)
        .build();
    let layer = layer(per_minute);
    let requests = (0..200).map(&request).collect();
    let got = send_all(&over(&layer, &fake), requests).await;
    assert_eq!(got, [200; 200]);
    assert_eq!(statuses(&fake), [200; 200]);
    let order: Vec<usize> = fake.with_log(|log| {
        let tags = log.iter().map(|attempt| attempt.tag.as_ref());
        tags.map(|tag| tag.expect("tagged").parse().expect("a number"))
            .collect()
    });
    assert!(order.is_sorted(), "overtaken: {order:?}");
    let last = fake.with_log(|log| log[199].at);
    assert!(last >= Duration::from_secs(135), "too fast: {last:?}");
    assert!(last <= Duration::from_secs(155), "too slow: {last:?}");
    let scope = only(&layer.limiter());
    assert_eq!((scope.in_flight, scope.queued), (0, 0));
    assert_eq!(scope.outstanding_output, 0);
}

#[tokio::test(start_paused = true)]
async fn request_limit_is_kept() {
    all_get_through((60, PLENTY, PLENTY), |_| message(1_000, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn input_limit_is_kept() {
    all_get_through((100_000, 60_000, PLENTY), |_| message(1_000, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn output_limit_is_kept() {
    all_get_through((100_000, PLENTY, 12_000), |_| stream(1_000, 200)).await;
}

#[tokio::test(start_paused = true)]
async fn large_request_is_not_starved_by_small_ones() {
    let sizes = [100, 5_500, 300, 100, 100, 100, 700, 1_100];
    assert_eq!(sizes.iter().sum::<u64>(), 8 * 1_000);
    all_get_through((100_000, 60_000, PLENTY), |number| {
        message(sizes[number as usize % 8], 100)
    })
    .await;
}

/// The running ratio corrects an estimate that is far too low or too high.
#[tokio::test(start_paused = true)]
async fn wrong_estimates_are_corrected() {
    for planned in [400, 2_500] {
        let per_minute = (100_000, 60_000, PLENTY);
        let fake = FakeClaude::builder()
            .limits(server_limits(per_minute))
            .build();
        let layer = layer(per_minute);
        let service = over(&layer, &fake);
        // A few requests one by one, like an application that starts.
        for _ in 0..10 {
            send_ok(
                &service,
                with(message(1_000, 10), "x-planned-input", planned),
            )
            .await;
        }
        let more = (0..150)
            .map(|_| with(message(1_000, 10), "x-planned-input", planned))
            .collect();
        assert_eq!(send_all(&service, more).await, [200; 150]);
        assert_eq!(statuses(&fake), [200; 160], "planned {planned}");
        let ratio = only(&layer.limiter()).input_ratio;
        assert!(
            (ratio - 1_000.0 / f64::from(planned)).abs() < 0.05,
            "{ratio}"
        );
    }
}

/// The default estimator sees the text alone.
#[tokio::test(start_paused = true)]
async fn text_estimate_keeps_the_input_limit() {
    let per_minute = (100_000, 30_000, PLENTY);
    let fake = FakeClaude::builder()
        .limits(server_limits(per_minute))
        .build();
    let layer = tower_claude_token_bucket::TokenBucketLayer::new(common::limits(per_minute))
        .with_max_wait(common::HOUR);
    let service = tower::Layer::layer(&layer, fake.clone());
    let text = "The bucket is refilled continuously. ".repeat(100);
    let request = || {
        let body = format!(
            r#"{{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{{"role":"user","content":"{text}"}}]}}"#
        );
        let mut request = message(0, 10).map(|_| RequestBody::from(body));
        request.headers_mut().remove("x-fake-input-tokens");
        request
    };
    for _ in 0..5 {
        send_ok(&service, request()).await;
    }
    assert_eq!(
        send_all(&service, (0..100).map(|_| request()).collect()).await,
        [200; 100]
    );
    assert!(
        fake.elapsed() >= Duration::from_secs(60),
        "nothing was paced"
    );
    assert_eq!(statuses(&fake), [200; 105]);
    assert_eq!(layer.handle().snapshot()[0].in_flight, 0);
}

/// A request counts until its body has ended.
#[tokio::test(start_paused = true)]
async fn concurrency_limit_is_kept() {
    let fake = FakeClaude::builder()
        .limits(server_limits((PLENTY, PLENTY, PLENTY)).with_concurrency(3))
        .tokens_per_second(100.0)
        .build();
    let layer = tower_claude_token_bucket::TokenBucketLayer::new(
        tower_claude_limiter::Limits::new()
            .with_concurrency(std::num::NonZeroU32::new(3).expect("3")),
    );
    let service = tower::Layer::layer(&layer, fake.clone());
    let requests = (0..20)
        .map(|number| match number % 2 {
            0 => stream(10, 100),
            _ => message(10, 100),
        })
        .collect();
    assert_eq!(send_all(&service, requests).await, [200; 20]);
    assert_eq!(statuses(&fake), [200; 20]);
    // Each takes a second, and three run at a time.
    let took = fake.elapsed().as_secs_f64();
    assert!((6.5..7.1).contains(&took), "{took} s");
}
