//! The record of a call that all its layers share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Extensions, HeaderMap, Request, Uri};
use tokio::time::Instant;

use crate::{
    body_failure::BodyFailure,
    call_record::CallRecord,
    class::Kind,
    credential::Sender,
    host::host,
    ledger::{Ledger, LimiterId, ReservationHandle},
    priority::Priority,
    reroute::Reroute,
    reservations::Reservations,
    workload::Workload,
};

/// The time at which the caller stops waiting.
///
/// Insert it into the request's extensions. Every layer respects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

/// The longest time that the response to a request may take, for a caller that can wait for a
/// batch.
///
/// Insert it into the request's extensions. The batch layer of `tower-claude-batch` reads it. The
/// cache does not let requests with different tolerances share a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tolerance(pub Duration);

/// The longest time in which the body of a request must arrive. Absent for a body that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestTimeout(pub(crate) Duration);

/// The tenant of a request. Limiters give each tenant a fair share, and a tenant that fills a queue
/// loses its own requests first. Insert it into the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant(pub Arc<str>);

/// The record of one call that all its layers and attempts share.
///
/// The outermost layer that needs it creates it and attaches it to the request's body. Inner layers
/// find it there. Code that converts the body to another type must first call
/// [`leave_in_extensions`](Self::leave_in_extensions), so that layers behind it find the record in
/// the extensions.
#[derive(Debug)]
pub struct Call {
    first_arrival: Instant,
    /// The deadline of the caller.
    deadline: Option<Instant>,
    /// The limit that a layer sets, in nanoseconds after the first arrival, or [`UNSET`].
    deadline_limit: AtomicU64,
    /// A [`Priority`] as a number, which is only raised.
    priority: AtomicU8,
    tenant: Option<Tenant>,
    workload: Workload,
    /// [`UNSET`] if the tokens were not counted.
    counted_input: AtomicU64,
    /// The hash of the credential. [`UNSET`] until it is first needed.
    credential: AtomicU64,
    /// The hash of the host that `credential` was computed for.
    host: AtomicU64,
    /// The end of a rejection of further attempts, as `deadline_limit`.
    blocked_until: AtomicU64,
    attempts: AtomicU32,
    /// A layer has claimed the retries.
    retries_claimed: AtomicBool,
    probe: AtomicBool,
    has_stand_in: AtomicBool,
    /// The length of a wait in nanoseconds, or [`UNSET`].
    postponed: AtomicU64,
    /// A [`Reroute`] as a number.
    reroute: AtomicU64,
    held_back: AtomicBool,
    timed_out: AtomicBool,
    /// The body arrived after the request, and no driver has started the call since.
    read_since_arrival: AtomicBool,
    /// The state of a streamed body, as an [`Upload`].
    upload: AtomicU8,
    reservations: Reservations,
    /// The states that layers keep for the call. Boxed, because few layers have one.
    states: OnceLock<Box<Mutex<Extensions>>>,
    /// Absent unless a driver reports events. Boxed, because few calls need it where nobody
    /// listens.
    record: OnceLock<Box<Mutex<CallRecord>>>,
}

/// The state of a request body that is sent as a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upload {
    /// The caller keeps up, or the body has ended. Also the state of a buffered body.
    Flows,
    /// The client waits for more data from the caller.
    Waits,
    Failed(BodyFailure),
}

impl Upload {
    const fn to_u8(self) -> u8 {
        match self {
            Self::Flows => 0,
            Self::Waits => 1,
            Self::Failed(BodyFailure::Broken) => 2,
            Self::Failed(BodyFailure::TooLong) => 3,
            Self::Failed(BodyFailure::TimedOut) => 4,
        }
    }

    const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Flows,
            1 => Self::Waits,
            2 => Self::Failed(BodyFailure::Broken),
            3 => Self::Failed(BodyFailure::TooLong),
            _ => Self::Failed(BodyFailure::TimedOut),
        }
    }
}

/// Marks a number that was not set.
const UNSET: u64 = u64::MAX;

