//! The permit that an admitted call holds of one circuit.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::Instant;
use tower_claude_core::{
    Class, Kind, RejectReason, Rejection, Scope,
    driver::Clock,
    event::{Event, emit},
};

use crate::{
    circuits::{Circuit, is_of_credential},
    config::{Config, LAYER},
    state_machine::{
        Admission, CircuitOutcome, CircuitOutcomes, Generation, Origin, Permit, Transition,
    },
};

/// A permit for one call through a circuit. If it is dropped before an outcome is known, the call
/// was given up: a probe frees its place, and nothing is counted.
pub(crate) struct CallPermit {
    circuit: Arc<Circuit>,
    state: PermitState,
    /// True while the call is counted in the circuit's number of calls in flight.
    is_in_flight: bool,
}

/// The progress of the call.
enum PermitState {
    /// The outcome is not known yet.
    Admitted(Permit),
    /// Settled as a success at the first content. A failure of the stream names the origin.
    Began(Origin),
    Over,
}

impl CallPermit {
    /// Admits a call. On the fast path of the circuit this takes neither the lock nor the time.
    #[inline]
    pub(crate) fn admit(
        config: &Config,
        circuit: Arc<Circuit>,
        clock: &mut Clock,
    ) -> Result<Self, Rejection> {
        let permit = match circuit.fast_path() {
            Some(permit) => permit,
            None => try_admit(config, &circuit, clock.now())?,
        };
        Ok(Self {
            circuit,
            state: PermitState::Admitted(permit),
            is_in_flight: false,
        })
    }

    /// Counts and reports the call if it is a probe.
    #[inline]
    pub(crate) fn report_probe(&self, config: &Config) {
        if let PermitState::Admitted(permit) = &self.state
            && permit.is_probe()
        {
            report_probe(config, &self.circuit);
        }
    }

