//! The models that are asked for, and those that answer.

use std::collections::BTreeMap;

use serde::Serialize;

use super::samples::Samples;

/// A model that was asked for, the model that answered, and the number of such calls in the last
/// minute.
#[derive(Debug, Serialize)]
pub(super) struct ModelState {
    pub(super) asked: String,
    /// Empty if no request was sent.
    pub(super) served: String,
    pub(super) calls: u64,
}

/// Returns the calls of the last minute by model.
pub(super) fn models(samples: &Samples) -> Vec<ModelState> {
    let mut calls: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for series in samples.of("gen_ai_client_inference_duration_count") {
        let asked = series.label("gen_ai_request_model");
        let served = series.label("gen_ai_response_model");
        *calls.entry((asked, served)).or_default() += series.last_minute();
    }
    let models = calls.into_iter().filter(|(_, calls)| *calls > 0.0);
    models
        .map(|((asked, served), calls)| ModelState {
            asked: asked.to_owned(),
            served: served.to_owned(),
            calls: calls as u64,
        })
        .collect()
}