impl Call {
    /// Creates the record of a call that arrived at `now`, with the settings in the extensions.
    #[must_use]
    pub fn new(extensions: &Extensions, now: Instant) -> Self {
        Self {
            first_arrival: now,
            deadline: extensions.get::<Deadline>().map(|deadline| deadline.0),
            deadline_limit: AtomicU64::new(UNSET),
            priority: AtomicU8::new(extensions.get().copied().unwrap_or(Priority::Normal) as u8),
            tenant: extensions.get().cloned(),
            workload: extensions.get().copied().unwrap_or_default(),
            counted_input: AtomicU64::new(UNSET),
            credential: AtomicU64::new(UNSET),
            host: AtomicU64::new(UNSET),
            blocked_until: AtomicU64::new(UNSET),
            attempts: AtomicU32::new(0),
            retries_claimed: AtomicBool::new(false),
            probe: AtomicBool::new(false),
            has_stand_in: AtomicBool::new(false),
            postponed: AtomicU64::new(UNSET),
            reroute: AtomicU64::new(Reroute::to_u64(None)),
            held_back: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            read_since_arrival: AtomicBool::new(false),
            upload: AtomicU8::new(Upload::Flows.to_u8()),
            reservations: Reservations::default(),
            states: OnceLock::new(),
            record: OnceLock::new(),
        }
    }

    /// Returns true if a driver reports events of the call.
    #[inline]
    pub(crate) fn has_record(&self) -> bool {
        self.record.get().is_some()
    }

    /// Returns the record for events. Creates it if there is none.
    pub(crate) fn record(&self) -> MutexGuard<'_, CallRecord> {
        let record = self.record.get_or_init(Box::default);
        record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the failure for which a layer sends the call to another model, for the event at its
    /// end. The first one counts.
    pub fn record_fallback(&self, failure: Kind) {
        if self.has_record() {
            self.record().fallback.get_or_insert(failure);
        }
    }

    /// Returns the hash of the credential of a request of this call, at its host.
    ///
    /// It is computed once for a call, and again if a layer has sent the request to another host.
    /// See [`Scope::credential_of`](crate::Scope::credential_of).
    #[must_use]
    pub fn credential_of<B>(&self, request: &Request<B>) -> u64 {
        self.sender_of(request).credential
    }

