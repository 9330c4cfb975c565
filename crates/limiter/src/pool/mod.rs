//! One scope without I/O: exact buckets, a queue, the reservations in flight, a pause.
//!
//! Nothing here reads a clock, sleeps or wakes: every call is told `now`, in whole nanoseconds since
//! a start of the caller's choosing, and says what to do next. [`LocalLimiter`](crate::LocalLimiter)
//! drives it in real time, a simulator can in virtual time.
//!
//! ```
//! use std::num::NonZeroU64;
//! use tower_claude_core::{Cost, Scope};
//! use tower_claude_limiter::{Limits, Settlement, LimiterConfig, Pool};
//! use tower_claude_limiter::pool::{Enqueued, Next, PoolRequest};
//!
//! let limits = Limits::new().with_requests_per_minute(NonZeroU64::new(1).unwrap());
//! let scope = Scope::named("one a minute");
//! let mut pool = Pool::new(scope.clone(), &limits.for_scope(&scope), LimiterConfig::new(), 0);
//! let ask = PoolRequest::new(Cost::new(0, 0), 0);
//! let Ok(Enqueued::Granted(first)) = pool.enqueue(0, ask) else { panic!() };
//! let Ok(Enqueued::Waiting(second)) = pool.enqueue(0, ask) else { panic!() };
//! pool.settle(5, first, &Settlement::dropped()); // the server has counted it all the same
//! let mut granted = Vec::new();
//! assert_eq!(pool.poll(5, &mut granted), Next::At(60_000_000_000));
//! assert_eq!(pool.poll(60_000_000_000, &mut granted), Next::Idle);
//! assert_eq!(granted[0].0, second);
//! ```

mod admit;
mod book;
mod bucket;
mod class;
mod clock;
mod day;
mod drain;
mod estimate;
mod extra;
mod fair;
mod float;
mod guard;
mod inputs;
mod kinds;
mod lane;
mod observe;
mod outputs;
mod pause;
mod predict;
mod price;
mod queue;
mod ramp;
mod refused;
mod settle;
mod turns;
mod types;
mod view;

use std::time::{Duration, SystemTime};

use tower_claude_core::{LimitWarning, Scope};

pub(crate) use admit::NAME;
pub use book::ReservationId;
pub use queue::{TenantKey, WaiterId};
pub use types::{Enqueued, Next, ObservedHead, PoolRequest, QueuePlace};

use crate::{LimiterConfig, OutputAccounting, PoolLimits};
use book::Book;
use bucket::Bucket;
use extra::Extra;
use lane::{Counted, LANES, Lane};
use pause::Pause;
use queue::Queue;

/// One scope without I/O. See the [module](self).
#[derive(Debug)]
pub struct Pool {
    scope: Scope,
    config: LimiterConfig,
    /// Nanoseconds of refill that a bucket holds as long as nothing better is known.
    burst: u64,
    max_pause: u64,
    concurrency: Option<u64>,
    lanes: [Lane; LANES],
    /// Further limits, mostly none.
    extras: Vec<Extra>,
    queue: Queue,
    book: Book,
    pause: Pause,
    pace: price::Pace,
    ramp: ramp::Ramp,
    drains: drain::Drains,
    clock: clock::ServerClock,
    initial_concurrency: Option<u64>,
    output: outputs::Outputs,
    input: inputs::Input,
    /// Input in flight that the server has not told its own count of.
    guessed_input: u64,
    last_grant: u64,
    /// Until when heads of successes need not be looked at.
    calm: u64,
    /// Time never goes back.
    now: u64,
}

impl Pool {
    /// A pool with full buckets.
    #[must_use]
    pub fn new(scope: Scope, limits: &PoolLimits, config: LimiterConfig, now: u64) -> Self {
        let burst = pause::nanos(limits.burst);
        let counted = match config.output_accounting {
            OutputAccounting::AsProduced => Counted::AtEnd,
            OutputAccounting::MaxTokensReserved => Counted::AtHead,
        };
        let lane = |limit: Option<std::num::NonZeroU64>, counted| {
            Lane::new(
                limit.map(|limit| Bucket::full(limit.get(), burst, now)),
                counted,
            )
        };
        Self {
            lanes: [
                lane(limits.requests, Counted::AtHead),
                lane(limits.input_tokens, Counted::AtHead),
                lane(limits.output_tokens, counted),
                lane(limits.total_tokens, counted),
            ],
            scope,
            burst,
            max_pause: pause::nanos(config.max_pause),
            concurrency: limits
                .least_concurrency()
                .map(|limit| u64::from(limit.get())),
            extras: extra::extras(limits, now),
            queue: Queue::new(config.shares.clone()),
            book: Book::default(),
            pause: Pause::default(),
            pace: price::Pace::default(),
            ramp: ramp::Ramp::new(config.slow_start),
            drains: drain::Drains::default(),
            clock: clock::ServerClock::default(),
            initial_concurrency: config
                .initial_concurrency
                .map(|start| u64::from(start.get()))
                .filter(|start| *start < settle::SLOW_START_ENDS),
            output: outputs::Outputs::default(),
            input: inputs::Input::default(),
            guessed_input: 0,
            last_grant: now,
            calm: 0,
            now,
            config,
        }
    }

