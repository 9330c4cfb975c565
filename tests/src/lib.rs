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
//! Its parts serve other tests as well: [`Script`] is a scripted inner service, [`Reply`] what it
//! answers, [`FrameBody`] a body scripted frame by frame, [`Steps`] drives a call poll by poll. [`api`] is a
//! scripted API for tests in paused time, and [`limiting`] the harness of the limiter layers.
//!
//! What the compiler checks, it refuses. This layer fits an axum router:
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
pub mod contract;
mod error;
pub mod limiting;
mod macros;
#[cfg(doctest)]
mod readme;
mod reply;
mod run;
mod script;
mod seen;
mod steps;

pub use alive::{Alive, Guard};
pub use body::{FrameBody, Piece};
pub use borrowed::Borrowed;
pub use error::Broken;
pub use reply::{Marker, Reply};
pub use run::{paused, serve};
pub use script::{Readiness, Script};
pub use seen::{Answer, Seen, read};
pub use steps::Steps;
