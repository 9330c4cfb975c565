//! The rate of requests that a server allows, learned from 429s that no header explains.
//!
//! Between two 429s the server has admitted what it has refilled, whatever its bucket or window
//! holds. The requests admitted in between, divided by the time, are therefore its rate. From there
//! the rate rises by a little with each success and falls by a larger part with each 429. In the
//! long run this bounds the 429s to a few per 1,000 successes. The rise quickens while no 429
//! comes, because the limit may have been raised.
//!
//! After a 429 a single request is sent, and the others wait for its fate.

use crate::pool::in_flight::SendSnapshot;

const SECOND: f64 = 1e9;

/// The slowest rate that is learned, in requests per second. It is a guess, which must not reject
/// requests that would wait for long, and the pause after each 429 suffices for slower servers.
const SLOWEST: f64 = 1.0 / 30.0;

/// The part by which a 429 lowers the rate.
const CUT: f64 = 0.015;

/// The successes that are expected between two 429s: of a rate that is new, and at a constant
/// limit. They raise the rate by twice what a 429 lowers it by.
const FIRST_SUCCESSES: f64 = 5.0;
const USUAL_SUCCESSES: f64 = 110.0;

/// The multiple of the expected successes from which on the growth doubles, and the multiple in
/// which it doubles.
const QUICKENS_AFTER: f64 = 1.3;
const QUICKENS_IN: f64 = 0.3;

/// The highest growth by one success, and in a second. What is sent until a 429 arrives is too
/// much.
const MAX_GROWTH: f64 = 0.03;
const MAX_GROWTH_PER_SECOND: f64 = 0.01;

/// The growth by one success after the first 429 and in all, and that of the burst in requests.
const FIRST_GROWTH: f64 = 0.1;
const MAX_FIRST_GROWTH: f64 = 4.0;
const BURST_GROWTH: f64 = 0.1;

/// The seconds in which a 429 arrives. Requests that are sent meanwhile are rejected as well, so a
/// faster rate grows more slowly.
const REJECTION_SECONDS: f64 = 0.1;

/// The successes that are expected of a rate that some 429s have confirmed.
const ESTABLISHED: f64 = 50.0;

/// The least part that is left of a rate: of one that 429s have confirmed, and after the first
/// 429s. And that of a burst.
const LEAST_OF_ESTABLISHED: f64 = 0.7;
const LEAST_OF_LATER: f64 = 0.5;
const LEAST_BURST: f64 = 0.75;

/// The number of the first 429s, which find out the magnitude of the rate.
const FIRST_REJECTIONS: u32 = 6;

/// The growth from which on a count of requests shows less than the server's rate.
const GROWN: f64 = 1.1;

/// The part of the old rate below which a rate is new.
const NEW_BELOW: f64 = 0.95;

/// The part of the expected successes below which a 429 is early, so that the rate may be new, and
/// the fewest successes that are expected then.
const EARLY: f64 = 0.04;
const LEAST_OF_EARLY: f64 = 25.0;

/// The relative deviation of a number of requests, times its root.
const NOISE: f64 = 2.5;
const NOISE_OF_NEW: f64 = 1.2;

/// The requests below which a count shows nothing about a rate that 429s have confirmed.
const FEW: u64 = 4;

/// The requests from which on that deviation matters more than one request.
const MANY: u64 = 16;

/// The weight of a measured rate beside the present one, if they are about the same, and the least
/// weight if they are not.
const CONSISTENT_WEIGHT: f64 = 0.25;
const LEAST_WEIGHT: f64 = 0.7;

/// The longest time for which others wait for a single request after a 429.
const PROBE_FOR: u64 = 1_000_000_000;

/// The time without use of the whole rate in which the rate doubles, and in which it is forgotten.
const DOUBLES_IN: f64 = 3_600.0 * SECOND;
const FORGOTTEN_IN: f64 = 8.0 * DOUBLES_IN;

/// The time in which the most burst is refilled.
const MAX_BURST_SECONDS: f64 = 60.0;

/// The time over which requests are counted before the first 429.
const RECENT: u64 = 10_000_000_000;

/// The fewest incidents in five minutes from which a rate is learned, and the most successes for
/// each 429 beyond the first ones. A server rejects a few requests for other reasons, which say
/// nothing about a rate, and of few requests by chance more than of many.
const FEWEST_INCIDENTS: u32 = 3;
const MOST_SUCCESSES_EACH: u32 = 60;
const BY_CHANCE: u32 = 3;
const EVIDENCE_FOR: u64 = 300_000_000_000;

