//! The state that a layer shares with its services.

use std::{
    fmt,
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use foldhash::quality::RandomState;
use http::Request;
use tower_claude_core::{CredentialId, RequestBody, event::EventSink};
use tower_claude_wire::cloud::{Target, Unportable};

use crate::{
    options::{SpreadOptions, SpreadTarget},
    request::Residency,
    spreader::Spreader,
};

/// The name in events, rejections and logs.
pub(crate) const LAYER: &str = "spread";

/// The most requests that wait until a target is available again.
const MAX_WAITING: usize = 10_000;

/// Returns the reason why a target cannot serve a request, if there is one.
pub(crate) type Check =
    dyn Fn(&Request<RequestBody>, &Target) -> Result<(), Unportable> + Send + Sync;

/// The settings of a layer.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) targets: Vec<SpreadTarget>,
    pub(crate) options: SpreadOptions,
    pub(crate) residency: Option<Residency>,
    pub(crate) check: Option<Arc<Check>>,
    pub(crate) events: EventSink,
    pub(crate) body_limit: Option<usize>,
    /// True if the classifier is the user's, and so overrules the class of an inner layer.
    pub(crate) is_own_classifier: bool,
}

/// The settings and the state, shared by all calls.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// The targets without duplicates, by their index in the spreader.
    pub(crate) targets: Vec<SpreadTarget>,
    /// The credential of each target, unless it takes that of the caller.
    pub(crate) credentials: Vec<Option<CredentialId>>,
    /// True if a target takes the credentials of callers, whose prompts are then kept apart.
    pub(crate) has_callers: bool,
    spreader: Mutex<Spreader>,
    waiting: AtomicUsize,
    random: RandomState,
    draws: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let spreader = Spreader::new(config.options, config.targets.clone());
        let targets: Vec<SpreadTarget> = (0..spreader.len())
            .filter_map(|index| spreader.target(index).cloned())
            .collect();
        let credential = |it: &SpreadTarget| {
            let (account, name) = (it.target().account(), it.target().name());
            let id = format!("{account} {name}");
            (!it.keeps_credential()).then(|| CredentialId::new(id))
        };
        Arc::new(Self {
            credentials: targets.iter().map(credential).collect(),
            has_callers: targets.iter().any(SpreadTarget::keeps_credential),
            targets,
            spreader: Mutex::new(spreader),
            config,
            waiting: AtomicUsize::new(0),
            random: RandomState::default(),
            draws: AtomicU64::new(0),
        })
    }

    pub(crate) fn spreader(&self) -> MutexGuard<'_, Spreader> {
        self.spreader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a random number.
    pub(crate) fn draw(&self) -> u64 {
        let number = self.draws.fetch_add(1, Ordering::Relaxed);
        self.random.hash_one(number)
    }

    /// Returns a random number in `[0, 1)`.
    pub(crate) fn chance(&self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Takes one of the places of waiting requests. `None` if all are taken.
    pub(crate) fn wait(self: &Arc<Self>) -> Option<WaitPlace> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = WaitPlace(self.clone());
        (before < MAX_WAITING).then_some(place)
    }
}

/// The place of a waiting request.
pub(crate) struct WaitPlace(Arc<Shared>);

impl Drop for WaitPlace {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
