//! The observer of rate-limit headers: limits, capacities and levels of the server.
//!
//! A response to a request that was sent at `t_s` and received at `t_r` shows the server's level at
//! some time in between, after an unknown part of the charges in flight. So it bounds the level
//! from both sides, and a level within the bounds is not changed. The exact time (admission or
//! response) is not documented, so no computation relies on it.

use std::time::SystemTime;

use tower_claude_core::toolkit::LimitWarning;
use tower_claude_wire::{Gauge, RateLimits};

use crate::{
    config::LimiterConfig,
    limits::PoolLimits,
    pool::{
        bucket::{
            Bucket, Charge, DIMENSIONS, INPUT, OUTPUT, REQUESTS, TOTAL, UNIT, float, nanos, refill,
            units, whole,
        },
        buckets::{ARRIVES_IN, Buckets, DimensionState},
        external_use::{ExternalUse, LevelChange},
        forecast::{Forecast, HALF_ROUNDING, SIGMAS, float_units},
        in_flight::{InFlight, SendSnapshot},
        server_clock::ServerClock,
    },
};

const MINUTE: u64 = 60_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// The weight of a new capacity sample.
const CAPACITY_WEIGHT: f64 = 0.05;

/// The percentage by which the used share must fall below the threshold before the next warning.
const HYSTERESIS: u8 = 10;

/// The upper bound of levels and limits, so that hostile numbers cannot overflow.
const MAX_LEVEL: u64 = 1 << 50;

/// The head of a response, as far as it concerns limits.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ObservedHead<'a> {
    /// The rate-limit headers.
    pub limits: &'a RateLimits,
    /// The server's clock (`Date`).
    pub server_time: Option<SystemTime>,
    /// The response is a 429 for rate, so the server charged nothing.
    pub rejected: bool,
    /// The response is a success, so the server took the request.
    pub accepted: bool,
    /// The used share of a limit, in percent, from which on a warning is returned.
    pub warn_percent: u8,
}

impl<'a> ObservedHead<'a> {
    /// Returns the head of a success, with a warning threshold of 80 %.
    #[must_use]
    pub const fn new(limits: &'a RateLimits, server_time: Option<SystemTime>) -> Self {
        Self {
            limits,
            server_time,
            rejected: false,
            accepted: true,
            warn_percent: 80,
        }
    }

    /// Returns the head, of a 429 for rate or not.
    #[must_use]
    pub const fn with_rejected(mut self, rejected: bool) -> Self {
        self.rejected = rejected;
        self.accepted &= !rejected;
        self
    }

    /// Returns the head, of a success or not.
    #[must_use]
    pub const fn with_accepted(mut self, accepted: bool) -> Self {
        self.accepted = accepted;
        self
    }

    /// Returns the head with another warning threshold.
    #[must_use]
    pub const fn with_warn_percent(mut self, percent: u8) -> Self {
        self.warn_percent = percent;
        self
    }
}

/// The request that a response answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) sent: SendSnapshot,
    /// The charge with which it was sent. A rejected request has nothing left in `sent`.
    pub(crate) charge: Charge,
}

/// The limits of one response that apply to a pool, by dimension.
type Gauges<'a> = [Option<&'a Gauge>; DIMENSIONS.len()];

/// The limit of one dimension in one response.
#[derive(Clone, Copy)]
struct Reading<'a> {
    now: u64,
    index: usize,
    gauge: &'a Gauge,
    sent: &'a SendSnapshot,
    charge: u64,
}

/// The state that interprets the headers of one scope.
#[derive(Debug)]
pub(crate) struct HeaderObserver {
    /// Nanoseconds of refill that a bucket holds until its capacity is learned.
    burst: u64,
    learn_limits: bool,
    /// The configured limits, unless they are hints.
    caps: [Option<u64>; DIMENSIONS.len()],
    /// Dimensions whose configured limit was reported to differ from that of the server.
    differs: [bool; DIMENSIONS.len()],
    /// The scope has the limits of fast mode.
    fast: bool,
    clock: ServerClock,
    capacities: [CapacityEstimate; DIMENSIONS.len()],
    /// Dimensions whose used share is over the warning threshold.
    warned: [bool; DIMENSIONS.len()],
    trust: [Trust; DIMENSIONS.len()],
}

