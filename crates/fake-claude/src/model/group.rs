//! The buckets of one rate group.

use std::fmt;
use std::time::Duration;

use super::bucket::Bucket;
use super::limits::GroupLimits;
use super::ramp::RampMeter;

/// The end of a running response is not known, so a rejection for concurrency reports one second.
const CONCURRENCY_WAIT_NS: u64 = 1_000_000_000;

/// Charge of a request at admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Input tokens as the server estimates them.
    pub input_estimate: u64,
    /// The `max_tokens` of the request, which a combined limit may hold.
    pub max_output: u64,
}

/// Limit that rejected a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dimension {
    /// Requests per minute.
    Requests,
    /// Input tokens per minute.
    InputTokens,
    /// Output tokens per minute.
    OutputTokens,
    /// Input and output tokens together per minute.
    Tokens,
    /// Concurrent requests.
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
            Self::Tokens => "tokens",
            Self::Concurrency => "concurrent connections",
            Self::Ramp => "acceleration",
        })
    }
}

/// A rejection: the limit that is exceeded for the longest time, and that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The exceeded limit.
    pub dimension: Dimension,
    /// Time until the same request could be admitted if there were no other requests. One minute
    /// for a request above the limit, which is never admitted.
    pub retry_after: Duration,
}

/// State of one bucket at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The limit per minute.
    pub limit: u64,
    /// Capacity in tokens (or requests).
    pub capacity: u64,
    /// Tokens (or requests) in the bucket, rounded down. Negative in debt.
    pub level: i64,
    /// Time until the bucket is full.
    pub full_in: Duration,
}

impl Reading {
    /// Returns the value of a `remaining` header of requests: the level, at least 0.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        u64::try_from(self.level).unwrap_or(0)
    }

    /// Returns the value of a `remaining` header of tokens: the level rounded to the nearest 1,000.
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

/// State of the buckets of one rate group at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaugeSet {
    /// Requests per minute.
    pub requests: Reading,
    /// Input tokens per minute.
    pub input_tokens: Reading,
    /// Output tokens per minute.
    pub output_tokens: Reading,
    /// Input and output tokens together per minute. `None` without such a limit.
    pub combined_tokens: Option<Reading>,
    /// Requests in flight.
    pub in_flight: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    requests: Bucket,
    input: Bucket,
    output: Bucket,
    combined: Option<Combined>,
    concurrency: Option<u32>,
    in_flight: u32,
    ramp: Option<RampMeter>,
}

/// A limit on input and output together.
#[derive(Clone, Debug)]
struct Combined {
    bucket: Bucket,
    weight: u64,
    holds_max_tokens: bool,
}

impl Combined {
    /// Returns the charge of a request at admission.
    fn cost(&self, charge: Charge) -> u64 {
        let held = if self.holds_max_tokens {
            charge.max_output
        } else {
            0
        };
        charge.input_estimate.saturating_add(held)
    }
}

impl Group {
    pub(crate) fn new(limits: &GroupLimits, now: u64) -> Self {
        let bucket = |limit| Bucket::new(limit, limits.burst, now);
        Self {
            requests: bucket(limits.requests_per_minute),
            input: bucket(limits.input_tokens_per_minute),
            output: bucket(limits.output_tokens_per_minute),
            combined: limits.combined_tokens_per_minute.map(|limit| Combined {
                bucket: bucket(limit),
                weight: limits.output_weight,
                holds_max_tokens: limits.holds_max_tokens,
            }),
            concurrency: limits.concurrency,
            in_flight: 0,
            ramp: limits.ramp.map(RampMeter::new),
        }
    }

    fn refill(&mut self, now: u64) {
        self.requests.refill(now);
        self.input.refill(now);
        self.output.refill(now);
        if let Some(combined) = &mut self.combined {
            combined.bucket.refill(now);
        }
    }

    /// Admits a request within all limits, or charges nothing.
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
                Dimension::Tokens,
                self.combined
                    .as_mut()
                    .map_or(0, |combined| combined.bucket.wait(combined.cost(charge))),
            ),
            (
                Dimension::Concurrency,
                if full { CONCURRENCY_WAIT_NS } else { 0 },
            ),
            (
                Dimension::Ramp,
                self.ramp.as_mut().map_or(0, |ramp| ramp.wait(now)),
            ),
        ];
        // Of equal waits the first, so that the result depends on the levels only.
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
        if let Some(combined) = &mut self.combined {
            let cost = combined.cost(charge);
            combined.bucket.take(cost);
        }
        self.in_flight += 1;
        if let Some(ramp) = &mut self.ramp {
            ramp.count();
        }
        Ok(())
    }

    /// Charges one request for a rejected attempt, if the bucket has one.
    pub(crate) fn charge_rejected(&mut self) {
        if self.requests.level() >= 1 {
            self.requests.take(1);
        }
    }

    pub(crate) fn correct_input(&mut self, now: u64, charged: u64, actual: u64) {
        self.refill(now);
        correct(&mut self.input, charged, actual);
        if let Some(combined) = &mut self.combined {
            correct(&mut combined.bucket, charged, actual);
        }
    }

    pub(crate) fn produce(&mut self, now: u64, tokens: u64) {
        self.refill(now);
        self.output.take(tokens);
        if let Some(combined) = &mut self.combined
            && !combined.holds_max_tokens
        {
            combined.bucket.take(tokens.saturating_mul(combined.weight));
        }
    }

    /// Ends a request with this `max_tokens` and this output.
    pub(crate) fn finish(&mut self, now: u64, held: u64, output: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.refill(now);
        if let Some(combined) = &mut self.combined
            && combined.holds_max_tokens
        {
            let cost = output.saturating_mul(combined.weight);
            correct(&mut combined.bucket, held, cost);
        }
    }

    pub(crate) fn gauges(&mut self, now: u64) -> GaugeSet {
        self.refill(now);
        GaugeSet {
            requests: Reading::of(&self.requests),
            input_tokens: Reading::of(&self.input),
            output_tokens: Reading::of(&self.output),
            combined_tokens: self
                .combined
                .as_ref()
                .map(|combined| Reading::of(&combined.bucket)),
            in_flight: self.in_flight,
        }
    }
}

/// Replaces a charge by the actual one.
fn correct(bucket: &mut Bucket, charged: u64, actual: u64) {
    if actual > charged {
        bucket.take(actual - charged);
    } else {
        bucket.give(charged - actual);
    }
}
