//! The end of a call, as its circuits see it.

use std::{collections::HashMap, hash::Hash};

use tokio::time::Instant;
use tower_claude_core::{
    Class,
    breaker::{Admission, Breaker, BreakerConfig, Permit, Transition, Verdict},
};

use super::{Circuit, MOST_CIRCUITS, is_failure};

/// One end of a call, for its two circuits.
pub(super) struct Ending<'a> {
    pub(super) why: Class,
    pub(super) config: &'a BreakerConfig,
    pub(super) now: Instant,
    pub(super) chance: f64,
    pub(super) next: &'a mut u64,
}

impl Ending<'_> {
    pub(super) fn settle<K: Clone + Eq + Hash>(
        &mut self,
        table: &mut HashMap<K, Circuit>,
        key: &K,
        held: Option<(u64, Permit)>,
        verdict: Verdict,
    ) -> Option<Transition> {
        let failed = is_failure(verdict);
        if failed && !table.contains_key(key) {
            self.make(table, key);
        }
        let circuit = table.get_mut(key)?;
        let permit = match held {
            Some((number, permit)) => (number == circuit.number).then_some(permit)?,
            // It was admitted before anything had failed; now it is one of the failures, or too late to count.
            None if failed => match circuit.breaker.admit(self.now, 1.0) {
                Admission::Pass(permit) if !permit.is_probe() => permit,
                Admission::Pass(permit) => {
                    let breaker = &mut circuit.breaker;
                    return breaker.settle(self.now, permit, Verdict::Ignored, self.chance);
                }
                Admission::Rejected { .. } => return None,
            },
            None => return None,
        };
        if failed {
            circuit.why = self.why;
        }
        let turn = circuit
            .breaker
            .settle(self.now, permit, verdict, self.chance);
        if circuit.breaker.is_idle(self.now) {
            table.remove(key);
        }
        turn
    }

    fn make<K: Clone + Eq + Hash>(&mut self, table: &mut HashMap<K, Circuit>, key: &K) {
        if table.len() >= MOST_CIRCUITS {
            table.retain(|_, circuit| !circuit.breaker.is_idle(self.now));
        }
        // So many at once are not models but noise: what is not watched is asked each time.
        if table.len() >= MOST_CIRCUITS {
            return;
        }
        *self.next += 1;
        let circuit = Circuit {
            number: *self.next,
            breaker: Breaker::new(*self.config),
            why: self.why,
        };
        table.insert(key.clone(), circuit);
    }
}
