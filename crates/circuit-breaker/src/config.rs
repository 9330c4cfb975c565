//! The settings and the circuits that a layer shares with its services.

use std::{num::NonZeroUsize, sync::Arc};

use http::{HeaderMap, Request};
use tower_claude_core::{RequestBody, Scope, event::EventSink};

use crate::{circuits::CircuitTable, state_machine::BreakerConfig};

/// The name in events, rejections and logs.
pub(crate) const LAYER: &str = "circuit-breaker";

type ScopeOf = dyn Fn(&Request<RequestBody>) -> Scope + Send + Sync;
type CredentialOf = dyn Fn(&HeaderMap) -> u64 + Send + Sync;

/// The settings and the circuits, shared by all calls.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) breaker: BreakerConfig,
    pub(crate) credentials: BreakerConfig,
    pub(crate) scope_of: Option<Arc<ScopeOf>>,
    pub(crate) credential_of: Option<Arc<CredentialOf>>,
    pub(crate) most_circuits: NonZeroUsize,
    /// True if the `Class` that an inner layer left stands.
    pub(crate) reuse_class: bool,
    pub(crate) observers: EventSink,
    pub(crate) body_limit: usize,
    pub(crate) circuits: Arc<CircuitTable>,
}
