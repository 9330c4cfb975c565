//! What travels with a call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Extensions;
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, Deadline, Ledger, LimitWarning, LimiterId, Observation, Priority,
    ReservationHandle, Tenant, Workload,
};
use tower_claude_wire::RateLimits;

#[tokio::test(start_paused = true)]
async fn what_the_caller_said() {
    let now = Instant::now();
    let empty = Call::new(&Extensions::new(), now);
    assert_eq!(empty.first_arrival(), now);
    assert_eq!(empty.deadline(), None);
    assert_eq!(empty.priority(), Priority::Normal);
    assert_eq!(empty.tenant(), None);

    let late = now + Duration::from_secs(9);
    let mut extensions = Extensions::new();
    extensions.insert(Deadline(late));
    extensions.insert(Priority::Interactive);
    extensions.insert(Tenant("acme".into()));
    let context = Call::get_or_insert(&mut extensions, now);
    assert_eq!(context.deadline(), Some(late));
    assert_eq!(context.priority(), Priority::Interactive);
    assert_eq!(context.tenant(), Some(&Tenant("acme".into())));
    // Later layers, later attempts: the same context, the same place in every queue.
    tokio::time::advance(Duration::from_secs(1)).await;
    let again = Call::get_or_insert(&mut extensions, Instant::now());
    assert!(Arc::ptr_eq(&context, &again));
    let copy = Call::get_or_insert(&mut extensions.clone(), Instant::now());
    assert!(Arc::ptr_eq(&context, &copy));
    assert_eq!(again.first_arrival(), now);
}

#[tokio::test(start_paused = true)]
async fn the_earlier_deadline_holds() {
    let now = Instant::now();
    let (near, far) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
    let with = |own: Option<Instant>, more| {
        let mut extensions = Extensions::new();
        if let Some(own) = own {
            extensions.insert(Deadline(own));
        }
        Call::new(&extensions, now).with_deadline(more).deadline()
    };
    assert_eq!(with(Some(near), Some(far)), Some(near));
    assert_eq!(with(Some(far), Some(near)), Some(near));
    assert_eq!(with(None, Some(far)), Some(far));
    assert_eq!(with(Some(near), None), Some(near));
    assert_eq!(with(None, None), None);
    assert!(Priority::Batch < Priority::Normal && Priority::Normal < Priority::Interactive);
}

#[tokio::test(start_paused = true)]
async fn deadline_limit_shortens_deadline_until_it_is_removed() {
    let now = Instant::now();
    let (near, far) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
    for own in [None, Some(far)] {
        let call = Call::new(&Extensions::new(), now).with_deadline(own);
        call.limit_deadline(Some(near));
        assert_eq!(call.deadline(), Some(near));
        assert_eq!(call.beside(now).deadline(), Some(near));
        call.limit_deadline(None);
        assert_eq!(call.deadline(), own);
        // A limit before the arrival is due at once.
        call.limit_deadline(Some(now - Duration::from_nanos(1)));
        assert_eq!(call.deadline(), Some(now));
    }
    let call = Call::new(&Extensions::new(), now).with_deadline(Some(near));
    call.limit_deadline(Some(far));
    assert_eq!(call.deadline(), Some(near));
}

#[tokio::test]
async fn attempts_and_claims() {
    let context = Call::new(&Extensions::new(), Instant::now());
    assert_eq!(context.attempts(), 0);
    assert_eq!(context.begin_attempt(), 1);
    assert_eq!(context.begin_attempt(), 2);
    assert_eq!(context.attempts(), 2);
    assert!(context.claim_retries());
    assert!(
        !context.claim_retries(),
        "a nested layer passes requests through"
    );
    assert!(!context.claim_retries());
    // A fallback sends the call through once more: not nested, but after.
    context.release_retries();
    assert!(context.claim_retries());
    assert!(!context.claim_retries());
}

#[derive(Debug)]
struct Books {
    limiter: LimiterId,
    paused: AtomicU64,
}

impl Books {
    fn new() -> Arc<Self> {
        Self::of(LimiterId::unique())
    }

    fn of(limiter: LimiterId) -> Arc<Self> {
        let paused = AtomicU64::new(0);
        Arc::new(Self { limiter, paused })
    }
}

impl Ledger for Books {
    fn limiter(&self) -> LimiterId {
        self.limiter
    }

    fn observe(&self, reservation: u64, seen: &Observation<'_>) -> Option<LimitWarning> {
        let dimension = tower_claude_core::Dimension::Requests;
        Some(LimitWarning::new(
            dimension,
            reservation,
            seen.warn_percent.into(),
        ))
    }

    fn pause(&self, reservation: u64, wait: Option<Duration>, _now: Instant) -> Duration {
        self.paused.store(reservation, Ordering::Relaxed);
        wait.unwrap_or(Duration::from_secs(1))
    }
}

