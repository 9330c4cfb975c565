//! Limits and usage from the Admin API. Nothing is sent without its key.

use std::{
    collections::BTreeMap,
    env,
    fmt::Display,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value};
use tokio::{runtime::Handle, task::block_in_place};
use tower_claude_gateway::admin::{AdminClient, UsageWidth};
use tower_claude_planner::limits::LimitTable;
use tower_claude_wire::{
    ModelCatalog,
    admin::{RateLimitEntry, SpendLimitEntry},
};

use super::failure::Failure;

/// The variable with the Admin key.
const KEY: &str = "ANTHROPIC_ADMIN_KEY";

/// The variable with another base URL than Anthropic's.
const URL: &str = "TOWER_CLAUDE_ADMIN_URL";

/// The longest period that is read by the minute. A longer one is read by the hour.
const BY_MINUTE: Duration = Duration::from_secs(8 * 24 * 3_600);

/// The names of limits in a file of the planner, and the kinds of the API that they are.
const KINDS: [(&str, &[&str]); 3] = [
    ("requests", &["requests_per_minute"]),
    (
        "input_tokens",
        &[
            "input_tokens_per_minute_cache_aware",
            "input_tokens_per_minute",
        ],
    ),
    ("output_tokens", &["output_tokens_per_minute"]),
];

fn failed(error: impl Display) -> Failure {
    Failure::Input(error.to_string())
}

fn client() -> Result<AdminClient, Failure> {
    let key = env::var(KEY).ok().filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| {
        failed(format!(
            "{KEY} is not set. The Admin API needs an Admin key (sk-ant-admin…)"
        ))
    })?;
    let client = match env::var(URL) {
        Ok(url) => AdminClient::with_url(&key, &url),
        Err(_) => AdminClient::new(&key),
    };
    client.map_err(failed)
}

/// Waits for the API. The commands are not async.
fn wait<T, E: Display>(future: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
    block_in_place(|| Handle::current().block_on(future)).map_err(failed)
}

/// Reads the limits of the organization, and those of a workspace, of which the smaller hold.
pub(super) fn limits(workspace: Option<&str>) -> Result<LimitTable, Failure> {
    let client = client()?;
    let read = |json: &str| {
        let page = RateLimitEntry::parse_page(json.as_bytes());
        page.map(|page| page.entries).map_err(failed)
    };
    let mut entries = read(&wait(client.rate_limits())?)?;
    if let Some(workspace) = workspace {
        entries.extend(read(&wait(client.workspace_rate_limits(workspace))?)?);
    }
    let json = Value::from(smallest(&entries)).to_string();
    let name = match workspace {
        None => "Admin API".to_owned(),
        Some(workspace) => format!("Admin API, workspace {workspace}"),
    };
    LimitTable::from_json(&name, &json).map_err(Failure::Input)
}

/// Returns a warning if traffic of this price, in US dollars for 30 days, passes a monthly spend
/// limit of the organization or of the workspace, or if the limits cannot be read.
pub(super) fn spend_warning(dollars: f64, workspace: Option<&str>) -> Option<String> {
    match spend_limits() {
        Ok(entries) => passed_limit(&entries, dollars, workspace).map(|limit| {
            format!(
                "~${dollars:.2} for 30 days like these is above the spend limit of ${limit:.2} a month"
            )
        }),
        Err(error) => Some(format!("the spend limit is not known: {error}")),
    }
}

fn spend_limits() -> Result<Vec<SpendLimitEntry>, Failure> {
    let page = wait(client()?.spend_limits())?;
    let page = SpendLimitEntry::parse_page(page.as_bytes()).map_err(failed)?;
    Ok(page.entries)
}

/// Returns the smallest monthly limit in US dollars that this price passes.
fn passed_limit(entries: &[SpendLimitEntry], dollars: f64, workspace: Option<&str>) -> Option<f64> {
    let applies = |entry: &&SpendLimitEntry| {
        entry.is_enabled
            && entry.period.as_deref() == Some("monthly")
            && entry.currency.as_deref() == Some("USD")
            && entry
                .workspace_id
                .as_deref()
                .is_none_or(|id| Some(id) == workspace)
    };
    let cents = entries
        .iter()
        .filter(applies)
        .filter_map(|entry| entry.cents);
    let limit = cents.min()? as f64 / 100.0;
    (dollars > limit).then_some(limit)
}

