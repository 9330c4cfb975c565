//! The circuits and their states.

use serde::Serialize;

use super::samples::Samples;

/// A circuit.
#[derive(Debug, Serialize)]
pub(super) struct CircuitState {
    pub(super) name: String,
    /// `closed`, `probing` or `open`.
    pub(super) state: &'static str,
}

/// Returns the circuits by name.
pub(super) fn circuits(samples: &Samples) -> Vec<CircuitState> {
    let all = samples.of("tower_claude_circuit_state");
    let mut circuits: Vec<_> = all
        .map(|series| CircuitState {
            name: series.label("circuit").to_owned(),
            state: match series.last() as u8 {
                0 => "closed",
                1 => "probing",
                _ => "open",
            },
        })
        .collect();
    circuits.sort_by(|a, b| a.name.cmp(&b.name));
    circuits
}
