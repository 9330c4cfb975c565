//! The table of circuits, and a circuit with its lock.

use std::{
    cell::Cell,
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_core::{
    Kind, Scope,
    toolkit::{AsScope, get_by_scope},
};

use crate::state_machine::{Breaker, BreakerConfig, Generation, Permit, Transition};

/// The value of [`Circuit::fast_path`] while calls must take the lock. No generation is so large.
const SLOW_PATH: u64 = u64::MAX;

/// A circuit with its lock. On its [fast path](Breaker::fast_path_generation) calls pass without
/// the lock.
#[derive(Debug)]
pub(crate) struct Circuit {
    pub(crate) scope: Scope,
    /// True if the time of every call matters.
    pub(crate) times_calls: bool,
    /// The number of calls that have been sent and have no outcome.
    pub(crate) in_flight: AtomicU32,
    /// The generation, or [`SLOW_PATH`].
    fast_path: AtomicU64,
    state: Mutex<CircuitState>,
}

/// The state behind the lock of a circuit.
#[derive(Debug)]
pub(crate) struct CircuitState {
    pub(crate) breaker: Breaker,
    /// The kind of failure that opened the circuit last.
    pub(crate) cause: Option<Kind>,
}

impl CircuitState {
    /// Keeps the kind of failure if it has opened the circuit.
    pub(crate) fn set_cause(&mut self, transition: Option<Transition>, kind: Kind) {
        if let Some(Transition::Opened { .. }) = transition {
            self.cause = Some(kind);
        }
    }
}

impl Circuit {
    fn new(scope: Scope, config: BreakerConfig) -> Self {
        let circuit = Self {
            scope,
            times_calls: config.times_calls(),
            in_flight: AtomicU32::new(0),
            fast_path: AtomicU64::new(SLOW_PATH),
            state: Mutex::new(CircuitState {
                breaker: Breaker::new(config),
                cause: None,
            }),
        };
        circuit.update(|_| ());
        circuit
    }

    /// Changes the state under the lock.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut CircuitState) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let generation = state.breaker.fast_path_generation();
        let generation = generation.map_or(SLOW_PATH, Generation::number);
        self.fast_path.store(generation, Ordering::Release);
        result
    }

    /// Reads the state under the lock.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&CircuitState) -> T) -> T {
        read(&self.lock())
    }

    /// Returns the permit of a call on the fast path, or `None` if the call must take the lock.
    #[inline]
    pub(crate) fn fast_path(&self) -> Option<Permit> {
        let number = self.fast_path.load(Ordering::Acquire);
        (number != SLOW_PATH).then(|| Permit::fast_path(Generation::from_number(number)))
    }

    /// Returns true if the success of this call would change nothing.
    #[inline]
    pub(crate) fn is_fast_path_of(&self, permit: &Permit) -> bool {
        self.fast_path.load(Ordering::Acquire) == permit.generation().number()
    }

    fn lock(&self) -> MutexGuard<'_, CircuitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Hashed with a random key, because clients name the models. Fast, because every request looks
// here.
type CircuitMap = HashMap<Scope, Arc<Circuit>, RandomState>;

/// The number of places for credentials that have worked. Credentials with the same place replace
/// each other, and then a single 401 opens the circuit.
const WORKED: usize = 256;

/// A bounded table of circuits by scope. Idle circuits are evicted when it is full.
#[derive(Debug)]
pub(crate) struct CircuitTable {
    map: ReplicatedMap,
    /// The hashes of credentials that have worked.
    worked: Box<[AtomicU64]>,
    /// True if there ever was a circuit of a credential. Most programs never have one.
    has_credentials: AtomicBool,
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) probes: AtomicU64,
    pub(crate) rejected: AtomicU64,
}

impl Default for CircuitTable {
    fn default() -> Self {
        Self {
            map: ReplicatedMap::default(),
            worked: std::iter::repeat_with(AtomicU64::default)
                .take(WORKED)
                .collect(),
            has_credentials: AtomicBool::new(false),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        }
    }
}

impl CircuitTable {
    /// Records a success of this credential. Mostly that is a read of memory that no one writes.
    #[inline]
    pub(crate) fn set_worked(&self, credential: u64) {
        let place = &self.worked[credential as usize % WORKED];
        if place.load(Ordering::Relaxed) != credential {
            place.store(credential, Ordering::Relaxed);
        }
    }

    /// Returns true if this credential has worked.
    pub(crate) fn has_worked(&self, credential: u64) -> bool {
        credential != 0
            && self.worked[credential as usize % WORKED].load(Ordering::Relaxed) == credential
    }

    /// Returns the circuit of this scope.
    pub(crate) fn get(&self, scope: &dyn AsScope) -> Option<Arc<Circuit>> {
        get_by_scope(&self.map.read(), scope).cloned()
    }

