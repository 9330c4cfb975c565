//! The limits of pools: of a tier, of a file, or as response headers have shown them.

use std::{collections::BTreeMap, fmt::Display};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tower_claude_wire::{ModelCatalog, Tier};

use crate::traffic::{NameId, Traffic, UNKNOWN};

/// The tiers with published limits, the lowest first.
pub const TIERS: [(Tier, &str); 3] = [
    (Tier::Start, "Start"),
    (Tier::Build, "Build"),
    (Tier::Scale, "Scale"),
];

/// The rate group whose limits stand for those of an unknown model: most groups have the same.
const COMMON: &str = "sonnet-5.5";

/// Limits per minute on requests, input and output tokens.
pub type PoolLimits = [Option<u64>; 3];

/// Limits, and their source.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Known {
    /// The limits.
    pub limits: PoolLimits,
    /// The source, for people.
    pub source: String,
    /// True if the limits are assumed and not known.
    pub is_assumed: bool,
}

/// The limits of all pools.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitTable {
    pools: BTreeMap<String, PoolLimits>,
    tier: Option<Tier>,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLimits {
    requests: Option<u64>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl LimitTable {
    /// Returns the published limits of a tier.
    ///
    /// # Errors
    /// Returns a message for a tier without published limits.
    pub fn tier(name: &str) -> Result<Self, String> {
        let found = TIERS.iter().find(|tier| tier.1.eq_ignore_ascii_case(name));
        let (tier, name) = found.ok_or_else(|| {
            format!("the tier {name:?} has no published limits: start, build and scale have")
        })?;
        let as_of = ModelCatalog::builtin().as_of();
        Ok(Self {
            pools: BTreeMap::new(),
            tier: Some(*tier),
            source: format!("tier {name}, as of {as_of}"),
        })
    }

    /// Reads limits from JSON: the answer of `GET /v1/organizations/rate_limits`, or an object such
    /// as `{"sonnet-5.5": {"requests": 4000, "input_tokens": 2000000, "output_tokens": 400000}}`.
    /// The name of a pool may be that of a model in it.
    ///
    /// # Errors
    /// Returns a message for JSON of another form.
    pub fn from_json(name: &str, json: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(json).map_err(|error| format!("{name}: {error}"))?;
        match value["data"].as_array() {
            Some(entries) => Self::new(name, of_api(entries)),
            None => Self::of_file(name, serde_json::from_value(value)),
        }
    }

    /// Reads limits from TOML: a table for each pool, such as `["sonnet-5.5"]`, with the keys
    /// `requests`, `input_tokens` and `output_tokens`.
    ///
    /// # Errors
    /// Returns a message for TOML of another form.
    pub fn from_toml(name: &str, toml: &str) -> Result<Self, String> {
        Self::of_file(name, toml::from_str(toml))
    }

    fn of_file<E: Display>(
        name: &str,
        pools: Result<BTreeMap<String, FileLimits>, E>,
    ) -> Result<Self, String> {
        let pools = pools.map_err(|error| format!("{name}: no limits of pools: {error}"))?;
        let pools = pools.into_iter().map(|(pool, file)| {
            let model = ModelCatalog::builtin().get(&pool);
            let pool = model.map_or(pool, |model| model.rate_group.to_string());
            let limits = [file.requests, file.input_tokens, file.output_tokens];
            (pool, limits)
        });
        Self::new(name, pools.collect())
    }

    fn new(name: &str, pools: BTreeMap<String, PoolLimits>) -> Result<Self, String> {
        if pools.is_empty() {
            return Err(format!("{name}: no limits of a model group"));
        }
        Ok(Self {
            pools,
            tier: None,
            source: name.to_owned(),
        })
    }

    /// Returns a warning if the table has no limits of a pool.
    pub(crate) fn missing(&self, pool: &str) -> Option<String> {
        let is_missing = self.of(pool).is_none();
        is_missing.then(|| format!("{} has no limits of pool {pool}", self.source))
    }

    /// Returns the limits of a pool.
    #[must_use]
    pub fn of(&self, pool: &str) -> Option<Known> {
        let known = |limits, source| Known {
            limits,
            source,
            is_assumed: false,
        };
        match self.tier {
            Some(tier) => {
                let found = of_tier(tier, pool)?;
                let is_assumed = pool == UNKNOWN;
                Some(Known {
                    is_assumed,
                    ..known(found, self.source.clone())
                })
            }
            None => Some(known(*self.pools.get(pool)?, self.source.clone())),
        }
    }
}

/// Returns the published limits of a pool in a tier. An unknown model gets those of most models.
#[must_use]
pub fn of_tier(tier: Tier, pool: &str) -> Option<PoolLimits> {
    let pool = if pool == UNKNOWN { COMMON } else { pool };
    let limits = ModelCatalog::builtin().tier_limits(tier, pool)?;
    Some([
        Some(limits.requests_per_minute),
        Some(limits.input_tokens_per_minute),
        Some(limits.output_tokens_per_minute),
    ])
}

fn of_api(entries: &[Value]) -> BTreeMap<String, PoolLimits> {
    let mut pools = BTreeMap::new();
    for entry in entries
        .iter()
        .filter(|entry| entry["group"]["type"] == "model_group")
    {
        let mut limits: PoolLimits = [None; 3];
        for limit in entry["limits"].as_array().into_iter().flatten() {
            let index = match limit["type"].as_str() {
                Some("requests_per_minute") => 0,
                Some("input_tokens_per_minute_cache_aware") => 1,
                Some("output_tokens_per_minute") => 2,
                _ => continue,
            };
            limits[index] = limit["value"].as_u64();
        }
        for model in entry["models"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            let group = ModelCatalog::builtin().lookup(model).rate_group.to_string();
            pools.insert(group, limits);
        }
    }
    pools
}

/// Returns the limits of a pool that the latest response headers have shown.
#[must_use]
pub fn shown(traffic: &Traffic, pool: NameId) -> Option<Known> {
    let mut limits: PoolLimits = [None; 3];
    for row in traffic.rows.iter().rev().filter(|row| row.pool == pool) {
        if let Some(shown) = traffic.shown(row) {
            for (limit, shown) in limits.iter_mut().zip(shown.limit) {
                *limit = limit.or(shown.filter(|shown| *shown > 0));
            }
            if limits.iter().all(Option::is_some) {
                break;
            }
        }
    }
    limits.iter().any(Option::is_some).then(|| Known {
        limits,
        source: "response headers".to_owned(),
        is_assumed: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_the_api_and_own_file_are_read() {
        let api = r#"{"data":[{"group":{"type":"model_group"},"models":["claude-opus-4-8"],"limits":[
            {"type":"requests_per_minute","value":1000},
            {"type":"input_tokens_per_minute_cache_aware","value":2000000},
            {"type":"output_tokens_per_minute","value":400000}]},
            {"group":{"type":"batch"},"models":null,"limits":[]}]}"#;
        let table = LimitTable::from_json("limits.json", api).unwrap();
        let known = table.of("opus-4.x").unwrap();
        assert_eq!(known.limits, [Some(1_000), Some(2_000_000), Some(400_000)]);
        assert_eq!(table.of("sonnet-5.5"), None);
        let own = r#"{"sonnet-5.5":{"input_tokens":7}}"#;
        let table = LimitTable::from_json("own.json", own).unwrap();
        assert_eq!(
            table.of("sonnet-5.5").unwrap().limits,
            [None, Some(7), None]
        );
        let toml = "[claude-sonnet-5-5]\ninput_tokens = 7\n[\"opus-5.5\"]\nrequests = 50\n";
        let table = LimitTable::from_toml("own.toml", toml).unwrap();
        let known = table.of("sonnet-5.5").unwrap();
        assert_eq!(known.limits, [None, Some(7), None]);
        assert_eq!(table.of("opus-5.5").unwrap().limits[0], Some(50));
        for bad in ["", "[a]\nitpm = 1", "a = 1", "[a]\nrequests = -1"] {
            assert!(LimitTable::from_toml("bad", bad).is_err(), "{bad}");
        }
        for bad in ["{", "[]", "{}", r#"{"a":{"itpm":1}}"#, r#"{"data":[]}"#] {
            assert!(LimitTable::from_json("bad", bad).is_err(), "{bad}");
        }
        assert!(LimitTable::tier("custom").is_err());
    }
}
