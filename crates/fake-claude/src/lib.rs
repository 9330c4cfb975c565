//! Fake server of the Claude API for tests. It enforces rate limits and fails on request, in
//! process or on a port.
//!
//! **What it does.** [`FakeClaude`] answers `POST /v1/messages` (JSON and SSE), `POST
//! /v1/messages/count_tokens`, `GET /v1/models`, `GET /v1/models/{id}` and the endpoints below
//! `/v1/messages/batches`, also behind the prefix of a gateway. A key is accepted in `x-api-key`,
//! `api-key` or as Bearer. With a [`FakeCloud`] it has the endpoints of Amazon Bedrock or of Google
//! Cloud in their place. It has token buckets per rate group and rejects requests like the API,
//! with the API's headers and error bodies. On a port it speaks HTTP/1 and HTTP/2 without TLS
//! (prior knowledge). Faults can be injected ([`Fault`]) or scheduled ([`Incident`]). Every request
//! is logged as an [`Attempt`]. Its accounting ([`model`]) shares no code with this project's
//! limiter, so that each checks the other.
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
//! // In process it is a tower service. `x-fake-*` headers configure one response.
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
//! **Request headers**, all optional: `x-fake-tag` (copied to the log), `x-fake-output-tokens`
//! (length of the response, limited by `max_tokens`), `x-fake-input-tokens` (the actual size of the
//! prompt), `x-fake-cache-read-tokens` and `x-fake-cache-creation-tokens` (parts of it, in place of
//! those of the prompt cache), `x-fake-estimate-tokens` (the server's estimate at admission).
//! Without them the prompt is measured by its bytes. On the creation of a batch they apply to all
//! its requests, and `x-fake-batch-seconds` sets its processing time.
//!
//! **Prompt cache.** A request with markers (`cache_control`) reads and writes a prompt cache by
//! the rules of the API, and reads are free in the input limit. A prefix is written where a marker
//! is, if it has the least number of tokens of the model. It can be read from the first content of
//! the response on, for five minutes or an hour from the start of each use. A marker looks back 20
//! positions, and a run of `tool_use` or of `tool_result` blocks is one of them on
//! [`Platform::Claude`]. Caches are separate by credential, `anthropic-workspace-id` and model, and
//! batches have a cache of their own. A change of the tools loses everything. A change of `speed`,
//! web search, citations or the system prompt keeps the tools, and one of `tool_choice`, thinking,
//! effort or images keeps the system prompt as well. Markers that the API rejects are rejected in
//! its words, as far as they are known. [`FakeClaude::clear_prompt_cache`] loses all entries, and
//! the rules alone are [`model::PromptCache`]. Not simulated: writes of server tools, and models
//! for which thinking changes more than the messages. A request in a batch counts as processed at
//! the creation of the batch, the last one first.
//!
//! **Content.** [`FakeClaude::reply`] sets the content of the next message, and
//! [`FakeClaudeBuilder::reply_with`] selects it by the request. [`Attempt::request`] has the
//! request as it was received: its headers, and its body as bytes for a JSON parser of your choice.
//! [`Fault::Custom`] is a response with any status, headers and body.
//!
//! **Batches.** A batch processes its requests in [`FakeClaudeBuilder::batch_time`], the last one
//! first. Each request succeeds or is errored by the rules of a Messages request, unless
//! [`FakeClaude::batch_outcome`] scripts its result by its `custom_id`, or
//! [`FakeClaudeBuilder::batch_outcome_with`] by its content. [`FakeClaude::lose_creation`] leaves
//! the client in doubt if a batch exists, and [`FakeClaudeBuilder::batch_hidden`] delays its
//! appearance. The endpoints have the rate group `batches` and [`FakeClaudeBuilder::batch_queue`].
//! The requests of a batch take nothing from the limits of Messages. All keys see the same batches,
//! which are kept until they are deleted.
//!
//! **Clouds.** [`FakeClaudeBuilder::cloud`] makes a server one account in one region or location of
//! a cloud platform. Its limits, prompt cache, faults and log are its own, so a test with several
//! targets has one server for each, on ports of their own or behind [`FakeHosts`]. The checks,
//! limits and caches are those of the Claude API, to which requests are translated and from which
//! responses are.
//!
//! | | [`FakeCloud::bedrock`] | [`FakeCloud::bedrock_messages`] | [`FakeCloud::vertex`] |
//! |---|---|---|---|
//! | Paths | `/model/{id}/invoke`, `/model/{id}/invoke-with-response-stream`, and those of the next column | `/anthropic/v1/messages`, `/anthropic/v1/messages/count_tokens` | `/v1/projects/{project}/locations/{location}/publishers/anthropic/models/{id}:rawPredict`, `:streamRawPredict`, `count-tokens:rawPredict` |
//! | Credentials | Signature Version 4 for `bedrock`, Bearer | the same for `bedrock-mantle`, Bearer, `x-api-key` | Bearer |
//! | Models | a profile of the region (`us.anthropic.…`) or an ARN, but no base model | `anthropic.…` | the id, up to 4.5 with a date (`claude-opus-4-5@20251101`) |
//! | Version | `anthropic_version` in the body, `2026-10-21` from 4.7 on | header, the same from 4.7 on | `anthropic_version` in the body |
//! | Betas | `anthropic_beta` in the body | header | header, none for counting |
//! | Streams | event stream of AWS, with metrics in the last event | SSE | SSE |
//! | Errors | `{"message": …}` with `x-amzn-errortype` | of the Claude API | of Google for credentials, quotas and unknown models, in a list for `streamRawPredict`, else of the Claude API |
//! | Limits | by model, input and output together, with `max_tokens` held | by model | by lineage on global and multi-region endpoints, else by model |
//! | Largest body | 20 MiB | 20 MiB | 30 MiB |
//!
//! None of them sends rate-limit headers or `retry-after`. Betas and features that a platform lacks
//! are rejected. A [`FakeCredential`] can expire, and [`FakeClaude::expire_credential`] ends it at
//! once. [`Fault::Frame`] spoils event streams. The prompt cache belongs to the account and the
//! location. On Google the first KiB of the body selects one of several
//! ([`FakeCloud::cache_stores`]). Thinking of some models is bound to its account
//! ([`FakeClaudeBuilder::reject_foreign_thinking`]). Not simulated: guardrails, files, Converse and
//! the counting of InvokeModel.
//!
//! **Admin API.** With [`FakeClaudeBuilder::admin`] the paths below `/v1/organizations/` name
//! limits and usage. See [`AdminApi`].
//!
//! **Control over HTTP**, for programs in other languages. The binary `fake-claude` (feature `cli`)
//! opens a port, and every port has these endpoints:
//!
//! | Endpoint | Body | Effect |
//! |---|---|---|
//! | `POST /fake/replies` | a string, or `{"text": …}` or `{"content": […]}`, and `stop_reason` | content of the next message |
//! | `POST /fake/faults` | `{"fault": "overloaded", "times": 3}`, with the names of [`Fault::name`] and their numbers: `retry_after` and `duration` in seconds, `after_tokens` | injects a fault |
//! | `POST /fake/faults` | `{"fault": "custom", "status": 418, "headers": {…}, "body": …}` | injects a response |
//! | `POST /fake/batches` | `{"custom_id": "a", "outcome": "succeeded"}` with the fields of a reply, `"errored"` with `error_type` and `message`, `"canceled"` or `"expired"` | sets a [`BatchOutcome`] |
//! | `POST /fake/batches` | `{"lost_creation": "reset"}` or `"server_error"` | executes the next creation without a clear answer |
//! | `POST /fake/faults` | `{"fault": "frame", "how": "bad_checksum", "after_tokens": 4}`, with the names of [`FrameFault`] in small letters, and `name` or `code` and `message` | injects a failure of a frame |
//! | `POST /fake/credentials` | `{"expired": "token"}` | expires a credential of a cloud |
//! | `GET /fake/log` | | all attempts, with their requests but without credentials |
//! | `DELETE /fake/` | | removes the faults and replies that were not used, and all outcomes |
//!
//! **Readiness, clones.** The service is always ready. Clones and ports share all state. **Time**
//! is tokio's: a paused clock also stops the buckets, `date` and incidents. With the default
//! settings a response takes no time. **Cancellation.** Dropping the future or the body ends the
//! attempt with `client_gone`. Output that was produced stays charged. **Streaming.** One frame is
//! one event. Output is charged when its event is polled.
//!
//! **Limits.** The server checks sizes, keys, fields and the features of each model, by a table of
//! its own. It does not check conversations: `messages` may be empty or have any content. The list
//! of models is one page. Files are missing. Unpublished facts of the API (ramp
//! thresholds, concurrency, the cost of a rejection) are settings.
#![forbid(unsafe_code)]

mod admin;
mod admin_response;
mod batches;
mod body;
mod check;
mod cloud;
mod config;
mod control;
mod decide;
mod error;
mod fake;
mod fault;
mod headers;
mod line;
mod log;
pub mod model;
mod models;
mod prompt;
mod read;
mod receive;
mod reply;
mod rules;
mod script;
mod server;
mod service;
mod sse;
mod state;
mod thinking;
mod validate;

pub use admin::AdminApi;
pub use batches::outcome::{BatchOutcome, LostCreation};
pub use body::FakeBody;
pub use cloud::FakeCloud;
pub use cloud::credential::FakeCredential;
pub use cloud::router::FakeHosts;
pub use config::{HeaderFamily, HeaderSnapshot, Platform};
pub use error::FakeError;
pub use fake::{FakeClaude, FakeClaudeBuilder};
pub use fault::{BreakKind, BreakPoint, Fault, FrameFault, Incident};
pub use log::{Attempt, Endpoint};
pub use model::{Dimension, GaugeSet, GroupLimits, Ramp, Reading};
pub use script::{ReceivedRequest, Reply};
pub use server::FakeServer;
pub use service::ResponseFuture;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
