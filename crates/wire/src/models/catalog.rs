//! The catalog: lookup, reader of the data file, and the API responses that refine it.

use std::borrow::Borrow;
use std::collections::HashMap as StdHashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use foldhash::fast::FixedState;

use super::id;
use super::model::{
    About, Capabilities, Effort, Lifecycle, Model, SamplingDefaults, Support, Tier, TierLimits,
    Tokenizer, instant,
};
use super::node::{Node, Result, parse, root};
use super::platform::Platform;
use super::price::{Bill, Billing, Prices};
use crate::usage::Usage;

/// Keys come from data files, never from requests, so a fixed hash is safe. It is faster, and every
/// call looks up a model.
type HashMap<K, V> = StdHashMap<K, V, FixedState>;

/// The name of a model, which is looked up by its bytes, so that the text of a request need not be
/// checked before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name(Box<str>);

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Catalog of models as of a date. [`ModelCatalog::builtin`] follows the public documentation.
/// Newer or organization-specific facts can be merged into it.
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
    as_of: Arc<str>,
    models: HashMap<Name, Model>,
    /// Sizes for models not listed, by family name.
    families: HashMap<Box<str>, Sizes>,
    /// Dates of retired models, of which no other fact is kept.
    retired: HashMap<Box<str>, Arc<About>>,
    /// Canonical ids by other names of theirs.
    aliases: HashMap<Box<str>, Box<str>>,
    tiers: [HashMap<Box<str>, TierLimits>; 3],
    /// The organization's own limits by rate group, from the Rate Limits API.
    limits: HashMap<Box<str>, TierLimits>,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    context: u64,
    max_output: u64,
}

impl ModelCatalog {
    /// Returns the catalog of this version of the crate. It is parsed once.
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
    pub fn from_json(json: &str) -> Result<Self> {
        read_catalog(json)
    }

    /// Returns the date of the facts, as the data file has it.
    #[must_use]
    pub fn as_of(&self) -> &str {
        &self.as_of
    }

