//! The limits of one scope, without I/O.
//!
//! A [`Pool`] consists of parts that own their state: the buckets, the requests in flight, the
//! queue, the forecast of usage, the pacing, the observer of headers and the detection of external
//! use. Each part that can delay a request returns the earliest time for a charge, and a request is
//! admitted at the latest of these times.
//!
//! The limits of a [shared](Pool::shared) pool belong to several processes. Their levels are in a
//! store, and the pool leases blocks of them by [messages](ShareMessage).
//!
//! A pool does not read a clock, sleep or wake. Every operation takes `now`, in whole nanoseconds
//! since a start that the caller chooses. [`LocalLimiter`](crate::LocalLimiter) drives it in real
//! time, and a simulator in virtual time.
//!
//! ```
//! use std::num::NonZeroU64;
//! use tower_claude_core::{Cost, Scope};
//! use tower_claude_limiter::{Limits, Settlement, LimiterConfig, Pool};
//! use tower_claude_limiter::pool::{Enqueued, Next, PoolRequest};
//!
//! let limits = Limits::new().with_requests_per_minute(NonZeroU64::new(1).unwrap());
//! let scope = Scope::named("one per minute");
//! let mut pool = Pool::new(scope.clone(), &limits.for_scope(&scope), LimiterConfig::new(), 0);
//! let request = PoolRequest::new(Cost::new(0, 0), 0);
//! let Ok(Enqueued::Granted(first)) = pool.enqueue(0, request) else { panic!() };
//! let Ok(Enqueued::Waiting(second)) = pool.enqueue(0, request) else { panic!() };
//! pool.settle(5, first, &Settlement::dropped()); // the server has counted it nevertheless
//! let mut granted = Vec::new();
//! assert_eq!(pool.poll(5, &mut granted), Next::At(60_000_000_000));
//! assert_eq!(pool.poll(60_000_000_000, &mut granted), Next::Idle);
//! assert_eq!(granted[0].0, second);
//! ```

mod additional;
pub(crate) mod admission;
pub(crate) mod bucket;
mod buckets;
mod calibration;
mod external_use;
mod forecast;
pub(crate) mod header_observer;
pub(crate) mod in_flight;
mod learned_rate;
mod lease;
mod memory_store;
mod pacing;
pub(crate) mod queue;
pub(crate) mod request;
mod server_clock;
pub(crate) mod share_message;
mod shared;
pub(crate) mod statistics;
pub(crate) mod usage_cap;

use std::time::{Duration, SystemTime};

use tower_claude_core::{Dimension, EstimatedTokens, Rejection, Scope, toolkit::LimitWarning};
use tower_claude_wire::{RateLimits, Usage};

pub use header_observer::ObservedHead;
pub use in_flight::ReservationId;
pub use memory_store::MemoryStore;
pub use queue::flow::{TenantKey, WaiterId};
pub use request::{Enqueued, Next, PoolRequest, QueuePlace};
pub use share_message::{
    ShareBlock, ShareLimit, ShareMessage, ShareOutcome, SharePeriod, SharePolicy, ShareReply,
    ShareSettings, SharedLevel,
};

use crate::{
    config::LimiterConfig,
    limits::PoolLimits,
    pool::{
        bucket::{Charge, INPUT, Margins, OUTPUT, TOTAL, units},
        buckets::Buckets,
        external_use::{ExternalUse, LevelChange},
        forecast::{Forecast, margins},
        header_observer::{Answered, HeaderObserver},
        in_flight::InFlightTable,
        lease::Lease,
        pacing::Pacing,
        queue::{Queue, flow::FlowTag},
        usage_cap::{capped, exceeds_either},
    },
    reservation::Settlement,
    snapshot::{DimensionSnapshot, ScopeSnapshot},
};

/// The nanoseconds for which heads of successes can be skipped after a head that showed all levels
/// over the half: 100 ms. Other clients use no more in that time than while a response is under
/// way.
const SKIP_HEADS_FOR: u64 = 100_000_000;

/// The limits of one scope, without I/O. See the [module](self).
#[derive(Debug)]
pub struct Pool {
    scope: Scope,
    queue_limit: usize,
    queue_bytes: u64,
    buckets: Buckets,
    in_flight: InFlightTable,
    queue: Queue,
    /// The requests that were removed from a full queue, until they are taken.
    shed: Vec<(WaiterId, Rejection)>,
    forecast: Forecast,
    pacing: Pacing,
    observer: HeaderObserver,
    external_use: ExternalUse,
    /// Set if the limits are shared through a store.
    lease: Option<Box<Lease>>,
    /// The time until which heads of successes can be skipped.
    skip_heads_until: u64,
    /// The latest time passed to an operation.
    now: u64,
}

