//! Tests of learning limits and levels from headers.

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    MINUTE, gauge, layer, limit, message, only, send_all, send_ok, server_limits, statuses, stream,
    with,
};
use tokio::time::Instant;
use tower::Layer;
use tower_claude_core::{Call, RequestBody};
use tower_claude_fake_claude::{FakeClaude, GroupLimits, HeaderFamily, HeaderSnapshot};
use tower_claude_limiter::{Dimension, Limiter, LocalLimiter};
use tower_claude_tests::{Reply, Script};

const PLENTY: u64 = 100_000_000;

/// Returns a reply with these limits, of which this share is left.
fn reply_with_limits((requests, input, output): common::PerMinute, percent: u64) -> Reply {
    let left = |limit: u64| limit * percent / 100;
    let reply = Reply::message();
    let reply = gauge(reply, "ratelimit-requests", requests, left(requests), 0);
    let reply = gauge(reply, "ratelimit-input-tokens", input, left(input), 0);
    gauge(reply, "ratelimit-output-tokens", output, left(output), 0)
}

/// Asserts the three known limits.
fn assert_limits(limiter: &LocalLimiter, (requests, input, output): common::PerMinute) {
    assert_eq!(limit(limiter, Dimension::Requests), Some(requests));
    assert_eq!(limit(limiter, Dimension::InputTokens), Some(input));
    assert_eq!(limit(limiter, Dimension::OutputTokens), Some(output));
    assert_eq!(limit(limiter, Dimension::TotalTokens), None);
    assert!(only(limiter).dimensions.iter().all(|d| d.learned));
}

const CHANGES: [common::PerMinute; 3] = [
    (1_000, 80_000, 16_000),
    (50, 30_000, 8_000),
    (4_000, 400_000, 90_000),
];

/// The levels stay full, so that heads are skipped in between.
#[tokio::test(start_paused = true)]
async fn changed_limits_are_learned_within_100_ms_far_from_the_limit() {
    let replies = CHANGES.map(|limits| [(); 2].map(|()| reply_with_limits(limits, 100)));
    let layer = layer();
    let service = layer.layer(Script::new(replies.into_iter().flatten()));
    for limits in CHANGES {
        send_ok(&service, message(10, 10)).await;
        tokio::time::advance(Duration::from_millis(100)).await;
        send_ok(&service, message(10, 10)).await;
        assert_limits(&layer.limiter(), limits);
    }
}

/// No time passes between the responses.
#[tokio::test(start_paused = true)]
async fn changed_limits_are_learned_at_once_below_half_of_a_limit() {
    let replies = CHANGES.map(|limits| reply_with_limits(limits, 40));
    let layer = layer();
    let service = layer.layer(Script::new(replies));
    for limits in CHANGES {
        send_ok(&service, message(10, 10)).await;
        assert_limits(&layer.limiter(), limits);
    }
}

#[tokio::test(start_paused = true)]
async fn limit_below_the_use_is_learned_by_the_first_head_after_100_ms() {
    let full = reply_with_limits((1_000, 80_000, 16_000), 100);
    let fallen = reply_with_limits((10, 80_000, 16_000), 0);
    let replies = [vec![full; 21], vec![fallen; 2]].concat();
    let layer = layer();
    let service = layer.layer(Script::new(replies));
    for _ in 0..21 {
        send_ok(&service, message(10, 10)).await;
    }
    send_ok(&service, message(10, 10)).await;
    let limiter = layer.limiter();
    assert_eq!(limit(&limiter, Dimension::Requests), Some(1_000));
    tokio::time::advance(Duration::from_millis(100)).await;
    send_ok(&service, message(10, 10)).await;
    assert_eq!(limit(&limiter, Dimension::Requests), Some(10));
    let requests = only(&limiter)
        .dimension(Dimension::Requests)
        .map(|d| d.available);
    assert!(
        requests.is_some_and(|available| available <= 0),
        "{requests:?}"
    );
}

/// Sends 200 requests at once against limits that are not known yet.
async fn no_429_once_learned(per_minute: (u64, u64, u64), snapshot: HeaderSnapshot) {
    let fake = FakeClaude::builder()
        .limits(server_limits(per_minute))
        .header_snapshot(snapshot)
        .time_to_first_token(Duration::from_millis(400))
        .tokens_per_second(400.0)
        .build();
    let layer = layer();
    let service = layer.layer(fake.clone());
    let requests = (0..200)
        .map(|number| match number % 2 {
            0 => message(1_000, 200),
            _ => stream(1_000, 200),
        })
        .collect();
    assert_eq!(send_all(&service, requests).await, [200; 200]);
    assert_eq!(statuses(&fake), [200; 200]);
    let last = fake.with_log(|log| log[199].at);
    assert!(last >= Duration::from_secs(135), "too fast: {last:?}");
    assert!(last <= Duration::from_secs(165), "too slow: {last:?}");
    let scope = only(&layer.limiter());
    assert_eq!((scope.in_flight, scope.queued), (0, 0));
    assert_eq!(scope.initial_concurrency, None);
}

