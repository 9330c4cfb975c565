//! Samples of the counters, and the conditions on them.
//!
//! The functions are those of Prometheus with the same names, over samples that are 30 s apart.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    condition::Met,
    counters::{Counters, MILLION, ScopeCounters},
    kind::AlertKind,
};
use crate::labels::{ESTIMATED, LIMITED, WAIT_BOUNDS};

/// The time between two evaluations.
pub const INTERVAL: Duration = Duration::from_secs(30);

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// The part of the limit that the P95 of an hour must exceed.
const HIGH_USE: f64 = 0.8;

/// The part of the limit below which a forecast says nothing.
const LEAST_USE: f64 = 0.5;

/// The part of the responses that are rate limits.
const MANY_RATE_LIMITS: f64 = 0.02;

/// The wait in seconds.
const LONG_WAIT: f64 = 5.0;

/// The mean ratio of used to estimated tokens over which, and below whose inverse, estimates drift.
const DRIFT: f64 = 1.5;

/// The responses in 5 minutes below which their mean says nothing.
const FEW_ESTIMATES: u64 = 10;

/// The values of the counters of a scope.
#[derive(Clone, Debug)]
struct Sample {
    charged: [u64; 3],
    responses: u64,
    rate_limited: u64,
    unauthorized: u64,
    spend_limit: u64,
    /// Count and sum, of input and output.
    estimates: [(u64, u64); 2],
    waits: [u64; WAIT_BOUNDS.len() + 1],
}

impl Sample {
    fn of(counters: &ScopeCounters) -> Self {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            charged: std::array::from_fn(|index| load(&counters.charged[index])),
            responses: load(&counters.responses),
            rate_limited: load(&counters.rate_limited),
            unauthorized: load(&counters.unauthorized),
            spend_limit: load(&counters.spend_limit),
            estimates: std::array::from_fn(|index| {
                let of = &counters.estimates[index];
                (load(&of.count), load(&of.sum))
            }),
            waits: std::array::from_fn(|index| load(&counters.waits[index])),
        }
    }
}

/// A value with its time.
type Point<T> = (Instant, T);

/// A counter of a sample.
type CountOf = fn(&Sample) -> u64;

/// The samples of the last part of time.
#[derive(Debug)]
struct Series<T>(VecDeque<Point<T>>);

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Series<T> {
    fn push(&mut self, now: Instant, value: T, keep: Duration) {
        self.0.push_back((now, value));
        while let Some((at, _)) = self.0.front()
            && now.saturating_duration_since(*at) > keep
        {
            self.0.pop_front();
        }
    }

    /// Returns the first and the last sample of the last part of time, if there are two.
    fn ends(&self, now: Instant, window: Duration) -> Option<(&Point<T>, &Point<T>)> {
        let mut inside = self.inside(now, window);
        Some((inside.next()?, inside.last()?))
    }

    /// Returns true if the samples reach back over this part of time.
    fn covers(&self, now: Instant, window: Duration) -> bool {
        self.ends(now, window).is_some_and(|(first, last)| {
            let apart = last.0.saturating_duration_since(first.0);
            apart + INTERVAL / 2 >= window
        })
    }

    fn inside(&self, now: Instant, window: Duration) -> impl Iterator<Item = &Point<T>> {
        let samples = self.0.iter();
        samples.filter(move |(at, _)| now.saturating_duration_since(*at) <= window)
    }
}

/// The samples of a scope.
#[derive(Debug, Default)]
struct ScopeHistory {
    samples: Series<Sample>,
    /// The used share of each limit in the last minute.
    shares: [Series<f64>; 3],
}

/// The samples of all scopes and fallbacks.
#[derive(Debug, Default)]
pub(super) struct History {
    scopes: HashMap<Arc<str>, ScopeHistory>,
    fallbacks: HashMap<(Arc<str>, Arc<str>), Series<u64>>,
}

impl History {
    /// Takes a sample of all counters.
    pub(super) fn sample(&mut self, counters: &Counters, now: Instant) {
        for (label, scope) in counters.scopes.all() {
            let history = self.scopes.entry(label).or_default();
            history.samples.push(now, Sample::of(&scope), 5 * MINUTE);
            let Some((first, last)) = history.samples.ends(now, MINUTE) else {
                continue;
            };
            if !history.samples.covers(now, MINUTE) {
                continue;
            }
            let minutes = last.0.saturating_duration_since(first.0).as_secs_f64() / 60.0;
            for (index, shares) in history.shares.iter_mut().enumerate() {
                let limit = scope.limits[index].load(Ordering::Relaxed);
                let charged = last.1.charged[index] - first.1.charged[index];
                if limit > 0 {
                    shares.push(now, charged as f64 / minutes / limit as f64, HOUR);
                }
            }
        }
        for (models, count) in counters.fallbacks.all() {
            let history = self.fallbacks.entry(models).or_default();
            history.push(now, count.load(Ordering::Relaxed), 2 * MINUTE);
        }
    }

    /// Returns the conditions that are met.
    pub(super) fn conditions(&self, counters: &Counters, now: Instant) -> Vec<Met> {
        let mut met = Vec::new();
        for (label, history) in &self.scopes {
            history.conditions(label, now, &mut met);
        }
        for (circuit, is_open) in counters.circuits.all() {
            if is_open.load(Ordering::Relaxed) {
                met.push(Met::new(AlertKind::CircuitOpen, circuit, None, 1.0));
            }
        }
        for ((from, to), history) in &self.fallbacks {
            if let Some((first, last)) = history.ends(now, 2 * MINUTE)
                && last.1 > first.1
            {
                let subject = format!("{to} for {from}").into();
                let count = (last.1 - first.1) as f64;
                met.push(Met::new(AlertKind::FallbackActive, subject, None, count));
            }
        }
        for (layer, is_lost) in counters.stores.all() {
            if is_lost.load(Ordering::Relaxed) {
                met.push(Met::new(AlertKind::StoreLocal, layer.into(), None, 1.0));
            }
        }
        met
    }
}