#[tokio::test]
async fn reservations_are_found_by_their_limiter() {
    let (a, b) = (Books::new(), Books::new());
    assert_ne!(a.limiter, b.limiter);
    let now = Instant::now();
    let context = Call::new(&Extensions::new(), now);
    assert!(context.reservation_of(a.limiter).is_none());
    context.begin_attempt();
    context.add_reservation(ReservationHandle::new(a.clone(), 1));
    context.add_reservation(ReservationHandle::new(b.clone(), 2));

    let limits = RateLimits::default();
    let seen = Observation::new(&limits, None, Class::SUCCESS, now).with_warn_percent(70);
    let id = |limiter| {
        let handle = context.reservation_of(limiter)?;
        assert!(handle.is_of(limiter));
        handle
            .observe(&seen)
            .map(|crossing| (crossing.remaining, crossing.limit))
    };
    assert_eq!(id(a.limiter), Some((1, 70)));
    assert_eq!(id(b.limiter), Some((2, 70)));
    assert_eq!(id(LimiterId::unique()), None);

    let handle = context.reservation_of(b.limiter).expect("added");
    assert_eq!(
        handle.pause(Some(Duration::from_secs(7)), now),
        Duration::from_secs(7)
    );
    assert_eq!(b.paused.load(Ordering::Relaxed), 2);
    assert_eq!(a.paused.load(Ordering::Relaxed), 0);
    assert!(!handle.is_of(a.limiter));

    // The latest of one limiter counts, until it ends; a new attempt alone ends none.
    context.add_reservation(ReservationHandle::new(b.clone(), 3));
    assert_eq!(id(b.limiter), Some((3, 70)));
    context.begin_attempt();
    assert_eq!(id(b.limiter), Some((3, 70)));
    context.forget_reservation(&*b, 3);
    assert_eq!(id(b.limiter), Some((2, 70)));
    context.forget_reservation(&*b, 2);
    assert!(context.is_reserved(), "by the other");
    context.forget_reservation(&*a, 1);
    assert!(!context.is_reserved());
    assert!(context.reservation_of(a.limiter).is_none());
    assert!(context.reservation_of(b.limiter).is_none());
    context.add_reservation(ReservationHandle::new(b.clone(), 4));
    assert_eq!(id(b.limiter), Some((4, 70)));
}

/// Each ledger of a limiter numbers its own.
#[tokio::test]
async fn a_reservation_of_the_same_number_in_another_ledger_stays() {
    let limiter = LimiterId::unique();
    let [outer, inner] = [Books::of(limiter), Books::of(limiter)];
    let context = Call::new(&Extensions::new(), Instant::now());
    context.add_reservation(ReservationHandle::new(outer.clone(), 0));
    context.add_reservation(ReservationHandle::new(inner.clone(), 0));
    context.forget_reservation(&*inner, 0);
    let left = context.reservation_of(limiter).expect("the outer one");
    assert!(left.is_to(&*outer, 0));
    context.forget_reservation(&*outer, 0);
    assert!(!context.is_reserved());
}

/// A request sent beside a call speaks in its name and holds nothing of it.
#[tokio::test(start_paused = true)]
async fn beside_a_call() {
    let now = Instant::now();
    let mut extensions = Extensions::new();
    extensions.insert(Workload::named("chat"));
    extensions.insert(Priority::Batch);
    extensions.insert(Deadline(now + Duration::from_secs(9)));
    let context = Call::new(&extensions, now);
    context.begin_attempt();
    context.set_counted_input(Some(7));
    assert_eq!(context.counted_input(), Some(7));
    let later = now + Duration::from_secs(1);
    let beside = context.beside(later).with_deadline(Some(later));
    assert_eq!(beside.first_arrival(), later);
    assert_eq!(beside.deadline(), Some(later));
    assert_eq!(beside.priority(), Priority::Batch);
    assert_eq!(beside.workload(), Workload::named("chat"));
    assert_eq!((beside.attempts(), beside.counted_input()), (0, None));
    assert!(beside.claim_retries());
    context.set_counted_input(None);
    assert_eq!(context.counted_input(), None);
    assert_eq!(Workload::named(""), Workload::NONE);
    assert_ne!(Workload::named("a"), Workload::named("b"));
}

/// What was said of one attempt is not said of the next.
#[tokio::test(start_paused = true)]
async fn each_attempt_begins_without_what_was_said() {
    let context = Call::new(&Extensions::new(), Instant::now());
    for number in 1..4 {
        assert_eq!(context.begin_attempt(), number);
        assert!(!context.is_held_back());
        assert!(!context.is_timed_out());
        assert!(!context.is_committed());
        context.set_held_back(true);
        context.time_out_attempt();
        context.set_committed(true);
    }
    context.set_committed(false);
    assert!(!context.is_committed());
}
