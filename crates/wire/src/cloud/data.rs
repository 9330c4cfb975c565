//! The dated facts about clouds.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// The facts in the data file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    pub(super) as_of: Box<str>,
    #[serde(rename = "sources")]
    _sources: serde::de::IgnoredAny,
    /// Models whose id on Bedrock follows no rule.
    pub(super) bedrock_ids: BTreeMap<Box<str>, Box<str>>,
    /// For each family the first version with a common quota on Vertex.
    pub(super) lineages: BTreeMap<Box<str>, (u32, u32)>,
    pub(super) renamed_betas: BTreeMap<Box<str>, Box<str>>,
    pub(super) unneeded_betas: Vec<Box<str>>,
    pub(super) betas: BTreeMap<Box<str>, Vec<Taker>>,
}

/// A dialect of a cloud that takes betas.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Taker {
    BedrockMessages,
    InvokeModel,
    Vertex,
}

pub(super) static DATA: LazyLock<Data> = LazyLock::new(|| {
    let json = include_str!("../../data/clouds.json");
    serde_json::from_str(json).expect("the built-in file is valid, by a test")
});
