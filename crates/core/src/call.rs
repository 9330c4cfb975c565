//! What travels with a request from layer to layer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Extensions, HeaderMap, Request};
use tokio::time::Instant;

use crate::{
    Ledger, LimiterId, RequestBody, ReservationHandle, Workload, reservations::Reservations,
    scope::credential,
};

/// When the caller stops waiting. Insert it into the request's extensions; every layer keeps to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

/// How much a request matters. Insert it into the request's extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Work nobody waits for.
    Batch,
    /// The default.
    #[default]
    Normal,
    /// A person waits.
    Interactive,
}

/// Whose request it is, for fair shares. Insert it into the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant(pub Arc<str>);

/// What travels with one call through the layers, across its attempts: one `Arc` in the request's body,
/// put there by the outermost layer that needs it.
///
/// Where the request changes its type on the way, as in another library, whoever changes it puts the `Arc` into the
/// extensions ([`leave_in_extensions`](Self::leave_in_extensions)): the next layer finds it there, too.
#[derive(Debug)]
pub struct Call {
    first_arrival: Instant,
    /// The caller's.
    deadline: Option<Instant>,
    /// The limit that a layer sets, in nanoseconds after the first arrival.
    deadline_limit: AtomicU64,
    priority: Priority,
    tenant: Option<Tenant>,
    workload: Workload,
    counted_input: AtomicU64,
    /// Of the request, once it was asked for.
    credential: AtomicU64,
    attempts: AtomicU32,
    retried: AtomicBool,
    probe: AtomicBool,
    held_back: AtomicBool,
    timed_out: AtomicBool,
    committed: AtomicBool,
    reservations: Reservations,
}

/// Stands for no count.
const UNCOUNTED: u64 = u64::MAX;

/// Stands for no limit of the deadline.
const NO_LIMIT: u64 = u64::MAX;

impl Call {
    /// The context of a call that arrived at `now`, with what the caller put into the extensions.
    #[must_use]
    pub fn new(extensions: &Extensions, now: Instant) -> Self {
        Self {
            first_arrival: now,
            deadline: extensions.get::<Deadline>().map(|deadline| deadline.0),
            deadline_limit: AtomicU64::new(NO_LIMIT),
            priority: extensions.get().copied().unwrap_or_default(),
            tenant: extensions.get().cloned(),
            workload: extensions.get().copied().unwrap_or_default(),
            counted_input: AtomicU64::new(UNCOUNTED),
            credential: AtomicU64::new(UNCOUNTED),
            attempts: AtomicU32::new(0),
            retried: AtomicBool::new(false),
            probe: AtomicBool::new(false),
            held_back: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            committed: AtomicBool::new(false),
            reservations: Reservations::default(),
        }
    }

    /// The credential of these headers, which are those of the call: hashed once.
    #[must_use]
    pub fn credential_of(&self, headers: &HeaderMap) -> u64 {
        match self.credential.load(Ordering::Relaxed) {
            UNCOUNTED => {
                let credential = credential(headers);
                self.credential.store(credential, Ordering::Relaxed);
                credential
            }
            credential => credential,
        }
    }

    /// The context of the call that this request belongs to.
    #[must_use]
    pub fn of(request: &Request<RequestBody>) -> Option<&Arc<Self>> {
        match request.body().context() {
            Some(context) => Some(context),
            None => request.extensions().get(),
        }
    }

    /// Puts the context where the layers further in find it.
    pub fn attach(self: &Arc<Self>, request: &mut Request<RequestBody>) {
        request.body_mut().set_context(self.clone());
    }

    /// The context of this request; made and put there when there is none.
    pub fn get_or_attach(request: &mut Request<RequestBody>, now: Instant) -> Arc<Self> {
        if let Some(context) = Self::of(request) {
            return context.clone();
        }
        let context = Arc::new(Self::new(request.extensions(), now));
        context.attach(request);
        context
    }

    /// Puts the context into the extensions of a request whose body is about to become another type.
    pub fn leave_in_extensions(request: &mut Request<RequestBody>) {
        if let Some(context) = request.body().context().cloned() {
            request.extensions_mut().insert(context);
        }
    }

    /// The context in these extensions; made and put there when there is none.
    pub fn get_or_insert(extensions: &mut Extensions, now: Instant) -> Arc<Self> {
        if let Some(context) = extensions.get::<Arc<Self>>() {
            return context.clone();
        }
        let context = Arc::new(Self::new(extensions, now));
        extensions.insert(context.clone());
        context
    }