/// The 429s that no header explains and the successes of five minutes, and half of those before, so
/// that no five minutes begin with few requests. 429s of requests that were sent before the last
/// one arrived are one incident.
#[derive(Debug, Default)]
struct Evidence {
    since: u64,
    rejections: u32,
    incidents: u32,
    successes: u32,
    /// The time at which the last incident began.
    known_at: Option<u64>,
}

impl Evidence {
    /// Records a 429. Returns true if there are enough to show a limit.
    fn on_rejected(&mut self, now: u64, sent_at: u64) -> bool {
        if now.saturating_sub(self.since) >= EVIDENCE_FOR {
            self.since = now;
            self.rejections /= 2;
            self.incidents /= 2;
            self.successes /= 2;
        }
        self.rejections = self.rejections.saturating_add(1);
        if self.known_at.is_none_or(|known_at| sent_at > known_at) {
            self.known_at = Some(now);
            self.incidents += 1;
        }
        self.incidents >= FEWEST_INCIDENTS
            && self.rejections > BY_CHANCE
            && self.successes <= (self.rejections - BY_CHANCE).saturating_mul(MOST_SUCCESSES_EACH)
    }
}

/// The learner of a scope: the recent requests, and the rate once 429s show that there is one.
#[derive(Debug)]
pub(crate) struct RateLearner {
    learned: Option<Box<LearnedRate>>,
    evidence: Evidence,
    /// Time and number of a request at least [`RECENT`] ago, and of a later one.
    before: (u64, u64),
    recent: (u64, u64),
}

impl RateLearner {
    /// Returns a learner without a rate.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            learned: None,
            evidence: Evidence::default(),
            before: (now, 0),
            recent: (now, 0),
        }
    }

    pub(crate) fn learned(&self) -> Option<&LearnedRate> {
        self.learned.as_deref()
    }

    /// Forgets a rate that was not used for long.
    pub(crate) fn advance(&mut self, now: u64) {
        if let Some(learned) = &mut self.learned {
            learned.advance(now);
            if learned.idle >= FORGOTTEN_IN {
                self.learned = None;
            }
        }
    }

    /// Records an admission. `waited` is true if the request was queued.
    pub(crate) fn on_admitted(&mut self, now: u64, number: u64, waited: bool) {
        if now.saturating_sub(self.recent.0) >= RECENT {
            self.before = std::mem::replace(&mut self.recent, (now, number));
        }
        if let Some(learned) = &mut self.learned {
            learned.on_admitted(now, number, waited);
        }
    }

    /// Records that the server took the request of this number.
    pub(crate) fn on_success(&mut self, number: u64) {
        match &mut self.learned {
            Some(learned) => learned.on_success(number),
            None => self.evidence.successes = self.evidence.successes.saturating_add(1),
        }
    }

    /// Records an unexplained 429. The scope is paused until `paused_until`.
    pub(crate) fn on_rejected(&mut self, now: u64, sent: &SendSnapshot, paused_until: u64) {
        if let Some(learned) = &mut self.learned {
            learned.on_rejected(now, sent, paused_until);
            return;
        }
        if !self.evidence.on_rejected(now, sent.at) {
            return;
        }
        let (at, number) = self.before;
        let requests = sent.number.saturating_sub(number).max(1) as f64;
        let seconds = (sent.at.saturating_sub(at) as f64 / SECOND).max(REJECTION_SECONDS);
        let rate = (requests / seconds * LEAST_OF_LATER).max(SLOWEST);
        self.learned = Some(Box::new(LearnedRate {
            rate,
            rate_then: rate,
            burst: (requests / 4.0).max(1.0),
            level: 1.0,
            at: paused_until.max(now),
            now,
            opened_at: now,
            unused: 0.0,
            idle: 0.0,
            was_idle: false,
            is_used: true,
            exhausted: Exhausted {
                at: sent.at,
                known_at: now,
                number: sent.number,
            },
            rejected: 0,
            successes: 0,
            expected: FIRST_SUCCESSES,
            rejections: 0,
            probe: Probe::Due,
        }));
    }
}

/// The last 429 that showed an exhausted limit.
#[derive(Clone, Copy, Debug)]
struct Exhausted {
    /// The time at which its request was sent, and at which the 429 arrived.
    at: u64,
    known_at: u64,
    number: u64,
}

/// The single request after a 429.
#[derive(Clone, Copy, Debug)]
enum Probe {
    /// The next request is the one.
    Due,
    /// Sent, and others wait until this time.
    Sent {
        number: u64,
        until: u64,
    },
    Done,
}

