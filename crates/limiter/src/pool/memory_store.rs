//! A store of shared limits in memory.

use std::{collections::HashMap, time::Duration};

use crate::pool::share_message::{
    ShareLimit, ShareMessage, ShareOutcome, SharePeriod, ShareReply, SharedLevel,
};

/// The time for which a message is remembered, in microseconds.
const KEPT: f64 = 10e6;

/// The time for which a setting of another process holds after its last message.
const STALE: f64 = 30e6;

/// The time after which a learned limit is forgotten.
const FORGOTTEN: f64 = 600e6;

/// The longest debt that corrections and headers cause, as a time of refill.
const MAX_DEBT: f64 = 300e6;

/// The time in which the work of the largest request fades.
const FADES_IN: f64 = 30e6;

/// The time for which a process counts after its last settings.
const PRESENT_FOR: f64 = 90e6;

/// The shared state of one scope, as a store over a network keeps it. For tests and simulators.
/// Limits per day are not supported, and are unlimited.
#[derive(Debug, Default)]
pub struct MemoryStore {
    at: f64,
    epoch: Option<u64>,
    pause: f64,
    quantum: f64,
    quantum_at: f64,
    limits: HashMap<usize, StoredLimit>,
    applied: HashMap<(u64, u64), Applied>,
    processes: HashMap<u64, f64>,
}

#[derive(Clone, Copy, Debug)]
struct Applied {
    /// The time of the grant, or `None` if the block was refused.
    due: Option<f64>,
    until: f64,
}

#[derive(Debug, Default)]
struct StoredLimit {
    level: Option<f64>,
    /// The last time at which the bucket was full.
    full_at: f64,
    effective: Option<f64>,
    burst: Option<(f64, f64)>,
    configured: Option<(f64, f64)>,
    learned: Option<(f64, f64)>,
}

impl MemoryStore {
    /// Returns an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a message of this process. Times are microseconds of the store's clock.
    pub fn apply(&mut self, now: u64, process: u64, message: &ShareMessage) -> ShareReply {
        let now = now as f64;
        if self.epoch.is_none() && !message.has_settings {
            return ShareReply::new(ShareOutcome::StateMissing);
        }
        if self.epoch.is_none() {
            self.at = now;
        }
        let known = self.applied.get(&(process, message.id)).copied();
        let epoch = *self.epoch.get_or_insert(now as u64);
        let passed = (now - self.at).max(0.0);
        self.at += passed;
        if message.has_settings {
            self.processes.insert(process, now);
            self.processes.retain(|_, seen| *seen > now - PRESENT_FOR);
        }
        if let (Some(pause), None) = (message.pause, known) {
            self.pause = self.pause.max(now + micros(pause));
        }
        let mut wait = (self.pause - now).max(0.0);
        let minutes = message.limits.iter();
        let (at, is_known) = (self.at, known.is_some());
        for limit in minutes.filter(|limit| limit.period == SharePeriod::Minute) {
            let stored = self.limits.entry(limit.index).or_default();
            let before = stored.effective;
            if message.has_settings {
                stored.set(now, limit);
            }
            let refill = before.or(stored.effective).unwrap_or(0.0) / 60e6 * passed;
            let needed = stored.apply(at, refill, limit, is_known);
            wait = wait.max(needed);
        }
        let outcome = match (known, message.block) {
            (_, None) => ShareOutcome::Applied,
            (Some(Applied { due: Some(due), .. }), _) => {
                let left = (due - now).max(self.pause - now).max(0.0);
                ShareOutcome::Granted(duration(left))
            }
            (Some(Applied { due: None, .. }), _) => ShareOutcome::Refused(duration(wait)),
            (None, Some(block)) => {
                let fading = (1.0 - (now - self.quantum_at) / FADES_IN).max(0.0);
                self.quantum = (self.quantum * fading).max(micros(block.work));
                self.quantum_at = now;
                if wait <= micros(block.max_wait) {
                    ShareOutcome::Granted(duration(wait))
                } else {
                    ShareOutcome::Refused(duration(wait))
                }
            }
        };
        let charges = known.is_none() && matches!(outcome, ShareOutcome::Granted(_));
        if known.is_none() {
            self.applied.retain(|_, applied| applied.until > now);
            let refused = matches!(outcome, ShareOutcome::Refused(_));
            let due = now + if charges { wait.ceil() } else { 0.0 };
            let applied = Applied {
                due: (!refused).then_some(due),
                until: due + KEPT,
            };
            self.applied.insert((process, message.id), applied);
        }
        let levels = message.limits.iter().map(|limit| {
            let Some(stored) = self.limits.get_mut(&limit.index) else {
                return SharedLevel::default();
            };
            if let Some(level) = stored.level.as_mut().filter(|_| charges) {
                *level -= limit.cost as f64;
            }
            let smallest = stored.configured.filter(|_| message.has_settings);
            SharedLevel {
                level: (stored.level.unwrap_or(0.0) * 1_000.0).floor() as i64,
                limit: stored.effective.unwrap_or(0.0) as u64,
                configured: smallest.map_or(0, |(limit, _)| limit as u64),
                full_ago: duration(stored.level.map_or(0.0, |_| self.at - stored.full_at)),
            }
        });
        let limits = levels.collect();
        ShareReply {
            outcome,
            pause: duration((self.pause - now).max(0.0)),
            epoch,
            processes: self.processes.len() as u32,
            quantum: Duration::from_micros(self.quantum as u64),
            limits,
        }
    }
}

