//! What a request may ask of a model, after the documented capability tables.

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
    /// Reads the API's word.
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

    /// The API's word.
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

/// Whether a model takes something in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Support {
    /// Nobody has said.
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
    /// Accepted unless thinking is `enabled`.
    NotWithEnabledThinking,
    /// Accepted and without effect.
    Ignored,
    /// Rejected with 400.
    No,
}

/// What a model takes. Unknown models have `Unknown` everywhere and no efforts listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether the model thinks when the request says nothing about it.
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
    /// Effort when the request names none.
    pub default_effort: Option<Effort>,
    /// `tool_choice` of type `any` or `tool`.
    pub forced_tool_choice: Support,
    /// A conversation that ends with an assistant turn.
    pub prefill: Support,
    /// `temperature`, `top_p`, `top_k` other than the default (always rejected under API version
    /// 2026-10-21).
    pub sampling: Support,
    /// What may be sent nevertheless where `sampling` is rejected.
    pub sampling_defaults: SamplingDefaults,
    /// `speed: "fast"`.
    pub fast: Support,
    /// Shortest prompt that is cached, in tokens.
    pub min_cache_tokens: Option<u64>,
    /// `inference_geo`.
    pub inference_geo: Support,
    /// Messages of role `system` in the middle of a conversation.
    pub system_messages: Support,
    /// `output_config` with an effort inside a message.
    pub per_message_effort: Support,
    /// Types of tools known to be rejected, e.g. `computer_20251124`. No tool is known to be accepted by being absent.
    pub tools_rejected: Vec<Box<str>>,
    /// Whether thinking blocks are bound to all that came before them: a changed `system`, `tools` or earlier message is
    /// then a 400.
    pub binds_thinking: Option<bool>,
    /// Whether they are bound to the account as well.
    pub binds_thinking_to_account: Option<bool>,
}

/// The values of sampling parameters that a model takes although it rejects every other. Sent together they are rejected
/// all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SamplingDefaults {
    /// `temperature` in thousandths; `None` when no value is known to be accepted.
    pub temperature: Option<u32>,
    /// `top_p` in thousandths; `None` when no value is known to be accepted.
    pub top_p: Option<u32>,
}

/// Where a model is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lifecycle {
    /// Nobody has said.
    #[default]
    Unknown,
    /// Served.
    Active,
    /// Served, to be retired.
    Deprecated,
    /// Requests fail with 404.
    Retired,
}

impl Lifecycle {
    /// Reads the API's word.
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

/// What a catalog says about its own facts, and about a model's life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// The dated id that the plain one stands for; `None` where the plain one is the snapshot (from 4.6 on).
    pub snapshot: Option<Box<str>>,
    /// Date of retirement, as the API writes it (`2026-11-30`, or a full stamp).
    pub retires_on: Option<Box<str>>,
    /// Earliest date of retirement, where no date is fixed.
    pub retires_not_before: Option<Box<str>>,
    /// Fields of the data file that are inferred, or whose sources disagree: `forced_tool_choice`, `thinking.enabled`.
    pub uncertain: Vec<Box<str>>,
}
