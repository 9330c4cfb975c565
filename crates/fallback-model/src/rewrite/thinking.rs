//! `thinking` (rule 4), and what it asks of the effort.

use bytes::Bytes;
use tower_claude_wire::{Effort, Support};

use super::draft::{Draft, is_given, number, takes};
use super::edit::{Object, string};
use super::{Unportable, Why};

/// The least budget of `enabled` thinking; it must be under `max_tokens` as well.
const LEAST_BUDGET: u64 = 1_024;

/// What the change of `thinking` asks of the effort.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing.
    None,
    /// As much as the budget was worth.
    Worth(Effort),
    /// As little as there is: thinking was not wanted, and cannot be turned off.
    Least,
}

impl Draft<'_> {
    /// Rule 4.
    pub(super) fn thinking(&mut self) -> Result<Wish, Unportable> {
        let asked = self.top.asked("thinking");
        if asked.is_none() {
            self.default_thinking();
            return Ok(Wish::None);
        }
        let Some(asked) = asked.filter(|json| json.starts_with(b"{")) else {
            return Ok(Wish::None);
        };
        let names = ["type", "budget_tokens", "display"];
        let object = Object::parse(asked, &names, "thinking")?;
        let can = &self.to.capabilities;
        let wish = match object.asked_text("type").as_deref() {
            Some("adaptive") if !takes(can.thinking_adaptive) => {
                self.spell_enabled(object);
                Wish::None
            }
            Some("enabled") if !takes(can.thinking_enabled) => self.spell_adaptive(object),
            Some("enabled") => {
                self.fit_budget(object);
                Wish::None
            }
            Some("disabled") if !takes(can.thinking_disabled) => {
                self.spell_off("between_tools", can.thinking_between_tools)
            }
            Some("between_tools") if !takes(can.thinking_between_tools) => {
                self.spell_off("disabled", can.thinking_disabled)
            }
            _ => Wish::None,
        };
        Ok(wish)
    }

    /// Says aloud what the original model does unasked, where the target does otherwise and it costs no other field.
    fn default_thinking(&mut self) {
        let (from, to) = (&self.from.capabilities, &self.to.capabilities);
        let word = match (from.thinks_by_default, to.thinks_by_default) {
            _ if !self.options.keep_defaults => return,
            (Some(true), Some(false)) => {
                // Unknown is no ground to add something.
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

    /// Adaptive thinking for a model that wants a budget: by effort, half of `max_tokens` at most. Not where it would
    /// cost the forced tool, and not where too little is left for it.
    fn spell_enabled(&mut self, mut object: Object) {
        let can = &self.to.capabilities;
        let forced = self.forces_tool() && can.forced_tool_choice != Support::Yes;
        let room = self.max_tokens().map_or(u64::MAX, |max| max / 2);
        if !takes(can.thinking_enabled) || forced || room < LEAST_BUDGET {
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

    /// A budget for a model that decides itself.
    fn spell_adaptive(&mut self, mut object: Object) -> Wish {
        if !takes(self.to.capabilities.thinking_adaptive) {
            self.top.remove("thinking", Why::Unsupported);
            return Wish::None;
        }
        let budget = object.asked("budget_tokens").and_then(|json| number(&json));
        object.set("type", string("adaptive"), Why::Translated);
        object.keep_only(&["type", "display"]);
        self.top.set("thinking", object.render(), Why::Translated);
        budget.map_or(Wish::None, |budget| Wish::Worth(worth(budget)))
    }

    /// Keeps the budget under a `max_tokens` that was clamped, in the proportion asked for.
    fn fit_budget(&mut self, mut object: Object) {
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

    /// Off, in the other of the two words there are for it; else with as little effort as there is.
    fn spell_off(&mut self, word: &'static str, support: Support) -> Wish {
        if takes(support) && support != Support::Unknown {
            self.top.set("thinking", only_type(word), Why::Translated);
            return Wish::None;
        }
        if self.to.capabilities.thinks_by_default == Some(false) {
            self.top.remove("thinking", Why::Translated);
            return Wish::None;
        }
        self.top.remove("thinking", Why::Unsupported);
        Wish::Least
    }
}

fn only_type(word: &str) -> Bytes {
    format!("{{\"type\":{}}}", string(word)).into()
}

/// What an effort may think, in tokens. Nobody has published an exchange rate; these are the budgets that tools offered
/// under such names, and the ones below are their mirror.
fn budget(effort: Effort) -> u64 {
    match effort {
        Effort::Low => 4_096,
        Effort::Medium => 12_288,
        Effort::High => 24_576,
        _ => 32_768,
    }
}

fn worth(budget: u64) -> Effort {
    match budget {
        0..=4_096 => Effort::Low,
        4_097..=12_288 => Effort::Medium,
        12_289..=32_767 => Effort::High,
        _ => Effort::XHigh,
    }
}
