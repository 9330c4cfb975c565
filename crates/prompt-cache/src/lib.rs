//! A layer that places the breakpoints of the prompt cache where they pay.
#![forbid(unsafe_code)]
mod gate;
mod handle;
mod history;
mod keep_alive;
mod layer;
mod miss;
mod outline;
mod plan;
mod planner;
mod policy;
mod reuse;
mod rules;
mod shared;
pub use handle::{MissCounts, PromptCacheHandle, PromptCacheSnapshot};
pub use history::ClassSnapshot;
pub use keep_alive::KeepAliveDriver;
pub use layer::{PromptCache, PromptCacheLayer};
pub use miss::MissCause;
pub use outline::{Boundary, Outline, OutlineBlock};
pub use plan::{Marker, Plan};
pub use planner::{CacheUsage, Existing, GateState, Learned, Planner, PlannerOptions, Started};
pub use policy::{PromptCacheAttempt, PromptCachePolicy};
pub use rules::CacheRules;
