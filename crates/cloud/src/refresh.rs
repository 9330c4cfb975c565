//! A credential that is fetched again before it expires.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout},
};
use tower_claude_core::BoxError;

use crate::authorize::AuthorizeError;

/// The time before its end at which a credential is fetched again.
const EARLY: Duration = Duration::from_secs(5 * 60);
/// The longest time that a fetch may take.
const LONGEST_FETCH: Duration = Duration::from_secs(30);
/// The time between a failed fetch and the next one. Calls in between fail with the same error.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The shortest time that a credential is used. The clock of this machine may be wrong, so a
/// credential that seems to have expired on arrival is used nevertheless.
const SHORTEST_USE: Duration = Duration::from_secs(60);

/// A credential with its time of expiry.
#[derive(Clone)]
pub struct Issued<T> {
    value: T,
    lifetime: Option<Duration>,
}

impl<T> Issued<T> {
    /// Creates a credential that never expires.
    pub const fn forever(value: T) -> Self {
        Self {
            value,
            lifetime: None,
        }
    }

    /// Creates a credential that expires after this time, e.g. after `expires_in`.
    pub const fn lasting(value: T, lifetime: Duration) -> Self {
        Self {
            value,
            lifetime: Some(lifetime),
        }
    }

    /// Creates a credential that expires at this time. The clock is read here, so call it when the
    /// credential has arrived.
    pub fn until(value: T, expires_at: SystemTime) -> Self {
        let lifetime = expires_at.duration_since(SystemTime::now());
        Self::lasting(value, lifetime.unwrap_or_default())
    }

    /// Returns the credential converted, with the same expiry.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Issued<U> {
        Issued {
            value: map(self.value),
            lifetime: self.lifetime,
        }
    }
}

impl<T> std::fmt::Debug for Issued<T> {
    /// Leaves the credential out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

type Fetch<T> = Pin<Box<dyn Future<Output = Result<Issued<T>, BoxError>> + Send>>;

/// A credential from a source, kept until it expires.
///
/// At most one fetch runs at a time. It runs in a task of its own, so it goes on if the call that
/// started it is dropped. A clone shares the credential.
pub(crate) struct Refreshing<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    source: Box<dyn Fn() -> Fetch<T> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: Option<Current<T>>,
    /// The number of the last credential.
    number: u64,
    /// Closed when the running fetch ends, even by a panic.
    running: Option<watch::Receiver<()>>,
    failure: Option<(Instant, AuthorizeError)>,
}

struct Current<T> {
    value: Arc<T>,
    expires_at: Option<Instant>,
    refresh_at: Option<Instant>,
}

/// The answer of [`Refreshing::current`].
pub(crate) enum Lookup<T> {
    /// The credential and its number.
    Found(Arc<T>, u64),
    /// A fetch runs.
    Wait(Pin<Box<dyn Future<Output = Result<(), AuthorizeError>> + Send>>),
    /// The last fetch failed a moment ago.
    Failed(AuthorizeError),
}

impl<T: Send + Sync + 'static> Refreshing<T> {
    pub(crate) fn new<S, F>(source: S) -> Self
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Issued<T>, BoxError>> + Send + 'static,
    {
        let source = Box::new(move || Box::pin(source()) as Fetch<T>);
        let state = Mutex::new(State {
            current: None,
            number: 0,
            running: None,
            failure: None,
        });
        Self {
            shared: Arc::new(Shared { source, state }),
        }
    }

    /// Returns the credential, and starts a fetch if it is missing or expires soon.
    pub(crate) fn current(&self) -> Lookup<T> {
        let now = Instant::now();
        let mut state = self.shared.lock();
        if state.is_expired(now) {
            state.current = None;
        }
        let failed_lately = state
            .failure
            .as_ref()
            .filter(|(at, _)| now < *at + AFTER_FAILURE);
        let failure = failed_lately.map(|(_, error)| error.clone());
        let Some(current) = &state.current else {
            if let Some(error) = failure {
                return Lookup::Failed(error);
            }
            return match self.fetch(&mut state) {
                Ok(running) => Lookup::Wait(self.wait(running)),
                Err(error) => Lookup::Failed(error),
            };
        };
        let found = Lookup::Found(current.value.clone(), state.number);
        let is_due = current.refresh_at.is_some_and(|at| at <= now);
        if is_due && failure.is_none() {
            // The old credential is still valid, so an error of the fetch is of no interest yet.
            let _ = self.fetch(&mut state);
        }
        found
    }

    /// Drops the credential of this number. Returns true, because the next one is another.
    pub(crate) fn reject(&self, number: u64) -> bool {
        let mut state = self.shared.lock();
        if state.number == number {
            state.current = None;
        }
        true
    }

    /// Returns the fetch that runs, or starts one.
    fn fetch(&self, state: &mut State<T>) -> Result<watch::Receiver<()>, AuthorizeError> {
        if let Some(running) = state.running.clone().filter(is_open) {
            return Ok(running);
        }
        let Ok(runtime) = Handle::try_current() else {
            return Err(AuthorizeError::new(
                "a credential is fetched in a Tokio runtime",
            ));
        };
        let (sender, running) = watch::channel(());
        state.running = Some(running.clone());
        let shared = self.shared.clone();
        runtime.spawn(async move {
            let fetched = timeout(LONGEST_FETCH, (shared.source)()).await;
            let fetched = fetched.unwrap_or_else(|_| Err("the source did not answer".into()));
            shared.lock().finish(fetched, Instant::now());
            drop(sender);
        });
        Ok(running)
    }

    /// Waits for the end of a fetch.
    fn wait(
        &self,
        mut running: watch::Receiver<()>,
    ) -> Pin<Box<dyn Future<Output = Result<(), AuthorizeError>> + Send>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            // Nothing is ever sent, so this ends when the sender is dropped.
            while running.changed().await.is_ok() {}
            let state = shared.lock();
            match &state.failure {
                _ if state.current.is_some() => Ok(()),
                Some((_, error)) => Err(error.clone()),
                None => Err(AuthorizeError::new("the source ended without a result")),
            }
        })
    }
}

fn is_open(running: &watch::Receiver<()>) -> bool {
    running.has_changed().is_ok()
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn is_expired(&self, now: Instant) -> bool {
        let expires_at = self.current.as_ref().and_then(|current| current.expires_at);
        expires_at.is_some_and(|at| at <= now)
    }

    fn finish(&mut self, fetched: Result<Issued<T>, BoxError>, now: Instant) {
        self.running = None;
        match fetched {
            Ok(issued) => {
                let lifetime = issued.lifetime.map(|lifetime| lifetime.max(SHORTEST_USE));
                let before = |lifetime: Duration| lifetime.saturating_sub(EARLY).max(lifetime / 2);
                self.number += 1;
                self.failure = None;
                self.current = Some(Current {
                    value: Arc::new(issued.value),
                    // An expiry too far to express never comes.
                    expires_at: lifetime.and_then(|lifetime| now.checked_add(lifetime)),
                    refresh_at: lifetime.and_then(|lifetime| now.checked_add(before(lifetime))),
                });
            }
            Err(error) => self.failure = Some((now, AuthorizeError::new(error))),
        }
    }
}

impl<T> Clone for Refreshing<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}
