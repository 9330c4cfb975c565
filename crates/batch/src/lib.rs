//! placeholder
#![forbid(unsafe_code)]

mod driver;
mod handle;
mod id;
mod journal;
mod layer;
mod request;
mod results;
pub mod scheduler;
mod service;
mod shared;

pub use driver::BatchDriver;
pub use handle::BatchHandle;
pub use id::{BatchNumber, InvalidId, ItemId, Key, PoolId};
pub use journal::{Journal, JournalError, MemoryJournal, Record, file::FileJournal};
pub use layer::{BatchBuilder, BatchLayer};
pub use request::{BATCH_KEY, TOLERANCE, Tolerance};
pub use results::{BATCH, SAVED};
pub use scheduler::{BatchSnapshot, LatencySnapshot};
pub use service::{Batch, ResponseFuture};
