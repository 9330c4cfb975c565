//! Request features that each model rejects, from the documentation as of 2026-11-29. The table is
//! independent of the catalog that the layers use, so that each checks the other.

use crate::config::Platform;

/// The day of the table, which is the date of the server by default.
pub(crate) const TODAY: &str = "2026-11-29";
/// The first day without fast mode on Opus 4.8.
const FAST_OPUS_4_8_ENDS: &str = "2026-11-30";

/// Models of the advisor tool, the most capable first. A model may call those at the beginning.
const ADVISORS: [&str; 14] = [
    "claude-fable-5-2",
    "claude-mythos-5-2",
    "claude-fable-5-1",
    "claude-mythos-5-1",
    "claude-opus-5-5",
    "claude-fable-5",
    "claude-mythos-5",
    "claude-opus-5",
    "claude-sonnet-5-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-sonnet-5",
    "claude-opus-4-6",
    "claude-sonnet-4-6",
];

/// The beta of the longer output in batches.
pub(crate) const LONG_OUTPUT_BETA: &str = "output-300k-2026-03-24";
/// The greatest `max_tokens` with that beta.
pub(crate) const LONG_OUTPUT: u64 = 300_000;
/// The models with that beta.
const LONG_OUTPUT_MODELS: [&str; 9] = [
    "claude-haiku-5-5",
    "claude-opus-4-6",
    "claude-opus-4-7",
    "claude-opus-4-8",
    "claude-opus-5",
    "claude-opus-5-5",
    "claude-sonnet-4-6",
    "claude-sonnet-5",
    "claude-sonnet-5-5",
];

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
    /// Accepted with the beta of the fast mode.
    WithBeta,
    /// The same, until the fast mode of the model ends.
    Ending,
}

impl Speed {
    /// Returns true if the model has a fast mode on this day.
    pub(crate) fn is_fast(self, today: &str) -> bool {
        match self {
            Self::Unknown | Self::Ignored => false,
            Self::Fast | Self::WithBeta => true,
            Self::Ending => today < FAST_OPUS_4_8_ENDS,
        }
    }
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
    /// Tools that the Claude API rejects.
    rejected_tools: &'static [&'static str],
    /// Tools that the other platforms reject.
    rejected_elsewhere: &'static [&'static str],
    /// True if code may call tools.
    pub(crate) code_calls: bool,
    /// The number of the [`ADVISORS`] that the model may call.
    advisors: usize,
    pub(crate) compaction: bool,
    pub(crate) task_budget: bool,
    /// The most tokens of one image.
    pub(crate) image_tokens: u64,
    /// True if the server accepts a list of fallback models for it.
    pub(crate) fallback_list: bool,
    /// The tokens of the shortest prompt that is cached.
    pub(crate) least_cached: u64,
    /// The effort without `output_config.effort`, if the model has efforts.
    pub(crate) default_effort: Option<&'static str>,
    /// True if a plain turn of the user removes the thinking before it from the prompt.
    pub(crate) strips_thinking: bool,
}

const ALL: &[&str] = &["low", "medium", "high", "xhigh", "max"];
const NO_XHIGH: &[&str] = &["low", "medium", "high", "max"];
const UP_TO_HIGH: &[&str] = &["low", "medium", "high"];
/// The computer tools before the toolset.
const COMPUTERS: &[&str] = &["computer_20250124", "computer_20251124"];
const TOOLSETS: &[&str] = &["browser_toolset_20260801", "computer_toolset_20260801"];
/// The tools that are newer than Sonnet and Haiku 4.5.
const NEWER_TOOLS: &[&str] = &[
    "browser_toolset_20260801",
    "computer_20251124",
    "computer_toolset_20260801",
];

