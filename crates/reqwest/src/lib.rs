//! Adaptors between reqwest and Tower: a layer stack around a reqwest client, or as a middleware of
//! a client.
//!
//! ```
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_claude_core::{RequestBody, check};
//! use tower_claude_fake_claude::FakeClaude;
//! use tower_claude_reqwest::HttpService;
//! use tower_claude_retry::RetryLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = FakeClaude::default().serve().await?;
//! let claude = check(ServiceBuilder::new().layer(RetryLayer::new()).service(HttpService::recommended()?));
//!
//! let request = http::Request::post(format!("{}/v1/messages", server.url()))
//!     .header("x-api-key", "key")
//!     .header("anthropic-version", "2023-06-01")
//!     .body(RequestBody::from(
//!         r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#,
//!     ))?;
//! let response = claude.oneshot(request).await?;
//! // The response converts back to reqwest's. Its `url()` is the URL that answered.
//! let response = reqwest::Response::from(response.map(reqwest::Body::wrap));
//! assert_eq!(response.status(), 200);
//! assert!(response.text().await?.contains("claude-sonnet-5-5"));
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! - [`HttpService`] makes a `Service<http::Request<RequestBody>>` of a [`reqwest::Client`] or,
//!   with the feature `middleware`, of a `reqwest_middleware::ClientWithMiddleware`. Implement
//!   [`Execute`] for any other client.
//! - `TowerMiddleware` (feature `middleware`) makes a `reqwest_middleware::Middleware` of a layer
//!   stack. Callers keep reqwest's own request builder.
//! - With this crate, the default classifier of the layers recognises reqwest's errors.
//!   [`ReqwestClassify`] combines that with another classifier of responses.
//!
//! # Where it goes
//!
//! `HttpService` is the innermost service. The middleware of a `ClientWithMiddleware` inside of it
//! runs once per attempt. `TowerMiddleware` goes where attempts start: middleware before it runs
//! once per call, middleware after it once per attempt.
//!
//! Retry in one place. Do not combine a retry layer with `reqwest::retry` policies that look at
//! statuses, or with reqwest-retry. The default retries of a client are compatible: they send
//! requests again that the server never took (protocol NACKs). The timeout of a client ends streams
//! too, so leave it off and use the retry layer's `Timeouts`.
//!
//! Use a client that does not follow redirects: [`HttpService::recommended`], or one of
//! [`client_builder`]. reqwest's default client follows them with `x-api-key`, and after a 307 with
//! the prompt, to any host. A redirect is then a response of its own, which the layers classify as
//! a failure that is not retried. A response from another host than that of its request is reported
//! by a `WARN` event (`redirected`), once for each pair of hosts. Its status and
//! headers have no effect on the limits, circuits and credentials of the host that was asked.
//!
//! Set the API key in each request, or in a layer outside of these (tower-http's
//! `SetRequestHeaderLayer`). Limits, circuits and cache entries are kept per credential, and the
//! layers do not see the `default_headers` of a client. With one key, the circuit of a rejected key
//! is lost, and marked requests bypass the cache unless it is set to share them. Clients with
//! different keys under one stack would share limits.
//!
//! # Readiness, clones, cancellation
//!
//! Readiness is the client's. Clones share the client's connections. Dropping a call or a body
//! drops the client's call or body, which closes the connection if the response was not read to its
//! end.
//!
//! # Streaming
//!
//! A request body of bytes is sent with its length, and the client can send it again. Any other
//! request body is sent as a stream. Response bodies arrive in the chunks that the client reads.
//! `TowerMiddleware` buffers a streamed request up to its limit, as layers do.
//!
//! # Limits
//!
//! It never changes status, headers or bytes, and it keeps the client's error type. It enables no
//! feature of reqwest: TLS, HTTP/2 and proxies are chosen by your own dependency on reqwest 0.13.
//! Without a TLS feature there, `https` URLs fail as connections do, with "invalid URL, scheme is
//! not http" among the sources of the error.
#![forbid(unsafe_code)]

mod classify;
mod client;
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
pub use client::{client, client_builder};
pub use execute::Execute;
pub use http_service::{HttpService, ResponseFuture};
#[cfg(feature = "middleware")]
pub use middleware::TowerMiddleware;
#[cfg(feature = "middleware")]
pub use next::{NextFuture, NextService};
#[cfg(feature = "middleware")]
pub use stack::Stack;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