    /// Returns the age of the facts.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let age = now.duration_since(instant(&self.as_of)?);
        Some(age.unwrap_or_default())
    }

    /// Returns the begin of the date of the facts, or the epoch if it is not a date.
    #[must_use]
    pub fn as_of_time(&self) -> SystemTime {
        instant(&self.as_of).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Returns a model by any of its names: with a date, an alias, with a cloud prefix, or with
    /// dots (`anthropic/claude-opus-4.8`). A model that is not listed has the sizes of its family,
    /// the newer tokenizer and its own rate group, and [`Model::known`] is false. Does not allocate
    /// for listed models in the spelling of the API.
    #[must_use]
    pub fn lookup(&self, model: &str) -> Model {
        if let Some(found) = self.get(model) {
            return found.clone();
        }
        let spelled = id::spelled(id::canonical(model));
        let canonical = self.aliases.get(&*spelled).map_or(&*spelled, |id| id);
        let mut unknown = Model::new(canonical);
        unknown.known = false;
        if let Some(about) = self.retired.get(canonical) {
            unknown.lifecycle = Lifecycle::Retired;
            unknown.about = Arc::clone(about);
        }
        if let Some(sizes) = id::family(canonical).and_then(|name| self.families.get(name)) {
            unknown.context = sizes.context;
            unknown.max_output = sizes.max_output;
        }
        unknown
    }

    /// Returns a listed model by any of its names. It is not cloned, so that threads do not contend
    /// for its reference counts.
    #[must_use]
    pub fn get(&self, model: &str) -> Option<&Model> {
        let listed = self.models.get(model.as_bytes());
        listed.or_else(|| self.get_canonical(id::canonical(model)))
    }

    fn get_canonical(&self, canonical: &str) -> Option<&Model> {
        let listed = self.models.get(canonical.as_bytes());
        listed.or_else(|| self.models.get(id::spelled(canonical).as_bytes()))
    }

    /// Returns true if a response of the model `served` answers a request for `asked`: both are
    /// names of one model, and of one date if both have a date. A name of one's own, such as that
    /// of a deployment, may stand for any model.
    ///
    /// ```
    /// use tower_claude_wire::ModelCatalog;
    /// let catalog = ModelCatalog::builtin();
    /// let served = "claude-haiku-4-5-20251001";
    /// assert!(catalog.is_answer("us.anthropic.claude-haiku-4-5-20251001-v1:0", served));
    /// assert!(!catalog.is_answer("claude-haiku-5-5", served));
    /// ```
    #[must_use]
    pub fn is_answer(&self, asked: &str, served: &str) -> bool {
        if asked == served || asked.is_empty() || served.is_empty() {
            return asked == served && !asked.is_empty();
        }
        if let (Some(asked), Some(served)) = (id::date(asked), id::date(served))
            && asked != served
        {
            return false;
        }
        if served.ends_with("-fast") && !asked.ends_with("-fast") {
            return false;
        }
        let model = self.lookup(asked);
        model.id == self.lookup(served).id || !model.known && !model.id.starts_with("claude-")
    }

    /// Like [`ModelCatalog::get`]. Also returns the catalog's copy of the name if the exact name is
    /// listed. The name is only checked to be UTF-8 if it is not.
    #[must_use]
    #[inline]
    pub fn get_named(&self, model: &[u8]) -> (Option<&str>, Option<&Model>) {
        match self.models.get_key_value(model) {
            Some((name, listed)) => (Some(&name.0), Some(listed)),
            None => {
                let model = std::str::from_utf8(model).ok();
                let listed = model.and_then(|model| self.get_canonical(id::canonical(model)));
                (None, listed)
            }
        }
    }

    /// Returns the listed models, in no particular order.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// Adds or replaces a model under the exact name `id`, which may be an alias or a deployment
    /// name.
    #[must_use]
    pub fn with_model(mut self, id: &str, model: Model) -> Self {
        self.models.insert(Name(id.into()), model);
        self
    }

    /// Sets the prices of a model, under all of its names. `None`: they are not known. A model
    /// that is not listed is added as [`ModelCatalog::lookup`] returns it, but as known.
    ///
    /// ```
    /// use tower_claude_wire::{ModelCatalog, Prices, RateCard};
    /// // An agreed price of 3.20 USD for input and 16 USD for output per million tokens.
    /// let prices = Prices::new(RateCard::new(3_200, 16_000));
    /// let catalog = ModelCatalog::builtin().clone().with_prices("claude-opus-5-5", Some(&prices));
    /// let prices = catalog.lookup("claude-opus-5-5").about.prices.clone().unwrap();
    /// assert_eq!(prices.base.cache_read, 320);
    /// ```
    #[must_use]
    pub fn with_prices(mut self, model: &str, prices: Option<&Prices>) -> Self {
        let changed = self.lookup(model);
        if self.get(model).is_none() {
            let known = Model {
                known: true,
                ..changed.clone()
            };
            self.models.insert(Name(model.into()), known);
        }
        // A model may be listed under its plain name and under dated ones.
        for listed in self.models.values_mut() {
            if listed.id == changed.id {
                Arc::make_mut(&mut listed.about).prices = prices.cloned();
            }
        }
        self
    }

    /// Returns the bill of a message that was requested from a model, or `None` if its price is not
    /// known. See [`Prices::bill`].
    ///
    /// If the usage lists [`iterations`](Usage::iterations), each is billed at the price of its own
    /// model, with the card of its own length. If the model of one has no known price, the whole
    /// bill is not known. The API does not bill some refusals before any output, so that of an
    /// iteration is at most the true one plus that refusal.
    ///
    /// ```
    /// use tower_claude_wire::{Billing, ModelCatalog, Usage};
    /// let usage = br#"{"input_tokens":1000,"output_tokens":500,"service_tier":"batch"}"#;
    /// let usage = Usage::from_usage_object(usage).unwrap();
    /// let catalog = ModelCatalog::builtin();
    /// let bill = catalog.bill("claude-sonnet-5-5", &usage, Billing::default()).unwrap();
    /// assert_eq!(bill.cost.to_string(), "$0.0035");
    /// assert_eq!(bill.batch_savings().to_string(), "$0.0035");
    /// assert_eq!(catalog.bill("my-model", &usage, Billing::default()), None);
    /// ```
    #[must_use]
    pub fn bill(&self, model: &str, usage: &Usage, billing: Billing) -> Option<Bill> {
        let prices = |model: &str| self.get(model)?.about.prices.as_ref();
        let Some(iterations) = &usage.iterations else {
            let has_more = usage.iterations_input.or(usage.iterations_output).is_some();
            return prices(model).filter(|_| !has_more)?.bill(usage, billing);
        };
        // Tokens that were produced after the last report of iterations belong to the last one.
        let listed = usage.iterations_output.unwrap_or(0);
        let later = usage.limited_output().unwrap_or(0) - listed;
        let mut sum = Bill::default();
        for (index, iteration) in iterations.iter().enumerate() {
            let mut counts = iteration.usage.clone();
            counts.speed = counts.speed.or(usage.speed);
            counts.service_tier = counts.service_tier.or(usage.service_tier);
            counts.us_inference = counts.us_inference.or(usage.us_inference);
            counts.has_fallback_credit |= usage.has_fallback_credit;
            // The searches are those of the whole message.
            counts.web_search_requests = None;
            if index + 1 == iterations.len() {
                counts.output_tokens = counts.output_tokens.map(|tokens| tokens + later);
                counts.web_search_requests = usage.web_search_requests;
            }
            let prices = prices(iteration.model.as_deref().unwrap_or(model))?;
            sum += prices.bill(&counts, billing)?;
        }
        Some(sum)
    }

    /// Returns the published limits of a rate group in a tier.
    #[must_use]
    pub fn tier_limits(&self, tier: Tier, rate_group: &str) -> Option<TierLimits> {
        self.tiers[tier as usize].get(rate_group).copied()
    }

    /// Returns the organization's own limits of a rate group, if
    /// [`ModelCatalog::merge_rate_limits_response`] has read them. A dimension without a limit is
    /// `u64::MAX`.
    #[must_use]
    pub fn limits(&self, rate_group: &str) -> Option<TierLimits> {
        self.limits.get(rate_group).copied()
    }

    /// Merges a page of `GET /v1/models` (or one model object) into this catalog: ids, sizes,
    /// thinking types and efforts. All other facts stay unchanged.
    ///
    /// # Errors
    /// Names the field and the value that do not fit.
    pub fn merge_models_response(mut self, json: &str) -> Result<Self> {
        merge_models(&mut self, json)?;
        Ok(self)
    }

    /// Merges a page of `GET /v1/organizations/rate_limits` into this catalog: the rate groups of
    /// this organization, their models and their limits. The groups get the API's own ids.
    ///
    /// # Errors
    /// Names the field and the value that do not fit.
    pub fn merge_rate_limits_response(mut self, json: &str) -> Result<Self> {
        merge_rate_limits(&mut self, json)?;
        Ok(self)
    }
}

