//! A sliding window of the last 30 s in ten buckets.

use std::time::Duration;

use tokio::time::Instant;

const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_secs(3);

/// The calls of one bucket, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) calls: u32,
    pub(super) failed: u32,
    pub(super) slow: u32,
}

impl Sum {
    const NONE: Self = Self {
        calls: 0,
        failed: 0,
        slow: 0,
    };

    /// Returns true if `part` is at least this share of at least `min_calls` calls.
    pub(super) fn reaches(&self, part: u32, min_calls: u32, share: f64) -> bool {
        self.calls >= min_calls && f64::from(part) >= share * f64::from(self.calls)
    }
}

/// A ring of buckets. The newest is `head` and began at `head_since`.
#[derive(Clone, Debug)]
pub(super) struct Window {
    buckets: [Sum; BUCKETS],
    head: usize,
    head_since: Instant,
}

impl Window {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            buckets: [Sum::NONE; BUCKETS],
            head: 0,
            head_since: now,
        }
    }

    /// Counts one call. A late `now` counts in the newest bucket.
    pub(super) fn record(&mut self, now: Instant, failed: bool, slow: bool) {
        self.advance(now);
        let bucket = &mut self.buckets[self.head];
        bucket.calls = bucket.calls.saturating_add(1);
        bucket.failed = bucket.failed.saturating_add(u32::from(failed));
        bucket.slow = bucket.slow.saturating_add(u32::from(slow));
    }

    /// Returns the sum of all buckets.
    pub(super) fn sum(&self) -> Sum {
        self.buckets.iter().fold(Sum::NONE, |sum, add| Sum {
            calls: sum.calls.saturating_add(add.calls),
            failed: sum.failed.saturating_add(add.failed),
            slow: sum.slow.saturating_add(add.slow),
        })
    }

    /// Returns true if all buckets are older than the window.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.head_since) >= BUCKET * BUCKETS as u32
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.head_since).as_nanos() / BUCKET.as_nanos();
        if passed >= BUCKETS as u128 {
            *self = Self::new(now);
            return;
        }
        for _ in 0..passed {
            self.head = (self.head + 1) % BUCKETS;
            self.buckets[self.head] = Sum::NONE;
            self.head_since += BUCKET;
        }
    }
}
