//! The types and the driver that all tower-claude layers share.
//!
//! # The nouns
//!
//! - [`Class`] is the classification of one attempt: success, rate limit, overload, timeout and so
//!   on ([`Kind`]), with the server's `retry-after`. A [`Classify`] implementation derives it from
//!   a response or an error. [`ClaudeClassify`] is the default.
//! - [`Cost`] is the estimated use of the rate limits by a request, before it is sent. An
//!   [`EstimateCost`] implementation computes it. [`HeuristicCost`] is the default.
//! - [`Outcome`] is the end of a response: complete, failed or dropped by the caller, with the
//!   usage that the server reported. It is reported exactly once, when the body has ended.
//! - [`Call`] is the record that all layers and attempts of one call share: its deadline, priority,
//!   number of attempts and reservations.
//!
//! # The driver
//!
//! A layer is a policy, and the [`driver`] runs it. The driver buffers the request, calls the inner
//! service, classifies the response, holds it until its first content and tracks its body to the
//! end. A policy only decides. The driver's page describes the life of a call.
//!
//! # For users of the layers
//!
//! Insert these extensions into a request:
//!
//! | Extension | Effect |
//! |---|---|
//! | [`Deadline`] | No layer waits longer than this. [`DeadlineLayer`] sets it for all calls. |
//! | [`Priority`] | Limiters give a higher priority a greater share. |
//! | [`Tenant`] | Limiters give each tenant a fair share. |
//! | [`Tolerance`] | The batch layer may answer so much later. |
//! | [`Workload`] | Limiters estimate the usage of each workload separately. |
//! | [`CredentialId`] | All layers know the caller by this name, and not by a token that changes. |
//!
//! Find these extensions in a response:
//!
//! | Extension | Content |
//! |---|---|
//! | [`Class`] | The classification of a failed response. |
//! | [`Rejection`] | The layer that rejected the request, and the reason. |
//!
//! A rejected request is answered in the shape of Claude's errors. [`RejectionLayer`] sets another
//! one.
//!
//! A request body that breaks off, is over a limit outside of the layers or does not arrive before
//! the deadline is the fault of the caller. The outermost layer answers with 400, 413 or 504 and
//! sends nothing ([`BodyFailure`]).
//!
//! [`check`] checks at compile time that the layers accept a service. [`event`] describes the
//! events that layers emit, the module `metrics` (feature `metrics`) counts them, and `event_log`
//! (feature `event-log`) writes each attempt to a file.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tokio::time::Instant;
//! use tower::{Service, ServiceExt};
//! use tower_claude_core::{Class, Deadline, Priority, Rejection, RequestBody, check};
//!
//! # async fn run() -> Result<(), Infallible> {
//! // The HTTP client. Layers go around it.
//! let mut service = check(tower::service_fn(|_: Request<RequestBody>| async {
//!     Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("{}"))))
//! }));
//! let mut request = Request::new(RequestBody::from(r#"{"model":"claude-sonnet-5-5"}"#));
//! request.extensions_mut().insert(Deadline(Instant::now() + Duration::from_secs(30)));
//! request.extensions_mut().insert(Priority::Interactive);
//! let response = service.ready().await?.call(request).await?;
//! if let Some(rejection) = response.extensions().get::<Rejection>() {
//!     println!("rejected: {rejection}");
//! } else if let Some(class) = response.extensions().get::<Class>() {
//!     println!("failed: {}", class.kind.as_str());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # For authors of layers
//!
//! Write a policy for the [`driver`]. Its page has an example. The [`toolkit`] has building blocks
//! for policies, and for layers with a service of their own. All layers follow these conventions:
//!
//! - Between layers, a request has the body [`RequestBody`].
//! - State is kept for each [`Scope`], which is a pool of limits at the server.
//! - A layer rejects a request with a [`Rejection`]. [`Rejection::into_response`] makes a response
//!   of it in Claude's own error shape, so the error type of the inner service stays as it is.
//! - Each decision is emitted as an [`Event`](event::Event), with [`event::emit`].
#![forbid(unsafe_code)]

pub mod alert;
mod body_failure;
mod body_tracker;
mod buffer_request;
mod call;
mod call_record;
mod chunks;
mod class;
mod classify;
mod clone_source;
mod collect;
mod cost;
mod credential;
mod deadline_layer;
mod dimension;
pub mod driver;
mod endpoint;
mod erase;
mod error_body;
pub mod event;
#[cfg(feature = "event-log")]
pub mod event_log;
mod held_body;
mod host;
mod labels;
mod ledger;
#[cfg(feature = "metrics")]
pub mod metrics;
mod outcome;
mod paused_by_limiter;
mod percent;
mod prefix;
mod priority;
mod readable_duration;
mod redirect;
mod rejection;
mod rejection_layer;
mod request;
mod request_body;
mod reroute;
mod reservations;
mod response_body;
#[cfg(test)]
mod sample_events;
mod saved_request;
mod scope;
mod text;
pub mod toolkit;
mod transport_error;
mod workload;

/// A boxed error of any type, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub use body_failure::BodyFailure;
pub use buffer_request::check;
pub use call::{Call, Deadline, Tenant, Tolerance};
pub use class::{Class, Kind, Reach};
pub use classify::{Classify, ClassifyResponse, ClaudeClassify, HttpClassify, STREAM_TRUNCATED};
pub use cost::{
    Cost, EstimateCost, EstimatedTokens, HeuristicCost, Settle, UsageBound, estimate_fn,
};
pub use credential::CredentialId;
pub use deadline_layer::{DeadlineLayer, SetDeadline};
pub use dimension::Dimension;
pub use endpoint::Endpoint;
pub use outcome::Outcome;
pub use priority::Priority;
pub use rejection::{REJECTED_BY, RejectReason, Rejection};
pub use rejection_layer::{RejectionLayer, RenderRejection};
pub use request_body::RequestBody;
pub use response_body::ResponseBody;
pub use scope::Scope;
pub use workload::Workload;

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
