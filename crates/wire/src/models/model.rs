//! A model: its sizes, its rate group, and its capabilities by the documented tables.

use std::sync::Arc;
use std::time::SystemTime;

use super::platform::Platform;
use super::price::Prices;
use crate::timestamp::rfc3339;

/// Tokenizer generation. The newer tokenizer produces about 30 % more tokens for the same text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tokenizer {
    /// Models up to 4.6: about 3.5 characters per token.
    Old,
    /// Models from 4.7 on: about 2.5 characters per token.
    New,
}

/// Estimates the tokens of `bytes` of text, rounded up. This is a rough estimate: correct it by the
/// reported usage.
///
/// ```
/// use tower_claude_wire::{estimate_tokens, Tokenizer};
/// assert_eq!(estimate_tokens(1_000, Tokenizer::New), 400);
/// assert_eq!(estimate_tokens(1_000, Tokenizer::Old), 286);
/// ```
#[must_use]
pub fn estimate_tokens(bytes: u64, tokenizer: Tokenizer) -> u64 {
    // Two tokens per 7 or 5 bytes; split so that no product overflows.
    let per_two = match tokenizer {
        Tokenizer::Old => 7,
        Tokenizer::New => 5,
    };
    bytes / per_two * 2 + (bytes % per_two * 2).div_ceil(per_two)
}

/// One model of the catalog. A clone shares all text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Model {
    /// Canonical id, without date and cloud prefix.
    pub id: Arc<str>,
    /// Name of the rate group. Models of one group share their rate limits, so a fallback within
    /// the group does not avoid a 429.
    pub rate_group: Arc<str>,
    /// Tokenizer generation.
    pub tokenizer: Tokenizer,
    /// Context window in tokens.
    pub context: u64,
    /// Maximum number of output tokens of one response.
    pub max_output: u64,
    /// False if the catalog does not list the model. The other fields are then the defaults of its
    /// family.
    pub known: bool,
    /// Stage of the lifecycle, as of the date of the catalog.
    pub lifecycle: Lifecycle,
    /// Features that a request may use.
    pub capabilities: Arc<Capabilities>,
    /// Dates, prices, and the names of uncertain facts.
    pub about: Arc<About>,
}

impl Model {
    /// Creates a model with its own rate group (named as its id), the newer tokenizer, 200,000
    /// tokens of context, 64,000 of output and unknown capabilities. These are the smallest sizes
    /// of the current models. Set the fields for which you have better values.
    #[must_use]
    pub fn new(id: &str) -> Self {
        let id: Arc<str> = id.into();
        Self {
            rate_group: Arc::clone(&id),
            id,
            tokenizer: Tokenizer::New,
            context: 200_000,
            max_output: 64_000,
            known: true,
            lifecycle: Lifecycle::Unknown,
            capabilities: Arc::default(),
            about: Arc::default(),
        }
    }

    /// Returns true if requests for the model fail on this platform, because it is retired. The
    /// dates of the catalog do not hold on a platform with a schedule of its own.
    #[must_use]
    pub fn is_retired(&self, platform: Platform, now: SystemTime) -> bool {
        let retires_on = self.about.retires_on.as_deref();
        !self.about.own_schedule.contains(&platform)
            && (self.lifecycle == Lifecycle::Retired
                || retires_on.is_some_and(|date| has_come(date, now)))
    }

    /// Returns the support of `speed: "fast"` on a platform. A model with fast mode elsewhere only
    /// rejects the field.
    #[must_use]
    pub fn fast_on(&self, platform: Platform, now: SystemTime) -> Support {
        let can = &self.capabilities;
        match can.fast {
            Support::Unknown => Support::Unknown,
            support if can.fast_platforms.contains(&platform) => match can.fast_ends.as_deref() {
                Some(date) if has_come(date, now) => Support::No,
                _ => support,
            },
            _ => Support::No,
        }
    }
}

