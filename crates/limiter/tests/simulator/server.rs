//! A server that enforces limits, written apart from the limiter: floating point, levels in tokens.

use std::time::{Duration, SystemTime};

use tower_claude_wire::{Gauge, RateLimits};

pub(crate) const SECOND: f64 = 1e9;

/// One bucket, in tokens and seconds.
#[derive(Clone, Debug)]
pub(crate) struct ServerBucket {
    pub(crate) per_minute: f64,
    pub(crate) capacity: f64,
    pub(crate) level: f64,
    at: f64,
    /// Tokens lost because the bucket was full.
    pub(crate) spilt: f64,
}

impl ServerBucket {
    pub(crate) fn new(per_minute: f64, burst_seconds: f64) -> Self {
        let capacity = per_minute / 60.0 * burst_seconds;
        Self {
            per_minute,
            capacity,
            level: capacity,
            at: 0.0,
            spilt: 0.0,
        }
    }

    fn refill(&mut self, now: f64) {
        self.level += (now - self.at) * self.per_minute / 60.0;
        self.at = now;
        if self.level > self.capacity {
            self.spilt += self.level - self.capacity;
            self.level = self.capacity;
        }
    }

    fn gauge(&self, now: f64, rounding: f64) -> Gauge {
        let to_full = (self.capacity - self.level) / (self.per_minute / 60.0);
        let remaining = (self.level / rounding).round() * rounding;
        Gauge {
            limit: Some(self.per_minute as u64),
            remaining: Some(remaining.max(0.0) as u64),
            reset: Some(wall((now + to_full).floor())),
        }
    }
}

pub(crate) struct Server {
    pub(crate) requests: ServerBucket,
    pub(crate) input: ServerBucket,
    pub(crate) charged: f64,
    pub(crate) rejected: u32,
}

/// What the head of a response says.
pub(crate) struct Head {
    pub(crate) limits: RateLimits,
    pub(crate) date: SystemTime,
    pub(crate) retry_after: Option<Duration>,
}

impl Server {
    pub(crate) fn new(requests: f64, input: f64, burst_seconds: f64) -> Self {
        Self {
            requests: ServerBucket::new(requests, burst_seconds),
            input: ServerBucket::new(input, burst_seconds),
            charged: 0.0,
            rejected: 0,
        }
    }

    pub(crate) fn refill(&mut self, nanos: u64) {
        let now = nanos as f64 / SECOND;
        self.requests.refill(now);
        self.input.refill(now);
    }

    /// Admits or rejects a request of this many tokens.
    pub(crate) fn arrive(&mut self, nanos: u64, tokens: f64) -> Option<Duration> {
        self.refill(nanos);
        let fits = tokens.min(self.input.capacity);
        if self.requests.level >= 1.0 && self.input.level >= fits {
            self.requests.level -= 1.0;
            self.input.level -= tokens;
            self.charged += tokens;
            return None;
        }
        self.rejected += 1;
        let input = (fits - self.input.level) / (self.input.per_minute / 60.0);
        let requests = (1.0 - self.requests.level) / (self.requests.per_minute / 60.0);
        Some(Duration::from_secs_f64(input.max(requests).ceil().max(1.0)))
    }

    pub(crate) fn head(&self, nanos: u64, retry_after: Option<Duration>) -> Head {
        let now = nanos as f64 / SECOND;
        let mut limits = RateLimits::default();
        limits.requests = self.requests.gauge(now, 1.0);
        limits.input_tokens = self.input.gauge(now, 1_000.0);
        Head {
            limits,
            date: wall(now.floor()),
            retry_after,
        }
    }
}

/// The server's clock started long ago; ours knows nothing of it.
fn wall(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1_700_000_000.0 + seconds)
}
