//! A handle to inspect a layer.

use std::{fmt, sync::Arc};

use crate::{scheduler::BatchSnapshot, shared::Shared};

/// A handle to one [`BatchLayer`](crate::BatchLayer) and all services made from it. Cheap to clone.
#[derive(Clone)]
pub struct BatchHandle {
    shared: Arc<Shared>,
}

impl BatchHandle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns the current state.
    #[must_use]
    pub fn snapshot(&self) -> BatchSnapshot {
        self.shared
            .change(|inner, now| inner.scheduler.snapshot(now.instant))
    }

    /// Returns the number of times that the journal could not be written. Its batches were then not
    /// created, and their calls were sent as ordinary calls.
    #[must_use]
    pub fn journal_failures(&self) -> u64 {
        self.shared.change(|inner, _| inner.journal_failures)
    }

    /// Returns true if the driver has ended or was dropped. New calls are then sent at once.
    #[must_use]
    pub fn is_driver_gone(&self) -> bool {
        self.shared.is_ended()
    }
}

impl fmt::Debug for BatchHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchHandle").finish_non_exhaustive()
    }
}
