//! The two API responses that refine a catalog.

use std::sync::Arc;

use super::catalog::ModelCatalog;
use super::node::{Node, Result, parse, root};
use super::{Effort, Lifecycle, Support, TierLimits, id};

pub(super) fn models(catalog: &mut ModelCatalog, json: &str) -> Result<()> {
    let value = parse(json)?;
    let root = root(&value);
    if root.at("id").value.is_some() {
        return model_info(catalog, &root);
    }
    for node in root.at("data").items()? {
        model_info(catalog, &node)?;
    }
    Ok(())
}

fn model_info(catalog: &mut ModelCatalog, node: &Node<'_>) -> Result<()> {
    let id = node.at("id").text()?;
    let mut model = catalog.lookup(id);
    model.known = true;
    if let Some(context) = node.at("max_input_tokens").optional(Node::number)? {
        model.context = context;
    }
    if let Some(max_output) = node.at("max_tokens").optional(Node::number)? {
        model.max_output = max_output;
    }
    // A stage that is named tomorrow is not known today.
    if let Some(word) = node.at("lifecycle").optional(Node::text)? {
        model.lifecycle = Lifecycle::parse(word).unwrap_or_default();
    }
    if let Some(date) = node.at("retires_at").optional(Node::text)? {
        Arc::make_mut(&mut model.about).retires_on = Some(date.into());
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
    // A dated name speaks for the plain one too, unless that stands for another date or for itself. Of the dates of a
    // name nobody knew the newest comes first.
    let plain = id::canonical(id);
    if plain != id {
        if !catalog.models.contains_key(plain) {
            Arc::make_mut(&mut model.about).snapshot = Some(id.into());
        }
        if model.about.snapshot.as_deref() == Some(id) {
            catalog.models.insert(plain.into(), model.clone());
        }
    }
    catalog.models.insert(id.into(), model);
    Ok(())
}

/// The API says yes or no; the data file may know the finer truth behind a yes.
fn refine(known: &mut Support, node: &Node<'_>) -> Result<()> {
    match node.at("supported").optional(Node::flag)? {
        Some(true) if matches!(known, Support::Unknown | Support::No) => *known = Support::Yes,
        Some(false) => *known = Support::No,
        _ => {}
    }
    Ok(())
}

pub(super) fn rate_limits(catalog: &mut ModelCatalog, json: &str) -> Result<()> {
    let value = parse(json)?;
    for node in root(&value).at("data").items()? {
        let group = node.at("group");
        if group.at("type").text()? == "model_group" {
            model_group(catalog, &node, &group)?;
        }
    }
    Ok(())
}

fn model_group(catalog: &mut ModelCatalog, node: &Node<'_>, group: &Node<'_>) -> Result<()> {
    let name: Arc<str> = group.at("id").text()?.into();
    if let Some(models) = node.at("models").optional(Node::items)? {
        for listed in models {
            let listed = listed.text()?;
            let mut model = catalog.lookup(listed);
            // The published numbers still hold for models that moved to the organization's group.
            for tier in &mut catalog.tiers {
                if let Some(limits) = tier.get(&*model.rate_group).copied() {
                    tier.entry((*name).into()).or_insert(limits);
                }
            }
            model.rate_group = Arc::clone(&name);
            model.known = true;
            // Both the name as listed and the plain one, so that every dress of it finds the group.
            let canonical = id::canonical(listed);
            if canonical != listed {
                catalog.models.insert(canonical.into(), model.clone());
            }
            catalog.models.insert(listed.into(), model);
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