/// The successes that contradict a level of zero before it is ignored, at first.
const PATIENCE: u32 = 8;

/// The trust in levels of zero. Successes that a level of zero would not allow contradict it, and
/// a 429 confirms it.
#[derive(Clone, Copy, Debug)]
struct Trust {
    contradictions: u32,
    patience: u32,
    ignores_zero: bool,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            contradictions: 0,
            patience: PATIENCE,
            ignores_zero: false,
        }
    }
}

impl Trust {
    /// Records a level of a response. `charge` of the request is known to be less than what this
    /// pool expected to be left. Returns true if levels of zero are ignored from now on.
    fn observe(&mut self, head: &ObservedHead<'_>, level: u64, expects_more: bool) -> bool {
        if level > 0 || head.rejected {
            if head.rejected && self.ignores_zero {
                self.patience = self.patience.saturating_mul(2);
            }
            self.contradictions = 0;
            self.ignores_zero = false;
        } else if head.accepted && expects_more && !self.ignores_zero {
            self.contradictions += 1;
            self.ignores_zero = self.contradictions >= self.patience;
            return self.ignores_zero;
        }
        false
    }
}

/// The estimate of a bucket's capacity on the server, in units.
#[derive(Debug, Default)]
struct CapacityEstimate {
    mean: Option<f64>,
    /// The mean less one second of refill.
    safe: i128,
    /// The highest level that the server has shown.
    peak: i128,
    /// Reset times in a row that no bucket of a minute can have.
    odd_resets: u32,
    /// The last reset time, and the time at which a response first showed it.
    reset: Option<(SystemTime, u64)>,
    /// The reset time stays while requests are sent, as the end of a fixed window does.
    is_fixed: bool,
}

/// The odd reset times in a row that show a window of a minute instead of a bucket.
const ODD_RESETS: u32 = 16;

impl CapacityEstimate {
    /// Returns true if the server counts requests by windows, so that its level does not rise
    /// steadily.
    const fn is_window(&self) -> bool {
        self.odd_resets >= ODD_RESETS
    }
}

impl HeaderObserver {
    pub(crate) fn new(limits: &PoolLimits, config: &LimiterConfig, fast: bool) -> Self {
        Self {
            burst: nanos(limits.burst),
            learn_limits: config.learn_limits,
            caps: if config.limits_as_hint {
                Default::default()
            } else {
                limits.caps()
            },
            differs: Default::default(),
            fast,
            clock: ServerClock::default(),
            capacities: Default::default(),
            warned: Default::default(),
            trust: Default::default(),
        }
    }