/// Returns true if a date (`2026-11-30`) or a timestamp has come. A day begins at midnight UTC.
fn has_come(date: &str, now: SystemTime) -> bool {
    instant(date).is_some_and(|at| at <= now)
}

/// Returns the begin of a day, or the instant of a timestamp.
pub(super) fn instant(date: &str) -> Option<SystemTime> {
    match date.len() {
        10 => rfc3339(format!("{date}T00:00:00Z").as_bytes()),
        _ => rfc3339(date.as_bytes()),
    }
}

/// Usage tier of an organization. The tiers Evaluation and Custom have no published limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The first paid tier.
    Start,
    /// The middle tier.
    Build,
    /// The highest tier with published limits.
    Scale,
}

/// Limits of one rate group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierLimits {
    /// Requests per minute.
    pub requests_per_minute: u64,
    /// Input tokens per minute, cache reads not counted.
    pub input_tokens_per_minute: u64,
    /// Output tokens per minute.
    pub output_tokens_per_minute: u64,
}

/// Reasoning effort, `output_config.effort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effort {
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    High,
    /// `xhigh`
    XHigh,
    /// `max`
    Max,
}

impl Effort {
    /// Parses the API's name of an effort.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "low" => Self::Low,
            "medium" => Self::Medium,
            "high" => Self::High,
            "xhigh" => Self::XHigh,
            "max" => Self::Max,
            _ => return None,
        })
    }

    /// Returns the API's name of this effort.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::XHigh => "xhigh",
            Self::Max => "max",
        }
    }
}

/// Support of a model for one request feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Support {
    /// Not known.
    #[default]
    Unknown,
    /// Accepted.
    Yes,
    /// Accepted, with a warning in the documentation.
    Deprecated,
    /// Accepted at effort `high` and below, otherwise 400.
    UpToHighEffort,
    /// Accepted while thinking is off.
    ThinkingOff,
    /// Accepted unless the request turns thinking off.
    ThinkingOn,
    /// Accepted unless thinking is `enabled`.
    NotWithEnabledThinking,
    /// Accepted and without effect.
    Ignored,
    /// Rejected with 400.
    No,
}

/// Request features of a model. An unknown model has `Unknown` everywhere and no list of efforts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// True if the model thinks when the request has no `thinking`.
    pub thinks_by_default: Option<bool>,
    /// `thinking.type = "adaptive"`.
    pub thinking_adaptive: Support,
    /// `thinking.type = "enabled"` with a budget.
    pub thinking_enabled: Support,
    /// `thinking.type = "between_tools"`.
    pub thinking_between_tools: Support,
    /// `thinking.type = "disabled"`.
    pub thinking_disabled: Support,
    /// Accepted efforts, lowest first. `None`: unknown. Empty: the field is rejected.
    pub efforts: Option<Vec<Effort>>,
    /// Effort of a request that sets none.
    pub default_effort: Option<Effort>,
    /// `tool_choice` of type `any` or `tool`.
    pub forced_tool_choice: Support,
    /// The same for the platforms on which it differs.
    pub forced_tool_choice_on: Vec<(Platform, Support)>,
    /// A conversation that ends with an assistant turn.
    pub prefill: Support,
    /// `temperature`, `top_p`, `top_k` other than the default (always rejected under API version
    /// 2026-10-21).
    pub sampling: Support,
    /// Values that are accepted although `sampling` is rejected.
    pub sampling_defaults: SamplingDefaults,
    /// `speed: "fast"`, on the platforms below. See [`Model::fast_on`].
    pub fast: Support,
    /// Platforms that accept `speed: "fast"`. Microsoft Foundry has a deployment of its own for it
    /// instead.
    pub fast_platforms: Vec<Platform>,
    /// The `anthropic-beta` that `speed: "fast"` needs.
    pub fast_beta: Option<Box<str>>,
    /// Day from which `speed: "fast"` is rejected.
    pub fast_ends: Option<Box<str>>,
    /// Length of the shortest prompt that is cached, in tokens.
    pub min_cache_tokens: Option<u64>,
    /// `inference_geo`.
    pub inference_geo: Support,
    /// Messages of role `system` in the middle of a conversation.
    pub system_messages: Support,
    /// `output_config` with an effort inside a message.
    pub per_message_effort: Support,
    /// Tool types known to be rejected, by platform, and with `None` for all other platforms. See
    /// [`Capabilities::rejects_tool`].
    pub tools_rejected: Vec<(Option<Platform>, Vec<Box<str>>)>,
    /// Calls of tools from executed code: `allowed_callers`, and web search and fetch with dynamic
    /// filtering.
    pub programmatic_tools: Support,
    /// Rank among the models of the advisor tool. The advisor must have the same rank or a higher
    /// one. `None` if the model cannot call an advisor.
    pub advisor_rank: Option<u64>,
    /// Compaction of the context by the server.
    pub compaction: Support,
    /// `output_config.task_budget`.
    pub task_budget: Support,
    /// Priority Tier, with an existing contract.
    pub priority_tier: Support,
    /// True if the model rejects accounts without data retention.
    pub needs_retention: Option<bool>,
    /// True if thinking blocks are bound to the preceding context: a changed `system`, `tools` or
    /// earlier message is then rejected with 400.
    pub binds_thinking: Option<bool>,
    /// True if thinking blocks are bound to the account as well.
    pub binds_thinking_to_account: Option<bool>,
}

