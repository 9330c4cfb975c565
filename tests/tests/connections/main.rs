//! Lost connections and streams over real sockets: HTTP/1 and HTTP/2, hyper's and reqwest's client.
//!
//! Nothing here looks at a clock. One long bound per test turns a hang into a failure.

mod own_side;
mod redirects;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use tokio::{sync::Semaphore, task::JoinSet};
use tower::ServiceExt;
use tower_claude::{
    Limits, LocalLimiter, Recommended, RequestBody, RetryLayer,
    fallback_model::SERVED_MODEL,
    limiter::LimiterConfig,
    recommended,
    retry::{Backoff, Jitter},
};
use tower_claude_fake_claude::{BreakKind, BreakPoint, FakeClaude, Fault, GroupLimits};
use tower_claude_reqwest::HttpService;
use tower_claude_tests::{SONNET, request_to};
use tower_layer::Layer;
use tower_service::Service;

pub(crate) type HyperClient = hyper_util::client::legacy::Client<HttpConnector, RequestBody>;

/// Far longer than any of these tests takes.
pub(crate) async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(300), test)
        .await
        .expect("the test hangs")
}

pub(crate) fn hyper_client(http2: bool) -> HyperClient {
    hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http()
}

/// `automatic` is the default of reqwest, which repeats a few requests by itself.
pub(crate) fn reqwest_client(http2: bool, automatic: bool) -> HttpService<reqwest::Client> {
    let mut builder = reqwest::Client::builder().no_proxy();
    if http2 {
        builder = builder.http2_prior_knowledge();
    }
    if !automatic {
        builder = builder.retry(reqwest::retry::never());
    }
    HttpService::new(builder.build().expect("a client"))
}

fn quick() -> RetryLayer {
    let wait = Duration::from_millis(5);
    RetryLayer::new().with_backoff(Backoff::new(wait, 4 * wait, Jitter::Upward))
}

pub(crate) fn stack() -> Recommended {
    let all = NonZeroU32::new(u32::MAX);
    let config = LimiterConfig::new().with_initial_concurrency(all);
    let limiter = LocalLimiter::with_config(Limits::unlimited(), config);
    recommended().with_limiter(limiter).with_retry(quick())
}

/// The fault that `calls` calls meet.
#[derive(Clone, Copy)]
struct Case {
    fault: BreakKind,
    at: BreakPoint,
    http2: bool,
    stream: bool,
    calls: u64,
}

impl Case {
    /// Returns true if the fault ends a whole connection with all calls on it.
    fn is_shared(&self) -> bool {
        self.http2 && !matches!(self.fault, BreakKind::ResetStream(_))
    }

    /// Returns true if every call can be answered: no content has reached the caller.
    fn is_curable(&self) -> bool {
        !self.stream || !matches!(self.at, BreakPoint::AfterTokens(_))
    }

    /// Returns a server whose content begins long after all calls have met the fault. A call on a
    /// shared connection could not be answered if its content came before another call breaks it.
    fn fake(&self) -> FakeClaude {
        match self.is_shared() && self.stream {
            true => fake_after(Duration::from_secs(1)),
            false => fake(),
        }
    }

    /// Returns how many of the calls are answered whole, and how many calls the server saw.
    async fn run<S, B>(self, service: S, fake: &FakeClaude, url: &str) -> (u64, usize)
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
    {
        let fault = Fault::Break {
            how: self.fault,
            at: self.at,
        };
        let mut calls = JoinSet::new();
        let send = |calls: &mut JoinSet<Option<bool>>| {
            let (service, request) = (service.clone(), request_to(url, SONNET, self.stream));
            calls.spawn(async move {
                let response = service.oneshot(request).await.ok()?;
                let is_success = response.status() == 200;
                Some(is_success && response.into_body().collect().await.is_ok())
            });
        };
        if self.is_shared() {
            // One connection for all: the last call breaks it while the others wait.
            for _ in 1..self.calls {
                send(&mut calls);
            }
            let others = self.calls as usize - 1;
            fake.wait_for(|log| log.len() >= others).await;
            fake.inject(fault);
            send(&mut calls);
        } else {
            fake.inject_times(fault, self.calls);
            for _ in 0..self.calls {
                send(&mut calls);
            }
        }
        let mut answered = 0;
        while let Some(call) = calls.join_next().await {
            answered += u64::from(call.expect("no panic") == Some(true));
        }
        (answered, fake.log_len())
    }
}

fn fake() -> FakeClaude {
    fake_after(Duration::from_millis(40))
}

fn fake_after(first_token: Duration) -> FakeClaude {
    FakeClaude::builder()
        .limits(GroupLimits::unlimited())
        .output_tokens(4)
        .time_to_first_token(first_token)
        .build()
}

const FAULTS: [(&str, BreakKind); 6] = [
    ("closed", BreakKind::Close),
    ("GOAWAY, taken", BreakKind::GoAwayTaken),
    ("GOAWAY, not taken", BreakKind::GoAwayUntaken),
    ("RST REFUSED_STREAM", BreakKind::ResetStream(7)),
    ("RST INTERNAL_ERROR", BreakKind::ResetStream(2)),
    ("RST NO_ERROR", BreakKind::ResetStream(0)),
];

const POINTS: [(&str, BreakPoint); 3] = [
    ("before head", BreakPoint::BeforeHead),
    ("after head", BreakPoint::AfterHead),
    ("after content", BreakPoint::AfterTokens(1)),
];

