//! Handle to read the state of the targets.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use crate::{shared::Shared, snapshot::SpreadSnapshot};

/// A handle to a [`SpreadLayer`](crate::SpreadLayer) and all services made from it. Cheap to clone.
#[derive(Clone)]
pub struct SpreadHandle {
    shared: Arc<Shared>,
}

impl SpreadHandle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns the current state.
    #[must_use]
    pub fn snapshot(&self) -> SpreadSnapshot {
        self.shared.spreader().snapshot(Instant::now())
    }
}

impl fmt::Debug for SpreadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpreadHandle").finish_non_exhaustive()
    }
}
