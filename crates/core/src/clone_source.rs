//! Helpers to clone services without losing their readiness.

use std::sync::{Mutex, PoisonError};

/// Takes the service that is ready, and leaves a clone in its place.
///
/// The readiness of a service may hold a resource, for example a permit. It must therefore be used
/// by the instance that was polled, and not by a clone.
pub fn take_ready<S: Clone>(service: &mut S) -> S {
    let clone = service.clone();
    std::mem::replace(service, clone)
}

/// A service that is never called, only cloned.
///
/// A call that is sent again is sent to a clone that is made only then. The lock lets calls share
/// the service if it is not `Sync`.
#[derive(Debug)]
pub struct CloneSource<S>(Mutex<S>);

impl<S: Clone> CloneSource<S> {
    /// Keeps a clone of this service.
    pub fn of(service: &S) -> Self {
        Self(Mutex::new(service.clone()))
    }

    /// Returns a clone to call.
    pub fn get(&self) -> S {
        let service = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        service.clone()
    }
}
