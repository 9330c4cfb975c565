//! The admission of requests by a pool, and the estimates of their waits.

use std::time::Duration;

use tower_claude_core::{Cost, Priority, RejectReason, Rejection};

use crate::{
    pool::{
        Pool,
        bucket::{Charge, INPUT, NO_CHARGE, REQUESTS, units},
        in_flight::{InFlight, ReservationId},
        pacing,
        queue::{
            fair::Backlog,
            flow::{Excess, FlowKey, FlowTag, PRIORITIES, Waiter, WaiterId},
        },
        request::{Enqueued, Next, PoolRequest, QueuePlace},
    },
    snapshot::ClassSnapshot,
};

/// The name in rejections, until a layer sets its own.
pub(crate) const NAME: &str = "limiter";

/// The share of requests that do not exceed their estimate and its doubt.
const WORTH_A_COUNT: f64 = 0.95;

/// The resolution of timers. A shorter wait would spin.
const MIN_WAIT: u64 = 1_000_000;

impl Pool {
    /// Admits, queues or rejects a request.
    ///
    /// # Errors
    ///
    /// * [`RejectReason::Oversized`] if it can never fit a limit. An estimate over a limit is tried
    ///   when the limit is unused.
    /// * [`RejectReason::QueueFull`] or [`RejectReason::QueueBytesFull`] if it must wait, the queue
    ///   is full, and no other tenant or class has more of it in proportion to its share. If one
    ///   has, that one loses its last request: see [`take_shed`](Self::take_shed).
    /// * [`RejectReason::WaitTooLong`] or [`RejectReason::DeadlineWouldPass`] if its estimated wait
    ///   is too long.
    pub fn enqueue(&mut self, now: u64, request: PoolRequest) -> Result<Enqueued, Rejection> {
        let now = self.advance(now);
        self.check_store()?;
        let charge = self.charge(&request.cost);
        self.buckets
            .check_size(now, &request.cost, &charge)
            .map_err(|reason| Rejection::new(NAME, reason))?;
        self.on_request(now, self.queued() > 0);
        let flow = FlowKey::of(request.priority, request.tenant);
        let is_next = self.queue.would_be_next(flow, request.first_arrival);
        let expired = request.deadline.is_some_and(|deadline| deadline <= now);
        if is_next && !expired && self.is_admissible(now, &charge) {
            let tag = self.admit_ahead(flow, &request, charge);
            let charge = self.buckets.without_long_debt(charge);
            let id = self.admit_from_flow(now, &request.cost, charge, tag, false);
            return Ok(Enqueued::Granted(id));
        }
        let backlog = if is_next {
            Backlog::NONE
        } else {
            self.queue.fair().backlog(flow)
        };
        self.check_wait(now, &request, flow, &charge, &backlog, is_next)?;
        let deadline = request.deadline.unwrap_or(u64::MAX);
        let longest = now.saturating_add(request.max_wait.unwrap_or(u64::MAX));
        let waiter = Waiter {
            cost: request.cost,
            charge,
            work: self.buckets.work(&charge),
            bytes: request.bytes,
            expiry: longest.min(deadline),
            has_deadline: deadline <= longest,
        };
        let id = self.queue.push(flow, request.first_arrival, waiter);
        self.shed_excess(now, id)?;
        Ok(Enqueued::Waiting(id))
    }

    /// Takes the requests that were removed from the queue since the last call, because it was full
    /// when a request of another tenant or class arrived. Each was the last of the flow with the
    /// longest estimated wait, or of the flow that held the most bytes.
    pub fn take_shed(&mut self) -> Vec<(WaiterId, Rejection)> {
        std::mem::take(&mut self.shed)
    }

    /// Removes requests from a queue that the request `newcomer` has filled beyond a bound.
    fn shed_excess(&mut self, now: u64, newcomer: WaiterId) -> Result<(), Rejection> {
        while let Some((excess, reason)) = self.excess() {
            let id = self.queue.surplus(excess, newcomer);
            let charge = self.queue.charge(id).unwrap_or(NO_CHARGE);
            self.queue.remove(id);
            let wait = self.estimate(now, &self.queue.fair().backlog(id.flow), &charge);
            let rejection = self.reject(id.flow, reason, wait);
            if id == newcomer {
                return Err(rejection);
            }
            self.shed.push((id, rejection));
        }
        Ok(())
    }

