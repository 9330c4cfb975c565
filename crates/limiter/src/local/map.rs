//! The scopes in use.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use foldhash::fast::RandomState;
use tower_claude_core::Scope;

use super::desk::Desk;
use crate::sync::RwLock;

/// Keyed anew for every map, since a client may name the group; and quick, since every request looks
/// here once.
type Desks = HashMap<Scope, Arc<Desk>, RandomState>;

/// Bounded: over the bound, idle scopes are forgotten. First those whose limits are the least spent, since another
/// that was forgotten would begin with more than is left; of those that are whole the longest unused.
pub(super) struct Map {
    most: usize,
    desks: RwLock<Desks>,
}

impl Map {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            desks: RwLock::default(),
        }
    }

    pub(super) fn get(&self, scope: &Scope) -> Option<Arc<Desk>> {
        let desks = self.desks.read().unwrap_or_else(PoisonError::into_inner);
        desks.get(scope).cloned()
    }

    pub(super) fn insert(&self, scope: &Scope, desk: impl FnOnce() -> Desk) -> Arc<Desk> {
        let mut desks = self.desks.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(desk) = desks.get(scope) {
            return desk.clone();
        }
        if desks.len() >= self.most {
            forget(&mut desks, self.most);
        }
        let desk = Arc::new(desk());
        desks.insert(scope.clone(), desk.clone());
        desk
    }

    pub(super) fn all(&self) -> Vec<Arc<Desk>> {
        let desks = self.desks.read().unwrap_or_else(PoisonError::into_inner);
        desks.values().cloned().collect()
    }
}

/// Makes room for an eighth more than is needed, so that this is rare.
fn forget(desks: &mut Desks, most: usize) {
    // Nobody else holds it, and nobody can get it while the map is locked.
    let unused = desks
        .iter()
        .filter(|(_, desk)| Arc::strong_count(desk) == 1);
    let mut idle: Vec<_> = unused
        .filter_map(|(scope, desk)| Some((desk.idle()?, scope.clone())))
        .collect();
    let excess = desks.len() + 1 + most / 8;
    let count = excess.saturating_sub(most).min(idle.len());
    if count == 0 {
        return;
    }
    idle.select_nth_unstable_by_key(count - 1, |(idle, _)| *idle);
    for (_, scope) in idle.drain(..count) {
        desks.remove(&scope);
    }
}
