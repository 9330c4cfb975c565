//! The incidents of a run.

use std::time::Duration;

use tower_claude_fake_claude::{Fault, Incident};

use crate::cli;

/// Length of each window as a share of the run: three of them make 13.5 %.
const SHARE: f64 = 0.045;
const WINDOWS: u32 = 3;

/// A range of time since the start of the server, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

/// Rate groups of the requested model and of the first fallback model.
const MAIN: &str = "sonnet-5.5";
const SPENT: &str = "opus-5.5";

/// Returns the windows in which the server fails.
pub(crate) fn windows(kind: cli::Incident, run: Duration, seed: u64) -> Vec<Span> {
    match kind {
        cli::Incident::Storm => storm(run, seed),
        cli::Incident::Outage => vec![Span {
            from: run / 3,
            until: run * 2 / 3,
        }],
    }
}

/// Returns one window at a random place in each third of the run.
fn storm(run: Duration, seed: u64) -> Vec<Span> {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x1c1d);
    let third = run / WINDOWS;
    let length = run.mul_f64(SHARE);
    (0..WINDOWS)
        .map(|index| {
            let from = third * index + (third - length).mul_f64(rng.f64());
            Span {
                from,
                until: from + length,
            }
        })
        .collect()
}

/// Returns the faults of each window. The first fault that matches decides, so later shares apply
/// to the remaining requests.
pub(crate) fn script(kind: cli::Incident, windows: &[Span]) -> Vec<Incident> {
    if kind == cli::Incident::Outage {
        return outage(windows);
    }
    let mut script = Vec::new();
    for window in windows {
        let mut add = |share, fault, stream_only| {
            let incident = Incident::new(window.from, window.until, fault).with_probability(share);
            script.push(if stream_only {
                incident.with_stream_only()
            } else {
                incident
            });
        };
        add(0.25, Fault::Overloaded, false);
        add(0.04, Fault::Reset, false);
        add(0.04, Fault::ErrorBeforeContent, false);
        // After content no client may send a request again, so these requests are lost for every
        // client.
        add(0.01, Fault::ErrorMidStream { after_tokens: 2 }, true);
        add(0.01, Fault::Cut { after_tokens: 1 }, true);
        add(0.005, Fault::Truncated { after_tokens: 1 }, true);
    }
    script
}

/// Returns the faults of an outage: the model is down, the first fallback model has met its spend
/// cap, and one stream in two hundred breaks.
fn outage(windows: &[Span]) -> Vec<Incident> {
    let at = |window: &Span, fault| Incident::new(window.from, window.until, fault);
    windows
        .iter()
        .flat_map(|window| {
            [
                at(window, Fault::Overloaded).with_group(MAIN),
                at(window, Fault::SpendCap).with_group(SPENT),
                at(window, Fault::ErrorMidStream { after_tokens: 2 })
                    .with_probability(0.005)
                    .with_stream_only(),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_apart_and_cover_less_than_a_sixth() {
        let run = Duration::from_secs(60);
        for seed in 0..200 {
            let windows = storm(run, seed);
            let total: Duration = windows.iter().map(|span| span.until - span.from).sum();
            assert!(total <= run.mul_f64(0.15));
            assert!(windows.is_sorted_by(|a, b| a.until <= b.from));
            assert!(windows.last().unwrap().until <= run);
        }
    }
}
