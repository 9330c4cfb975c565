//! The forecast of peaks from weeks of traffic.

use serde::Serialize;

use crate::{
    rolling::{Point, percentile, period_sums},
    time::{HOUR, MINUTE, Time, WEEK},
};

/// The fewest weeks of a forecast.
pub const FEWEST_WEEKS: usize = 3;

/// The most weeks that are used.
const MOST_WEEKS: usize = 26;

/// The hours of a week.
const HOURS: usize = 168;

/// The most weeks into the future.
const HORIZON: f64 = 104.0;

/// A forecast of the 95th percentile of the busiest minutes of the hours of a week.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Forecast {
    /// The number of weeks that it rests on.
    pub weeks: usize,
    /// The growth per week: 0.05 is 5 %.
    pub growth_per_week: f64,
    /// The interval of the growth, from leaving out one week after the other.
    pub growth_interval: (f64, f64),
    /// The percentile in the last week, per minute.
    pub last_week_p95: f64,
    /// The percentile in four weeks, per minute, with its interval.
    pub in_four_weeks: (f64, f64, f64),
    /// The date on which the percentile passes 80 % of the limit, with the earliest and the latest
    /// date by the interval.
    pub passes_80_percent: Option<Passing>,
    /// The date on which it passes the limit.
    pub passes_100_percent: Option<Passing>,
}

/// A date with its interval. It is the end of the record if the percentile is higher already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Passing {
    /// True if the percentile is higher already.
    pub is_past: bool,
    /// The date.
    pub date: String,
    /// The earliest date.
    pub earliest: String,
    /// The latest date. `None` if it may be never.
    pub latest: Option<String>,
}

/// Forecasts the peaks of a dimension under a limit.
///
/// # Errors
/// Returns the reason if there is no forecast.
pub fn forecast(points: &[Point], limit: Option<u64>) -> Result<Forecast, String> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Err("no traffic".to_owned());
    };
    let weeks = ((last.0 - first.0 + MINUTE) / WEEK) as usize;
    if weeks < FEWEST_WEEKS {
        let span = crate::text::span(last.0 - first.0);
        return Err(format!(
            "no forecast from {span}: it needs {FEWEST_WEEKS} whole weeks"
        ));
    }
    let weeks = weeks.min(MOST_WEEKS);
    let start = last.0 + 1 - weeks as i64 * WEEK;
    let hours = busiest_minutes(points, start, weeks);
    let all: Vec<usize> = (0..weeks).collect();
    let (p95, slope) = fit(&hours, &all).ok_or("no forecast: most weeks are empty")?;
    let left_out: Vec<(f64, f64)> = (0..weeks)
        .filter_map(|left_out| {
            let rest: Vec<usize> = all
                .iter()
                .copied()
                .filter(|week| *week != left_out)
                .collect();
            fit(&hours, &rest)
        })
        .collect();
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    };
    let (low_slope, high_slope) = bounds(&mut left_out.iter().map(|fit| fit.1).chain([slope]));
    let at = |(p95, slope): (f64, f64), weeks: f64| p95 * (slope * weeks).exp();
    let in_four = at((p95, slope), 4.0);
    let (low_four, high_four) =
        bounds(&mut left_out.iter().map(|fit| at(*fit, 4.0)).chain([in_four]));
    let passing = |share: f64| {
        let limit = limit? as f64 * share;
        let weeks_until = |(p95, slope): (f64, f64)| {
            if p95 >= limit {
                return Some(0.0);
            }
            let weeks = (limit / p95).ln() / slope;
            (slope > 0.0 && weeks <= HORIZON).then_some(weeks)
        };
        let date = |weeks: f64| Time(last.0 + (weeks * WEEK as f64) as i64).to_date();
        let middle = weeks_until((p95, slope))?;
        let others: Vec<Option<f64>> = left_out.iter().map(|fit| weeks_until(*fit)).collect();
        let known = others.iter().flatten().copied().chain([middle]);
        let (earliest, latest) = bounds(&mut known.into_iter());
        Some(Passing {
            is_past: middle <= 0.0,
            date: date(middle),
            earliest: date(earliest),
            latest: others.iter().all(Option::is_some).then(|| date(latest)),
        })
    };
    Ok(Forecast {
        weeks,
        growth_per_week: slope.exp_m1(),
        growth_interval: (low_slope.exp_m1(), high_slope.exp_m1()),
        last_week_p95: p95,
        in_four_weeks: (in_four, low_four, high_four),
        passes_80_percent: passing(0.8),
        passes_100_percent: passing(1.0),
    })
}

