//! Strategy with this project's limiter: its [`Pool`], used like by `LocalLimiter` and the layers.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    time::{Duration, SystemTime},
};

use tower_claude_core::{Cost, Priority, Scope};
use tower_claude_limiter::{
    Dimension, LimiterConfig, Limits, Pool, Settlement, Sharing,
    pool::{
        Enqueued, Next, ObservedHead, PoolRequest, ReservationId, ShareMessage, SharePolicy,
        ShareReply, WaiterId,
    },
};
use tower_claude_wire::{Gauge, RateLimits, Usage};

use super::{
    Action, ActualUse, HeaderGauge, JobId, LevelEstimate, NewRequest, ResponseHead, Strategy,
    job_table::JobTable,
};
use crate::{
    units::MS,
    workload::{MOST_OUTPUT, Quota, RequestClass},
};

/// Expected output before the first response: the default of the layers' estimate.
const FIRST_OUTPUT: u64 = 512;

/// Returns the configuration of the limiter: the defaults of a layer that reads headers.
fn config() -> LimiterConfig {
    LimiterConfig::new()
        .with_initial_concurrency(Some(LimiterConfig::INITIAL_CONCURRENCY))
        // Some clients are configured with a wrong limit.
        .with_limits_as_hint(true)
}

/// Returns the acquire request of a request. All have the same tenant.
fn pool_ask(estimate: u64, class: RequestClass, arrival: u64) -> PoolRequest {
    let cost = Cost::new(estimate, FIRST_OUTPUT).with_max_output_tokens(Some(MOST_OUTPUT));
    PoolRequest::new(cost, arrival).with_priority(match class {
        RequestClass::Batch => Priority::Batch,
        RequestClass::Interactive => Priority::Interactive,
    })
}

pub(super) struct ThisLimiter {
    pool: Pool,
    waiting: HashMap<WaiterId, JobId>,
    jobs: JobTable<LimitedJob>,
    granted: Vec<(WaiterId, ReservationId)>,
    rng: fastrand::Rng,
}

#[derive(Clone, Copy, Default)]
struct LimitedJob {
    ask: Option<NewRequest>,
    arrival: u64,
    reservation: Option<ReservationId>,
}

impl ThisLimiter {
    /// Creates the limiter of a process. Without `sharing` its levels are in a store.
    pub(super) fn new(told: Quota, sharing: Option<Sharing>, rng: fastrand::Rng) -> Self {
        let [requests, input, output] = told.0.map(NonZeroU64::new);
        let mut limits = Limits::new();
        if let (Some(requests), Some(input), Some(output)) = (requests, input, output) {
            limits = limits
                .with_requests_per_minute(requests)
                .with_input_tokens_per_minute(input)
                .with_output_tokens_per_minute(output);
        }
        let scope = Scope::named("simulated");
        let limits = limits.for_scope(&scope);
        let pool = match sharing {
            Some(sharing) => Pool::new(scope, &limits, config().with_sharing(sharing), 0),
            None => Pool::shared(scope, &limits, config(), &SharePolicy::new(), 0),
        };
        Self {
            pool,
            waiting: HashMap::new(),
            jobs: JobTable::default(),
            granted: Vec::new(),
            rng,
        }
    }

    fn enqueue(&mut self, now: u64, job: JobId, io: &mut Action) {
        let state = self.jobs.get(job);
        let Some(ask) = state.ask else { return };
        let ask = pool_ask(ask.estimate, ask.class, state.arrival);
        match self.pool.enqueue(now, ask) {
            Ok(Enqueued::Granted(id)) => {
                state.reservation = Some(id);
                io.send.push(job);
            }
            Ok(Enqueued::Waiting(waiter)) => {
                self.waiting.insert(waiter, job);
                self.turn(now, io);
            }
            Err(_) => io.failed.push(job),
        }
    }

    /// Gives up rejected requests, sends granted ones and sets the timer of the queue head.
    fn turn(&mut self, now: u64, io: &mut Action) {
        let shed = self.pool.take_shed().into_iter();
        let shed = shed.filter_map(|(waiter, _)| self.waiting.remove(&waiter));
        io.failed.extend(shed);
        if self.pool.queued() == 0 {
            return;
        }
        let next = self.pool.poll(now, &mut self.granted);
        for (waiter, id) in self.granted.drain(..) {
            if let Some(job) = self.waiting.remove(&waiter) {
                self.jobs.get(job).reservation = Some(id);
                io.send.push(job);
            }
        }
        if let Next::At(at) = next {
            // As coarse as the timer of tokio.
            io.wake_at(at.div_ceil(MS).saturating_mul(MS));
        }
    }
}

impl Strategy for ThisLimiter {
    fn submit(&mut self, now: u64, ask: NewRequest, io: &mut Action) {
        *self.jobs.get(ask.job) = LimitedJob {
            ask: Some(ask),
            arrival: now,
            reservation: None,
        };
        self.enqueue(now, ask.job, io);
    }

    fn on_response(&mut self, now: u64, job: JobId, head: &ResponseHead, io: &mut Action) {
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

    fn on_progress(&mut self, now: u64, job: JobId, output: u64, io: &mut Action) {
        if let Some(id) = self.jobs.get(job).reservation {
            self.pool.produced(now, id, output);
            self.turn(now, io);
        }
    }

    fn on_end(&mut self, now: u64, job: JobId, used: ActualUse, io: &mut Action) {
        if let Some(id) = self.jobs.get(job).reservation.take() {
            let mut usage = Usage::default();
            usage.input_tokens = Some(used.input);
            usage.output_tokens = Some(used.output);
            self.pool.settle(now, id, &Settlement::Used { usage });
            self.turn(now, io);
        }
    }

    fn wake(&mut self, now: u64, io: &mut Action) {
        self.turn(now, io);
    }

    fn take_message(&mut self, now: u64) -> Option<ShareMessage> {
        self.pool.take_message(now)
    }

    fn on_reply(&mut self, now: u64, id: u64, reply: &ShareReply, io: &mut Action) {
        self.pool.on_reply(now, id, reply);
        self.turn(now, io);
    }

    fn levels(&self, now: u64) -> Option<LevelEstimate> {
        let snapshot = self.pool.snapshot(now);
        let level = |wanted| {
            let mut all = snapshot.dimensions.iter();
            all.find(|dimension| dimension.dimension == wanted)
                .map(|dimension| dimension.available)
        };
        Some(LevelEstimate {
            levels: [
                level(Dimension::Requests)?,
                level(Dimension::InputTokens)?,
                level(Dimension::OutputTokens)?,
            ],
            outstanding_output: snapshot.outstanding_output,
        })
    }
}

/// Returns the headers as the wire crate parses them.
fn rate_limits(head: &ResponseHead) -> RateLimits {
    let gauge = |shown: HeaderGauge| Gauge {
        limit: Some(shown.limit),
        remaining: Some(shown.remaining),
        reset: Some(wall(shown.reset)),
    };
    let mut limits = RateLimits::default();
    if head.is_silent {
        return limits;
    }
    limits.requests = gauge(head.shown[0]);
    limits.input_tokens = gauge(head.shown[1]);
    limits.output_tokens = gauge(head.shown[2]);
    limits
}

/// Converts the server's time. Its clock has another start than the client's.
fn wall(seconds: i64) -> SystemTime {
    const START: i64 = 1_700_000_000;
    SystemTime::UNIX_EPOCH + Duration::from_secs((START + seconds).max(0) as u64)
}
