//! Counting what is alive.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts guards that are alive.
#[derive(Clone, Debug, Default)]
pub struct Alive(Arc<AtomicUsize>);

impl Alive {
    /// Nothing alive yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one more until the guard is dropped.
    #[must_use]
    pub fn guard(&self) -> Guard {
        self.0.fetch_add(1, Ordering::Relaxed);
        Guard(self.clone())
    }

    /// Returns the number of values that are alive.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Alive until dropped. A clone counts as one more.
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
