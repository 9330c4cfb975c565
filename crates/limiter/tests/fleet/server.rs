//! A server that many draw on, written apart from the limiter: floating point, levels in tokens.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use tower_claude_wire::{Gauge, RateLimits};

/// One bucket, in tokens and seconds.
#[derive(Clone, Debug)]
struct Bucket {
    per_minute: f64,
    burst: f64,
    level: f64,
    at: f64,
}

impl Bucket {
    fn new(per_minute: f64, burst: f64, full: f64) -> Self {
        Self {
            per_minute,
            burst,
            level: full * per_minute / 60.0 * burst,
            at: 0.0,
        }
    }

    fn capacity(&self) -> f64 {
        self.per_minute / 60.0 * self.burst
    }

    fn refill(&mut self, now: f64) {
        let level = self.level + (now - self.at) * self.per_minute / 60.0;
        self.level = level.min(self.capacity());
        self.at = now;
    }

    fn scale(&mut self, by: f64) {
        self.per_minute *= by;
        self.level = self.level.min(self.capacity());
    }
}

/// What the server does wrong with its stamps, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Reset stamps are off by so much.
    pub(crate) reset_skew: f64,
    /// The server's clock is set by so much every minute, forth and back.
    pub(crate) date_jump: f64,
}

pub(crate) struct Server {
    requests: Bucket,
    input: Bucket,
    output: Bucket,
    concurrency: usize,
    faults: Faults,
    /// Output is produced evenly from start to end: end in nanoseconds -> tokens a second.
    running: BTreeMap<(u64, u64), f64>,
    rate: f64,
    at: u64,
    sequence: u64,
    /// Requests taken and not done.
    pub(crate) in_service: usize,
}

/// What the head of a response says.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) limits: RateLimits,
    pub(crate) date: SystemTime,
    pub(crate) retry_after: Option<Duration>,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Taken,
    NoLevel,
    TooManyAtOnce,
}

impl Server {
    pub(crate) fn new(fleet: &super::Fleet) -> Self {
        let (limits, burst) = (fleet.limits, fleet.burst);
        let bucket = |limit| Bucket::new(limit, burst, fleet.start);
        Self {
            requests: bucket(limits[0]),
            input: bucket(limits[1]),
            output: bucket(limits[2]),
            concurrency: fleet.concurrency,
            faults: fleet.faults,
            running: BTreeMap::new(),
            rate: 0.0,
            at: 0,
            sequence: 0,
            in_service: 0,
        }
    }

    pub(crate) fn scale(&mut self, now: u64, by: f64) {
        self.refill(now);
        for bucket in [&mut self.requests, &mut self.input, &mut self.output] {
            bucket.scale(by);
        }
    }

    /// The binding limit is input: its refill a second.
    pub(crate) fn input_rate(&self) -> f64 {
        self.input.per_minute / 60.0
    }

    pub(crate) fn input_level(&self) -> f64 {
        self.input.level
    }

    pub(crate) fn refill(&mut self, now: u64) {
        while let Some((&(end, sequence), &rate)) = self.running.first_key_value() {
            if end > now {
                break;
            }
            self.produce(end);
            self.rate -= rate;
            self.running.remove(&(end, sequence));
        }
        self.produce(now);
        let seconds = now as f64 / 1e9;
        self.requests.refill(seconds);
        self.input.refill(seconds);
        self.output.refill(seconds);
    }

    fn produce(&mut self, now: u64) {
        let passed = now.saturating_sub(self.at) as f64 / 1e9;
        self.output.level -= passed * self.rate;
        self.at = self.at.max(now);
    }

    /// Takes or refuses a request that produces `output` tokens between `start` and `end`.
    pub(crate) fn arrive(&mut self, now: u64, input: f64, output: f64, end: u64) -> Verdict {
        self.refill(now);
        if self.in_service >= self.concurrency {
            return Verdict::TooManyAtOnce;
        }
        let fits = input.min(self.input.capacity());
        if self.requests.level < 1.0 || self.input.level < fits || self.output.level < 1.0 {
            return Verdict::NoLevel;
        }
        self.requests.level -= 1.0;
        self.input.level -= input;
        let rate = output / ((end - now) as f64 / 1e9);
        self.sequence += 1;
        self.running.insert((end, self.sequence), rate);
        self.rate += rate;
        self.in_service += 1;
        Verdict::Taken
    }

    pub(crate) fn head(&self, now: u64, verdict: Verdict) -> Head {
        let seconds = now as f64 / 1e9;
        // Every other minute the server's clock is wrong.
        let wrong = (seconds / 60.0) as u64 % 2 == 1;
        let clock = seconds + if wrong { self.faults.date_jump } else { 0.0 };
        let mut limits = RateLimits::default();
        limits.requests = self.gauge(&self.requests, clock, 1.0);
        limits.input_tokens = self.gauge(&self.input, clock, 1_000.0);
        limits.output_tokens = self.gauge(&self.output, clock, 1_000.0);
        let lacking = |bucket: &Bucket, need: f64| (need - bucket.level) / bucket.per_minute * 60.0;
        let retry_after = match verdict {
            Verdict::Taken => None,
            Verdict::TooManyAtOnce => Some(1.0),
            Verdict::NoLevel => {
                let longest = lacking(&self.requests, 1.0)
                    .max(lacking(&self.input, 2_000.0))
                    .max(lacking(&self.output, 1.0));
                Some(longest.ceil().max(1.0))
            }
        };
        Head {
            limits,
            date: wall(clock.floor()),
            retry_after: retry_after.map(Duration::from_secs_f64),
        }
    }

    fn gauge(&self, bucket: &Bucket, clock: f64, rounding: f64) -> Gauge {
        let to_full = (bucket.capacity() - bucket.level) / (bucket.per_minute / 60.0);
        let remaining = (bucket.level / rounding).round() * rounding;
        Gauge {
            limit: Some(bucket.per_minute as u64),
            remaining: Some(remaining.max(0.0) as u64),
            reset: Some(wall((clock + to_full + self.faults.reset_skew).floor())),
        }
    }
}

/// The server's clock started long ago; ours knows nothing of it.
fn wall(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1_700_000_000.0 + seconds)
}
