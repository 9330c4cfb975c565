//! The decisions of the layer, without a clock and without I/O.
//!
//! A [`Scheduler`] holds the queue of calls and the state of each batch. It takes the time as an
//! argument, returns the request that is due ([`Scheduler::next_action`]) and records its outcome.
//! The layer and its driver are a shell around it, and the simulator of this project runs it in
//! virtual time.
//!
//! A batch is created only when its record is in the journal: [`Scheduler::take_records`] returns
//! the records, and [`Scheduler::on_journal`] reports that they were written.

mod answers;
mod batch;
mod calls;
mod creation;
mod interface;
mod latency;
mod polling;
mod pool;
mod restore;
mod state;

pub use self::interface::{
    Action, BatchCall, BatchSnapshot, Creation, Decision, ItemOutcome, LatencySnapshot, LineUse,
    Listed, Placement, ResultsEnd, SchedulerSettings, SharedPrefix, Status, Ticket, Verdict,
};
pub(crate) use self::polling::SKEW;
pub use self::state::Scheduler;
