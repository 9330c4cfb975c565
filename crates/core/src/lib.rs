//! The vocabulary that every tower-claude layer shares.
//!
//! Three nouns carry the design:
//!
//! - [`Class`]: what the outcome of an attempt means, made by one [`Classify`] trait;
//! - [`Cost`]: what a request will use, estimated before it is sent by [`EstimateCost`];
//! - [`Outcome`]: how a response ended, reported exactly once by one observing body, [`Observed`].
//!
//! Around them: [`RequestBody`] and the front hall [`Buffered`] (buffer once), [`ResponseBody`] (one
//! body for all layers), [`Refusal`] (a layer's own answer, in Claude's error shape), [`Scope`] (which
//! pool of limits), [`CallContext`] (what travels with a call), [`breaker`]
//! (a circuit as a pure automaton) and [`event`] (saying what happened).
//!
//! Users need this crate for [`check`], for the extensions they put into a request ([`Deadline`],
//! [`Priority`], [`Tenant`], [`Route`]) or find in a response ([`Class`], [`Refused`]), and to write layers of
//! their own.
#![forbid(unsafe_code)]

pub mod breaker;
mod buffered;
mod class;
mod classify;
mod collect;
mod context;
mod cost;
mod dimension;
mod erase;
mod error_body;
pub mod event;
mod hold;
mod instance;
mod ledger;
mod observed;
mod original;
mod outcome;
mod paced;
mod prefix;
mod refusal;
mod request_body;
mod reservations;
mod response_body;
mod route;
mod scope;
mod watch;

/// Any error, as tower spells it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub use buffered::{Buffered, BufferedFuture, HttpInner, check};
pub use class::{Class, Kind};
pub use classify::{Classify, ClassifyResponse, ClaudeClassify, HttpClassify};
pub use collect::Collect;
pub use context::{CallContext, Deadline, Priority, Tenant};
pub use cost::{Cost, EstimateCost, Feedback, HeuristicCost, Learn};
pub use dimension::Dimension;
pub use error_body::{ERROR_BODY_LIMIT, ErrorBody};
pub use hold::{HOLD_LIMIT, Hold, Verdict};
pub use instance::{Spare, take_polled};
pub use ledger::{Crossing, Ledger, LimiterId, Observation, ReservationHandle};
pub use observed::{Observe, Observed};
pub use original::Original;
pub use outcome::Outcome;
pub use paced::Paced;
pub use prefix::{CacheReads, Prefix, PrefixMemory, Prefixes};
pub use refusal::{REFUSED_BY, Reason, Refusal, Refused};
pub use request_body::RequestBody;
pub use response_body::ResponseBody;
pub use route::Route;
pub use scope::{Endpoint, Scope};
pub use watch::Watch;