/// A learned rate, with the requests that it allows at once.
#[derive(Debug)]
pub(crate) struct LearnedRate {
    /// Requests per second, now and after the last 429.
    rate: f64,
    rate_then: f64,
    /// The most requests at once after idling.
    burst: f64,
    /// Requests that may be sent, at `at`. That time may be in the future, at the end of a pause.
    level: f64,
    at: u64,
    /// The latest time, and the time since which more than a single request is sent.
    now: u64,
    opened_at: u64,
    /// The nanoseconds for which the rate was not used up, since the last request, and in all since
    /// the last 429.
    unused: f64,
    idle: f64,
    /// The rate was not used up since the last 429, so that the count shows less than the rate.
    was_idle: bool,
    /// The last request waited.
    is_used: bool,
    exhausted: Exhausted,
    /// Rejected requests, and successes, that were sent after the exhausted one.
    rejected: u64,
    successes: u64,
    /// The successes that are expected before the next 429, if the limit stays.
    expected: f64,
    /// The 429s that showed an exhausted limit.
    rejections: u32,
    probe: Probe,
}

impl LearnedRate {
    /// Returns the requests per minute.
    pub(crate) fn per_minute(&self) -> f64 {
        self.rate * 60.0
    }

    pub(crate) const fn burst(&self) -> f64 {
        self.burst
    }

    pub(crate) fn level_at(&self, now: u64) -> f64 {
        let gain = now.saturating_sub(self.at) as f64 / SECOND * self.rate;
        (self.level + gain).min(self.burst)
    }

    /// Returns the earliest time of the next request.
    #[cold]
    pub(crate) fn earliest(&self, now: u64) -> u64 {
        let probed = match self.probe {
            Probe::Sent { until, .. } => until,
            Probe::Due | Probe::Done => now,
        };
        probed.max(now.saturating_add(self.wait(now, 1.0)))
    }

    /// Returns the nanoseconds until so many requests have been allowed.
    pub(crate) fn wait(&self, now: u64, requests: f64) -> u64 {
        let missing = requests - self.level_at(now);
        // Rounded up, and past the rounding of the level.
        let wait = missing / self.rate * SECOND + 1.0;
        if missing <= 0.0 { 0 } else { wait as u64 }
    }

    // Out of line, like all that only 429s without an explanation lead to.
    #[cold]
    fn advance(&mut self, now: u64) {
        self.now = now;
        if now <= self.at {
            return;
        }
        let passed = (now - self.at) as f64;
        let filling = ((self.burst - self.level).max(0.0) / self.rate * SECOND).min(passed);
        self.level = self.level_at(now);
        self.at = now;
        // The wait for a single request is no idling.
        if !matches!(self.probe, Probe::Sent { .. }) {
            self.unused += passed - filling;
        }
        // Nor are a few milliseconds of a timer.
        if self.unused * self.rate > SECOND {
            let idle = std::mem::take(&mut self.unused);
            self.was_idle = true;
            self.idle += idle;
            let factor = (idle / DOUBLES_IN).exp2().min(256.0);
            self.rate *= factor;
            self.burst = (self.burst * factor).min(self.most_burst());
        }
    }

    fn most_burst(&self) -> f64 {
        (self.rate * MAX_BURST_SECONDS).max(1.0)
    }

    #[cold]
    fn on_admitted(&mut self, now: u64, number: u64, waited: bool) {
        self.level = (self.level_at(now) - 1.0).max(-1.0);
        self.at = self.at.max(now);
        self.unused = 0.0;
        self.is_used = waited;
        self.probe = match self.probe {
            Probe::Due => Probe::Sent {
                number,
                until: now.saturating_add(PROBE_FOR),
            },
            Probe::Sent { .. } => {
                self.opened_at = now;
                Probe::Done
            }
            Probe::Done => Probe::Done,
        };
    }

    #[cold]
    fn on_success(&mut self, number: u64) {
        if let Probe::Sent { number: probe, .. } = self.probe
            && number >= probe
        {
            self.probe = Probe::Done;
            self.opened_at = self.now;
        }
        if number <= self.exhausted.number {
            return;
        }
        self.successes += 1;
        if self.rejections == 0 && self.rate < self.rate_then * MAX_FIRST_GROWTH {
            // A single 429 shows that there may be a rate. The next one shows which.
            self.rate *= 1.0 + FIRST_GROWTH;
            self.burst = (self.burst + 1.0).min(self.most_burst());
            return;
        }
        if !self.is_used {
            return;
        }
        let growth = 2.0 * CUT / self.expected / self.rejected_at_once() * self.quickening();
        let growth = growth
            .min(MAX_GROWTH)
            .min(MAX_GROWTH_PER_SECOND / self.rate);
        self.rate *= 1.0 + growth;
        self.burst = (self.burst + BURST_GROWTH).min(self.most_burst());
    }

