//! A Claude API that enforces its limits and fails on script, in process or on a port, to test against.
//!
//! **What it does.** [`FakeClaude`] answers `POST /v1/messages` (JSON and SSE), `POST /v1/messages/count_tokens`,
//! `GET /v1/models` and `GET /v1/models/{id}`. It keeps token buckets per rate group and refuses what the API would
//! refuse, with the API's headers and error bodies; it fails when told to ([`Fault`], [`Incident`]); it remembers every
//! [`Attempt`]. Its accounting ([`model`]) shares no code with this project's limiter, so that each checks the other.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Full};
//! use tower::ServiceExt;
//! use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fake = FakeClaude::builder()
//!     .group_limits("sonnet-5.5", GroupLimits::new().with_requests_per_minute(50))
//!     .output_tokens(12)
//!     .build();
//! // In process it is a tower service. `x-fake-*` headers shape one answer.
//! let request = || {
//!     http::Request::post("/v1/messages")
//!         .header("x-api-key", "any")
//!         .header("anthropic-version", "2023-06-01")
//!         .body(Full::new(Bytes::from_static(
//!             br#"{"model":"claude-sonnet-5-5","max_tokens":100,"messages":[{"role":"user","content":"Hi"}]}"#,
//!         )))
//! };
//! let response = fake.clone().oneshot(request()?).await?;
//! assert_eq!(response.headers()["anthropic-ratelimit-requests-remaining"], "49");
//! response.into_body().collect().await?;
//! fake.inject(Fault::Overloaded);
//! assert_eq!(fake.clone().oneshot(request()?).await?.status(), 529);
//! // On a port, with the same limits, faults and log, for any client.
//! let server = fake.serve().await?;
//! println!("curl -i {}/v1/models -H 'x-api-key: any' -H 'anthropic-version: 2023-06-01'", server.url());
//! let log = fake.log();
//! assert_eq!(log.iter().map(|attempt| attempt.status).collect::<Vec<_>>(), [200, 529]);
//! assert_eq!(log[0].charged_output, 12);
//! # Ok(()) }
//! ```
//!
//! **Headers that shape one request**, all optional: `x-fake-tag` (copied to the log), `x-fake-output-tokens` (length of
//! the answer, cut by `max_tokens`), `x-fake-input-tokens` (the true size of the prompt), `x-fake-cache-read-tokens` and
//! `x-fake-cache-creation-tokens` (parts of it; reads are free), `x-fake-estimate-tokens` (what the server believes at
//! admission). Without them the prompt is measured by its bytes.
//!
//! **Readiness, clones.** Always ready; clones and ports share everything. **Time** is tokio's: under a paused clock the
//! buckets, `date` and incidents stand still with it. Default answers take no time at all.
//! **Cancellation.** Dropping the future or the body ends the attempt: out of flight, `client_gone`, what was produced
//! stays charged. **Streaming.** One frame is one event; output is charged when its event is taken.
//!
//! **What it is not.** It judges sizes, keys, fields and what each model takes of them, by a table of its own, not
//! conversations: `messages` may be empty or hold anything. The list of models is one page. No batches, no files. What
//! the API does not publish (ramp thresholds, concurrency, the cost of a refusal) is a setting, no claim about the API.
#![forbid(unsafe_code)]

mod answer;
mod body;
mod builder;
mod check;
mod error;
mod fake;
mod fault;
mod headers;
mod judge;
mod log;
pub mod model;
mod models;
mod read;
mod reply;
mod rules;
mod server;
mod service;
mod sse;
mod state;
mod validate;

pub use body::FakeBody;
pub use builder::{FakeClaudeBuilder, HeaderFamily, HeaderSnapshot, Platform};
pub use error::FakeError;
pub use fake::FakeClaude;
pub use fault::{Fault, Incident};
pub use log::{Attempt, Endpoint};
pub use model::{Dimension, Gauges, GroupLimits, Ramp, Reading};
pub use server::FakeServer;
pub use service::ResponseFuture;