    /// Returns the host of a request of this call, and the hash of its credential as
    /// [`credential_of`](Self::credential_of) does.
    #[must_use]
    #[inline]
    pub fn sender_of<'a, B>(&self, request: &'a Request<B>) -> Sender<'a> {
        self.sender(request.uri(), request.headers(), request.extensions())
    }

    #[inline]
    fn sender<'a>(
        &self,
        uri: &'a Uri,
        headers: &'a HeaderMap,
        extensions: &'a Extensions,
    ) -> Sender<'a> {
        let known = self.credential.load(Ordering::Relaxed);
        if known != UNSET {
            let sender = Sender {
                host: host(uri, headers),
                credential: known,
            };
            if self.host.load(Ordering::Relaxed) == sender.host_hash() {
                return sender;
            }
        }
        let sender = Sender::of(uri, headers, extensions);
        self.credential.store(sender.credential, Ordering::Relaxed);
        self.host.store(sender.host_hash(), Ordering::Relaxed);
        sender
    }

    /// Removes the known credential, after a layer has replaced the credential of the request.
    pub fn forget_credential(&self) {
        self.credential.store(UNSET, Ordering::Relaxed);
    }

    /// Returns the hash of the credential if a layer needed it, and 0 if not.
    pub(crate) fn known_credential(&self) -> u64 {
        match self.credential.load(Ordering::Relaxed) {
            UNSET => 0,
            credential => credential,
        }
    }

    /// Returns the record in these extensions. Creates and inserts it if there is none.
    pub fn get_or_insert(extensions: &mut Extensions, now: Instant) -> Arc<Self> {
        if let Some(call) = extensions.get::<Arc<Self>>() {
            return call.clone();
        }
        let call = Arc::new(Self::new(extensions, now));
        extensions.insert(call.clone());
        call
    }

    /// Sets the deadline, unless an earlier deadline is set.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = match (self.deadline, deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self
    }

    /// Returns the time at which the call first arrived. It decides the place in queues for all
    /// attempts.
    pub const fn first_arrival(&self) -> Instant {
        self.first_arrival
    }

    /// Returns the time at which the caller stops waiting, or a layer ends the call if that is
    /// earlier.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.deadline, self.load(&self.deadline_limit)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Sets the time at which a layer ends the call, so that inner layers keep to it. `None`
    /// removes the limit.
    pub fn limit_deadline(&self, limit: Option<Instant>) {
        self.store(&self.deadline_limit, limit);
    }

    /// Returns the time until which an inner layer would reject another attempt, as known at the
    /// end of this one.
    pub fn blocked_until(&self) -> Option<Instant> {
        self.load(&self.blocked_until)
    }

    /// Sets the time until which another attempt would be rejected, so that outer layers do not
    /// wait for an attempt before that.
    pub fn block_until(&self, until: Option<Instant>) {
        self.store(&self.blocked_until, until);
    }

    fn load(&self, nanos: &AtomicU64) -> Option<Instant> {
        match nanos.load(Ordering::Relaxed) {
            UNSET => None,
            nanos => self.first_arrival.checked_add(Duration::from_nanos(nanos)),
        }
    }

    fn store(&self, nanos: &AtomicU64, at: Option<Instant>) {
        let since_arrival = |at: Instant| at.saturating_duration_since(self.first_arrival);
        let since = at.and_then(|at| u64::try_from(since_arrival(at).as_nanos()).ok());
        nanos.store(since.unwrap_or(UNSET), Ordering::Relaxed);
    }

    /// Returns the priority of the call. A layer that keeps the call waiting reads it again with
    /// each poll, because it may be raised.
    pub fn priority(&self) -> Priority {
        match self.priority.load(Ordering::Relaxed) {
            0 => Priority::Batch,
            1 => Priority::Normal,
            _ => Priority::Interactive,
        }
    }

    /// Raises the priority to at least this one, because a more urgent caller waits for the same
    /// response. The caller of this function then wakes the task that polls the call.
    pub fn raise_priority(&self, priority: Priority) {
        self.priority.fetch_max(priority as u8, Ordering::Relaxed);
    }

    /// Returns the tenant of the call.
    pub const fn tenant(&self) -> Option<&Tenant> {
        self.tenant.as_ref()
    }

    /// Creates the record of an additional request that a layer sends for this call at `now`.
    ///
    /// It has the same deadline, priority, tenant and workload, but separate attempts and
    /// reservations.
    #[must_use]
    pub fn beside(&self, now: Instant) -> Self {
        Self {
            deadline: self.deadline(),
            priority: AtomicU8::new(self.priority() as u8),
            tenant: self.tenant.clone(),
            workload: self.workload,
            ..Self::new(&Extensions::new(), now)
        }
    }

    /// Returns the input tokens of this attempt, if a layer has counted them.
    pub fn counted_input(&self) -> Option<u64> {
        let counted = self.counted_input.load(Ordering::Relaxed);
        (counted != UNSET).then_some(counted)
    }

    /// Sets the counted input tokens of this attempt for inner layers. `None` removes the count of
    /// an earlier attempt.
    pub fn set_counted_input(&self, tokens: Option<u64>) {
        self.counted_input
            .store(tokens.unwrap_or(UNSET), Ordering::Relaxed);
    }

    /// Returns the workload of the call.
    pub const fn workload(&self) -> Workload {
        self.workload
    }

    /// Returns the number of attempts that have begun, summed over all layers that send a call
    /// again.
    ///
    /// Layers share this number, so that retries and fallbacks do not multiply.
    pub fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Counts a new attempt and returns its number, from 1.
    ///
    /// The state of the last attempt is reset. Its reservations are removed when it ends, and the
    /// reservations of an outer layer hold for all attempts.
    pub fn begin_attempt(&self) -> u32 {
        self.timed_out.store(false, Ordering::Relaxed);
        self.held_back.store(false, Ordering::Relaxed);
        self.block_until(None);
        self.postpone(None);
        self.set_reroute(None);
        // No atomic increment, because the attempts of a call begin one after the other.
        let number = self.attempts.load(Ordering::Relaxed) + 1;
        self.attempts.store(number, Ordering::Relaxed);
        number
    }

    /// Returns true if the call probes whether its target has recovered. It is then sent only once.
    pub fn is_probe(&self) -> bool {
        self.probe.load(Ordering::Relaxed)
    }

    /// Sets whether inner layers must send the call only once, because the outer layer has another
    /// target ready.
    pub fn set_probe(&self, probe: bool) {
        self.probe.store(probe, Ordering::Relaxed);
    }

    /// Returns true if an outer layer may have another target ready. Inner layers then do not wait
    /// for long before another attempt.
    pub fn has_stand_in(&self) -> bool {
        self.has_stand_in.load(Ordering::Relaxed)
    }

    /// Sets whether an outer layer may have another target ready.
    pub fn set_stand_in(&self, ready: bool) {
        self.has_stand_in.store(ready, Ordering::Relaxed);
    }

    /// Returns the wait before another attempt that an inner layer left out, because an outer layer
    /// may have a [stand-in](Self::has_stand_in). Without one, the outer layer waits instead.
    pub fn postponed(&self) -> Option<Duration> {
        let nanos = self.postponed.load(Ordering::Relaxed);
        (nanos != UNSET).then(|| Duration::from_nanos(nanos))
    }

    /// Leaves another attempt, which would follow after this wait, to the outer layers.
    pub fn postpone(&self, wait: Option<Duration>) {
        let nanos = wait.map_or(UNSET, |wait| {
            u64::try_from(wait.as_nanos()).unwrap_or(UNSET - 1)
        });
        self.postponed.store(nanos, Ordering::Relaxed);
    }

    /// Returns the way of another attempt, as an inner layer that chooses among several targets has
    /// reported it at the end of this one.
    pub fn reroute(&self) -> Option<Reroute> {
        Reroute::from_u64(self.reroute.load(Ordering::Relaxed))
    }

    /// Sets the way of another attempt.
    pub fn set_reroute(&self, way: Option<Reroute>) {
        self.reroute.store(Reroute::to_u64(way), Ordering::Relaxed);
    }

    /// Returns the state that a layer keeps for the call over all its attempts. Creates it at
    /// first.
    ///
    /// There is one state of each type, so the type must be private to the layer. Two layers of the
    /// same kind share it.
    pub fn state<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let states = self.states.get_or_init(Box::default);
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.get_or_insert_with(|| Arc::new(T::default()));
        state.clone()
    }

    /// Returns true while an inner layer keeps the request waiting, in a queue or for a token
    /// count.
    pub fn is_held_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Sets whether an inner layer keeps the request waiting. Outer layers derive from it the time
    /// at which the request is sent.
    pub fn set_held_back(&self, waits: bool) {
        self.held_back.store(waits, Ordering::Relaxed);
    }

    /// Returns true if a timer has ended this attempt.
    pub fn is_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// Records that this attempt took too long, before it is dropped.
    ///
    /// Inner layers then count the drop as a failure, and not as a caller that went away.
    pub fn time_out_attempt(&self) {
        self.timed_out.store(true, Ordering::Relaxed);
    }

    /// Records that the body of the request arrived after [`first_arrival`](Self::first_arrival).
    pub(crate) fn set_read_since_arrival(&self) {
        self.read_since_arrival.store(true, Ordering::Relaxed);
    }

    /// Returns the time at which the timeouts of the call begin. That is its arrival if the body
    /// was read since, and `now` if not.
    pub(crate) fn begin(&self, now: Instant) -> Instant {
        if self.read_since_arrival.load(Ordering::Relaxed) {
            self.read_since_arrival.store(false, Ordering::Relaxed);
            return self.first_arrival;
        }
        now
    }

    /// Returns the failure of a body that was being sent as a stream. Layers then do not blame the
    /// server for the end of the attempt.
    pub fn body_failure(&self) -> Option<BodyFailure> {
        match Upload::from_u8(self.upload.load(Ordering::Relaxed)) {
            Upload::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// Returns the failure of the body, or a timeout if the client waits for the caller to send
    /// more of it. Layers do not blame the server if the attempt ends at this time.
    pub(crate) fn unfinished_body(&self) -> Option<BodyFailure> {
        match Upload::from_u8(self.upload.load(Ordering::Relaxed)) {
            Upload::Flows => None,
            Upload::Waits => Some(BodyFailure::TimedOut),
            Upload::Failed(failure) => Some(failure),
        }
    }

    /// Records the state of a body that is sent as a stream.
    pub(crate) fn set_upload(&self, upload: Upload) {
        self.upload.store(upload.to_u8(), Ordering::Relaxed);
    }

    /// Claims the retries of this call, and returns true if no other layer has claimed them.
    ///
    /// A nested layer gets false and then forwards requests unchanged.
    pub fn claim_retries(&self) -> bool {
        let claimed = self.retries_claimed.load(Ordering::Relaxed);
        self.retries_claimed.store(true, Ordering::Relaxed);
        !claimed
    }

    /// Releases the claim, so that an outer layer can send the call to another target with retries
    /// of its own.
    pub fn release_retries(&self) {
        self.retries_claimed.store(false, Ordering::Relaxed);
    }

    /// Adds a reservation of this attempt, so that inner layers find it.
    pub fn add_reservation(&self, handle: ReservationHandle) {
        self.reservations.add(handle);
    }

    /// Returns true if the call has a reservation.
    pub fn is_reserved(&self) -> bool {
        self.reservations.any()
    }

    /// Removes a reservation that has ended, so that another attempt does not use it.
    pub fn forget_reservation(&self, ledger: &dyn Ledger, reservation: u64) {
        self.reservations.forget(ledger, reservation);
    }

    /// Returns the reservation that this limiter made for this attempt.
    pub fn reservation_of(&self, limiter: LimiterId) -> Option<ReservationHandle> {
        self.reservations.of(limiter)
    }
}
