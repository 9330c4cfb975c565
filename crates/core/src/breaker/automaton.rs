//! The states of a circuit and what leads from one to another.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

use super::{
    Admission, BreakerConfig, Generation, Permit, Transition, Verdict, counts::Counts, ramp::Ramp,
};

/// When to ask again while the probes are out: they mostly take seconds.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// A circuit that is not closed is kept for so long at least after it could have been asked.
const ABANDONED: Duration = Duration::from_secs(60);

/// One circuit. See the [module documentation](super).
///
/// Closed, it counts failures. Enough of them open it: it refuses all calls until the cool-down is over. Then it is
/// half-open: a call that comes is a probe, the others are refused. Enough successful probes close it, one that fails
/// opens it again, for longer.
///
/// A probe is a lease. It ends with a verdict, or without one when the call is given up
/// ([`Verdict::Ignored`]); a probe that does neither within the [lease](BreakerConfig::with_attempt_timeout) has failed. So a
/// circuit is never half-open for ever.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    pub(super) generation: Generation,
    pub(super) state: State,
    pub(super) counts: Counts,
    /// Openings in a row.
    pub(super) opens: u32,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Closed {
        /// Not known before the first opening.
        since: Option<Instant>,
        ramp: Option<Ramp>,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        since: Instant,
        successes: u32,
        leases: Vec<Lease>,
        next: NonZeroU64,
    },
    ForcedOpen,
    ForcedClosed,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) id: NonZeroU64,
    pub(super) since: Instant,
    pub(super) sent: bool,
}

