//! The limits of each scope.

use std::num::NonZeroU64;

use tower_claude_core::{Endpoint, Scope};
use tower_claude_limiter::{Limits, PoolLimits};
use tower_claude_wire::{ModelCatalog, Tier};

fn messages(group: &str) -> Scope {
    let mut scope = Scope::named(group);
    scope.endpoint = Endpoint::Messages;
    scope
}

fn group() -> &'static str {
    let catalog = ModelCatalog::builtin();
    let mut models = catalog.models();
    let known = models.find(|model| {
        catalog
            .tier_limits(Tier::Start, &model.rate_group)
            .is_some()
    });
    &known.expect("a model with published limits").rate_group
}

#[test]
fn tier_has_the_published_limits_of_each_group() {
    let group = group();
    let published = ModelCatalog::builtin()
        .tier_limits(Tier::Start, group)
        .unwrap();
    let limits = Limits::tier(Tier::Start).for_scope(&messages(group));
    assert_eq!(
        limits.requests,
        NonZeroU64::new(published.requests_per_minute)
    );
    assert_eq!(
        limits.input_tokens,
        NonZeroU64::new(published.input_tokens_per_minute)
    );
    assert_eq!(
        limits.output_tokens,
        NonZeroU64::new(published.output_tokens_per_minute)
    );
    let unknown = Limits::tier(Tier::Start).for_scope(&messages("nobody-knows"));
    assert_eq!(unknown, PoolLimits::unlimited());
}

#[test]
fn explicit_limit_overrides_the_tier_and_a_group_replaces_all() {
    let five = NonZeroU64::new(5).unwrap();
    let limits = Limits::tier(Tier::Start)
        .with_requests_per_minute(five)
        .with_group("own", Limits::new().with_total_tokens_per_minute(five));
    assert_eq!(limits.for_scope(&messages(group())).requests, Some(five));
    let own = limits.for_scope(&messages("own"));
    assert_eq!((own.requests, own.total_tokens), (None, Some(five)));
}

#[test]
fn limits_of_messages_do_not_apply_to_other_endpoints() {
    let limits = Limits::new().with_requests_per_minute(NonZeroU64::MIN);
    for endpoint in [Endpoint::CountTokens, Endpoint::Models, Endpoint::Files] {
        let mut scope = messages("");
        scope.endpoint = endpoint;
        assert_eq!(limits.for_scope(&scope), PoolLimits::unlimited());
    }
}
