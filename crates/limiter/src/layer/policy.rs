//! The attempt policy of the limiter layers.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, response::Parts};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, Cost, EstimateCost, EstimatedTokens, HeuristicCost, Outcome, Priority, Rejection,
    RequestBody, Scope, UsageBound,
    driver::{AttemptPolicy, Clock},
    event::EventSink,
    toolkit::PendingEstimate,
};
use tower_claude_wire::StreamState;

use super::{
    reporter::{QueuedReport, Reporter},
    settings::LimitSettings,
};
use crate::{
    limiter::Limiter,
    pool::usage_cap::exceeds,
    reservation::{Admitted, Reservation, Settlement},
};

/// Bytes of `content_block_delta` data per output token, used while a stream has not reported its
/// usage. An event of about 150 bytes carries a few tokens. Only a large overrun must show.
const DELTA_BYTES_PER_TOKEN: u64 = 40;

/// Output tokens before the first report to the limiter. Each next report comes after a quarter
/// more, so that short responses never take the lock for it.
const FIRST_REPORT: u32 = 256;

/// The policy of a limiter layer: admits an attempt when the limiter does, and settles its
/// reservation when the response has ended.
///
/// [`LimitLayer::policy`](super::LimitLayer::policy) returns it, for a driver that runs several
/// policies.
#[derive(Debug)]
pub struct LimitPolicy<L, E = HeuristicCost> {
    settings: Arc<LimitSettings<L, E>>,
    /// Present if a header budget reads the response heads.
    header_budget: Option<Reporter>,
}

impl<L, E> LimitPolicy<L, E> {
    pub(super) const fn new(settings: Arc<LimitSettings<L, E>>) -> Self {
        Self {
            settings,
            header_budget: None,
        }
    }

    /// Adds a header budget over the same limiter. This policy admits and settles, and the header
    /// budget reads the response heads.
    ///
    /// It saves the second policy of the pair `(token_bucket, header_budget)`, which behaves alike
    /// within one driver. The reservation is then not visible to the layers inside of the driver,
    /// and another layer over the same limiter would reserve again. If the two have different
    /// limiters, use the pair.
    #[must_use]
    pub fn with_header_budget<E2>(mut self, budget: &LimitPolicy<L, E2>) -> Self {
        self.header_budget = Some(budget.settings.reporter.clone());
        self
    }
}

/// The state of one attempt under a [`LimitPolicy`].
///
/// The fields are dropped in this order: a pending estimate makes room in the estimator before the
/// reservation wakes the next request.
pub struct LimitAttempt<A> {
    /// The wait for the limiter. Boxed, because few attempts wait.
    acquire: Option<Box<Queued<A>>>,
    /// Present only if the estimator learns from the actual usage of this request.
    pending: Option<Box<PendingEstimate>>,
    admitted: Option<Admitted>,
    /// Present only if the reservation does not know its scope.
    scope: Option<Box<Scope>>,
    /// The priority of the call that the limiter knows, while the attempt waits.
    priority: Priority,
    input_known: bool,
    /// The response is a success so far.
    answered: bool,
    /// Output tokens so far.
    produced: u64,
    next_report: u32,
    /// The most that the response can truly report.
    bound: UsageBound,
    /// The charge when the request was sent. Present only if its event is wanted.
    estimated: Option<Box<EstimatedTokens>>,
}

/// A request that waits for the limiter.
struct Queued<A> {
    // Dropped first, so that the request has left the queue when this is reported.
    acquire: A,
    report: QueuedReport,
}

impl<A> Default for LimitAttempt<A> {
    fn default() -> Self {
        Self {
            acquire: None,
            pending: None,
            admitted: None,
            scope: None,
            priority: Priority::Normal,
            input_known: false,
            answered: false,
            produced: 0,
            next_report: FIRST_REPORT,
            bound: UsageBound::UNKNOWN,
            estimated: None,
        }
    }
}

impl<A> fmt::Debug for LimitAttempt<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitAttempt")
            .field("admitted", &self.admitted)
            .finish_non_exhaustive()
    }
}

