//! Threads that acquire, cancel, use, observe, pause and settle, in very many schedules. Whenever
//! all threads sleep, no request is admissible or expired and the head wakes in time. In the end
//! nothing is in flight, queued or armed.

use std::{
    future::Future,
    num::{NonZeroU32, NonZeroU64},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::{Duration, SystemTime},
};

use shuttle::{
    Config, Runner,
    rand::{Rng, thread_rng},
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
    sync::{Condvar, Mutex},
    thread,
};
use tower_claude_core::{
    Class, Cost, Kind, Priority, Rejection, Scope, Tenant, toolkit::Observation,
};
use tower_claude_wire::{RateLimits, Usage};

use super::ScopeLimiter;
use crate::{
    AcquireRequest, Limiter, LimiterConfig, Limits, LocalAcquire, LocalLimiter, Reservation,
    Settlement, Sharing, pool::Next, sync::mock as clock,
};

const SCHEDULES: usize = if cfg!(debug_assertions) {
    5_000
} else {
    20_000
};
const THREADS: usize = 4;

/// The states of the threads.
#[derive(Default)]
struct ThreadStates {
    asleep: [bool; THREADS],
    woken: [bool; THREADS],
    done: [bool; THREADS],
    /// Reservations held.
    held: usize,
}

#[derive(Default)]
struct Monitor {
    states: Mutex<ThreadStates>,
    changed: Condvar,
}

struct ThreadWaker {
    monitor: Arc<Monitor>,
    thread: usize,
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.monitor
            .change(|states| states.woken[self.thread] = true);
    }
}

impl Monitor {
    fn change<T>(&self, change: impl FnOnce(&mut ThreadStates) -> T) -> T {
        let result = change(&mut self.states.lock().unwrap());
        self.changed.notify_all();
        result
    }

    /// Sleeps until the thread is woken.
    fn sleep(&self, thread: usize) {
        let mut states = self.states.lock().unwrap();
        states.asleep[thread] = true;
        self.changed.notify_all();
        while !states.woken[thread] {
            states = self.changed.wait(states).unwrap();
        }
        states.asleep[thread] = false;
        states.woken[thread] = false;
    }

    /// Waits until only the clock can wake a thread. Returns true if all threads are done.
    fn wait_for_rest(&self) -> bool {
        let mut states = self.states.lock().unwrap();
        loop {
            let at_rest = |at: usize| states.done[at] || states.asleep[at] && !states.woken[at];
            if (0..THREADS).all(at_rest) {
                return states.done.iter().all(|done| *done);
            }
            states = self.changed.wait(states).unwrap();
        }
    }
}

/// A thread that uses the limiter.
struct Caller {
    monitor: Arc<Monitor>,
    thread: usize,
    limiter: LocalLimiter,
}

impl Caller {
    fn waker(&self) -> Waker {
        Waker::from(Arc::new(ThreadWaker {
            monitor: self.monitor.clone(),
            thread: self.thread,
        }))
    }

    fn wait<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        let waker = self.waker();
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => return output,
                Poll::Pending => self.monitor.sleep(self.thread),
            }
        }
    }

    fn ask(&self) -> AcquireRequest {
        let mut rng = thread_rng();
        let priorities = [Priority::Batch, Priority::Normal, Priority::Interactive];
        let tenants = [None, Some("a"), Some("b")];
        let cost = Cost::new(rng.gen_range(0..2_000), rng.gen_range(0..300));
        let wait = rng.gen_range(0..3) == 0;
        AcquireRequest::new(Scope::named("explored"), cost)
            .with_priority(priorities[rng.gen_range(0..3)])
            .with_tenant(tenants[rng.gen_range(0..3)].map(|name| Tenant(Arc::from(name))))
            .with_max_wait(wait.then(|| Duration::from_millis(rng.gen_range(0..1_500))))
    }

    /// Waits to the end, or cancels at any time, even after an admission that it has not seen.
    fn acquire(&self) -> Option<Result<Reservation, Rejection>> {
        let mut future = Box::pin(self.limiter.acquire(self.ask()));
        if thread_rng().gen_range(0..3) > 0 {
            return Some(self.wait(future.as_mut()));
        }
        // The thread does not sleep, so its waker is not used.
        let mut polls = thread_rng().gen_range(1..3);
        let waker = Waker::noop();
        while polls > 0 {
            let polled = future.as_mut().poll(&mut Context::from_waker(waker));
            if let Poll::Ready(result) = polled {
                return Some(result);
            }
            polls -= 1;
            thread::yield_now();
        }
        None
    }

    fn run(&self) {
        for _ in 0..3 {
            let Some(Ok(reservation)) = self.acquire() else {
                continue;
            };
            self.monitor.change(|states| states.held += 1);
            self.use_up(reservation);
        }
        self.monitor
            .change(|states| states.done[self.thread] = true);
    }

    fn use_up(&self, mut reservation: Reservation) {
        let mut rng = thread_rng();
        if rng.gen_range(0..5) > 0 {
            reservation.sent();
        }
        if rng.r#gen() {
            let wait = Duration::from_millis(rng.gen_range(1..900));
            self.wait(Box::pin(clock::sleep_until(clock::now() + wait)).as_mut());
        }
        if rng.r#gen() {
            self.observe(&reservation);
        }
        if rng.r#gen() {
            reservation.produced(rng.gen_range(0..600), clock::now());
        }
        if rng.r#gen() {
            reservation.true_up_input(rng.gen_range(0..3_000), clock::now());
        }
        let mut usage = Usage::default();
        usage.input_tokens = rng.r#gen::<bool>().then(|| rng.gen_range(0..3_000));
        usage.output_tokens = rng.r#gen::<bool>().then(|| rng.gen_range(0..600));
        // Before the settlement, since another thread may be admitted by it.
        self.monitor.change(|states| states.held -= 1);
        match rng.gen_range(0..5) {
            0 => drop(reservation),
            1 => reservation.settle(Settlement::Rejected),
            2 => reservation.settle(Settlement::Failed { usage }),
            _ => reservation.settle(Settlement::Used { usage }),
        }
    }

    fn observe(&self, reservation: &Reservation) {
        let mut rng = thread_rng();
        let mut limits = RateLimits::default();
        limits.input_tokens.limit = Some([60_000, 30_000, 120_000][rng.gen_range(0..3)]);
        limits.input_tokens.remaining = Some(rng.gen_range(0..4) * 1_000);
        let rejected = rng.gen_range(0..4) == 0;
        let kind = if rejected {
            Kind::RateLimited
        } else {
            Kind::Success
        };
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let now = clock::now();
        let handle = reservation.handle();
        handle.observe(&Observation::new(
            &limits,
            Some(date),
            Class::new(kind),
            now,
        ));
        if rejected {
            let wait = rng
                .r#gen::<bool>()
                .then(|| Duration::from_millis(rng.gen_range(0..700)));
            handle.pause(wait, now);
        }
    }
}

