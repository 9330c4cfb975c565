//! The limiter alone: a reservation from beginning to end, and long queues.

use std::{
    future::Future,
    num::{NonZeroU32, NonZeroU64},
    pin::Pin,
    process::Command,
    sync::{Arc, LazyLock, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use futures_util::FutureExt;
use governor::{
    Quota, RateLimiter,
    clock::{DefaultClock, MonotonicClock, ReasonablyRealtime},
};
use tower_claude_core::{Cost, Scope, Tenant};
use tower_claude_limiter::{
    AcquireRequest, Limiter, LimiterConfig, Limits, LocalAcquire, LocalLimiter, Reservation,
    Settlement,
};

use crate::harness::{Case, Worker};

/// The numbers of waiting calls.
pub(crate) const QUEUES: [usize; 3] = [1_000, 10_000, 100_000];

const TENANTS: usize = 100;

/// Returns the number of calls to count. Building a long queue takes many instructions, and their
/// number varies, so many calls are needed.
fn probe(waiting: usize) -> u64 {
    (waiting as u64 / 2).max(10_000)
}

/// One reservation from beginning to end over all dimensions, and one check of a peer that has only
/// one. No call waits.
pub(crate) fn reservations() -> [Case; 3] {
    let requests = NonZeroU64::new(1_000_000_000_000).expect("not 0");
    let tokens = NonZeroU64::new(1_000_000_000_000_000).expect("not 0");
    let limiter = LocalLimiter::new(
        Limits::new()
            .with_requests_per_minute(requests)
            .with_input_tokens_per_minute(tokens)
            .with_output_tokens_per_minute(tokens)
            .with_total_tokens_per_minute(tokens)
            .with_tokens_per_day(tokens)
            .with_concurrency(NonZeroU32::new(1_000_000).expect("not 0")),
    );
    let scope = Scope::named("bench");
    [
        Case::new("reserve, send and settle, six limits", move || {
            let limiter = limiter.clone();
            let scope = scope.clone();
            Box::new(move |calls| {
                for _ in 0..calls {
                    let ask = AcquireRequest::new(scope.clone(), Cost::new(500, 100));
                    let reservation = limiter.acquire(ask).now_or_never();
                    let mut reservation = reservation
                        .expect("nobody waits")
                        .expect("far below the limits");
                    reservation.sent();
                    reservation.settle(Settlement::NotSent);
                }
            })
        }),
        governed("governor: check, one limit", || MonotonicClock),
        // It finds out first how fast its own clock is, in another number of instructions each
        // time.
        governed(
            "governor: check, one limit, by its own clock",
            DefaultClock::default,
        )
        .with_probe(0),
    ]
}

/// A check by this clock, which is made when it is needed: one of them takes its time to begin.
fn governed<C>(name: &str, clock: fn() -> C) -> Case
where
    C: ReasonablyRealtime + Send + Sync + 'static,
    C::Instant: Send + Sync,
{
    let governor = Arc::new(LazyLock::new(move || {
        let cells = NonZeroU32::new(1_000_000_000).expect("not 0");
        RateLimiter::direct_with_clock(Quota::per_second(cells), clock())
    }));
    Case::new(name, move || {
        let governor = governor.clone();
        Box::new(move |calls| {
            for _ in 0..calls {
                assert!(governor.check().is_ok(), "far below the limit");
            }
        })
    })
}

/// With so many waiting: one is let out or gives up, wherever it stands, and another comes.
pub(crate) fn queue(waiting: usize) -> [Case; 2] {
    [
        Case::new(format!("let out and come, {waiting} waiting"), move || {
            let mut queue = Queue::new(waiting);
            let worker: Worker = Box::new(move |calls| (0..calls).for_each(|_| queue.let_out()));
            worker
        })
        .with_probe(probe(waiting)),
        Case::new(format!("give up and come, {waiting} waiting"), move || {
            let mut queue = Queue::new(waiting);
            let worker: Worker = Box::new(move |calls| (0..calls).for_each(|_| queue.give_up()));
            worker
        })
        .with_probe(probe(waiting)),
    ]
}

/// A waker that records its number.
struct Bell {
    number: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.lock().expect("not poisoned").push(self.number);
    }
}

/// One in flight at a time, and a queue behind it.
struct Queue {
    limiter: LocalLimiter,
    tenants: Vec<Tenant>,
    scope: Scope,
    held: Option<Reservation>,
    waiting: Vec<Pin<Box<LocalAcquire>>>,
    wakers: Vec<Waker>,
    woken: Arc<Mutex<Vec<usize>>>,
    random: u64,
}

impl Queue {
    fn new(waiting: usize) -> Self {
        let limits = Limits::new().with_concurrency(NonZeroU32::MIN);
        let config = LimiterConfig::new().with_queue_limit(waiting + 1);
        let woken = Arc::new(Mutex::new(Vec::with_capacity(waiting)));
        let waker = |number| {
            Waker::from(Arc::new(Bell {
                number,
                woken: woken.clone(),
            }))
        };
        let mut queue = Self {
            limiter: LocalLimiter::with_config(limits, config),
            tenants: (0..TENANTS)
                .map(|name| Tenant(name.to_string().into()))
                .collect(),
            scope: Scope::named("queue"),
            held: None,
            waiting: Vec::with_capacity(waiting),
            wakers: (0..waiting).map(waker).collect(),
            woken: woken.clone(),
            random: 1,
        };
        queue.held = queue.asking(0).now_or_never().and_then(Result::ok);
        assert!(queue.held.is_some(), "the first");
        for number in 0..waiting {
            queue.waiting.push(Box::pin(queue.asking(number)));
            queue.replace(number);
        }
        queue
    }

    fn asking(&self, number: usize) -> LocalAcquire {
        let tenant = self.tenants[number % TENANTS].clone();
        let ask = AcquireRequest::new(self.scope.clone(), Cost::new(500, 100));
        self.limiter.acquire(ask.with_tenant(Some(tenant)))
    }

    /// Another comes in place of this one, which gives up if it still waits.
    fn replace(&mut self, number: usize) {
        let asking = self.asking(number);
        let waiting = &mut self.waiting[number];
        waiting.set(asking);
        let polled = waiting
            .as_mut()
            .poll(&mut Context::from_waker(&self.wakers[number]));
        assert!(polled.is_pending(), "it waits");
    }

    fn let_out(&mut self) {
        if let Some(held) = self.held.take() {
            held.settle(Settlement::NotSent);
        }
        let number = self.woken.lock().expect("not poisoned").pop();
        let number = number.expect("the next was woken");
        let waker = &self.wakers[number];
        let polled = self.waiting[number]
            .as_mut()
            .poll(&mut Context::from_waker(waker));
        let Poll::Ready(Ok(reservation)) = polled else {
            panic!("woken for nothing");
        };
        self.held = Some(reservation);
        self.replace(number);
    }

    fn give_up(&mut self) {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let number = (self.random >> 33) as usize % self.waiting.len();
        self.replace(number);
    }
}

/// Bytes of memory for each of the most that wait, as the system counts them, by this program
/// started anew with `--waiting`: `None` where the system does not tell.
pub(crate) fn bytes() -> Option<f64> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new(program).arg("--waiting").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().parse().ok()
}

/// Returns the number that `--waiting` prints.
pub(crate) fn count_bytes() -> Option<f64> {
    let most = QUEUES[QUEUES.len() - 1];
    // What is made once, and what the limiter is not to blame for: the futures are, the wakers are
    // not.
    drop(Queue::new(10));
    let mut queue = Queue::new(0);
    queue.limiter = LocalLimiter::with_config(
        Limits::new().with_concurrency(NonZeroU32::MIN),
        LimiterConfig::new().with_queue_limit(most),
    );
    queue.held = queue.asking(0).now_or_never().and_then(Result::ok);
    queue.waiting = Vec::with_capacity(most);
    let before = resident()?;
    for number in 0..most {
        let mut asking = Box::pin(queue.asking(number));
        let polled = asking
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "it waits");
        queue.waiting.push(asking);
    }
    let after = resident()?;
    Some(after.saturating_sub(before) as f64 / most as f64)
}

/// Bytes of this process in memory.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1_024)
}