    /// Learns from the head of one response. Returns the tightest limit that newly crossed the
    /// warning threshold.
    pub(crate) fn observe(
        &mut self,
        now: u64,
        answered: &Answered,
        head: &ObservedHead<'_>,
        buckets: &mut Buckets,
        forecast: &Forecast,
        external_use: &mut ExternalUse,
    ) -> Option<LimitWarning> {
        let sent = &answered.sent;
        let mut tightest: Option<(u64, LimitWarning)> = None;
        if let Some(date) = head.server_time {
            self.clock.observe(now, date);
        }
        for (index, gauge) in self.gauges(head.limits).into_iter().enumerate() {
            let Some(gauge) = gauge.filter(|gauge| has_content(gauge)) else {
                continue;
            };
            let reading = Reading {
                now,
                index,
                gauge,
                sent,
                charge: answered.charge[index],
            };
            let dimension = &mut buckets.dimensions[index];
            let (known, level_before) = (dimension.known(), dimension.level());
            if !self.learn_limit(reading, dimension) {
                continue;
            }
            if let Some(shown) = gauge.remaining {
                let charge = units(sent.counted[index].max(1));
                let expects_more = level_before >= charge.max(UNIT * 2);
                if self.trust[index].observe(head, shown, expects_more) {
                    external_use.forget();
                }
                if shown == 0 && self.trust[index].ignores_zero {
                    continue;
                }
            }
            // The timestamp of a bucket that rejects is wrong if it calls the bucket full.
            let full = gauge.reset.and_then(|reset| self.clock.local(reset));
            if head.rejected && full.is_none_or(|full| full > i128::from(now)) {
                self.capacities[index].peak = 0;
            }
            let ceiling = external_use.capacity_ceiling(index, now);
            let was_window = self.capacities[index].is_window();
            self.learn_capacity(reading, dimension, ceiling);
            let change = LevelChange {
                index,
                sent,
                known,
                level_before: dimension.level(),
            };
            clamp(reading, head.rejected, level_before, dimension, forecast);
            let is_window = self.capacities[index].is_window();
            if is_window && !was_window {
                external_use.forget();
            }
            let held = if is_window {
                None
            } else {
                external_use.on_level_change(now, &change, dimension, forecast)
            };
            if let (Some(held), Some(bucket)) = (held, &mut dimension.bucket) {
                let capacity = bucket.capacity();
                bucket.set_capacity(held.max(self.capacities[index].peak).min(capacity));
            }
            let warning = match self.difference(index, gauge) {
                // More urgent than any share.
                Some(warning) => Some((u64::MAX, warning)),
                None => self.warn(index, gauge, head.warn_percent),
            };
            if let Some((used, warning)) = warning
                && tightest.is_none_or(|(most, _)| used > most)
            {
                tightest = Some((used, warning));
            }
        }
        tightest.map(|(_, warning)| warning)
    }

    /// Returns true if the response shows a limit or level of a dimension with a known limit.
    pub(crate) fn shows_limit(&self, head: &ObservedHead<'_>, buckets: &Buckets) -> bool {
        let gauges = self.gauges(head.limits).into_iter();
        gauges
            .zip(&buckets.dimensions)
            .any(|(gauge, dimension)| gauge.is_some_and(has_content) && dimension.bucket.is_some())
    }

    /// Returns true if the response shows levels, all at least half of their limits.
    pub(crate) fn shows_plenty(&self, head: &ObservedHead<'_>) -> bool {
        let levels = self.gauges(head.limits).into_iter().flatten();
        let mut levels = levels.filter_map(|gauge| Some((gauge.remaining?, gauge.limit?)));
        let is_high = |(level, limit): (u64, u64)| level >= limit.div_ceil(2);
        levels.next().is_some_and(is_high) && levels.all(is_high)
    }

    /// Returns the dimension that had too little left for a rejected request, by the headers of its
    /// 429.
    pub(crate) fn exhausted(
        &self,
        now: u64,
        request: &InFlight,
        limits: &RateLimits,
        buckets: &Buckets,
        forecast: &Forecast,
    ) -> Option<usize> {
        let flight = now.saturating_sub(request.sent.at);
        self.gauges(limits)
            .into_iter()
            .enumerate()
            .find_map(|(index, gauge)| {
                let gauge = gauge?;
                let left = gauge.remaining?;
                let limit = gauge.limit.unwrap_or(0);
                let charge = request.charge[index];
                let (charge, rounding) = match index {
                    REQUESTS => (charge.max(1), 0),
                    OUTPUT if !buckets.reserves_output() => (1, HALF_ROUNDING),
                    _ => {
                        let error = SIGMAS * forecast.input.error();
                        let most = (charge as f64 * (1.0 + error)) as u64;
                        (most.min(limit.max(1)), HALF_ROUNDING)
                    }
                };
                // The level may have been refilled between sending and the response.
                let needed = units(charge + rounding) + refill(limit, flight);
                (units(left) < needed).then_some(index)
            })
    }

    /// Returns the level of a dimension that headers show.
    pub(crate) fn level_shown(&self, index: usize, limits: Option<&RateLimits>) -> Option<u64> {
        limits.and_then(|limits| self.gauges(limits)[index]?.remaining)
    }