    /// Admits a request if the queue is empty and all levels suffice. Otherwise returns `None`, and
    /// the request must be [enqueued](Self::enqueue), which may reject it.
    pub fn grant_now(
        &mut self,
        now: u64,
        cost: &Cost,
        deadline: Option<u64>,
    ) -> Option<ReservationId> {
        if self.queued() > 0 {
            return None;
        }
        let now = self.advance(now);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let charge = self.charge(cost);
        if self.lease.is_some() || !self.buckets.fit(&charge) {
            return self.grant_near_limit(now, cost, charge);
        }
        // Most requests are far below all limits. The one look at the buckets was enough for them.
        self.on_request(now, false);
        let is_admissible = !self.in_flight.is_full() && self.paced_until(now) <= now;
        is_admissible.then(|| self.admit(now, cost, charge, false))
    }

    /// Admits a request at once whose charge may not fit, or that the lease must cover.
    #[inline(never)]
    fn grant_near_limit(&mut self, now: u64, cost: &Cost, charge: Charge) -> Option<ReservationId> {
        self.buckets.check_size(now, cost, &charge).ok()?;
        self.on_request(now, false);
        if !self.is_admissible(now, &charge) {
            return None;
        }
        let charge = self.buckets.without_long_debt(charge);
        let id = self.admit(now, cost, charge, false);
        if !self.buckets.has_plenty() {
            self.skip_heads_until = 0;
        }
        Some(id)
    }

    /// Admits requests from the head of the queue while the head is admissible, and appends them to
    /// `granted`. Call it after every other operation and at the time it returns.
    pub fn poll(&mut self, now: u64, granted: &mut Vec<(WaiterId, ReservationId)>) -> Next {
        let now = self.advance(now);
        self.update_pacing(now);
        loop {
            let Some((id, waiter)) = self.queue.head() else {
                return Next::Idle;
            };
            let waiter = *waiter;
            if self.is_refusing() {
                self.refuse(id);
                continue;
            }
            let cost = waiter.cost;
            // The estimate may have changed since the request arrived.
            let charge = self.charge(&cost);
            let mut earliest = self.earliest(now, &charge, Some(id));
            if self.lease.is_some() && self.ask_store(now, id, &waiter, &charge) {
                earliest = self.earliest(now, &charge, Some(id));
            }
            match earliest {
                None => return Next::OnChange,
                Some(at) if at > now => return Next::At(at.max(now.saturating_add(MIN_WAIT))),
                Some(_) => {}
            }
            let tag = self.queue.dequeue(id, self.buckets.work(&charge));
            let charge = self.buckets.without_long_debt(charge);
            let reservation = self.admit_from_flow(now, &cost, charge, Some(tag), true);
            granted.push((id, reservation));
        }
    }

    /// Removes a request from the queue. Returns false if it is not queued: either it was admitted,
    /// and the caller settles its reservation as [`NotSent`](crate::Settlement::NotSent), or it was
    /// cancelled before.
    pub fn cancel(&mut self, id: WaiterId) -> bool {
        let is_removed = self.queue.remove(id);
        self.review_lease();
        is_removed
    }

    /// Replaces the cost of a queued request, except for its workload. Poll afterwards.
    pub fn revise(&mut self, id: WaiterId, cost: Cost) {
        self.queue.revise(id, cost);
    }

    /// Raises the priority of a queued request, which keeps its arrival. Returns its new id, or
    /// `None` if it is not queued or its priority is as high. Poll afterwards.
    pub fn raise_priority(&mut self, id: WaiterId, priority: Priority) -> Option<WaiterId> {
        self.queue.raise_priority(id, priority)
    }

    /// Returns true if the estimator of the head's cost goes on learning, so that the cost may be
    /// revised.
    #[must_use]
    pub fn head_is_revisable(&self) -> bool {
        let head = self.queue.head();
        head.is_some_and(|(_, waiter)| waiter.cost.estimate_id.is_some())
    }

    /// Returns the position of a queued request, or `None` if it is not queued. It is counted from
    /// the nearer end of its flow, so the cost is linear in the middle of a long queue.
    #[must_use]
    pub fn place(&self, now: u64, id: WaiterId) -> Option<QueuePlace> {
        let (ahead, backlog) = self.queue.ahead_of(id)?;
        let charge = self.queue.charge(id)?;
        Some(QueuePlace {
            position: ahead + 1,
            estimated_wait: self.estimate(now.max(self.now), &backlog, &charge),
        })
    }

