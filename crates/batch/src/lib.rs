//! A Tower layer that answers Claude API calls that can wait by Message Batches, at half the price.
//!
//! ```
//! use std::time::Duration;
//! use http::Request;
//! use http_body_util::BodyExt;
//! use tower::{Layer, ServiceExt};
//! use tower_claude_batch::BatchLayer;
//! use tower_claude_core::RequestBody;
//! use tower_claude_fake_claude::FakeClaude;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Any client, or the rest of a stack. This API needs ten minutes for a batch.
//! let client = FakeClaude::builder().batch_time(Duration::from_secs(600)).build();
//! let (layer, driver) = BatchLayer::in_memory().pair();
//! tokio::spawn(driver.run(client.clone()));
//!
//! let request = Request::post("https://api.anthropic.com/v1/messages")
//!     .header("x-api-key", "key")
//!     .header("anthropic-version", "2023-06-01")
//!     .header("x-tower-claude-tolerance", "7200") // the answer may take two hours
//!     .body(RequestBody::from(r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[]}"#))?;
//! let response = layer.layer(client).oneshot(request).await?; // takes about 15 minutes
//! assert_eq!(response.status(), 200);
//! assert!(response.headers().contains_key("x-tower-claude-saved"));
//! let message = response.into_body().collect().await?.to_bytes(); // as of an ordinary call
//! assert!(message.starts_with(b"{"));
//! assert_eq!(layer.handle().snapshot().answered, 1);
//! println!("saved {}", layer.handle().snapshot().saved); // saved $0.000081
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! * **Selects.** A call can wait if it has the header [`TOLERANCE`] in seconds, the extension
//!   [`Tolerance`], or if a [policy](BatchBuilder::with_policy) says so. All other requests pass
//!   through. A call is sent at once, with its reason in an event, if its tolerance is shorter than
//!   ten minutes or than batches of its model usually take, if it asks for a stream, or if it has a
//!   field that batches do not take.
//! * **Queues** by all headers that matter, host, tenant and
//!   [credential](tower_claude_core::CredentialId), so that no call is sent with the headers of
//!   another one. The queue becomes a batch when it is full, after five minutes or a tenth of the
//!   tightest tolerance, or when a later batch would be too late: `tolerance − p95 of the model's
//!   batches − one ordinary call`. The latencies are learned, and one hour is assumed at first.
//!   Calls with the same marked prefix stand together. If a prefix with a lifetime of one hour is
//!   long enough, one call writes it to the cache of batches before the others are sent.
//! * **Answers.** A result becomes the ordinary response of its call, with the headers [`BATCH`]
//!   and [`SAVED`]. An error of one request is returned to its caller. An error of the credential
//!   or its funding is returned to all callers that wait. A call whose result is another error,
//!   expired, cancelled or missing goes live.
//! * **Goes live**: a call is sent as an ordinary call, with the priority
//!   [`Batch`](tower_claude_core::Priority::Batch) and the deadline of its tolerance. Each caller
//!   has its own timer for that, so that no call is late where an ordinary one would be in time,
//!   whatever happens to the driver. Such a call may be billed twice. It is counted, and a batch
//!   that no caller waits for is cancelled.
//! * **Never creates twice.** If a creation is not clearly answered, the batch is looked for in the
//!   list of the API, and recognized by its results. Its calls are queued again only if the list
//!   has not shown it for five minutes.
//! * **Remembers.** A [`Journal`] has the batches that exist, without prompts and credentials.
//!   After a restart with a [`FileJournal`], a call with the same question gets the answer that was
//!   paid for. A question that was answered is a new one, except that an answer is returned once
//!   more if the program was restarted within [one hour](BatchBuilder::with_redelivery). Give equal
//!   bodies that are different questions the header [`BATCH_KEY`].
//!
//! # The driver
//!
//! [`BatchDriver::run`] makes all requests about batches through the service that it is given,
//! which may be a clone of the whole stack. It needs a tokio runtime. A journal that
//! [is persistent](Journal::is_persistent) is written by `tokio::task::spawn_blocking`, and the
//! driver waits for the disk before it creates a batch. It spawns nothing else.
//!
//! # Where it goes
//!
//! Inside the cache and outside of all other layers. A call that goes live then has the fallback,
//! the retries and the limits below.
//!
//! # Readiness
//!
//! Always ready, because a call that waits does not need the inner service. An ordinary call waits
//! for the readiness of the inner service in its future. A call that can wait does nothing before
//! its future is polled.
//!
//! # Clones
//!
//! The layer owns the queue and the batches. All its clones and all services made from it share
//! them.
//!
//! # Cancellation
//!
//! A call that is dropped leaves the queue. If its batch exists, the result is kept for the next
//! caller with the same question, for instance a client that tries again after a timeout. A batch
//! that no caller waits for is cancelled after two minutes, unless the journal is persistent. A
//! batch whose creation is not certain is forgotten instead, because its id is not known. Batches
//! that run when the driver ends are not cancelled.
//!
//! # Streaming
//!
//! Batches have no streams. Results are read line by line, and each caller gets its answer as its
//! line arrives.
//!
//! # Limits
//!
//! * A caller waits as long as it said. Clients and proxies between need timeouts as long as that.
//! * Requests to Bedrock, Vertex and Foundry pass through, because these have no batches.
//! * A body over the buffer limit (32 MiB) passes through.
//! * A request with an AWS signature is sent at once, because its signature does not hold for a
//!   batch. Sign below this layer.
//! * Callers hold the bodies of calls in batches, to send them live. The limits of the queue do not
//!   count these.
//! * With equal bodies in flight at the same time, each caller gets an answer of its own.
//! * Several processes need a journal each. A question that was asked in one is not found in
//!   another.
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
pub use request::{BATCH_KEY, TOLERANCE};
pub use results::{BATCH, SAVED};
pub use scheduler::{BatchSnapshot, LatencySnapshot};
pub use service::{Batch, ResponseFuture};
pub use tower_claude_core::Tolerance;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
