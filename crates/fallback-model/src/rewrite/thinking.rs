//! The rules for `thinking` (4) and `output_config.effort` (5).

use bytes::Bytes;
use tower_claude_wire::{Effort, Support};

use super::{
    json_object::{JsonObjectEditor, string},
    losses::{Unportable, Why},
    state::{RewriteState, is_given, kind, number, takes},
};

/// The least budget of `enabled` thinking. It must be below `max_tokens` as well.
const MIN_BUDGET: u64 = 1_024;

/// The change of the effort that follows from a change of `thinking`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EffortChange {
    /// No change.
    None,
    /// The effort that corresponds to the budget.
    Budget(Effort),
    /// The least effort: thinking was off, and the target cannot turn it off.
    Least,
}

impl RewriteState<'_> {
    /// Applies rule 4: `thinking`.
    pub(super) fn thinking(&mut self) -> Result<EffortChange, Unportable> {
        let asked = self.top.asked("thinking");
        if asked.is_none() {
            self.default_thinking();
            return Ok(EffortChange::None);
        }
        let Some(asked) = asked.filter(|json| json.starts_with(b"{")) else {
            return Ok(EffortChange::None);
        };
        let names = ["type", "budget_tokens", "display"];
        let object = JsonObjectEditor::parse(asked, &names, "thinking")?;
        let can = &self.to.capabilities;
        let change = match object.asked_text("type").as_deref() {
            Some("adaptive") if !takes(can.thinking_adaptive) => {
                self.set_enabled(object);
                EffortChange::None
            }
            Some("enabled") if !takes(can.thinking_enabled) => self.set_adaptive(object),
            Some("enabled") => {
                self.fit_budget(object);
                EffortChange::None
            }
            Some("disabled") if !takes(can.thinking_disabled) => {
                self.set_off("between_tools", can.thinking_between_tools)
            }
            Some("between_tools") if !takes(can.thinking_between_tools) => {
                self.set_off("disabled", can.thinking_disabled)
            }
            _ => EffortChange::None,
        };
        Ok(change)
    }

    /// Makes the default of the original model explicit, if the target's differs and no other field
    /// is lost by it.
    fn default_thinking(&mut self) {
        let (from, to) = (&self.from.capabilities, &self.to.capabilities);
        let word = match (from.thinks_by_default, to.thinks_by_default) {
            _ if !self.options.keep_defaults => return,
            (Some(true), Some(false)) => {
                // A field of unknown support is not added.
                let accepted = matches!(to.thinking_adaptive, Support::Yes);
                let samples = ["temperature", "top_p", "top_k"]
                    .iter()
                    .any(|name| is_given(self.top.asked(name).as_ref()));
                if !accepted || to.sampling != Support::Yes && samples {
                    return;
                }
                "adaptive"
            }
            (Some(false), Some(true)) => {
                let high = self
                    .asked_effort()
                    .is_none_or(|asked| asked <= Effort::High);
                let fits = |support| match support {
                    Support::Yes => true,
                    Support::UpToHighEffort => high,
                    _ => false,
                };
                if fits(to.thinking_disabled) {
                    "disabled"
                } else if fits(to.thinking_between_tools) {
                    "between_tools"
                } else {
                    return;
                }
            }
            _ => return,
        };
        self.top.set("thinking", only_type(word), Why::Default);
    }

    /// Translates adaptive thinking for a model that needs a budget. The effort sets the budget, up
    /// to half of `max_tokens`. Removes it if the forced tool would be lost, or if too little is
    /// left.
    fn set_enabled(&mut self, mut object: JsonObjectEditor) {
        let can = &self.to.capabilities;
        let forced = self.forces_tool() && can.forced_tool_choice != Support::Yes;
        let room = self.max_tokens().map_or(u64::MAX, |max| max / 2);
        if !takes(can.thinking_enabled) || forced || room < MIN_BUDGET {
            self.top.remove("thinking", Why::Unsupported);
            return;
        }
        let effort = self
            .asked_effort()
            .or(self.from.capabilities.default_effort);
        let budget = budget(effort.unwrap_or(Effort::High)).min(room);
        object.set("type", string("enabled"), Why::Translated);
        object.set("budget_tokens", budget.to_string(), Why::Translated);
        object.keep_only(&["type", "budget_tokens", "display"]);
        self.top.set("thinking", object.render(), Why::Translated);
    }

    /// Translates a budget for a model with adaptive thinking.
    fn set_adaptive(&mut self, mut object: JsonObjectEditor) -> EffortChange {
        if !takes(self.to.capabilities.thinking_adaptive) {
            self.top.remove("thinking", Why::Unsupported);
            return EffortChange::None;
        }
        let budget = object.asked("budget_tokens").and_then(|json| number(&json));
        object.set("type", string("adaptive"), Why::Translated);
        object.keep_only(&["type", "display"]);
        self.top.set("thinking", object.render(), Why::Translated);
        budget.map_or(EffortChange::None, |budget| {
            EffortChange::Budget(effort_of(budget))
        })
    }

    /// Keeps the budget below a clamped `max_tokens`, in the original proportion.
    fn fit_budget(&mut self, mut object: JsonObjectEditor) {
        let asked_max = self.top.asked("max_tokens").and_then(|json| number(&json));
        let budget = object.asked("budget_tokens").and_then(|json| number(&json));
        let (Some(asked_max), Some(max), Some(budget)) = (asked_max, self.max_tokens(), budget)
        else {
            return;
        };
        if max == asked_max || budget < max {
            return;
        }
        let share = u128::from(budget) * u128::from(max) / u128::from(asked_max);
        let share = u64::try_from(share)
            .unwrap_or(max)
            .min(max.saturating_sub(1));
        object.set("budget_tokens", share.to_string(), Why::Clamped);
        self.top.set("thinking", object.render(), Why::Clamped);
    }

    /// Turns thinking off with the other of its two names, or else with the least effort.
    fn set_off(&mut self, word: &'static str, support: Support) -> EffortChange {
        if takes(support) && support != Support::Unknown {
            self.top.set("thinking", only_type(word), Why::Translated);
            return EffortChange::None;
        }
        if self.to.capabilities.thinks_by_default == Some(false) {
            self.top.remove("thinking", Why::Translated);
            return EffortChange::None;
        }
        self.top.remove("thinking", Why::Unsupported);
        EffortChange::Least
    }

    /// Applies rule 5: the effort.
    pub(super) fn effort(&mut self, change: EffortChange) {
        let Some(efforts) = self.to.capabilities.efforts.clone() else {
            return;
        };
        let is_asked = self
            .config
            .as_ref()
            .is_some_and(|c| c.asked("effort").is_some());
        if efforts.is_empty() {
            if let Some(config) = self.config.as_mut().filter(|_| is_asked) {
                config.remove("effort", Why::Unsupported);
            }
            return;
        }
        let limit = self.effort_limit();
        let fit = |effort: Effort| {
            let under = efforts.iter().filter(|e| **e <= effort.min(limit)).max();
            under.or_else(|| efforts.iter().min()).copied()
        };
        if let Some(asked) = self.asked_effort() {
            let (wanted, why) = match change {
                EffortChange::Least => (Effort::Low, Why::Translated),
                _ => (asked, Why::Clamped),
            };
            if let Some(fits) = fit(wanted).filter(|fits| *fits != asked) {
                self.set_effort(fits, why);
            }
            return;
        }
        if is_asked {
            return; // an effort that is not known yet
        }
        let default = self.to.capabilities.default_effort;
        let (wanted, why) = match change {
            EffortChange::Budget(effort) => (Some(effort), Why::Translated),
            EffortChange::Least => (Some(Effort::Low), Why::Translated),
            EffortChange::None => (self.default_effort(), Why::Default),
        };
        if let Some(fits) = wanted.and_then(fit).filter(|fits| Some(*fits) != default) {
            self.set_effort(fits, why);
        }
    }

    /// Returns the default effort of the original model, unless the target thinks where the
    /// original does not.
    fn default_effort(&self) -> Option<Effort> {
        let unwanted = self.from.capabilities.thinks_by_default == Some(false)
            && self.top.asked("thinking").is_none()
            && self.will_think();
        if !self.options.keep_defaults || unwanted {
            return None;
        }
        self.to.capabilities.default_effort?;
        self.from.capabilities.default_effort
    }

    /// Returns the highest effort that the target accepts with the `thinking` that is sent.
    fn effort_limit(&self) -> Effort {
        let can = &self.to.capabilities;
        let support = match kind(self.top.sent("thinking")).as_deref() {
            Some("disabled") => can.thinking_disabled,
            Some("between_tools") => can.thinking_between_tools,
            _ => Support::Yes,
        };
        match support {
            Support::UpToHighEffort => Effort::High,
            _ => Effort::Max,
        }
    }
}

fn only_type(word: &str) -> Bytes {
    format!("{{\"type\":{}}}", string(word)).into()
}

/// Returns the budget in tokens that corresponds to an effort. No conversion is published. These
/// are the budgets that tools have offered under such names, and [`effort_of`] is the inverse.
fn budget(effort: Effort) -> u64 {
    match effort {
        Effort::Low => 4_096,
        Effort::Medium => 12_288,
        Effort::High => 24_576,
        _ => 32_768,
    }
}

/// Returns the effort that corresponds to a budget.
fn effort_of(budget: u64) -> Effort {
    match budget {
        0..=4_096 => Effort::Low,
        4_097..=12_288 => Effort::Medium,
        12_289..=32_767 => Effort::High,
        _ => Effort::XHigh,
    }
}
