//! The headroom of a target for a group of models: an estimate of the wait until a request fits.
//!
//! It only orders targets. An inner limiter admits requests, and no request is rejected because
//! of this estimate. That is why the levels are floating-point numbers: every header corrects them.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;
use tower_claude_wire::{Gauge, RateLimits};

use crate::options::TargetLimits;

/// The share of the last minute's use to which a 429 cuts a learned limit.
const CUT: f64 = 0.85;
/// The growth of a learned limit in a minute in which it is used. What is used beyond it replaces
/// it.
const GROWTH: f64 = 0.02;
/// The used share of a learned limit from which on it grows.
const BUSY: f64 = 0.8;
/// The time after the last 429 at which a learned limit is forgotten. What caused it has passed.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// The least learned limit in tokens per minute. A 429 after little use has another cause.
const LEAST_LEARNED: f64 = 1_000.0;
/// The slots of the window in which use is counted.
const SLOTS: usize = 6;
/// The length of one slot in seconds.
const SLOT: u64 = 10;
/// The length of the window.
const WINDOW: Duration = Duration::from_secs(SLOT * SLOTS as u64);
const MINUTE: f64 = 60.0;

/// The use of limits by one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Charge {
    pub(crate) requests: f64,
    /// Without cache reads.
    pub(crate) input: f64,
    pub(crate) output: f64,
    /// Input and weighted output together.
    pub(crate) all: f64,
}

impl Charge {
    fn parts(&self) -> [f64; 4] {
        [self.requests, self.input, self.output, self.all]
    }
}

/// A bucket that refills continuously.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Per minute, and the capacity.
    limit: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn full(limit: f64, now: Instant) -> Self {
        Self {
            limit: limit.max(1.0),
            level: limit.max(1.0),
            at: now,
        }
    }

    fn level(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + since * self.limit / MINUTE).min(self.limit)
    }

    fn take(&mut self, amount: f64, now: Instant) {
        self.level = self.level(now) - amount;
        self.at = self.at.max(now);
        // A debt of more than an hour is an error of the estimate.
        self.level = self.level.clamp(-MINUTE * self.limit, self.limit);
    }

    /// Returns the seconds until `amount` fits. More than the limit fits when the bucket is full.
    fn wait(&self, amount: f64, now: Instant) -> f64 {
        let lacking = amount.min(self.limit) - self.level(now);
        (lacking / (self.limit / MINUTE)).max(0.0)
    }
}

/// The tokens that were used in the last minute.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    slots: [f64; SLOTS],
    /// The number of the last slot that was used.
    last: u64,
}

impl Window {
    fn advance(&mut self, slot: u64) {
        if slot >= self.last + SLOTS as u64 {
            self.slots = [0.0; SLOTS];
        } else {
            for past in self.last + 1..=slot {
                self.slots[(past % SLOTS as u64) as usize] = 0.0;
            }
        }
        self.last = self.last.max(slot);
    }

    fn add(&mut self, slot: u64, amount: f64) {
        self.advance(slot);
        let at = (self.last % SLOTS as u64) as usize;
        self.slots[at] = (self.slots[at] + amount).max(0.0);
    }

    fn sum(&mut self, slot: u64) -> f64 {
        self.advance(slot);
        self.slots.iter().sum()
    }
}

/// A limit that 429s have taught, in tokens per minute.
#[derive(Clone, Copy, Debug)]
struct Learned {
    bucket: Bucket,
    cut_at: Instant,
    grown_at: Instant,
}

/// The headroom of one target for one group of models.
#[derive(Clone, Debug)]
pub(crate) struct Headroom {
    born: Instant,
    /// Requests, input tokens, output tokens, all tokens.
    buckets: [Option<Bucket>; 4],
    /// The limits that the user has set. No header raises them.
    configured: [Option<f64>; 4],
    learned: Option<Learned>,
    window: Window,
    in_flight: u32,
}

