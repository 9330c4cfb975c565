//! The states of a circuit and what leads from one to another.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    Admission, BreakerConfig, BreakerSnapshot, BreakerState, Generation, Permit, Transition,
    Verdict, window::Window,
};

/// The share of calls that the ramp begins with.
const RAMP_START: f64 = 0.1;

/// The ramp lets one call through this often, so that a program that calls once in a while is not refused after the
/// outage is over.
const RAMP_FLOOR: Duration = Duration::from_secs(1);

/// When to ask again while the probes are out: they mostly take seconds.
const PROBE_WAIT: Duration = Duration::from_secs(1);

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
    generation: Generation,
    state: State,
    /// Instants of the last failures since the last success.
    failures: VecDeque<Instant>,
    window: Option<Box<Window>>,
    /// Openings in a row.
    opens: u32,
}

#[derive(Clone, Debug)]
enum State {
    Closed {
        /// Not known before the first opening.
        since: Option<Instant>,
        ramp: Option<Ramp>,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        successes: u32,
        leases: Vec<Lease>,
        next: u64,
    },
    ForcedOpen,
    ForcedClosed,
}

#[derive(Clone, Copy, Debug)]
struct Ramp {
    /// How long it takes.
    length: Duration,
    last_pass: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: u64,
    since: Instant,
    sent: bool,
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
            failures: VecDeque::new(),
            window: None,
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
            return Admission::Refused {
                retry_after: self.remaining(now),
                transition: Some(transition),
            };
        }
        if let State::Open { until } = self.state
            && until <= now
        {
            self.state = State::HalfOpen {
                successes: 0,
                leases: Vec::new(),
                next: 0,
            };
        }
        match &mut self.state {
            State::Closed { since, ramp } => match climb(*since, ramp, now, chance) {
                None => self.pass(now, None),
                retry_after => refused(retry_after),
            },
            State::HalfOpen { leases, next, .. } => {
                if leases.len() >= self.config.probes.get() as usize {
                    return refused(Some(PROBE_WAIT));
                }
                let id = *next;
                *next += 1;
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
        permit.since = now;
        if let Some(lease) = self.lease_of(permit) {
            lease.since = now;
            lease.sent = true;
        }
    }

    /// Whether the permit still counts. A probe that has waited for its turn for as long as a lease has lost its place
    /// to another and must not be sent; nobody is blamed for it.
    pub fn holds(&mut self, permit: &Permit) -> bool {
        !permit.is_probe() || self.lease_of(permit).is_some()
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
            verdict == Verdict::Success && now.saturating_duration_since(permit.since) >= rate.slow
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
        let State::Closed { since, ramp: None } = self.state else {
            return false;
        };
        let long_closed = since.is_none_or(|since| self.is_forgotten(since, now));
        let counts = self
            .failures
            .back()
            .is_some_and(|last| now.saturating_duration_since(*last) <= self.config.within);
        let rates = self
            .window
            .as_ref()
            .is_some_and(|window| !window.is_over(now));
        long_closed && !counts && !rates
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> BreakerSnapshot {
        let (state, probes, successes) = match &self.state {
            State::Closed { since, ramp } => {
                let ramps = ramp.is_some_and(|ramp| {
                    since.is_some_and(|since| now.saturating_duration_since(since) < ramp.length)
                });
                let state = if ramps {
                    BreakerState::Ramping
                } else {
                    BreakerState::Closed
                };
                (state, 0, 0)
            }
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
            failures: self.failures.len(),
            retry_after: self.remaining(now),
            probes,
            successes,
        }
    }

    const fn pass(&self, now: Instant, probe: Option<u64>) -> Admission {
        Admission::Pass(Permit {
            generation: self.generation,
            probe,
            since: now,
        })
    }

    fn remaining(&self, now: Instant) -> Option<Duration> {
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
        let retry_after = match verdict {
            Verdict::Success => {
                self.failures.clear();
                None
            }
            Verdict::Failure { retry_after } => {
                let most = self.config.failures.get() as usize;
                if self.failures.len() >= most {
                    self.failures.pop_front();
                }
                self.failures.push_back(now);
                if self.failures.len() >= most
                    && let Some(first) = self.failures.front()
                    && now.saturating_duration_since(*first) <= self.config.within
                {
                    return Some(self.open(now, retry_after, chance));
                }
                retry_after
            }
            Verdict::Fatal { retry_after } => return Some(self.open(now, retry_after, chance)),
            Verdict::Busy { .. } | Verdict::Alive | Verdict::Ignored => return None,
        };
        let failed = verdict != Verdict::Success;
        self.rate_is_reached(now, failed, slow)
            .then(|| self.open(now, retry_after, chance))
    }

    fn rate_is_reached(&mut self, now: Instant, failed: bool, slow: bool) -> bool {
        let BreakerConfig {
            failure_rate,
            slow_calls,
            ..
        } = self.config;
        if failure_rate.is_none() && slow_calls.is_none() {
            return false;
        }
        let window = self
            .window
            .get_or_insert_with(|| Box::new(Window::new(now)));
        window.record(now, failed, slow);
        if !failed && !slow {
            return false;
        }
        let counts = window.sum();
        failure_rate
            .is_some_and(|rate| counts.reach(counts.failed, rate.min_calls.get(), rate.share))
            || slow_calls
                .is_some_and(|rate| counts.reach(counts.slow, rate.min_calls.get(), rate.share))
    }

    fn is_forgotten(&self, closed: Instant, now: Instant) -> bool {
        now.saturating_duration_since(closed) >= self.config.forget_after
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
        let ramp = self.config.ramp.filter(|ramp| !ramp.is_zero());
        self.turn(State::Closed {
            since: Some(now),
            ramp: ramp.map(|length| Ramp {
                length,
                last_pass: now,
            }),
        });
        Transition::Closed
    }

    /// Begins a generation.
    fn turn(&mut self, state: State) {
        self.generation.0 += 1;
        self.state = state;
        self.failures.clear();
        self.window = None;
    }
}

const fn refused(retry_after: Option<Duration>) -> Admission {
    Admission::Refused {
        retry_after,
        transition: None,
    }
}

/// Lets a call pass (`None`), or tells it when the ramp would have reached it. That spreads those who come back.
fn climb(
    since: Option<Instant>,
    ramp: &mut Option<Ramp>,
    now: Instant,
    chance: f64,
) -> Option<Duration> {
    let (Some(since), Some(climbing)) = (since, ramp.as_mut()) else {
        return None;
    };
    let passed = now.saturating_duration_since(since);
    if passed >= climbing.length {
        *ramp = None;
        return None;
    }
    let its_share = ((chance - RAMP_START) / (1.0 - RAMP_START)).clamp(0.0, 1.0);
    let its_time = climbing.length.mul_f64(its_share);
    if its_time <= passed || now.saturating_duration_since(climbing.last_pass) >= RAMP_FLOOR {
        climbing.last_pass = now;
        return None;
    }
    Some(its_time - passed)
}