    /// Returns the number of requests that one exhaustion rejects.
    fn rejected_at_once(&self) -> f64 {
        1.0 + self.rate * REJECTION_SECONDS
    }

    fn quickening(&self) -> f64 {
        let expected = self.expected * self.rejected_at_once();
        let over = self.successes as f64 / expected - QUICKENS_AFTER;
        (over.max(0.0) / QUICKENS_IN).exp2()
    }

    fn on_rejected(&mut self, now: u64, sent: &SendSnapshot, paused_until: u64) {
        self.advance(now);
        let last = self.exhausted;
        if sent.at <= last.known_at {
            // The server was still exhausted when this request arrived.
            self.rejected += u64::from(sent.number > last.number);
            self.at = self.at.max(paused_until);
            return;
        }
        let admitted = sent
            .number
            .saturating_sub(last.number + 1)
            .saturating_sub(self.rejected);
        if admitted == 0 {
            // The single request was rejected as well, which shows nothing about the rate.
            self.rejected += 1;
            self.exhausted.known_at = now;
            self.level = 1.0;
            self.at = paused_until.max(now);
            self.opened_at = self.at;
            self.unused = 0.0;
            self.probe = Probe::Due;
            return;
        }
        let seconds = (sent.at - last.at) as f64 / SECOND;
        let measured = admitted as f64 / seconds;
        let ratio = (measured / self.rate).min(1.0);
        let is_established = self.expected >= ESTABLISHED;
        // A count is right to one request. Requests of different sizes make it vary.
        let count = admitted as f64 + 1.0;
        let error = if is_established {
            (1.5 / count).max(NOISE / count.sqrt())
        } else if admitted >= MANY {
            NOISE_OF_NEW / count.sqrt()
        } else {
            0.7 / count
        };
        // What a small bucket did not take during the pause is missing in the count.
        let open = sent.at.saturating_sub(self.opened_at) as f64 / SECOND / seconds;
        let most = if is_established { 0.7 } else { 0.5 };
        let is_consistent = 1.0 - ratio <= (error + 1.0 - open).min(most);
        let rate = if self.was_idle {
            // What was not used shows nothing, and the burst may be what was too much.
            let drawn = (self.burst - self.level).max(1.0);
            self.burst = (drawn * LEAST_BURST).max(1.0);
            self.rate
        } else if self.rate > self.rate_then * GROWN {
            // A rate that has grown was not exceeded for all of the time. If it is still too high,
            // the next 429 comes soon and shows by how much.
            self.rate
        } else if is_established && admitted < FEW {
            self.rate
        } else if is_consistent {
            self.rate * ratio.powf(CONSISTENT_WEIGHT * open)
        } else {
            let weight = open.max(LEAST_WEIGHT).max(1.0 - ratio);
            let least = if is_established {
                LEAST_OF_ESTABLISHED
            } else if self.rejections >= FIRST_REJECTIONS {
                LEAST_OF_LATER
            } else {
                0.0
            };
            self.rate * ratio.powf(weight).max(least)
        };
        // A rate that falls by more than usual is new, and may be too low.
        self.expected = if rate < self.rate * NEW_BELOW {
            FIRST_SUCCESSES
                .max(admitted as f64)
                .max(self.expected / 3.0)
        } else if (self.successes as f64) < self.expected * EARLY {
            (self.expected / 2.0).max(LEAST_OF_EARLY)
        } else {
            self.expected * 2.0
        };
        self.expected = self.expected.min(USUAL_SUCCESSES);
        self.rate = (rate * (1.0 - CUT)).max(SLOWEST);
        self.rate_then = self.rate;
        self.burst = self.burst.min(self.most_burst());
        self.level = 1.0;
        self.at = paused_until.max(now);
        self.opened_at = self.at;
        self.unused = 0.0;
        self.idle = 0.0;
        self.was_idle = false;
        self.rejected = 0;
        self.successes = 0;
        self.rejections = self.rejections.saturating_add(1);
        self.probe = Probe::Due;
        self.exhausted = Exhausted {
            at: sent.at,
            known_at: now,
            number: sent.number,
        };
    }
}