impl Pool {
    /// Returns a pool with full buckets.
    #[must_use]
    pub fn new(scope: Scope, limits: &PoolLimits, config: LimiterConfig, now: u64) -> Self {
        let number = |limit: std::num::NonZeroU32| u64::from(limit.get());
        Self {
            queue_limit: config.queue_limit,
            queue_bytes: config.queue_bytes,
            buckets: Buckets::new(limits, &config, now),
            in_flight: InFlightTable::new(
                limits.least_concurrency().map(number),
                config.initial_concurrency.map(number),
            ),
            forecast: Forecast::new(&config),
            pacing: Pacing::new(&config, now),
            observer: HeaderObserver::new(limits, &config, scope.fast),
            external_use: ExternalUse::new(config.sharing),
            lease: None,
            queue: Queue::new(config.shares),
            shed: Vec::new(),
            scope,
            skip_heads_until: 0,
            now,
        }
    }

    /// Returns the pool with a wall time at `now`, for limits per day that reset at a time of day.
    /// Without it, they reset 24 hours after the start.
    #[must_use]
    pub fn with_wall_time(mut self, now: u64, wall: SystemTime) -> Self {
        self.set_wall_time(now, wall);
        self
    }

    /// Sets the wall time at `now`. A response that carries the server's clock
    /// ([`ObservedHead::server_time`]) does the same.
    pub fn set_wall_time(&mut self, now: u64, wall: SystemTime) {
        let now = self.advance(now);
        self.buckets.set_wall_time(now, wall);
    }

    /// Returns the scope.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Returns the number of requests admitted and not settled.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns the number of requests in the queue.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Returns the first request of the queue, the only one that may be admitted.
    #[must_use]
    pub fn head(&self) -> Option<WaiterId> {
        self.queue.head().map(|(id, _)| id)
    }

    /// Returns true if no request is in flight or queued and no pause holds. Evicting the pool then
    /// loses only its levels and what it has learned.
    #[must_use]
    pub fn is_idle(&self, now: u64) -> bool {
        self.in_flight() == 0
            && self.queued() == 0
            && self.pacing.paused_until() <= now
            && self.lease.as_ref().is_none_or(|lease| lease.is_idle())
    }

    /// Returns true if the next report for this reservation (its input, or its end) has a listener
    /// that may change the estimates of queued requests.
    #[must_use]
    pub fn has_listener(&self, id: ReservationId) -> bool {
        let request = self.in_flight.get(id);
        request.is_some_and(|request| request.cost.estimate_id.is_some())
    }

    /// Corrects the levels by the head of the response to `id`. Ignored once it is settled. Returns
    /// the tightest limit that newly crossed the warning threshold, once per crossing.
    pub fn observe(
        &mut self,
        now: u64,
        id: ReservationId,
        head: &ObservedHead<'_>,
    ) -> Option<LimitWarning> {
        let now = self.advance(now);
        let charge = self.in_flight.get(id)?.charge;
        if let Some(wall) = head.server_time {
            self.buckets.set_wall_time(now, wall);
        }
        if head.rejected {
            self.on_rejected(now, id, Some(head.limits));
            self.refund(id);
        } else {
            self.on_head(id);
            if head.accepted {
                self.on_accepted(id);
            }
        }
        let sent = self.in_flight.get(id)?.sent;
        let before = self.before_head();
        let warning = self.observer.observe(
            now,
            &Answered { sent, charge },
            head,
            &mut self.buckets,
            &self.forecast,
            &mut self.external_use,
        );
        if self.observer.shows_limit(head, &self.buckets) {
            self.in_flight.end_initial_limit();
        }
        self.after_head(now, before);
        let can_skip = self.observer.shows_plenty(head)
            && self.in_flight.initial_limit().is_none()
            && !self.external_use.may_be_shared(now)
            && self.pacing.paused_until() <= now
            && self.buckets.is_observed()
            && self.buckets.has_plenty();
        self.skip_heads_until = if can_skip {
            now.saturating_add(SKIP_HEADS_FOR)
        } else {
            0
        };
        warning
    }

    /// Returns the time until which heads of successes need not be observed, as long as
    /// `has_plenty` holds.
    #[must_use]
    pub const fn skip_heads_until(&self) -> u64 {
        self.skip_heads_until
    }

    /// Returns true if every level is over the half.
    pub(crate) fn has_plenty(&self) -> bool {
        self.buckets.has_plenty()
    }

