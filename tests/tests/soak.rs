//! A soak of all six layers in paused time, over a fake that fails in all its ordinary ways.
//!
//! The suite runs a short part. Ten minutes at 200 requests a second, with and without a fallback,
//! and with and without an outage, by
//! `cargo test -p tower-claude-tests --test soak -- --ignored --nocapture`.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tower_claude::{event::Event, recommended};
use tower_claude_fake_claude::{
    BreakKind, BreakPoint, FakeClaude, FakeError, Fault, GroupLimits, Incident,
};
use tower_claude_tests::{HAIKU, OPUS, Received, SECOND, SONNET, request, send};
use tower_layer::Layer;

/// A year.
const ALWAYS: Duration = Duration::from_secs(31_536_000);
/// The time around an outage in which calls may fail: before it, because a call may be sent again,
/// and after it, until the circuit is closed.
const AROUND: Duration = Duration::from_secs(60);
/// The rate group of the model.
const GROUP: &str = "sonnet-5.5";

/// The ordinary faults, in tenths of a per cent of all requests. Some 6 % fail before their
/// content.
fn ordinary() -> Vec<Incident> {
    let after_tokens = 4;
    let faults = [
        (15, Fault::Overloaded),
        (7, Fault::ServerError),
        (4, Fault::Unavailable),
        (2, Fault::Timeout504),
        (8, Fault::Reset),
        (3, Fault::NonJson(StatusCode::BAD_GATEWAY)),
        (2, Fault::NonJson(StatusCode::TOO_MANY_REQUESTS)),
        (
            5,
            Fault::RateLimited {
                retry_after: SECOND,
            },
        ),
        (2, Fault::RateLimitedBare),
        (
            1,
            Fault::Ramp {
                retry_after: SECOND,
            },
        ),
        (
            3,
            Fault::Break {
                how: BreakKind::Close,
                at: BreakPoint::AfterHead,
            },
        ),
        (5, Fault::ErrorBeforeContent),
        (3, Fault::TruncatedBeforeContent),
        (5, Fault::SlowHead(20 * SECOND)),
        (2, Fault::ErrorMidStream { after_tokens }),
        (2, Fault::Truncated { after_tokens }),
        (2, Fault::Cut { after_tokens }),
        (
            2,
            Fault::Stall {
                after_tokens,
                duration: 10 * SECOND,
            },
        ),
        (2, Fault::Refusal { after_tokens }),
    ];
    let faults = faults.into_iter();
    faults
        .map(|(share, fault)| {
            let incident = Incident::new(Duration::ZERO, ALWAYS, fault);
            incident.with_probability(f64::from(share) / 1e3)
        })
        .collect()
}

/// A run.
#[derive(Clone, Copy)]
struct Soak {
    per_second: u32,
    length: Duration,
    /// The time from sending to the first content.
    first_token: Duration,
    has_fallback: bool,
    /// For so long the model is down in the middle.
    outage: Duration,
}

/// The counts of a run.
#[derive(Debug, Default)]
struct Seen {
    calls: u64,
    /// Calls whose caller saw an error before any content.
    failed: u64,
    /// The same, of calls that were made a minute before the outage or after it, and not before the
    /// first success. A retry budget holds ten retries at the start.
    failed_while_up: u64,
    /// Responses that broke off after content.
    broken: u64,
    /// Rejections by the breaker.
    refused: u64,
    refused_in_outage: u64,
    /// From the end of the outage to the last rejection.
    recovery: Duration,
    retries: u64,
    fallbacks: u64,
    opened: u64,
    upstream: usize,
}

impl Soak {
    fn outage(&self) -> Range<Duration> {
        let from = (self.length - self.outage) / 2;
        from..from + self.outage
    }

    fn server(&self) -> FakeClaude {
        let Range { start, end } = self.outage();
        let limits = GroupLimits::requests_only(u64::from(self.per_second) * 90);
        let mut server = FakeClaude::builder()
            .limits(limits)
            .time_to_first_token(self.first_token)
            .tokens_per_second(200.0)
            .output_tokens(40)
            .keep_requests(0)
            .incident(Incident::new(start, end, Fault::Overloaded).with_group(GROUP));
        for incident in ordinary() {
            server = server.incident(incident);
        }
        server.build()
    }

