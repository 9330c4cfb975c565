//! A layer that spreads requests over several clouds, regions and accounts.
#![forbid(unsafe_code)]

mod accounts;
mod conversation;
mod handle;
mod headroom;
mod health;
mod layer;
mod options;
mod policy;
mod request;
mod shared;
mod skip;
mod snapshot;
mod spreader;
#[cfg(test)]
mod tests;

pub use conversation::Conversation;
pub use handle::SpreadHandle;
pub use layer::{Spread, SpreadLayer};
pub use options::{SpreadOptions, SpreadTarget, TargetLimits};
pub use policy::{SpreadAttempt, SpreadPolicy};
pub use request::{Residency, Route, TARGET, ThinkingAccount};
pub use skip::Skip;
pub use snapshot::{CoolDownSnapshot, SpreadSnapshot, TargetSnapshot};
pub use spreader::{Binding, Choice, Lease, Reason, SpreadRequest, Spreader, Tried};
