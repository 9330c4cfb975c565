//! Limits of all kinds, and incidents over part of a run.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use http::Request;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::{ServiceExt, service_fn};
use tower_claude_core::{Deadline, Kind, RequestBody};
use tower_claude_fake_claude::{Attempt, FakeClaude, Fault, GroupLimits, Incident, Ramp};
use tower_claude_limiter::{Limiter, LimiterConfig, Limits, LocalLimiter};
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;

use tower_layer::Layer;

use crate::common::{
    HOUR, Layers, Received, SECOND, SONNET, Stack, at_once, quiet, request, rpm, send, silent,
    sized, statuses,
};

type Answers = Vec<Received<tower_claude_fake_claude::FakeError>>;

/// Sends `number` requests, one every `gap` and half of them streams, and returns all answers.
async fn many(service: &Layers<FakeClaude>, number: u32, gap: Duration) -> Answers {
    let mut tasks = JoinSet::new();
    for index in 0..number {
        let service = service.clone();
        tasks.spawn(async move {
            sleep(gap * index).await;
            let request = sized(index % 2 == 0, 100);
            send(&service, request).await.expect("an answer")
        });
    }
    tasks.join_all().await
}

fn failed(answers: &Answers) -> Vec<String> {
    let whole = |seen: &&Received<_>| !seen.is_complete(true) && !seen.is_complete(false);
    let failed = answers.iter().filter(whole);
    failed
        .map(|seen| format!("{} {}", seen.status, seen.text()))
        .collect()
}

/// A stack that waits as long as it takes.
fn patient(fake: &FakeClaude, limits: Limits) -> Stack<FakeClaude> {
    let bucket = TokenBucketLayer::new(limits).with_max_wait(HOUR);
    Stack::with(fake.clone(), RetryLayer::new(), bucket)
}

fn input_tokens(limit: u64) -> Limits {
    Limits::new().with_input_tokens_per_minute(NonZeroU64::new(limit).expect("a limit"))
}

/// A request of about so many tokens of text.
fn long(tokens: usize) -> Request<RequestBody> {
    let text = "word ".repeat(tokens);
    request(SONNET, false).map(|_| {
        format!(
            r#"{{"model":"claude-sonnet-5-5","max_tokens":9,"messages":[{{"role":"user","content":"{text}"}}]}}"#
        )
        .into()
    })
}

fn refused(log: &[Attempt]) -> usize {
    log.iter().filter(|attempt| attempt.status == 429).count()
}

#[tokio::test(start_paused = true)]
async fn overload_in_part_of_a_run_fails_no_call() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::new().with_requests_per_minute(1_000))
        .incident(Incident::new(20 * SECOND, 35 * SECOND, Fault::Overloaded).with_probability(0.25))
        .seed(7)
        .build();
    let stack = patient(&fake, rpm(1_000));
    let answers = many(&stack.service, 2_000, SECOND / 20).await;
    assert_eq!(failed(&answers), Vec::<String>::new());
    let log = fake.log();
    assert!(statuses(&log).contains(&529), "the storm struck");
    assert_eq!(refused(&log), 0, "every 429 was avoidable");
    stack.assert_idle("a storm");
}

#[tokio::test(start_paused = true)]
async fn backlog_is_sent_without_a_429() {
    let limits = GroupLimits::new()
        .with_requests_per_minute(600)
        .with_input_tokens_per_minute(50_000);
    let fake = FakeClaude::builder().limits(limits).build();
    let stack = patient(
        &fake,
        rpm(600).with_input_tokens_per_minute(NonZeroU64::new(50_000).expect("a limit")),
    );
    let answers = many(&stack.service, 2_000, Duration::ZERO).await;
    assert_eq!(failed(&answers), Vec::<String>::new());
    assert_eq!(refused(&fake.log()), 0);
    // 2,000 × 100 tokens through a full bucket and 50,000 a minute: three minutes at best.
    assert!(fake.elapsed() < 200 * SECOND, "{:?}", fake.elapsed());
    stack.assert_idle("a backlog");
}