/// Returns how many calls a retry layer alone and the whole stack answer, and the row of the table.
///
/// Both have the default waits. With far shorter ones, the repeated calls meet the faults that are
/// meant for calls that have not been sent yet.
async fn compare(case: Case, by_hyper: bool, name: &str, point: &str) -> ([u64; 2], String) {
    let mut answered = [0, 0];
    let (mut attempts, mut opened) = (0, 0);
    for (with_stack, answered) in answered.iter_mut().enumerate() {
        let fake = case.fake();
        let server = fake.serve().await.expect("a port");
        let url = server.url();
        let (stack, retry) = (stack().with_retry(RetryLayer::new()), RetryLayer::new());
        macro_rules! run {
            ($client:expr) => {
                if with_stack == 1 {
                    case.run(stack.layer($client), &fake, &url).await
                } else {
                    case.run(retry.layer($client), &fake, &url).await
                }
            };
        }
        (*answered, attempts) = if by_hyper {
            run!(hyper_client(case.http2))
        } else {
            run!(reqwest_client(case.http2, true))
        };
        opened = stack.breaker().handle().snapshot().opened;
    }
    let version = if case.http2 { "HTTP/2" } else { "HTTP/1" };
    let client = if by_hyper { "hyper" } else { "reqwest" };
    let kind = if case.stream { "stream" } else { "JSON" };
    let ([retry, stack], calls) = (answered, case.calls);
    let row = format!(
        "{name:18} | {point:13} | {version} | {client:7} | {kind:6} | {calls:5} | {retry:5} | {stack:5} | {attempts:8} | {opened:6}"
    );
    (answered, row)
}

/// The recommended stack answers at least as many calls as a retry layer alone, and all that can be
/// answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stack_answers_at_least_what_a_plain_retry_answers_in_every_connection_fault() {
    // Over HTTP/1 each call needs a connection, and both ends are in this process: 768 of the 1,024
    // descriptors that a process usually has.
    let places = Arc::new(Semaphore::new(384));
    let mut cases = JoinSet::new();
    for (http2, by_hyper) in [(false, true), (false, false), (true, true), (true, false)] {
        // Over HTTP/1 all faults are a closed connection.
        let faults = if http2 { &FAULTS[..] } else { &FAULTS[..1] };
        for &(name, fault) in faults {
            for (point, at) in POINTS {
                for (calls, stream) in [(1, false), (8, true), (64, false)] {
                    let case = Case {
                        fault,
                        at,
                        http2,
                        stream,
                        calls,
                    };
                    let places = places.clone();
                    cases.spawn(async move {
                        let _places = places.acquire_many(calls as u32).await;
                        let (answered, row) = compare(case, by_hyper, name, point).await;
                        (case, answered, row)
                    });
                }
            }
        }
    }
    let mut rows = Vec::new();
    let mut worse = Vec::new();
    bounded(async {
        while let Some(case) = cases.join_next().await {
            let (case, [retry, stack], row) = case.expect("no panic");
            // Whether content is sent before a stream is reset is a matter of chance.
            if case.is_curable() && (stack < retry || stack < case.calls) {
                worse.push(row.clone());
            }
            rows.push(row);
        }
    })
    .await;
    rows.sort();
    println!(
        "fault              | point         | version| client  | kind   | calls | retry | stack | attempts | opened"
    );
    rows.iter().for_each(|row| println!("{row}"));
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

/// A server that takes no stream is not asked for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_is_always_refused_is_retried_a_bounded_number_of_times() {
    bounded(async {
        for by_hyper in [true, false] {
            let fake = fake();
            let server = fake.serve().await.expect("a port");
            let refused = Fault::Break {
                how: BreakKind::ResetStream(7),
                at: BreakPoint::BeforeHead,
            };
            fake.inject_times(refused, 1000);
            let request = request_to(&server.url(), SONNET, false);
            let stack = stack();
            let failed = if by_hyper {
                stack
                    .layer(hyper_client(true))
                    .oneshot(request)
                    .await
                    .is_err()
            } else {
                stack
                    .layer(reqwest_client(true, false))
                    .oneshot(request)
                    .await
                    .is_err()
            };
            assert!(failed);
            // Five, and three that do not count.
            assert_eq!(fake.log_len(), 8);
            assert_eq!(stack.breaker().handle().snapshot().opened, 0);
        }
    })
    .await;
}

/// Neither fallback nor breaker takes one lost connection for the end of the model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connection_moves_no_call_to_another_model() {
    bounded(async {
        for at in [BreakPoint::BeforeHead, BreakPoint::AfterTokens(1)] {
            let fake = fake();
            let server = fake.serve().await.expect("a port");
            let stack = stack().with_fallback(["claude-haiku-4-5"]);
            let service = stack.layer(hyper_client(true));
            let case = Case {
                fault: BreakKind::Close,
                at,
                http2: true,
                stream: true,
                calls: 8,
            };
            case.run(service.clone(), &fake, &server.url()).await;
            let next = service
                .oneshot(request_to(&server.url(), SONNET, false))
                .await;
            let next = next.expect("a response");
            assert_eq!(next.status(), 200);
            assert!(!next.headers().contains_key(SERVED_MODEL));
            let is_sonnet = |model: &str| model == SONNET;
            assert!(fake.log().iter().all(|attempt| is_sonnet(&attempt.model)));
        }
    })
    .await;
}

/// Forty calls on one connection, and ten tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_on_a_lost_connection_pay_for_one_retry() {
    bounded(async {
        // Slow enough that all calls are under way at once.
        let fake = fake_after(Duration::from_secs(1));
        let server = fake.serve().await.expect("a port");
        let layer = quick();
        let case = Case {
            fault: BreakKind::Close,
            at: BreakPoint::BeforeHead,
            http2: true,
            stream: false,
            calls: 40,
        };
        let service = layer.layer(hyper_client(true));
        let (answered, _) = case.run(service, &fake, &server.url()).await;
        assert_eq!(answered, 40);
        // One token less, and then half a token for each success.
        assert_eq!(layer.handle().snapshot().retries, 40);
    })
    .await;
}
