//! What an admitted call holds of one circuit.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, Kind, RejectReason, Rejection,
    breaker::{Admission, Generation, Permit, Transition, Verdict, Verdicts},
    event::{Event, emit},
};

use crate::{
    LAYER,
    circuits::{Circuit, is_of_credential},
    layer::Config,
};

/// A permit of one circuit. Dropped, it says nothing about the server, unless a timer ended the call.
pub(crate) struct Ticket {
    config: Arc<Config>,
    circuit: Arc<Circuit>,
    stage: Stage,
    /// Tells whether the request waits inside, and whether a timer ended it.
    pub(crate) context: Option<Arc<Call>>,
}

/// How far the call is.
enum Stage {
    Held(Permit),
    /// Settled as a success. A break of its stream would have to name the generation.
    Began(Generation),
    Over,
}

impl Ticket {
    /// Asks the circuit.
    pub(crate) fn claim(config: &Arc<Config>, circuit: Arc<Circuit>) -> Result<Self, Rejection> {
        let permit = match circuit.calm() {
            Some(permit) => permit,
            None => match ask(config, &circuit) {
                Ok(permit) => permit,
                Err(refusal) => return Err(tell(config, &circuit, refusal)),
            },
        };
        Ok(Self {
            config: config.clone(),
            circuit,
            stage: Stage::Held(permit),
            context: None,
        })
    }

    /// Of a call that has passed a calm circuit.
    pub(crate) fn calm(
        config: &Arc<Config>,
        circuit: Arc<Circuit>,
        generation: Generation,
    ) -> Self {
        Self {
            config: config.clone(),
            circuit,
            stage: Stage::Held(Permit::calm(generation)),
            context: None,
        }
    }

    /// The refusal of a call that waits for the inner service and would be refused by now.
    pub(crate) fn refusal(config: &Config, circuit: &Circuit) -> Option<Rejection> {
        if circuit.calm().is_some() {
            return None;
        }
        let refusal = circuit.look(|state| {
            let retry_after = state.breaker.refuses(Instant::now())?;
            let reason = RejectReason::CircuitOpen {
                because: state.because,
            };
            Some(Rejection::new(LAYER, reason).with_retry_after(retry_after))
        })?;
        Some(tell(config, circuit, refusal))
    }

    pub(crate) fn is_probe(&self) -> bool {
        matches!(&self.stage, Stage::Held(permit) if permit.is_probe())
    }

    /// Counts a probe, and says it.
    pub(crate) fn say_probe(&self) {
        if self.is_probe() {
            self.config.circuits.probes.fetch_add(1, Ordering::Relaxed);
            emit(
                &self.config.observers,
                &Event::CircuitProbe {
                    layer: LAYER,
                    scope: &self.circuit.scope,
                },
            );
        }
    }

    /// Whether the circuit wants to know when the request is sent.
    pub(crate) fn is_timed(&self) -> bool {
        self.is_probe() || self.circuit_times_calls()
    }

    fn circuit_times_calls(&self) -> bool {
        self.config.breaker.times_calls()
    }

    /// The request leaves now.
    pub(crate) fn sent(&mut self) {
        if let Stage::Held(permit) = &mut self.stage {
            let now = Instant::now();
            self.circuit.with(|state| state.breaker.sent(now, permit));
        }
    }

    /// Asks anew for a probe that has waited for so long that its place went to another, or the circuit has turned: it may
    /// have closed. The refusal, if it has not.
    pub(crate) fn lost(&mut self) -> Option<Rejection> {
        let Stage::Held(permit) = &self.stage else {
            return None;
        };
        if self.circuit.look(|state| state.breaker.holds(permit)) {
            return None;
        }
        match ask(&self.config, &self.circuit) {
            Ok(permit) => {
                self.stage = Stage::Held(permit);
                None
            }
            Err(refusal) => Some(tell(&self.config, &self.circuit, refusal)),
        }
    }

    /// The content has begun: a success, after which a stream may still break off.
    pub(crate) fn begin(&mut self) {
        if let Some(generation) = self.settle(Verdict::Success, Kind::Success) {
            self.stage = Stage::Began(generation);
        }
    }

    /// The answer has ended well.
    pub(crate) fn complete(&mut self) {
        self.settle(Verdict::Success, Kind::Success);
        self.stage = Stage::Over;
    }

