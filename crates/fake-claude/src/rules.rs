//! Request features that each model rejects, from the documentation as of 2026-10-08. 5.2 models
//! are inferred from 5.1. The table is independent of the catalog that the layers use, so that each
//! checks the other.

/// Conditions under which one of the two thinking types without thinking is accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Off {
    Never,
    /// Not with effort `xhigh` or `max`.
    UpToHigh,
    Always,
}

/// Sampling parameters that are accepted under API version 2023-06-01.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampling {
    /// `temperature` of 1, nothing else.
    DefaultOnly,
    /// `temperature` of 1 or `top_p` of 0.99, not both.
    DefaultEither,
    /// Any value while thinking is off.
    WithoutThinking,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forced {
    Never,
    NotWithEnabled,
    Always,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    Unknown,
    /// Accepted and ignored.
    Ignored,
    Fast,
}

pub(crate) struct RuleSet {
    pub(crate) context: u64,
    pub(crate) max_output: u64,
    /// True if the model thinks without a `thinking` field.
    pub(crate) thinks: bool,
    pub(crate) adaptive: bool,
    pub(crate) enabled: bool,
    pub(crate) between_tools: Off,
    pub(crate) disabled: Off,
    pub(crate) efforts: &'static [&'static str],
    pub(crate) forced: Forced,
    /// True if a conversation may end with the assistant while thinking is off.
    pub(crate) prefill: bool,
    pub(crate) sampling: Sampling,
    pub(crate) speed: Speed,
    pub(crate) geo: bool,
    pub(crate) system_turns: bool,
    pub(crate) turn_effort: bool,
    pub(crate) rejected_tools: &'static [&'static str],
    /// True if the server accepts a list of fallback models for it.
    pub(crate) fallback_list: bool,
}

const ALL: &[&str] = &["low", "medium", "high", "xhigh", "max"];
const NO_XHIGH: &[&str] = &["low", "medium", "high", "max"];
const UP_TO_HIGH: &[&str] = &["low", "medium", "high"];

/// Fable 5.1 and 5.2: always thinks, chooses its tools itself.
const FABLE: RuleSet = RuleSet {
    context: 1_000_000,
    max_output: 128_000,
    thinks: true,
    adaptive: true,
    enabled: false,
    between_tools: Off::Never,
    disabled: Off::Never,
    efforts: ALL,
    forced: Forced::Never,
    prefill: false,
    sampling: Sampling::DefaultOnly,
    speed: Speed::Unknown,
    geo: true,
    system_turns: true,
    turn_effort: true,
    rejected_tools: &[],
    fallback_list: true,
};
const FABLE_5: RuleSet = RuleSet {
    forced: Forced::Always,
    turn_effort: false,
    ..FABLE
};
const OPUS_5_5: RuleSet = RuleSet {
    speed: Speed::Fast,
    rejected_tools: &["computer_20251124"],
    ..FABLE
};
const OPUS_5: RuleSet = RuleSet {
    disabled: Off::UpToHigh,
    forced: Forced::Always,
    speed: Speed::Fast,
    ..FABLE
};
const OPUS_4_8: RuleSet = RuleSet {
    thinks: false,
    disabled: Off::Always,
    forced: Forced::Always,
    speed: Speed::Fast,
    turn_effort: false,
    ..FABLE
};
const OPUS_4_7: RuleSet = RuleSet {
    speed: Speed::Unknown,
    system_turns: false,
    ..OPUS_4_8
};
const OPUS_4_6: RuleSet = RuleSet {
    enabled: true,
    efforts: NO_XHIGH,
    forced: Forced::NotWithEnabled,
    sampling: Sampling::WithoutThinking,
    speed: Speed::Ignored,
    ..OPUS_4_7
};
const SONNET_5_5: RuleSet = RuleSet {
    between_tools: Off::UpToHigh,
    ..FABLE
};
const SONNET_5: RuleSet = RuleSet {
    disabled: Off::Always,
    forced: Forced::Always,
    system_turns: false,
    turn_effort: false,
    ..FABLE
};
const SONNET_4_6: RuleSet = RuleSet {
    speed: Speed::Unknown,
    ..OPUS_4_6
};
const HAIKU_5_5: RuleSet = RuleSet {
    disabled: Off::UpToHigh,
    forced: Forced::Always,
    sampling: Sampling::DefaultEither,
    fallback_list: false,
    ..FABLE
};
/// Sonnet and Haiku 4.5.
const GENERATION_4_5: RuleSet = RuleSet {
    context: 200_000,
    max_output: 64_000,
    adaptive: false,
    efforts: &[],
    prefill: true,
    geo: false,
    ..SONNET_4_6
};
const OPUS_4_5: RuleSet = RuleSet {
    efforts: UP_TO_HIGH,
    ..GENERATION_4_5
};

/// Returns the rules of a model by its plain id. `None` for a model that is not listed.
pub(crate) fn of(id: &str) -> Option<&'static RuleSet> {
    Some(match id {
        "claude-fable-5-2" | "claude-fable-5-1" | "claude-mythos-5-2" | "claude-mythos-5-1" => {
            &FABLE
        }
        "claude-fable-5" | "claude-mythos-5" => &FABLE_5,
        "claude-opus-5-5" => &OPUS_5_5,
        "claude-opus-5" => &OPUS_5,
        "claude-opus-4-8" => &OPUS_4_8,
        "claude-opus-4-7" => &OPUS_4_7,
        "claude-opus-4-6" => &OPUS_4_6,
        "claude-opus-4-5" => &OPUS_4_5,
        "claude-sonnet-5-5" => &SONNET_5_5,
        "claude-sonnet-5" => &SONNET_5,
        "claude-sonnet-4-6" => &SONNET_4_6,
        "claude-sonnet-4-5" | "claude-haiku-4-5" => &GENERATION_4_5,
        "claude-haiku-5-5" => &HAIKU_5_5,
        _ => return None,
    })
}

/// Returns true for a retired model: all models up to Opus 4.1, Sonnet 4 and Haiku 3.5, and Mythos
/// Preview.
pub(crate) fn is_retired(id: &str) -> bool {
    let Some(id) = id.strip_prefix("claude-") else {
        return false;
    };
    let old = ["1", "2", "3", "instant", "mythos-preview"];
    let is = |name: &&str| {
        id.strip_prefix(*name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
    };
    old.iter().any(is) || ["opus-4", "opus-4-0", "opus-4-1", "sonnet-4", "sonnet-4-0"].contains(&id)
}