    /// Stops admissions after a 429 for `id`. Returns the remaining pause.
    ///
    /// The pause is `retry_after`, at most 1 h, raised to at least 2 s by the second 429 in a row
    /// and to 4 s by each after that. Without `retry_after`, or with 0, it is 1 s, doubled with
    /// every 429 in a row, up to [`max_pause`](LimiterConfig::max_pause). `jitter` (0..1) adds up
    /// to half of it, at most 10 s to a `retry_after`.
    pub fn rate_limited(
        &mut self,
        now: u64,
        id: ReservationId,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> Duration {
        let now = self.advance(now);
        self.skip_heads_until = 0;
        let sent = self.in_flight.get_mut(id).map(|request| {
            request.paused = true;
            self.buckets.on_rejected(now, &request.charge);
            request.sent.at
        });
        let pause = self.pacing.on_rejected(now, sent, retry_after, jitter);
        if let Some(lease) = &mut self.lease {
            lease.on_paused(now.saturating_add(pause));
        }
        Duration::from_nanos(pause)
    }

    /// Returns the tokens that are charged for a reservation and that its usage will replace.
    #[must_use]
    pub fn estimated(&self, id: ReservationId) -> EstimatedTokens {
        let Some(request) = self.in_flight.get(id) else {
            return EstimatedTokens::default();
        };
        let (cost, charge) = (&request.cost, &request.charge);
        let expects_output = cost.settles_output() && self.forecast.expects_output();
        EstimatedTokens {
            input: cost.settles_input().then_some(charge[INPUT]),
            output: expects_output.then_some(charge[OUTPUT]),
        }
    }

    /// Corrects the input of a reservation once the server's count is known.
    pub fn true_up_input(&mut self, now: u64, id: ReservationId, actual: u64) {
        self.advance(now);
        self.on_accepted(id);
        let Some(request) = self.in_flight.get_mut(id) else {
            return;
        };
        request.cost.estimate_id = None;
        if request.cost.settles_input() {
            let input = capped(Some(actual), request.cost.bound.input_tokens);
            self.recharge(id, input, None);
        }
    }

    /// Records the output produced so far. A response that is longer than expected extends its
    /// reservation in steps of a quarter, so that the level stays right while it runs.
    pub fn produced(&mut self, now: u64, id: ReservationId, output: u64) {
        self.advance(now);
        self.on_accepted(id);
        let Some(request) = self.in_flight.get_mut(id) else {
            return;
        };
        let output = capped(Some(output), request.cost.bound.output_tokens);
        request.produced = request.produced.max(output.unwrap_or(0));
        let produced = request.produced;
        if produced > request.charge[OUTPUT] && request.cost.settles_output() {
            let max = request.cost.max_output_tokens.unwrap_or(u64::MAX);
            let extended = (produced + produced / 4).min(max).max(produced);
            self.recharge(id, None, Some(extended));
        }
    }

    /// Ends a reservation. Later calls for the same id are ignored.
    pub fn settle(&mut self, now: u64, id: ReservationId, settlement: &Settlement) {
        match settlement {
            Settlement::NotSent => self.settle_unused(now, id, false),
            Settlement::Rejected => self.settle_unused(now, id, true),
            Settlement::Invalid => {
                self.advance_to_end(now);
                if self.in_flight.get(id).is_some() {
                    self.pacing.on_ended(self.now);
                    self.in_flight.on_answered();
                    self.recharge(id, Some(0), Some(0));
                    self.close(id, None);
                }
            }
            Settlement::Failed { usage } | Settlement::Dropped { usage } => {
                self.settle_usage(now, id, usage, false);
            }
            Settlement::Used { usage } => self.settle_usage(now, id, usage, true),
        }
    }

    /// Ends the reservation of a response that the server began, with its usage so far. What a
    /// response that broke or was dropped has produced is what such a request uses. See
    /// [`Settlement::Used`] and [`Settlement::Failed`].
    pub(crate) fn settle_usage(
        &mut self,
        now: u64,
        id: ReservationId,
        usage: &Usage,
        is_complete: bool,
    ) {
        self.advance_to_end(now);
        let Some(request) = self.in_flight.get_mut(id) else {
            return;
        };
        self.pacing.on_ended(self.now);
        let (cost, produced) = (&request.cost, request.produced);
        let (input, output) = (usage.limited_input(), usage.limited_output());
        let is_credible = !exceeds_either(input, output, cost.bound);
        let input = capped(input, cost.bound.input_tokens).filter(|_| cost.settles_input());
        let output = capped(output, cost.bound.output_tokens);
        let output = if is_complete {
            output.map(|output| output.max(produced))
        } else {
            Some(output.unwrap_or(0).max(produced))
        };
        let is_accepted = is_complete || output.is_some_and(|output| output > 0);
        let output = output.filter(|_| cost.settles_output());
        let was_accepted = request.accepted;
        let teaches = is_credible && (is_accepted || was_accepted);
        if let Some(input) = input.filter(|_| teaches) {
            let read = usage.cache_read_input_tokens.unwrap_or(0);
            self.forecast.learn_input(cost, input, read);
        }
        let new = request.charge_of(input, output);
        let is_changed = new != request.charge || self.lease.is_some();
        if is_accepted && !was_accepted {
            self.on_accepted(id);
        }
        if is_changed {
            self.change_charge(id, new);
        }
        self.close(id, output.filter(|_| teaches && is_accepted));
    }

    /// Ends the reservation of a request that the server has not counted.
    fn settle_unused(&mut self, now: u64, id: ReservationId, was_rejected: bool) {
        self.advance_to_end(now);
        if self.in_flight.get(id).is_some() {
            if was_rejected {
                self.on_rejected(self.now, id, None);
            }
            self.pacing.on_ended(self.now);
            self.refund(id);
            self.close(id, None);
        }
    }

    /// Records, once, that the server took a request: the head of a success, its content, or its
    /// usage shows it. Nothing may depend on a response that goes on to its ideal end.
    fn on_accepted(&mut self, id: ReservationId) {
        if let Some(request) = self.in_flight.get_mut(id)
            && !std::mem::replace(&mut request.accepted, true)
        {
            self.buckets.on_accepted(&request.charge);
            self.pacing.on_success(request.sent.number);
            self.in_flight.on_answered();
        }
    }

    /// Records a response head: the server has surely counted the request.
    fn on_head(&mut self, id: ReservationId) {
        if let Some(request) = self.in_flight.get_mut(id)
            && !std::mem::replace(&mut request.head_received, true)
        {
            self.buckets.mark_seen(&request.sent.counted);
        }
    }

    /// Records a 429 for `id`, once. An exhausted level that was known not to be exhausted shows
    /// external use. Without an exhausted level, the server has another limit than headers tell.
    fn on_rejected(&mut self, now: u64, id: ReservationId, limits: Option<&RateLimits>) {
        let Some(request) = self.in_flight.get_mut(id) else {
            return;
        };
        // A rejection that did not pause the scope is a spend limit.
        if request.rejection_handled || (limits.is_none() && !request.paused) {
            return;
        }
        request.rejection_handled = true;
        let sent = request.sent;
        let charge = request.charge;
        let is_oversized = self.buckets.is_oversized(&charge);
        let exhausted = limits.and_then(|limits| {
            let (observer, forecast) = (&self.observer, &self.forecast);
            observer.exhausted(now, request, limits, &self.buckets, forecast)
        });
        match exhausted {
            Some(INPUT) if self.forecast.input.has_few_samples() => {}
            // The estimate fits, so the input was larger than it.
            Some(index @ (INPUT | TOTAL))
                if self
                    .observer
                    .level_shown(index, limits)
                    .is_some_and(|shown| shown >= charge[index]) => {}
            // The next request left as soon as its bucket was full, so it may have been too early.
            Some(index) if self.buckets.is_most(index, &charge) => {}
            // A window does not refill steadily.
            Some(index) if self.observer.is_window(index) => {}
            // The limit was changed.
            Some(index)
                if self
                    .observer
                    .shows_other_limit(index, limits, &self.buckets) => {}
            Some(index) => {
                let dimension = &self.buckets.dimensions[index];
                let believed = dimension.level() + units(charge[index]);
                let shown = self.observer.level_shown(index, limits);
                let change = LevelChange {
                    index,
                    sent: &sent,
                    known: dimension.known(),
                    level_before: believed,
                };
                let shown = shown.map(units);
                self.external_use
                    .on_exhausted(now, &change, shown, dimension, &self.forecast);
            }
            None if is_oversized => {}
            None => {
                self.pacing.on_unexplained(now, &sent);
                if self.pacing.learned().is_some() {
                    self.in_flight.end_initial_limit();
                }
            }
        }
    }

    /// Gives back everything that a request was charged.
    fn refund(&mut self, id: ReservationId) {
        if let Some(request) = self.in_flight.get_mut(id) {
            if let Some(lease) = &mut self.lease {
                lease.before_change(&self.buckets);
            }
            let old = self.buckets.refund(self.now, request);
            let (tag, new, sent_at) = (request.flow_tag, request.charge, request.sent.at);
            self.after_change(sent_at, &old, &new);
            self.correct_flow(tag, &old, &new);
        }
    }

    /// Replaces the tokens charged for a request, where the actual count is known.
    fn recharge(&mut self, id: ReservationId, input: Option<u64>, output: Option<u64>) {
        if let Some(request) = self.in_flight.get_mut(id) {
            if input.is_some() {
                self.forecast.on_input_counted(request);
            }
            let new = request.charge_of(input, output);
            self.change_charge(id, new);
        }
    }

    /// Replaces the charge of a request.
    fn change_charge(&mut self, id: ReservationId, new: Charge) {
        let Some(request) = self.in_flight.get_mut(id) else {
            return;
        };
        if let Some(lease) = &mut self.lease {
            lease.before_change(&self.buckets);
        }
        let old = self.buckets.recharge(self.now, request, new);
        let (tag, sent_at) = (request.flow_tag, request.sent.at);
        self.after_change(sent_at, &old, &new);
        self.correct_flow(tag, &old, &new);
    }

    fn correct_flow(&mut self, tag: Option<FlowTag>, old: &Charge, new: &Charge) {
        if let Some(tag) = tag.filter(|_| old != new) {
            let (old, new) = (self.buckets.work(old), self.buckets.work(new));
            self.queue.correct(tag, old, new);
        }
    }

    /// Removes a request from the table, and learns from its output. From here on all of its
    /// charge counts as seen.
    fn close(&mut self, id: ReservationId, output: Option<u64>) {
        if let Some(request) = self.in_flight.remove(id) {
            self.forecast.on_ended(request, output);
            self.buckets.mark_ended(request);
        }
        if self.in_flight.len() == 0 {
            self.buckets.forget_charges();
        }
        if self.lease.is_some() {
            self.review_lease();
        }
    }

    fn margins(&self, input: u64) -> Margins {
        margins(&self.buckets, &self.forecast, input)
    }

    /// Returns the nanoseconds in which the most spent limit allows as much as is used of it. A
    /// limit per day counts its used share of a day.
    pub(crate) fn spent(&self, now: u64) -> u64 {
        self.buckets.spent(now)
    }

    /// Returns the state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: u64) -> ScopeSnapshot {
        let now = now.max(self.now);
        let mut dimensions = self.buckets.snapshot(now, &self.margins(0));
        dimensions.extend(self.pacing.learned().map(|rate| DimensionSnapshot {
            dimension: Dimension::Requests,
            limit: rate.per_minute().ceil() as u64,
            capacity: rate.burst() as u64,
            available: rate.level_at(now).floor() as i64,
            safety_margin: 0,
            learned: true,
            renews_in: None,
        }));
        let in_flight = self.in_flight() as u64;
        dimensions.extend(self.in_flight.limit().map(|limit| DimensionSnapshot {
            dimension: Dimension::Concurrency,
            limit,
            capacity: limit,
            available: i64::try_from(limit.saturating_sub(in_flight)).unwrap_or(i64::MAX),
            safety_margin: 0,
            learned: false,
            renews_in: None,
        }));
        let paused_for = self.pacing.paused_until().saturating_sub(now);
        ScopeSnapshot {
            scope: self.scope.clone(),
            in_flight,
            queued: self.queued(),
            paused_for: Duration::from_nanos(paused_for),
            outstanding_output: self.in_flight.charged(OUTPUT),
            mean_output: self.forecast.output.mean(),
            input_ratio: self.forecast.input.ratio(),
            estimates: self.forecast.input.snapshot(),
            initial_concurrency: self.in_flight.initial_limit(),
            shared: self.lease.is_some() || self.external_use.is_shared(now),
            dimensions,
            classes: self.classes(now),
        }
    }

    /// Advances all levels to `now`. A clock that steps back stands still.
    fn advance(&mut self, now: u64) -> u64 {
        let now = self.advance_clock(now);
        self.buckets.advance(now);
        now
    }

    /// Advances to the end of a request. Its correction refills the levels that it changes, so the
    /// others are refilled only if a queued request needs them.
    fn advance_to_end(&mut self, now: u64) {
        let now = self.advance_clock(now);
        if self.queued() > 0 {
            self.buckets.advance(now);
        }
    }

    /// Advances all but the levels to `now`.
    fn advance_clock(&mut self, now: u64) -> u64 {
        if now > self.now {
            self.now = now;
            self.pacing.advance(now);
            if let Some(lease) = &mut self.lease {
                self.buckets.advance(now);
                lease.advance(now, &self.buckets);
            }
        }
        self.now
    }
}

#[cfg(test)]
mod tests;