    /// Returns true if the server counts this dimension by windows.
    pub(crate) const fn is_window(&self, index: usize) -> bool {
        self.capacities[index].is_window()
    }

    /// Returns true if the headers name another limit than the known one.
    pub(crate) fn shows_other_limit(
        &self,
        index: usize,
        limits: Option<&RateLimits>,
        buckets: &Buckets,
    ) -> bool {
        let shown = limits.and_then(|limits| self.gauges(limits)[index]?.limit);
        let known = buckets.dimensions[index].bucket.as_ref().map(Bucket::limit);
        let cap = self.caps[index].unwrap_or(u64::MAX);
        shown.is_some_and(|shown| known.is_some_and(|known| shown.min(cap) != known))
    }

    /// Returns the gauges that apply to this pool. `tokens-*` shows the tightest token limit, so it
    /// is a limit of its own only if the server names no other.
    fn gauges<'a>(&self, limits: &'a RateLimits) -> Gauges<'a> {
        let [requests, input, output] = limits.of_pool(self.fast);
        let only_tokens = input.is_empty() && output.is_empty() && !self.fast;
        let some = |gauge: &'a Gauge| (!gauge.is_empty()).then_some(gauge);
        let mut gauges = [None; DIMENSIONS.len()];
        gauges[REQUESTS] = some(requests);
        gauges[INPUT] = some(input);
        gauges[OUTPUT] = some(output);
        gauges[TOTAL] = some(&limits.tokens).filter(|_| only_tokens);
        gauges
    }

    /// Learns the limit of a reading. Returns false if the reading is out of date: a request that
    /// was sent later has shown another limit.
    fn learn_limit(&mut self, reading: Reading<'_>, dimension: &mut DimensionState) -> bool {
        let Reading {
            now,
            index,
            gauge,
            sent,
            ..
        } = reading;
        let Some(limit) = gauge.limit.filter(|limit| *limit > 0 && self.learn_limits) else {
            return true;
        };
        let cap = self.caps[index].unwrap_or(u64::MAX);
        let named = limit;
        let limit = limit.min(MAX_LEVEL).min(cap);
        let is_other = dimension.bucket.as_ref().map(Bucket::limit) != Some(limit);
        if is_other && sent.number < dimension.named_by {
            return false;
        }
        dimension.named_by = dimension.named_by.max(sent.number);
        // A cap holds although no header confirms it.
        dimension.confirmed = (named <= cap).then_some(now);
        if let Some(bucket) = &mut dimension.bucket {
            if is_other {
                bucket.set_limit(limit);
                bucket.set_capacity(refill(limit, self.burst));
                self.capacities[index].mean = None;
                self.capacities[index].peak = 0;
            }
            return true;
        }
        let mut bucket = Bucket::full(limit, self.burst, now);
        // The first level is the lowest possible one. The next responses raise it.
        if let Some(level) = gauge.remaining {
            let uncertain = dimension.uncertain(index, sent);
            let low = units(level.min(MAX_LEVEL)) - signed_units(uncertain);
            bucket.clamp(i128::MIN, low);
        }
        dimension.bucket = Some(bucket);
        true
    }

    /// Learns the capacity from the time at which the bucket will be full: `remaining + rate x
    /// (reset - now)`, both by the server's clock and in whole seconds. A sample may be a second
    /// off, so the mean less a second is used, or the highest level seen if that is more. A mean
    /// that differs from the expected capacity by a second and the rounding of levels at most
    /// confirms it.
    fn learn_capacity(
        &mut self,
        reading: Reading<'_>,
        dimension: &mut DimensionState,
        ceiling: i128,
    ) {
        let Reading {
            now,
            index,
            gauge,
            sent,
            ..
        } = reading;
        // Level and reset time of a higher limit show nothing about the bucket of a cap.
        let is_capped = self.caps[index].is_some_and(|cap| gauge.limit.is_some_and(|l| l > cap));
        let learns = self.learn_limits && !is_capped;
        let (Some(bucket), Some(level), true) = (&mut dimension.bucket, gauge.remaining, learns)
        else {
            return;
        };
        let estimate = &mut self.capacities[index];
        let limit = bucket.limit();
        let level = level.min(limit.max(1));
        estimate.peak = estimate.peak.max(units(level));
        if let Some(full) = gauge.reset.and_then(|reset| self.clock.local(reset)) {
            // The timestamp was made between the request's sending and the response's arrival.
            let (shortest, longest) = (from_to(now, full), from_to(sent.at, full));
            // A level that is both empty and full shows nothing.
            if shortest > 0 || level > 0 {
                // Products of f64, since 128-bit conversions are slow and no more exact.
                let rate = limit as f64;
                let most = rate * MINUTE.max(self.burst) as f64;
                let left = level as f64 * UNIT as f64;
                let capacity = |nanos: u64| {
                    let capacity = left + rate * nanos as f64;
                    if capacity < most {
                        capacity.max(most / 100.0)
                    } else {
                        most
                    }
                };
                // What a bucket of a minute lacks is refilled sooner. A window shows its end.
                let is_odd = left + rate * shortest as f64 > most * 1.1 && self.burst <= MINUTE;
                if shortest > MINUTE + 2 * SECOND {
                    // No window of a minute ends so late.
                    (estimate.odd_resets, estimate.is_fixed) = (0, false);
                } else if is_odd {
                    estimate.odd_resets = estimate.odd_resets.saturating_add(1);
                } else if !estimate.is_window() {
                    estimate.odd_resets = 0;
                }
                let same = estimate
                    .reset
                    .filter(|(reset, _)| Some(*reset) == gauge.reset);
                estimate.reset = same.or_else(|| Some((gauge.reset?, now)));
                let stays = |(_, first): (_, u64)| now.saturating_sub(first) >= SECOND;
                estimate.is_fixed |= same.is_some_and(stays);
                if estimate.is_window() && estimate.is_fixed {
                    // Nothing is refilled before the end of the window.
                    bucket.hold(now.saturating_add(shortest.min(MINUTE)));
                }
                let (least, most) = (capacity(shortest), capacity(longest));
                let old = estimate.mean.unwrap_or(least);
                let sample = old.clamp(least, most.max(least));
                let mean = old + CAPACITY_WEIGHT * (sample - old);
                if estimate.mean != Some(mean) {
                    let second = (rate * SECOND as f64).min(mean / 5.0);
                    estimate.mean = Some(mean);
                    // Samples that agree with the expected capacity say no more than it does. A
                    // bucket that is a second smaller than the server's would lose what the server
                    // refills while it is full, and the level would stay too low by that.
                    let expected = refill(limit, self.burst);
                    let error = second + float(rounding(index));
                    estimate.safe = if mean + error >= float(expected) {
                        expected
                    } else {
                        whole(mean - second)
                    };
                }
            }
        }
        if estimate.mean.is_some() {
            bucket.set_capacity(estimate.safe.min(ceiling).max(estimate.peak));
        } else if bucket.capacity() < estimate.peak {
            bucket.set_capacity(estimate.peak);
        }
    }

    /// Returns a warning, once, if the server has another limit than the configured one.
    fn difference(&mut self, index: usize, gauge: &Gauge) -> Option<LimitWarning> {
        let cap = self.caps[index].filter(|_| self.learn_limits)?;
        let limit = gauge.limit.filter(|limit| *limit > 0 && *limit != cap)?;
        if std::mem::replace(&mut self.differs[index], true) {
            return None;
        }
        let remaining = gauge.remaining.unwrap_or(limit);
        Some(LimitWarning::new(DIMENSIONS[index], remaining, limit).with_configured(cap))
    }

    /// Returns a warning, with the used share in ten-thousandths, if the share newly crossed the
    /// threshold.
    fn warn(&mut self, index: usize, gauge: &Gauge, percent: u8) -> Option<(u64, LimitWarning)> {
        let limit = gauge.limit.filter(|limit| *limit > 0)?;
        let remaining = gauge.remaining?;
        // Compared as products, since few responses need the share itself.
        let left = u128::from(remaining.min(limit)) * 10_000;
        let is_used = |percent: u8| {
            let spare = 10_001_u128.checked_sub(u128::from(percent) * 100);
            spare.is_some_and(|spare| left < spare * u128::from(limit))
        };
        let warned = &mut self.warned[index];
        if is_used(percent) {
            if !std::mem::replace(warned, true) {
                let used = 10_000 - (left / u128::from(limit)) as u64;
                return Some((used, LimitWarning::new(DIMENSIONS[index], remaining, limit)));
            }
        } else if *warned && !is_used(percent.saturating_sub(HYSTERESIS)) {
            *warned = false;
        }
        None
    }
}