fn read_catalog(json: &str) -> Result<ModelCatalog> {
    let value = parse(json)?;
    let root = root(&value);
    let mut catalog = ModelCatalog {
        as_of: root.at("as_of").text()?.into(),
        models: Default::default(),
        families: Default::default(),
        retired: Default::default(),
        aliases: Default::default(),
        tiers: Default::default(),
        limits: Default::default(),
    };
    for (id, node) in root.at("models").entries()? {
        catalog
            .models
            .insert(Name(id.into()), read_model(id, &node)?);
    }
    for (id, node) in root
        .at("retired")
        .optional(Node::entries)?
        .unwrap_or_default()
    {
        catalog
            .retired
            .insert(id.into(), Arc::new(read_about(&node)?));
    }
    for (name, node) in root
        .at("aliases")
        .optional(Node::entries)?
        .unwrap_or_default()
    {
        catalog.aliases.insert(name.into(), node.text()?.into());
    }
    if let Some(families) = root.at("families").optional(Node::entries)? {
        for (name, node) in families {
            let sizes = Sizes {
                context: node.at("context").number()?,
                max_output: node.at("max_output").number()?,
            };
            catalog.families.insert(name.into(), sizes);
        }
    }
    let tiers = root.at("tiers");
    for (tier, name) in [
        (Tier::Start, "start"),
        (Tier::Build, "build"),
        (Tier::Scale, "scale"),
    ] {
        if let Some(groups) = tiers.at(name).optional(Node::entries)? {
            for (group, node) in groups {
                let limits = TierLimits {
                    requests_per_minute: node.at("requests_per_minute").number()?,
                    input_tokens_per_minute: node.at("input_tokens_per_minute").number()?,
                    output_tokens_per_minute: node.at("output_tokens_per_minute").number()?,
                };
                catalog.tiers[tier as usize].insert(group.into(), limits);
            }
        }
    }
    Ok(catalog)
}