/// Returns the busiest clock minute of each hour, by week and hour of the week.
fn busiest_minutes(points: &[Point], start: i64, weeks: usize) -> Vec<[f64; HOURS]> {
    let points = &points[points.partition_point(|point| point.0 < start)..];
    let mut hours = vec![[0.0; HOURS]; weeks];
    let Some(first) = points.first() else {
        return hours;
    };
    let offset = start.rem_euclid(MINUTE);
    let begin = first.0 - (first.0 - offset).rem_euclid(MINUTE);
    for (minute, sum) in (0..).zip(period_sums(points, MINUTE, offset)) {
        let hour = ((begin + minute * MINUTE - start) / HOUR) as usize;
        if let Some(week) = hours.get_mut(hour / HOURS) {
            let most = &mut week[hour % HOURS];
            *most = most.max(sum as f64);
        }
    }
    hours
}

/// Returns the 95th percentile in the last week and the growth per week as an exponent.
///
/// The growth is the median of the slopes of all pairs of weeks. Each hour of the week is the
/// median of that hour in all weeks, with the growth until the last week.
fn fit(hours: &[[f64; HOURS]], weeks: &[usize]) -> Option<(f64, f64)> {
    let total = |week: usize| hours[week].iter().sum::<f64>();
    let mut slopes: Vec<f64> = Vec::new();
    for (index, from) in weeks.iter().enumerate() {
        for to in &weeks[index + 1..] {
            let (a, b) = (total(*from), total(*to));
            if a > 0.0 && b > 0.0 {
                slopes.push((b / a).ln() / (to - from) as f64);
            }
        }
    }
    let slope = median(&mut slopes)?;
    let last = hours.len() - 1;
    let mut typical: Vec<f64> = (0..HOURS)
        .filter_map(|hour| {
            let grown = |week: &usize| hours[*week][hour] * (slope * (last - week) as f64).exp();
            median(&mut weeks.iter().map(grown).collect::<Vec<f64>>())
        })
        .collect();
    typical.sort_by(f64::total_cmp);
    let p95 = percentile(&typical, 0.95);
    (p95 > 0.0).then_some((p95, slope))
}

fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len().checked_sub(1)? / 2;
    let (_, median, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns weeks of one request a minute, which grow by `growth` each week and are five times
    /// as large by day.
    fn weeks(weeks: i64, growth: f64) -> Vec<Point> {
        let start = 1_790_000_000_000_000 / WEEK * WEEK;
        let minutes = 0..weeks * WEEK / MINUTE;
        minutes
            .map(|minute| {
                let at = minute * MINUTE;
                let factor = growth.powf((at / WEEK) as f64);
                let is_day = (at / HOUR) % 24 >= 8;
                let amount = if is_day { 5_000.0 } else { 1_000.0 };
                (start + at, (amount * factor) as u64)
            })
            .collect()
    }

    #[test]
    fn growth_and_dates_are_those_of_the_series() {
        let forecast = forecast(&weeks(6, 1.1), Some(16_000)).unwrap();
        assert!(
            (forecast.growth_per_week - 0.1).abs() < 0.002,
            "{forecast:?}"
        );
        let last = 5_000.0 * 1.1_f64.powi(5);
        assert!(
            (forecast.last_week_p95 / last - 1.0).abs() < 0.02,
            "{forecast:?}"
        );
        let (low, high) = forecast.growth_interval;
        assert!(low <= forecast.growth_per_week && forecast.growth_per_week <= high);
        let passing = forecast.passes_100_percent.unwrap();
        // From 8,053 to 16,000 at 10 % are 7.2 weeks.
        let end = 1_790_000_000_000_000 / WEEK * WEEK + 6 * WEEK;
        assert_eq!(
            passing.date,
            Time(end + (7.2 * WEEK as f64) as i64).to_date()
        );
        assert!(passing.earliest <= passing.date);
        assert!(forecast.passes_80_percent.unwrap().date < passing.date);
    }

    #[test]
    fn short_or_steady_traffic_has_no_date() {
        let error = forecast(&weeks(2, 1.0), Some(1)).unwrap_err();
        assert!(error.contains("3 whole weeks"), "{error}");
        let steady = forecast(&weeks(4, 1.0), Some(100_000)).unwrap();
        assert_eq!(steady.passes_100_percent, None);
        assert!(steady.growth_per_week.abs() < 1e-9);
    }
}