/// Fable 5.1: always thinks, chooses its tools itself.
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
    rejected_elsewhere: &[],
    code_calls: true,
    advisors: 5,
    compaction: true,
    task_budget: true,
    image_tokens: 4_784,
    fallback_list: true,
    least_cached: 512,
    default_effort: Some("high"),
    strips_thinking: false,
};
const FABLE_5_2: RuleSet = RuleSet {
    speed: Speed::Fast,
    rejected_tools: COMPUTERS,
    rejected_elsewhere: COMPUTERS,
    advisors: 2,
    ..FABLE
};
const FABLE_5: RuleSet = RuleSet {
    forced: Forced::Always,
    turn_effort: false,
    advisors: 9,
    ..FABLE
};
/// Mythos Preview, of which little is known.
const PREVIEW: RuleSet = RuleSet {
    enabled: true,
    disabled: Off::Always,
    forced: Forced::NotWithEnabled,
    system_turns: false,
    turn_effort: false,
    advisors: 0,
    least_cached: 2_048,
    ..FABLE
};
const OPUS_5_5: RuleSet = RuleSet {
    speed: Speed::Fast,
    rejected_tools: COMPUTERS,
    default_effort: Some("medium"),
    ..FABLE
};
const OPUS_5: RuleSet = RuleSet {
    disabled: Off::UpToHigh,
    forced: Forced::Always,
    speed: Speed::WithBeta,
    advisors: 9,
    ..FABLE
};
const OPUS_4_8: RuleSet = RuleSet {
    thinks: false,
    disabled: Off::Always,
    forced: Forced::Always,
    speed: Speed::Ending,
    turn_effort: false,
    advisors: 11,
    least_cached: 1_024,
    ..FABLE
};
const OPUS_4_7: RuleSet = RuleSet {
    speed: Speed::Unknown,
    system_turns: false,
    rejected_tools: TOOLSETS,
    rejected_elsewhere: TOOLSETS,
    least_cached: 2_048,
    ..OPUS_4_8
};
const OPUS_4_6: RuleSet = RuleSet {
    enabled: true,
    efforts: NO_XHIGH,
    forced: Forced::NotWithEnabled,
    sampling: Sampling::WithoutThinking,
    speed: Speed::Ignored,
    advisors: 13,
    task_budget: false,
    image_tokens: 1_600,
    least_cached: 4_096,
    ..OPUS_4_7
};
const SONNET_5_5: RuleSet = RuleSet {
    between_tools: Off::UpToHigh,
    rejected_tools: COMPUTERS,
    rejected_elsewhere: &["computer_20250124"],
    advisors: 9,
    ..FABLE
};
const SONNET_5: RuleSet = RuleSet {
    disabled: Off::Always,
    forced: Forced::Always,
    system_turns: false,
    turn_effort: false,
    advisors: 12,
    task_budget: false,
    least_cached: 1_024,
    ..FABLE
};
const SONNET_4_6: RuleSet = RuleSet {
    speed: Speed::Unknown,
    advisors: 14,
    least_cached: 1_024,
    ..OPUS_4_6
};
const HAIKU_5_5: RuleSet = RuleSet {
    disabled: Off::UpToHigh,
    forced: Forced::Always,
    sampling: Sampling::DefaultEither,
    rejected_tools: COMPUTERS,
    rejected_elsewhere: &["computer_20250124"],
    advisors: 12,
    fallback_list: false,
    default_effort: Some("medium"),
    ..FABLE
};
const SONNET_4_5: RuleSet = RuleSet {
    context: 200_000,
    max_output: 64_000,
    adaptive: false,
    efforts: &[],
    prefill: true,
    geo: false,
    rejected_tools: NEWER_TOOLS,
    rejected_elsewhere: NEWER_TOOLS,
    advisors: 0,
    compaction: false,
    default_effort: None,
    strips_thinking: true,
    ..SONNET_4_6
};
const HAIKU_4_5: RuleSet = RuleSet {
    code_calls: false,
    advisors: 14,
    least_cached: 4_096,
    ..SONNET_4_5
};
const OPUS_4_5: RuleSet = RuleSet {
    efforts: UP_TO_HIGH,
    rejected_tools: TOOLSETS,
    rejected_elsewhere: TOOLSETS,
    least_cached: 4_096,
    default_effort: Some("high"),
    strips_thinking: false,
    ..SONNET_4_5
};

/// Returns the rules of a model by its plain id. `None` for a model that is not listed.
pub(crate) fn of(id: &str) -> Option<&'static RuleSet> {
    Some(match id {
        "claude-fable-5-2" | "claude-mythos-5-2" => &FABLE_5_2,
        "claude-fable-5-1" | "claude-mythos-5-1" => &FABLE,
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
        "claude-sonnet-4-5" => &SONNET_4_5,
        "claude-haiku-4-5" => &HAIKU_4_5,
        "claude-mythos-preview" => &PREVIEW,
        "claude-haiku-5-5" => &HAIKU_5_5,
        _ => return None,
    })
}

impl RuleSet {
    /// Returns true if the model rejects this type of tool.
    pub(crate) fn rejects_tool(&self, kind: &str, platform: Platform) -> bool {
        let rejected = match platform {
            Platform::Claude => self.rejected_tools,
            // It takes the later computer tool also where all others do not.
            Platform::Bedrock if self.rejected_elsewhere == COMPUTERS => &COMPUTERS[..1],
            _ => self.rejected_elsewhere,
        };
        rejected.contains(&kind)
    }

    /// Returns true if the model may call this advisor.
    pub(crate) fn takes_advisor(&self, model: &str) -> bool {
        ADVISORS[..self.advisors].contains(&model)
    }
}

/// Returns true for a model that is retired on this day: all models up to Opus 4.1, Sonnet 4 and
/// Haiku 3.5, and models of the 4.5 generation from their last day on.
pub(crate) fn is_retired(id: &str, today: &str) -> bool {
    let Some(id) = id.strip_prefix("claude-") else {
        return false;
    };
    let is = |name: &&str| {
        id.strip_prefix(*name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
    };
    match id {
        "sonnet-4-5" => today >= "2026-11-30",
        "opus-4-5" => today >= "2027-01-22",
        "opus-4" | "opus-4-0" | "opus-4-1" | "sonnet-4" | "sonnet-4-0" => true,
        _ => ["1", "2", "3", "instant"].iter().any(is),
    }
}

/// Returns true if the model has the longer output in batches of this platform.
pub(crate) fn has_long_batch_output(id: &str, platform: Platform) -> bool {
    platform != Platform::Foundry && LONG_OUTPUT_MODELS.contains(&id)
}
