//! The results of each run, from the client and from the log of the server.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use tower_claude_fake_claude::Attempt;

use crate::answer::Ending;
use crate::load::Load;
use crate::measure::{self, Bucket, Judged, Wait};
use crate::replay::Done;

/// The run of one client, as `--json` prints it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) requests: usize,
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    pub(crate) failed_after_content: usize,
    pub(crate) attempts: usize,
    pub(crate) http_429: usize,
    pub(crate) http_429_outside_incidents: usize,
    pub(crate) http_529_seen: usize,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) utilisation: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// A row, and the numbers of the requests in two of its columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) row: Row,
    /// Requests that failed for their caller.
    pub(crate) failed: BTreeSet<usize>,
    /// Requests whose response the server broke after content.
    pub(crate) broken: BTreeSet<usize>,
    /// Figures that only this client has, by name.
    pub(crate) extras: Vec<(String, u64)>,
}

impl Run {
    /// Combines the client's results with the log of the server.
    pub(crate) fn new(load: &Load, done: &[Done], log: &[Attempt]) -> Self {
        let tagged: Vec<(usize, &Attempt)> = log
            .iter()
            .filter_map(|attempt| Some((attempt.tag.as_deref()?.parse().ok()?, attempt)))
            .collect();
        let broken = tagged
            .iter()
            .filter(|(_, attempt)| attempt.broken_after_content)
            .map(|(index, _)| *index)
            .collect();
        let failed: BTreeSet<usize> = done
            .iter()
            .filter(|done| done.ending != Ending::Whole)
            .map(|done| done.index)
            .collect();
        let count =
            |pick: &dyn Fn(&Ending) -> bool| done.iter().filter(|done| pick(&done.ending)).count();
        let overloaded = StatusCode::from_u16(529).ok();
        let refused = log.iter().filter(|attempt| attempt.status == 429);
        let mut latencies: Vec<Duration> = done
            .iter()
            .filter(|done| done.ending == Ending::Whole)
            .map(|done| done.ended.saturating_sub(done.arrived))
            .collect();
        latencies.sort_unstable();
        let row = Row {
            requests: done.len(),
            succeeded: done.len() - failed.len(),
            failed: failed.len(),
            failed_after_content: count(&|ending| {
                matches!(
                    ending,
                    Ending::Failed {
                        after_content: true,
                        ..
                    }
                )
            }),
            attempts: log.len(),
            http_429: refused.clone().count(),
            http_429_outside_incidents: refused.filter(|attempt| !attempt.in_incident).count(),
            http_529_seen: count(
                &|ending| matches!(ending, Ending::Failed { status, .. } if *status == overloaded),
            ),
            input_tokens: log.iter().map(|attempt| attempt.charged_input).sum(),
            output_tokens: log.iter().map(|attempt| attempt.charged_output).sum(),
            utilisation: used(load, done, &tagged),
            p50_ms: measure::percentile_ms(&latencies, 0.50),
            p99_ms: measure::percentile_ms(&latencies, 0.99),
        };
        Self {
            row,
            failed,
            broken,
            extras: Vec::new(),
        }
    }

    pub(crate) fn with_extras(mut self, extras: Vec<(String, u64)>) -> Self {
        self.extras = extras;
        self
    }

    /// Returns true if the client lost only requests that no client can save. Several readers may
    /// have had a response that broke.
    pub(crate) fn lost_only_after_content(&self) -> bool {
        self.row.failed == self.row.failed_after_content
    }
}

fn used(load: &Load, done: &[Done], tagged: &[(usize, &Attempt)]) -> f64 {
    let charged = tagged
        .iter()
        .filter(|(_, attempt)| attempt.charged_input > 0);
    let last: HashMap<usize, Duration> = charged
        .map(|(index, attempt)| (*index, attempt.at))
        .collect();
    let waits: Vec<Wait> = done
        .iter()
        .flat_map(|done| {
            let whole = Wait {
                request: done.index,
                from: done.arrived,
                until: last.get(&done.index).copied().unwrap_or(done.ended),
                tokens: load.jobs[done.index].input,
            };
            whole.without(&done.pauses)
        })
        .collect();
    // A request that failed before the bucket has no information about its level.
    let judged: Vec<Judged> = tagged
        .iter()
        .filter(|(_, attempt)| attempt.charged_input > 0 || attempt.dimension.is_some())
        .filter(|(_, attempt)| &*attempt.model == crate::load::MODEL)
        .map(|(_, attempt)| Judged {
            at: attempt.at,
            level: attempt.input_level_before,
            charged: attempt.charged_input,
        })
        .collect();
    let bucket = Bucket {
        per_second: load.per_minute.input_per_second(),
        capacity: load.per_minute.input_capacity(),
    };
    let used = measure::utilisation(&judged, &waits, &load.windows, bucket);
    (used * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_fields_that_scripts_read() {
        let json = serde_json::to_value(Row::default()).unwrap();
        let mut keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        keys.sort();
        let expected = [
            "attempts",
            "failed",
            "failed_after_content",
            "http_429",
            "http_429_outside_incidents",
            "http_529_seen",
            "input_tokens",
            "output_tokens",
            "p50_ms",
            "p99_ms",
            "requests",
            "succeeded",
            "utilisation",
        ];
        assert_eq!(keys, expected);
    }
}