    /// The same context with a deadline no later than this one.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = match (self.deadline, deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self
    }

    /// When the call first arrived: its place in every queue, kept across attempts.
    pub const fn first_arrival(&self) -> Instant {
        self.first_arrival
    }

    /// Returns the time at which the caller stops waiting, or a layer ends the call if that is
    /// earlier.
    pub fn deadline(&self) -> Option<Instant> {
        let limit = match self.deadline_limit.load(Ordering::Relaxed) {
            NO_LIMIT => None,
            nanos => self.first_arrival.checked_add(Duration::from_nanos(nanos)),
        };
        match (self.deadline, limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Sets the time at which a layer ends the call, so that inner layers keep to it. `None` removes
    /// the limit.
    pub fn limit_deadline(&self, limit: Option<Instant>) {
        let since_arrival = |at: Instant| at.saturating_duration_since(self.first_arrival);
        let nanos = limit.and_then(|at| u64::try_from(since_arrival(at).as_nanos()).ok());
        self.deadline_limit
            .store(nanos.unwrap_or(NO_LIMIT), Ordering::Relaxed);
    }

    /// How much the call matters.
    pub const fn priority(&self) -> Priority {
        self.priority
    }

    /// Whose call it is.
    pub const fn tenant(&self) -> Option<&Tenant> {
        self.tenant.as_ref()
    }

    /// The context of a request that a layer sends beside this call, at `now` and in its name: it has the
    /// same deadline, priority, tenant and workload, but attempts and reservations of its own.
    #[must_use]
    pub fn beside(&self, now: Instant) -> Self {
        Self {
            first_arrival: now,
            deadline: self.deadline(),
            deadline_limit: AtomicU64::new(NO_LIMIT),
            priority: self.priority,
            tenant: self.tenant.clone(),
            workload: self.workload,
            counted_input: AtomicU64::new(UNCOUNTED),
            credential: AtomicU64::new(UNCOUNTED),
            attempts: AtomicU32::new(0),
            retried: AtomicBool::new(false),
            probe: AtomicBool::new(false),
            held_back: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            committed: AtomicBool::new(false),
            reservations: Reservations::default(),
        }
    }

    /// The input tokens of this attempt, if a layer had them counted.
    pub fn counted_input(&self) -> Option<u64> {
        let counted = self.counted_input.load(Ordering::Relaxed);
        (counted != UNCOUNTED).then_some(counted)
    }

    /// Leaves the input tokens of this attempt for the layers further in; `None` takes back what was left
    /// for another.
    pub fn set_counted_input(&self, tokens: Option<u64>) {
        self.counted_input
            .store(tokens.unwrap_or(UNCOUNTED), Ordering::Relaxed);
    }

    /// What kind of request the call is.
    pub const fn workload(&self) -> Workload {
        self.workload
    }

    /// Attempts begun so far, over all layers that re-send: the ledger that keeps retries and
    /// fallbacks from multiplying.
    pub fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Counts a new attempt and returns its number, from 1. What the last one had reserved is
    /// forgotten when it ends; what a layer further out has reserved holds for all attempts.
    pub fn begin_attempt(&self) -> u32 {
        self.timed_out.store(false, Ordering::Relaxed);
        self.committed.store(false, Ordering::Relaxed);
        self.held_back.store(false, Ordering::Relaxed);
        // One attempt of a call begins at a time.
        let number = self.attempts.load(Ordering::Relaxed) + 1;
        self.attempts.store(number, Ordering::Relaxed);
        number
    }

    /// Whether the call only finds out if what it is sent to is back, with a stand-in ready: it is sent once.
    pub fn is_probe(&self) -> bool {
        self.probe.load(Ordering::Relaxed)
    }

    /// Tells the layers further in whether to send the call once only. For a layer that has a stand-in ready.
    pub fn set_probe(&self, probe: bool) {
        self.probe.store(probe, Ordering::Relaxed);
    }

    /// Whether a layer further in keeps the request waiting: in its queue, or until its tokens are counted.
    pub fn is_held_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Tells the layers further out that the request waits inside, or that it goes on. They learn from it
    /// when it is really sent.
    pub fn set_held_back(&self, waits: bool) {
        self.held_back.store(waits, Ordering::Relaxed);
    }

    /// Whether a timer has ended this attempt.
    pub fn is_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// Tells the layers further in, before the attempt is dropped, that it took too long. That is a failure, and not
    /// a caller who lost interest.
    pub fn time_out_attempt(&self) {
        self.timed_out.store(true, Ordering::Relaxed);
    }

    /// Whether a layer further in has held the answer to this attempt until it was worth handing on.
    pub fn is_committed(&self) -> bool {
        self.committed.load(Ordering::Relaxed)
    }

    /// Tells the layers further out whether they need not hold the answer: its content has begun, or it is whole.
    pub fn set_committed(&self, committed: bool) {
        self.committed.store(committed, Ordering::Relaxed);
    }

    /// Claims the retrying of this call. True for the first layer that asks, false for every
    /// nested one, which then passes requests through.
    pub fn claim_retries(&self) -> bool {
        let claimed = self.retried.load(Ordering::Relaxed);
        self.retried.store(true, Ordering::Relaxed);
        !claimed
    }

    /// Gives the claim back, so that a layer outside may send the call through here once more (a
    /// fallback to the next target is not nested, it comes after).
    pub fn release_retries(&self) {
        self.retried.store(false, Ordering::Relaxed);
    }

    /// Puts the reservation of this attempt where inner layers find it.
    pub fn add_reservation(&self, handle: ReservationHandle) {
        self.reservations.add(handle);
    }

    /// Whether anything is reserved for this call now.
    pub fn is_reserved(&self) -> bool {
        self.reservations.any()
    }

    /// Takes a reservation in this ledger away that has ended, so that another attempt does not join it.
    pub fn forget_reservation(&self, ledger: &dyn Ledger, reservation: u64) {
        self.reservations.forget(ledger, reservation);
    }

    /// The reservation that this limiter made for this attempt.
    pub fn reservation_of(&self, limiter: LimiterId) -> Option<ReservationHandle> {
        self.reservations.of(limiter)
    }
}