impl Capabilities {
    /// Returns true if this type of tool is known to be rejected on a platform. Other types may be
    /// rejected too.
    #[must_use]
    pub fn rejects_tool(&self, kind: &str, platform: Platform) -> bool {
        let of = |wanted| {
            self.tools_rejected
                .iter()
                .find(move |(on, _)| *on == wanted)
        };
        let list = of(Some(platform)).or_else(|| of(None));
        list.is_some_and(|(_, kinds)| kinds.iter().any(|rejected| **rejected == *kind))
    }

    /// Returns the support of a forced `tool_choice` on a platform.
    #[must_use]
    pub fn forced_tool_choice(&self, platform: Platform) -> Support {
        let exception = self
            .forced_tool_choice_on
            .iter()
            .find(|(on, _)| *on == platform);
        exception.map_or(self.forced_tool_choice, |(_, support)| *support)
    }
}

/// Values of sampling parameters that a model accepts although it rejects all others. A request
/// that sets both is still rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SamplingDefaults {
    /// `temperature` in thousandths. `None` if no value is known to be accepted.
    pub temperature: Option<u32>,
    /// `top_p` in thousandths. `None` if no value is known to be accepted.
    pub top_p: Option<u32>,
}

/// Stage of a model's lifecycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lifecycle {
    /// Not known.
    #[default]
    Unknown,
    /// Served.
    Active,
    /// Served, with a date of retirement.
    Deprecated,
    /// Requests fail with 404.
    Retired,
}

impl Lifecycle {
    /// Parses the API's name of a stage.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "active" => Self::Active,
            "deprecated" => Self::Deprecated,
            "retired" => Self::Retired,
            _ => return None,
        })
    }
}

/// Dates and prices of a model, and notes on uncertain facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// The dated id that the plain id refers to. `None` if the plain id is itself the snapshot
    /// (from 4.6 on).
    pub snapshot: Option<Box<str>>,
    /// Date of retirement, as the API writes it (`2026-11-30`, or a full timestamp). See
    /// [`Model::is_retired`].
    pub retires_on: Option<Box<str>>,
    /// Platforms for which no date is known, since they have a schedule of their own.
    pub own_schedule: Vec<Platform>,
    /// Earliest date of retirement, if no date is fixed.
    pub retires_not_before: Option<Box<str>>,
    /// Prices. `None` if they are not published.
    pub prices: Option<Prices>,
    /// Names of fields that are inferred or whose sources disagree, e.g. `forced_tool_choice`.
    pub uncertain: Vec<Box<str>>,
}
