//! A layer that places the breakpoints of the prompt cache where they pay.
#![forbid(unsafe_code)]
mod gate;
mod history;
mod miss;
mod outline;
mod plan;
mod planner;
mod reuse;
mod rules;
pub use history::ClassSnapshot;
pub use miss::MissCause;
pub use outline::{Boundary, Outline, OutlineBlock};
pub use plan::{Marker, Plan};
pub use planner::{CacheUsage, Existing, GateState, Learned, Planner, PlannerOptions, Started};
pub use rules::CacheRules;
