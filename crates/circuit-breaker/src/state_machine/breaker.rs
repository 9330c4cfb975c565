//! The states of a circuit and the transitions between them.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

use super::{
    config::BreakerConfig,
    counter::OutcomeCounter,
    outcome::CircuitOutcome,
    permit::{Admission, Generation, Origin, Permit, Transition},
    ramp::Ramp,
    snapshot::{BreakerSnapshot, BreakerState},
};

/// The `retry-after` while all probes are out. Probes mostly take seconds.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// The number of 401s in a row that open the circuit of a key that has worked.
const DOUBTS: u32 = 2;

/// The time without an outcome of any probe after which another is admitted.
const PROBE_PATIENCE: Duration = Duration::from_secs(60);

/// The shortest time for which an unused circuit that is not closed is kept.
const ABANDONED: Duration = Duration::from_secs(60);

/// The state machine of one circuit.
///
/// A closed circuit counts failures. Enough failures open it, and it rejects all calls until the
/// cool-down is over. Then it is half-open: the next calls are probes, and the others are rejected.
/// Enough successful probes close it. A failed probe opens it again, for longer.
///
/// A probe holds a lease. The lease ends with an outcome, or without an outcome if the call is
/// given up ([`CircuitOutcome::Ignored`]). A probe that is sent and does neither within the
/// [lease](BreakerConfig::with_attempt_timeout) has failed, so a circuit never stays half-open. If
/// no probe has an outcome for a minute, as when its caller does not poll it, another is admitted.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    config: BreakerConfig,
    pub(super) generation: Generation,
    pub(super) state: State,
    pub(super) counter: OutcomeCounter,
    /// The number of openings in a row.
    pub(super) opens: u32,
}

