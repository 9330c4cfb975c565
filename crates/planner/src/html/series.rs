//! The use of a dimension over time.

use crate::{
    rolling::Point,
    time::{DAY, HOUR, MINUTE, SECOND},
};

/// The use of the limits on one dimension in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Use {
    /// The largest sum of any 60 s that end in the period.
    pub(super) most: u64,
    /// The sum of the period.
    pub(super) sum: u64,
}

/// The use of the limits on one dimension over time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    /// The start.
    pub(super) from: i64,
    /// The length of a period.
    pub(super) step: i64,
    /// The periods.
    pub(super) uses: Vec<Use>,
}

/// The lengths of periods.
const STEPS: [i64; 13] = [
    SECOND,
    5 * SECOND,
    15 * SECOND,
    30 * SECOND,
    MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    4 * HOUR,
    12 * HOUR,
    DAY,
];

impl Series {
    /// Sums up the use by periods of a length that counts from the start of the day.
    pub(super) fn of(points: &[Point], step: i64) -> Self {
        let (first, last) = match (points.first(), points.last()) {
            (Some(first), Some(last)) => (first.0, last.0),
            _ => (0, 0),
        };
        let from = first.div_euclid(step) * step;
        let count = (last - from).max(0) / step + 1;
        let mut uses = Vec::new();
        let (mut first, mut next, mut minute) = (0, 0, 0_u128);
        for period in 0..count {
            let (start, end) = (from + period * step, from + (period + 1) * step);
            // No amount arrives at a start without a record, but earlier ones still count.
            let mut pass = |now: i64, minute: &mut u128| {
                while first < points.len() && points[first].0 <= now - MINUTE {
                    *minute -= u128::from(points[first].1);
                    first += 1;
                }
            };
            pass(start.min(last), &mut minute);
            let mut found = Use {
                most: whole(minute),
                sum: 0,
            };
            while let Some((at, amount)) = points.get(next).filter(|point| point.0 < end) {
                minute += u128::from(*amount);
                pass(*at, &mut minute);
                found.most = found.most.max(whole(minute));
                found.sum = found.sum.saturating_add(*amount);
                next += 1;
            }
            uses.push(found);
        }
        Self { from, step, uses }
    }

    /// Sums up the use by at most so many periods of a common length.
    pub(super) fn within(points: &[Point], most: i64) -> Self {
        let span = match (points.first(), points.last()) {
            (Some(first), Some(last)) => last.0 - first.0,
            _ => 0,
        };
        let fits = |step: &i64| span / step + 1 < most;
        let days = (span / (most - 2) / DAY + 1) * DAY;
        Self::of(points, STEPS.into_iter().find(fits).unwrap_or(days))
    }

    /// Returns the end.
    pub(super) fn until(&self) -> i64 {
        self.from + self.step * self.uses.len() as i64
    }

    /// Returns the mean of a period for each minute.
    pub(super) fn mean(&self, found: &Use) -> f64 {
        found.sum as f64 * MINUTE as f64 / self.step as f64
    }
}

fn whole(sum: u128) -> u64 {
    u64::try_from(sum).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rolling::rolling_max;

    #[test]
    fn periods_have_the_sums_and_the_rolling_maxima_of_all_windows() {
        let mut random = fastrand::Rng::with_seed(3);
        for step in [10 * SECOND, MINUTE, HOUR] {
            let mut at = 1_700_000_000_000_000;
            let points: Vec<Point> = (0..500)
                .map(|_| {
                    at += random.i64(0..40 * SECOND);
                    (at, random.u64(0..100))
                })
                .collect();
            let series = Series::of(&points, step);
            let sum: u64 = series.uses.iter().map(|found| found.sum).sum();
            assert_eq!(sum, points.iter().map(|point| point.1).sum::<u64>());
            let most = series.uses.iter().map(|found| found.most).max();
            assert_eq!(most, Some(rolling_max(&points, MINUTE)));
            for (index, found) in series.uses.iter().enumerate() {
                let start = series.from + index as i64 * step;
                let ends = points.iter().map(|point| point.0).chain([start]);
                let inside = ends.filter(|end| (start..start + step).contains(end));
                let sums = inside.map(|end| {
                    let window = points
                        .iter()
                        .filter(|point| point.0 <= end && point.0 > end - MINUTE);
                    window.map(|point| point.1).sum::<u64>()
                });
                assert_eq!(Some(found.most), sums.max(), "{step} {index}");
            }
        }
    }

    #[test]
    fn length_of_periods_fits_any_record() {
        for days in [0, 1, 7, 40, 900, 100_000] {
            let series = Series::within(&[(MINUTE, 1), (days * DAY + 1, 1)], 240);
            assert!(series.uses.len() <= 240, "{days}");
        }
        assert_eq!(Series::within(&[], 240).uses, [Use::default()]);
    }
}
