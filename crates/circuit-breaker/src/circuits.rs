//! The circuits in use, and one of them behind its lock.

use std::{
    cell::Cell,
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_core::{
    AsScope, Class, Kind, Scope,
    breaker::{Breaker, BreakerConfig, Generation, Permit, Verdict, Verdicts},
};

/// Stands for a circuit that is not calm. No circuit has opened so often.
const UNCALM: u64 = u64::MAX;

/// One circuit. While it is [calm](Breaker::calm), calls pass without a lock.
#[derive(Debug)]
pub(crate) struct Circuit {
    pub(crate) scope: Scope,
    calm: AtomicU64,
    state: Mutex<Guarded>,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct Guarded {
    pub(crate) breaker: Breaker,
    /// What opened it last.
    pub(crate) because: Kind,
}

impl Circuit {
    fn new(scope: Scope, config: BreakerConfig) -> Self {
        let circuit = Self {
            scope,
            calm: AtomicU64::new(UNCALM),
            state: Mutex::new(Guarded {
                breaker: Breaker::new(config),
                because: Kind::Overloaded,
            }),
        };
        circuit.with(|_| ());
        circuit
    }

    /// What this outcome means for the circuit.
    pub(crate) fn verdict(&self, class: &Class) -> Verdict {
        let verdicts = Verdicts::of(class);
        if is_of_credential(&self.scope) {
            verdicts.credential
        } else {
            verdicts.availability
        }
    }

    /// Does something to the circuit.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Guarded) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let calm = state.breaker.calm().map_or(UNCALM, Generation::number);
        self.calm.store(calm, Ordering::Release);
        result
    }

    /// Looks at the circuit.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Guarded) -> T) -> T {
        look(&self.lock())
    }

    /// The permit of a call that passes without a lock.
    pub(crate) fn calm(&self) -> Option<Permit> {
        let calm = self.calm.load(Ordering::Acquire);
        (calm != UNCALM).then(|| Permit::calm(Generation::from_number(calm)))
    }

    /// Whether the success of this call would change nothing.
    pub(crate) fn is_calm_for(&self, permit: &Permit) -> bool {
        self.calm.load(Ordering::Acquire) == permit.generation().number()
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keyed anew for every map, since a client may name the model; and quick, since every request looks here.
type Map = HashMap<Scope, Arc<Circuit>, RandomState>;

/// Bounded: over the bound, circuits that hold nothing worth remembering are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Circuits {
    map: Copies,
    /// Whether there ever was a circuit of a credential: most programs never look for one.
    has_credentials: AtomicBool,
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) probes: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Circuits {
    pub(crate) fn get(&self, scope: &dyn AsScope) -> Option<Arc<Circuit>> {
        self.map.read().get(scope).cloned()
    }

    /// Whether a credential ever failed.
    pub(crate) fn has_credentials(&self) -> bool {
        self.has_credentials.load(Ordering::Acquire)
    }

    /// The circuit of a credential, if it ever failed.
    pub(crate) fn of_credential(&self, credential: u64) -> Option<Arc<Circuit>> {
        if credential == 0 || !self.has_credentials.load(Ordering::Acquire) {
            return None;
        }
        self.get(&Scope::of_credential(credential))
    }

    /// The circuit of this scope, made when there is none; `None` when there is no room for it.
    pub(crate) fn get_or_insert(
        &self,
        scope: Scope,
        config: &BreakerConfig,
        most: NonZeroUsize,
        now: impl FnOnce() -> Instant,
    ) -> Option<Arc<Circuit>> {
        if let Some(circuit) = self.get(&scope) {
            return Some(circuit);
        }
        let mut maps = self.map.write();
        if let Some(circuit) = maps[0].get(&scope) {
            return Some(circuit.clone());
        }
        if maps[0].len() >= most.get() {
            forget(&mut maps, now());
            if maps[0].len() >= most.get() {
                return None;
            }
        }
        Some(self.insert(&mut maps, scope, config))
    }

    /// The same, bound or not: what is forced by hand must hold.
    pub(crate) fn force(&self, scope: &Scope, config: &BreakerConfig) -> Arc<Circuit> {
        let mut maps = self.map.write();
        match maps[0].get(scope) {
            Some(circuit) => circuit.clone(),
            None => self.insert(&mut maps, scope.clone(), config),
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Circuit>> {
        self.map.read().values().cloned().collect()
    }

    fn insert(
        &self,
        maps: &mut [RwLockWriteGuard<'_, Map>],
        scope: Scope,
        config: &BreakerConfig,
    ) -> Arc<Circuit> {
        if is_of_credential(&scope) {
            self.has_credentials.store(true, Ordering::Release);
        }
        let circuit = Arc::new(Circuit::new(scope.clone(), *config));
        for map in maps {
            map.insert(scope.clone(), circuit.clone());
        }
        circuit
    }
}

/// Whether this is the scope of a credential. One that a user's function makes for a request may name a credential, too.
pub(crate) fn is_of_credential(scope: &Scope) -> bool {
    scope.credential != 0 && *scope == Scope::of_credential(scope.credential)
}

/// Makes room. What a call holds, and what still counts, stays.
fn forget(maps: &mut [RwLockWriteGuard<'_, Map>], now: Instant) {
    // Nobody else holds it, and nobody can get it while the map is locked.
    let copies = maps.len();
    let idle = maps[0].iter().filter(|(_, circuit)| {
        Arc::strong_count(circuit) == copies && circuit.look(|state| state.breaker.is_idle(now))
    });
    let idle: Vec<_> = idle.map(|(scope, _)| scope.clone()).collect();
    for map in maps {
        for scope in &idle {
            map.remove(scope);
        }
    }
}

/// A copy of the map for each thread, so that readers do not meet in the count of a lock; who changes it locks all of
/// them, in order.
#[derive(Debug)]
struct Copies(Box<[Copy]>);

/// In cache lines of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Copy(RwLock<Map>);

/// The most copies; threads beyond it share them.
const MOST_COPIES: usize = 16;

impl Default for Copies {
    fn default() -> Self {
        let threads = std::thread::available_parallelism();
        let copies = threads.map_or(1, |threads| threads.get().min(MOST_COPIES));
        Self((0..copies).map(|_| Copy::default()).collect())
    }
}

impl Copies {
    fn read(&self) -> RwLockReadGuard<'_, Map> {
        let copy = &self.0[thread() % self.0.len()];
        copy.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Vec<RwLockWriteGuard<'_, Map>> {
        let all = self.0.iter().map(|copy| copy.0.write());
        all.map(|map| map.unwrap_or_else(PoisonError::into_inner))
            .collect()
    }
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
