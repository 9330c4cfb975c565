//! The catalog and its look-up.

use std::collections::{HashMap as StdHashMap, HashSet};
use std::sync::{Arc, OnceLock};

use foldhash::fast::FixedState;

use super::{CatalogError, Lifecycle, Model, Tier, TierLimits, id, load, responses};

/// Keys come from data files, never from requests: a fixed hash will do, and one is looked up per call.
pub(super) type HashMap<K, V> = StdHashMap<K, V, FixedState>;

/// What is known about models, as of a date. [`ModelCatalog::builtin`] follows the public
/// documentation; newer or organization-specific facts are laid over it.
///
/// ```
/// use tower_claude_wire::{ModelCatalog, Tier};
/// let catalog = ModelCatalog::builtin();
/// let opus = catalog.lookup("us.anthropic.claude-opus-4-5-20251101-v1:0");
/// assert_eq!(&*opus.id, "claude-opus-4-5");
/// assert_eq!(opus.rate_group, catalog.lookup("claude-opus-4-8").rate_group);
/// let start = catalog.tier_limits(Tier::Start, &opus.rate_group).unwrap();
/// assert_eq!(start.input_tokens_per_minute, 2_000_000);
/// ```
#[derive(Clone, Debug)]
pub struct ModelCatalog {
    pub(super) as_of: Arc<str>,
    pub(super) models: HashMap<Box<str>, Model>,
    /// Sizes for models not listed, by family name.
    pub(super) families: HashMap<Box<str>, Sizes>,
    /// Ids that are known only to be gone.
    pub(super) retired: HashSet<Box<str>, FixedState>,
    pub(super) tiers: [HashMap<Box<str>, TierLimits>; 3],
    /// The organization's own limits by rate group, from the Rate Limits API.
    pub(super) limits: HashMap<Box<str>, TierLimits>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) context: u64,
    pub(super) max_output: u64,
}

impl ModelCatalog {
    /// The catalog this crate was published with; parsed once.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<ModelCatalog> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            Self::from_json(include_str!("../../data/models.json"))
                .expect("the data file is checked by a test")
        })
    }

    /// Reads a catalog in the format of this crate's `data/models.json`.
    ///
    /// # Errors
    /// Names the field and the value that do not fit.
    pub fn from_json(json: &str) -> Result<Self, CatalogError> {
        load::catalog(json)
    }

    /// Date of the facts, as the data file words it.
    #[must_use]
    pub fn as_of(&self) -> &str {
        &self.as_of
    }

    /// Finds a model by any of its names: dated, aliased, or dressed for a cloud. A model that is not
    /// listed gets its family's sizes, the newer tokenizer and a rate group of its own, with
    /// [`Model::known`] false. Allocates nothing for listed models.
    #[must_use]
    pub fn lookup(&self, model: &str) -> Model {
        if let Some(found) = self.get(model) {
            return found.clone();
        }
        let canonical = id::canonical(model);
        let mut unknown = Model::new(canonical);
        unknown.known = false;
        if self.retired.contains(canonical) {
            unknown.lifecycle = Lifecycle::Retired;
        }
        if let Some(sizes) = id::family(canonical).and_then(|name| self.families.get(name)) {
            unknown.context = sizes.context;
            unknown.max_output = sizes.max_output;
        }
        unknown
    }

    /// A listed model, by any of its names. Nothing is cloned, so that threads do not meet in its
    /// reference counts.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<&Model> {
        let listed = self.models.get(model);
        listed.or_else(|| self.models.get(id::canonical(model)))
    }

    /// The same, with the name itself where it is listed as it is.
    #[must_use]
    pub fn get_named(&self, model: &str) -> (Option<&str>, Option<&Model>) {
        match self.models.get_key_value(model) {
            Some((name, listed)) => (Some(name), Some(listed)),
            None => (None, self.models.get(id::canonical(model))),
        }
    }

    /// The listed models, in no order.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// Adds or replaces a model under `id`, an exact name: an alias or a deployment name will do.
    #[must_use]
    pub fn with_model(mut self, id: &str, model: Model) -> Self {
        self.models.insert(id.into(), model);
        self
    }

    /// Published limits of a rate group in a tier.
    #[must_use]
    pub fn tier_limits(&self, tier: Tier, rate_group: &str) -> Option<TierLimits> {
        self.tiers[tier as usize].get(rate_group).copied()
    }

    /// The organization's own limits of a rate group, once
    /// [`ModelCatalog::merge_rate_limits_response`] has seen them. A dimension the organization has no
    /// limit for is `u64::MAX`.
    #[must_use]
    pub fn limits(&self, rate_group: &str) -> Option<TierLimits> {
        self.limits.get(rate_group).copied()
    }

    /// Lays a page of `GET /v1/models` (or one model object) over this catalog: ids, sizes, thinking
    /// types and efforts. Facts it does not state stay as they are.
    ///
    /// # Errors
    /// Names the field and the value that do not fit.
    pub fn merge_models_response(mut self, json: &str) -> Result<Self, CatalogError> {
        responses::models(&mut self, json)?;
        Ok(self)
    }

    /// Lays a page of `GET /v1/organizations/rate_limits` over this catalog: which models share a rate
    /// group in this organization, and the group's limits. Groups take the API's own ids.
    ///
    /// # Errors
    /// Names the field and the value that do not fit.
    pub fn merge_rate_limits_response(mut self, json: &str) -> Result<Self, CatalogError> {
        responses::rate_limits(&mut self, json)?;
        Ok(self)
    }
}
