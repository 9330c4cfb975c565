//! The pacing of a scope: its pause after a 429, its share of a level that other processes use, the
//! slow start after idling, and the rate that is learned from 429s which no header explains.
//!
//! Tokens are wasted only when a bucket is full, and requests are rejected only when it is empty.
//! In between, the level can be used as a shared signal: each process sends at `f(z)` times the
//! limit's rate, where `z` is the fill of the tightest bucket. `N` processes settle where `N f(z) =
//! 1`, all at the same rate.
//!
//! A server may reject a sharp rise in use whatever its levels are. The requests that waited for
//! the end of a pause are such a rise.

use std::time::Duration;

use crate::{
    config::{LimiterConfig, SlowStart},
    pool::{
        bucket::{Charge, Margins, UNIT, nanos},
        buckets::Buckets,
        in_flight::SendSnapshot,
        learned_rate::{LearnedRate, RateLearner},
    },
};

/// The most credit that can be accumulated, in nanoseconds of the limit's rate.
const MAX_CREDIT: f64 = 250_000_000.0;

/// The most credit during a slow start. More would be sent as the burst that it prevents.
const MAX_CREDIT_IN_SLOW_START: f64 = 10_000_000.0;

/// Pause, share pacer, slow start and learned rate.
#[derive(Debug)]
pub(crate) struct Pacing {
    pause: Pause,
    pacer: SharePacer,
    slow_start: SlowStartRamp,
    learner: RateLearner,
    learns: bool,
}

impl Pacing {
    pub(crate) fn new(config: &LimiterConfig, now: u64) -> Self {
        Self {
            pause: Pause::new(config.max_pause),
            pacer: SharePacer::default(),
            slow_start: SlowStartRamp::new(config.slow_start),
            learner: RateLearner::new(now),
            learns: config.learn_limits,
        }
    }

    /// Returns the rate learned from 429s, if there is one.
    pub(crate) fn learned(&self) -> Option<&LearnedRate> {
        self.learner.learned()
    }

    pub(crate) fn advance(&mut self, now: u64) {
        self.learner.advance(now);
    }

    /// Returns the end of the pause. It may have passed.
    pub(crate) const fn paused_until(&self) -> u64 {
        self.pause.until()
    }

    /// Returns true if requests are not paced, as long as the limits are not shared.
    pub(crate) const fn is_off(&self) -> bool {
        !self.pacer.on && self.slow_start.config.is_none()
    }

    /// Returns the earliest time of the next admission. Whatever the pace is, one request is
    /// admitted at `probe_at`.
    #[inline(always)]
    pub(crate) fn earliest(&self, now: u64, probe_at: u64) -> u64 {
        let credit = match self.pacer.wait() {
            0 => 0,
            wait => now.saturating_add(wait).min(probe_at),
        };
        let learned = self.learned().map_or(0, |rate| rate.earliest(now));
        self.pause.until().max(credit).max(learned)
    }

    /// Earns the credit since the last call. `share` is the rate that a shared level allows, as a
    /// multiple of the limit's rate, or `None` if the limits are not shared.
    pub(crate) fn update(&mut self, now: u64, share: Option<f64>) {
        match (share, self.slow_start.rate(now)) {
            (None, None) => self.pacer.off(),
            (Some(rate), None) => self.pacer.earn(now, rate, MAX_CREDIT),
            (share, Some(max)) => {
                let rate = share.unwrap_or(MAX_RATE).min(max);
                self.pacer.earn(now, rate, MAX_CREDIT_IN_SLOW_START);
            }
        }
    }

    /// Records that a request asks for admission. `busy` is true while others are in flight or
    /// queued.
    pub(crate) fn on_request(&mut self, now: u64, busy: bool) {
        self.slow_start.on_request(now, busy);
    }

    /// Records the admission of a request of this number and this much work, in nanoseconds of the
    /// limit's rate. `waited` is true if it was queued.
    pub(crate) fn on_admitted(
        &mut self,
        now: u64,
        number: u64,
        waited: bool,
        work: impl FnOnce() -> f64,
    ) {
        if self.pacer.is_on() {
            self.pacer.spend(work());
        }
        self.slow_start.on_activity(now);
        self.learner.on_admitted(now, number, waited);
    }

    pub(crate) const fn on_ended(&mut self, now: u64) {
        self.slow_start.on_activity(now);
    }

    /// Records that the server took the request of this number.
    pub(crate) fn on_success(&mut self, number: u64) {
        self.pause.on_success();
        self.learner.on_success(number);
    }

    /// Records that no header explains a 429.
    pub(crate) fn on_unexplained(&mut self, now: u64, sent: &SendSnapshot) {
        if self.learns {
            self.learner.on_rejected(now, sent, self.pause.until());
        }
    }