impl Breaker {
    /// A closed circuit.
    #[must_use]
    pub const fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            generation: Generation(0),
            state: State::Closed {
                since: None,
                ramp: None,
            },
            counts: Counts::new(),
            opens: 0,
        }
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &BreakerConfig {
        &self.config
    }

    /// Whether a call may be made at `now`. `chance` is drawn from `0.0..1.0` for this call.
    pub fn admit(&mut self, now: Instant, chance: f64) -> Admission {
        if let State::Closed { ramp: None, .. } | State::ForcedClosed = self.state {
            return self.pass(now, None);
        }
        if let Some(transition) = self.end_leases(now, chance) {
            return Admission::Rejected {
                retry_after: self.remaining(now),
                transition: Some(transition),
            };
        }
        if let State::Open { until } = self.state
            && until <= now
        {
            self.state = State::HalfOpen {
                since: now,
                successes: 0,
                leases: Vec::new(),
                next: NonZeroU64::MIN,
            };
        }
        match &mut self.state {
            State::Closed { ramp, .. } => {
                if ramp.is_some_and(|ramp| ramp.is_over(now)) {
                    *ramp = None;
                }
                match ramp.as_mut().and_then(|ramp| ramp.climb(now, chance)) {
                    None => self.pass(now, None),
                    retry_after => refused(retry_after),
                }
            }
            State::HalfOpen { leases, next, .. } => {
                if leases.len() >= self.config.probes.get() as usize {
                    return refused(Some(PROBE_WAIT));
                }
                let id = *next;
                *next = next.saturating_add(1);
                leases.push(Lease {
                    id,
                    since: now,
                    sent: false,
                });
                self.pass(now, Some(id))
            }
            State::Open { until } => refused(Some(until.saturating_duration_since(now))),
            State::ForcedOpen => refused(None),
            State::ForcedClosed => self.pass(now, None),
        }
    }

    /// The generation, while nothing is counted and nothing can be refused: a call of it passes, by
    /// [`Permit::calm`], and its success changes nothing. A shell that remembers this needs no lock for either.
    #[must_use]
    pub fn calm(&self) -> Option<Generation> {
        let counts = self.config.failure_rate.is_some() || self.config.slow_calls.is_some();
        let closed = matches!(self.state, State::Closed { ramp: None, .. });
        (closed && !counts && self.counts.failures() == 0).then_some(self.generation)
    }

    /// What a call that cannot go on yet would be told: `Some` when it is certain to be refused. Claims nothing.
    #[must_use]
    pub fn refuses(&self, now: Instant) -> Option<Option<Duration>> {
        match &self.state {
            State::ForcedOpen => Some(None),
            State::Open { until } if *until > now => Some(self.remaining(now)),
            _ => None,
        }
    }

    /// Notes that the request leaves now: from here on a probe's lease runs, and the call is timed. Before, a request may
    /// wait in the queues of a limiter.
    pub fn sent(&mut self, now: Instant, permit: &mut Permit) {
        permit.since = Some(now);
        if let Some(lease) = self.lease_of(permit) {
            lease.since = now;
            lease.sent = true;
        }
    }

    /// Whether the permit still counts. A probe that has waited for its turn for as long as a lease may have lost its place
    /// to another; so has one whose circuit has turned since. It must not be sent, but may ask again; nobody is blamed for it.
    pub fn holds(&self, permit: &Permit) -> bool {
        let leased = match &self.state {
            State::HalfOpen { leases, .. } if permit.generation == self.generation => {
                leases.iter().any(|lease| Some(lease.id) == permit.probe)
            }
            _ => false,
        };
        leased || !permit.is_probe()
    }

    /// Ends a call. Permits of an earlier generation, and probes whose lease has run out, are ignored. `chance` is drawn
    /// from `0.0..1.0` and varies the cool-down.
    // A permit is used up.
    #[allow(clippy::needless_pass_by_value)]
    pub fn settle(
        &mut self,
        now: Instant,
        permit: Permit,
        verdict: Verdict,
        chance: f64,
    ) -> Option<Transition> {
        if permit.generation != self.generation {
            return None;
        }
        let slow = self.config.slow_calls.is_some_and(|rate| {
            let took = permit
                .since
                .map(|since| now.saturating_duration_since(since));
            verdict == Verdict::Success && took.is_some_and(|took| took >= rate.slow)
        });
        match &mut self.state {
            State::Closed { .. } => self.count(now, verdict, slow, chance),
            State::HalfOpen {
                successes, leases, ..
            } => {
                let place = leases
                    .iter()
                    .position(|lease| Some(lease.id) == permit.probe)?;
                leases.swap_remove(place);
                match verdict {
                    Verdict::Success | Verdict::Alive if !slow => {
                        *successes += 1;
                        let enough = *successes >= self.config.successes.get();
                        enough.then(|| self.close(now))
                    }
                    Verdict::Success | Verdict::Alive => Some(self.open(now, None, chance)),
                    Verdict::Failure { retry_after }
                    | Verdict::Busy { retry_after }
                    | Verdict::Fatal { retry_after } => Some(self.open(now, retry_after, chance)),
                    Verdict::Ignored => None,
                }
            }
            State::Open { .. } | State::ForcedOpen | State::ForcedClosed => None,
        }
    }

    /// A stream of this generation has broken off after its content began, which had been settled as a success: a failure
    /// of its own.
    pub fn broke_off(
        &mut self,
        now: Instant,
        generation: Generation,
        verdict: Verdict,
        chance: f64,
    ) -> Option<Transition> {
        if generation != self.generation {
            return None;
        }
        match (&self.state, verdict) {
            (State::Closed { .. }, Verdict::Failure { .. } | Verdict::Fatal { .. }) => {
                self.count(now, verdict, false, chance)
            }
            (
                State::HalfOpen { .. },
                Verdict::Failure { retry_after } | Verdict::Fatal { retry_after },
            ) => Some(self.open(now, retry_after, chance)),
            _ => None,
        }
    }

    /// Refuses every call until told otherwise.
    pub fn force_open(&mut self) {
        self.turn(State::ForcedOpen);
    }

    /// Lets every call through, and counts nothing, until told otherwise.
    pub fn force_close(&mut self) {
        self.turn(State::ForcedClosed);
    }

    /// Goes by outcomes again, as if new.
    pub fn automatic(&mut self) {
        self.opens = 0;
        self.turn(State::Closed {
            since: None,
            ramp: None,
        });
    }

    /// Whether nothing would be lost by forgetting this circuit: nothing is counted that could still matter.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        match &self.state {
            State::Closed { since, ramp } => {
                let climbs = ramp.is_some_and(|ramp| !ramp.is_over(now));
                let long_closed = since.is_none_or(|since| self.is_forgotten(since, now));
                !climbs && long_closed && self.counts.are_over(&self.config, now)
            }
            State::Open { until } => self.is_abandoned(*until, now),
            State::HalfOpen { since, leases, .. } => {
                leases.is_empty() && self.is_abandoned(*since, now)
            }
            State::ForcedOpen | State::ForcedClosed => false,
        }
    }

    const fn pass(&self, now: Instant, probe: Option<NonZeroU64>) -> Admission {
        Admission::Pass(Permit {
            generation: self.generation,
            probe,
            since: Some(now),
        })
    }

    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until } => Some(until.saturating_duration_since(now)),
            _ => None,
        }
    }

    /// Takes places back whose lease is over. A probe that was sent has failed by it.
    fn end_leases(&mut self, now: Instant, chance: f64) -> Option<Transition> {
        let lease = self.config.lease;
        let State::HalfOpen { leases, .. } = &mut self.state else {
            return None;
        };
        let is_over = |probe: &Lease| now.saturating_duration_since(probe.since) > lease;
        if leases.iter().any(|probe| probe.sent && is_over(probe)) {
            return Some(self.open(now, None, chance));
        }
        leases.retain(|probe| !is_over(probe));
        None
    }

    fn lease_of(&mut self, permit: &Permit) -> Option<&mut Lease> {
        match &mut self.state {
            State::HalfOpen { leases, .. } if permit.generation == self.generation => leases
                .iter_mut()
                .find(|lease| Some(lease.id) == permit.probe),
            _ => None,
        }
    }

    /// Counts an outcome while closed.
    fn count(
        &mut self,
        now: Instant,
        verdict: Verdict,
        slow: bool,
        chance: f64,
    ) -> Option<Transition> {
        let (trips, retry_after) = match verdict {
            Verdict::Success => (self.counts.success(&self.config, now, slow), None),
            Verdict::Failure { retry_after } => {
                (self.counts.failure(&self.config, now), retry_after)
            }
            Verdict::Fatal { retry_after } => (true, retry_after),
            Verdict::Busy { .. } | Verdict::Alive | Verdict::Ignored => (false, None),
        };
        trips.then(|| self.open(now, retry_after, chance))
    }

    fn is_forgotten(&self, closed: Instant, now: Instant) -> bool {
        now.saturating_duration_since(closed) >= self.config.forget_after
    }

    /// Whether nobody has asked for a long time, however soon a closed circuit is forgotten.
    fn is_abandoned(&self, due: Instant, now: Instant) -> bool {
        now.saturating_duration_since(due) >= self.config.forget_after.max(ABANDONED)
    }

    fn open(&mut self, now: Instant, retry_after: Option<Duration>, chance: f64) -> Transition {
        if let State::Closed {
            since: Some(since), ..
        } = self.state
            && self.is_forgotten(since, now)
        {
            self.opens = 0;
        }
        self.opens = self.opens.saturating_add(1);
        let cool_down = self.config.cool_down(self.opens, retry_after, chance);
        // Too far to tell is never, which nobody wants: an hour, then.
        let until = now
            .checked_add(cool_down)
            .unwrap_or_else(|| now + Duration::from_secs(3600));
        self.turn(State::Open { until });
        Transition::Opened {
            cool_down,
            opens: self.opens,
        }
    }

    fn close(&mut self, now: Instant) -> Transition {
        self.turn(State::Closed {
            since: Some(now),
            ramp: Ramp::new(now, self.config.ramp),
        });
        Transition::Closed
    }

    /// Begins a generation.
    fn turn(&mut self, state: State) {
        self.generation.0 += 1;
        self.state = state;
        self.counts = Counts::new();
    }
}

const fn refused(retry_after: Option<Duration>) -> Admission {
    Admission::Rejected {
        retry_after,
        transition: None,
    }
}