    /// Returns the classes with queued requests, the most urgent first.
    pub(super) fn classes(&self, now: u64) -> Vec<ClassSnapshot> {
        let fair = self.queue.fair();
        let classes = PRIORITIES.into_iter().enumerate().rev();
        classes
            .filter(|(class, _)| fair.waiting_in(*class) > 0)
            .map(|(class, priority)| ClassSnapshot {
                priority,
                queued: fair.waiting_in(class),
                estimated_wait: self.estimate(now, &fair.backlog_in(class), &NO_CHARGE),
            })
            .collect()
    }

    /// Returns true if a count of the input of this request would be worth its time: the estimate
    /// is less certain than what is left of a limit on input. A twentieth of requests exceed their
    /// estimate by more than that.
    pub fn is_estimate_doubtful(&mut self, now: u64, cost: &Cost) -> bool {
        self.advance(now);
        let charge = self.forecast.charge(cost);
        let doubt = self.forecast.doubt(cost, &charge, WORTH_A_COUNT);
        let needed = units(charge[INPUT].saturating_add(doubt));
        doubt > 0
            && self
                .buckets
                .of_input()
                .any(|bucket| bucket.level() < needed)
    }

    #[inline]
    fn charge(&self, cost: &Cost) -> Charge {
        self.forecast.charge_near(&self.buckets, cost)
    }

    #[inline]
    fn on_request(&mut self, now: u64, queued: bool) {
        self.pacing.on_request(now, queued || self.in_flight() > 0);
        self.update_pacing(now);
    }

    #[inline]
    fn update_pacing(&mut self, now: u64) {
        let is_shared = self.external_use.is_shared(now);
        if is_shared || !self.pacing.is_off() {
            self.pace(now, is_shared);
        }
    }

    // Out of line, since few pools are paced.
    #[inline(never)]
    fn pace(&mut self, now: u64, is_shared: bool) {
        let share = is_shared.then(|| pacing::shared_rate(&self.buckets, &self.margins(0)));
        self.pacing.update(now, share);
    }

    fn is_admissible(&self, now: u64, charge: &Charge) -> bool {
        self.earliest(now, charge, None).is_some_and(|at| at <= now)
    }

    /// Returns the earliest time at which all of the charge is admissible, or `None` if a request
    /// in flight must end first. `id` is set if the request is the head of the queue.
    fn earliest(&self, now: u64, charge: &Charge, id: Option<WaiterId>) -> Option<u64> {
        if self.in_flight.is_full() {
            return None;
        }
        let leased = self.leased_from(now, charge, id);
        let buckets = match leased {
            Some(at) if !self.is_local() => at,
            _ => {
                let shared = self.external_use.is_shared(now);
                let at = self
                    .buckets
                    .earliest(now, charge, shared, || self.margins(charge[INPUT]));
                at.max(leased.unwrap_or(0))
            }
        };
        Some(buckets.max(self.paced_until(now)))
    }

    /// Returns the earliest time at which the pacing admits a request.
    #[inline]
    fn paced_until(&self, now: u64) -> u64 {
        self.pacing.earliest(now, self.buckets.probe_at())
    }

    /// Passes a new request through the queue ahead of the queued ones, so that its flow is
    /// charged.
    fn admit_ahead(
        &mut self,
        flow: FlowKey,
        request: &PoolRequest,
        charge: Charge,
    ) -> Option<FlowTag> {
        if self.queued() == 0 {
            return None;
        }
        let work = self.buckets.work(&charge);
        let waiter = Waiter {
            cost: request.cost,
            charge,
            work,
            bytes: 0,
            expiry: u64::MAX,
            has_deadline: false,
        };
        let id = self.queue.push(flow, request.first_arrival, waiter);
        Some(self.queue.dequeue(id, work))
    }

    /// Admits a request, with the tag of its flow if others were queued.
    fn admit_from_flow(
        &mut self,
        now: u64,
        cost: &Cost,
        charge: Charge,
        tag: Option<FlowTag>,
        waited: bool,
    ) -> ReservationId {
        let id = self.admit(now, cost, charge, waited);
        if let Some(request) = self.in_flight.get_mut(id) {
            request.flow_tag = tag;
        }
        id
    }

