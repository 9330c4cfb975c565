//! The facts and settings that translations follow.

use std::borrow::Cow;

use tower_claude_wire::{ModelCatalog, cloud::Betas};

/// The facts about models and betas, and the user's settings.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) catalog: Cow<'static, ModelCatalog>,
    pub(super) betas: Betas,
    pub(super) replaces_tool_ids: bool,
}
