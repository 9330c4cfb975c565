//! The settings of a layer, and the state that its clones share.

use std::sync::{Arc, atomic::Ordering};

use tower_claude_core::event::{Event, EventSink, emit};
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

    /// Emits an event for each configured name that may be a mistake, unless this was done before.
    pub(crate) fn report_doubtful_names(&self) {
        if self.shared.names_reported.swap(true, Ordering::Relaxed) {
            return;
        }
        for (model, because) in self.chains.doubtful(self.catalog()) {
            let layer = LAYER;
            emit(
                &self.events,
                &Event::DoubtfulModel {
                    layer,
                    model,
                    because,
                },
            );
        }
    }
}