    /// Records that the request is sent. Takes the lock if the circuit measures the time of the
    /// call or has counted failures.
    #[inline]
    pub(crate) fn on_sent(&mut self) {
        if !self.is_in_flight {
            self.is_in_flight = true;
            self.circuit.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        if let PermitState::Admitted(permit) = &self.state
            && (permit.is_probe()
                || self.circuit.times_calls
                || !self.circuit.is_fast_path_of(permit))
        {
            self.record_sent();
        }
    }

    #[cold]
    fn record_sent(&mut self) {
        if let PermitState::Admitted(permit) = &mut self.state {
            let now = Instant::now();
            self.circuit.update(|state| state.breaker.sent(now, permit));
        }
    }

    /// Admits a waiting call again if its circuit has opened or closed since, or the lease of its
    /// probe has expired. Returns the rejection if it must not be sent any more.
    #[inline]
    pub(crate) fn revalidate(&mut self, config: &Config) -> Option<Rejection> {
        match &self.state {
            PermitState::Admitted(permit) if !self.circuit.is_fast_path_of(permit) => {
                self.revalidate_locked(config)
            }
            _ => None,
        }
    }

    /// Revalidates the permit under the lock of the circuit.
    #[cold]
    fn revalidate_locked(&mut self, config: &Config) -> Option<Rejection> {
        let PermitState::Admitted(permit) = &self.state else {
            return None;
        };
        if self.circuit.read(|state| state.breaker.is_valid(permit)) {
            return None;
        }
        let was_probe = permit.is_probe();
        match try_admit(config, &self.circuit, Instant::now()) {
            Ok(permit) => {
                self.state = PermitState::Admitted(permit);
                // A renewed probe was reported before.
                if !was_probe {
                    self.report_probe(config);
                }
                None
            }
            Err(rejection) => Some(rejection),
        }
    }

    /// Records the first content, which is the success of the call. A stream may still fail later.
    #[inline]
    pub(crate) fn begin(&mut self, config: &Config) {
        if let PermitState::Admitted(permit) = &self.state {
            let origin = permit.origin();
            self.succeed(config, Instant::now);
            self.state = PermitState::Began(origin);
        }
    }

    /// Records a success, unless the outcome is known already. On the fast path of the circuit this
    /// takes neither the lock nor the time.
    #[inline]
    pub(crate) fn succeed(&mut self, config: &Config, now: impl FnOnce() -> Instant) {
        match &self.state {
            PermitState::Admitted(permit) if !self.circuit.is_fast_path_of(permit) => {
                self.settle(config, CircuitOutcome::Success, Kind::Success, now());
            }
            _ => {
                self.land();
                self.state = PermitState::Over;
            }
        }
    }

    /// Records the outcome, unless it is known already.
    #[cold]
    pub(crate) fn settle(
        &mut self,
        config: &Config,
        outcome: CircuitOutcome,
        kind: Kind,
        now: Instant,
    ) {
        self.land();
        let state = mem::replace(&mut self.state, PermitState::Over);
        if let PermitState::Admitted(permit) = state {
            settle(config, &self.circuit, permit, outcome, kind, now);
        }
    }

    /// Records a failure: before the content, or of a stream that has been settled as a success.
    #[cold]
    pub(crate) fn fail(&mut self, config: &Config, class: &Class, now: Instant) {
        let outcome = CircuitOutcomes::of(class).availability;
        let PermitState::Began(origin) = self.state else {
            self.settle(config, outcome, class.kind, now);
            return;
        };
        self.state = PermitState::Over;
        let transition = self.circuit.update(|state| {
            let chance = fastrand::f64();
            let in_flight = self.circuit.in_flight.load(Ordering::Relaxed);
            let breaker = &mut state.breaker;
            let transition = breaker.stream_failed(now, origin, outcome, in_flight, chance);
            state.set_cause(transition, class.kind);
            transition
        });
        report_transition(config, &self.circuit, transition, class.kind);
    }

    /// Returns the scope of the circuit.
    pub(crate) fn scope(&self) -> &Scope {
        &self.circuit.scope
    }

    /// Returns the end of the cool-down if the circuit is open.
    pub(crate) fn open_until(&self, now: Instant) -> Option<Instant> {
        let snapshot = self.circuit.read(|state| state.breaker.snapshot(now));
        now.checked_add(snapshot.retry_after?)
    }

    /// Records that the call is not in flight any more.
    #[inline]
    fn land(&mut self) {
        if mem::take(&mut self.is_in_flight) {
            self.circuit.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Frees the place of a probe, or the place among the pending calls of a row of failures.
    #[cold]
    fn give_up(&mut self) {
        if let PermitState::Admitted(permit) = mem::replace(&mut self.state, PermitState::Over) {
            let (now, outcome) = (Instant::now(), CircuitOutcome::Ignored);
            self.circuit.update(|state| {
                // A call that was given up changes no state, so no random number is needed.
                let _ = state.breaker.settle(now, permit, outcome, 0, 0.0);
            });
        }
    }
}

impl Drop for CallPermit {
    #[inline]
    fn drop(&mut self) {
        self.land();
        // A call on the fast path has nothing to give back.
        if let PermitState::Admitted(permit) = &self.state
            && permit.is_awaited()
        {
            self.give_up();
        }
    }
}

/// Settles a call of a credential that had no circuit when the call was made. If the circuit has
/// opened since, the outcome is out of date and ignored.
pub(crate) fn settle_now(
    config: &Config,
    circuit: &Circuit,
    outcome: CircuitOutcome,
    kind: Kind,
    now: Instant,
) {
    let permit = Permit::fast_path(Generation::FIRST);
    settle(config, circuit, permit, outcome, kind, now);
}

fn settle(
    config: &Config,
    circuit: &Circuit,
    permit: Permit,
    outcome: CircuitOutcome,
    kind: Kind,
    now: Instant,
) {
    let transition = circuit.update(|state| {
        let (in_flight, chance) = (circuit.in_flight.load(Ordering::Relaxed), fastrand::f64());
        let breaker = &mut state.breaker;
        let transition = breaker.settle(now, permit, outcome, in_flight, chance);
        state.set_cause(transition, kind);
        transition
    });
    report_transition(config, circuit, transition, kind);
}

/// Admits a call under the lock of the circuit.
#[cold]
fn try_admit(config: &Config, circuit: &Circuit, now: Instant) -> Result<Permit, Rejection> {
    let (admission, cause) = circuit.update(|state| {
        let admission = state.breaker.admit(now, fastrand::f64());
        // A probe without an outcome is no evidence about a credential, so its cause stays.
        if let Admission::Rejected { transition, .. } = admission
            && !is_of_credential(&circuit.scope)
        {
            state.set_cause(transition, Kind::Timeout);
        }
        (admission, state.cause)
    });
    match admission {
        Admission::Pass(permit) => Ok(permit),
        Admission::Rejected {
            retry_after,
            transition,
        } => {
            report_transition(config, circuit, transition, cause.unwrap_or(Kind::Timeout));
            let because = cause.unwrap_or(Kind::Overloaded);
            let reason = RejectReason::CircuitOpen { because };
            let rejection = Rejection::new(LAYER, reason).with_retry_after(retry_after);
            report_rejection(config, circuit, &rejection);
            Err(rejection)
        }
    }
}

#[cold]
fn report_probe(config: &Config, circuit: &Circuit) {
    config.circuits.probes.fetch_add(1, Ordering::Relaxed);
    let scope = &circuit.scope;
    let layer = LAYER;
    emit(&config.observers, &Event::CircuitProbe { layer, scope });
}

fn report_rejection(config: &Config, circuit: &Circuit, rejection: &Rejection) {
    config.circuits.rejected.fetch_add(1, Ordering::Relaxed);
    emit(
        &config.observers,
        &Event::Rejected {
            layer: LAYER,
            scope: Some(&circuit.scope),
            reason: rejection.reason,
            class: rejection.class(),
        },
    );
}

/// Counts and reports that a circuit was closed by hand. Called without the lock.
pub(crate) fn report_closed(config: &Config, circuit: &Circuit) {
    let closed = Some(Transition::Closed);
    report_transition(config, circuit, closed, Kind::Success);
}

/// Counts and reports a transition. Called without the lock.
fn report_transition(
    config: &Config,
    circuit: &Circuit,
    transition: Option<Transition>,
    because: Kind,
) {
    let scope = &circuit.scope;
    let (count, event) = match transition {
        Some(Transition::Opened { cool_down, opens }) => (
            &config.circuits.opened,
            Event::CircuitOpened {
                layer: LAYER,
                scope,
                because,
                cool_down,
                opens,
            },
        ),
        Some(Transition::Closed) => (
            &config.circuits.closed,
            Event::CircuitClosed {
                layer: LAYER,
                scope,
            },
        ),
        None => return,
    };
    count.fetch_add(1, Ordering::Relaxed);
    emit(&config.observers, &event);
}