    /// Ends the call, and names its generation.
    pub(crate) fn settle(&mut self, verdict: Verdict, kind: Kind) -> Option<Generation> {
        let permit = match mem::replace(&mut self.stage, Stage::Over) {
            Stage::Held(permit) => permit,
            stage => {
                self.stage = stage;
                return None;
            }
        };
        let generation = permit.generation();
        if verdict == Verdict::Success && self.circuit.is_calm_for(&permit) {
            return Some(generation);
        }
        let now = Instant::now();
        let transition = self.circuit.with(|state| {
            let transition = state.breaker.settle(now, permit, verdict, fastrand::f64());
            note(&mut state.because, transition, kind);
            transition
        });
        say(&self.config, &self.circuit, transition, kind);
        Some(generation)
    }

    /// The answer has failed: before its content, or as a stream that was settled as a success and has broken off.
    pub(crate) fn broke_off(&mut self, class: Class) {
        let verdict = self.circuit.verdict(&class);
        let Stage::Began(generation) = self.stage else {
            self.settle(verdict, class.kind);
            return;
        };
        self.stage = Stage::Over;
        let now = Instant::now();
        let transition = self.circuit.with(|state| {
            let transition = state
                .breaker
                .broke_off(now, generation, verdict, fastrand::f64());
            note(&mut state.because, transition, class.kind);
            transition
        });
        say(&self.config, &self.circuit, transition, class.kind);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let timed_out = self
            .context
            .as_ref()
            .is_some_and(|context| context.is_timed_out() && !context.is_held_back());
        if timed_out {
            self.broke_off(Class::new(Kind::Timeout));
        } else {
            self.settle(Verdict::Ignored, Kind::Timeout);
        }
    }
}

/// Opens the circuit of a credential that had none when the call was made: if it has opened since, this is old news.
pub(crate) fn trip(config: &Config, circuit: &Circuit, class: &Class) {
    let verdict = Verdicts::of(class).credential;
    let now = Instant::now();
    let permit = Permit::calm(Generation::from_number(0));
    let transition = circuit.with(|state| {
        let transition = state.breaker.settle(now, permit, verdict, fastrand::f64());
        note(&mut state.because, transition, class.kind);
        transition
    });
    say(config, circuit, transition, class.kind);
}

/// Asks a circuit that is not calm.
fn ask(config: &Config, circuit: &Circuit) -> Result<Permit, Rejection> {
    let now = Instant::now();
    let (admission, because) = circuit.with(|state| {
        let admission = state.breaker.admit(now, fastrand::f64());
        // That a probe hangs is no news of a credential.
        if let Admission::Rejected { transition, .. } = admission
            && !is_of_credential(&circuit.scope)
        {
            note(&mut state.because, transition, Kind::Timeout);
        }
        (admission, state.because)
    });
    match admission {
        Admission::Pass(permit) => Ok(permit),
        Admission::Rejected {
            retry_after,
            transition,
        } => {
            say(config, circuit, transition, because);
            let reason = RejectReason::CircuitOpen { because };
            Err(Rejection::new(LAYER, reason).with_retry_after(retry_after))
        }
    }
}

/// Counts a refusal, and says it.
fn tell(config: &Config, circuit: &Circuit, refusal: Rejection) -> Rejection {
    config.circuits.refused.fetch_add(1, Ordering::Relaxed);
    emit(
        &config.observers,
        &Event::Rejected {
            layer: LAYER,
            scope: Some(&circuit.scope),
            reason: refusal.reason,
            class: refusal.class(),
        },
    );
    refusal
}

/// Keeps what opened the circuit.
fn note(because: &mut Kind, transition: Option<Transition>, kind: Kind) {
    if let Some(Transition::Opened { .. }) = transition {
        *because = kind;
    }
}

/// Tells of a transition, after the lock.
fn say(config: &Config, circuit: &Circuit, transition: Option<Transition>, because: Kind) {
    let scope = &circuit.scope;
    let event = match transition {
        Some(Transition::Opened { cool_down, opens }) => {
            config.circuits.opened.fetch_add(1, Ordering::Relaxed);
            Event::CircuitOpened {
                layer: LAYER,
                scope,
                because,
                cool_down,
                opens,
            }
        }
        Some(_) => {
            config.circuits.closed.fetch_add(1, Ordering::Relaxed);
            Event::CircuitClosed {
                layer: LAYER,
                scope,
            }
        }
        None => return,
    };
    emit(&config.observers, &event);
}
