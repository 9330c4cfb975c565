//! Who may be sent, and when.

use tower_claude_core::{Cost, RejectReason, Rejection};

use super::{
    Enqueued, Next, Pool, PoolRequest, ReservationId, WaiterId,
    book::Record,
    bucket::{MAX_CHARGE, units},
    estimate::foreseen,
    float::rounded,
    lane::{Charge, INPUT, LANES, OUTPUT, REQUESTS, TOTAL},
    outputs::OutputKind,
    queue::{FlowKey, Turn, Waiter},
};
use crate::OutputAccounting;

/// The name in refusals, until a layer gives its own.
pub(crate) const NAME: &str = "limiter";

/// Timers are no finer, and a wait that rounds to nothing would spin.
const LEAST_WAIT: u64 = 1_000_000;

/// When a request is admissible.
enum Wait {
    Now,
    Until(u64),
    OnChange,
}

impl Pool {
    /// Admits a request, or queues it, or refuses it: when it can never fit, when the queue is full, or
    /// when its wait would pass its longest wait or its deadline.
    ///
    /// # Errors
    ///
    /// [`RejectReason::Oversized`], [`RejectReason::QueueFull`], [`RejectReason::WaitTooLong`],
    /// [`RejectReason::DeadlineWouldPass`].
    pub fn enqueue(&mut self, now: u64, ask: PoolRequest) -> Result<Enqueued, Rejection> {
        let now = self.advance(now);
        let charge = self.charge(&ask.cost);
        self.check_size(now, &charge)?;
        let busy = self.book.len() + self.queue.len() > 0;
        self.ramp.asked(now, busy);
        self.keep_pace(now);
        let flow = FlowKey::of(ask.priority, ask.tenant);
        let leads = self.queue.would_lead(flow, ask.first_arrival);
        let late = ask.deadline.is_some_and(|deadline| deadline <= now);
        if leads && !late && matches!(self.wait(now, &charge), Wait::Now) {
            let turn = self.overtake(flow, &ask, charge);
            return Ok(Enqueued::Granted(self.grant(now, &ask.cost, charge, turn)));
        }
        self.check_wait(now, &ask, flow, &charge, leads)?;
        if self.queue.len() >= self.config.queue_limit {
            let reason = RejectReason::QueueFull {
                waiting: self.queue.len(),
                limit: self.config.queue_limit,
            };
            let wait = self.estimate(now, flow, &charge, leads);
            let position = self.queue.fair().waiting(flow) + 1;
            return Err(Rejection::new(NAME, reason)
                .with_retry_after(foreseen(wait))
                .with_queue_position(Some(position)));
        }
        let waiter = Waiter {
            cost: ask.cost,
            charge,
        };
        Ok(Enqueued::Waiting(self.queue.push(
            flow,
            ask.first_arrival,
            waiter,
        )))
    }

    /// Admits a request that nothing keeps: nobody waits, and all levels have room for it. `None` where it is to be
    /// [enqueued](Self::enqueue), which may refuse it.
    pub fn grant_now(
        &mut self,
        now: u64,
        cost: &Cost,
        deadline: Option<u64>,
    ) -> Option<ReservationId> {
        if self.queue.len() > 0 {
            return None;
        }
        let now = self.advance(now);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let charge = self.charge(cost);
        self.check_size(now, &charge).ok()?;
        self.ramp.asked(now, self.book.len() > 0);
        self.keep_pace(now);
        match self.wait(now, &charge) {
            Wait::Now => Some(self.grant(now, cost, charge, None)),
            _ => None,
        }
    }

    /// Admits from the head of the queue as long as the head is admissible; each is appended to
    /// `granted`. Call it after every other call and at the time it names.
    pub fn poll(&mut self, now: u64, granted: &mut Vec<(WaiterId, ReservationId)>) -> Next {
        let now = self.advance(now);
        self.keep_pace(now);
        loop {
            let Some((ticket, waiter)) = self.queue.head() else {
                return Next::Idle;
            };
            let cost = waiter.cost;
            // By what is known now, not when it came.
            let charge = self.charge(&cost);
            match self.wait(now, &charge) {
                Wait::Now => {
                    let turn = self.queue.let_out(ticket, self.turn_work(&charge));
                    granted.push((ticket, self.grant(now, &cost, charge, Some(turn))));
                }
                Wait::Until(at) => return Next::At(at.max(now.saturating_add(LEAST_WAIT))),
                Wait::OnChange => return Next::OnChange,
            }
        }
    }

    /// Leaves the queue. False when the ticket does not wait: it was granted, then the caller owns the
    /// reservation and settles it as [`NotSent`](crate::Settlement::NotSent), or it was cancelled.
    pub fn cancel(&mut self, ticket: WaiterId) -> bool {
        self.queue.remove(ticket)
    }

