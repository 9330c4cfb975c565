//! Groups of models that share a quota.

use super::data::DATA;
use super::target::Target;
use crate::models::{Model, Platform};

impl Target {
    /// Returns the name of the quota that a model draws on. Models with one name share it at this
    /// target.
    ///
    /// On the Claude API this is the rate group. On Vertex, the newer models of a lineage share one
    /// quota on `global` and on multi-regions (`lineage-opus`). All other models have a quota each.
    ///
    /// ```
    /// use tower_claude_wire::{ModelCatalog, cloud::Target};
    ///
    /// let global = Target::vertex("project", "global")?;
    /// let region = Target::vertex("project", "us-east5")?;
    /// let opus = ModelCatalog::builtin().lookup("claude-opus-5-5");
    /// assert_eq!(global.quota_group(&opus), "lineage-opus");
    /// assert_eq!(region.quota_group(&opus), "claude-opus-5-5");
    /// # Ok::<(), tower_claude_wire::cloud::InvalidTarget>(())
    /// ```
    #[must_use]
    pub fn quota_group<'a>(&self, model: &'a Model) -> &'a str {
        quota_group(self.platform(), self.location(), model)
    }
}

/// Returns the name of the quota that a model draws on, as [`Target::quota_group`] does. A location
/// that is not known is empty.
#[must_use]
pub fn quota_group<'a>(platform: Platform, location: &str, model: &'a Model) -> &'a str {
    match platform {
        Platform::Vertex if matches!(location, "global" | "us" | "eu") => {
            lineage(&model.id).unwrap_or(&model.id)
        }
        Platform::Bedrock | Platform::Vertex => &model.id,
        _ => &model.rate_group,
    }
}

/// Returns the lineage of a model that shares the quota of its lineage.
fn lineage(id: &str) -> Option<&'static str> {
    let (family, version) = id.strip_prefix("claude-")?.split_once('-')?;
    let since = DATA.lineages.get(family)?;
    let mut numbers = version.split('-').map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next().map_or(Some(0), Result::ok)?;
    if (major, minor) < *since {
        return None;
    }
    Some(match family {
        "fable" => "lineage-fable",
        "opus" => "lineage-opus",
        "sonnet" => "lineage-sonnet",
        "haiku" => "lineage-haiku",
        _ => return None,
    })
}
