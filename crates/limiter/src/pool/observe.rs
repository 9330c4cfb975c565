//! What the server's headers teach: limits, capacity, level.
//!
//! A response to request `i`, sent at `t_s` and received at `t_r`, says that the server's level was `y`
//! at some instant between, after an unknown part of our charges in flight. That bounds the level from
//! both sides and says nothing more: a level inside the bounds stays as it is. Which instant it is (the
//! request's admission, the making of the response) is not documented, and so nothing rests on it.

use tower_claude_core::LimitWarning;
use tower_claude_wire::{Gauge, RateLimits};

use super::{
    ObservedHead, Pool,
    book::Sent,
    bucket::{Bucket, UNIT, refill, units},
    float::whole,
    guard::{HALF_ROUNDING, SIGMAS, float_units},
    lane::{Counted, DIMENSIONS, INPUT, LANES, Lane, OUTPUT, REQUESTS, TOTAL},
};

/// Nanoseconds of a minute.
const MINUTE: u64 = 60_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// For how long a look at levels over the half is enough.
const CALM: u64 = 100_000_000;

/// Weight of a new capacity sample.
const CAPACITY_WEIGHT: f64 = 0.05;

/// After a warning the used share must fall this far below before the next.
const HYSTERESIS: u8 = 10;

/// More than any real limit; keeps hostile numbers far from overflow.
const MAX_LEVEL: u64 = 1 << 50;

impl Pool {
    /// Learns from one response. Returns the tightest limit that newly crossed the warning share.
    pub(super) fn learn(
        &mut self,
        now: u64,
        sent: &Sent,
        seen: &ObservedHead<'_>,
    ) -> Option<LimitWarning> {
        let mut crossing: Option<(u64, LimitWarning)> = None;
        if let Some(date) = seen.server_time {
            self.clock.heard(now, date);
        }
        let gauges = self.gauges(seen.limits);
        for (index, gauge) in gauges.iter().enumerate() {
            let Some(gauge) = *gauge else { continue };
            if gauge.limit.is_none_or(|limit| limit == 0) && gauge.remaining.is_none() {
                continue;
            }
            let known = self.lanes[index].known();
            let told = self.lanes[index].level();
            self.learn_limit(now, index, gauge, sent);
            if seen.rejected {
                self.lanes[index].peak = 0;
            }
            self.learn_capacity(now, index, gauge, sent);
            let level = self.lanes[index].level();
            self.clamp(now, index, gauge, sent, told);
            if self.lanes[index].bucket.is_some() {
                self.initial_concurrency = None;
            }
            self.moved(now, index, sent, known, level);
            if let Some((used, found)) = self.lanes[index].warn(index, gauge, seen.warn_percent)
                && crossing.is_none_or(|(most, _)| used > most)
            {
                crossing = Some((used, found));
            }
        }
        crossing.map(|(_, crossing)| crossing)
    }

    /// Until when nothing that a success says of its limits could matter: nothing is being found out, and every level is
    /// known and over the half. What others may take in so short a time is no more than they take while an answer is under
    /// way. `None` where it could matter now.
    pub(crate) fn calm_until(&self) -> Option<u64> {
        let known = self.initial_concurrency.is_none()
            && !self.drains.may_be_shared(self.config.sharing, self.now)
            && self.pause.until() <= self.now;
        let mut lanes = self.lanes.iter().filter(|lane| lane.bucket.is_some());
        let seen = lanes.any(|lane| lane.observed);
        (known && seen && self.has_plenty()).then_some(self.now.saturating_add(CALM))
    }

    /// Whether every level is over the half.
    pub(crate) fn has_plenty(&self) -> bool {
        let mut buckets = self.lanes.iter().filter_map(|lane| lane.bucket.as_ref());
        buckets.all(|bucket| bucket.has_plenty(0))
    }