/// The server stops everyone for 10 s while others still wait in the queue.
#[tokio::test(start_paused = true)]
async fn paused_scope_sends_nothing() {
    let fake = silent();
    let bucket = TokenBucketLayer::new(rpm(60).with_burst(SECOND)).with_max_wait(HOUR);
    let stack = Stack::with(fake.clone(), RetryLayer::new(), bucket);
    let retry_after = 10 * SECOND;
    let waiting = {
        let service = stack.service.clone();
        tokio::spawn(async move { many(&service, 20, Duration::ZERO).await })
    };
    // The first is answered at once, the rest wait for a second each.
    fake.wait_for(|log| log.len() >= 4).await;
    fake.inject(Fault::RateLimited { retry_after });
    let answers = waiting.await.expect("no panic");
    assert_eq!(failed(&answers), Vec::<String>::new());
    let log = fake.log();
    let stopped = log.iter().position(|a| a.status == 429).expect("one 429");
    let next = log[stopped + 1].at - log[stopped].at;
    assert!(next >= retry_after, "again after {next:?}: {log:#?}");
    stack.assert_idle("a pause");
}

/// A 429 gives back the reservation of its request. The next request must not use it before the end
/// of the pause.
#[tokio::test(start_paused = true)]
async fn refund_of_a_429_is_not_spent_during_its_pause() {
    let fake = silent();
    let far = {
        let fake = fake.clone();
        service_fn(move |request: Request<RequestBody>| {
            let fake = fake.clone();
            async move {
                sleep(SECOND).await;
                fake.oneshot(request).await
            }
        })
    };
    let bucket = TokenBucketLayer::new(input_tokens(1_000)).with_max_wait(HOUR);
    let stack = Stack::with(far, RetryLayer::new(), bucket);
    let retry_after = 10 * SECOND;
    fake.inject(Fault::RateLimited { retry_after });
    let mut tasks = JoinSet::new();
    for _ in 0..5 {
        let service = stack.service.clone();
        tasks.spawn(async move { send(&service, long(400)).await });
    }
    for seen in tasks.join_all().await {
        assert_eq!(seen.expect("an answer").status, 200);
    }
    let log = fake.log();
    assert_eq!(log[0].status, 429);
    for later in &log[1..] {
        let gap = later.at - log[0].at;
        assert!(gap >= retry_after, "sent {gap:?} after the 429: {log:#?}");
    }
    stack.assert_idle("a pause by tokens");
}

#[tokio::test(start_paused = true)]
async fn shared_429_is_followed_by_paced_requests() {
    let fake = FakeClaude::builder()
        .limits(
            GroupLimits::new()
                .with_requests_per_minute(600)
                .with_burst(SECOND),
        )
        .build();
    let bucket = TokenBucketLayer::new(rpm(600).with_burst(SECOND)).with_max_wait(HOUR);
    let stack = Stack::with(fake.clone(), RetryLayer::new(), bucket);
    let retry_after = 5 * SECOND;
    fake.inject_times(Fault::RateLimited { retry_after }, 10);
    let answers = many(&stack.service, 100, Duration::ZERO).await;
    assert_eq!(failed(&answers), Vec::<String>::new());
    let log = fake.log();
    assert_eq!(
        refused(&log),
        10,
        "only those on script: {:?}",
        statuses(&log)
    );
    let after: Vec<_> = log.iter().filter(|a| a.status == 200).collect();
    assert!(after[0].at >= retry_after);
    // Ten fit at once, then ten a second.
    for window in after.windows(22) {
        assert!(
            window[21].at - window[0].at >= SECOND,
            "a herd: {:?}",
            after.iter().map(|a| a.at).collect::<Vec<_>>()
        );
    }
    stack.assert_idle("a common 429");
}

