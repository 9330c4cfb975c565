//! The bad moments of a run.

use std::time::Duration;

use tower_claude_fake_claude::{Fault, Incident};

/// Length of each window as a share of the run: three of them make 13.5 %.
const SHARE: f64 = 0.045;
const WINDOWS: u32 = 3;

/// A stretch of time since the server's start; the end is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

/// When the server is in trouble: one window somewhere in each third of the run.
pub(crate) fn windows(run: Duration, seed: u64) -> Vec<Span> {
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

/// What goes wrong in each window. The first die that falls that way decides, so later shares are of what is left.
pub(crate) fn script(windows: &[Span]) -> Vec<Incident> {
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
        // After content nobody may send again: these requests are lost to every client.
        add(0.01, Fault::ErrorMidStream { after_tokens: 2 }, true);
        add(0.01, Fault::Cut { after_tokens: 1 }, true);
        add(0.005, Fault::Truncated { after_tokens: 1 }, true);
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_apart_and_cover_less_than_a_sixth() {
        let run = Duration::from_secs(60);
        for seed in 0..200 {
            let windows = windows(run, seed);
            let total: Duration = windows.iter().map(|span| span.until - span.from).sum();
            assert!(total <= run.mul_f64(0.15));
            assert!(windows.is_sorted_by(|a, b| a.until <= b.from));
            assert!(windows.last().unwrap().until <= run);
        }
    }
}
