//! The price of demand.

use tower_claude_wire::{Billing, ModelCatalog, Money, Usage};

use crate::{demand::Demand, traffic::Names};

/// Returns the price of demand in US dollars by the catalog. `None` if a price is not known, or if
/// a request has no model.
///
/// `model` replaces the model of the requests.
pub(crate) fn price(
    demand: &[Demand],
    names: &Names,
    model: Option<&str>,
    is_batch: bool,
) -> Option<f64> {
    let catalog = ModelCatalog::builtin();
    let billing = Billing::default().with_batch(is_batch);
    let mut sum = Money::default();
    for request in demand {
        let model = model.unwrap_or_else(|| names.get(request.model));
        let mut usage = Usage::default();
        usage.input_tokens = Some(request.input);
        usage.cache_read_input_tokens = Some(request.cache_read);
        usage.cache_creation_input_tokens = Some(request.cache_write);
        usage.output_tokens = Some(request.output);
        sum += catalog.bill(model, &usage, billing)?.cost;
    }
    Some(sum.dollars())
}
