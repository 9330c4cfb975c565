//! The Models API, from the catalog.

use serde_json::{Value, json};
use tower_claude_wire::{Lifecycle, Model, ModelCatalog, Support};

/// Returns the body of `GET /v1/models/{id}`.
pub(crate) fn one(catalog: &ModelCatalog, id: &str) -> Option<String> {
    let model = catalog.lookup(id);
    model.known.then(|| info(&model).to_string())
}

/// Returns the body of `GET /v1/models`, with all models on one page.
pub(crate) fn all(catalog: &ModelCatalog) -> String {
    let mut models: Vec<&Model> = catalog.models().collect();
    models.sort_by(|a, b| b.id.cmp(&a.id));
    let first = models.first().map(|model| &*model.id);
    let last = models.last().map(|model| &*model.id);
    let data: Vec<Value> = models.iter().map(|model| info(model)).collect();
    json!({"data": data, "has_more": false, "first_id": first, "last_id": last}).to_string()
}

fn info(model: &Model) -> Value {
    let takes = &model.capabilities;
    let supported = |support: Support| json!({"supported": support != Support::No});
    let lifecycle = match model.lifecycle {
        Lifecycle::Deprecated => "deprecated",
        Lifecycle::Retired => "retired",
        _ => "active",
    };
    json!({
        "id": &*model.id,
        "type": "model",
        "display_name": &*model.id,
        "lifecycle": lifecycle,
        "created_at": "2026-10-07T00:00:00Z",
        "deprecated_at": null,
        "retires_at": model.about.retires_on,
        "max_input_tokens": model.context,
        "max_tokens": model.max_output,
        "capabilities": {"thinking": {"supported": true, "types": {
            "adaptive": supported(takes.thinking_adaptive),
            "enabled": supported(takes.thinking_enabled),
            "disabled": supported(takes.thinking_disabled),
            "between_tools": supported(takes.thinking_between_tools),
        }}},
    })
}
