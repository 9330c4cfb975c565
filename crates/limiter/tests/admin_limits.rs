//! Limits from responses of the Admin API.

use std::{num::NonZeroU64, sync::Arc};

use tower_claude_core::{Endpoint, Scope};
use tower_claude_limiter::{Limits, PoolLimits};
use tower_claude_wire::{ModelCatalog, admin::RateLimitEntry};

const ORGANIZATION: &str = r#"{"data":[
    {"id":"rl_1","type":"rate_limit","group":{"type":"model_group","id":"rlg_opus4"},
     "models":["claude-opus-4-8","claude-opus-4-7","claude-opus-4-5-20251101"],"limits":[
     {"type":"requests_per_minute","value":1000},
     {"type":"input_tokens_per_minute_cache_aware","value":2000000},
     {"type":"output_tokens_per_minute","value":400000},
     {"type":"fast_itpmca","value":100000},
     {"type":"tool_uses_per_second","value":1}]},
    {"id":"rl_2","type":"rate_limit","group":{"type":"model_group","id":"rlg_both"},
     "models":["claude-sonnet-5-5","claude-haiku-5-5"],"limits":[
     {"type":"requests_per_minute","value":70},
     {"type":"input_tokens_per_minute","value":0},
     {"type":"tokens_per_day","value":9000000}]},
    {"id":"rl_3","type":"rate_limit","group":{"type":"batch","id":"rlg_batch"},"models":null,
     "limits":[{"type":"requests_per_minute","value":5}]}]}"#;

const WORKSPACE: &str = r#"{"data":[
    {"type":"workspace_rate_limit","rate_limit_id":"rl_1","workspace_id":"wrkspc_1",
     "group":{"type":"model_group","id":"rlg_opus4"},"models":["claude-opus-4-8"],"limits":[
     {"type":"requests_per_minute","value":30,"org_limit":1000,"source":{"type":"workspace"}},
     {"type":"output_tokens_per_minute","value":400000,"org_limit":400000,
      "source":{"type":"organization"}}]}]}"#;

fn entries(json: &str) -> Vec<RateLimitEntry> {
    let page = RateLimitEntry::parse_page(json.as_bytes()).expect("a page");
    page.entries
}

fn scope(model: &str, catalog: &ModelCatalog, fast: bool) -> Scope {
    let mut scope = Scope::named(&catalog.lookup(model).rate_group);
    (scope.endpoint, scope.fast) = (Endpoint::Messages, fast);
    scope
}

fn numbers(limits: &PoolLimits) -> [Option<u64>; 3] {
    let all = [limits.requests, limits.input_tokens, limits.output_tokens];
    all.map(|limit| limit.map(NonZeroU64::get))
}

#[test]
fn limits_of_the_organization_and_the_workspace_both_apply() {
    let catalog = ModelCatalog::builtin();
    let limits = Limits::from_rate_limits(&entries(ORGANIZATION), &entries(WORKSPACE), catalog);
    let opus = limits.for_scope(&scope("claude-opus-4-8", catalog, false));
    assert_eq!(
        numbers(&opus),
        [Some(1_000), Some(2_000_000), Some(400_000)]
    );
    let [workspace] = &opus.additional[..] else {
        panic!("{opus:?}");
    };
    // The inherited limit is no second one.
    assert_eq!(numbers(workspace), [Some(30), None, None]);
    // One entry for two groups of the catalog.
    for model in ["claude-sonnet-5-5", "claude-haiku-5-5"] {
        let limits = limits.for_scope(&scope(model, catalog, false));
        assert_eq!(numbers(&limits), [Some(70), None, None], "{model}");
        assert_eq!(limits.tokens_per_day, NonZeroU64::new(9_000_000));
        assert!(limits.additional.is_empty());
    }
    let unlisted = limits.for_scope(&scope("claude-opus-5-5", catalog, false));
    assert_eq!(unlisted, PoolLimits::unlimited());
}

#[test]
fn fast_requests_have_their_own_limits_where_the_api_names_some() {
    let catalog = ModelCatalog::builtin();
    let limits = Limits::from_rate_limits(&entries(ORGANIZATION), &[], catalog);
    let fast = limits.for_scope(&scope("claude-opus-4-8", catalog, true));
    assert_eq!(numbers(&fast), [Some(1_000), Some(100_000), None]);
    let same = limits.for_scope(&scope("claude-sonnet-5-5", catalog, true));
    assert_eq!(numbers(&same), [Some(70), None, None]);
}

#[test]
fn merged_catalog_has_the_groups_of_the_api() {
    let catalog = ModelCatalog::builtin().clone();
    let catalog = catalog.merge_rate_limits_response(ORGANIZATION).unwrap();
    let limits = Limits::from_rate_limits(&entries(ORGANIZATION), &entries(WORKSPACE), &catalog);
    let both = ["claude-sonnet-5-5", "claude-haiku-5-5"].map(|model| scope(model, &catalog, false));
    assert_eq!(both[0], both[1]);
    assert_eq!(both[0].group, Arc::from("rlg_both"));
    assert_eq!(limits.for_scope(&both[0]).requests, NonZeroU64::new(70));
}

#[test]
fn two_entries_for_one_group_give_the_smaller_limits() {
    let catalog = ModelCatalog::builtin();
    let entry = |model: &str, requests: u64, output: u64| {
        format!(
            r#"{{"group":{{"type":"model_group"}},"models":["{model}"],"limits":[
               {{"type":"requests_per_minute","value":{requests}}},
               {{"type":"output_tokens_per_minute","value":{output}}}]}}"#
        )
    };
    let json = format!(
        r#"{{"data":[{},{}]}}"#,
        entry("claude-opus-4-8", 9, 100),
        entry("claude-opus-4-7", 7, 200)
    );
    let limits = Limits::from_rate_limits(&entries(&json), &[], catalog);
    let opus = limits.for_scope(&scope("claude-opus-4-5", catalog, false));
    assert_eq!(numbers(&opus), [Some(7), None, Some(100)]);
}
