//! Sums over windows and clock minutes, and percentiles.

use serde::Serialize;

use crate::time::{MINUTE, SECOND};

/// An amount at a time, in microseconds.
pub type Point = (i64, u64);

/// The largest sums of one dimension, per minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Peaks {
    /// The sum of all, divided by the minutes from the first to the last.
    pub mean: f64,
    /// The median of the clock minutes in UTC, idle ones included.
    pub minute_p50: u64,
    /// The 95th percentile of the clock minutes.
    pub minute_p95: u64,
    /// The 99th percentile of the clock minutes.
    pub minute_p99: u64,
    /// The largest clock minute in UTC, which the Console shows.
    pub clock_minute: u64,
    /// The largest minute if minutes are counted from the first request.
    pub minute_from_first: u64,
    /// The largest sum of any 60 s.
    pub rolling_minute: u64,
    /// The largest sum of any 5 s, times 12.
    pub five_seconds: u64,
    /// The largest sum of any second, times 60.
    pub one_second: u64,
    /// The share of the clock minutes with any amount.
    pub active: f64,
}

impl Peaks {
    /// Returns the peaks of amounts in the order of time. All are 0 without an amount.
    #[must_use]
    pub fn of(points: &[Point]) -> Self {
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return Self::default();
        };
        let sum: f64 = points.iter().map(|point| point.1 as f64).sum();
        // A log of less than a minute is one minute.
        let minutes = ((last.0 - first.0) as f64 / MINUTE as f64).max(1.0);
        let mut clock = minute_sums(points, 0);
        clock.sort_unstable();
        let from_first = minute_sums(points, first.0.rem_euclid(MINUTE));
        Self {
            mean: sum / minutes,
            minute_p50: percentile(&clock, 0.50),
            minute_p95: percentile(&clock, 0.95),
            minute_p99: percentile(&clock, 0.99),
            clock_minute: clock.last().copied().unwrap_or(0),
            minute_from_first: from_first.into_iter().max().unwrap_or(0),
            rolling_minute: rolling_max(points, MINUTE),
            five_seconds: rolling_max(points, 5 * SECOND).saturating_mul(12),
            one_second: rolling_max(points, SECOND).saturating_mul(60),
            active: clock.iter().filter(|sum| **sum > 0).count() as f64 / clock.len().max(1) as f64,
        }
    }

    /// Divides all amounts, for points in smaller units.
    pub(crate) fn divide(&mut self, by: u64) {
        self.mean /= by as f64;
        for amount in [
            &mut self.minute_p50,
            &mut self.minute_p95,
            &mut self.minute_p99,
            &mut self.clock_minute,
            &mut self.minute_from_first,
            &mut self.rolling_minute,
            &mut self.five_seconds,
            &mut self.one_second,
        ] {
            *amount = amount.div_ceil(by);
        }
    }
}

/// The most minutes of a list: two years.
const MOST_MINUTES: i64 = 2 * 366 * 24 * 60;

/// Returns the sums of the minutes from the first point to the last, idle ones included. Minutes
/// begin `offset` after those of the clock.
#[must_use]
pub fn minute_sums(points: &[Point], offset: i64) -> Vec<u64> {
    period_sums(points, MINUTE, offset)
}

/// Returns the sums of all periods from the first point to the last.
#[must_use]
pub fn period_sums(points: &[Point], period: i64, offset: i64) -> Vec<u64> {
    let Some(first) = points.first() else {
        return Vec::new();
    };
    let number = |at: i64| (at - offset).div_euclid(period);
    let start = number(first.0);
    let mut sums = Vec::new();
    for (at, amount) in points {
        let index = (number(*at) - start).min(MOST_MINUTES) as usize;
        if sums.len() <= index {
            sums.resize(index + 1, 0_u64);
        }
        sums[index] = sums[index].saturating_add(*amount);
    }
    sums
}

/// Returns the largest sum of a window of this length, which does not contain its start.
#[must_use]
pub fn rolling_max(points: &[Point], window: i64) -> u64 {
    let mut first = 0;
    let (mut sum, mut most) = (0_u128, 0_u128);
    for (at, amount) in points {
        sum += u128::from(*amount);
        while points[first].0 <= at - window {
            sum -= u128::from(points[first].1);
            first += 1;
        }
        most = most.max(sum);
    }
    u64::try_from(most).unwrap_or(u64::MAX)
}

/// The most samples of rolling minutes: those of 28 days.
const MOST_SAMPLES: i64 = 28 * 86_400;

/// Returns the sums of the last 60 s from the first point to the last, sorted. There is one for
/// each second of up to 28 days, and fewer for longer times.
#[must_use]
pub fn rolling_minutes(points: &[Point]) -> Vec<u64> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Vec::new();
    };
    let span = last.0 - first.0;
    let step = SECOND.max(span / MOST_SAMPLES);
    let samples = span / step + 1;
    let (mut from, mut to, mut sum) = (0, 0, 0_u128);
    let mut sums = Vec::with_capacity(samples as usize);
    for sample in 0..samples {
        let now = first.0 + sample * step;
        while to < points.len() && points[to].0 <= now {
            sum += u128::from(points[to].1);
            to += 1;
        }
        while from < to && points[from].0 <= now - MINUTE {
            sum -= u128::from(points[from].1);
            from += 1;
        }
        sums.push(u64::try_from(sum).unwrap_or(u64::MAX));
    }
    sums.sort_unstable();
    sums
}

/// Returns the nearest-rank percentile of a sorted list: the least value that this share of all
/// does not exceed. 0 for an empty list.
#[must_use]
pub fn percentile<T: Copy + Default>(sorted: &[T], share: f64) -> T {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let index = rank.max(1).min(sorted.len());
    index
        .checked_sub(1)
        .and_then(|index| sorted.get(index))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolling_maximum_equals_all_windows() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut at = 0;
            let points: Vec<Point> = (0..random.usize(1..40))
                .map(|_| {
                    at += random.i64(0..3_000_000);
                    (at, random.u64(0..100))
                })
                .collect();
            let sum_at = |end: i64| -> u64 {
                let inside = points
                    .iter()
                    .filter(|point| point.0 <= end && point.0 > end - 5 * SECOND);
                inside.map(|point| point.1).sum()
            };
            let most = points.iter().map(|point| sum_at(point.0)).max();
            assert_eq!(Some(rolling_max(&points, 5 * SECOND)), most);
        }
    }

    #[test]
    fn percentile_is_the_nearest_rank() {
        let sorted: Vec<u64> = (1..=20).collect();
        assert_eq!(percentile(&sorted, 0.95), 19);
        assert_eq!(percentile(&sorted, 1.0), 20);
        assert_eq!(percentile(&sorted, 0.0), 1);
        assert_eq!(percentile::<u64>(&[], 0.5), 0);
    }

    #[test]
    fn clock_minutes_include_idle_ones() {
        let points = [(0, 5), (MINUTE - 1, 1), (3 * MINUTE, 2)];
        assert_eq!(minute_sums(&points, 0), [6, 0, 0, 2]);
        let peaks = Peaks::of(&points);
        assert_eq!((peaks.clock_minute, peaks.rolling_minute), (6, 6));
        assert_eq!(peaks.active, 0.5);
    }
}
