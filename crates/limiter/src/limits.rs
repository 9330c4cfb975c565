//! Configured limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
    time::Duration,
};

use tower_claude_core::{Endpoint, Scope};
use tower_claude_wire::{ModelCatalog, Tier, admin::RateLimitEntry};

use crate::pool::bucket::{DIMENSIONS, INPUT, OUTPUT, REQUESTS, TOTAL};

/// The limits of every scope of a limiter. A dimension without a limit is unlimited until response
/// headers name its limit.
///
/// A limit that is set here is a cap. If headers name a lower limit, the lower one holds, and if
/// they name a higher one, this one holds. The first difference of each dimension is a `WARN`
/// event. The limit of the server holds instead with
/// [`with_limits_as_hint`](crate::LimiterConfig::with_limits_as_hint).
///
/// A tier preset is no cap. It fills the limits that are not set explicitly, until headers name
/// them. The limits of a group replace all of them. They apply to the Messages endpoint and to
/// scopes outside of Claude's API. Claude's other endpoints (`count_tokens`, batches, models,
/// files) have limits of their own, and are limited only by a group of their name.
///
/// ```
/// use std::{num::NonZeroU64, time::Duration};
/// use tower_claude_core::Scope;
/// use tower_claude_limiter::Limits;
///
/// let per_minute = |n| NonZeroU64::new(n).unwrap();
/// let limits = Limits::new()
///     .with_requests_per_minute(per_minute(1_000))
///     .with_input_tokens_per_minute(per_minute(450_000))
///     .with_group("small", Limits::new().with_requests_per_minute(per_minute(50)))
///     .with_burst(Duration::from_secs(10));
/// assert_eq!(limits.for_scope(&Scope::named("small")).requests, NonZeroU64::new(50));
/// assert_eq!(limits.for_scope(&Scope::named("other")).requests, NonZeroU64::new(1_000));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    own: PoolLimits,
    tier: Option<Tier>,
    groups: Vec<(Arc<str>, Limits)>,
    /// The limits of fast requests by group.
    fast_groups: Vec<(Arc<str>, Limits)>,
    additional: Vec<Limits>,
}

/// The renewal of a limit per day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Day {
    /// A rolling day: no 24 hours contain more than the limit. Usage counts for 24 hours, rounded
    /// up to the next quarter of an hour.
    #[default]
    Rolling,
    /// The whole limit is available again at this time of each day.
    ResetsAt {
        /// Seconds after midnight UTC, modulo a day.
        seconds_after_midnight_utc: u32,
    },
}

/// The limits of one scope. Rates are per minute. `None` is unlimited.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PoolLimits {
    /// Requests per minute.
    pub requests: Option<NonZeroU64>,
    /// Input tokens per minute, cache reads not counted.
    pub input_tokens: Option<NonZeroU64>,
    /// Output tokens per minute.
    pub output_tokens: Option<NonZeroU64>,
    /// Input and output tokens per minute together.
    pub total_tokens: Option<NonZeroU64>,
    /// Requests in flight.
    pub concurrency: Option<NonZeroU32>,
    /// The capacity of the buckets, as the time in which it is refilled. Default 60 s.
    pub burst: Duration,
    /// Input and output tokens per day together.
    pub tokens_per_day: Option<NonZeroU64>,
    /// The renewal of the limit per day.
    pub day: Day,
    /// Additional limits that apply at the same time.
    pub additional: Vec<Self>,
    /// The requests, input and output come from a tier preset, so they are no caps.
    pub(crate) is_preset: [bool; 3],
}

