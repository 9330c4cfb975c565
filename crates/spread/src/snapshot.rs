//! The state of a spread, for dashboards and tests.

use std::{sync::Arc, time::Duration};

use tower_claude_core::Kind;

/// The state of all targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpreadSnapshot {
    /// The targets, in their configured order.
    pub targets: Vec<TargetSnapshot>,
    /// The number of prompts whose account is remembered.
    pub bound_prompts: usize,
}

/// The state of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetSnapshot {
    /// The name of the target.
    pub name: Arc<str>,
    /// The number of attempts that were assigned to it.
    pub sent: u64,
    /// The number of attempts that failed.
    pub failed: u64,
    /// The cool-downs that are not over.
    pub cool_downs: Vec<CoolDownSnapshot>,
    /// The limits that 429s have taught, in tokens per minute, by group of models.
    pub learned_limits: Vec<(Arc<str>, u64)>,
}

/// A cool-down that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoolDownSnapshot {
    /// The model or the group of models. Empty if it is the whole target.
    pub part: Arc<str>,
    /// The last failure.
    pub because: Kind,
    /// The time that is left.
    pub left: Duration,
}