    /// Admits a request of this charge, which takes no bucket into a long debt.
    fn admit(&mut self, now: u64, cost: &Cost, charge: Charge, waited: bool) -> ReservationId {
        if let Some(lease) = &mut self.lease {
            lease.spend(now, &charge);
        }
        let sent = self.buckets.charge(now, &charge);
        let buckets = &self.buckets;
        self.pacing
            .on_admitted(now, sent.number, waited, || pacing::work(buckets, &charge));
        let output_slot = self.forecast.on_sent(cost, &charge);
        self.in_flight.insert_with(|| InFlight {
            cost: *cost,
            charge,
            sent,
            uncounted_input: charge[INPUT],
            head_received: false,
            accepted: false,
            paused: false,
            rejection_handled: false,
            produced: 0,
            output_slot,
            flow_tag: None,
        })
    }

    /// Rejects a request whose estimated wait passes its deadline or its longest wait.
    fn check_wait(
        &self,
        now: u64,
        request: &PoolRequest,
        flow: FlowKey,
        charge: &Charge,
        backlog: &Backlog,
        is_next: bool,
    ) -> Result<(), Rejection> {
        if request.deadline.is_none() && request.max_wait.is_none() {
            return Ok(());
        }
        let estimated = self.estimate(now, backlog, charge);
        // The store decides about the next request without a wait.
        let is_asked = is_next && self.lease.is_some() && estimated.is_zero();
        let is_too_long = |limit: Duration| (limit.is_zero() && !is_asked) || estimated > limit;
        let remaining = request
            .deadline
            .map(|deadline| Duration::from_nanos(deadline.saturating_sub(now)));
        if let Some(remaining) = remaining.filter(|remaining| is_too_long(*remaining)) {
            let reason = RejectReason::DeadlineWouldPass {
                estimated,
                remaining,
            };
            return Err(self.reject(flow, reason, estimated));
        }
        let max_wait = request.max_wait.map(Duration::from_nanos);
        if let Some(max_wait) = max_wait.filter(|max_wait| is_too_long(*max_wait)) {
            let reason = RejectReason::WaitTooLong {
                estimated,
                max_wait,
            };
            return Err(self.reject(flow, reason, estimated));
        }
        Ok(())
    }

    /// Returns the excess of a queue that is too long, with the reason of a rejection.
    fn excess(&self) -> Option<(Excess, RejectReason)> {
        let (queued, limit) = (self.queued(), self.queue_limit);
        if queued > limit {
            let waiting = queued - 1;
            return Some((Excess::Requests, RejectReason::QueueFull { waiting, limit }));
        }
        let (bytes, limit) = (self.queue.bytes(), self.queue_bytes);
        // A request that is longer than all that may wait can still wait alone.
        (queued > 1 && bytes > limit).then_some((
            Excess::Bytes(bytes.saturating_sub(limit)),
            RejectReason::QueueBytesFull { bytes, limit },
        ))
    }

    fn reject(&self, flow: FlowKey, reason: RejectReason, wait: Duration) -> Rejection {
        // A wait that cannot be estimated is 0. As `retry-after: 0` it would bring all callers back
        // at once.
        Rejection::new(NAME, reason)
            .with_retry_after((!wait.is_zero()).then_some(wait))
            .with_queue_position(Some(self.queue.fair().waiting(flow) + 1))
    }

    /// Returns the estimated wait of a request behind this backlog: the pause, then the backlog and
    /// its own charge at the rate of the tightest dimension. A wait for requests in flight to end
    /// cannot be estimated and counts as 0.
    fn estimate(&self, now: u64, backlog: &Backlog, charge: &Charge) -> Duration {
        let pause = self.pacing.paused_until().saturating_sub(now);
        let ahead = self.slowed(self.queue.ahead(backlog));
        let margins = self.margins(charge[INPUT]);
        let buckets = self
            .buckets
            .wait_behind(now, pause, &ahead, charge, &margins);
        let buckets = buckets.max(self.local_wait(now, &ahead, charge));
        let paced = self
            .pacing
            .wait_behind(now, ahead[REQUESTS], || pacing::work(&self.buckets, &ahead));
        let wait = buckets.max(paced.saturating_sub(pause));
        Duration::from_nanos(pause.saturating_add(wait))
    }
}
