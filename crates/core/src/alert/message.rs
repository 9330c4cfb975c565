//! An alert as it is reported.

use std::sync::Arc;

use tokio::time::Instant;

use super::kind::{AlertKind, Severity};
use crate::dimension::Dimension;

/// An alert that was raised or resolved.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Alert {
    /// The kind.
    pub kind: AlertKind,
    /// True if the alert was raised, false if it was resolved.
    pub raised: bool,
    /// The scope, circuit, layer, or pair of models that it concerns. See the label `scope` of the
    /// metrics.
    pub subject: Arc<str>,
    /// The dimension of the limit, for the kinds that concern one.
    pub dimension: Option<Dimension>,
    /// The value that the kind compares: a share from 0 to 1, seconds, or a count. The last one for
    /// a resolved alert.
    pub value: f64,
    /// The time since the condition holds or held.
    pub since: Instant,
    /// The condition as a sentence without a period, such as `input_tokens of
    /// messages/sonnet-5.5: P95 use 85 % of the limit for an hour`.
    pub message: String,
}

impl Alert {
    /// Emits a line of `tracing`.
    pub(super) fn trace(&self) {
        const TARGET: &str = "tower_claude::alert";
        let (alert, subject) = (self.kind.as_str(), &*self.subject);
        let dimension = self.dimension.map(Dimension::label);
        let (value, message) = (self.value, &self.message);
        match (self.raised, self.kind.severity()) {
            (true, Severity::Critical) => {
                tracing::error!(target: TARGET, alert, subject, dimension, value, "{message}");
            }
            (true, Severity::Warning) => {
                tracing::warn!(target: TARGET, alert, subject, dimension, value, "{message}");
            }
            (false, _) => {
                tracing::info!(target: TARGET, alert, subject, dimension, value, "over: {message}");
            }
        }
    }
}
