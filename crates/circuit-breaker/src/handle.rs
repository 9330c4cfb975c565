//! Looking at a layer from outside, and taking the circuits in hand.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::Instant;
use tower_claude_core::{
    Kind, Scope,
    breaker::{Breaker, BreakerSnapshot},
};

use crate::{circuits::is_of_credential, layer::Config};

/// A view of one [`CircuitBreakerLayer`](crate::CircuitBreakerLayer) and all services made from it, and the hand that opens and
/// closes its circuits. Cheap to clone.
#[derive(Clone)]
pub struct CircuitBreakerHandle {
    config: Arc<Config>,
}

/// One circuit at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CircuitSnapshot {
    /// What it is kept for.
    pub scope: Scope,
    /// Its state.
    pub breaker: BreakerSnapshot,
    /// What opened it last.
    pub because: Kind,
}

/// The state of a layer at one moment. Counts are since the layer was made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CircuitBreakerSnapshot {
    /// The circuits, in no order.
    pub circuits: Vec<CircuitSnapshot>,
    /// How often a circuit opened.
    pub opened: u64,
    /// How often a circuit closed.
    pub closed: u64,
    /// Probes let out.
    pub probes: u64,
    /// Calls refused.
    pub refused: u64,
}

impl CircuitBreakerHandle {
    pub(crate) const fn new(config: Arc<Config>) -> Self {
        Self { config }
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> CircuitBreakerSnapshot {
        let now = Instant::now();
        let circuits = &self.config.circuits;
        let all = circuits.all();
        let one = |circuit: &Arc<crate::circuits::Circuit>| {
            circuit.look(|state| CircuitSnapshot {
                scope: circuit.scope.clone(),
                breaker: state.breaker.snapshot(now),
                because: state.because,
            })
        };
        CircuitBreakerSnapshot {
            circuits: all.iter().map(one).collect(),
            opened: circuits.opened.load(Ordering::Relaxed),
            closed: circuits.closed.load(Ordering::Relaxed),
            probes: circuits.probes.load(Ordering::Relaxed),
            refused: circuits.refused.load(Ordering::Relaxed),
        }
    }

    /// Refuses every call of this scope until told otherwise. A scope is what
    /// [`Scope::of_model`] or [`Scope::of_credential`] makes, or what the layer's own function returns.
    pub fn force_open(&self, scope: &Scope) {
        self.turn(scope, |breaker| {
            breaker.force_open();
        });
    }

    /// Lets every call of this scope through until told otherwise.
    pub fn force_close(&self, scope: &Scope) {
        self.turn(scope, Breaker::force_close);
    }

    /// Goes by outcomes again, beginning with a closed circuit.
    pub fn automatic(&self, scope: &Scope) {
        self.turn(scope, Breaker::automatic);
    }

    fn turn(&self, scope: &Scope, turn: impl FnOnce(&mut Breaker)) {
        let config = if is_of_credential(scope) {
            &self.config.credentials
        } else {
            &self.config.breaker
        };
        let circuit = self.config.circuits.force(scope, config);
        circuit.with(|state| {
            state.because = Kind::Overloaded;
            turn(&mut state.breaker);
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