    /// Returns the circuit of a credential that has failed before.
    #[inline]
    pub(crate) fn of_credential(&self, credential: u64) -> Option<Arc<Circuit>> {
        if credential == 0 || !self.has_credentials.load(Ordering::Acquire) {
            return None;
        }
        self.get(&Scope::of_credential(credential))
    }

    /// Returns the circuit of this scope and creates it if it is missing. Returns `None` if the
    /// table is full of circuits in use.
    pub(crate) fn get_or_insert(
        &self,
        scope: &Scope,
        config: &BreakerConfig,
        most: NonZeroUsize,
        now: impl FnOnce() -> Instant,
    ) -> Option<Arc<Circuit>> {
        if let Some(circuit) = self.get(scope) {
            return Some(circuit);
        }
        let mut maps = self.map.write();
        if let Some(circuit) = maps[0].get(scope) {
            return Some(circuit.clone());
        }
        if maps[0].len() >= most.get() {
            evict_idle(&mut maps, now());
            if maps[0].len() >= most.get() {
                return None;
            }
        }
        Some(self.insert(&mut maps, scope, config))
    }

    /// Returns the circuit of this scope and creates it even if the table is full, so that manual
    /// control always has an effect.
    pub(crate) fn get_or_insert_unbounded(
        &self,
        scope: &Scope,
        config: &BreakerConfig,
    ) -> Arc<Circuit> {
        let mut maps = self.map.write();
        match maps[0].get(scope) {
            Some(circuit) => circuit.clone(),
            None => self.insert(&mut maps, scope, config),
        }
    }

    /// Evicts the circuit of this scope if its history does not matter.
    pub(crate) fn evict_if_idle(&self, scope: &Scope, now: Instant) {
        let mut maps = self.map.write();
        // No other reference can appear while all maps are locked.
        let replicas = maps.len();
        let is_idle = |circuit: &Arc<Circuit>| {
            Arc::strong_count(circuit) == replicas
                && circuit.read(|state| state.breaker.is_idle(now))
        };
        if maps[0].get(scope).is_some_and(is_idle) {
            maps.iter_mut().for_each(|map| drop(map.remove(scope)));
        }
    }

    /// Returns all circuits, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Circuit>> {
        self.map.read().values().cloned().collect()
    }

    fn insert(
        &self,
        maps: &mut [RwLockWriteGuard<'_, CircuitMap>],
        scope: &Scope,
        config: &BreakerConfig,
    ) -> Arc<Circuit> {
        if is_of_credential(scope) {
            self.has_credentials.store(true, Ordering::Release);
        }
        let circuit = Arc::new(Circuit::new(scope.clone(), *config));
        for map in maps {
            map.insert(scope.clone(), circuit.clone());
        }
        circuit
    }
}

/// Returns true if this is the scope of a credential circuit. A scope made by a user's function may
/// contain a credential as well.
pub(crate) fn is_of_credential(scope: &Scope) -> bool {
    scope.credential != 0 && *scope == Scope::of_credential(scope.credential)
}

/// Evicts circuits that no call holds and whose history does not matter any more.
fn evict_idle(maps: &mut [RwLockWriteGuard<'_, CircuitMap>], now: Instant) {
    // No other reference can appear while all maps are locked.
    let replicas = maps.len();
    let idle = maps[0].iter().filter(|(_, circuit)| {
        Arc::strong_count(circuit) == replicas && circuit.read(|state| state.breaker.is_idle(now))
    });
    let idle: Vec<_> = idle.map(|(scope, _)| scope.clone()).collect();
    for map in maps {
        for scope in &idle {
            map.remove(scope);
        }
    }
}

/// A map with a replica for each thread, so that readers do not contend for the counter of a lock.
/// A writer locks all replicas in order.
#[derive(Debug)]
struct ReplicatedMap(Box<[Replica]>);

/// A replica in cache lines of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Replica(RwLock<CircuitMap>);

/// The most replicas. More threads share them.
const MOST_REPLICAS: usize = 16;

impl Default for ReplicatedMap {
    fn default() -> Self {
        let threads = std::thread::available_parallelism();
        let replicas = threads.map_or(1, |threads| threads.get().min(MOST_REPLICAS));
        Self((0..replicas).map(|_| Replica::default()).collect())
    }
}

impl ReplicatedMap {
    fn read(&self) -> RwLockReadGuard<'_, CircuitMap> {
        let replica = &self.0[thread_number() % self.0.len()];
        replica.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Vec<RwLockWriteGuard<'_, CircuitMap>> {
        let all = self.0.iter().map(|replica| replica.0.write());
        all.map(|map| map.unwrap_or_else(PoisonError::into_inner))
            .collect()
    }
}

/// Returns a number of this thread.
fn thread_number() -> usize {
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