#[tokio::test(start_paused = true)]
async fn learned_request_limit_is_kept() {
    no_429_once_learned((60, PLENTY, PLENTY), HeaderSnapshot::Admission).await;
    no_429_once_learned((60, PLENTY, PLENTY), HeaderSnapshot::Response).await;
}

#[tokio::test(start_paused = true)]
async fn learned_input_limit_is_kept() {
    no_429_once_learned((100_000, 60_000, PLENTY), HeaderSnapshot::Admission).await;
    no_429_once_learned((100_000, 60_000, PLENTY), HeaderSnapshot::Response).await;
}

#[tokio::test(start_paused = true)]
async fn learned_output_limit_is_kept() {
    no_429_once_learned((100_000, PLENTY, 12_000), HeaderSnapshot::Admission).await;
    no_429_once_learned((100_000, PLENTY, 12_000), HeaderSnapshot::Response).await;
}

/// Another client has nearly used up the limit. The first requests get 429s, and none after them.
#[tokio::test(start_paused = true)]
async fn level_lowered_by_other_clients_is_learned() {
    let fake = FakeClaude::builder()
        .limits(server_limits((60, 600_000, 60_000)))
        .time_to_first_token(Duration::from_millis(400))
        .build();
    let others = (0..57).map(|_| message(1_000, 10)).collect();
    send_all(&fake, others).await;
    let layer = layer();
    let service = layer.layer(fake.clone());
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move {
                let context = Call::new(&http::Extensions::new(), Instant::now());
                let context = Arc::new(context);
                for _ in 0..5 {
                    let mut request = message(1_000, 10);
                    context.begin_attempt();
                    request.extensions_mut().insert(context.clone());
                    if send_ok(&service, request).await.status == 200 {
                        return;
                    }
                }
                panic!("five 429s for one request");
            })
        })
        .collect();
    for call in calls {
        call.await.expect("an answer in the end");
    }
    // The 429s arrive at once, so the second eight are sent before anything was learned.
    let statuses = &statuses(&fake)[57..];
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!((1..=8).contains(&refused), "{statuses:?}");
    let last = statuses.iter().rposition(|status| *status == 429);
    assert!(
        last < Some(8),
        "a 429 after the level was known: {statuses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn tokens_headers_without_families_limit() {
    let fake = FakeClaude::builder()
        .limits(server_limits((100_000, 66_000, PLENTY)))
        .header_family(HeaderFamily::RequestsAndTokensOnly)
        .time_to_first_token(Duration::from_millis(400))
        .build();
    let layer = layer();
    let service = layer.layer(fake.clone());
    let requests = (0..200).map(|_| message(1_000, 100)).collect();
    assert_eq!(send_all(&service, requests).await, [200; 200]);
    assert_eq!(statuses(&fake), [200; 200]);
    let last = fake.with_log(|log| log[199].at);
    assert!(last >= Duration::from_secs(115), "too fast: {last:?}");
    assert!(last <= Duration::from_secs(165), "too slow: {last:?}");
    let limiter = layer.limiter();
    assert_eq!(limit(&limiter, Dimension::Requests), Some(100_000));
    assert_eq!(limit(&limiter, Dimension::TotalTokens), Some(66_000));
    assert_eq!(limit(&limiter, Dimension::InputTokens), None);
}

/// `tokens-*` beside the other families repeats one of them.
#[tokio::test(start_paused = true)]
async fn tokens_headers_with_families_are_ignored() {
    let reply = gauge(
        Reply::message(),
        "ratelimit-input-tokens",
        100_000,
        90_000,
        6,
    );
    let reply = gauge(reply, "ratelimit-tokens", 1_000, 0, 60);
    let layer = layer();
    let service = layer.layer(Script::always(reply));
    let start = Instant::now();
    for _ in 0..5 {
        send_ok(&service, message(10, 10)).await;
    }
    assert_eq!(limit(&layer.limiter(), Dimension::TotalTokens), None);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn responses_without_headers_do_not_stall() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .header_family(HeaderFamily::None)
        .time_to_first_token(Duration::from_secs(1))
        .build();
    let layer = layer();
    let service = layer.layer(fake.clone());
    let requests = (0..300).map(|_| message(100_000, 10)).collect();
    assert_eq!(send_all(&service, requests).await, [200; 300]);
    // 8, then twice as many in each second.
    assert!(
        fake.elapsed() <= Duration::from_secs(6),
        "{:?}",
        fake.elapsed()
    );
    assert!(only(&layer.limiter()).dimensions.is_empty());
}

