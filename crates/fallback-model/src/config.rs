//! The settings of a layer, and the state that its clones share.

use std::sync::Arc;

use tower_claude_core::event::EventSink;
use tower_claude_wire::ModelCatalog;

use crate::{
    chains::ChainTable, cooldown::CoolDown, handle::SharedState, rewrite::RewriteOptions,
    selection::Triggers,
};

/// The name of the layer in events and logs.
pub(crate) const LAYER: &str = "fallback-model";

/// The settings of a layer, behind one `Arc`.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) chains: ChainTable,
    pub(crate) triggers: Triggers,
    pub(crate) cool_down: CoolDown,
    pub(crate) rewrite: RewriteOptions,
    /// `None` for the built-in catalogue.
    pub(crate) catalog: Option<Arc<ModelCatalog>>,
    pub(crate) error_message: Option<Arc<str>>,
    /// True if the `Class` that an inner layer left in a response stands.
    pub(crate) reuse_class: bool,
    pub(crate) events: EventSink,
    pub(crate) body_limit: usize,
    pub(crate) shared: Arc<SharedState>,
}

impl Config {
    pub(crate) fn catalog(&self) -> &ModelCatalog {
        self.catalog.as_deref().unwrap_or(ModelCatalog::builtin())
    }
}
