//! The contract suite that every layer runs, and tests of the whole stack.
//!
//! A layer runs the suite with one line in its `tests/contract.rs`:
//!
//! ```
//! # use tower_layer::Identity;
//! tower_claude_tests::contract!(Identity::new(), stateless);
//! # fn main() {}
//! ```
//!
//! or, when it keeps state (the closure reads it, see [`contract::state_is_shared`]):
//!
//! ```ignore
//! tower_claude_tests::contract!(RetryLayer::new(), observe = |layer| layer.handle().snapshot());
//! ```
//!
//! The same parts serve all other tests:
//!
//! | Part | Items |
//! |---|---|
//! | requests | [`request`], [`request_to`], [`request_with`], [`post`], [`prompt`], [`with`] |
//! | calls | [`send`], [`send_ok`], [`Received`], [`read`] |
//! | events | [`EventLog`], [`LogLines`] |
//! | paused time | [`paused`], [`settle`], [`SECOND`], [`MINUTE`], [`HOUR`] |
//! | inner services | [`Script`] by poll, [`api::Api`] by time, [`Borrowed`] with a lifetime |
//! | bodies | [`FrameBody`], [`api::Body`] |
//! | leaks | [`Alive`] |
//! | limiter layers | [`limiting`] |
//! | Redis servers | `redis`, on Unix |
//! | pages | `browser`, with the feature `browser`, on Unix |
//!
//! The compiler does some of the checks. This layer fits an axum router:
//!
//! ```
//! # use http::{Request, Response};
//! # use tower::util::BoxCloneSyncService;
//! # use tower_claude_tests::{Broken, FrameBody};
//! # use tower_service::Service;
//! #[derive(Clone)]
//! struct Boxing;
//!
//! impl<S> tower_layer::Layer<S> for Boxing
//! where
//!     S: Service<Request<FrameBody>, Response = Response<FrameBody>, Error = Broken>,
//!     S: Clone + Send + Sync + 'static,
//!     S::Future: Send + 'static,
//! {
//!     type Service = BoxCloneSyncService<Request<FrameBody>, Response<FrameBody>, Broken>;
//!     fn layer(&self, inner: S) -> Self::Service {
//!         BoxCloneSyncService::new(inner)
//!     }
//! }
//!
//! tower_claude_tests::contract::auto_traits(|| Boxing);
//! ```
//!
//! and not a service with a lifetime:
//!
//! ```compile_fail
//! # use http::{Request, Response};
//! # use tower::util::BoxCloneSyncService;
//! # use tower_claude_tests::{Broken, FrameBody};
//! # use tower_service::Service;
//! # #[derive(Clone)]
//! # struct Boxing;
//! #
//! # impl<S> tower_layer::Layer<S> for Boxing
//! # where
//! #     S: Service<Request<FrameBody>, Response = Response<FrameBody>, Error = Broken>,
//! #     S: Clone + Send + Sync + 'static,
//! #     S::Future: Send + 'static,
//! # {
//! #     type Service = BoxCloneSyncService<Request<FrameBody>, Response<FrameBody>, Broken>;
//! #     fn layer(&self, inner: S) -> Self::Service {
//! #         BoxCloneSyncService::new(inner)
//! #     }
//! # }
//! tower_claude_tests::contract::serves_a_borrowed_service(|| Boxing);
//! ```
//!
//! One that changes the error type does not fit at all:
//!
//! ```compile_fail
//! # use tower::util::MapErrLayer;
//! # use tower_claude_tests::Broken;
//! tower_claude_tests::contract::auto_traits(|| MapErrLayer::new(|error: Broken| error.0));
//! ```
//!
//! nor one whose service is not `Sync`:
//!
//! ```compile_fail
//! # use tower_claude_tests::Script;
//! # use http::{Request, Response};
//! # use tower_claude_tests::{Broken, FrameBody};
//! # use tower_layer::layer_fn;
//! # fn boxed(script: Script) -> tower::util::BoxCloneService<Request<FrameBody>, Response<FrameBody>, Broken> {
//! #     tower::util::BoxCloneService::new(script)
//! # }
//! tower_claude_tests::contract::auto_traits(|| layer_fn(boxed));
//! ```
#![forbid(unsafe_code)]

mod alive;
pub mod api;
mod body;
mod borrowed;
#[cfg(all(unix, feature = "browser"))]
pub mod browser;
mod clock;
pub mod contract;
mod error;
mod event_log;
pub mod limiting;
mod log_lines;
mod macros;
#[cfg(doctest)]
mod readme;
mod received;
#[cfg(unix)]
pub mod redis;
mod reply;
mod request;
mod script;
mod steps;

pub use alive::{Alive, Guard};
pub use body::{FrameBody, Piece};
pub use borrowed::Borrowed;
pub use clock::{HOUR, MINUTE, SECOND, paused, serve, settle};
pub use error::Broken;
pub use event_log::{EventLog, LineOf, summary};
pub use log_lines::{LogLines, set_subscriber};
pub use received::{Received, read, send, send_ok};
pub use reply::{Marker, Reply};
pub use request::{
    BASE, HAIKU, OPUS, SONNET, post, prompt, prompt_with, request, request_to, request_with, with,
};
pub use script::{Readiness, Script, Seen};
pub use steps::Steps;