impl PoolLimits {
    /// Returns no limits.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self {
            requests: None,
            input_tokens: None,
            output_tokens: None,
            total_tokens: None,
            concurrency: None,
            burst: Duration::from_secs(60),
            tokens_per_day: None,
            day: Day::Rolling,
            additional: Vec::new(),
            is_preset: [false; 3],
        }
    }

    /// Returns the limits that cap what headers name, by the index of their dimension.
    pub(crate) fn caps(&self) -> [Option<u64>; DIMENSIONS.len()] {
        let cap = |index: usize, limit: Option<NonZeroU64>| {
            let is_preset = self.is_preset.get(index).is_some_and(|preset| *preset);
            limit.filter(|_| !is_preset).map(NonZeroU64::get)
        };
        [
            cap(REQUESTS, self.requests),
            cap(INPUT, self.input_tokens),
            cap(OUTPUT, self.output_tokens),
            cap(TOTAL, self.total_tokens),
        ]
    }

    /// Returns true if there is no limit.
    fn is_unlimited(&self) -> bool {
        *self == Self::unlimited()
    }

    /// Lowers the limits to those of `other`.
    fn lower_to(&mut self, other: &Self) {
        let lower = |limit: &mut Option<NonZeroU64>, other: Option<NonZeroU64>| {
            *limit = limit.iter().copied().chain(other).min();
        };
        lower(&mut self.requests, other.requests);
        lower(&mut self.input_tokens, other.input_tokens);
        lower(&mut self.output_tokens, other.output_tokens);
        lower(&mut self.total_tokens, other.total_tokens);
        lower(&mut self.tokens_per_day, other.tokens_per_day);
    }

    /// Returns the lowest limit on requests in flight of all limits that apply.
    pub(crate) fn least_concurrency(&self) -> Option<NonZeroU32> {
        let additional = self.additional.iter().filter_map(Self::least_concurrency);
        additional.chain(self.concurrency).min()
    }
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self::unlimited()
    }
}

