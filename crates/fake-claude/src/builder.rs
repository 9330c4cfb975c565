//! Describing a server.

use std::time::Duration;

use tower_claude_wire::ModelCatalog;

use crate::fake::FakeClaude;
use crate::fault::Incident;
use crate::model::{Accounting, GroupLimits};

/// At what instant the levels in the rate-limit headers are read. The API does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderSnapshot {
    /// Just after admission: the estimate is charged, nothing else.
    #[default]
    Admission,
    /// When the response head is made: input corrected, and for JSON the output charged.
    Response,
}

/// Which rate-limit headers are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderFamily {
    /// `requests-*`, `input-tokens-*`, `output-tokens-*`, and `tokens-*` as input and output summed.
    #[default]
    Standard,
    /// `requests-*` and `tokens-*` only; `tokens-*` is the token bucket with the smaller share left.
    RequestsAndTokensOnly,
    /// None, as behind clouds that drop them.
    None,
}

/// Through whose door the API is reached; it shows in the request ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Platform {
    /// Claude's own API: `request-id`.
    #[default]
    Claude,
    /// Claude Platform on AWS: `x-amzn-requestid` beside it.
    Aws,
    /// Microsoft Foundry: `apim-request-id` beside it. Foundry sends no rate-limit headers: say [`HeaderFamily::None`].
    Foundry,
}

pub(crate) struct Config {
    pub(crate) time_to_first_token: Duration,
    /// `None` is all at once.
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) tokens_per_event: u64,
    pub(crate) output_tokens: u64,
    pub(crate) api_key: Option<String>,
    pub(crate) snapshot: HeaderSnapshot,
    pub(crate) family: HeaderFamily,
    pub(crate) platform: Platform,
    pub(crate) incidents: Vec<Incident>,
    pub(crate) bytes_per_1000_tokens: u64,
    pub(crate) admission_noise: f64,
    pub(crate) catalog: ModelCatalog,
    pub(crate) unknown_models: bool,
}

/// Describes a [`FakeClaude`]. Every default is the quiet one: Start-tier limits, instant answers, no incidents.
#[must_use]
pub struct FakeClaudeBuilder {
    config: Config,
    limits: GroupLimits,
    groups: Vec<(String, GroupLimits)>,
    priority: Option<GroupLimits>,
    rejected_costs_request: bool,
    seed: u64,
}

/// Rate group of `count_tokens`, which has buckets of its own.
pub(crate) const COUNT_TOKENS: &str = "count_tokens";
/// Ends the name of the group that pays for `speed: "fast"`.
pub(crate) const FAST_SUFFIX: &str = "+fast";

impl FakeClaudeBuilder {
    pub(crate) fn new() -> Self {
        Self {
            config: Config {
                time_to_first_token: Duration::ZERO,
                tokens_per_second: None,
                tokens_per_event: 4,
                output_tokens: 16,
                api_key: None,
                snapshot: HeaderSnapshot::default(),
                family: HeaderFamily::default(),
                platform: Platform::default(),
                incidents: Vec::new(),
                bytes_per_1000_tokens: 3_500,
                admission_noise: 0.0,
                catalog: ModelCatalog::builtin().clone(),
                unknown_models: false,
            },
            limits: GroupLimits::default(),
            groups: vec![(COUNT_TOKENS.to_owned(), GroupLimits::requests_only(2_000))],
            priority: None,
            rejected_costs_request: false,
            seed: 0,
        }
    }

