//! The scopes in use.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use tower_claude_core::{AsScope, Scope};

use super::desk::Desk;
use crate::sync::RwLock;

/// Keyed anew for every map, since a client may name the group; and quick, since every request looks
/// here once.
type Desks = HashMap<Scope, Arc<Desk>, RandomState>;

/// In cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Copy(RwLock<Desks>);

/// Bounded: over the bound, idle scopes are forgotten. First those whose limits are the least spent, since another
/// that was forgotten would begin with more than is left; of those that are whole the longest unused.
///
/// Every thread reads a copy of its own, so that readers do not meet in the count of a lock; who changes the map locks
/// all of them, in order.
pub(super) struct Map {
    most: usize,
    copies: Box<[Copy]>,
}

/// The most copies; threads beyond it share them.
const MOST_COPIES: usize = 16;

impl Map {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            copies: (0..copies()).map(|_| Copy::default()).collect(),
        }
    }

    pub(super) fn get(&self, scope: &dyn AsScope) -> Option<Arc<Desk>> {
        let copy = &self.copies[thread() % self.copies.len()];
        let desks = copy.0.read().unwrap_or_else(PoisonError::into_inner);
        desks.get(scope).cloned()
    }

    pub(super) fn insert(&self, scope: &Scope, desk: impl FnOnce() -> Desk) -> Arc<Desk> {
        let locked = self.copies.iter().map(|copy| copy.0.write());
        let mut locked: Vec<_> = locked
            .map(|desks| desks.unwrap_or_else(PoisonError::into_inner))
            .collect();
        if let Some(desk) = locked[0].get(scope) {
            return desk.clone();
        }
        if locked[0].len() >= self.most {
            for scope in to_forget(&locked[0], self.most, locked.len()) {
                for desks in &mut locked {
                    desks.remove(&scope);
                }
            }
        }
        let desk = Arc::new(desk());
        for desks in &mut locked {
            desks.insert(scope.clone(), desk.clone());
        }
        desk
    }

    pub(super) fn all(&self) -> Vec<Arc<Desk>> {
        let desks = self.copies[0].0.read();
        let desks = desks.unwrap_or_else(PoisonError::into_inner);
        desks.values().cloned().collect()
    }
}

fn copies() -> usize {
    // An explorer of schedules would have to try the orders of all.
    if cfg!(test) {
        return 2;
    }
    std::thread::available_parallelism().map_or(1, |threads| threads.get().min(MOST_COPIES))
}

/// A number of this thread.
fn thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(0) };
    }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// Makes room for an eighth more than is needed, so that this is rare.
fn to_forget(desks: &Desks, most: usize, copies: usize) -> Vec<Scope> {
    // Nobody else holds it, and nobody can get it while the map is locked.
    let unused = desks
        .iter()
        .filter(|(_, desk)| Arc::strong_count(desk) == copies);
    let mut idle: Vec<_> = unused
        .filter_map(|(scope, desk)| Some((desk.idle()?, scope.clone())))
        .collect();
    let excess = desks.len() + 1 + most / 8;
    let count = excess.saturating_sub(most).min(idle.len());
    if count == 0 {
        return Vec::new();
    }
    idle.select_nth_unstable_by_key(count - 1, |(idle, _)| *idle);
    idle.truncate(count);
    idle.into_iter().map(|(_, scope)| scope).collect()
}
