//! The incidents that a layer has warned of.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The time without a further event after which an incident is over.
pub(super) const QUIET_TIME: Duration = Duration::from_secs(60);

/// The most incidents that are told apart at the same time. Further ones count as one incident for
/// each decision, so that invented model names neither fill the memory nor the log.
pub(super) const MAX_INCIDENTS: usize = 256;

/// The incidents of one layer: what has happened lately, and when.
#[derive(Debug, Default)]
pub(super) struct Incidents(Mutex<IncidentTable>);

impl Incidents {
    /// Records an event of an incident at `now`. Returns true for the first one. `decision` and
    /// `subject` identify the incident.
    pub(super) fn is_first(&self, decision: &str, subject: &str, now: Instant) -> bool {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.is_first(decision, subject, now)
    }
}

#[derive(Debug, Default)]
struct IncidentTable {
    hasher: RandomState,
    last: HashMap<u64, Instant>,
}

impl IncidentTable {
    fn is_first(&mut self, decision: &str, subject: &str, now: Instant) -> bool {
        let mut key = self.hasher.hash_one((decision, subject));
        if !self.last.contains_key(&key) && self.last.len() >= MAX_INCIDENTS {
            self.last.retain(|_, last| !is_over(*last, now));
            if self.last.len() >= MAX_INCIDENTS {
                key = self.hasher.hash_one(decision);
            }
        }
        match self.last.insert(key, now) {
            Some(last) => is_over(last, now),
            None => true,
        }
    }
}

/// Returns true if an incident whose last event was at `last` is over at `now`.
fn is_over(last: Instant, now: Instant) -> bool {
    now.saturating_duration_since(last) >= QUIET_TIME
}