    async fn run(self) -> Seen {
        // An unlucky probe meets an ordinary fault. With one seed, each run is the same.
        fastrand::seed(1);
        let server = self.server();
        let outage = self.outage();
        let counts: Arc<[AtomicU64; 5]> = Arc::default();
        let observer = {
            let (counts, server, outage) = (counts.clone(), server.clone(), outage.clone());
            move |event: &Event<'_>| {
                let [refused, in_outage, last, retries, fallbacks] = &*counts;
                match event {
                    Event::Rejected {
                        layer: "circuit-breaker",
                        ..
                    } => {
                        let now = server.elapsed();
                        refused.fetch_add(1, Ordering::Relaxed);
                        in_outage.fetch_add(u64::from(outage.contains(&now)), Ordering::Relaxed);
                        last.store(now.as_millis() as u64, Ordering::Relaxed);
                    }
                    Event::Retry { .. } => {
                        retries.fetch_add(1, Ordering::Relaxed);
                    }
                    Event::FellBack { .. } => {
                        fallbacks.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
        };
        let models: &[&str] = if self.has_fallback {
            &[HAIKU, OPUS]
        } else {
            &[]
        };
        let stack = recommended().with_fallback(models).with_observer(observer);
        let service = stack.layer(server.clone());
        let mut calls = JoinSet::new();
        let mut seen = Seen::default();
        let start = Instant::now();
        for call in 0..self.length.as_secs() as u32 * self.per_second {
            sleep_until(start + SECOND * call / self.per_second).await;
            let is_stream = call % 2 == 0;
            let answer = send(&service, request(SONNET, is_stream));
            let at = server.elapsed();
            calls.spawn(async move { (at, is_stream, answer.await) });
            while let Some(done) = calls.try_join_next() {
                seen.count(&self, done.expect("no panic"));
            }
        }
        while let Some(done) = calls.join_next().await {
            seen.count(&self, done.expect("no panic"));
        }
        let count = |index: usize| counts[index].load(Ordering::Relaxed);
        (seen.refused, seen.refused_in_outage) = (count(0), count(1));
        seen.recovery = Duration::from_millis(count(2)).saturating_sub(outage.end);
        (seen.retries, seen.fallbacks) = (count(3), count(4));
        seen.opened = stack.breaker().handle().snapshot().opened;
        seen.upstream = server.log_len();
        assert_eq!(server.in_flight(), 0);
        seen
    }
}

type Done = (Duration, bool, Result<Received<FakeError>, FakeError>);

impl Seen {
    fn count(&mut self, soak: &Soak, (at, is_stream, answer): Done) {
        self.calls += 1;
        let answer = answer.as_ref();
        if answer.is_ok_and(|answer| answer.is_complete(is_stream)) {
            return;
        }
        if is_stream && answer.is_ok_and(|answer| answer.contains("content_block_start")) {
            self.broken += 1;
            return;
        }
        self.failed += 1;
        let Range { start, end } = soak.outage();
        let may_fail = start.saturating_sub(AROUND)..end + AROUND;
        let is_down = start < end && may_fail.contains(&at);
        if !is_down && at > soak.first_token + SECOND {
            self.failed_while_up += 1;
        }
    }

    /// The rejections while the model was up, in thousandths of the calls.
    fn refused_while_up(&self) -> u64 {
        1000 * (self.refused - self.refused_in_outage) / self.calls
    }
}

/// The breaker refuses nothing, and no caller sees an error, while the model is up.
async fn ordinary_faults(per_second: u32, length: Duration, first_token: Duration) {
    for has_fallback in [false, true] {
        let soak = Soak {
            per_second,
            length,
            first_token,
            has_fallback,
            outage: Duration::ZERO,
        };
        let seen = soak.run().await;
        println!("soak, content after {first_token:?}, fallback {has_fallback}: {seen:?}");
        assert!(seen.refused_while_up() <= 10);
        assert_eq!(seen.failed_while_up, 0);
    }
}

async fn outage(per_second: u32, length: Duration, outage: Duration) {
    for has_fallback in [false, true] {
        let soak = Soak {
            per_second,
            length,
            first_token: SECOND,
            has_fallback,
            outage,
        };
        let seen = soak.run().await;
        println!("soak, an outage of {outage:?}, fallback {has_fallback}: {seen:?}");
        assert!(seen.opened > 0);
        // With a fallback only its probes reach the breaker, which ramps up meanwhile.
        assert!(has_fallback || seen.recovery <= AROUND);
        assert_eq!(seen.failed_while_up, 0);
        assert!(!has_fallback || seen.failed == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn breaker_under_ordinary_faults_refuses_nothing() {
    ordinary_faults(200, 5 * SECOND, SECOND).await;
    ordinary_faults(50, 60 * SECOND, 10 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn outage_with_a_fallback_is_not_seen_and_ends_soon() {
    outage(20, 180 * SECOND, 40 * SECOND).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "240,000 calls"]
async fn ten_minutes_of_ordinary_faults() {
    ordinary_faults(200, 600 * SECOND, SECOND).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "240,000 calls"]
async fn ten_minutes_with_an_outage() {
    outage(200, 600 * SECOND, 60 * SECOND).await;
}