    /// Limits of every rate group without limits of its own.
    pub fn limits(mut self, limits: GroupLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Limits of one rate group, by the name the model catalogue gives it (`sonnet-5.5`, `opus-4.x`, …), by that
    /// name with `+fast` for the pool that pays for `speed: "fast"`, or `count_tokens`.
    pub fn group_limits(mut self, group: &str, limits: GroupLimits) -> Self {
        self.groups.push((group.to_owned(), limits));
        self
    }

    /// Time from admission to the first content of an answer. Zero by default, at most a day.
    pub fn time_to_first_token(mut self, time: Duration) -> Self {
        self.config.time_to_first_token = time.min(Duration::from_secs(86_400));
        self
    }

    /// Output tokens per second of one answer. Anything that is not a positive number is all at once, the default.
    pub fn tokens_per_second(mut self, rate: f64) -> Self {
        self.config.tokens_per_second = (rate.is_finite() && rate > 0.0).then_some(rate);
        self
    }

    /// Output tokens in one stream event, 4 by default, at least 1.
    pub fn tokens_per_event(mut self, tokens: u64) -> Self {
        self.config.tokens_per_event = tokens.max(1);
        self
    }

    /// Output tokens of an answer whose request has no `x-fake-output-tokens`; 16 by default.
    pub fn output_tokens(mut self, tokens: u64) -> Self {
        self.config.output_tokens = tokens;
        self
    }

    /// The only key accepted. By default any key is.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.config.api_key = Some(key.into());
        self
    }

    /// When the levels in the headers are read.
    pub fn header_snapshot(mut self, snapshot: HeaderSnapshot) -> Self {
        self.config.snapshot = snapshot;
        self
    }

    /// Which rate-limit headers are sent.
    pub fn header_family(mut self, family: HeaderFamily) -> Self {
        self.config.family = family;
        self
    }

    /// Through whose door the API is reached.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.config.platform = platform;
        self
    }

    /// Whether a refused request costs one of the requests per minute. The API does not say; off by default.
    pub fn rejected_costs_request(mut self, costs: bool) -> Self {
        self.rejected_costs_request = costs;
        self
    }

    /// Adds a window of trouble.
    pub fn incident(mut self, incident: Incident) -> Self {
        self.config.incidents.push(incident);
        self
    }

    /// Seed of everything random (whom an incident hits, noise). Same seed and same order of requests, same dice.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Bytes of prompt per input token in the server's own estimate; 3.5 by default. Values outside 0.1 to 100 are
    /// brought inside, and what is not a number changes nothing.
    pub fn bytes_per_token(mut self, bytes: f64) -> Self {
        if !bytes.is_nan() {
            self.config.bytes_per_1000_tokens = (bytes.clamp(0.1, 100.0) * 1_000.0) as u64;
        }
        self
    }

    /// Relative error of the input estimate at admission: each is off by up to this share, either way. 0 to 1.
    pub fn admission_noise(mut self, share: f64) -> Self {
        self.config.admission_noise = if share.is_nan() {
            0.0
        } else {
            share.clamp(0.0, 1.0)
        };
        self
    }

    /// The models served and their rate groups; the built-in catalogue by default.
    pub fn catalog(mut self, catalog: ModelCatalog) -> Self {
        self.config.catalog = catalog;
        self
    }

    /// Serves models the catalogue does not know, each as a rate group of its own, instead of answering 404.
    pub fn accept_unknown_models(mut self, accept: bool) -> Self {
        self.config.unknown_models = accept;
        self
    }

    /// Gives the organization Priority Tier: a pool with these limits beside the ordinary ones, which admitted requests
    /// draw on too while it has room, shown in `anthropic-priority-*` headers. It refuses nobody.
    pub fn priority_limits(mut self, limits: GroupLimits) -> Self {
        self.priority = Some(limits);
        self
    }

    /// Makes the server; its time starts now.
    #[must_use]
    pub fn build(self) -> FakeClaude {
        let mut accounting =
            Accounting::new(self.limits).with_rejected_costs_request(self.rejected_costs_request);
        for (group, limits) in self.groups {
            accounting = accounting.with_group(&group, limits);
        }
        let rng = fastrand::Rng::with_seed(self.seed);
        FakeClaude::new(
            self.config,
            accounting,
            self.priority.map(Accounting::new),
            rng,
        )
    }
}