impl Headroom {
    pub(crate) fn new(limits: &TargetLimits, now: Instant) -> Self {
        let number = |limit: Option<NonZeroU32>| limit.map(|limit| f64::from(limit.get()));
        let configured = [
            number(limits.requests),
            number(limits.input_tokens),
            number(limits.output_tokens),
            number(limits.all_tokens),
        ];
        Self {
            born: now,
            buckets: configured.map(|limit| limit.map(|limit| Bucket::full(limit, now))),
            configured,
            learned: None,
            window: Window::default(),
            in_flight: 0,
        }
    }

    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_secs() / SLOT
    }

    /// Returns true if a forgotten headroom would be the same as a new one.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        let is_full = |bucket: &Bucket| bucket.level(now) >= bucket.limit;
        self.in_flight == 0
            && self.learned(now).is_none()
            && self.buckets.iter().flatten().all(is_full)
    }

    fn learned(&self, now: Instant) -> Option<&Learned> {
        let learned = self.learned.as_ref()?;
        (now.saturating_duration_since(learned.cut_at) < FORGET_AFTER).then_some(learned)
    }

    /// Returns the learned limit in tokens per minute.
    pub(crate) fn learned_limit(&self, now: Instant) -> Option<f64> {
        Some(self.learned(now)?.bucket.limit)
    }

    /// Returns the estimated wait until a request fits.
    pub(crate) fn wait(&self, charge: &Charge, now: Instant) -> Duration {
        let known = self.buckets.iter().zip(charge.parts());
        let known = known.filter_map(|(bucket, part)| Some(bucket.as_ref()?.wait(part, now)));
        let learned = self.learned(now);
        let learned = learned.map(|learned| learned.bucket.wait(charge.all, now));
        Duration::try_from_secs_f64(known.chain(learned).fold(0.0, f64::max)).unwrap_or_default()
    }

    /// Charges a request that is about to be sent.
    pub(crate) fn take(&mut self, charge: &Charge, now: Instant) {
        self.in_flight += 1;
        self.change(charge.parts(), now);
    }

    /// Replaces the charge of a request whose response has ended.
    pub(crate) fn settle(&mut self, charged: &Charge, actual: &Charge, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let (charged, actual) = (charged.parts(), actual.parts());
        self.change(std::array::from_fn(|at| actual[at] - charged[at]), now);
        self.grow(now);
    }

    fn change(&mut self, parts: [f64; 4], now: Instant) {
        for (bucket, part) in self.buckets.iter_mut().zip(parts) {
            if let Some(bucket) = bucket {
                bucket.take(part, now);
            }
        }
        if let Some(learned) = &mut self.learned {
            learned.bucket.take(parts[3], now);
        }
        let slot = self.slot(now);
        self.window.add(slot, parts[3]);
    }

    /// Raises a learned limit that is used.
    fn grow(&mut self, now: Instant) {
        let slot = self.slot(now);
        let used = self.window.sum(slot);
        let Some(learned) = &mut self.learned else {
            return;
        };
        let since = now.saturating_duration_since(learned.grown_at);
        learned.grown_at = now;
        // The whole window lies after the 429, so the target has admitted all of this.
        if now.saturating_duration_since(learned.cut_at) >= WINDOW {
            learned.bucket.limit = learned.bucket.limit.max(used);
        }
        if used >= BUSY * learned.bucket.limit {
            let minutes = (since.as_secs_f64() / MINUTE).min(1.0);
            learned.bucket.limit *= 1.0 + GROWTH * minutes;
        }
    }

    /// Records a 429 without rate-limit headers. The request that it rejected is settled before.
    pub(crate) fn on_rate_limited(&mut self, now: Instant) {
        let slot = self.slot(now);
        let used = self.window.sum(slot);
        let before = self.learned_limit(now);
        let least = before.map_or(0.0, |limit| limit / 2.0);
        let limit = (CUT * used).max(least).max(LEAST_LEARNED);
        let limit = before.map_or(limit, |before| limit.min(before));
        let mut bucket = Bucket::full(limit, now);
        bucket.level = 0.0;
        self.learned = Some(Learned {
            bucket,
            cut_at: now,
            grown_at: now,
        });
    }

    /// Corrects the levels by the headers of a response.
    pub(crate) fn on_limits(&mut self, limits: &RateLimits, fast: bool, now: Instant) {
        for (at, gauge) in limits.of_pool(fast).into_iter().enumerate() {
            let Gauge {
                limit: Some(limit),
                remaining: Some(remaining),
                ..
            } = *gauge
            else {
                continue;
            };
            let limit = limit as f64;
            let limit = self.configured[at].map_or(limit, |configured| configured.min(limit));
            let known = self.buckets[at].map(|bucket| bucket.level(now));
            let mut bucket = Bucket::full(limit, now);
            // While others are in flight, the header may not count all of them.
            bucket.level = match known.filter(|_| self.in_flight > 1) {
                Some(level) => level.min(remaining as f64),
                None => (remaining as f64).min(bucket.limit),
            };
            self.buckets[at] = Some(bucket);
            self.learned = None;
        }
    }
}
