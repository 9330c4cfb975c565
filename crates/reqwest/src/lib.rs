//! Between reqwest and tower: a layer stack around a reqwest client, and a layer stack as a middleware of one.
//!
//! ```
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_claude_core::{RequestBody, check};
//! use tower_claude_fake_claude::FakeClaude;
//! use tower_claude_reqwest::{HttpService, ReqwestClassify};
//! use tower_claude_retry::RetryLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = FakeClaude::default().serve().await?;
//! let retry = RetryLayer::new().with_classifier(ReqwestClassify::new());
//! let claude = check(ServiceBuilder::new().layer(retry).service(HttpService::new(reqwest::Client::new())));
//!
//! let request = http::Request::post(format!("{}/v1/messages", server.url()))
//!     .header("x-api-key", "key")
//!     .header("anthropic-version", "2023-06-01")
//!     .body(RequestBody::from(
//!         r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#,
//!     ))?;
//! let response = claude.oneshot(request).await?;
//! // Who wants reqwest's response gets it back; its `url()` is the one that answered.
//! let response = reqwest::Response::from(response.map(reqwest::Body::wrap));
//! assert_eq!(response.status(), 200);
//! assert!(response.text().await?.contains("claude-sonnet-5-5"));
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//! - [`HttpService`] makes a `Service<http::Request<RequestBody>>` of a [`reqwest::Client`] or, with the feature
//!   `middleware`, of a `reqwest_middleware::ClientWithMiddleware`. Any other client: implement [`Execute`].
//! - `TowerMiddleware` (feature `middleware`) makes a `reqwest_middleware::Middleware` of a layer stack: callers keep
//!   reqwest's own request builder.
//! - [`ReqwestClassify`] tells the layers what a client's error means. Without it a timeout and a wrong URL look like
//!   a broken connection, and are sent again.
//!
//! # Where it goes
//! `HttpService` is the innermost service; a `ClientWithMiddleware` below it runs its middleware once per attempt.
//! `TowerMiddleware` goes where attempts shall begin: middleware before it sees one call, middleware after it every attempt.
//!
//! Retry in one place: do not combine a retry layer with `reqwest::retry` policies that look at statuses, nor with
//! reqwest-retry. What a client retries by default, requests that the server never took (protocol NACKs), is fine. A
//! client's own timeout ends streams too: leave it off, and use the retry layer's `Timeouts`.
//!
//! Put the API key into each request, or have a layer outside of these do it (tower-http's `SetRequestHeaderLayer`): limits,
//! circuits and cache entries are kept per credential, and the `default_headers` of a client come after the layers have
//! looked. With one key only the circuit of a rejected key is lost; clients with different keys under one stack would share
//! limits and cached answers.
//!
//! # Readiness, clones, cancellation
//! Readiness is the client's. Clones share what its clones share: connections. Dropping a call or a body drops the
//! client's, which closes the connection when the answer was not read to its end.
//!
//! # Streaming
//! Bytes go out as bytes (with a length, re-sendable by the client), everything else as a stream; answers come in the
//! pieces that the client reads. `TowerMiddleware` reads a streamed request into memory up to its limit, as layers do.
//!
//! # What it never does
//! Change status, headers or bytes; flatten the client's error type. It switches no feature of reqwest on: TLS, HTTP/2
//! and proxies are chosen by your own dependency on reqwest 0.13. Without a TLS feature there, `https` URLs fail as
//! connections do, with "invalid URL, scheme is not http" among the sources of the error.
#![forbid(unsafe_code)]

mod classify;
mod convert;
mod execute;
mod http_service;
#[cfg(feature = "middleware")]
mod middleware;
#[cfg(feature = "middleware")]
mod next;
#[cfg(feature = "middleware")]
mod stack;

pub use classify::ReqwestClassify;
pub use execute::Execute;
pub use http_service::{HttpService, ResponseFuture};
#[cfg(feature = "middleware")]
pub use middleware::TowerMiddleware;
#[cfg(feature = "middleware")]
pub use next::{NextFuture, NextService};
#[cfg(feature = "middleware")]
pub use stack::Stack;
