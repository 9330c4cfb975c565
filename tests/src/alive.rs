//! A counter of live values.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A counter of live guards.
#[derive(Clone, Debug, Default)]
pub struct Alive(Arc<AtomicUsize>);

impl Alive {
    /// Returns a counter without guards.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a guard, which counts until it is dropped.
    #[must_use]
    pub fn guard(&self) -> Guard {
        self.0.fetch_add(1, Ordering::Relaxed);
        Guard(self.clone())
    }

    /// Returns the number of live guards.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A guard that counts until it is dropped. A clone is a guard of its own.
#[derive(Debug)]
pub struct Guard(Alive);

impl Clone for Guard {
    fn clone(&self) -> Self {
        self.0.guard()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