fn limiter() -> LocalLimiter {
    let n = |value| NonZeroU64::new(value).unwrap();
    let limits = Limits::new()
        .with_requests_per_minute(n(600))
        .with_input_tokens_per_minute(n(60_000))
        .with_output_tokens_per_minute(n(12_000))
        .with_concurrency(NonZeroU32::new(2).unwrap())
        .with_burst(Duration::from_secs(2));
    let config = LimiterConfig::new()
        .with_sharing(Sharing::Exclusive)
        .with_learn_output(false)
        .with_calibrate_input(false);
    LocalLimiter::with_config(limits, config)
}

/// Asserts that no sleeping request is admissible or expired, and that the head's timer is set.
fn check(limiter: &ScopeLimiter, monitor: &Monitor) {
    let now = limiter.nanos(clock::now());
    let mut state = limiter.lock();
    let mut granted = Vec::new();
    let next = state.pool.poll(now, &mut granted);
    assert!(granted.is_empty(), "asleep while admissible");
    assert_eq!(state.waiting.len(), state.pool.queued(), "lost");
    assert_eq!(state.pool.in_flight(), monitor.states.lock().unwrap().held);
    for waiting in state.waiting.values() {
        assert!(waiting.result.is_none(), "asleep with its grant");
        assert!(waiting.timer_at > now, "asleep while expired");
    }
    if let (Next::At(at), Some(head)) = (next, state.pool.head()) {
        let timer_at = state.waiting[&head].timer_at;
        assert!(timer_at <= at, "the head wakes at {timer_at}, not at {at}");
        assert!(clock::next_timer().is_some_and(|timer| limiter.nanos(timer) <= at));
    }
}

fn explored() {
    clock::start();
    fastrand::seed(thread_rng().r#gen());
    let (monitor, limiter) = (Arc::new(Monitor::default()), limiter());
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let caller = Caller {
                monitor: monitor.clone(),
                thread,
                limiter: limiter.clone(),
            };
            thread::spawn(move || caller.run())
        })
        .collect();
    let scope = loop {
        let done = monitor.wait_for_rest();
        let scope = limiter.scopes.get_or_create(&Scope::named("explored"));
        check(&scope, &monitor);
        if done {
            break scope;
        }
        assert!(clock::move_on(), "asleep for ever");
    };
    for thread in threads {
        thread.join().unwrap();
    }
    let snapshot = scope.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued), (0, 0));
    assert_eq!(snapshot.outstanding_output, 0);
    let state = scope.lock();
    assert!(state.waiting.is_empty() && state.granted.is_empty());
    assert_eq!(clock::next_timer(), None, "a timer is left");
}

fn explore(scheduler: impl Scheduler + 'static) {
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    Runner::new(scheduler, config).run(explored);
}

#[test]
fn admissible_request_does_not_sleep_in_random_schedules() {
    explore(RandomScheduler::new(SCHEDULES));
}

#[test]
fn admissible_request_does_not_sleep_in_schedules_with_few_preemptions() {
    explore(PctScheduler::new(4, SCHEDULES));
}

/// A waker that holds the last reference to a task. Dropping it may drop anything, even another
/// call in the same queue.
struct LastReference(LocalLimiter);

impl Wake for LastReference {
    fn wake(self: Arc<Self>) {}
}

impl Drop for LastReference {
    fn drop(&mut self) {
        self.0.snapshot();
    }
}

#[test]
fn waker_is_not_dropped_under_the_lock() {
    let run = || {
        clock::start();
        let limits = Limits::new().with_concurrency(NonZeroU32::MIN);
        let limiter = LocalLimiter::new(limits);
        let ask = AcquireRequest::new(Scope::named("one at once"), Cost::default());
        let poll = |future: &mut Pin<Box<LocalAcquire>>| {
            let waker = Waker::from(Arc::new(LastReference(limiter.clone())));
            future.as_mut().poll(&mut Context::from_waker(&waker))
        };
        let mut first = Box::pin(limiter.acquire(ask.clone()));
        let Poll::Ready(held) = poll(&mut first) else {
            panic!("there is room");
        };
        let mut head = Box::pin(limiter.acquire(ask.clone()));
        let mut next = Box::pin(limiter.acquire(ask.clone()));
        // The second poll replaces the waker.
        assert!(poll(&mut head).is_pending() && poll(&mut head).is_pending());
        assert!(poll(&mut next).is_pending());
        drop(head);
        drop(held);
        assert!(poll(&mut next).is_ready());
    };
    Runner::new(RandomScheduler::new(1), Config::new()).run(run);
}