/// The headers of Priority Tier and subscription windows are only shown.
#[tokio::test(start_paused = true)]
async fn priority_and_unified_headers_do_not_limit() {
    let reply = gauge(Reply::message(), "priority-input-tokens", 10, 0, 60);
    let mut reply = gauge(reply, "priority-output-tokens", 10, 0, 60);
    for (name, value) in [
        ("anthropic-ratelimit-unified-status", "rejected"),
        ("anthropic-ratelimit-unified-reset", "1795341600"),
        ("anthropic-ratelimit-unified-5h-utilization", "1.0"),
    ] {
        reply = reply.header(name.parse().expect("a name"), value);
    }
    let layer = layer();
    let service = layer.layer(Script::always(reply));
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(send_ok(&service, message(1_000, 10)).await.status, 200);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(only(&layer.limiter()).dimensions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn scopes_learn_separate_limits() {
    let fake = FakeClaude::builder()
        .group_limits("haiku-4.5", server_limits((70, PLENTY, PLENTY)))
        .group_limits("sonnet-5.5", server_limits((50, PLENTY, PLENTY)))
        .build();
    let layer = layer();
    let service = layer.layer(fake);
    send_ok(&service, message(10, 10)).await;
    let haiku = message(10, 10).map(|_| common::body("claude-haiku-4-5", false));
    send_ok(&service, haiku).await;
    send_ok(&service, with(message(10, 10), "x-api-key", "key-b")).await;
    let mut limits: Vec<_> = layer
        .handle()
        .snapshot()
        .iter()
        .map(|scope| {
            let requests = scope.dimension(Dimension::Requests).expect("learned");
            (scope.scope.group.to_string(), requests.limit)
        })
        .collect();
    limits.sort();
    let sonnet = ("sonnet-5.5".to_owned(), 50);
    assert_eq!(
        limits,
        [("haiku-4.5".to_owned(), 70), sonnet.clone(), sonnet]
    );
}

/// Requests with `speed: "fast"` have headers of their own.
#[tokio::test(start_paused = true)]
async fn fast_requests_are_limited_by_fast_headers() {
    let fake = FakeClaude::builder()
        .group_limits("opus-5.5+fast", server_limits((1_000, 40_000, 9_000)))
        .build();
    let layer = layer();
    let service = layer.layer(fake);
    let body = r#"{"model":"claude-opus-5-5","max_tokens":64,"speed":"fast","messages":[{"role":"user","content":"Hi"}]}"#;
    let request = message(1_000, 10).map(|_| RequestBody::from(body));
    assert_eq!(send_ok(&service, request).await.status, 200);
    let scope = only(&layer.limiter());
    assert!(scope.scope.fast);
    let limit = |dimension| scope.dimension(dimension).map(|found| found.limit);
    assert_eq!(limit(Dimension::InputTokens), Some(40_000));
    assert_eq!(limit(Dimension::OutputTokens), Some(9_000));
}

/// The snapshot shows the level, the time to full and the time until an amount is available.
#[tokio::test(start_paused = true)]
async fn snapshot_shows_the_headroom() {
    let fake = FakeClaude::builder()
        .limits(server_limits((60, 60_000, 60_000)))
        .build();
    let layer = layer();
    send_ok(&layer.layer(fake), message(30_000, 6_000)).await;
    let scope = only(&layer.handle());
    let input = scope.dimension(Dimension::InputTokens).expect("learned");
    assert_eq!((input.limit, input.available), (60_000, 30_000));
    // The capacity is learned from whole seconds, and one second is subtracted.
    assert!((29..=30).contains(&input.time_to_full().as_secs()));
    let until = |tokens| input.time_until(tokens);
    assert_eq!(until(30_000), Some(Duration::ZERO));
    assert_eq!(until(40_000).map(|wait| wait.as_secs()), Some(10));
    assert_eq!(until(60_001), None);
    let requests = scope.dimension(Dimension::Requests).expect("learned");
    assert_eq!(requests.available, 59);
    tokio::time::advance(MINUTE).await;
    let scope = only(&layer.handle());
    let full = |d: &tower_claude_limiter::DimensionSnapshot| d.available as u64 == d.capacity;
    assert!(scope.dimensions.iter().all(full), "{scope:?}");
}

#[tokio::test(start_paused = true)]
async fn workload_header_separates_output_estimates() {
    let workload = http::HeaderName::from_static("x-feature");
    let layer = layer().with_workload_header(workload);
    let service = layer.layer(FakeClaude::builder().build());
    let chat = || with(message(100, 10), "x-feature", "chat");
    let report = || with(message(100, 900), "x-feature", "report");
    for _ in 0..30 {
        send_ok(&service, chat()).await;
        send_ok(&service, report()).await;
    }
    for (request, expected) in [(chat(), 10), (report(), 900)] {
        let response = tower::ServiceExt::oneshot(service.clone(), request).await;
        let response = response.expect("an answer");
        assert_eq!(only(&layer.limiter()).outstanding_output, expected);
        drop(response);
    }
}
