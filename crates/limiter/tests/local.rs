//! The behaviour of a [`LocalLimiter`]: waiting, expiry, cancellation, scopes.

use std::{
    future::Future,
    num::{NonZeroU32, NonZeroU64},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::{Duration, SystemTime},
};

use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, advance, timeout},
};
use tower_claude_core::{
    Class, Cost, Kind, Priority, RejectReason, Scope, Tenant, toolkit::Observation,
};
use tower_claude_limiter::{
    AcquireRequest, Day, Limiter, LimiterConfig, Limits, LocalAcquire, LocalLimiter, Rejection,
    Reservation, Settlement,
};
use tower_claude_wire::{RateLimits, Usage};

fn n(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).unwrap()
}

/// One request a second, one at once.
fn one_a_second_limits() -> Limits {
    Limits::new()
        .with_requests_per_minute(n(60))
        .with_burst(Duration::from_secs(1))
}

fn one_a_second() -> LocalLimiter {
    LocalLimiter::new(one_a_second_limits())
}

fn one_at_once() -> LocalLimiter {
    LocalLimiter::new(Limits::new().with_concurrency(NonZeroU32::MIN))
}

fn ask() -> AcquireRequest {
    AcquireRequest::new(Scope::named("test"), Cost::default())
}

/// Fails instead of hanging when nobody wakes it.
async fn soon(task: JoinHandle<Result<Reservation, Rejection>>) -> Reservation {
    let result = timeout(Duration::from_secs(600), task).await;
    result.expect("never woken").unwrap().unwrap()
}

fn is_send_and_sync<T: Send + Sync>() {}

#[test]
fn limiter_types_are_send_and_sync() {
    is_send_and_sync::<LocalLimiter>();
    is_send_and_sync::<LocalAcquire>();
    is_send_and_sync::<Reservation>();
}

