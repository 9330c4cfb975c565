//! A layer that sends requests for the Claude API to Amazon Bedrock and Google Vertex AI.
//!
//! ```
//! use bytes::Bytes;
//! use tower::{Layer, ServiceExt};
//! use tower_claude_cloud::{Bearer, CloudLayer, TARGET};
//! use tower_claude_core::RequestBody;
//! use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeHosts};
//! use tower_claude_wire::cloud::Target;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let google = FakeClaude::builder().cloud(FakeCloud::vertex("my-project", "global")).build();
//! let client = FakeHosts::new().with_server(google); // or a hyper or reqwest client
//! let vertex = Target::vertex("my-project", "global")?;
//! let layer = CloudLayer::new().with_default_target(vertex, Bearer::fixed("ya29.token")?);
//!
//! let request = http::Request::post("https://api.anthropic.com/v1/messages")
//!     .header("anthropic-version", "2023-06-01")
//!     .body(RequestBody::from(
//!         r#"{"model":"claude-opus-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#,
//!     ))?;
//! let response = layer.layer(client).oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(response.headers()[TARGET], "vertex/global");
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! - Finds the [target](tower_claude_wire::cloud::Target) of a request: the one in its extensions,
//!   which the spread layer chooses for each attempt, or else the
//!   [default](CloudLayer::with_default_target). A request without a target passes unchanged.
//! - Translates URI, headers and body for the target (see [`Translator`] and the table below). What
//!   the caller may notice is a [`Loss`](tower_claude_wire::cloud::Loss). The losses are in the
//!   extensions of the response and in the header [`LOSSES`], the target in [`TARGET`].
//! - Rejects a request that the target cannot serve, with the field and the reason, before anything
//!   is sent. [`CloudLayer::check`] finds that out for the spread layer.
//! - Puts the credential of the target into the request ([`Authorize`]): a [`Bearer`] token of
//!   Google, AWS or the Claude API, or with the feature `bedrock` a signature of AWS. It is bound
//!   to the host of its target. The caller's own credentials never reach a cloud.
//! - Returns responses in the shape of the Claude API. An error of AWS or Google gets the type of
//!   the API and keeps its status, and the original body is in the extension [`Native`]. A stream
//!   of `InvokeModel` becomes server-sent events. Streams of the other targets pass byte for byte.
//! - Sends a request once more after a 401, or a 403 for an expired credential, if its source has
//!   another one.
//!
//! | Target | Sent as |
//! |---|---|
//! | [`Target::claude_api`] | it is, with the credential of the caller or of the layer |
//! | [`Target::bedrock_messages`] | Messages request with the id `anthropic.…` |
//! | [`Target::bedrock`] | `InvokeModel`, with the model in the path |
//! | [`Target::vertex`] | `rawPredict`, with the model in the path |
//!
//! [`Target::claude_api`]: tower_claude_wire::cloud::Target::claude_api
//! [`Target::bedrock_messages`]: tower_claude_wire::cloud::Target::bedrock_messages
//! [`Target::bedrock`]: tower_claude_wire::cloud::Target::bedrock
//! [`Target::vertex`]: tower_claude_wire::cloud::Target::vertex
//!
//! # Where it goes
//! Innermost, around the client. All other layers then see requests and responses of the Claude
//! API, whatever the target. A layer further inside sees those of the cloud. The path in a request
//! of the caller may be that of any dialect. The answer has the shape of the Claude API in any
//! case.
//!
//! # Fields
//! The words of the table: *kept* as it is, *moved* to the place of the target, *replaced* by its
//! equivalent, *dropped* because it has no effect there, *lost* with an entry in the losses, and
//! *unportable* for a request that is rejected. A beta that a target does not know is lost, and a
//! field that needs it is lost or unportable as well. The table of
//! [betas](tower_claude_wire::cloud::Betas) is dated and can be changed.
//!
#![doc = include_str!("fields.md")]
//!
//! Thinking blocks are sent as they are. Some models bind them to an account, and another account
//! drops them without an error. The spread layer therefore keeps such a conversation at its
//! account.
//!
//! # Credentials
//! A source of credentials runs in a task of the Tokio runtime, at most one at a time. Calls wait
//! only while there is no valid credential, for at most 30 seconds, and are then rejected with 529.
//! A credential is fetched again five minutes before it expires, and calls use the old one
//! meanwhile. [`Bearer::refreshing`] shows `gcp_auth` as a source for Google, and `bedrock::SigV4`
//! shows `aws-config` as a source for AWS.
//!
//! # Readiness, clones, cancellation
//! The service is always ready. Its future gets the credential, waits for the inner service and
//! sends the request. Clones share targets and credentials. A dropped call drops its inner call,
//! and a fetch of credentials goes on for others.
//!
//! # Streaming
//! Events are passed on as they arrive. A stream of `InvokeModel` that breaks, by a wrong checksum
//! or an early end, ends with an `error` event that layers classify as truncated. A JSON body in
//! place of a stream is an error, whatever its status.
//!
//! # Limits
//! - Messages and the counting of tokens only. Batches, models and files are for the Claude API.
//!   `InvokeModel` does not count tokens.
//! - A request body over 32 MiB is not buffered, so it can only go to the Claude API. Up to 64 KiB
//!   of an error body are read. A longer one, or a compressed one, passes as it is.
//! - The feature `bedrock` brings signatures and streams of `InvokeModel`. It needs Rust 1.94, as
//!   the crates of AWS do. Without it, `InvokeModel` takes a bearer token and serves no streams.
//! - Ids of models follow rules and a table. For an ARN or a model that the table does not have,
//!   name it with [`Target::with_model`](tower_claude_wire::cloud::Target::with_model).
#![forbid(unsafe_code)]

mod answer;
mod attempt;
mod authorize;
mod bearer;
#[cfg(feature = "bedrock")]
pub mod bedrock;
mod body;
mod config;
mod held;
mod layer;
mod refresh;
mod service;
mod translate;

pub use answer::{LOSSES, Native, TARGET};
pub use authorize::{Authorization, Authorize, AuthorizeError};
pub use bearer::Bearer;
pub use body::CloudBody;
pub use layer::CloudLayer;
pub use refresh::Issued;
pub use service::{CloudService, ResponseFuture};
pub use translate::{Translated, Translator};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