    /// Begins or extends the pause after a 429. Returns its remaining nanoseconds.
    pub(crate) fn on_rejected(
        &mut self,
        now: u64,
        sent: Option<u64>,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> u64 {
        let wait = self.pause.on_rejected(now, sent, retry_after, jitter);
        self.slow_start.on_paused(self.pause.until());
        wait
    }

    /// Pauses at least until `until`, after a 429 of another process.
    pub(crate) fn pause_until(&mut self, until: u64) {
        if until > self.pause.until {
            self.pause.until = until;
            self.slow_start.on_paused(until);
        }
    }

    /// Returns the nanoseconds until this work of so many requests ahead is done at the mean pace,
    /// or 0 without pacing.
    pub(crate) fn wait_behind(&self, now: u64, requests: u64, work: impl FnOnce() -> f64) -> u64 {
        let learned = self.learned();
        let learned = learned.map_or(0, |rate| rate.wait(now, requests as f64 + 1.0));
        if !self.pacer.is_on() {
            return learned;
        }
        self.pacer.until_done(work()).max(learned)
    }
}

/// The first inferred pause.
const FIRST_INFERRED: u64 = 1_000_000_000;

/// The most that jitter adds to an explicit `retry-after`, as in the retry layer. A caller that
/// waits for a minute must be served by most pauses of a minute.
const MAX_SPREAD: u64 = 10_000_000_000;

/// The most that 429s in a row extend a shorter `retry-after`. The server's value does not consider
/// that other clients use the refill.
const MAX_EXPLICIT_BACKOFF: u64 = 4_000_000_000;

/// The pause of a whole scope, so that its requests do not sleep separately and return as a herd.
#[derive(Debug)]
pub(crate) struct Pause {
    max_inferred: u64,
    until: u64,
    /// The beginning of the last pause. A 429 for a request sent before it is not a new strike.
    began: Option<u64>,
    strikes: u32,
}

impl Pause {
    /// Returns no pause. `max_inferred` is the longest pause without a `retry-after`.
    pub(crate) fn new(max_inferred: Duration) -> Self {
        Self {
            max_inferred: nanos(max_inferred),
            until: 0,
            began: None,
            strikes: 0,
        }
    }

    pub(crate) const fn until(&self) -> u64 {
        self.until
    }

    pub(crate) const fn on_success(&mut self) {
        self.strikes = 0;
    }

    /// Returns the inferred pause, which doubles with every 429 in a row.
    const fn backoff(&self) -> u64 {
        let doublings = self.strikes.saturating_sub(1);
        FIRST_INFERRED << if doublings < 30 { doublings } else { 30 }
    }