#[tokio::test(start_paused = true)]
async fn spend_limit_is_returned_at_once_and_pauses_no_other_call() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .incident(Incident::new(Duration::ZERO, HOUR, Fault::SpendCap).with_group("opus-4.x"))
        .build();
    let stack = Stack::new(fake.clone(), Limits::new());
    let start = Instant::now();
    let opus: Request<RequestBody> = request(SONNET, false).map(|_| {
        r#"{"model":"claude-opus-4-6","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}"#.into()
    });
    let seen = send(&stack.service, opus).await.expect("an answer");
    assert_eq!(
        (seen.status, seen.kind()),
        (429, Some(Kind::SpendLimit)),
        "{seen:?}"
    );
    assert!(seen.contains("enforced_spend_limit_reached"));
    fake.inject(Fault::SpendCap);
    let capped = send(&stack.service, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(capped.kind(), Some(Kind::SpendLimit));
    for stream in [false, true] {
        let seen = send(&stack.service, request(SONNET, stream))
            .await
            .expect("an answer");
        assert!(seen.is_complete(stream), "{seen:?}");
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody waited");
    assert_eq!(fake.log_len(), 4);
    for scope in stack.limiter.snapshot() {
        assert_eq!(scope.paused_for, Duration::ZERO, "{scope:?}");
    }
    stack.assert_idle("a spend cap");
}

#[tokio::test(start_paused = true)]
async fn ramp_limit_delays_but_fails_no_call() {
    let ramp = Ramp {
        window: 10 * SECOND,
        growth_percent: 200,
        floor: 10,
    };
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited().with_ramp(ramp))
        .build();
    let stack = patient(&fake, rpm(6_000));
    let answers = many(&stack.service, 60, Duration::ZERO).await;
    assert_eq!(failed(&answers), Vec::<String>::new());
    stack.assert_idle("a ramp");
}

#[tokio::test(start_paused = true)]
async fn known_concurrency_limit_is_kept() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited().with_concurrency(4))
        .time_to_first_token(SECOND)
        .tokens_per_second(16.0)
        .build();
    let stack = patient(&fake, at_once(4));
    let answers = many(&stack.service, 40, Duration::ZERO).await;
    assert_eq!(failed(&answers), Vec::<String>::new());
    assert_eq!(refused(&fake.log()), 0);
    // Ten rounds of a little under two seconds: none of the four places stood empty.
    assert!(fake.elapsed() < 20 * SECOND, "{:?}", fake.elapsed());
    stack.assert_idle("four at once");
}

#[tokio::test(start_paused = true)]
async fn unknown_concurrency_limit_fails_no_call() {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::unlimited().with_concurrency(4))
        .time_to_first_token(SECOND)
        .build();
    let stack = patient(&fake, Limits::new());
    let answers = many(&stack.service, 12, Duration::ZERO).await;
    assert_eq!(failed(&answers), Vec::<String>::new());
    stack.assert_idle("four at once, unknown");
}

#[tokio::test(start_paused = true)]
async fn request_estimated_over_a_limit_is_sent_at_an_unused_limit() {
    let fake = quiet();
    let stack = Stack::new(fake.clone(), input_tokens(1_000));
    let seen = send(&stack.service, long(5_000)).await.expect("an answer");
    assert_eq!((seen.status, fake.log_len()), (200, 1), "{seen:?}");
    stack.assert_idle("a giant");
}

#[tokio::test(start_paused = true)]
async fn deadline_ends_every_wait() {
    // In the queue.
    let fake = silent();
    let stack = Stack::new(fake.clone(), rpm(1));
    send(&stack.service, request(SONNET, false))
        .await
        .expect("an answer");
    let by = |wait: Duration| {
        let mut request = request(SONNET, false);
        request
            .extensions_mut()
            .insert(Deadline(Instant::now() + wait));
        request
    };
    let start = Instant::now();
    let seen = send(&stack.service, by(5 * SECOND))
        .await
        .expect("an answer");
    assert_eq!(seen.status, 504, "{seen:?}");
    assert!(seen.class().local);
    assert_eq!(start.elapsed(), Duration::ZERO, "known at once");
    assert_eq!(fake.log_len(), 1);
    stack.assert_idle("a deadline in the queue");

    // While the server is silent.
    let fake = quiet();
    let stack = Stack::new(fake.clone(), Limits::new());
    fake.inject(Fault::SlowHead(HOUR));
    let start = Instant::now();
    let seen = send(&stack.service, by(5 * SECOND))
        .await
        .expect("an answer");
    assert_eq!(seen.status, 504, "{seen:?}");
    assert!(!seen.class().local, "it was sent");
    assert!(start.elapsed() < 6 * SECOND);
    assert_eq!((fake.log_len(), fake.in_flight()), (1, 0));
    stack.assert_idle("a deadline while calling");

    // Between two attempts, the caller gets the server's own answer, and no time is lost.
    fake.inject_times(Fault::Overloaded, 9);
    let start = Instant::now();
    let seen = send(&stack.service, by(5 * SECOND))
        .await
        .expect("an answer");
    assert_eq!(seen.status, 529, "{seen:?}");
    assert!(start.elapsed() < 5 * SECOND);
    fake.clear_injected();
    stack.assert_idle("a deadline between attempts");

    // In the past.
    let before = fake.log_len();
    let mut late = request(SONNET, false);
    late.extensions_mut().insert(Deadline(Instant::now()));
    let seen = send(&stack.service, late).await.expect("an answer");
    assert_eq!(seen.status, 504);
    assert_eq!(fake.log_len(), before, "not sent");

    // In the middle of a stream.
    fake.inject(Fault::Stall {
        after_tokens: 4,
        duration: HOUR,
    });
    let start = Instant::now();
    let request: Request<RequestBody> =
        by(5 * SECOND).map(|_| crate::common::prompt(SONNET, true).into());
    let seen = send(&stack.service, request).await.expect("an answer");
    assert!(
        seen.status == 200 && seen.contains("timeout_error"),
        "{seen:?}"
    );
    assert!(start.elapsed() < 6 * SECOND);
    assert_eq!(fake.in_flight(), 0);
    stack.assert_idle("a deadline mid-stream");
}

