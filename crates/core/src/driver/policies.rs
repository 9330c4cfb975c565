//! The state that the services of a driver share.

use std::sync::{Arc, OnceLock};

use super::{attempt_policy::AttemptPolicy, call_policy::CallPolicy, report::Reporter};
use crate::clone_source::CloneSource;

/// The policies of a driver.
pub(super) struct Policies<P, A, C> {
    pub(super) call: P,
    pub(super) attempts: A,
    pub(super) classifier: C,
    /// A class that an inner layer left in the response stands.
    pub(super) reuses_class: bool,
    /// Set by the first call.
    pub(super) reporter: OnceLock<Reporter>,
}

impl<P: CallPolicy, A: AttemptPolicy, C> Policies<P, A, C> {
    /// Returns the destination of the events of calls and attempts.
    #[inline]
    pub(super) fn reporter(&self) -> &Reporter {
        self.reporter
            .get_or_init(|| Reporter::of(&self.call, &self.attempts))
    }
}

/// The state that all clones of a driver share.
pub(super) struct Shared<S, P, A, C> {
    pub(super) policies: Arc<Policies<P, A, C>>,
    /// The longest request body that is buffered, in bytes.
    pub(super) body_limit: usize,
    /// Provides the service for another attempt.
    pub(super) clone_source: CloneSource<S>,
}