    /// Begins or extends the pause after a 429 for a request sent at `sent`. Returns its remaining
    /// nanoseconds. `jitter` in 0..1 adds up to half, but at most 10 s to a `retry-after`.
    pub(crate) fn on_rejected(
        &mut self,
        now: u64,
        sent: Option<u64>,
        retry_after: Option<Duration>,
        jitter: f64,
    ) -> u64 {
        if self
            .began
            .is_none_or(|began| sent.is_none_or(|sent| sent > began))
        {
            self.strikes = self.strikes.saturating_add(1);
            self.began = Some(now);
        }
        // A zero, or a date in the past, is ignored. Otherwise all requests would return at once.
        let max_inferred = self.max_inferred;
        let (base, max, spread) = match retry_after.filter(|wait| !wait.is_zero()) {
            Some(wait) => {
                let max = nanos(LimiterConfig::MAX_EXPLICIT_PAUSE);
                let again = self.backoff().min(MAX_EXPLICIT_BACKOFF);
                (nanos(wait).max(again).min(max), max, MAX_SPREAD)
            }
            None => (self.backoff().min(max_inferred), max_inferred, max_inferred),
        };
        let jitter = if jitter.is_finite() {
            jitter.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let extra = ((base / 2).min(spread) as f64 * jitter) as u64;
        let wait = base.saturating_add(extra).min(max);
        self.until = self.until.max(now.saturating_add(wait));
        self.until - now
    }
}

/// The steepness of the rate over the level.
const STEEPNESS: f64 = 10.0;

/// The level at which one process alone sends at the limit's rate.
const TARGET_LEVEL: f64 = 0.6;

/// The target level of a bucket so small that a single large request takes most of it. The level
/// must be high for such a request to fit.
const HIGH_TARGET_LEVEL: f64 = 0.85;

/// The capacities, in nanoseconds of refill, between which the target level falls.
const SMALL: f64 = 8e9;
const LARGE: f64 = 30e9;

const MIN_RATE: f64 = 1.0 / 400.0;

/// The highest rate of a process, as a multiple of the limit's rate.
pub(crate) const MAX_RATE: f64 = 4.0;

/// The shortest and the longest wait until the next check, since the rate changes with the level.
const MIN_WAIT: f64 = 2_000_000.0;
const MAX_WAIT: f64 = 250_000_000.0;

/// The time constant of the mean rate, for estimates.
const MEAN_OVER: f64 = 30_000_000_000.0;

/// Returns the rate of one process at a level from 0 (empty) to 1 (full).
fn rate_at(level: f64, target: f64) -> f64 {
    (STEEPNESS * (level - target))
        .exp()
        .clamp(MIN_RATE, MAX_RATE)
}

/// Returns the target level of a bucket that holds this many nanoseconds of refill. All processes
/// compute the same.
fn target_level(capacity: f64) -> f64 {
    let smallness = ((LARGE - capacity) / (LARGE - SMALL)).clamp(0.0, 1.0);
    TARGET_LEVEL + (HIGH_TARGET_LEVEL - TARGET_LEVEL) * smallness
}

/// Returns the rate that the tightest level allows, as a multiple of the limit's rate.
pub(crate) fn shared_rate(buckets: &Buckets, margins: &Margins) -> f64 {
    let rates = buckets.known().map(|(index, bucket)| {
        let margin = margins[index];
        let room = (bucket.capacity() - margin).max(1) as f64;
        let level = (bucket.level() - margin) as f64 / room;
        let capacity = bucket.capacity() as f64 / bucket.limit().max(1) as f64;
        rate_at(level, target_level(capacity))
    });
    rates.fold(MAX_RATE, f64::min)
}

/// Returns the time that a charge takes of the tightest rate, in nanoseconds. A charge counts as at
/// most the capacity, so that a limit that only an odd header named causes no endless debt.
pub(crate) fn work(buckets: &Buckets, charge: &Charge) -> f64 {
    let work = buckets.known().map(|(index, bucket)| {
        let units = (charge[index] as f64 * UNIT as f64).min(bucket.capacity() as f64);
        units / bucket.limit().max(1) as f64
    });
    work.fold(0.0, f64::max)
}

/// A pacer with credit in nanoseconds of the tightest limit's rate.
#[derive(Debug, Default)]
pub(crate) struct SharePacer {
    on: bool,
    credit: f64,
    /// A multiple of the limit's rate.
    rate: f64,
    mean: f64,
    at: u64,
}

impl SharePacer {
    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) const fn off(&mut self) {
        self.on = false;
    }

    /// Earns credit since the last call at this rate, up to `max`.
    pub(crate) fn earn(&mut self, now: u64, rate: f64, max: f64) {
        if !self.on {
            *self = Self {
                on: true,
                credit: 0.0,
                rate,
                mean: rate.min(1.0),
                at: now,
            };
            return;
        }
        let passed = now.saturating_sub(self.at) as f64;
        self.at = now;
        self.rate = rate;
        self.credit = (self.credit + rate * passed).min(max);
        self.mean += (passed / MEAN_OVER).min(1.0) * (rate - self.mean);
    }

    pub(crate) fn spend(&mut self, work: f64) {
        self.credit -= work;
    }

    /// Returns the nanoseconds until there is credit at the current rate, or 0 without pacing.
    pub(crate) fn wait(&self) -> u64 {
        if !self.on || self.credit > 0.0 {
            return 0;
        }
        (-self.credit / self.rate).clamp(MIN_WAIT, MAX_WAIT) as u64
    }

    /// Returns the nanoseconds until this much work is done at the mean rate.
    pub(crate) fn until_done(&self, work: f64) -> u64 {
        ((work - self.credit) / self.mean.max(MIN_RATE)).max(0.0) as u64
    }
}

/// The initial pace, as a share of the limit's rate.
const START: f64 = 0.25;

/// The pace of a slow start, if one is configured.
#[derive(Debug, Default)]
pub(crate) struct SlowStartRamp {
    config: Option<SlowStart>,
    /// The beginning of the current ramp, which may be in the future.
    since: Option<u64>,
    /// The time at which a request was last sent or ended.
    active: Option<u64>,
}

impl SlowStartRamp {
    pub(crate) const fn new(config: Option<SlowStart>) -> Self {
        Self {
            config,
            since: None,
            active: None,
        }
    }

    /// Records that a request was sent or ended.
    pub(crate) const fn on_activity(&mut self, now: u64) {
        if self.config.is_some() {
            self.active = Some(now);
        }
    }