impl ScopeHistory {
    fn conditions(&self, label: &Arc<str>, now: Instant, met: &mut Vec<Met>) {
        for (shares, dimension) in self.shares.iter().zip(LIMITED) {
            let mut of_limit = |kind, value| {
                met.push(Met::new(kind, label.clone(), Some(dimension), value));
            };
            let hour: Vec<f64> = shares.inside(now, HOUR).map(|(_, share)| *share).collect();
            if let Some(p95) = quantile_over_time(0.95, hour)
                && p95 > HIGH_USE
            {
                of_limit(AlertKind::LimitUseHigh, p95);
            }
            let last = shares.0.back().map_or(0.0, |(_, share)| *share);
            let points = shares.inside(now, 30 * MINUTE);
            let points = points.map(|(at, share)| {
                let before = now.saturating_duration_since(*at);
                (-before.as_secs_f64(), *share)
            });
            if last > LEAST_USE
                && let Some(share) = predict_linear(points, HOUR.as_secs_f64())
                && share > 1.0
            {
                of_limit(AlertKind::LimitExhaustionForecast, share);
            }
        }
        if let Some((first, last)) = self.samples.ends(now, 5 * MINUTE) {
            for (index, dimension) in ESTIMATED.into_iter().enumerate() {
                let ((count, sum), since) = (last.1.estimates[index], first.1.estimates[index]);
                let (count, sum) = (count - since.0, sum - since.1);
                let ratio = sum as f64 / MILLION / count as f64;
                if count >= FEW_ESTIMATES && !(1.0 / DRIFT..=DRIFT).contains(&ratio) {
                    let kind = AlertKind::EstimateDrift;
                    met.push(Met::new(kind, label.clone(), Some(dimension), ratio));
                }
            }
        }
        let mut of_scope = |kind, value| met.push(Met::new(kind, label.clone(), None, value));
        // A scope begins with all counters at 0.
        let increase = |count: fn(&Sample) -> u64| {
            let window = self.samples.inside(now, 5 * MINUTE);
            let is_old = self.samples.covers(now, 5 * MINUTE);
            let mut counts = window.map(|(_, sample)| count(sample));
            let first = counts.next().filter(|_| is_old).unwrap_or(0);
            let last = self.samples.0.back().map_or(0, |(_, sample)| count(sample));
            last - first
        };
        let alerts: [(AlertKind, CountOf); 2] = [
            (AlertKind::KeyRejected, |sample| sample.unauthorized),
            (AlertKind::SpendLimit, |sample| sample.spend_limit),
        ];
        for (kind, count) in alerts {
            match increase(count) {
                0 => {}
                count => of_scope(kind, count as f64),
            }
        }
        let Some((first, last)) = self.samples.ends(now, 2 * MINUTE) else {
            return;
        };
        let (first, last) = (&first.1, &last.1);
        let responses = (last.responses - first.responses) as f64;
        let share = (last.rate_limited - first.rate_limited) as f64 / responses;
        if share > MANY_RATE_LIMITS {
            of_scope(AlertKind::RateLimitedUpstream, share);
        }
        let waits = std::array::from_fn(|index| (last.waits[index] - first.waits[index]) as f64);
        if let Some(wait) = histogram_quantile(0.95, waits)
            && wait > LONG_WAIT
        {
            of_scope(AlertKind::QueueWait, wait);
        }
    }
}

/// Returns the quantile of values, between two values in proportion.
fn quantile_over_time(quantile: f64, mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = quantile * (values.len().checked_sub(1)? as f64);
    let (lower, upper) = (rank.floor() as usize, rank.ceil() as usize);
    let weight = rank - rank.floor();
    Some(values[lower] * (1.0 - weight) + values[upper] * weight)
}

/// Returns the value after so many seconds on the line with the least squares through the points,
/// whose times are relative to now.
fn predict_linear(points: impl Iterator<Item = (f64, f64)>, seconds: f64) -> Option<f64> {
    let (mut count, mut x, mut y, mut xy, mut xx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (time, value) in points {
        count += 1.0;
        x += time;
        y += value;
        xy += time * value;
        xx += time * time;
    }
    let variance = xx - x * x / count;
    if count < 2.0 || variance <= 0.0 {
        return None;
    }
    let slope = (xy - x * y / count) / variance;
    let now = y / count - slope * x / count;
    Some(now + slope * seconds)
}

/// Returns the quantile of a histogram, whose counts are those of each bucket. Inside of a bucket
/// the values are spread evenly. Over the last bound it is that bound.
fn histogram_quantile(quantile: f64, counts: [f64; WAIT_BOUNDS.len() + 1]) -> Option<f64> {
    let total: f64 = counts.iter().sum();
    if total <= 0.0 {
        return None;
    }
    let mut rank = quantile * total;
    for (index, bound) in WAIT_BOUNDS.iter().enumerate() {
        if rank <= counts[index] {
            let from = index.checked_sub(1).map_or(0.0, |index| WAIT_BOUNDS[index]);
            return Some(from + (bound - from) * rank / counts[index]);
        }
        rank -= counts[index];
    }
    WAIT_BOUNDS.last().copied()
}
