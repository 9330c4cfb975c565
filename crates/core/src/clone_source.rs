//! Which instance of a service a call uses.

use std::sync::{Mutex, PoisonError};

/// Takes the service that was polled, with what its readiness holds; a clone stays in its place.
pub fn take_ready<S: Clone>(service: &mut S) -> S {
    let clone = service.clone();
    std::mem::replace(service, clone)
}

/// A service that is never called: what a call sends again goes to a clone of it, made only then. Its lock lets calls
/// share it where the service itself is not `Sync`.
#[derive(Debug)]
pub struct CloneSource<S>(Mutex<S>);

impl<S: Clone> CloneSource<S> {
    /// A spare of this service.
    pub fn of(service: &S) -> Self {
        Self(Mutex::new(service.clone()))
    }

    /// A clone, to be called.
    pub fn get(&self) -> S {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.clone()
    }
}
