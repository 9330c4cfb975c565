//! This project's limiter: its own [`Pool`], called as `LocalLimiter` and the layers call it.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    time::{Duration, SystemTime},
};

use tower_claude_core::{Cost, Priority, Scope};
use tower_claude_limiter::{
    Dimension, LimiterConfig, Limits, Pool, Settlement, Sharing,
    pool::{Enqueued, Next, ObservedHead, PoolRequest, ReservationId, WaiterId},
};
use tower_claude_wire::{Gauge, RateLimits, Usage};

use super::{Ask, Believed, Head, Io, JobId, Shown, Strategy, Used, parts::PerJob};
use crate::{
    units::MS,
    workload::{Class, MOST_OUTPUT, Quota},
};

/// Output expected before an answer was seen: the default of the layers' own estimate.
const FIRST_OUTPUT: u64 = 512;
/// The one place that says how the limiter is set: as by default where a layer reads headers.
fn config(sharing: Sharing) -> LimiterConfig {
    LimiterConfig::new()
        .with_initial_concurrency(Some(LimiterConfig::INITIAL_CONCURRENCY))
        .with_sharing(sharing)
}

/// The one place that says what is asked for a request; all are of one tenant.
fn pool_ask(estimate: u64, class: Class, arrival: u64) -> PoolRequest {
    let cost = Cost::new(estimate, FIRST_OUTPUT).with_max_output_tokens(Some(MOST_OUTPUT));
    PoolRequest::new(cost, arrival).with_priority(match class {
        Class::Batch => Priority::Batch,
        Class::Interactive => Priority::Interactive,
    })
}

pub(super) struct Ours {
    pool: Pool,
    waiting: HashMap<WaiterId, JobId>,
    jobs: PerJob<Job>,
    granted: Vec<(WaiterId, ReservationId)>,
    rng: fastrand::Rng,
}

#[derive(Clone, Copy, Default)]
struct Job {
    ask: Option<Ask>,
    arrival: u64,
    reservation: Option<ReservationId>,
}

impl Ours {
    pub(super) fn new(told: Quota, sharing: Sharing, rng: fastrand::Rng) -> Self {
        let [requests, input, output] = told.0.map(|limit| NonZeroU64::new(limit.max(1)));
        let mut limits = Limits::new();
        if let (Some(requests), Some(input), Some(output)) = (requests, input, output) {
            limits = limits
                .with_requests_per_minute(requests)
                .with_input_tokens_per_minute(input)
                .with_output_tokens_per_minute(output);
        }
        let scope = Scope::named("simulated");
        let limits = limits.for_scope(&scope);
        Self {
            pool: Pool::new(scope, &limits, config(sharing), 0),
            waiting: HashMap::new(),
            jobs: PerJob::default(),
            granted: Vec::new(),
            rng,
        }
    }

    fn enqueue(&mut self, now: u64, job: JobId, io: &mut Io) {
        let state = self.jobs.get(job);
        let Some(ask) = state.ask else { return };
        let ask = pool_ask(ask.estimate, ask.class, state.arrival);
        match self.pool.enqueue(now, ask) {
            Ok(Enqueued::Granted(id)) => {
                state.reservation = Some(id);
                io.send.push(job);
            }
            Ok(Enqueued::Waiting(ticket)) => {
                self.waiting.insert(ticket, job);
                self.turn(now, io);
            }
            Err(_) => io.failed.push(job),
        }
    }

    /// Hands grants out and sets the timer of the head.
    fn turn(&mut self, now: u64, io: &mut Io) {
        if self.pool.queued() == 0 {
            return;
        }
        let next = self.pool.poll(now, &mut self.granted);
        for (ticket, id) in self.granted.drain(..) {
            if let Some(job) = self.waiting.remove(&ticket) {
                self.jobs.get(job).reservation = Some(id);
                io.send.push(job);
            }
        }
        if let Next::At(at) = next {
            // As coarse as the runtime's timer.
            io.wake_at(at.div_ceil(MS).saturating_mul(MS));
        }
    }
}

impl Strategy for Ours {
    fn submit(&mut self, now: u64, ask: Ask, io: &mut Io) {
        *self.jobs.get(ask.job) = Job {
            ask: Some(ask),
            arrival: now,
            reservation: None,
        };
        self.enqueue(now, ask.job, io);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &Head, io: &mut Io) {
        let Some(id) = self.jobs.get(job).reservation else {
            return;
        };
        let limits = rate_limits(head);
        let seen =
            ObservedHead::new(&limits, Some(wall(head.date))).with_rejected(head.refused.is_some());
        let Some(retry_after) = head.refused else {
            self.pool.observe(now, id, &seen);
            self.turn(now, io);
            self.pool.true_up_input(now, id, head.input);
            self.turn(now, io);
            return;
        };
        let jitter = self.rng.f64();
        let retry_after = Duration::from_secs(retry_after);
        self.pool.rate_limited(now, id, Some(retry_after), jitter);
        self.pool.observe(now, id, &seen);
        self.turn(now, io);
        self.pool.settle(now, id, &Settlement::Rejected);
        self.turn(now, io);
        self.enqueue(now, job, io);
    }

    fn on_progress(&mut self, now: u64, job: JobId, output: u64, io: &mut Io) {
        if let Some(id) = self.jobs.get(job).reservation {
            self.pool.produced(now, id, output);
            self.turn(now, io);
        }
    }

    fn on_end(&mut self, now: u64, job: JobId, used: Used, io: &mut Io) {
        if let Some(id) = self.jobs.get(job).reservation.take() {
            let mut usage = Usage::default();
            usage.input_tokens = Some(used.input);
            usage.output_tokens = Some(used.output);
            self.pool.settle(now, id, &Settlement::Used { usage });
            self.turn(now, io);
        }
    }

    fn wake(&mut self, now: u64, io: &mut Io) {
        self.turn(now, io);
    }

    fn levels(&self, now: u64) -> Option<Believed> {
        let snapshot = self.pool.snapshot(now);
        let level = |wanted| {
            let mut all = snapshot.dimensions.iter();
            all.find(|dimension| dimension.dimension == wanted)
                .map(|dimension| dimension.available)
        };
        Some(Believed {
            levels: [
                level(Dimension::Requests)?,
                level(Dimension::InputTokens)?,
                level(Dimension::OutputTokens)?,
            ],
            outstanding_output: snapshot.outstanding_output,
        })
    }
}

/// As the wire crate would have read the headers.
fn rate_limits(head: &Head) -> RateLimits {
    let gauge = |shown: Shown| Gauge {
        limit: Some(shown.limit),
        remaining: Some(shown.remaining),
        reset: Some(wall(shown.reset)),
    };
    let mut limits = RateLimits::default();
    limits.requests = gauge(head.shown[0]);
    limits.input_tokens = gauge(head.shown[1]);
    limits.output_tokens = gauge(head.shown[2]);
    limits
}

/// The server's clock started long ago; ours knows nothing of it.
fn wall(seconds: i64) -> SystemTime {
    const START: i64 = 1_700_000_000;
    SystemTime::UNIX_EPOCH + Duration::from_secs((START + seconds).max(0) as u64)
}