/// Bounds the level by a response, which is a 429 if `rejected` is true. `level_before` is the
/// level before it.
fn clamp(
    reading: Reading<'_>,
    rejected: bool,
    level_before: i128,
    dimension: &mut DimensionState,
    forecast: &Forecast,
) {
    let Reading {
        now,
        index,
        gauge,
        sent,
        charge,
    } = reading;
    let uncertain = dimension.uncertain(index, sent);
    let (Some(bucket), Some(level)) = (&mut dimension.bucket, gauge.remaining) else {
        return;
    };
    let first = !std::mem::replace(&mut dimension.observed, true);
    let rounding = rounding(index);
    let level = units(level.min(MAX_LEVEL));
    // A level of zero is saturated, since the server may be far in debt. And a server that allows
    // more than the configured limit shows no lower bound.
    let within = gauge.limit.is_none_or(|limit| limit <= bucket.limit());
    let low = if level == 0 || !within {
        i128::MIN
    } else {
        let low = level - rounding - signed_units(uncertain);
        match index {
            // The server has counted the actual input, this pool the estimate.
            INPUT | TOTAL => {
                let error = SIGMAS * forecast.input.error();
                low - float_units(error * (uncertain as f64 + sent.counted[index] as f64))
            }
            _ => low,
        }
    };
    let flight = refill(bucket.limit(), now.saturating_sub(sent.at));
    // If the request did not fit, the level was too high, and falls to the lowest that the response
    // allows.
    let needed = units(charge.max(1)) + rounding;
    let high = if rejected && level < needed.saturating_add(flight) {
        (level - rounding).saturating_add(flight / 2)
    } else {
        (level + rounding).saturating_add(flight)
    };
    // Until the first request arrives, the server's bucket stays full, and that of output stays
    // full until the first output, which is much later.
    let arrival = refill(bucket.limit(), ARRIVES_IN);
    let most = level.saturating_add(rounding + signed_units(uncertain));
    let stayed_full = index == OUTPUT && most >= bucket.capacity();
    let is_high = level_before > high.saturating_add(arrival) || stayed_full;
    if first && is_high && low > i128::MIN {
        // The configured level was too high. The lowest possible level is used, and the next
        // responses raise it.
        let low = low.max(bucket.floor());
        bucket.clamp(low, low);
    }
    bucket.bound(low, high);
}

/// Returns true if the gauge shows a limit or a level.
fn has_content(gauge: &Gauge) -> bool {
    gauge.limit.is_some_and(|limit| limit > 0) || gauge.remaining.is_some()
}

/// Returns the nanoseconds from `now` to `then`, or 0 if it has passed.
fn from_to(now: u64, then: i128) -> u64 {
    u64::try_from((then - i128::from(now)).max(0)).unwrap_or(u64::MAX)
}

/// Returns the most by which a header rounds the level of a dimension.
fn rounding(index: usize) -> i128 {
    match index {
        REQUESTS => 0,
        _ => units(HALF_ROUNDING),
    }
}

fn signed_units(tokens: i64) -> i128 {
    i128::from(tokens) * UNIT
}