/// Returns the smallest limits of each rate group of the catalog, as a file of the planner has
/// them.
fn smallest(entries: &[RateLimitEntry]) -> Map<String, Value> {
    let mut pools: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let entries = entries.iter();
    for entry in entries.filter(|entry| entry.group_kind == "model_group") {
        for model in &entry.models {
            let group = ModelCatalog::builtin().lookup(model).rate_group;
            let pool = pools.entry(group.to_string()).or_default();
            for (name, kinds) in KINDS {
                let known = pool.get(name).and_then(Value::as_u64);
                let kinds = kinds.iter().filter_map(|kind| entry.limit(kind));
                if let Some(least) = kinds.chain(known).min() {
                    pool.insert(name.to_owned(), least.into());
                }
            }
        }
    }
    let pools = pools.into_iter().filter(|(_, limits)| !limits.is_empty());
    pools.map(|(pool, limits)| (pool, limits.into())).collect()
}

/// Reads the usage of the last time.
pub(super) fn usage(period: Duration) -> Result<String, Failure> {
    let until = SystemTime::now();
    let since = until.checked_sub(period);
    let since = since.ok_or_else(|| failed("the period is too long"))?;
    let width = match period <= BY_MINUTE {
        true => UsageWidth::Minute,
        false => UsageWidth::Hour,
    };
    wait(client()?.usage(since, until, width))
}

/// Parses a period such as `24h` or `28d`.
pub(super) fn parse_period(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is no period from 1h to 365d, such as 24h or 28d");
    let hours = match text.as_bytes().last() {
        Some(b'h') => 1,
        Some(b'd') => 24,
        _ => return Err(error()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| error())?;
    let hours = number
        .checked_mul(hours)
        .filter(|hours| (1..=365 * 24).contains(hours));
    Ok(Duration::from_secs(hours.ok_or_else(error)? * 3_600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn price_above_a_spend_limit_names_the_smallest_that_applies() {
        let json = br#"{"data":[
            {"scope":{"type":"usage_tier"},"amount":"50000","currency":"USD","period":"monthly","is_enabled":true},
            {"scope":{"type":"organization"},"amount":"20000","currency":"USD","period":"monthly","is_enabled":false},
            {"scope":{"type":"organization"},"amount":"100","currency":"USD","period":"daily","is_enabled":true},
            {"scope":{"type":"workspace","workspace_id":"w"},"amount":"30000","currency":"USD","period":"monthly","is_enabled":true}]}"#;
        let entries = SpendLimitEntry::parse_page(json).unwrap().entries;
        assert_eq!(passed_limit(&entries, 499.0, None), None);
        assert_eq!(passed_limit(&entries, 501.0, None), Some(500.0));
        assert_eq!(passed_limit(&entries, 301.0, Some("w")), Some(300.0));
        assert_eq!(passed_limit(&entries, 301.0, Some("v")), None);
    }

    #[test]
    fn smaller_of_two_limits_holds_and_other_groups_are_left_out() {
        let json = br#"{"data":[
            {"group":{"type":"model_group"},"models":["claude-opus-4-8","claude-opus-4-7"],"limits":[
             {"type":"requests_per_minute","value":1000},
             {"type":"input_tokens_per_minute_cache_aware","value":2000000}]},
            {"group":{"type":"model_group"},"models":["claude-opus-4-8"],"workspace_id":"w","limits":[
             {"type":"requests_per_minute","value":30},
             {"type":"output_tokens_per_minute","value":5}]},
            {"group":{"type":"batch"},"models":null,"limits":[
             {"type":"requests_per_minute","value":1}]}]}"#;
        let entries = RateLimitEntry::parse_page(json).unwrap().entries;
        let expected = serde_json::json!({
            "opus-4.x": {"requests": 30, "input_tokens": 2_000_000, "output_tokens": 5},
        });
        assert_eq!(Value::from(smallest(&entries)), expected);
    }

    #[test]
    fn period_is_in_hours_or_days() {
        assert_eq!(parse_period("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_period("28d"), Ok(Duration::from_secs(28 * 86_400)));
        for text in ["", "d", "0d", "24", "400d", "1.5h", "-1h", "ü"] {
            assert!(parse_period(text).is_err(), "{text}");
        }
    }
}
