//! Handle to inspect circuits and to force them open or closed.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::Instant;
use tower_claude_core::{Kind, Scope};

use crate::{
    circuits::{Circuit, is_of_credential},
    config::Config,
    permit::report_closed,
    state_machine::{Breaker, BreakerSnapshot},
};

/// A handle to the circuits of a [`CircuitBreakerLayer`](crate::CircuitBreakerLayer) and of all
/// services made from it. Cheap to clone.
#[derive(Clone)]
pub struct CircuitBreakerHandle {
    config: Arc<Config>,
}

/// A circuit at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CircuitSnapshot {
    /// The scope of the circuit.
    pub scope: Scope,
    /// The state and the counters.
    pub breaker: BreakerSnapshot,
    /// The kind of failure that opened the circuit last. `None` if it has never opened, and after
    /// manual control.
    pub because: Option<Kind>,
}

/// The state of a layer at one moment. Counters start when the layer is created.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CircuitBreakerSnapshot {
    /// The circuits, in no order.
    pub circuits: Vec<CircuitSnapshot>,
    /// The number of times that a circuit opened.
    pub opened: u64,
    /// The number of times that a circuit closed.
    pub closed: u64,
    /// The number of probes.
    pub probes: u64,
    /// The number of rejected calls.
    pub refused: u64,
}

impl CircuitBreakerHandle {
    pub(crate) const fn new(config: Arc<Config>) -> Self {
        Self { config }
    }

    /// Returns the current state.
    #[must_use]
    pub fn snapshot(&self) -> CircuitBreakerSnapshot {
        let now = Instant::now();
        let circuits = &self.config.circuits;
        let all = circuits.all();
        let snapshot_of = |circuit: &Arc<Circuit>| {
            circuit.read(|state| CircuitSnapshot {
                scope: circuit.scope.clone(),
                breaker: state.breaker.snapshot(now),
                because: state.cause,
            })
        };
        CircuitBreakerSnapshot {
            circuits: all.iter().map(snapshot_of).collect(),
            opened: circuits.opened.load(Ordering::Relaxed),
            closed: circuits.closed.load(Ordering::Relaxed),
            probes: circuits.probes.load(Ordering::Relaxed),
            refused: circuits.rejected.load(Ordering::Relaxed),
        }
    }

    /// Rejects every call of this scope until the circuit is set again. A scope is the result of
    /// [`Scope::of_model`], of [`Scope::of_credential`], or of the layer's own function.
    pub fn force_open(&self, scope: &Scope) {
        self.set(scope, Breaker::force_open);
    }

    /// Admits every call of this scope until the circuit is set again.
    pub fn force_close(&self, scope: &Scope) {
        self.set(scope, Breaker::force_close);
    }

    /// Ends manual control. The circuit is closed and without history.
    pub fn resume_automatic(&self, scope: &Scope) {
        self.set(scope, Breaker::resume_automatic);
    }

    /// Closes every circuit that a failure of this kind has opened, as if it were new. Returns
    /// their number. Manual control stays.
    ///
    /// Call it with [`Kind::SpendLimit`] after a spend limit was raised, or with
    /// [`Kind::Unauthorized`] after a key was made valid again, so that no call waits for the
    /// probe.
    pub fn reset(&self, because: Kind) -> usize {
        let mut count = 0;
        for circuit in self.config.circuits.all() {
            let was_open = circuit.update(|state| {
                let was_open = state.cause == Some(because) && state.breaker.reset();
                if was_open {
                    state.cause = None;
                }
                was_open
            });
            if was_open {
                count += 1;
                report_closed(&self.config, &circuit);
            }
        }
        count
    }

    fn set(&self, scope: &Scope, change: impl FnOnce(&mut Breaker)) {
        let config = if is_of_credential(scope) {
            &self.config.credentials
        } else {
            &self.config.breaker
        };
        let circuit = self.config.circuits.get_or_insert_unbounded(scope, config);
        circuit.update(|state| {
            state.cause = None;
            change(&mut state.breaker);
        });
    }
}

impl fmt::Debug for CircuitBreakerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerHandle")
            .field("snapshot", &self.snapshot())
            .finish()
    }
}
