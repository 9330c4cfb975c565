//! A soak: 200 requests per second with random incidents, in front of a gateway that nobody
//! scrapes.
//!
//! The suite runs a short part. Ten minutes by `cargo test --release -p tower-claude-gateway --test
//! soak -- --ignored --nocapture`.
#![cfg(target_os = "linux")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{process::GatewayProcess, *};
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tower_claude_fake_claude::{
    BreakKind, BreakPoint, FakeClaude, FakeClaudeBuilder, Fault, GroupLimits, Incident,
};

const PER_SECOND: u32 = 200;
const SECOND: Duration = Duration::from_secs(1);
/// A year.
const ALWAYS: Duration = Duration::from_secs(31_536_000);

#[test]
#[ignore = "the gateway of the other tests"]
fn gateway_process() {
    process::serve();
}

/// The incidents, in thousandths of all requests.
fn incidents() -> Vec<Incident> {
    let after_tokens = 4;
    let retry_after = SECOND;
    let faults = [
        (15, Fault::Overloaded),
        (10, Fault::ServerError),
        (4, Fault::NonJson(StatusCode::BAD_GATEWAY)),
        (2, Fault::RateLimited { retry_after }),
        (2, Fault::RateLimitedBare),
        (8, Fault::Reset),
        (
            4,
            Fault::Break {
                how: BreakKind::Close,
                at: BreakPoint::AfterHead,
            },
        ),
        (5, Fault::ErrorBeforeContent),
        (4, Fault::TruncatedBeforeContent),
        (10, Fault::SlowHead(2 * SECOND)),
        (5, Fault::ErrorMidStream { after_tokens }),
        (5, Fault::Truncated { after_tokens }),
        (5, Fault::Cut { after_tokens }),
        (
            5,
            Fault::Stall {
                after_tokens,
                duration: 3 * SECOND,
            },
        ),
    ];
    let faults = faults.into_iter();
    faults
        .map(|(share, fault)| {
            let incident = Incident::new(Duration::ZERO, ALWAYS, fault);
            incident.with_probability(f64::from(share) / 1e3)
        })
        .collect()
}

/// The end of a request, as its client sees it.
enum End {
    Complete,
    /// A status of an error, or no response.
    Failed,
    /// The body broke off, or has an `error` event.
    Broken,
    /// The client went away.
    Left,
}

async fn call(client: TestClient, gateway: http::request::Builder, number: u32) -> End {
    let is_stream = number.is_multiple_of(2);
    let body = if is_stream {
        STREAM_REQUEST.to_owned()
    } else {
        STREAM_REQUEST.replace("true", "false")
    };
    let request = gateway.body(Full::from(body)).unwrap();
    let leaves = number.is_multiple_of(50);
    let response = client.request(request);
    // Some leave before the head, some after the first event.
    if leaves && number.is_multiple_of(100) {
        let _ = tokio::time::timeout(Duration::from_millis(20), response).await;
        return End::Left;
    }
    let Ok(response) = response.await else {
        return End::Failed;
    };
    if !response.status().is_success() {
        let _ = response.into_body().collect().await;
        return End::Failed;
    }
    let mut body = response.into_body();
    if leaves {
        let _ = body.frame().await;
        return End::Left;
    }
    match body.collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            let is_complete = match is_stream {
                true => body.ends_with(b"data: {\"type\":\"message_stop\"}\n\n"),
                false => body.ends_with(b"}"),
            };
            if is_complete {
                End::Complete
            } else {
                End::Broken
            }
        }
        Err(_) => End::Broken,
    }
}

/// The counts of a run.
#[derive(Debug, Default)]
struct Seen {
    complete: u32,
    failed: u32,
    broken: u32,
    left: u32,
}

impl Seen {
    fn count(&mut self, end: &End) {
        *match end {
            End::Complete => &mut self.complete,
            End::Failed => &mut self.failed,
            End::Broken => &mut self.broken,
            End::Left => &mut self.left,
        } += 1;
    }
}

/// Sends the requests of these many periods. Returns the memory at the end of each, in KiB.
async fn soak(periods: usize, period: Duration) -> Vec<u64> {
    let fake = FakeClaude::builder()
        .limits(GroupLimits::requests_only(u64::from(PER_SECOND) * 90))
        .time_to_first_token(Duration::from_millis(100))
        .tokens_per_second(200.0)
        .output_tokens(40)
        .keep_requests(0);
    let fake = incidents()
        .into_iter()
        .fold(fake, FakeClaudeBuilder::incident);
    let fake = fake.build();
    let server = fake.serve().await.unwrap();
    let gateway = GatewayProcess::before(&server.url(), "", "");
    let (tasks, descriptors) = (gateway.tasks().await, gateway.descriptors());
    println!(
        "at the start: {tasks} tasks, {descriptors} descriptors, {} KiB",
        gateway.memory()
    );
    let client: TestClient = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut calls = JoinSet::new();
    let mut seen = Seen::default();
    let mut memory = Vec::with_capacity(periods);
    let mut ticks = interval(SECOND / PER_SECOND);
    let start = Instant::now();
    let mut number = 0;
    while memory.len() < periods {
        ticks.tick().await;
        number += 1;
        calls.spawn(call(
            client.clone(),
            gateway.request("POST", "/v1/messages"),
            number,
        ));
        while let Some(done) = calls.try_join_next() {
            seen.count(&done.unwrap());
        }
        if start.elapsed() >= period * (memory.len() as u32 + 1) {
            memory.push(gateway.memory());
            println!(
                "after {:?}: {} KiB, {number} requests, {} open, {seen:?}",
                period * memory.len() as u32,
                gateway.memory(),
                calls.len(),
            );
        }
    }
    while let Some(done) = calls.join_next().await {
        seen.count(&done.unwrap());
    }
    println!(
        "all answered: {seen:?}, {} attempts at the fake",
        fake.log_len()
    );
    assert!(seen.complete > number / 100 * 90, "{seen:?}");
    // What is left is kept connections on both sides, and they end here.
    drop(client);
    server.shutdown().await;
    within(async {
        // One task of the client waits to close connections that were unused for long.
        while gateway.tasks().await > tasks + 1 || gateway.descriptors() > descriptors {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(gateway.in_flight().await, 0.0);
    assert_eq!(fake.in_flight(), 0);
    println!(
        "at the end: {} tasks, {} descriptors, {} KiB",
        gateway.tasks().await,
        gateway.descriptors(),
        gateway.memory()
    );
    memory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incidents_leave_no_task_connection_or_permit() {
    soak(5, 4 * SECOND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes"]
async fn ten_minutes_of_incidents_leave_the_memory_flat() {
    let memory = soak(10, 60 * SECOND).await;
    let (second, last) = (memory[1], memory[9]);
    println!("minute 2: {second} KiB, minute 10: {last} KiB");
    assert!(last < second + second / 10);
}
