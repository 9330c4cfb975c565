//! Handle to read the savings of a layer.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use crate::{shared::Shared, snapshot::PromptCacheSnapshot};

/// A handle to a [`PromptCacheLayer`](crate::PromptCacheLayer) and all services made from it. Cheap
/// to clone.
#[derive(Clone)]
pub struct PromptCacheHandle {
    shared: Arc<Shared>,
}

impl PromptCacheHandle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns the current state.
    #[must_use]
    pub fn snapshot(&self) -> PromptCacheSnapshot {
        self.shared.snapshot(Instant::now())
    }
}

impl fmt::Debug for PromptCacheHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptCacheHandle").finish_non_exhaustive()
    }
}