fn read_model(id: &str, node: &Node<'_>) -> Result<Model> {
    let mut model = Model::new(id);
    if let Some(group) = node.at("rate_group").optional(Node::text)? {
        model.rate_group = group.into();
    }
    model.context = node.at("context").number()?;
    model.max_output = node.at("max_output").number()?;
    let tokenizer = node.at("tokenizer");
    model.tokenizer = match tokenizer.text()? {
        "old" => Tokenizer::Old,
        "new" => Tokenizer::New,
        _ => return Err(tokenizer.bad("\"old\" or \"new\"")),
    };
    let thinking = node.at("thinking");
    let defaults = node.at("sampling_defaults");
    let text = |name| Ok(node.at(name).optional(Node::text)?.map(Into::into));
    let forced = node
        .at("forced_tool_choice_on")
        .by_platform(Node::support)?;
    let forced = forced
        .into_iter()
        .filter_map(|(on, support)| Some((on?, support)));
    model.capabilities = Arc::new(Capabilities {
        thinks_by_default: node.at("thinks_by_default").optional(Node::flag)?,
        thinking_adaptive: thinking.at("adaptive").support()?,
        thinking_enabled: thinking.at("enabled").support()?,
        thinking_between_tools: thinking.at("between_tools").support()?,
        thinking_disabled: thinking.at("disabled").support()?,
        efforts: node
            .at("efforts")
            .optional(|n| n.items()?.iter().map(Node::effort).collect())?,
        default_effort: node.at("default_effort").optional(Node::effort)?,
        forced_tool_choice: node.at("forced_tool_choice").support()?,
        forced_tool_choice_on: forced.collect(),
        prefill: node.at("prefill").support()?,
        sampling: node.at("sampling").support()?,
        fast: node.at("fast").support()?,
        fast_platforms: read_platforms(node, "fast_platforms")?,
        fast_beta: text("fast_beta")?,
        fast_ends: text("fast_ends")?,
        sampling_defaults: SamplingDefaults {
            temperature: defaults.at("temperature").optional(Node::thousandths)?,
            top_p: defaults.at("top_p").optional(Node::thousandths)?,
        },
        min_cache_tokens: node.at("min_cache_tokens").optional(Node::number)?,
        inference_geo: node.at("inference_geo").support()?,
        system_messages: node.at("system_messages").support()?,
        per_message_effort: node.at("per_message_effort").support()?,
        tools_rejected: node.at("tools_rejected").by_platform(Node::texts)?,
        programmatic_tools: node.at("programmatic_tools").support()?,
        advisor_rank: node.at("advisor_rank").optional(Node::number)?,
        compaction: node.at("compaction").support()?,
        task_budget: node.at("task_budget").support()?,
        priority_tier: node.at("priority_tier").support()?,
        needs_retention: node.at("needs_retention").optional(Node::flag)?,
        binds_thinking: node.at("binds_thinking").optional(Node::flag)?,
        binds_thinking_to_account: node.at("binds_thinking_to_account").optional(Node::flag)?,
    });
    if let Some(lifecycle) = node.at("lifecycle").optional(Node::lifecycle)? {
        model.lifecycle = lifecycle;
    }
    model.about = Arc::new(read_about(node)?);
    Ok(model)
}

