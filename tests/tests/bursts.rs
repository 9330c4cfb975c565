//! Bursts of calls of which a few fail at once, while the others succeed slowly.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body::Body;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_claude::{CircuitBreakerLayer, RequestBody, recommended};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
use tower_claude_tests::{Received, SECOND, SONNET, request, send};
use tower_layer::Layer;
use tower_service::Service;

const FAULTS: [Fault; 5] = [
    Fault::Overloaded,
    Fault::ServerError,
    Fault::Reset,
    Fault::TruncatedBeforeContent,
    Fault::ErrorBeforeContent,
];

/// A run.
#[derive(Clone, Debug)]
struct Burst {
    fault: Fault,
    calls: usize,
    failures: usize,
    /// The order of the calls that fail.
    order: Order,
    /// The time of a success until its content.
    success: Duration,
    waves: usize,
    is_stream: bool,
    is_whole_stack: bool,
}

/// The calls that fail in each wave.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// The first, when all calls are under way.
    First,
    /// The last, when all calls are under way.
    Last,
    /// Each at once when it is sent, among calls that have no outcome yet.
    Spread,
    /// One in each second.
    OneByOne,
}

impl Order {
    /// Returns the time until a call fails, or `None` if it succeeds.
    fn failure(self, burst: &Burst, index: usize) -> Option<Duration> {
        let late = Duration::from_millis(5);
        let every = burst.calls / burst.failures;
        match self {
            Self::First => (index < burst.failures).then_some(late),
            Self::Last => (index >= burst.calls - burst.failures).then_some(late),
            Self::Spread => (index % every == every - 1).then_some(Duration::ZERO),
            Self::OneByOne => (index < burst.failures).then(|| SECOND * index as u32 + late),
        }
    }
}

impl Burst {
    fn new(fault: Fault, calls: usize, failures: usize, order: Order) -> Self {
        Self {
            fault,
            calls,
            failures,
            order,
            success: SECOND,
            waves: 1,
            is_stream: false,
            is_whole_stack: false,
        }
    }

    /// Runs both kinds of responses.
    async fn opens_nothing(mut self) {
        for is_stream in [false, true] {
            self.is_stream = is_stream;
            let (opened, refused) = self.run().await;
            assert_eq!((opened, refused), (0, 0), "{self:?}");
        }
    }

    /// Returns how often a circuit opened, and the number of calls that it rejected.
    async fn run(&self) -> (u64, u64) {
        let server = |first_token| {
            let server = FakeClaude::builder().limits(GroupLimits::unlimited());
            server
                .time_to_first_token(first_token)
                .keep_requests(0)
                .build()
        };
        let (good, bad) = (server(self.success), server(Duration::ZERO));
        bad.inject_times(self.fault.clone(), u64::MAX);
        let sent = Arc::new(AtomicUsize::new(0));
        let (counter, burst) = (sent.clone(), self.clone());
        let api = tower::service_fn(move |request: Request<RequestBody>| {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            // Retries succeed.
            let is_first = number < burst.calls;
            let failure = burst.order.failure(&burst, number).filter(|_| is_first);
            let (good, bad) = (good.clone(), bad.clone());
            async move {
                let Some(wait) = failure else {
                    return good.oneshot(request).await;
                };
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                bad.oneshot(request).await
            }
        });
        if self.is_whole_stack {
            let stack = recommended();
            let all_succeed = self.send(&stack.layer(api), &sent).await;
            assert!(all_succeed, "{self:?}");
            let seen = stack.breaker().handle().snapshot();
            return (seen.opened, seen.refused);
        }
        let breaker = CircuitBreakerLayer::new();
        self.send(&breaker.layer(api), &sent).await;
        let seen = breaker.handle().snapshot();
        (seen.opened, seen.refused)
    }

    /// Sends all waves. Returns true if all calls succeed.
    async fn send<S, R>(&self, service: &S, sent: &AtomicUsize) -> bool
    where
        S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Send,
        R: Body<Data = Bytes> + Unpin + Send + 'static,
        R::Error: Send,
    {
        let is_stream = self.is_stream;
        let mut waves = Vec::new();
        for _ in 0..self.waves {
            sent.store(0, Ordering::Relaxed);
            let wave = (0..self.calls).map(|_| send(service, request(SONNET, is_stream)));
            let wave = join_all(wave.collect::<Vec<_>>());
            waves.push(tokio::spawn(async move {
                let mut answers = wave.await.into_iter();
                let whole = |answer: Result<_, _>| {
                    answer.is_ok_and(|answer: Received<_>| answer.is_complete(is_stream))
                };
                answers.all(whole)
            }));
            sleep(3 * SECOND).await;
        }
        let waves = join_all(waves).await;
        waves.into_iter().all(|wave| wave.expect("no panic"))
    }
}

#[tokio::test(start_paused = true)]
async fn burst_of_a_hundred_with_up_to_ten_failures_opens_nothing() {
    for fault in FAULTS {
        for failures in [1, 5, 10] {
            for order in [Order::First, Order::Last, Order::Spread] {
                Burst::new(fault.clone(), 100, failures, order)
                    .opens_nothing()
                    .await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_successes_open_nothing() {
    for fault in FAULTS {
        for order in [Order::First, Order::Last, Order::Spread, Order::OneByOne] {
            for seconds in [10, 60] {
                let mut burst = Burst::new(fault.clone(), 100, 10, order);
                burst.success = seconds * SECOND;
                burst.opens_nothing().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waves_of_bursts_open_nothing() {
    for fault in [Fault::Overloaded, Fault::Reset] {
        for seconds in [1, 10, 60] {
            let mut burst = Burst::new(fault.clone(), 100, 10, Order::First);
            burst.success = seconds * SECOND;
            burst.waves = 12;
            burst.opens_nothing().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn burst_of_a_thousand_with_a_few_failures_opens_nothing() {
    for (fault, failures) in [(Fault::Overloaded, 5), (Fault::Reset, 10)] {
        for order in [Order::First, Order::Spread, Order::OneByOne] {
            let mut burst = Burst::new(fault.clone(), 1000, failures, order);
            burst.success = 10 * SECOND;
            burst.opens_nothing().await;
        }
    }
}

/// Retries of the calls that failed come on top.
#[tokio::test(start_paused = true)]
async fn bursts_through_the_whole_stack_open_nothing_and_all_calls_succeed() {
    for fault in FAULTS {
        for (order, seconds) in [(Order::First, 1), (Order::Spread, 10), (Order::Last, 30)] {
            let mut burst = Burst::new(fault.clone(), 100, 10, order);
            burst.success = seconds * SECOND;
            burst.is_whole_stack = true;
            burst.opens_nothing().await;
        }
    }
    let mut burst = Burst::new(Fault::Overloaded, 1000, 5, Order::Spread);
    burst.is_whole_stack = true;
    burst.opens_nothing().await;
}

/// A whole burst meets an outage of a moment. No circuit keeps the retries from the server. A
/// larger burst is not sent at once, because the limiter waits for a first response.
#[tokio::test(start_paused = true)]
async fn burst_that_fails_as_a_whole_succeeds_when_it_is_sent_again() {
    for fault in FAULTS {
        for calls in [2, 5] {
            let mut burst = Burst::new(fault.clone(), calls, calls, Order::First);
            burst.is_whole_stack = true;
            burst.opens_nothing().await;
        }
    }
}
