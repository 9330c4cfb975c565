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
    /// `speed: "fast"`.
    pub fast: Support,
    /// Shortest prompt that is cached, in tokens.
    pub min_cache_tokens: Option<u64>,
}