fn read_about(node: &Node<'_>) -> Result<About> {
    let text = |name| Ok(node.at(name).optional(Node::text)?.map(Into::into));
    let uncertain = node.at("uncertain").optional(Node::texts)?;
    Ok(About {
        snapshot: text("snapshot")?,
        retires_on: text("retires_on")?,
        retires_not_before: text("retires_not_before")?,
        own_schedule: read_platforms(node, "own_schedule")?,
        prices: node.at("price").optional(read_prices)?,
        uncertain: uncertain.unwrap_or_default(),
    })
}

fn read_platforms(node: &Node<'_>, name: &str) -> Result<Vec<Platform>> {
    let platforms = node.at(name).optional(Node::platforms)?;
    Ok(platforms.unwrap_or_default())
}

fn read_prices(node: &Node<'_>) -> Result<Prices> {
    let base = node.rate_card(None)?;
    let long = |node: &Node<'_>| Ok((node.at("above").number()?, node.rate_card(None)?));
    let us = node.at("us_geo").optional(Node::thousandths)?;
    let batch = node.at("batch").optional(Node::thousandths)?;
    let search = node.at("web_search").optional(Node::thousandths)?;
    let platforms = node.at("platforms").optional(Node::platforms)?;
    let percent = |thousandths| u64::from(thousandths) / 10;
    Ok(Prices {
        base,
        fast: node
            .at("fast")
            .optional(|node| node.rate_card(Some(base)))?,
        long_prompt: node.at("long_prompt").optional(long)?,
        us_percent: us.map_or(100, percent),
        batch_percent: batch.map_or(50, percent),
        // In USD per 1,000 searches, so a thousandth is 1,000 nano-dollars a search.
        web_search: search.map_or(Prices::WEB_SEARCH, |thousandths| {
            u64::from(thousandths) * 1_000
        }),
        platforms: platforms.unwrap_or_else(|| vec![Platform::ClaudeApi]),
    })
}

fn merge_models(catalog: &mut ModelCatalog, json: &str) -> Result<()> {
    let value = parse(json)?;
    let root = root(&value);
    if root.at("id").value.is_some() {
        return merge_model(catalog, &root);
    }
    for node in root.at("data").items()? {
        merge_model(catalog, &node)?;
    }
    Ok(())
}