impl Limits {
    /// Returns no limits, to be set by the methods below.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            own: PoolLimits::unlimited(),
            tier: None,
            groups: Vec::new(),
            fast_groups: Vec::new(),
            additional: Vec::new(),
        }
    }

    /// Returns no limits. Response headers may name some.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self::new()
    }

    /// Returns the published limits of a usage tier, by rate group of the built-in model catalog.
    /// Groups that are not in the catalog are unlimited until a header names their limits. A header
    /// that names another limit than the published one is right.
    ///
    /// Source: <https://platform.claude.com/docs/en/api/rate-limits>.
    #[must_use]
    pub const fn tier(tier: Tier) -> Self {
        let mut limits = Self::new();
        limits.tier = Some(tier);
        limits
    }

    /// Sets the requests per minute.
    #[must_use]
    pub const fn with_requests_per_minute(mut self, limit: NonZeroU64) -> Self {
        self.own.requests = Some(limit);
        self
    }

    /// Sets the input tokens per minute.
    #[must_use]
    pub const fn with_input_tokens_per_minute(mut self, limit: NonZeroU64) -> Self {
        self.own.input_tokens = Some(limit);
        self
    }

    /// Sets the output tokens per minute.
    #[must_use]
    pub const fn with_output_tokens_per_minute(mut self, limit: NonZeroU64) -> Self {
        self.own.output_tokens = Some(limit);
        self
    }

    /// Sets the sum of input and output tokens per minute.
    #[must_use]
    pub const fn with_total_tokens_per_minute(mut self, limit: NonZeroU64) -> Self {
        self.own.total_tokens = Some(limit);
        self
    }

    /// Sets the requests in flight. A request is in flight until the end of its response body.
    #[must_use]
    pub const fn with_concurrency(mut self, limit: NonZeroU32) -> Self {
        self.own.concurrency = Some(limit);
        self
    }

    /// Sets the capacity of the buckets, as the time in which it is refilled. Default 60 s, a whole
    /// minute's limit. A bucket holds at least one request or token.
    #[must_use]
    pub const fn with_burst(mut self, burst: Duration) -> Self {
        self.own.burst = burst;
        self
    }

    /// Sets the sum of input and output tokens per day. [`with_day`](Self::with_day) sets the end
    /// of a day.
    #[must_use]
    pub const fn with_tokens_per_day(mut self, limit: NonZeroU64) -> Self {
        self.own.tokens_per_day = Some(limit);
        self
    }

    /// Sets the renewal of the limit per day. Default [`Day::Rolling`].
    #[must_use]
    pub const fn with_day(mut self, day: Day) -> Self {
        self.own.day = day;
        self
    }

    /// Adds limits that apply as well, like those of the organisation beside those of the
    /// workspace. A request is admitted when all of them have room for it. Response headers correct
    /// only the main limits, so add the limits that the headers do not show.
    #[must_use]
    pub fn with_additional(mut self, limits: Self) -> Self {
        self.additional.push(limits);
        self
    }

    /// Sets other limits for the scopes of this rate group. They replace all of these.
    #[must_use]
    pub fn with_group(mut self, group: &str, limits: Self) -> Self {
        self.groups.retain(|(name, _)| &**name != group);
        self.groups.push((Arc::from(group), limits));
        self
    }

    /// Sets the limits of the fast requests of this rate group, which have a pool of their own.
    /// Without them, they have the limits of the group.
    #[must_use]
    pub fn with_fast_group(mut self, group: &str, limits: Self) -> Self {
        self.fast_groups.retain(|(name, _)| &**name != group);
        self.fast_groups.push((Arc::from(group), limits));
        self
    }

    /// Returns the limits in responses of the Admin API: those of an organization
    /// (`GET /v1/organizations/rate_limits`) and, if there are some, those of the workspace of the
    /// key. A request is admitted when both have room for it.
    ///
    /// `catalog` names the rate groups of the scopes of the limiter: [`ModelCatalog::builtin`],
    /// unless a function of yours finds the scopes. An entry counts for all groups of its models.
    /// If two groups of the catalog share one entry, each has the whole limit, and if two entries
    /// have models of one group, the smaller limits hold. A catalog that has
    /// [merged](ModelCatalog::merge_rate_limits_response) the same response has the groups of the
    /// API:
    ///
    /// ```
    /// use tower_claude_core::Scope;
    /// use tower_claude_limiter::Limits;
    /// use tower_claude_wire::{ModelCatalog, admin::RateLimitEntry};
    ///
    /// let json = r#"{"data":[{"group":{"type":"model_group","id":"rlg_1"},
    ///     "models":["claude-sonnet-5-5"],"limits":[{"type":"requests_per_minute","value":50}]}]}"#;
    /// let organization = RateLimitEntry::parse_page(json.as_bytes())?.entries;
    /// let catalog = ModelCatalog::builtin().clone().merge_rate_limits_response(json)?;
    /// let limits = Limits::from_rate_limits(&organization, &[], &catalog);
    /// // For `TokenBucketLayer::new(limits).with_scope(scope_of)`:
    /// let scope_of = move |request: &_| Scope::with_catalog(request, &catalog);
    /// # let request = http::Request::post("https://api.anthropic.com/v1/messages")
    /// #     .body(tower_claude_core::RequestBody::from(r#"{"model":"claude-sonnet-5-5"}"#))?;
    /// # assert_eq!(limits.for_scope(&scope_of(&request)).requests.map(|limit| limit.get()), Some(50));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cache reads are not counted, so a limit of the kind `input_tokens_per_minute`, which counts
    /// them, may hold earlier at the server. Limits of other endpoints and of unknown kinds are
    /// left out. A limit of 0 is left out as well, because the server rejects such requests itself.
    #[must_use]
    pub fn from_rate_limits(
        organization: &[RateLimitEntry],
        workspace: &[RateLimitEntry],
        catalog: &ModelCatalog,
    ) -> Self {
        let own = api_groups(organization, catalog);
        let of_workspace = api_groups(workspace, catalog);
        let mut limits = Self::new();
        let names = own.iter().chain(&of_workspace);
        let names: BTreeSet<_> = names.map(|(name, _)| name.clone()).collect();
        for (group, fast) in names {
            let find = |groups: &BTreeMap<(Arc<str>, bool), PoolLimits>| {
                let found = groups.get(&(group.clone(), fast));
                found.filter(|limits| !limits.is_unlimited()).cloned()
            };
            let mut of_group = Self::new();
            of_group.own = find(&own).unwrap_or_default();
            if let Some(additional) = find(&of_workspace) {
                let mut limits = Self::new();
                limits.own = additional;
                of_group = of_group.with_additional(limits);
            }
            limits = match fast {
                true => limits.with_fast_group(&group, of_group),
                false => limits.with_group(&group, of_group),
            };
        }
        limits
    }

    /// Returns the limits of one scope.
    #[must_use]
    pub fn for_scope(&self, scope: &Scope) -> PoolLimits {
        let of_group = |(name, _): &&(Arc<str>, Self)| *name == scope.group;
        if scope.fast
            && let Some((_, limits)) = self.fast_groups.iter().find(of_group)
        {
            return limits.with_additional_of(scope);
        }
        if let Some((_, limits)) = self.groups.iter().find(of_group) {
            return limits.with_additional_of(scope);
        }
        match scope.endpoint {
            Endpoint::Messages | Endpoint::Other => self.with_additional_of(scope),
            _ => PoolLimits::unlimited(),
        }
    }

    fn with_additional_of(&self, scope: &Scope) -> PoolLimits {
        let mut limits = self.for_group(&scope.group);
        limits.additional = self
            .additional
            .iter()
            .map(|additional| additional.for_scope(scope))
            .collect();
        limits
    }

    fn for_group(&self, group: &str) -> PoolLimits {
        let mut limits = self.own.clone();
        let preset = self
            .tier
            .and_then(|tier| ModelCatalog::builtin().tier_limits(tier, group));
        if let Some(preset) = preset {
            let own = [limits.requests, limits.input_tokens, limits.output_tokens];
            limits.is_preset = own.map(|limit| limit.is_none());
            let or = |own: Option<NonZeroU64>, preset| own.or(NonZeroU64::new(preset));
            limits.requests = or(limits.requests, preset.requests_per_minute);
            limits.input_tokens = or(limits.input_tokens, preset.input_tokens_per_minute);
            limits.output_tokens = or(limits.output_tokens, preset.output_tokens_per_minute);
        }
        limits
    }
}

