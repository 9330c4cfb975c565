//! A Tower layer that sends a Claude API request to another model when the model asked for cannot
//! serve it, and marks the response.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_claude_core::RequestBody;
//! use tower_claude_fallback_model::{FallbackModelLayer, ServedBy};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let api = service_fn(|request: Request<RequestBody>| async move {
//!     // Opus is overloaded, the other models work.
//!     let status = if request.body().model() == Some("claude-opus-5-5") { 529 } else { 200 };
//!     let response = Response::builder().status(status);
//!     let message = Bytes::from(r#"{"type":"message","content":[]}"#);
//!     Ok::<_, Infallible>(response.body(Full::new(message)).expect("valid"))
//! });
//!
//! let layer = FallbackModelLayer::new(["claude-sonnet-5-5", "claude-haiku-5-5"]);
//! let request = Request::post("https://api.anthropic.com/v1/messages").body(RequestBody::from(
//!     r#"{"model":"claude-opus-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#,
//! ))?;
//! let response = layer.layer(api).oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(response.headers()["x-tower-claude-served-model"], "claude-sonnet-5-5");
//! let served = response.extensions().get::<ServedBy>().expect("another model served");
//! assert_eq!((served.why.kind.as_str(), served.hops), ("overloaded", 2));
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! - Falls back after overload, 5xx errors, timeouts, broken connections, streams that end before
//!   their content, retired models (404), and local rejections of inner layers. After a 429, it
//!   falls back to another rate group only. Responses in which the model declined, spend limits and
//!   prompts that are too long are optional. Other 4xx errors and credentials are no reason, but a
//!   stand-in may reject what the next accepts. Only Messages requests are sent to another model.
//!   If a model is requested at another endpoint, a single `Inactive` event is emitted.
//! - Returns the 404 of a name that neither the catalog lists nor a model has served before,
//!   because a stand-in would hide a mistyped name.
//! - [Rewrites](fn@rewrite) the original request for each model, and skips models for which the
//!   request cannot be rewritten, and models that are retired on the platform of the request. Where
//!   the path names the model (Bedrock, Vertex), the path is rewritten as well, and stand-ins need
//!   the names of that platform.
//! - Stays with the stand-in for the duration of an outage. After three failures, requests go
//!   straight to the stand-in. After each cool-down, one real request probes the model, with a
//!   stand-in ready. A 429 counts against the credential and the rate group, not against the model.
//!   All of this is kept for each host: an outage at one host leaves the others alone.
//! - Tries the model that is available the soonest if all are out. Skips a stand-in that is known
//!   to be too slow for the deadline.
//! - Reports the serving model, the reason and the losses: [`ServedBy`] and three headers,
//!   `FellBack` events, [`FallbackHandle`].
//!
//! # Where it goes
//!
//! Outside the retry layer and inside the cache. It counts the attempts of an inner retry layer
//! over all models, with at least one attempt each. The retry layer leaves waits over 3 s to it,
//! and if no stand-in can take the request, the model asked for gets the attempts that are left. It
//! has no timeouts, and acts on those of the retry layer.
//!
//! # Readiness
//!
//! Always ready. Each attempt waits in the call for the inner service. The first attempt uses the
//! service that is called, the others use clones.
//!
//! # Clones
//!
//! The state of outages lives in the layer. Its clones and all services made from it share that
//! state.
//!
//! # Cancellation
//!
//! A failed response is dropped before the next request is made. Dropping the future drops
//! everything. A probe that is dropped is given back, so that the next request may probe.
//!
//! # Streaming
//!
//! A stream is held until its first content event, and a JSON response until it is whole, up to 64
//! KiB. After that the response passes through. A stream that breaks off later is the caller's to
//! handle.
//!
//! # Limits
//!
//! The layer never falls back after content has reached the caller. It never rewrites a rewritten
//! request, retries the same model, or sends a prompt to another credential or host. It keeps up to
//! 1,024 failed models and as many rate groups. It does not keep a declined response in case the
//! stand-ins fail. It logs no bodies and no keys.
#![forbid(unsafe_code)]

mod chains;
mod config;
mod cooldown;
mod handle;
mod layer;
mod message;
mod path_model;
mod policy;
mod rewrite;
mod selection;
mod served;
mod targets;
#[cfg(test)]
mod tests;

pub use cooldown::CoolDownSnapshot;
pub use handle::{FallbackHandle, FallbackSnapshot, PoolSnapshot, TargetSnapshot};
pub use layer::{FallbackModel, FallbackModelLayer};
pub use message::{FallbackMessage, LAST_MESSAGE};
pub use policy::{FallbackPolicy, FallbackState};
pub use rewrite::{Loss, Losses, RewriteOptions, Rewritten, Unportable, Why, rewrite};
pub use served::{FALLBACK_LOSSES, FALLBACK_REASON, SERVED_MODEL, ServedBy};

// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