/// Without a retry layer to look at the deadline first.
#[tokio::test(start_paused = true)]
async fn bucket_without_retry_keeps_the_deadline() {
    let fake = quiet();
    let service = TokenBucketLayer::new(rpm(60)).layer(fake.clone());
    let mut late = request(SONNET, false);
    late.extensions_mut().insert(Deadline(Instant::now()));
    let seen = send(&service, late).await.expect("an answer");
    assert_eq!((seen.status, fake.log_len()), (504, 0));
}

/// `retry-after: 0`, or a date in the past, is no word on how long to wait.
#[tokio::test(start_paused = true)]
async fn retry_after_of_zero_is_retried_with_backoff() {
    for value in ["0", "0.0", "Thu, 01 Jan 1970 00:00:00 GMT"] {
        let started = Instant::now();
        let times = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = times.clone();
        let api = service_fn(move |_: Request<RequestBody>| {
            log.lock().expect("no panic").push(started.elapsed());
            let answer = http::Response::builder()
                .status(429)
                .header("retry-after", value);
            let body = http_body_util::Full::new(bytes::Bytes::from("{}"));
            std::future::ready(Ok::<_, std::convert::Infallible>(
                answer.body(body).expect("valid"),
            ))
        });
        let stack = Stack::new(api, Limits::new());
        let seen = send(&stack.service, request(SONNET, false))
            .await
            .expect("an answer");
        assert_eq!(seen.status, 429);
        let times = times.lock().expect("no panic").clone();
        for pair in times.windows(2) {
            assert!(pair[1] - pair[0] >= SECOND, "{value}: {times:?}");
        }
        stack.assert_idle("retry-after: 0");
    }
}

/// A `retry-after` up to a minute is waited for with any jitter. By default, retry layer and bucket
/// wait for a minute.
#[tokio::test(start_paused = true)]
async fn long_retry_after_is_waited_for() {
    let fake = quiet();
    let stack = Stack::new(fake.clone(), Limits::new());
    let retry_after = 45 * SECOND;
    fake.inject_times(Fault::RateLimited { retry_after }, 30);
    let answers = many(&stack.service, 30, Duration::ZERO).await;
    assert_eq!(failed(&answers), Vec::<String>::new());
    assert_eq!(fake.log_len(), 60);
}

/// More wait than the queue holds: refused at once, and the others are served.
#[tokio::test(start_paused = true)]
async fn full_queue_rejects() {
    let fake = quiet();
    let config = LimiterConfig::new().with_queue_limit(10);
    let limiter =
        LocalLimiter::with_config(Limits::new().with_concurrency(NonZeroU32::MIN), config);
    let bucket = TokenBucketLayer::over(limiter).with_max_wait(HOUR);
    let stack = Stack::with(fake.clone(), RetryLayer::new(), bucket);
    fake.inject(Fault::SlowHead(SECOND));
    let answers = many(&stack.service, 50, Duration::ZERO).await;
    let full = answers.iter().filter(|seen| seen.status == 429).count();
    assert_eq!(full, 39);
    assert_eq!(fake.log_len(), 11);
    stack.assert_idle("a full queue");
}
