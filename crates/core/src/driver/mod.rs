//! One driver for the layers: a stage says what is to be done, the driver does it.
//!
//! Layers come in two kinds. A [`AttemptPolicy`] lets an attempt through or not, and learns what became of it. A [`CallPolicy`]
//! decides whether a call that failed is sent again, and as what. Whatever else a layer would have to do (its hall, its
//! future, its body, the class of an answer, the hold until an answer is worth handing on, the watch over how it ends) the
//! driver does once for all stages that it drives. Policies are pairs, the outer one first; `()` is none.

mod attempt_policy;
mod body;
mod call_policy;
mod call_state;
mod future;
mod peek;
mod service;

pub use attempt_policy::AttemptPolicy;
pub use body::Rest;
pub use call_policy::{CallPolicy, CallStart};
pub use future::DriverFuture;
pub use service::Driver;
