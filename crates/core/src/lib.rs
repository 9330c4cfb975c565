//! The vocabulary that every tower-claude layer shares.
//!
//! Three nouns carry the design:
//!
//! - [`Class`]: what the outcome of an attempt means, made by one [`Classify`] trait;
//! - [`Cost`]: what a request will use, estimated before it is sent by [`EstimateCost`];
//! - [`Outcome`]: how a response ended, reported exactly once by one observing body, [`Observed`].
//!
//! Around them: [`RequestBody`] and the front hall [`BufferRequest`] (buffer once), [`ResponseBody`] (one
//! body for all layers), [`Rejection`] (a layer's own answer, in Claude's error shape), [`Scope`] (which
//! pool of limits), [`Call`] (what travels with a call) and [`event`] (saying
//! what happened).
//!
//! Users need this crate for [`check`], for the extensions they put into a request ([`Deadline`],
//! [`Priority`], [`Tenant`], [`Workload`]) or find in a response ([`Class`], [`Rejected`]), and to write layers of
//! their own.
#![forbid(unsafe_code)]

mod body_tracker;
mod buffer_request;
mod call;
mod class;
mod classify;
mod clone_source;
mod collect;
mod cost;
mod dimension;
#[doc(hidden)]
pub mod driver;
mod erase;
mod error_body;
pub mod event;
mod hold;
mod ledger;
mod observed;
mod outcome;
mod paused_by_limiter;
mod prefix;
mod rejection;
mod request_body;
mod reservations;
mod response_body;
mod saved_request;
mod scope;
mod workload;

/// Any error, as tower spells it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub use body_tracker::BodyTracker;
pub use buffer_request::{BufferRequest, BufferRequestFuture, HttpInner, check};
pub use call::{Call, Deadline, Priority, Tenant};
pub use class::{Class, Kind};
pub use classify::{Classify, ClassifyResponse, ClaudeClassify, HttpClassify};
pub use clone_source::{CloneSource, take_ready};
pub use collect::Collect;
pub use cost::{Cost, EstimateCost, HeuristicCost, PendingEstimate, UsageListener};
pub use dimension::Dimension;
pub use error_body::{ERROR_BODY_LIMIT, ErrorBody};
pub use hold::{HOLD_LIMIT, Hold, Verdict};
pub use ledger::{Ledger, LimitWarning, LimiterId, Observation, ReservationHandle};
pub use observed::{Observe, Observed};
pub use outcome::Outcome;
pub use paused_by_limiter::PausedByLimiter;
pub use prefix::{CacheReads, Prefix, PrefixMemory, Prefixes};
pub use rejection::{REJECTED_BY, RejectReason, Rejected, Rejection};
pub use request_body::RequestBody;
pub use response_body::ResponseBody;
pub use saved_request::SavedRequest;
#[doc(hidden)]
pub use scope::{AsScope, ScopeRef};
pub use scope::{Endpoint, Scope};
pub use workload::Workload;
