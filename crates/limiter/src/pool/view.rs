//! What a pool knows, for people and dashboards.

use std::time::Duration;

use tower_claude_core::Dimension;

use super::{
    Pool,
    bucket::tokens,
    lane::{DIMENSIONS, OUTPUT},
};
use crate::{DimensionSnapshot, ScopeSnapshot};

impl Pool {
    /// What would be given away by forgetting the levels: nanoseconds that the most spent limit takes to allow
    /// as much. A limit per day is not whole before it renews, but hardly spent by one request.
    pub(crate) fn spent(&self, now: u64) -> u64 {
        let lanes = self.lanes.iter().filter_map(|lane| lane.bucket.as_ref());
        let lanes = lanes.map(|bucket| bucket.whole_in(now));
        let extras = self.extras.iter().map(|extra| extra.spent(now));
        lanes.chain(extras).max().unwrap_or(0)
    }

    /// What is known at `now`.
    #[must_use]
    pub fn snapshot(&self, now: u64) -> ScopeSnapshot {
        let now = now.max(self.now);
        let guards = self.guards(0);
        let mut dimensions = Vec::with_capacity(DIMENSIONS.len() + 1);
        for (index, lane) in self.lanes.iter().enumerate() {
            let Some(mut bucket) = lane.bucket.clone() else {
                continue;
            };
            bucket.refill(now);
            dimensions.push(DimensionSnapshot {
                dimension: DIMENSIONS[index],
                limit: bucket.limit(),
                capacity: tokens(bucket.capacity()).max(0) as u64,
                available: tokens(bucket.level()),
                safety_margin: tokens(guards[index]).max(0) as u64,
                learned: lane.confirmed.is_some(),
                renews_in: None,
            });
        }
        let extras = self.extras.iter();
        dimensions.extend(extras.map(|extra| extra.snapshot(now, guards[extra.lane()])));
        let in_flight = self.in_flight() as u64;
        if let Some(limit) = self.concurrency {
            dimensions.push(DimensionSnapshot {
                dimension: Dimension::Concurrency,
                limit,
                capacity: limit,
                available: i64::try_from(limit.saturating_sub(in_flight)).unwrap_or(i64::MAX),
                safety_margin: 0,
                learned: false,
                renews_in: None,
            });
        }
        ScopeSnapshot {
            scope: self.scope.clone(),
            in_flight,
            queued: self.queued(),
            paused_for: Duration::from_nanos(self.pause.until().saturating_sub(now)),
            outstanding_output: self.book.charged(OUTPUT),
            mean_output: self.output.mean(),
            input_ratio: self.input.ratio(),
            initial_concurrency: self.initial_concurrency,
            shared: self.drains.is_shared(self.config.sharing, now),
            dimensions,
            classes: self.classes(now),
        }
    }
}