    /// The gauges that count for this pool. `tokens-*` shows whichever token limit is tightest, so it
    /// is a limit of its own only where the server names no other.
    pub(super) fn gauges<'a>(&self, limits: &'a RateLimits) -> [Option<&'a Gauge>; LANES] {
        let (input, output) = if self.scope.fast {
            (&limits.fast_input_tokens, &limits.fast_output_tokens)
        } else {
            (&limits.input_tokens, &limits.output_tokens)
        };
        let only_tokens = input.is_empty() && output.is_empty() && !self.scope.fast;
        let some = |gauge: &'a Gauge| (!gauge.is_empty()).then_some(gauge);
        let mut gauges = [None; LANES];
        gauges[REQUESTS] = some(&limits.requests);
        gauges[INPUT] = some(input);
        gauges[OUTPUT] = some(output);
        gauges[TOTAL] = some(&limits.tokens).filter(|_| only_tokens);
        gauges
    }

    fn learn_limit(&mut self, now: u64, index: usize, gauge: &Gauge, sent: &Sent) {
        let Some(limit) = gauge.limit.filter(|limit| *limit > 0) else {
            return;
        };
        if !self.config.learn_limits {
            return;
        }
        let limit = limit.min(MAX_LEVEL);
        let burst = self.burst;
        let lane = &mut self.lanes[index];
        lane.confirmed = Some(now);
        if let Some(bucket) = &mut lane.bucket {
            if bucket.limit() == limit {
                return;
            }
            bucket.set_limit(limit);
            bucket.set_capacity(refill(limit, burst));
            lane.capacity = None;
            lane.peak = 0;
            return;
        }
        let mut bucket = Bucket::full(limit, burst, now);
        // A first level: as low as it can be, the next responses raise it.
        if let Some(level) = gauge.remaining {
            let unsure = lane.unsure(index, sent);
            let low = units(level.min(MAX_LEVEL)) - signed_units(unsure);
            bucket.clamp(i128::MIN, low);
        }
        lane.bucket = Some(bucket);
    }

    /// The time to full tells how much fits: `remaining + rate x (reset - now)`, both clocks the
    /// server's and in whole seconds. One sample is a second off either way, so the mean is used a
    /// second short, and the highest level seen where that is more.
    fn learn_capacity(&mut self, now: u64, index: usize, gauge: &Gauge, sent: &Sent) {
        let learned = self.config.learn_limits;
        let lane = &mut self.lanes[index];
        let (Some(bucket), Some(level), true) = (&mut lane.bucket, gauge.remaining, learned) else {
            return;
        };
        let limit = bucket.limit();
        let level = level.min(limit.max(1));
        lane.peak = lane.peak.max(units(level));
        if let Some(full) = gauge.reset.and_then(|reset| self.clock.local(reset)) {
            // The stamp was made between the request's sending and the response's arrival.
            let (ahead, longest) = (from_to(now, full), from_to(sent.at, full));
            // Empty and full at once says nothing.
            if ahead > 0 || level > 0 {
                // Products of floats: a float of 128 bits is dear, and no more exact.
                let rate = limit as f64;
                let most = rate * MINUTE.max(self.burst) as f64;
                let left = level as f64 * UNIT as f64;
                let fits = |ahead: u64| {
                    let fits = left + rate * ahead as f64;
                    if fits < most {
                        fits.max(most / 100.0)
                    } else {
                        most
                    }
                };
                let (least, most) = (fits(ahead), fits(longest));
                let old = lane.capacity.unwrap_or(least);
                let sample = old.clamp(least, most.max(least));
                let mean = old + CAPACITY_WEIGHT * (sample - old);
                if lane.capacity != Some(mean) {
                    let short = (rate * SECOND as f64).min(mean / 5.0);
                    lane.capacity = Some(mean);
                    lane.fits = whole(mean - short);
                }
            }
        }
        if lane.capacity.is_some() {
            let learned = lane.fits.min(lane.drift.ceiling(now));
            bucket.set_capacity(learned.max(lane.peak));
        } else if bucket.capacity() < lane.peak {
            bucket.set_capacity(lane.peak);
        }
    }

    /// `told` is the level before this response.
    fn clamp(&mut self, now: u64, index: usize, gauge: &Gauge, sent: &Sent, told: i128) {
        let lane = &mut self.lanes[index];
        let own = sent.counted[index];
        let unsure = lane.unsure(index, sent);
        let (Some(bucket), Some(level)) = (&mut lane.bucket, gauge.remaining) else {
            return;
        };
        let first = !std::mem::replace(&mut lane.observed, true);
        let rounding = if index == REQUESTS {
            0
        } else {
            units(HALF_ROUNDING)
        };
        let level = units(level.min(MAX_LEVEL));
        let flight = refill(bucket.limit(), now.saturating_sub(sent.at));
        // A reading of zero is saturated: the server may be far in debt. And a server that allows more
        // than we were told to use says nothing about the least.
        let within = gauge.limit.is_none_or(|limit| limit <= bucket.limit());
        let low = if level == 0 || !within {
            i128::MIN
        } else {
            let low = level - rounding - signed_units(unsure);
            match index {
                // The server has counted what it was, we what we took it for.
                INPUT | TOTAL => {
                    let error = SIGMAS * self.input.error();
                    low - float_units(error * (unsure as f64 + own as f64))
                }
                _ => low,
            }
        };
        let high = (level + rounding).saturating_add(flight);
        if first && told > high && low > i128::MIN {
            // We were told too much: then as low as it can be, the next responses raise it.
            bucket.clamp(low, low);
        }
        bucket.clamp(low, high);
    }
}

impl Lane {
    /// Notes whether the used share is worth a warning; returns it, in ten-thousandths, when it is and
    /// was not before.
    fn warn(&mut self, index: usize, gauge: &Gauge, percent: u8) -> Option<(u64, LimitWarning)> {
        let limit = gauge.limit.filter(|limit| *limit > 0)?;
        let remaining = gauge.remaining?;
        // In ten-thousandths, rounded down; compared as products, since nearly no answer needs it.
        let left = u128::from(remaining.min(limit)) * 10_000;
        let is_used = |percent: u8| {
            let spare = 10_001_u128.checked_sub(u128::from(percent) * 100);
            spare.is_some_and(|spare| left < spare * u128::from(limit))
        };
        let was = self.warned;
        if is_used(percent) {
            self.warned = true;
        } else if was && !is_used(percent.saturating_sub(HYSTERESIS)) {
            self.warned = false;
        }
        (self.warned && !was).then(|| {
            let used = 10_000 - (left / u128::from(limit)) as u64;
            (used, LimitWarning::new(DIMENSIONS[index], remaining, limit))
        })
    }

    /// Our charges that may or may not be in what the server showed.
    pub(super) fn unsure(&self, index: usize, sent: &Sent) -> i64 {
        let all = self.sent.wrapping_sub(sent.seen[index]);
        match self.counted {
            // It shows the level after its own request.
            Counted::AtHead => all.wrapping_sub(sent.counted[index] as i64).max(0),
            Counted::AtEnd => all.max(0),
        }
    }
}

/// Nanoseconds from one time to another, none if it has passed.
fn from_to(now: u64, then: i128) -> u64 {
    u64::try_from((then - i128::from(now)).max(0)).unwrap_or(u64::MAX)
}

fn signed_units(tokens: i64) -> i128 {
    i128::from(tokens) * UNIT
}
