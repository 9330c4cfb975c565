//! The right to ask a target, given back by its destructor.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{
    Class, Endpoint, Scope,
    breaker::{Transition, Verdict},
    event::{Event, emit},
};

use crate::{
    LAYER,
    layer::Config,
    outage::{Leave, Pool, Turns},
    policy::Findings,
};

/// One call's right to ask one target.
pub(crate) struct Ticket {
    config: Arc<Config>,
    model: Arc<str>,
    pool: Pool,
    leave: Option<Leave>,
}

impl Ticket {
    pub(crate) fn new(config: &Arc<Config>, model: &Arc<str>, pool: Pool, leave: Leave) -> Self {
        Self {
            config: config.clone(),
            model: model.clone(),
            pool,
            leave: Some(leave),
        }
    }

    /// Whether the call finds out if an outage is over.
    pub(crate) fn is_probe(&self) -> bool {
        self.leave.as_ref().is_some_and(Leave::is_probe)
    }

    /// Tells of a probe.
    pub(crate) fn say_probe(&self) {
        if self.is_probe() {
            let (layer, scope) = (LAYER, &self.model_scope());
            emit(
                &self.config.observers,
                &Event::CircuitProbe { layer, scope },
            );
        }
    }

    /// Says how it ended. When the target will be back, if that closed its circuit.
    pub(crate) fn settle(mut self, class: &Class) -> Option<Instant> {
        let now = Instant::now();
        let leave = self.leave.take();
        let findings = self.config.triggers.findings(class);
        let Turns { model, pool } = self.end(leave, findings, class, now);
        let back = [
            model.and_then(|turn| self.say(&self.model_scope(), turn, class)),
            pool.and_then(|turn| self.say(&self.pool_scope(), turn, class)),
        ];
        let longest = back.into_iter().flatten().max()?;
        now.checked_add(longest)
    }

    /// Says how it ended for the limits, which another model may draw on next; what it means for this one is said later.
    pub(crate) fn settle_limits(&mut self, class: &Class) {
        let limits = self.leave.as_mut().map(Leave::take_pool);
        let findings = Findings {
            model: Verdict::Ignored,
            ..self.config.triggers.findings(class)
        };
        let turns = self.end(limits, findings, class, Instant::now());
        if let Some(turn) = turns.pool {
            self.say(&self.pool_scope(), turn, class);
        }
    }

    fn end(&self, leave: Option<Leave>, findings: Findings, class: &Class, now: Instant) -> Turns {
        let Some(leave) = leave else {
            return Turns::default();
        };
        self.config.shared.outages.settle(
            &self.model,
            &self.pool,
            leave,
            findings,
            *class,
            &self.config.breaker,
            now,
            fastrand::f64(),
        )
    }

    /// Tells of a circuit's turn. How long it stays open, if it does.
    fn say(&self, scope: &Scope, turn: Transition, class: &Class) -> Option<Duration> {
        let layer = LAYER;
        match turn {
            Transition::Opened { cool_down, opens } => {
                let because = class.kind;
                emit(
                    &self.config.observers,
                    &Event::CircuitOpened {
                        layer,
                        scope,
                        because,
                        cool_down,
                        opens,
                    },
                );
                Some(cool_down)
            }
            Transition::Closed => {
                emit(
                    &self.config.observers,
                    &Event::CircuitClosed { layer, scope },
                );
                None
            }
            _ => None,
        }
    }

    fn model_scope(&self) -> Scope {
        let mut scope = Scope::named(&self.model);
        scope.endpoint = Endpoint::Messages;
        scope
    }

    fn pool_scope(&self) -> Scope {
        let mut scope = Scope::named(&self.pool.group);
        scope.endpoint = Endpoint::Messages;
        scope.credential = self.pool.credential;
        scope.fast = self.pool.fast;
        scope
    }
}

impl Drop for Ticket {
    /// A call that was given up says nothing about its target.
    fn drop(&mut self) {
        let leave = self.leave.take();
        self.end(leave, Findings::NONE, &Class::SUCCESS, Instant::now());
    }
}