    /// Begins a ramp for a request after idling. `busy` is true while others are in flight or
    /// queued.
    pub(crate) fn on_request(&mut self, now: u64, busy: bool) {
        let Some(config) = self.config else { return };
        let idle = self
            .active
            .is_none_or(|at| now.saturating_sub(at) >= nanos(config.after_idle));
        if idle && !busy && self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// Begins a ramp at the end of a pause.
    pub(crate) fn on_paused(&mut self, until: u64) {
        if self.config.is_some() {
            self.since = Some(self.since.unwrap_or(0).max(until));
        }
    }

    /// Returns the highest pace, as a multiple of the limit's rate, or `None` for any.
    pub(crate) fn rate(&mut self, now: u64) -> Option<f64> {
        let (config, since) = (self.config?, self.since?);
        let doublings = now.saturating_sub(since) as f64 / nanos(config.doubles_in).max(1) as f64;
        let rate = START * doublings.exp2();
        if rate >= 1.0 {
            self.since = None;
            return None;
        }
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn rate_is_the_limits_at_the_target_level_and_falls_by_e_each_tenth() {
        assert!((rate_at(0.6, TARGET_LEVEL) - 1.0).abs() < 1e-12);
        assert!((rate_at(0.5, TARGET_LEVEL) * std::f64::consts::E - 1.0).abs() < 1e-12);
        assert_eq!(rate_at(1.0, TARGET_LEVEL), 4.0);
        assert_eq!(rate_at(-3.0, TARGET_LEVEL), 1.0 / 400.0);
    }

    #[test]
    fn sixteen_processes_settle_at_a_sixteenth_at_a_third_of_the_level() {
        let level = TARGET_LEVEL - 16_f64.ln() / STEEPNESS;
        assert!((rate_at(level, TARGET_LEVEL) * 16.0 - 1.0).abs() < 1e-9);
        assert!((level - 0.32).abs() < 0.01);
    }

    #[test]
    fn small_bucket_has_a_higher_target_level() {
        assert!((target_level(60e9) - TARGET_LEVEL).abs() < 1e-12);
        assert!((target_level(19e9) - (TARGET_LEVEL + HIGH_TARGET_LEVEL) / 2.0).abs() < 1e-12);
        assert!((target_level(5e9) - HIGH_TARGET_LEVEL).abs() < 1e-12);
        assert!(
            rate_at(1.0, HIGH_TARGET_LEVEL) > 1.0,
            "a single process still gets all of it"
        );
    }

    #[test]
    fn credit_is_limited_to_a_quarter_second_and_may_be_overdrawn() {
        let mut pacer = SharePacer::default();
        assert_eq!(pacer.wait(), 0, "no pacing");
        pacer.earn(0, 1.0, MAX_CREDIT);
        assert_eq!(pacer.wait(), 2_000_000, "nothing yet");
        pacer.earn(10 * S, 1.0, MAX_CREDIT);
        pacer.spend(0.2 * S as f64);
        assert_eq!(pacer.wait(), 0);
        pacer.spend(0.15 * S as f64);
        assert_eq!(pacer.wait(), 100_000_000);
        pacer.spend(9.0 * S as f64);
        assert_eq!(
            pacer.wait(),
            250_000_000,
            "checked again, since the rate changes"
        );
        pacer.earn(19 * S + S / 10, 1.0, MAX_CREDIT);
        assert_eq!(pacer.wait(), 2_000_000);
        pacer.earn(19 * S + S / 10 + 1, 1.0, MAX_CREDIT);
        assert_eq!(pacer.wait(), 0);
    }

    #[test]
    fn work_is_estimated_at_the_mean_rate() {
        let mut pacer = SharePacer::default();
        pacer.earn(0, 0.25, MAX_CREDIT);
        assert_eq!(pacer.until_done(S as f64), 4 * S);
    }

    fn ramp() -> SlowStartRamp {
        SlowStartRamp::new(Some(SlowStart::new()))
    }

    #[test]
    fn ramp_reaches_the_limit_in_ten_seconds_after_a_minute_of_idling() {
        let mut ramp = ramp();
        ramp.on_activity(0);
        ramp.on_request(59 * S, false);
        assert_eq!(ramp.rate(59 * S), None);
        ramp.on_request(60 * S, true);
        assert_eq!(ramp.rate(60 * S), None, "busy");
        ramp.on_request(60 * S, false);
        assert_eq!(ramp.rate(60 * S), Some(0.25));
        ramp.on_request(65 * S, false);
        assert_eq!(ramp.rate(65 * S), Some(0.5));
        assert_eq!(ramp.rate(70 * S), None);
        assert_eq!(ramp.rate(60 * S), None, "over");
    }

    #[test]
    fn ramp_begins_again_at_the_end_of_a_pause() {
        let mut ramp = ramp();
        ramp.on_paused(30 * S);
        assert_eq!(ramp.rate(10 * S), Some(0.25));
        ramp.on_paused(20 * S);
        assert_eq!(
            ramp.rate(35 * S),
            Some(0.5),
            "a shorter pause changes nothing"
        );
    }

    #[test]
    fn unconfigured_ramp_never_begins() {
        let mut ramp = SlowStartRamp::new(None);
        ramp.on_request(0, false);
        ramp.on_paused(30 * S);
        assert_eq!(ramp.rate(30 * S), None);
    }
}
