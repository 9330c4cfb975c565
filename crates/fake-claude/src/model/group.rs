//! The buckets of one rate group.

use std::fmt;
use std::time::Duration;

use super::bucket::Bucket;
use super::ramp::RampMeter;
use super::{Charge, GroupLimits};

/// Nobody knows when a running answer ends, so a refusal for concurrency says one second.
const CONCURRENCY_WAIT_NS: u64 = 1_000_000_000;

/// What a request was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dimension {
    /// Requests per minute.
    Requests,
    /// Input tokens per minute.
    InputTokens,
    /// Output tokens per minute.
    OutputTokens,
    /// Requests answered at once.
    Concurrency,
    /// The acceleration limit.
    Ramp,
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::InputTokens => "input tokens",
            Self::OutputTokens => "output tokens",
            Self::Concurrency => "concurrent connections",
            Self::Ramp => "acceleration",
        })
    }
}

/// A refusal: the dimension that stays short the longest, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// What was short.
    pub dimension: Dimension,
    /// The earliest time after which the same request could be admitted, were nobody else there. One minute for a
    /// request larger than the limit, which never is.
    pub retry_after: Duration,
}

/// One bucket, read at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The limit per minute.
    pub limit: u64,
    /// Whole tokens (or requests) that fit.
    pub capacity: u64,
    /// Whole tokens (or requests) there, rounded down; negative in debt.
    pub level: i64,
    /// Time until the bucket is full.
    pub full_in: Duration,
}

impl Reading {
    /// What a `remaining` header of requests says: the level, never below 0.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        u64::try_from(self.level).unwrap_or(0)
    }

    /// What a `remaining` header of tokens says: the level rounded to the nearest 1,000.
    #[must_use]
    pub fn remaining_rounded(&self) -> u64 {
        self.remaining().saturating_add(500) / 1_000 * 1_000
    }

    fn of(bucket: &Bucket) -> Self {
        Self {
            limit: bucket.limit(),
            capacity: bucket.capacity(),
            level: bucket.level(),
            full_in: Duration::from_nanos(bucket.full_in()),
        }
    }
}

/// The buckets of one rate group, read at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Requests per minute.
    pub requests: Reading,
    /// Input tokens per minute.
    pub input_tokens: Reading,
    /// Output tokens per minute.
    pub output_tokens: Reading,
    /// Requests being answered.
    pub in_flight: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    requests: Bucket,
    input: Bucket,
    output: Bucket,
    concurrency: Option<u32>,
    in_flight: u32,
    ramp: Option<RampMeter>,
}

impl Group {
    pub(crate) fn new(limits: &GroupLimits, now: u64) -> Self {
        let bucket = |limit| Bucket::new(limit, limits.burst, now);
        Self {
            requests: bucket(limits.requests_per_minute),
            input: bucket(limits.input_tokens_per_minute),
            output: bucket(limits.output_tokens_per_minute),
            concurrency: limits.concurrency,
            in_flight: 0,
            ramp: limits.ramp.map(RampMeter::new),
        }
    }

    fn refill(&mut self, now: u64) {
        self.requests.refill(now);
        self.input.refill(now);
        self.output.refill(now);
    }

    /// All or nothing.
    pub(crate) fn admit(&mut self, now: u64, charge: Charge) -> Result<(), Rejected> {
        self.refill(now);
        let full = self
            .concurrency
            .is_some_and(|limit| self.in_flight >= limit);
        let waits = [
            (Dimension::Requests, self.requests.wait(1)),
            (
                Dimension::InputTokens,
                self.input.wait(charge.input_estimate),
            ),
            (Dimension::OutputTokens, self.output.wait(1)),
            (
                Dimension::Concurrency,
                if full { CONCURRENCY_WAIT_NS } else { 0 },
            ),
            (
                Dimension::Ramp,
                self.ramp.as_mut().map_or(0, |ramp| ramp.wait(now)),
            ),
        ];
        // The first of equals, so that the answer does not depend on anything but the levels.
        let mut longest = waits[0];
        for wait in waits {
            if wait.1 > longest.1 {
                longest = wait;
            }
        }
        if longest.1 > 0 {
            return Err(Rejected {
                dimension: longest.0,
                retry_after: Duration::from_nanos(longest.1),
            });
        }
        self.requests.take(1);
        self.input.take(charge.input_estimate);
        self.in_flight += 1;
        if let Some(ramp) = &mut self.ramp {
            ramp.count();
        }
        Ok(())
    }

    /// Takes a request for an attempt that was refused, if there is one to take.
    pub(crate) fn charge_rejected(&mut self) {
        if self.requests.level() >= 1 {
            self.requests.take(1);
        }
    }

    pub(crate) fn correct_input(&mut self, now: u64, charged: u64, actual: u64) {
        self.input.refill(now);
        if actual > charged {
            self.input.take(actual - charged);
        } else {
            self.input.give(charged - actual);
        }
    }

    pub(crate) fn produce(&mut self, now: u64, tokens: u64) {
        self.output.refill(now);
        self.output.take(tokens);
    }

    pub(crate) fn finish(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub(crate) fn gauges(&mut self, now: u64) -> Gauges {
        self.refill(now);
        Gauges {
            requests: Reading::of(&self.requests),
            input_tokens: Reading::of(&self.input),
            output_tokens: Reading::of(&self.output),
            in_flight: self.in_flight,
        }
    }
}
