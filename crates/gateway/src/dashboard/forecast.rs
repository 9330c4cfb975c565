//! The forecast of the time at which a limit is used up.

use serde::Serialize;

use super::samples::STEP_SECONDS;

/// The share of a limit from which it counts as used up.
const FULL: f64 = 0.97;

/// The fewest points of a forecast: those of two minutes.
const FEWEST: usize = 13;

/// The points of the last minute.
const MINUTE: usize = 7;

/// The growth over all points below which the use is steady.
const LEAST_GROWTH: f64 = 0.03;

/// The latest forecast in seconds. A line through ten minutes says nothing about later times.
const LATEST: f64 = 7_200.0;

/// The future of a limit if its use goes on as in the last minutes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", content = "seconds", rename_all = "snake_case")]
pub(super) enum Forecast {
    /// The limit is used up.
    Full,
    /// The limit is used up after so many seconds.
    In(u64),
    /// The use does not grow, also not in the last minute, or so slowly that it takes more than two
    /// hours.
    Steady,
    /// There are too few samples.
    Unknown,
}

/// Extends the line with the least squares through the shares of a limit, which are 10 s apart, the
/// newest last.
pub(super) fn forecast(shares: &[f64]) -> Forecast {
    let Some(&last) = shares.last() else {
        return Forecast::Unknown;
    };
    if last >= FULL {
        return Forecast::Full;
    }
    if shares.len() < FEWEST {
        return Forecast::Unknown;
    }
    let count = shares.len() as f64;
    let (mean_x, mean_y) = ((count - 1.0) / 2.0, shares.iter().sum::<f64>() / count);
    let (mut xy, mut xx) = (0.0, 0.0);
    for (index, share) in shares.iter().enumerate() {
        let x = index as f64 - mean_x;
        xy += x * (share - mean_y);
        xx += x * x;
    }
    let slope = xy / xx;
    let has_fallen = last <= shares[shares.len() - MINUTE];
    if has_fallen || slope * (count - 1.0) < LEAST_GROWTH {
        return Forecast::Steady;
    }
    let seconds = (1.0 - last) / slope * STEP_SECONDS;
    if seconds > LATEST {
        return Forecast::Steady;
    }
    Forecast::In(seconds.round() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(from: f64, step: f64, count: usize) -> Vec<f64> {
        (0..count).map(|index| from + step * index as f64).collect()
    }

    #[test]
    fn growing_use_reaches_the_limit_in_time() {
        // 1 % more every 10 s: from 60 % it takes 400 s.
        assert_eq!(forecast(&line(0.4, 0.01, 21)), Forecast::In(400));
    }

    #[test]
    fn steady_and_falling_use_reach_no_limit() {
        assert_eq!(forecast(&line(0.9, 0.0, 61)), Forecast::Steady);
        assert_eq!(forecast(&line(0.9, -0.01, 61)), Forecast::Steady);
    }

    #[test]
    fn use_that_falls_in_the_last_minute_after_long_growth_is_steady() {
        let mut shares = line(0.2, 0.012, 50);
        shares.extend(line(0.75, -0.01, 7));
        assert_eq!(forecast(&shares), Forecast::Steady);
    }

    #[test]
    fn used_up_limit_is_full_at_once() {
        assert_eq!(forecast(&[0.99]), Forecast::Full);
    }

    #[test]
    fn few_samples_have_no_forecast() {
        assert_eq!(forecast(&[]), Forecast::Unknown);
        assert_eq!(forecast(&line(0.1, 0.05, 12)), Forecast::Unknown);
    }

    proptest! {
        #[test]
        fn forecast_is_never_later_than_two_hours(shares in proptest::collection::vec(0.0..2.0_f64, 0..70)) {
            if let Forecast::In(seconds) = forecast(&shares) {
                prop_assert!(seconds <= 7_200);
            }
        }
    }
}