#[tokio::test(start_paused = true)]
async fn waiting_request_reports_its_wait() {
    let limiter = one_a_second();
    let start = Instant::now();
    for expected in 0..5 {
        let mut reservation = limiter.acquire(ask()).await.unwrap();
        reservation.sent();
        let wait = Duration::from_secs(u64::from(expected > 0));
        assert_eq!(reservation.waited(), wait);
        assert_eq!(start.elapsed(), Duration::from_secs(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn many_waiting_requests_are_admitted_in_order() {
    let limiter = one_a_second();
    let start = Instant::now();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    for index in 0..20_u64 {
        let (limiter, sender) = (limiter.clone(), sender.clone());
        tokio::spawn(async move {
            let mut reservation = limiter.acquire(ask()).await.unwrap();
            reservation.sent();
            sender.send((index, start.elapsed())).unwrap();
        });
        yield_now().await;
    }
    for index in 0..20 {
        assert_eq!(
            receiver.recv().await,
            Some((index, Duration::from_secs(index)))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_head_wakes_the_next() {
    let limiter = one_at_once();
    let held = limiter.acquire(ask()).await.unwrap();
    let mut head = Box::pin(limiter.acquire(ask()));
    let next = tokio::spawn(limiter.acquire(ask()));
    assert!(timeout(Duration::ZERO, head.as_mut()).await.is_err());
    yield_now().await;
    // Granted to the head, which never looks.
    drop(held);
    yield_now().await;
    assert!(!next.is_finished());
    drop(head);
    let reservation = soon(next).await;
    assert_eq!(limiter.snapshot()[0].in_flight, 1);
    drop(reservation);
    assert_eq!(limiter.snapshot()[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn new_head_is_admitted_in_time() {
    let limiter = one_a_second();
    limiter.acquire(ask()).await.unwrap().sent();
    let start = Instant::now();
    let mut head = Box::pin(limiter.acquire(ask()));
    assert!(timeout(Duration::ZERO, head.as_mut()).await.is_err());
    let next = tokio::spawn(limiter.acquire(ask()));
    yield_now().await;
    drop(head);
    soon(next).await.sent();
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn expired_request_leaves_the_queue() {
    let limiter = one_at_once();
    let held = limiter.acquire(ask()).await.unwrap();
    let wait = Duration::from_secs(3);
    let start = Instant::now();
    let refusal = limiter
        .acquire(ask().with_max_wait(Some(wait)))
        .await
        .unwrap_err();
    assert_eq!(start.elapsed(), wait);
    let expected = RejectReason::WaitTooLong {
        estimated: wait,
        max_wait: wait,
    };
    assert_eq!(refusal.reason, expected);
    // Its place is not searched for: many may expire at once.
    assert_eq!(refusal.queue_position, None);
    let deadline = Instant::now() + wait;
    let refusal = limiter
        .acquire(ask().with_deadline(Some(deadline)))
        .await
        .unwrap_err();
    assert!(matches!(
        refusal.reason,
        RejectReason::DeadlineWouldPass { .. }
    ));
    assert_eq!(limiter.snapshot()[0].queued, 0);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn too_long_estimated_wait_is_rejected_at_once() {
    let limiter = one_a_second();
    limiter.acquire(ask()).await.unwrap().sent();
    let start = Instant::now();
    let short = ask().with_max_wait(Some(Duration::from_millis(999)));
    let refusal = limiter.acquire(short).await.unwrap_err();
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn pause_delays_all_requests() {
    let limiter = LocalLimiter::new(Limits::unlimited());
    let mut reservation = limiter.acquire(ask()).await.unwrap();
    reservation.sent();
    let pause = reservation.pause(Some(Duration::from_secs(10)), Instant::now());
    assert!((10.0..=15.0).contains(&pause.as_secs_f64()));
    reservation.settle(Settlement::Rejected);
    let start = Instant::now();
    limiter.acquire(ask()).await.unwrap().sent();
    assert!(start.elapsed() >= pause);
    assert!(start.elapsed() <= pause + Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn raised_limit_wakes_the_head_early() {
    // Configured limits would cap it.
    let config = LimiterConfig::new().with_limits_as_hint(true);
    let limiter = LocalLimiter::with_config(one_a_second_limits(), config);
    let mut first = limiter.acquire(ask()).await.unwrap();
    first.sent();
    let start = Instant::now();
    let next = tokio::spawn(limiter.acquire(ask()));
    yield_now().await;
    let mut limits = RateLimits::default();
    limits.requests.limit = Some(60_000);
    limits.requests.remaining = Some(900);
    let class = Class::new(Kind::Success);
    first.observe(&Observation::new(&limits, None, class, Instant::now()));
    soon(next).await.sent();
    assert!(
        start.elapsed() < Duration::from_millis(20),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
#[should_panic(expected = "polled after completion")]
async fn completed_future_panics_when_polled() {
    let limiter = one_a_second();
    let mut asking = Box::pin(limiter.acquire(ask()));
    asking.as_mut().await.unwrap().sent();
    let _ = asking
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The head is estimated anew when there is something new to know, once for each answer, and not
/// when requests end that no estimator learns from.
#[tokio::test(start_paused = true)]
async fn report_with_a_listener_wakes_the_head() {
    let limits = Limits::new()
        .with_requests_per_minute(n(2))
        .with_concurrency(NonZeroU32::new(9).unwrap());
    let limiter = LocalLimiter::new(limits);
    let mut taught = ask();
    taught.cost.estimate_id = Some(n(1));
    let plain = limiter.acquire(ask()).await.unwrap();
    let teaching = limiter.acquire(taught.clone()).await.unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut head = Box::pin(limiter.acquire(taught));
    let mut wakes = || {
        let polled = head.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        woken.0.swap(0, Ordering::Relaxed)
    };
    assert_eq!(wakes(), 0);
    plain.true_up_input(5, Instant::now());
    plain.settle(Settlement::dropped());
    assert_eq!(wakes(), 0);
    teaching.true_up_input(5, Instant::now());
    assert_eq!(wakes(), 1);
    teaching.settle(Settlement::dropped());
    assert_eq!(wakes(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_reservation_keeps_the_possibly_counted_charge() {
    let limits = Limits::new().with_input_tokens_per_minute(n(1_000));
    let limiter = LocalLimiter::new(limits);
    let ask = AcquireRequest::new(Scope::named("test"), Cost::new(400, 0));
    let left = || limiter.snapshot()[0].dimensions[0].available;
    drop(limiter.acquire(ask.clone()).await.unwrap());
    assert_eq!(left(), 1_000);
    let mut reservation = limiter.acquire(ask.clone()).await.unwrap();
    reservation.sent();
    drop(reservation);
    assert_eq!(left(), 600);
    let mut usage = Usage::default();
    usage.input_tokens = Some(100);
    let reservation = limiter.acquire(ask).await.unwrap();
    reservation.settle(Settlement::Used { usage });
    assert_eq!(left(), 500);
}

#[tokio::test(start_paused = true)]
async fn scopes_have_separate_levels() {
    let limiter = one_a_second();
    for name in ["a", "b", "c"] {
        let ask = AcquireRequest::new(Scope::named(name), Cost::default());
        let mut reservation = limiter.acquire(ask).await.unwrap();
        reservation.sent();
        assert_eq!(reservation.waited(), Duration::ZERO);
    }
    assert_eq!(limiter.snapshot().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn idle_scopes_are_evicted_longest_unused_first() {
    let config = LimiterConfig::new().with_max_scopes(3);
    let limiter = LocalLimiter::with_config(Limits::unlimited(), config);
    let ask = |name: &str| AcquireRequest::new(Scope::named(name), Cost::default());
    let busy = limiter.acquire(ask("busy")).await.unwrap();
    for name in ["old", "used again", "new", "used again", "last"] {
        advance(Duration::from_secs(1)).await;
        drop(limiter.acquire(ask(name)).await.unwrap());
    }
    let known = |name| limiter.scope(&Scope::named(name)).is_some();
    assert!(known("busy") && known("used again") && known("last"));
    assert!(!known("old") && !known("new"));
    drop(busy);
}

/// An unpolled future holds its scope. Evicting the scope would create a second one.
#[tokio::test(start_paused = true)]
async fn scope_of_an_unpolled_future_is_not_evicted() {
    let limits = Limits::new().with_concurrency(NonZeroU32::MIN);
    let limiter = LocalLimiter::with_config(limits, LimiterConfig::new().with_max_scopes(1));
    drop(limiter.acquire(ask()).await);
    let about_to = limiter.acquire(ask());
    let other = AcquireRequest::new(Scope::named("other"), Cost::default());
    drop(limiter.acquire(other).await);
    let held = about_to.await.unwrap();
    let second = limiter.acquire(ask().with_max_wait(Some(Duration::ZERO)));
    assert!(second.await.is_err(), "one at once");
    drop(held);
}

/// It is the turn of another then, who has room at once and does not know.
#[tokio::test(start_paused = true)]
async fn new_head_after_an_admission_ahead_is_woken() {
    let config = LimiterConfig::new().with_calibrate_input(false);
    let limits = Limits::new().with_input_tokens_per_minute(n(60_000));
    let limiter = LocalLimiter::with_config(limits, config);
    let ask = |tokens, priority, tenant: &str| {
        AcquireRequest::new(Scope::named("test"), Cost::new(tokens, 0))
            .with_priority(priority)
            .with_tenant(Some(Tenant(Arc::from(tenant))))
    };
    let early = Instant::now();
    advance(Duration::from_secs(1)).await;
    let _held = limiter.acquire(ask(50_000, Priority::Normal, "a")).await;
    let big = tokio::spawn(limiter.acquire(ask(50_000, Priority::Interactive, "b")));
    yield_now().await;
    let small = tokio::spawn(limiter.acquire(ask(1_000, Priority::Normal, "c")));
    yield_now().await;
    assert!(!big.is_finished() && !small.is_finished());
    let again = ask(1_000, Priority::Interactive, "d").with_first_arrival(early);
    let overtakes = timeout(Duration::ZERO, limiter.acquire(again)).await;
    let overtakes = overtakes.expect("at once").unwrap();
    yield_now().await;
    assert!(small.is_finished(), "asleep while it has room");
    drop(overtakes);
    big.abort();
}

/// An evicted scope begins with full limits, so a spent scope must be evicted last.
#[tokio::test(start_paused = true)]
async fn spent_scope_is_kept_longer_than_a_full_one() {
    let config = LimiterConfig::new().with_max_scopes(3);
    let further = Limits::new().with_requests_per_minute(n(2));
    let limits = Limits::new()
        .with_requests_per_minute(n(60))
        .with_tokens_per_day(n(1_000))
        .with_additional(further);
    let limiter = LocalLimiter::with_config(limits, config);
    let use_up = async |name: &str, tokens| {
        let ask = AcquireRequest::new(Scope::named(name), Cost::new(tokens, 0));
        limiter.acquire(ask).await.unwrap().sent();
        advance(Duration::from_secs(1)).await;
    };
    use_up("the day's tokens", 1_000).await;
    use_up("a request", 0).await;
    advance(Duration::from_secs(28)).await;
    for name in ["b", "c", "d"] {
        drop(
            limiter
                .acquire(AcquireRequest::new(Scope::named(name), Cost::new(0, 0)))
                .await,
        );
    }
    let known = |name| limiter.scope(&Scope::named(name)).is_some();
    assert!(known("the day's tokens"));
    assert!(!known("b") && !known("c"), "whole, though used later");
    // The second that it lacked is over.
    assert!(known("a request"));
    advance(Duration::from_secs(1)).await;
    use_up("e", 1).await;
    assert!(!known("a request") && known("d") && known("e"));
    assert!(known("the day's tokens"));
}

/// Whoever is new has used a little, and later: that is not what would be given away.
#[tokio::test(start_paused = true)]
async fn spent_daily_limit_is_kept_longer_than_a_touched_one() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // Half a day away, so that no day ends meanwhile.
    let later = (now.unwrap().as_secs() + 43_200) % 86_400;
    let resets_later = Day::ResetsAt {
        seconds_after_midnight_utc: u32::try_from(later).unwrap(),
    };
    for day in [Day::Rolling, resets_later] {
        let config = LimiterConfig::new().with_max_scopes(3);
        let limits = Limits::new().with_tokens_per_day(n(1_000)).with_day(day);
        let limiter = LocalLimiter::with_config(limits, config);
        for (name, tokens) in [("spent", 1_000), ("a", 1), ("b", 1), ("c", 1), ("d", 1)] {
            let ask = AcquireRequest::new(Scope::named(name), Cost::new(tokens, 0));
            limiter.acquire(ask).await.unwrap().sent();
            advance(Duration::from_secs(3_600)).await;
        }
        let known = |name| limiter.scope(&Scope::named(name)).is_some();
        assert!(known("spent") && known("d"), "{day:?}");
        assert!(!known("a") && !known("b"), "{day:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn clones_share_state_and_other_limiters_do_not() {
    let limiter = one_at_once();
    let held = limiter.acquire(ask()).await.unwrap();
    assert!(held.is_of(limiter.clone().id()));
    assert!(!held.is_of(one_at_once().id()));
    let soon = ask().with_max_wait(Some(Duration::ZERO));
    assert!(limiter.clone().acquire(soon.clone()).await.is_err());
    assert!(one_at_once().acquire(soon).await.is_ok());
}

#[test]
fn immediate_admission_needs_no_runtime() {
    let limiter = LocalLimiter::new(Limits::unlimited());
    let mut future = std::pin::pin!(limiter.acquire(ask()));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_ready());
}

#[tokio::test(start_paused = true)]
async fn raised_priority_moves_a_waiting_request_to_the_front() {
    let limiter = one_a_second();
    limiter.acquire(ask()).await.unwrap().sent();
    let start = Instant::now();
    let others: Vec<_> = (0..20)
        .map(|_| tokio::spawn(limiter.acquire(ask())))
        .collect();
    yield_now().await;
    let mut late = limiter.acquire(ask().with_priority(Priority::Batch));
    assert!(timeout(Duration::ZERO, &mut late).await.is_err());
    limiter.raise_priority(std::pin::Pin::new(&mut late), Priority::Normal);
    assert_eq!(limiter.place(&late).map(|place| place.position), Some(21));
    limiter.raise_priority(std::pin::Pin::new(&mut late), Priority::Interactive);
    assert_eq!(limiter.place(&late).map(|place| place.position), Some(1));
    limiter.raise_priority(std::pin::Pin::new(&mut late), Priority::Batch);
    late.await.unwrap().sent();
    assert!(
        start.elapsed() <= Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn queue_is_bounded_in_bytes() {
    let config = LimiterConfig::new().with_queue_bytes(1_000);
    let limits = Limits::new().with_concurrency(NonZeroU32::MIN);
    let limiter = LocalLimiter::with_config(limits, config);
    let held = limiter.acquire(ask()).await.unwrap();
    // A request may wait alone, whatever its size is.
    let alone = tokio::spawn(limiter.acquire(ask().with_bytes(5_000)));
    yield_now().await;
    let rejection = limiter.acquire(ask().with_bytes(1)).await.unwrap_err();
    assert_eq!(
        rejection.reason,
        RejectReason::QueueBytesFull {
            bytes: 5_001,
            limit: 1_000
        }
    );
    alone.abort();
    yield_now().await;
    let waiting: Vec<_> = (0..2)
        .map(|_| tokio::spawn(limiter.acquire(ask().with_bytes(500))))
        .collect();
    yield_now().await;
    assert!(limiter.acquire(ask().with_bytes(1)).await.is_err());
    assert_eq!(limiter.snapshot()[0].queued, 2);
    drop(held);
    for task in waiting {
        drop(soon(task).await);
    }
}

/// A waker that calls back into the limiter when it is woken and when it is dropped.
struct CallsBack(LocalLimiter);

impl Wake for CallsBack {
    fn wake(self: Arc<Self>) {
        self.0.snapshot();
    }
}

impl Drop for CallsBack {
    fn drop(&mut self) {
        self.0.snapshot();
    }
}

#[tokio::test(start_paused = true)]
async fn wakers_that_call_back_do_not_deadlock() {
    let limiter = one_at_once();
    let poll = |acquire: &mut LocalAcquire| {
        let waker = Waker::from(Arc::new(CallsBack(limiter.clone())));
        let mut cx = Context::from_waker(&waker);
        std::pin::Pin::new(acquire).poll(&mut cx)
    };
    for round in 0..4 {
        let held = limiter.acquire(ask()).await.unwrap();
        let mut first = limiter.acquire(ask());
        let mut second = limiter.acquire(ask().with_max_wait(Some(Duration::from_secs(1))));
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending());
        assert!(poll(&mut first).is_pending());
        first.raise_priority(Priority::Interactive);
        match round {
            0 => drop(first),
            1 => drop(held),
            2 => {
                advance(Duration::from_secs(2)).await;
                assert!(poll(&mut second).is_ready());
            }
            _ => {}
        }
    }
    assert_eq!(limiter.snapshot()[0].queued, 0);
}

#[tokio::test(start_paused = true)]
async fn day_long_jump_of_the_clock_delays_nothing() {
    let day = Duration::from_secs(86_400);
    let limits = Limits::new()
        .with_requests_per_minute(n(60))
        .with_tokens_per_day(n(100_000))
        .with_day(Day::ResetsAt {
            seconds_after_midnight_utc: 0,
        });
    let limiter = LocalLimiter::new(limits);
    let date = |offset: Duration| SystemTime::now() + offset;
    let class = Class::new(Kind::Success);
    let none = RateLimits::default();
    for jumps in 1..=4 {
        let mut in_flight = limiter.acquire(ask()).await.unwrap();
        in_flight.sent();
        let mut rejected = limiter.acquire(ask()).await.unwrap();
        rejected.sent();
        rejected.pause(Some(Duration::from_secs(3_600)), Instant::now());
        rejected.settle(Settlement::Rejected);
        let waiting = tokio::spawn(limiter.acquire(ask()));
        yield_now().await;
        advance(day).await;
        let start = Instant::now();
        // The server's clock jumps forth and back as well.
        let offset = day * if jumps % 2 == 0 { 400 } else { 0 };
        let head = Observation::new(&none, Some(date(offset)), class, Instant::now());
        in_flight.observe(&head);
        in_flight.settle(Settlement::Used {
            usage: Usage::default(),
        });
        soon(waiting).await.sent();
        for _ in 0..20 {
            let mut reservation = limiter.acquire(ask()).await.unwrap();
            reservation.sent();
            reservation.settle(Settlement::Used {
                usage: Usage::default(),
            });
        }
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
    }
}
