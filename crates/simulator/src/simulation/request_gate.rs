//! Enforcement of the requests per minute that is stricter than a bucket of a minute.

use std::{collections::VecDeque, time::Duration};

use crate::{
    setup::Enforcement,
    units::{MINUTE, nanos},
};

/// A limit on requests per minute.
#[derive(Debug)]
pub(crate) struct RequestGate {
    limit: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Open,
    Bucket {
        burst: Duration,
        level: f64,
        at: u64,
    },
    Fixed {
        window: u64,
        count: u64,
    },
    Sliding(VecDeque<u64>),
}

impl RequestGate {
    pub(crate) fn new(enforcement: Enforcement, limit: u64) -> Self {
        let kind = match enforcement {
            Enforcement::Buckets => Kind::Open,
            Enforcement::HiddenBucket(burst) => Kind::Bucket {
                burst,
                level: capacity(limit, burst),
                at: 0,
            },
            Enforcement::FixedWindow => Kind::Fixed {
                window: 0,
                count: 0,
            },
            Enforcement::SlidingWindow => Kind::Sliding(VecDeque::new()),
        };
        Self { limit, kind }
    }

    /// Returns the nanoseconds until a request can be admitted.
    pub(crate) fn wait(&mut self, now: u64) -> u64 {
        self.advance(now);
        match &self.kind {
            Kind::Open => 0,
            Kind::Bucket { level, .. } => nanos((1.0 - level).max(0.0) * 60.0 / self.limit as f64),
            Kind::Fixed { window, count } if *count >= self.limit => (window + 1) * MINUTE - now,
            Kind::Fixed { .. } => 0,
            Kind::Sliding(times) => {
                let over = (times.len() as u64 + 1).saturating_sub(self.limit);
                let last = over
                    .checked_sub(1)
                    .and_then(|last| times.get(last as usize));
                last.map_or(0, |at| at + MINUTE - now)
            }
        }
    }

    /// Counts an admitted request.
    pub(crate) fn take(&mut self, now: u64) {
        match &mut self.kind {
            Kind::Open => {}
            Kind::Bucket { level, .. } => *level -= 1.0,
            Kind::Fixed { count, .. } => *count += 1,
            Kind::Sliding(times) => times.push_back(now),
        }
    }

    /// Returns the remaining requests of the window, and the nanoseconds until all remain.
    pub(crate) fn shown(&mut self, now: u64) -> Option<(u64, u64)> {
        self.advance(now);
        match &self.kind {
            Kind::Open | Kind::Bucket { .. } => None,
            Kind::Fixed { window, count } => Some((
                self.limit.saturating_sub(*count),
                (window + 1) * MINUTE - now,
            )),
            Kind::Sliding(times) => Some((
                self.limit.saturating_sub(times.len() as u64),
                times.back().map_or(0, |at| at + MINUTE - now),
            )),
        }
    }

    pub(crate) fn change(&mut self, now: u64, limit: u64) {
        self.advance(now);
        self.limit = limit;
        self.advance(now);
    }

    fn advance(&mut self, now: u64) {
        match &mut self.kind {
            Kind::Open => {}
            Kind::Bucket { burst, level, at } => {
                let gain = (now - *at) as f64 / MINUTE as f64 * self.limit as f64;
                *level = (*level + gain).min(capacity(self.limit, *burst));
                *at = now;
            }
            Kind::Fixed { window, count } => {
                if now / MINUTE > *window {
                    (*window, *count) = (now / MINUTE, 0);
                }
            }
            Kind::Sliding(times) => {
                while times.front().is_some_and(|at| at + MINUTE <= now) {
                    times.pop_front();
                }
            }
        }
    }
}

fn capacity(limit: u64, burst: Duration) -> f64 {
    (limit as f64 * burst.as_secs_f64() / 60.0).max(1.0)
}