/// Returns the limits of groups of models by their name in the catalog, and those of their fast
/// requests.
fn api_groups(
    entries: &[RateLimitEntry],
    catalog: &ModelCatalog,
) -> BTreeMap<(Arc<str>, bool), PoolLimits> {
    let mut groups = BTreeMap::new();
    let entries = entries.iter();
    for entry in entries.filter(|entry| entry.group_kind == "model_group") {
        let models = entry.models.iter();
        let names: BTreeSet<_> = models
            .map(|model| catalog.lookup(model).rate_group)
            .collect();
        let [usual, fast] = [false, true].map(|fast| api_limits(entry, fast));
        for name in names {
            for (limits, is_fast) in [(&usual, false), (&fast, true)] {
                if !limits.is_unlimited() {
                    let entry = groups.entry((name.clone(), is_fast));
                    let of_group: &mut PoolLimits = entry.or_default();
                    of_group.lower_to(limits);
                }
            }
        }
    }
    groups
}

/// Returns the limits in an entry that are its own, of usual or of fast requests.
fn api_limits(entry: &RateLimitEntry, fast: bool) -> PoolLimits {
    let find = |kind: &str| {
        let mut limits = entry.limits.iter();
        let found = limits.find(|limit| limit.kind == kind && !limit.is_inherited)?;
        NonZeroU64::new(found.value)
    };
    let mut limits = PoolLimits::unlimited();
    if fast {
        limits.input_tokens = find("fast_itpmca");
        limits.output_tokens = find("fast_otpm");
        if !limits.is_unlimited() {
            limits.requests = find("requests_per_minute");
        }
        return limits;
    }
    limits.requests = find("requests_per_minute");
    let aware = find("input_tokens_per_minute_cache_aware");
    let other = find("input_tokens_per_minute");
    limits.input_tokens = aware.into_iter().chain(other).min();
    limits.output_tokens = find("output_tokens_per_minute");
    limits.total_tokens = find("tokens_per_minute");
    limits.tokens_per_day = find("tokens_per_day");
    limits
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}
