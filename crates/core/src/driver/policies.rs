//! The state that the services of a driver share.

use std::sync::Arc;

use crate::clone_source::CloneSource;

/// The policies of a driver.
pub(super) struct Policies<P, A, C> {
    pub(super) call: P,
    pub(super) attempts: A,
    pub(super) classifier: C,
    /// A class that an inner layer left in the response stands.
    pub(super) reuses_class: bool,
}

/// The state that all clones of a driver share.
pub(super) struct Shared<S, P, A, C> {
    pub(super) policies: Arc<Policies<P, A, C>>,
    /// Provides the service for another attempt.
    pub(super) clone_source: CloneSource<S>,
}
