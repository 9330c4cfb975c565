//! The rate-limit headers of subscription traffic. Undocumented; after what others have observed.

use std::time::{Duration, SystemTime};

use http::HeaderValue;

use crate::headers::count;

/// The `anthropic-ratelimit-unified-*` family of subscription (OAuth) traffic. Undocumented: shown,
/// never needed.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Unified {
    /// `allowed`, `allowed_warning`, `rejected` or something newer.
    pub status: Option<String>,
    /// When the representative window opens again.
    pub reset: Option<SystemTime>,
    /// Which window decides now, e.g. `five_hour`.
    pub representative_claim: Option<String>,
    /// The windows, in header order; at most [`Unified::MAX_WINDOWS`].
    pub windows: Vec<UnifiedWindow>,
    /// Share of the limit after which a cheaper model is suggested.
    pub fallback_percentage: Option<f64>,
    /// Status of paid overage.
    pub overage_status: Option<String>,
    /// Why overage is off, e.g. `out_of_credits`.
    pub overage_disabled_reason: Option<String>,
}

/// One window of [`Unified`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct UnifiedWindow {
    /// `5h`, `7d`, `7d_oi` or something newer.
    pub name: String,
    /// As [`Unified::status`], for this window.
    pub status: Option<String>,
    /// When the window starts anew.
    pub reset: Option<SystemTime>,
    /// Used share of the window; 1.0 is all of it and more is possible.
    pub utilization: Option<f64>,
}

impl Unified {
    /// More windows than this are ignored, so that a hostile upstream cannot make us hoard.
    pub const MAX_WINDOWS: usize = 16;

    pub(crate) fn read(&mut self, name: &str, value: &HeaderValue) {
        let bytes = value.as_bytes();
        match name {
            "status" => set_text(&mut self.status, value),
            "reset" => self.reset = self.reset.or_else(|| epoch(bytes)),
            "representative-claim" => set_text(&mut self.representative_claim, value),
            "fallback-percentage" => {
                self.fallback_percentage = self.fallback_percentage.or_else(|| share(value));
            }
            "overage-status" => set_text(&mut self.overage_status, value),
            "overage-disabled-reason" => set_text(&mut self.overage_disabled_reason, value),
            _ => {
                let Some((window, part)) = name.rsplit_once('-') else {
                    return;
                };
                if window == "overage" || !matches!(part, "status" | "reset" | "utilization") {
                    return;
                }
                let Some(window) = self.window(window) else {
                    return;
                };
                match part {
                    "status" => set_text(&mut window.status, value),
                    "reset" => window.reset = window.reset.or_else(|| epoch(bytes)),
                    _ => window.utilization = window.utilization.or_else(|| share(value)),
                }
            }
        }
    }

    fn window(&mut self, name: &str) -> Option<&mut UnifiedWindow> {
        if let Some(at) = self.windows.iter().position(|w| w.name == name) {
            return self.windows.get_mut(at);
        }
        if self.windows.len() == Self::MAX_WINDOWS {
            return None;
        }
        self.windows.push(UnifiedWindow {
            name: name.to_owned(),
            ..UnifiedWindow::default()
        });
        self.windows.last_mut()
    }
}

fn set_text(slot: &mut Option<String>, value: &HeaderValue) {
    if slot.is_none() {
        *slot = value.to_str().ok().map(str::to_owned);
    }
}

fn epoch(bytes: &[u8]) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(count(bytes)?))
}

fn share(value: &HeaderValue) -> Option<f64> {
    let share: f64 = value.to_str().ok()?.trim().parse().ok()?;
    (share.is_finite() && share >= 0.0).then_some(share)
}