    /// Replaces the cost of a request that waits, its workload aside: more is known of it by now. Poll
    /// afterwards.
    pub fn revise(&mut self, ticket: WaiterId, cost: Cost) {
        self.queue.revise(ticket, cost);
    }

    /// Whether the cost of the head may be revised, since its estimator goes on learning.
    #[must_use]
    pub fn head_is_revisable(&self) -> bool {
        let head = self.queue.head();
        head.is_some_and(|(_, waiter)| waiter.cost.estimate_id.is_some())
    }

    /// Whether the next that is told of this reservation (its input, or its end) comes with something that
    /// the estimators of those that wait may have learned from.
    #[must_use]
    pub fn teaches(&self, id: ReservationId) -> bool {
        self.book.get(id).is_some_and(|record| record.teaches)
    }

    /// What a request takes from each lane, by what is known now.
    fn charge(&self, cost: &Cost) -> [u64; LANES] {
        let input = if self.config.calibrate_input && !cost.counted {
            rounded(cost.input_tokens as f64 * self.input.ratio_of(cost.workload))
        } else {
            cost.input_tokens
        };
        let most = cost.max_output_tokens.unwrap_or(u64::MAX);
        let mean = self.output.mean_of(OutputKind::of(cost));
        let expected = match (self.config.output_accounting, mean) {
            (OutputAccounting::MaxTokensReserved, _) if most < u64::MAX => most,
            (OutputAccounting::AsProduced, Some(mean)) if self.config.learn_output => rounded(mean),
            _ => cost.output_tokens,
        };
        let input = input.min(MAX_CHARGE);
        let output = expected.min(most).min(MAX_CHARGE);
        let mut charge = [0; LANES];
        charge[REQUESTS] = cost.requests.min(MAX_CHARGE);
        charge[INPUT] = input;
        charge[OUTPUT] = output;
        charge[TOTAL] = input + output;
        charge
    }

    /// When this charge is admissible: all of it or nothing.
    fn wait(&self, now: u64, charge: &[u64; LANES]) -> Wait {
        let in_flight = self.book.len() as u64;
        if self.concurrency.is_some_and(|most| in_flight >= most)
            || self
                .initial_concurrency
                .is_some_and(|most| in_flight >= most)
        {
            return Wait::OnChange;
        }
        let mut until = self.pause.until().max(self.credit_at(now));
        let mut guards = None;
        let mut guard =
            |lane: usize| guards.get_or_insert_with(|| self.guards(charge[INPUT]))[lane];
        for extra in &self.extras {
            let lane = extra.lane();
            if !extra.has_plenty(charge[lane]) {
                let wait = extra.wait(now, charge[lane], guard(lane));
                until = until.max(now.saturating_add(wait));
            }
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            let Some(bucket) = &lane.bucket else { continue };
            if bucket.has_plenty(charge[index]) {
                continue;
            }
            let cost = units(charge[index]).min(bucket.capacity());
            // What never fits is admitted when the bucket is full, into debt.
            let need = (cost + guard(index)).min(bucket.capacity());
            let wait = bucket.wait(need);
            if wait == 0 {
                continue;
            }
            let mut at = now.saturating_add(wait);
            // A limit that only a header named holds nothing back for longer than the longest pause:
            // then one request finds out.
            if let Some(confirmed) = lane.confirmed {
                at = at.min(
                    confirmed
                        .max(self.last_grant)
                        .saturating_add(self.max_pause),
                );
            }
            until = until.max(at);
        }
        if until <= now {
            Wait::Now
        } else {
            Wait::Until(until)
        }
    }

    fn grant(
        &mut self,
        now: u64,
        cost: &Cost,
        charge: Charge,
        turn: Option<Turn>,
    ) -> ReservationId {
        let seen = std::array::from_fn(|lane| self.lanes[lane].seen);
        for (lane, charge) in self.lanes.iter_mut().zip(charge) {
            lane.charge(charge);
        }
        if self.pace.is_on() {
            self.pace.spend(self.work(&charge));
        }
        self.ramp.active(now);
        for extra in &mut self.extras {
            extra.take(&charge);
        }
        self.guessed_input += charge[INPUT];
        self.last_grant = now;
        self.book.insert(Record {
            sent_at: now,
            charge,
            counted: charge,
            seen,
            heard: false,
            guessed_input: charge[INPUT],
            paused: false,
            judged: false,
            answered: false,
            teaches: cost.estimate_id.is_some(),
            produced: 0,
            max_output: cost.max_output_tokens,
            estimate: cost.input_tokens,
            counted_input: cost.counted,
            cached: cost.cached_tokens,
            workload: cost.workload,
            output_place: self.output.sent(OutputKind::of(cost)),
            turn,
        })
    }
}
