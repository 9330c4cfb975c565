//! A layer that spreads requests over several clouds, regions and accounts.
#![forbid(unsafe_code)]

mod accounts;
mod conversation;
mod headroom;
mod health;
mod options;
mod skip;
mod snapshot;
mod spreader;

pub use conversation::Conversation;
pub use options::{SpreadOptions, SpreadTarget, TargetLimits};
pub use skip::Skip;
pub use snapshot::{CoolDownSnapshot, SpreadSnapshot, TargetSnapshot};
pub use spreader::{Binding, Choice, Lease, Next, Reason, SpreadRequest, Spreader, Tried};