fn merge_model(catalog: &mut ModelCatalog, node: &Node<'_>) -> Result<()> {
    let id = node.at("id").text()?;
    let mut model = catalog.lookup(id);
    model.known = true;
    if let Some(context) = node.at("max_input_tokens").optional(Node::number)? {
        model.context = context;
    }
    if let Some(max_output) = node.at("max_tokens").optional(Node::number)? {
        model.max_output = max_output;
    }
    // An unknown stage may be a new stage, so it is not an error.
    if let Some(word) = node.at("lifecycle").optional(Node::text)? {
        model.lifecycle = Lifecycle::parse(word).unwrap_or_default();
    }
    let date = node.at("retires_at").optional(Node::text)?;
    // The date of an active model has been withdrawn if the response has none.
    if date.is_some() || model.lifecycle == Lifecycle::Active {
        Arc::make_mut(&mut model.about).retires_on = date.map(Into::into);
    }
    let capabilities = node.at("capabilities");
    if capabilities.value.is_some() {
        let known = Arc::make_mut(&mut model.capabilities);
        let types = capabilities.at("thinking").at("types");
        refine(&mut known.thinking_adaptive, &types.at("adaptive"))?;
        refine(&mut known.thinking_enabled, &types.at("enabled"))?;
        refine(
            &mut known.thinking_between_tools,
            &types.at("between_tools"),
        )?;
        refine(&mut known.thinking_disabled, &types.at("disabled"))?;
        let effort = capabilities.at("effort");
        if effort.value.is_some() {
            let mut efforts = Vec::new();
            for word in ["low", "medium", "high", "xhigh", "max"] {
                if effort.at(word).at("supported").optional(Node::flag)? == Some(true) {
                    efforts.extend(Effort::parse(word));
                }
            }
            known.efforts = Some(efforts);
        }
    }
    // A dated name also updates the plain one, unless the plain name refers to another date or is a
    // snapshot itself. The API lists the newest first, so for a new plain name the first date is
    // used.
    let plain = id::canonical(id);
    if plain != id {
        if !catalog.models.contains_key(plain.as_bytes()) {
            Arc::make_mut(&mut model.about).snapshot = Some(id.into());
        }
        if model.about.snapshot.as_deref() == Some(id) {
            catalog.models.insert(Name(plain.into()), model.clone());
        }
    }
    catalog.models.insert(Name(id.into()), model);
    Ok(())
}

/// The API reports only yes or no. The data file may have a more exact value for a yes.
fn refine(known: &mut Support, node: &Node<'_>) -> Result<()> {
    match node.at("supported").optional(Node::flag)? {
        Some(true) if matches!(known, Support::Unknown | Support::No) => *known = Support::Yes,
        Some(false) => *known = Support::No,
        _ => {}
    }
    Ok(())
}

fn merge_rate_limits(catalog: &mut ModelCatalog, json: &str) -> Result<()> {
    let value = parse(json)?;
    for node in root(&value).at("data").items()? {
        let group = node.at("group");
        if group.at("type").text()? == "model_group" {
            merge_rate_group(catalog, &node, &group)?;
        }
    }
    Ok(())
}

fn merge_rate_group(catalog: &mut ModelCatalog, node: &Node<'_>, group: &Node<'_>) -> Result<()> {
    let name: Arc<str> = group.at("id").text()?.into();
    if let Some(models) = node.at("models").optional(Node::items)? {
        for listed in models {
            let listed = listed.text()?;
            let mut model = catalog.lookup(listed);
            // The published limits still apply to models that moved to the organization's group.
            for tier in &mut catalog.tiers {
                if let Some(limits) = tier.get(&*model.rate_group).copied() {
                    tier.entry((*name).into()).or_insert(limits);
                }
            }
            model.rate_group = Arc::clone(&name);
            model.known = true;
            // The listed name and the plain one, so that every form of the name finds the group.
            let canonical = id::canonical(listed);
            if canonical != listed {
                catalog.models.insert(Name(canonical.into()), model.clone());
            }
            catalog.models.insert(Name(listed.into()), model);
        }
    }
    let mut limits = TierLimits {
        requests_per_minute: u64::MAX,
        input_tokens_per_minute: u64::MAX,
        output_tokens_per_minute: u64::MAX,
    };
    let mut plain_input = None;
    for limit in node.at("limits").items()? {
        let Some(value) = limit.at("value").optional(Node::number)? else {
            continue;
        };
        match limit.at("type").text()? {
            "requests_per_minute" => limits.requests_per_minute = value,
            "input_tokens_per_minute_cache_aware" => limits.input_tokens_per_minute = value,
            "input_tokens_per_minute" => plain_input = Some(value),
            "output_tokens_per_minute" => limits.output_tokens_per_minute = value,
            _ => {}
        }
    }
    if let Some(plain) = plain_input {
        limits.input_tokens_per_minute = limits.input_tokens_per_minute.min(plain);
    }
    catalog.limits.insert((*name).into(), limits);
    Ok(())
}