/// A state of a circuit.
#[derive(Clone, Debug)]
pub(super) enum State {
    Closed {
        /// Absent before the first opening.
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

/// The place of a probe that is out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) id: NonZeroU64,
    pub(super) since: Instant,
    pub(super) sent: bool,
}

impl Breaker {
    /// Creates a closed circuit.
    pub(crate) const fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            generation: Generation(0),
            state: State::Closed {
                since: None,
                ramp: None,
            },
            counter: OutcomeCounter::new(),
            opens: 0,
        }
    }

    /// Admits or rejects a call at `now`. `chance` is drawn from `0.0..1.0` for this call.
    pub(crate) fn admit(&mut self, now: Instant, chance: f64) -> Admission {
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
                match ramp.as_mut().and_then(|ramp| ramp.try_pass(now, chance)) {
                    None => self.pass(now, None),
                    retry_after => rejected(retry_after),
                }
            }
            State::HalfOpen { leases, next, .. } => {
                let newest = leases.iter().map(|lease| lease.since).max();
                let is_hung = newest
                    .is_some_and(|since| now.saturating_duration_since(since) > PROBE_PATIENCE);
                if leases.len() >= self.config.probes.get() as usize && !is_hung {
                    return rejected(Some(PROBE_WAIT));
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
            State::Open { until } => rejected(Some(until.saturating_duration_since(now))),
            State::ForcedOpen => rejected(None),
            State::ForcedClosed => self.pass(now, None),
        }
    }

    /// Returns the generation while no call can be rejected and no success changes anything.
    /// Callers can cache this value, admit calls by [`Permit::fast_path`], and skip the lock for
    /// both.
    pub(crate) fn fast_path_generation(&self) -> Option<Generation> {
        let has_rates = self.config.failure_rate.is_some() || self.config.slow_calls.is_some();
        let closed = matches!(self.state, State::Closed { ramp: None, .. });
        (closed && !has_rates && self.counter.failures() == 0).then_some(self.generation)
    }

    /// Records that the request is sent. The lease of a probe and the time of a call start here,
    /// because a request may wait in the queue of a limiter before.
    pub(crate) fn sent(&mut self, now: Instant, permit: &mut Permit) {
        permit.since = Some(now);
        if permit.generation() == self.generation {
            if permit.is_sent {
                self.counter.leave(permit.origin.position);
            }
            permit.is_sent = true;
            permit.origin.position = self.counter.enter();
        }
        if let Some(lease) = self.lease_of(permit) {
            lease.since = now;
            lease.sent = true;
        }
    }

    /// Returns true if a call that was admitted and not sent yet may be sent. Returns false if the
    /// probe's lease expired, or the circuit changed its generation, while the call was queued. Not
    /// counted as a failure.
    pub(crate) fn is_valid(&self, permit: &Permit) -> bool {
        permit.generation() == self.generation
            && match &self.state {
                State::HalfOpen { leases, .. } => {
                    leases.iter().any(|lease| Some(lease.id) == permit.probe)
                }
                _ => true,
            }
    }

    /// Records the outcome of a call. Permits of an earlier generation and probes whose lease has
    /// run out are ignored. `in_flight` other calls have been sent and have no outcome. `chance` is
    /// drawn from `0.0..1.0` and varies the cool-down.
    // By value, because a permit is used once.
    #[allow(clippy::needless_pass_by_value)]
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        permit: Permit,
        outcome: CircuitOutcome,
        in_flight: u32,
        chance: f64,
    ) -> Option<Transition> {
        if permit.generation() != self.generation {
            return None;
        }
        let slow = self.config.slow_calls.is_some_and(|rate| {
            let took = permit
                .since
                .map(|since| now.saturating_duration_since(since));
            outcome == CircuitOutcome::Success && took.is_some_and(|took| took >= rate.slow)
        });
        if permit.is_sent {
            self.counter.leave(permit.origin.position);
        }
        match &mut self.state {
            State::Closed { .. } => {
                let position = (permit.origin.position, in_flight);
                self.count(now, position, outcome, slow, chance)
            }
            State::HalfOpen {
                successes, leases, ..
            } => {
                let place = leases
                    .iter()
                    .position(|lease| Some(lease.id) == permit.probe)?;
                leases.swap_remove(place);
                match outcome {
                    CircuitOutcome::Success | CircuitOutcome::Alive if !slow => {
                        *successes += 1;
                        let enough = *successes >= self.config.successes.get();
                        enough.then(|| self.close(now))
                    }
                    CircuitOutcome::Success | CircuitOutcome::Alive => {
                        Some(self.open(now, None, chance))
                    }
                    CircuitOutcome::Failure { retry_after }
                    | CircuitOutcome::Busy { retry_after }
                    | CircuitOutcome::Fatal { retry_after }
                    | CircuitOutcome::Doubtful { retry_after } => {
                        Some(self.open(now, retry_after, chance))
                    }
                    CircuitOutcome::Broken => Some(self.open(now, None, chance)),
                    CircuitOutcome::Ignored => None,
                }
            }
            State::Open { .. } | State::ForcedOpen | State::ForcedClosed => None,
        }
    }

    /// Records that a stream of this origin failed after its content had begun. The call was
    /// settled as a success before, so this is a second outcome.
    pub(crate) fn stream_failed(
        &mut self,
        now: Instant,
        origin: Origin,
        outcome: CircuitOutcome,
        in_flight: u32,
        chance: f64,
    ) -> Option<Transition> {
        if origin.generation != self.generation {
            return None;
        }
        let retry_after = match outcome {
            CircuitOutcome::Failure { retry_after } | CircuitOutcome::Fatal { retry_after } => {
                retry_after
            }
            CircuitOutcome::Broken => None,
            _ => return None,
        };
        match self.state {
            State::Closed { .. } => {
                let position = (origin.position, in_flight);
                self.count(now, position, outcome, false, chance)
            }
            State::HalfOpen { .. } => Some(self.open(now, retry_after, chance)),
            _ => None,
        }
    }

    /// Rejects every call until the state is set again.
    pub(crate) fn force_open(&mut self) {
        self.transition_to(State::ForcedOpen);
    }

    /// Admits every call and counts nothing until the state is set again.
    pub(crate) fn force_close(&mut self) {
        self.transition_to(State::ForcedClosed);
    }

    /// Ends manual control with a closed circuit that has no history.
    pub(crate) fn resume_automatic(&mut self) {
        self.opens = 0;
        self.transition_to(State::Closed {
            since: None,
            ramp: None,
        });
    }

    /// Closes a circuit that is open, half-open or ramping, without history. Returns false if it is
    /// in another state.
    pub(crate) fn reset(&mut self) -> bool {
        let resets = match self.state {
            State::Open { .. } | State::HalfOpen { .. } => true,
            State::Closed { ramp, .. } => ramp.is_some(),
            State::ForcedOpen | State::ForcedClosed => false,
        };
        if resets {
            self.resume_automatic();
        }
        resets
    }

    /// Returns true if the circuit can be evicted: nothing that it has counted can matter any more.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        match &self.state {
            State::Closed { since, ramp } => {
                let ramping = ramp.is_some_and(|ramp| !ramp.is_over(now));
                let long_closed = since.is_none_or(|since| self.is_forgotten(since, now));
                !ramping && long_closed && self.counter.is_stale(&self.config, now)
            }
            State::Open { until } => self.is_abandoned(*until, now),
            State::HalfOpen { since, leases, .. } => {
                leases.is_empty() && self.is_abandoned(*since, now)
            }
            State::ForcedOpen | State::ForcedClosed => false,
        }
    }

    /// Returns the state at `now`.
    pub(crate) fn snapshot(&self, now: Instant) -> BreakerSnapshot {
        let (state, probes, successes) = match &self.state {
            State::Closed {
                ramp: Some(ramp), ..
            } if !ramp.is_over(now) => (BreakerState::Ramping, 0, 0),
            State::Closed { .. } => (BreakerState::Closed, 0, 0),
            State::Open { until } if *until > now => (BreakerState::Open, 0, 0),
            State::Open { .. } => (BreakerState::HalfOpen, 0, 0),
            State::HalfOpen {
                successes, leases, ..
            } => (BreakerState::HalfOpen, leases.len(), *successes),
            State::ForcedOpen => (BreakerState::ForcedOpen, 0, 0),
            State::ForcedClosed => (BreakerState::ForcedClosed, 0, 0),
        };
        BreakerSnapshot {
            state,
            opens: self.opens,
            failures: self.counter.failures(),
            retry_after: self.remaining(now),
            probes,
            successes,
        }
    }

    fn pass(&mut self, now: Instant, probe: Option<NonZeroU64>) -> Admission {
        Admission::Pass(Permit {
            origin: Origin {
                generation: self.generation,
                position: self.counter.position(),
            },
            probe,
            is_sent: false,
            since: Some(now),
        })
    }

    fn remaining(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until } => Some(until.saturating_duration_since(now)),
            _ => None,
        }
    }

    /// Ends the leases that have run out. A probe that was sent has failed then.
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
            State::HalfOpen { leases, .. } if permit.generation() == self.generation => leases
                .iter_mut()
                .find(|lease| Some(lease.id) == permit.probe),
            _ => None,
        }
    }

    /// Counts an outcome while the circuit is closed. `position` is that of the call, with the
    /// number of other calls in flight.
    fn count(
        &mut self,
        now: Instant,
        position: (u64, u32),
        outcome: CircuitOutcome,
        slow: bool,
        chance: f64,
    ) -> Option<Transition> {
        let (config, counter) = (&self.config, &mut self.counter);
        let rule = (config.failures.get(), config.within);
        let (rule, retry_after) = match outcome {
            CircuitOutcome::Success => {
                let opens = counter.success(config, now, slow);
                return opens.then(|| self.open(now, None, chance));
            }
            CircuitOutcome::Failure { retry_after } => (rule, retry_after),
            CircuitOutcome::Broken => (rule, None),
            CircuitOutcome::Doubtful { retry_after } => ((DOUBTS, Duration::MAX), retry_after),
            CircuitOutcome::Fatal { retry_after } => {
                return Some(self.open(now, retry_after, chance));
            }
            CircuitOutcome::Busy { .. } | CircuitOutcome::Alive | CircuitOutcome::Ignored => {
                return None;
            }
        };
        let count = counter.failure(config, now, position, outcome.is_incident(), rule);
        let is_same_break = count.is_same && outcome == CircuitOutcome::Broken;
        let over_rate = !is_same_break && counter.failure_rate(config, now);
        (count.in_a_row || over_rate).then(|| self.open(now, retry_after, chance))
    }

    fn is_forgotten(&self, closed: Instant, now: Instant) -> bool {
        now.saturating_duration_since(closed) >= self.config.forget_after
    }

    /// Returns true if the circuit was not used for a long time, even if a closed circuit is
    /// forgotten at once.
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
        // If the instant overflows, fall back to one hour.
        let until = now
            .checked_add(cool_down)
            .unwrap_or_else(|| now + Duration::from_secs(3600));
        self.transition_to(State::Open { until });
        Transition::Opened {
            cool_down,
            opens: self.opens,
        }
    }

    fn close(&mut self, now: Instant) -> Transition {
        self.transition_to(State::Closed {
            since: Some(now),
            ramp: Ramp::new(now, self.config.ramp),
        });
        Transition::Closed
    }

    /// Changes the state and begins a generation.
    fn transition_to(&mut self, state: State) {
        self.generation.0 += 1;
        self.state = state;
        self.counter = OutcomeCounter::new();
    }
}

const fn rejected(retry_after: Option<Duration>) -> Admission {
    Admission::Rejected {
        retry_after,
        transition: None,
    }
}