    /// The same pool, told what time it is outside at `now`, for limits per day that reset at a time of
    /// day. Until it is told, they reset 24 hours after the start.
    #[must_use]
    pub fn with_wall_time(mut self, now: u64, wall: SystemTime) -> Self {
        self.set_wall_time(now, wall);
        self
    }

    /// Tells what time it is outside at `now`; the server's clock, where a response tells it
    /// ([`ObservedHead::server_time`]), does the same.
    pub fn set_wall_time(&mut self, now: u64, wall: SystemTime) {
        let now = self.advance(now);
        for extra in &mut self.extras {
            extra.set_wall_time(now, wall);
        }
    }

    /// The scope.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Requests admitted and not settled.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.book.len()
    }

    /// Requests waiting.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The first of those that wait: the only one that may take.
    #[must_use]
    pub fn head(&self) -> Option<WaiterId> {
        self.queue.head().map(|(ticket, _)| ticket)
    }

    /// Whether nothing is in flight, waits or is paused: forgetting the pool then loses levels only.
    #[must_use]
    pub fn is_idle(&self, now: u64) -> bool {
        self.book.len() == 0 && self.queue.len() == 0 && self.pause.until() <= now
    }

    /// Corrects the levels by the head of the response to `id`; ignored once it is settled. Returns the
    /// tightest limit that newly crossed the warning share, once per crossing.
    pub fn observe(
        &mut self,
        now: u64,
        id: ReservationId,
        seen: &ObservedHead<'_>,
    ) -> Option<LimitWarning> {
        let now = self.advance(now);
        self.book.get(id)?;
        if let Some(wall) = seen.server_time.filter(|_| !self.extras.is_empty()) {
            self.set_wall_time(now, wall);
        }
        if seen.rejected {
            self.refused(now, id, Some(seen.limits));
            self.refund(id);
        } else {
            self.heard(id);
        }
        // A copy on the stack, so that lanes and book can be borrowed apart.
        let sent = self.book.get(id)?.sent();
        let crossing = self.learn(now, &sent, seen);
        self.calm = self.calm_until().unwrap_or(0);
        crossing
    }

    /// Until when heads of successes need not be looked at, as long as every level is over the half.
    #[must_use]
    pub const fn calm(&self) -> u64 {
        self.calm
    }

    /// Stops admissions after a 429 for `id`, and returns for how long: `retry_after` (at most an hour),
    /// plus up to half of it (10 s at most) by `jitter` (0..1). By the second 429 in a row it is raised to
    /// 2 s where it is less, by each after that to 4 s. Without it, or with a zero: 1 s, doubled with every
    /// 429 in a row, at most the longest pause, jitter included.
    pub fn rate_limited(
        &mut self,
        now: u64,
        id: ReservationId,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> Duration {
        let now = self.advance(now);
        self.calm = 0;
        let sent = self.book.get_mut(id).map(|record| {
            record.paused = true;
            record.sent_at
        });
        let wait = self
            .pause
            .rejected(now, sent, retry_after, jitter, self.max_pause);
        self.ramp.paused(self.pause.until());
        Duration::from_nanos(wait)
    }

    /// Brings every level up to `now`, which never goes back.
    fn advance(&mut self, now: u64) -> u64 {
        if now <= self.now {
            return self.now;
        }
        self.now = now;
        for lane in &mut self.lanes {
            if let Some(bucket) = &mut lane.bucket {
                bucket.refill(self.now);
            }
        }
        for extra in &mut self.extras {
            extra.advance(self.now);
        }
        self.now
    }
}

#[cfg(test)]
mod tests;
