//! 10^6 random operations on a [`LocalLimiter`] (10^5 unoptimized): every admissible request is
//! woken, and in the end nothing is in flight, reserved or queued.

use std::{
    future::Future,
    num::{NonZeroU32, NonZeroU64},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, advance};
use tower_claude_core::{Class, Cost, Kind, Priority, Scope, Tenant, toolkit::Observation};
use tower_claude_limiter::{
    AcquireRequest, Limiter, LimiterConfig, Limits, LocalAcquire, LocalLimiter, Reservation,
    Settlement, Sharing,
};
use tower_claude_wire::{RateLimits, Usage};

const OPERATIONS: usize = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Waiter {
    future: Pin<Box<LocalAcquire>>,
    flag: Arc<Flag>,
    expiry: Option<Instant>,
}

impl Waiter {
    fn poll(&mut self) -> Poll<Option<Reservation>> {
        self.flag.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(self.flag.clone());
        let mut cx = Context::from_waker(&waker);
        self.future.as_mut().poll(&mut cx).map(Result::ok)
    }

    fn woken(&self) -> bool {
        self.flag.0.load(Ordering::SeqCst)
    }
}

struct Model {
    rng: fastrand::Rng,
    limiter: LocalLimiter,
    scope: Scope,
    waiting: Vec<Waiter>,
    flying: Vec<Reservation>,
}

impl Model {
    fn new(seed: u64, learn: bool) -> Self {
        let per_minute = |limit| NonZeroU64::new(limit).unwrap();
        let limits = Limits::new()
            .with_requests_per_minute(per_minute(6_000))
            .with_input_tokens_per_minute(per_minute(600_000))
            .with_output_tokens_per_minute(per_minute(120_000))
            .with_concurrency(NonZeroU32::new(12).unwrap())
            .with_burst(Duration::from_secs(5));
        // Without learning no safety margin decays and no pace changes, so that only events and
        // timers make a request admissible.
        let sharing = if learn {
            Sharing::Auto
        } else {
            Sharing::Exclusive
        };
        let config = LimiterConfig::new()
            .with_queue_limit(40)
            .with_sharing(sharing)
            .with_learn_output(learn)
            .with_calibrate_input(learn);
        Self {
            rng: fastrand::Rng::with_seed(seed),
            limiter: LocalLimiter::with_config(limits, config),
            scope: Scope::named("random"),
            waiting: Vec::new(),
            flying: Vec::new(),
        }
    }

    async fn step(&mut self) {
        match self.rng.u8(0..10) {
            0..=3 => self.ask(),
            4 => self.drop_one(),
            5 => self.observe(),
            6 => self.correct(),
            7 => advance(Duration::from_millis(self.rng.u64(1..60))).await,
            _ => self.end(),
        }
    }

    fn ask(&mut self) {
        let cost = Cost::new(self.rng.u64(0..6_000), self.rng.u64(0..900));
        let now = Instant::now();
        let wait = self.rng.bool().then_some(Duration::from_millis(700));
        // The head changes with whoever comes, and with what its flow turns out to have used.
        let priorities = [Priority::Batch, Priority::Normal, Priority::Interactive];
        let tenant = self.rng.usize(0..4);
        let mut ask = AcquireRequest::new(self.scope.clone(), cost)
            .with_max_wait(wait)
            .with_priority(priorities[self.rng.usize(0..3)])
            .with_tenant((tenant > 0).then(|| Tenant(Arc::from(["", "a", "b", "c"][tenant]))));
        if self.rng.bool() {
            ask = ask.with_first_arrival(now - Duration::from_millis(self.rng.u64(0..50)));
        }
        let mut waiter = Waiter {
            future: Box::pin(self.limiter.acquire(ask)),
            flag: Arc::new(Flag(AtomicBool::new(false))),
            expiry: wait.map(|wait| now + wait),
        };
        match waiter.poll() {
            Poll::Ready(reservation) => self.flying.extend(reservation),
            Poll::Pending => self.waiting.push(waiter),
        }
    }

    /// Also one that was granted and not polled since.
    fn drop_one(&mut self) {
        if !self.waiting.is_empty() {
            let at = self.rng.usize(0..self.waiting.len());
            drop(self.waiting.swap_remove(at));
        }
    }

    fn one(&mut self) -> Option<usize> {
        (!self.flying.is_empty()).then(|| self.rng.usize(0..self.flying.len()))
    }

