//! The settings of a planner.

use std::time::Duration;

use tower_claude_wire::Money;

/// The treatment of bodies that carry breakpoints of the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// The body stays as it is. Its breakpoints are followed, and requests with the same ones wait
    /// at the gate.
    #[default]
    Leave,
    /// Markers are added in the slots that the caller has left. The breakpoints of the caller stay.
    /// A body with breakpoints inside of the content of a block stays as it is.
    Complete,
}

/// The settings of a [`Planner`](crate::Planner).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannerOptions {
    /// The longest time for which a request waits for another one that writes the same prefix. Zero
    /// switches the gate off. 3 s by default, and an hour at most.
    pub max_hold: Duration,
    /// The price of a second of waiting, for all requests together. A request waits only if the
    /// second write of its prompt would cost more than the expected wait. $0.001 by default.
    pub second_price: Money,
    /// The treatment of bodies with breakpoints. [`Existing::Leave`] by default.
    pub existing: Existing,
    /// True to renew cached prefixes in pauses. False by default.
    pub keeps_alive: bool,
}

impl Default for PlannerOptions {
    fn default() -> Self {
        Self {
            max_hold: Duration::from_secs(3),
            second_price: Money::from_micros(1_000),
            existing: Existing::Leave,
            keeps_alive: false,
        }
    }
}
