//! `output_config.effort` (rule 5).

use tower_claude_wire::{Effort, Support};

use super::Why;
use super::draft::{Draft, kind};
use super::thinking::Wish;

impl Draft<'_> {
    /// Rule 5.
    pub(super) fn effort(&mut self, wish: Wish) {
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
            let (wanted, why) = match wish {
                Wish::Least => (Effort::Low, Why::Translated),
                _ => (asked, Why::Clamped),
            };
            if let Some(fits) = fit(wanted).filter(|fits| *fits != asked) {
                self.set_effort(fits, why);
            }
            return;
        }
        if is_asked {
            return; // a word that nobody knows yet
        }
        let default = self.to.capabilities.default_effort;
        let (wanted, why) = match wish {
            Wish::Worth(effort) => (Some(effort), Why::Translated),
            Wish::Least => (Some(Effort::Low), Why::Translated),
            Wish::None => (self.default_effort(), Why::Default),
        };
        if let Some(fits) = wanted.and_then(fit).filter(|fits| Some(*fits) != default) {
            self.set_effort(fits, why);
        }
    }

    /// The effort of the original model when it is not told, unless the target has to think where that one does not.
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

    /// The highest effort beside the `thinking` that is sent.
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
