//! The record of a call.

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
    Call, Class, Deadline, Priority, Tenant, Workload,
    toolkit::{Ledger, LimitWarning, LimiterId, Observation, ReservationHandle},
};
use tower_claude_wire::RateLimits;

#[tokio::test(start_paused = true)]
async fn new_call_has_the_settings_in_the_extensions() {
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
    let call = Call::get_or_insert(&mut extensions, now);
    assert_eq!(call.deadline(), Some(late));
    assert_eq!(call.priority(), Priority::Interactive);
    assert_eq!(call.tenant(), Some(&Tenant("acme".into())));
    // Inner layers and later attempts get the same record, with the same place in queues.
    tokio::time::advance(Duration::from_secs(1)).await;
    let again = Call::get_or_insert(&mut extensions, Instant::now());
    assert!(Arc::ptr_eq(&call, &again));
    let copy = Call::get_or_insert(&mut extensions.clone(), Instant::now());
    assert!(Arc::ptr_eq(&call, &copy));
    assert_eq!(again.first_arrival(), now);
}

#[test]
fn raised_priority_is_never_lowered() {
    let call = Call::new(&Extensions::new(), Instant::now());
    for (raised, expected) in [
        (Priority::Batch, Priority::Normal),
        (Priority::Interactive, Priority::Interactive),
        (Priority::Normal, Priority::Interactive),
    ] {
        call.raise_priority(raised);
        assert_eq!(call.priority(), expected);
    }
    assert_eq!(
        call.beside(Instant::now()).priority(),
        Priority::Interactive
    );
}

#[tokio::test(start_paused = true)]
async fn two_deadlines_keep_the_earlier() {
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
async fn attempts_are_counted_and_retries_are_claimed_once() {
    let call = Call::new(&Extensions::new(), Instant::now());
    assert_eq!(call.attempts(), 0);
    assert_eq!(call.begin_attempt(), 1);
    assert_eq!(call.begin_attempt(), 2);
    assert_eq!(call.attempts(), 2);
    assert!(call.claim_retries());
    assert!(
        !call.claim_retries(),
        "a nested layer passes requests through"
    );
    assert!(!call.claim_retries());
    // A fallback sends the call again afterwards, which is not nested.
    call.release_retries();
    assert!(call.claim_retries());
    assert!(!call.claim_retries());
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
async fn reservation_is_found_by_its_limiter() {
    let (a, b) = (Books::new(), Books::new());
    assert_ne!(a.limiter, b.limiter);
    let now = Instant::now();
    let call = Call::new(&Extensions::new(), now);
    assert!(call.reservation_of(a.limiter).is_none());
    call.begin_attempt();
    call.add_reservation(ReservationHandle::new(a.clone(), 1));
    call.add_reservation(ReservationHandle::new(b.clone(), 2));

    let limits = RateLimits::default();
    let seen = Observation::new(&limits, None, Class::SUCCESS, now).with_warn_percent(70);
    let id = |limiter| {
        let handle = call.reservation_of(limiter)?;
        assert!(handle.is_of(limiter));
        handle
            .observe(&seen)
            .map(|crossing| (crossing.remaining, crossing.limit))
    };
    assert_eq!(id(a.limiter), Some((1, 70)));
    assert_eq!(id(b.limiter), Some((2, 70)));
    assert_eq!(id(LimiterId::unique()), None);

    let handle = call.reservation_of(b.limiter).expect("added");
    assert_eq!(
        handle.pause(Some(Duration::from_secs(7)), now),
        Duration::from_secs(7)
    );
    assert_eq!(b.paused.load(Ordering::Relaxed), 2);
    assert_eq!(a.paused.load(Ordering::Relaxed), 0);
    assert!(!handle.is_of(a.limiter));

    // The last reservation of a limiter is found until it ends. A new attempt does not end it.
    call.add_reservation(ReservationHandle::new(b.clone(), 3));
    assert_eq!(id(b.limiter), Some((3, 70)));
    call.begin_attempt();
    assert_eq!(id(b.limiter), Some((3, 70)));
    call.forget_reservation(&*b, 3);
    assert_eq!(id(b.limiter), Some((2, 70)));
    call.forget_reservation(&*b, 2);
    assert!(call.is_reserved(), "by the other");
    call.forget_reservation(&*a, 1);
    assert!(!call.is_reserved());
    assert!(call.reservation_of(a.limiter).is_none());
    assert!(call.reservation_of(b.limiter).is_none());
    call.add_reservation(ReservationHandle::new(b.clone(), 4));
    assert_eq!(id(b.limiter), Some((4, 70)));
}

/// Each ledger of a limiter has its own ids.
#[tokio::test]
async fn reservation_with_the_same_id_in_another_ledger_is_kept() {
    let limiter = LimiterId::unique();
    let [outer, inner] = [Books::of(limiter), Books::of(limiter)];
    let call = Call::new(&Extensions::new(), Instant::now());
    call.add_reservation(ReservationHandle::new(outer.clone(), 0));
    call.add_reservation(ReservationHandle::new(inner.clone(), 0));
    call.forget_reservation(&*inner, 0);
    let left = call.reservation_of(limiter).expect("the outer one");
    assert!(left.is_to(&*outer, 0));
    call.forget_reservation(&*outer, 0);
    assert!(!call.is_reserved());
}

/// An additional request has the settings of the call and none of its state.
#[tokio::test(start_paused = true)]
async fn call_beside_another_shares_settings_and_no_state() {
    let now = Instant::now();
    let mut extensions = Extensions::new();
    extensions.insert(Workload::named("chat"));
    extensions.insert(Priority::Batch);
    extensions.insert(Deadline(now + Duration::from_secs(9)));
    let call = Call::new(&extensions, now);
    call.begin_attempt();
    call.set_counted_input(Some(7));
    assert_eq!(call.counted_input(), Some(7));
    let later = now + Duration::from_secs(1);
    let beside = call.beside(later).with_deadline(Some(later));
    assert_eq!(beside.first_arrival(), later);
    assert_eq!(beside.deadline(), Some(later));
    assert_eq!(beside.priority(), Priority::Batch);
    assert_eq!(beside.workload(), Workload::named("chat"));
    assert_eq!((beside.attempts(), beside.counted_input()), (0, None));
    assert!(beside.claim_retries());
    call.set_counted_input(None);
    assert_eq!(call.counted_input(), None);
    assert_eq!(Workload::named(""), Workload::NONE);
    assert_ne!(Workload::named("a"), Workload::named("b"));
}

#[tokio::test(start_paused = true)]
async fn new_attempt_resets_the_state_of_the_last() {
    let call = Call::new(&Extensions::new(), Instant::now());
    for number in 1..4 {
        assert_eq!(call.begin_attempt(), number);
        assert!(!call.is_held_back());
        assert!(!call.is_timed_out());
        call.set_held_back(true);
        call.time_out_attempt();
    }
}

#[test]
fn credential_of_a_call_is_that_of_the_host_of_each_request() {
    let call = Call::new(&Extensions::new(), Instant::now());
    let to = |uri: &str| {
        let request = http::Request::post(uri).header("x-api-key", "key");
        request.body(()).expect("a request")
    };
    let [a, b] = ["http://a/", "http://b/"].map(to);
    for request in [&a, &b, &a] {
        let expected = tower_claude_core::Scope::credential_of(request);
        assert_eq!(call.credential_of(request), expected);
    }
    assert_ne!(call.credential_of(&a), call.credential_of(&b));
    let same = to("http://A.:80/v1/messages");
    assert_eq!(call.credential_of(&same), call.credential_of(&a));
}