impl<L: Limiter, E: EstimateCost> LimitPolicy<L, E> {
    /// Queues a request that is not admitted at once, and polls it.
    #[cold]
    fn poll_first(
        &self,
        attempt: &mut LimitAttempt<L::Acquire>,
        request: &Request<RequestBody>,
        call: &Arc<Call>,
        cost: Cost,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Reservation, Rejection>> {
        let settings = &*self.settings;
        attempt.priority = call.priority();
        let mut acquire = settings.acquire(request, call, cost);
        if let Poll::Ready(acquired) = Pin::new(&mut acquire).poll(cx) {
            return Poll::Ready(self.report_rejection(request, call, acquired));
        }
        call.set_held_back(true);
        let report = QueuedReport::new(
            &settings.reporter,
            settings.scope(request, call),
            call,
            settings.limiter.place(&acquire),
            clock.now(),
        );
        attempt.acquire = Some(Box::new(Queued { acquire, report }));
        Poll::Pending
    }

    /// Polls a request that waits.
    #[cold]
    fn poll_queued(
        &self,
        queued: &mut Queued<L::Acquire>,
        priority: &mut Priority,
        pending: &mut Option<Box<PendingEstimate>>,
        request: &Request<RequestBody>,
        call: &Arc<Call>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Reservation, Rejection>> {
        let settings = &*self.settings;
        let acquire = &mut queued.acquire;
        if call.priority() > *priority {
            *priority = call.priority();
            let acquire = Pin::new(&mut *acquire);
            settings.limiter.raise_priority(acquire, call.priority());
        }
        settings.revise(request, call, Pin::new(acquire), pending);
        let acquired = ready!(Pin::new(acquire).poll(cx));
        queued.report.decide();
        Poll::Ready(self.report_rejection(request, call, acquired))
    }

    /// Ends the wait of a request, and reports its rejection.
    fn report_rejection(
        &self,
        request: &Request<RequestBody>,
        call: &Arc<Call>,
        acquired: Result<Reservation, Rejection>,
    ) -> Result<Reservation, Rejection> {
        acquired.map_err(|rejection| {
            call.set_held_back(false);
            let scope = self.settings.scope(request, call);
            self.settings.reporter.rejected(&scope, rejection)
        })
    }
}

impl<L: Limiter, E: EstimateCost> AttemptPolicy for LimitPolicy<L, E> {
    type Attempt = LimitAttempt<L::Acquire>;

    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        let reporters = [Some(&self.settings.reporter), self.header_budget.as_ref()];
        for reporter in reporters.into_iter().flatten() {
            visit(reporter.layer(), &reporter.events);
        }
    }

    fn scope<'a>(&'a self, attempt: &'a Self::Attempt) -> Option<&'a Scope> {
        let admitted = attempt.admitted.as_ref()?;
        Some(admitted.scope(&attempt.scope))
    }

    /// Not under the reservation of an outer layer, which settles it and reads the usage itself.
    #[inline]
    fn reads_usage(&self, attempt: &Self::Attempt) -> bool {
        matches!(attempt.admitted, Some(Admitted::Own(_)))
    }

    fn poll_admit(
        &self,
        attempt: &mut Self::Attempt,
        request: &mut Request<RequestBody>,
        call: &Arc<Call>,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        let settings = &*self.settings;
        let mut reservation = if let Some(queued) = &mut attempt.acquire {
            let (priority, pending) = (&mut attempt.priority, &mut attempt.pending);
            let acquired = ready!(self.poll_queued(queued, priority, pending, request, call, cx));
            attempt.acquire = None;
            acquired?
        } else {
            if let Some(handle) = settings.join(request, call, &mut attempt.scope) {
                attempt.admitted = Some(Admitted::Joined(handle));
                return Poll::Ready(Ok(()));
            }
            let cost = settings.estimate_cost(request, call, &mut attempt.pending);
            attempt.bound = cost.bound;
            // Most requests need not wait. They neither allocate nor make a future.
            match settings.try_acquire(request, call, &cost, clock.now()) {
                Some(reservation) => reservation,
                None => ready!(self.poll_first(attempt, request, call, cost, clock, cx))?,
            }
        };
        // Also needed if an earlier attempt of this call was dropped while it waited.
        call.set_held_back(false);
        if self.header_budget.is_none() {
            // An inner layer over the same limiter joins this reservation. A header budget of this
            // policy needs no handle.
            reservation.leave_in(call.clone());
        }
        let wait = reservation.waited();
        let admitted = attempt.admitted.insert(Admitted::Own(reservation));
        let scope = match admitted.known_scope() {
            Some(scope) => scope,
            None => attempt
                .scope
                .insert(Box::new(settings.scope(request, call))),
        };
        settings.reporter.admitted(scope, wait, call.priority());
        Poll::Ready(Ok(()))
    }

    fn on_sent(&self, attempt: &mut Self::Attempt) {
        if let Some(Admitted::Own(reservation)) = &mut attempt.admitted {
            reservation.sent();
            if self.settings.reporter.wants_estimates() {
                attempt.estimated = Some(Box::new(reservation.estimated()));
            }
        }
    }

    #[inline]
    fn on_response(
        &self,
        attempt: &mut Self::Attempt,
        class: &Class,
        head: Option<&mut Parts>,
        clock: &mut Clock,
    ) {
        let Some(admitted) = &attempt.admitted else {
            return;
        };
        if let Some(head) = head {
            let reporter = self.header_budget.as_ref();
            let reporter = reporter.unwrap_or(&self.settings.reporter);
            reporter.on_head(head, class, admitted, &attempt.scope, clock);
        }
        attempt.answered = class.is_success();
        if !attempt.answered
            && let Some(Admitted::Own(reservation)) = attempt.admitted.take()
        {
            reservation.settle(Settlement::of_failure(class));
        }
    }

    fn on_progress(&self, attempt: &mut Self::Attempt, stream: &StreamState) {
        let Some(Admitted::Own(reservation)) = &attempt.admitted else {
            return;
        };
        if !attempt.input_known
            && let Some(input) = stream.usage().limited_input()
        {
            attempt.input_known = true;
            let now = Instant::now();
            // The estimator learns first, so that the waiting requests are estimated by it before
            // the limiter makes room for them.
            if let Some(pending) = attempt.pending.take() {
                pending.give(stream.usage(), now);
            }
            reservation.true_up_input(input, now);
        }
        let reported = stream.usage().limited_output().unwrap_or(0);
        let produced = reported.max(stream.delta_bytes() / DELTA_BYTES_PER_TOKEN);
        attempt.produced = produced;
        if produced >= u64::from(attempt.next_report) {
            attempt.next_report = u32::try_from(produced + produced / 4).unwrap_or(u32::MAX);
            reservation.produced(produced, Instant::now());
        }
    }

    #[inline]
    fn on_end(&self, attempt: &mut Self::Attempt, outcome: &Outcome<'_>, clock: &mut Clock) {
        if let Some(pending) = attempt.pending.take()
            && outcome.usage().limited_input().is_some()
        {
            pending.give(outcome.usage(), clock.now());
        }
        let Some(admitted) = &mut attempt.admitted else {
            return;
        };
        let reporter = &self.settings.reporter;
        if exceeds(outcome.usage(), attempt.bound) {
            let scope = admitted.scope(&attempt.scope);
            reporter.usage_capped(scope, outcome.usage(), attempt.bound);
        }
        if let Some(estimated) = attempt.estimated.take()
            && let Outcome::Complete { usage } = outcome
            && !usage.is_empty()
        {
            reporter.settled(admitted.scope(&attempt.scope), *estimated, usage);
        }
        if let Admitted::Own(reservation) = admitted {
            // A response that broke or was dropped reports no final usage, but the server took the
            // request and produced this much.
            if attempt.answered && !matches!(outcome, Outcome::Complete { .. }) {
                reservation.produced(attempt.produced, clock.now());
            }
            reservation.settle_outcome(outcome, clock.now());
        }
        attempt.admitted = None;
    }
}