impl StoredLimit {
    /// Refills, corrects and bounds the level. Returns the wait for what the block needs.
    fn apply(&mut self, at: f64, refill: f64, limit: &ShareLimit, is_known: bool) -> f64 {
        let (Some(effective), Some((burst, _))) = (self.effective, self.burst) else {
            return 0.0;
        };
        let rate = effective / 60e6;
        let (capacity, floor) = ((rate * burst).max(1.0), -MAX_DEBT * rate);
        let start = self.level.or(limit.settings.start).unwrap_or(capacity);
        let mut level = (start + refill).min(capacity);
        if !is_known && limit.credit != 0.0 {
            let new = (level + limit.credit).min(capacity);
            level = if limit.credit < 0.0 {
                new.max(level.min(floor))
            } else {
                new
            };
        }
        if level >= capacity || self.level.is_none() {
            self.full_at = at;
        }
        if let Some(ceiling) = limit.ceiling.filter(|_| !is_known) {
            level = level.min(ceiling).max(level.min(floor));
        }
        self.level = Some(level);
        let missing = (limit.need as f64).min(capacity) - level;
        if missing > 0.0 { missing / rate } else { 0.0 }
    }

    fn set(&mut self, now: f64, limit: &ShareLimit) {
        let settings = &limit.settings;
        let holds = |old: Option<(f64, f64)>, new: f64| {
            old.is_some_and(|(old, at)| new > old && now - at <= STALE)
        };
        if let Some(own) = settings.configured.map(|own| own as f64)
            && !holds(self.configured, own)
        {
            self.configured = Some((own, now));
        }
        let burst = micros(settings.burst).round();
        if !holds(self.burst, burst) {
            self.burst = Some((burst, now));
        }
        if let Some(learned) = settings.learned {
            self.learned = Some((learned as f64, now));
        }
        self.learned = self.learned.filter(|(_, at)| now - at <= FORGOTTEN);
        let learned = self.learned.map(|(learned, _)| learned);
        let hint = settings.hint.map(|hint| hint as f64);
        self.effective = match self.configured {
            Some((own, _)) => Some(learned.unwrap_or(own).min(own)),
            None => learned.or(hint).or(self.effective),
        };
    }
}

/// Returns whole microseconds.
fn micros(duration: Duration) -> f64 {
    duration.as_micros() as f64
}

/// Returns the duration of microseconds, rounded up.
fn duration(micros: f64) -> Duration {
    Duration::from_micros(micros.ceil() as u64)
}
