//! Metrics of a run, and their goals.

use crate::simulation::Tally;

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// 429s per 1,000 successes after the warm-up. The oracle gets none, so all are avoidable.
    Refused,
    /// 429s in the whole run, warm-up included.
    RefusedInAll,
    /// 429s from the fault of the scenario on.
    RefusedAfterFault,
    /// 429s in the warm-up alone.
    RefusedBefore,
    /// Successes in the whole run.
    Answered,
    /// Use of the binding limit, in percent.
    Use,
    /// Use of the binding limit, as a share of the oracle's.
    UseOfOracle,
    /// Jain's index over processes, in tokens.
    Jain,
    /// Median wait of big requests, as a multiple of the oracle's.
    BigWait,
    /// Attempts per success.
    Attempts,
    /// Attempts per success of big requests, as a multiple of all requests'.
    BigAttempts,
    /// Requests given up, per 1,000 successes.
    Failed,
    /// Maximum difference of the local and the server's level of requests that the requests in
    /// flight do not explain.
    DriftRequests,
    /// Like `DriftRequests`, for input tokens.
    DriftInput,
    /// Like `DriftRequests`, for output tokens.
    DriftOutput,
    /// The longest time without an admission, in seconds.
    Gap,
    /// 99th percentile of interactive waits, as a multiple of the 99th percentile of the work of
    /// one request.
    InteractiveWait,
    /// 99th percentile of interactive waits, as a multiple of the mean work of one request.
    InteractiveWaitMean,
    /// The share of batch in the work done, in percent.
    BatchShare,
    /// The median wait, in seconds.
    Wait,
}

/// Goal of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// A value, and its tolerance.
    About(f64, f64),
}

impl Goal {
    pub(crate) fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::About(wanted, off) => (value - wanted).abs() <= off,
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::AtLeast(least) => format!(">= {least}"),
            Self::About(wanted, off) => format!("{wanted:.2} +- {off:.2}"),
        }
    }
}

impl Metric {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "429s/1k",
            Self::RefusedInAll => "429s in all",
            Self::RefusedAfterFault => "429s after the fault",
            Self::RefusedBefore => "429s in warm-up",
            Self::Answered => "successes",
            Self::Use => "use %",
            Self::UseOfOracle => "use / oracle's %",
            Self::Jain => "Jain",
            Self::BigWait => "big wait / oracle's",
            Self::Attempts => "attempts",
            Self::BigAttempts => "big attempts / all",
            Self::Failed => "failed/1k",
            Self::DriftRequests => "drift, requests",
            Self::DriftInput => "drift, input",
            Self::DriftOutput => "drift, output",
            Self::Gap => "longest gap s",
            Self::InteractiveWait => "p99 wait / p99 work",
            Self::InteractiveWaitMean => "p99 wait / mean work",
            Self::BatchShare => "batch share %",
            Self::Wait => "median wait s",
        }
    }

    pub(crate) const fn digits(self) -> usize {
        match self {
            Self::RefusedInAll | Self::RefusedAfterFault | Self::RefusedBefore | Self::Answered => {
                0
            }
            Self::Jain | Self::BigWait | Self::BigAttempts => 3,
            Self::DriftRequests | Self::DriftInput | Self::DriftOutput | Self::Failed => 0,
            _ => 2,
        }
    }

    /// Returns the worst value of several seeds, in relation to the goal if there is one.
    pub(crate) fn worst(self, values: &[f64], goal: Option<Goal>) -> Option<f64> {
        let badness = |value: f64| match goal {
            Some(Goal::AtLeast(_)) => -value,
            Some(Goal::About(wanted, _)) => (value - wanted).abs(),
            Some(Goal::AtMost(_)) => value,
            None if matches!(self, Self::Use | Self::Jain | Self::Answered) => -value,
            None => value,
        };
        let values = values.iter().copied();
        values.max_by(|a, b| badness(*a).total_cmp(&badness(*b)))
    }

    /// Returns the value of one run. `oracle` is the oracle's run with the same seed.
    pub(crate) fn of(self, tally: &Tally, oracle: Option<&Tally>) -> Option<f64> {
        let admitted = tally.admitted as f64;
        let per_thousand = |count: u64| (admitted > 0.0).then(|| count as f64 * 1e3 / admitted);
        match self {
            Self::Refused => per_thousand(tally.refused),
            Self::RefusedInAll => Some((tally.refused + tally.refused_before) as f64),
            Self::RefusedAfterFault => Some(tally.refused_after_fault as f64),
            Self::RefusedBefore => Some(tally.refused_before as f64),
            Self::Answered => Some((tally.admitted + tally.admitted_before) as f64),
            Self::Use => Some(100.0 * used(tally)),
            Self::UseOfOracle => Some(100.0 * used(tally) / used(oracle?)),
            Self::Jain => jain(&tally.tokens),
            Self::BigWait => {
                let oracle = quantile(&oracle?.big_waits, 0.5)?;
                let ours = quantile(&tally.big_waits, 0.5)?;
                (oracle > 0.0).then(|| ours / oracle)
            }
            Self::Attempts => ratio(tally.attempts),
            Self::BigAttempts => Some(ratio(tally.big_attempts)? / ratio(tally.attempts)?),
            Self::Failed => per_thousand(tally.failed),
            Self::DriftRequests => tally.drift.map(|drift| drift[0]),
            Self::DriftInput => tally.drift.map(|drift| drift[1]),
            Self::DriftOutput => tally.drift.map(|drift| drift[2]),
            Self::Gap => Some(tally.longest_gap as f64 / 1e9),
            Self::InteractiveWait => {
                let wait = quantile(&tally.waits[1], 0.99)?;
                Some(wait / quantile(&tally.works[1], 0.99)?)
            }
            Self::InteractiveWaitMean => {
                let works = &tally.works[1];
                let sum: f64 = works.iter().copied().map(f64::from).sum();
                Some(quantile(&tally.waits[1], 0.99)? * works.len() as f64 / sum)
            }
            Self::BatchShare => {
                let sum = |works: &[f32]| works.iter().copied().map(f64::from).sum::<f64>();
                let (batch, interactive) = (sum(&tally.works[0]), sum(&tally.works[1]));
                Some(100.0 * batch / (batch + interactive).max(f64::MIN_POSITIVE))
            }
            Self::Wait => {
                let all = [tally.waits[0].as_slice(), &tally.waits[1]].concat();
                quantile(&all, 0.5)
            }
        }
    }
}

fn used(tally: &Tally) -> f64 {
    tally.used.into_iter().fold(0.0, f64::max)
}

fn ratio((attempts, successes): (u64, u64)) -> Option<f64> {
    (successes > 0).then(|| attempts as f64 / successes as f64)
}

/// Returns Jain's fairness index: 1 for equal shares, 1/n if one client has all.
fn jain(shares: &[u64]) -> Option<f64> {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    (squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

pub(crate) fn quantile(values: &[f32], share: f64) -> Option<f64> {
    let mut values = values.to_vec();
    let index = (values.len().checked_sub(1)? as f64 * share).round() as usize;
    let (_, value, _) = values.select_nth_unstable_by(index, f32::total_cmp);
    Some(f64::from(*value))
}
