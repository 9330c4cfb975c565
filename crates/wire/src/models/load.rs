//! Reading a catalog in our own format.

use std::sync::Arc;

use super::catalog::{ModelCatalog, Sizes};
use super::node::{CatalogError, Node, Result, parse, root};
use super::{About, Capabilities, Model, SamplingDefaults, Tier, TierLimits, Tokenizer};

pub(super) fn catalog(json: &str) -> Result<ModelCatalog> {
    let value = parse(json)?;
    let root = root(&value);
    let mut catalog = ModelCatalog {
        as_of: root.at("as_of").text()?.into(),
        models: Default::default(),
        families: Default::default(),
        retired: Default::default(),
        tiers: Default::default(),
        limits: Default::default(),
    };
    for (id, node) in root.at("models").entries()? {
        catalog.models.insert(id.into(), model(id, &node)?);
    }
    if let Some(retired) = root.at("retired").optional(Node::texts)? {
        catalog.retired.extend(retired);
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

fn model(id: &str, node: &Node<'_>) -> Result<Model> {
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
    let texts = |name| Ok(node.at(name).optional(Node::texts)?.unwrap_or_default());
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
        prefill: node.at("prefill").support()?,
        sampling: node.at("sampling").support()?,
        fast: node.at("fast").support()?,
        sampling_defaults: SamplingDefaults {
            temperature: defaults.at("temperature").optional(Node::thousandths)?,
            top_p: defaults.at("top_p").optional(Node::thousandths)?,
        },
        min_cache_tokens: node.at("min_cache_tokens").optional(Node::number)?,
        inference_geo: node.at("inference_geo").support()?,
        system_messages: node.at("system_messages").support()?,
        per_message_effort: node.at("per_message_effort").support()?,
        tools_rejected: texts("tools_rejected")?,
        binds_thinking: node.at("binds_thinking").optional(Node::flag)?,
        binds_thinking_to_account: node.at("binds_thinking_to_account").optional(Node::flag)?,
    });
    if let Some(lifecycle) = node.at("lifecycle").optional(Node::lifecycle)? {
        model.lifecycle = lifecycle;
    }
    let text = |name| Ok::<_, CatalogError>(node.at(name).optional(Node::text)?.map(Into::into));
    model.about = Arc::new(About {
        snapshot: text("snapshot")?,
        retires_on: text("retires_on")?,
        retires_not_before: text("retires_not_before")?,
        uncertain: texts("uncertain")?,
    });
    Ok(model)
}