    fn observe(&mut self) {
        let Some(at) = self.one() else { return };
        let mut limits = RateLimits::default();
        // The limit itself changes now and then.
        let limit = if self.rng.u8(0..20) == 0 {
            3_000
        } else {
            6_000
        };
        limits.requests.limit = Some(limit);
        limits.requests.remaining = Some(self.rng.u64(0..500));
        limits.input_tokens.limit = Some(600_000);
        limits.input_tokens.remaining = Some(self.rng.u64(0..50) * 1_000);
        let now = Instant::now();
        let rejected = self.rng.u8(0..8) == 0;
        let kind = if rejected {
            Kind::RateLimited
        } else {
            Kind::Success
        };
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let seen = Observation::new(&limits, Some(date), Class::new(kind), now);
        let handle = self.flying[at].handle();
        assert!(handle.is_of(self.limiter.id()));
        handle.observe(&seen);
        if rejected {
            let wait = Duration::from_millis(self.rng.u64(0..400));
            handle.pause(Some(wait), now);
        }
    }

    fn correct(&mut self) {
        let Some(at) = self.one() else { return };
        let tokens = self.rng.u64(0..8_000);
        let now = Instant::now();
        if self.rng.bool() {
            self.flying[at].true_up_input(tokens, now);
        } else {
            self.flying[at].produced(tokens / 4, now);
        }
    }

    fn end(&mut self) {
        let Some(at) = self.one() else { return };
        let mut reservation = self.flying.swap_remove(at);
        if self.rng.u8(0..4) > 0 {
            reservation.sent();
        }
        let mut usage = Usage::default();
        usage.input_tokens = self.rng.bool().then(|| self.rng.u64(0..8_000));
        usage.output_tokens = self.rng.bool().then(|| self.rng.u64(0..1_500));
        match self.rng.u8(0..8) {
            0..=1 => drop(reservation),
            2 => reservation.settle(Settlement::Rejected),
            3 => reservation.settle(Settlement::Failed { usage }),
            _ => reservation.settle(Settlement::Used { usage }),
        }
    }

    /// Polls whoever was woken, until nobody is.
    fn run_woken(&mut self) {
        while let Some(at) = self.waiting.iter().position(Waiter::woken) {
            if let Poll::Ready(reservation) = self.waiting[at].poll() {
                self.flying.extend(reservation);
                drop(self.waiting.swap_remove(at));
            }
        }
    }

    /// Whoever would be admitted when polled without having been woken was asleep while admissible.
    fn check(&mut self, strict: bool) {
        let now = Instant::now();
        if strict {
            for waiter in &mut self.waiting {
                assert!(waiter.poll().is_pending(), "asleep while admissible");
                assert!(
                    waiter.expiry.is_none_or(|at| now < at),
                    "asleep while expired"
                );
            }
            assert!(!self.waiting.iter().any(Waiter::woken), "woken by a look");
        }
        if let Some(snapshot) = self.limiter.scope(&self.scope) {
            assert_eq!(snapshot.in_flight, self.flying.len() as u64);
            assert_eq!(snapshot.queued, self.waiting.len());
        }
    }
}

async fn run(seed: u64, learn: bool, operations: usize) {
    let mut model = Model::new(seed, learn);
    for _ in 0..operations {
        model.step().await;
        // Sometimes several things happen before anyone looks.
        if model.rng.u8(0..3) > 0 {
            model.run_woken();
            model.check(!learn);
        }
    }
    let mut rounds = 0;
    while !model.waiting.is_empty() || !model.flying.is_empty() {
        model.flying.clear();
        advance(Duration::from_millis(20)).await;
        model.run_woken();
        model.check(!learn);
        rounds += 1;
        assert!(rounds < 100_000, "does not drain");
    }
    let snapshot = model.limiter.scope(&model.scope).unwrap();
    assert_eq!((snapshot.in_flight, snapshot.queued), (0, 0));
    assert_eq!(snapshot.outstanding_output, 0);
}

#[tokio::test(start_paused = true)]
async fn many_operations() {
    run(1, false, OPERATIONS).await;
}

#[tokio::test(start_paused = true)]
async fn many_operations_while_learning() {
    run(2, true, OPERATIONS).await;
}

#[tokio::test(start_paused = true)]
async fn many_short_histories() {
    for seed in 3..150 {
        run(seed, false, 300).await;
    }
}
