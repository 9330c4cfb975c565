//! The planner: all decisions of the layer, without futures.

use std::{collections::HashMap, time::Duration};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_wire::{CacheTtl, Money};

use crate::{
    gate::Gate,
    history::{ClassSnapshot, ExpectedRead, History},
    miss::{Conversations, MissCause},
    options::{Existing, PlannerOptions},
    outline::{Boundary, Outline, OutlineBlock},
    plan::{Plan, classes, plan, readable},
    rules::CacheRules,
    usage::{CacheUsage, nanos},
};

/// The most requests that are followed at a time. Further ones pass untouched.
const MAX_RUNNING: usize = 16_384;

/// The most models whose estimates are corrected.
const MAX_MODELS: usize = 256;

/// The number of sizes of prompts, each twice the one before, by which the time to the first
/// content is learned.
const SIZES: usize = 8;

/// The longest time that [`PlannerOptions::max_hold`] may be.
const LONGEST_HOLD: Duration = Duration::from_secs(3_600);

/// The wait in seconds that is expected before a first content is known.
const UNKNOWN_WAIT: f64 = 1.0;

/// The longest time between the first content of a leader and the release of its followers.
const MAX_SETTLE: Duration = Duration::from_secs(2);

/// The state of a request at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// The request is sent.
    Pass,
    /// The request waits for its leader, at most until this time.
    Follow {
        /// The time of the next call of [`Planner::poll_gate`], unless it is released before.
        until: Instant,
    },
}

/// The result of [`Planner::start`]: the markers of a request, and its state at the gate.
#[derive(Clone, Debug)]
pub struct Started {
    /// The number of the request. `None` if the request is not followed, because its prompt is too
    /// short or there are too many.
    pub id: Option<u64>,
    /// The markers to insert.
    pub plan: Plan,
    /// The state of the request at the gate.
    pub gate: GateState,
}

/// The result of a request with markers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Learned {
    /// The price of the input without a cache, less the price with it. Negative for a loss.
    pub saved: Money,
    /// The cause for which a cached prefix was not read.
    pub miss: Option<MissCause>,
    /// A place whose markers have lost this much over a hundred requests, and which is not marked
    /// for an hour.
    pub switched_off: Option<(Boundary, Money)>,
    /// The hash of a prefix that is worth renewals, and the time after it was sent until which it
    /// is.
    pub(crate) keep_alive: Option<(u64, Instant, Duration)>,
}

/// A prefix with a marker.
#[derive(Clone, Copy, Debug)]
struct MarkedPrefix {
    hash: u64,
    ttl: CacheTtl,
    /// The estimated tokens.
    tokens: u64,
}

/// A request that was sent or waits at the gate.
#[derive(Debug)]
struct Running {
    since: Instant,
    sent_at: Option<Instant>,
    salt: u64,
    streams: bool,
    rules: CacheRules,
    /// The estimated tokens of the prompt, before their correction.
    estimate: u64,
    has_server_tools: bool,
    /// The boundaries of the prompt.
    boundaries: Vec<u64>,
    markers: Vec<MarkedPrefix>,
    /// The markers whose prefixes are not cached, the longest first.
    cold: Vec<u64>,
    expected: Option<ExpectedRead>,
    miss: Option<MissCause>,
    hold: Option<Hold>,
    was_held: bool,
    began: bool,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    until: Instant,
    /// Set when the leader has begun or is gone.
    released_at: Option<Instant>,
}

/// A planner of the markers of requests, which learns from their usage. It is synchronous: each
/// method takes the time.
///
/// Each request goes through [`start`](Self::start), [`poll_gate`](Self::poll_gate) while it
/// follows another one, [`on_first_content`](Self::on_first_content), and
/// [`on_usage`](Self::on_usage) or [`on_dropped`](Self::on_dropped).
#[derive(Debug, Default)]
pub struct Planner {
    options: PlannerOptions,
    history: History,
    conversations: Conversations,
    gate: Gate,
    running: HashMap<u64, Running, RandomState>,
    requests: u64,
    models: HashMap<u64, ModelFacts, RandomState>,
    /// The time between the first content of a leader and the release of its followers.
    settle: Duration,
}

/// Learned facts of a model and credential.
#[derive(Clone, Copy, Debug)]
struct ModelFacts {
    /// Actual tokens per estimated token.
    correction: f64,
    /// The mean time to the first content in seconds, of streams and of other responses, by the
    /// size of the prompt. Long prompts take seconds where others do not.
    first_content: [[Option<f64>; SIZES]; 2],
}

impl ModelFacts {
    /// Returns the mean time to the first content of responses to prompts of this size.
    fn first_content(&mut self, streams: bool, tokens: u64) -> &mut Option<f64> {
        // Below a thousand tokens the size does not matter.
        let doubled = tokens
            .checked_ilog2()
            .map_or(0, |log| log.saturating_sub(9));
        let size = usize::try_from(doubled).unwrap_or(0).min(SIZES - 1);
        &mut self.first_content[usize::from(streams)][size]
    }
}

impl Default for ModelFacts {
    fn default() -> Self {
        Self {
            correction: 1.0,
            first_content: [[None; SIZES]; 2],
        }
    }
}

impl Planner {
    /// Creates a planner without a history.
    #[must_use]
    pub fn new(mut options: PlannerOptions) -> Self {
        options.max_hold = options.max_hold.min(LONGEST_HOLD);
        Self {
            options,
            ..Self::default()
        }
    }

    /// Plans the markers of a request that arrives at `now`, and records it.
    pub fn start(&mut self, outline: &mut Outline, rules: &CacheRules, now: Instant) -> Started {
        let pass = Started {
            id: None,
            plan: Plan::default(),
            gate: GateState::Pass,
        };
        let facts = self.models.get(&outline.salt).copied().unwrap_or_default();
        let estimate = outline.tokens();
        for block in &mut outline.blocks {
            block.tokens = (block.tokens as f64 * facts.correction) as u64;
        }
        let outline = &*outline;
        if outline.tokens() < rules.min_tokens || self.running.len() >= MAX_RUNNING {
            return pass;
        }
        let shares = self.holds(facts, outline, rules);
        self.history.advance(now);
        self.history.observe(outline, shares);
        let leaves = outline.is_marked
            && (self.options.existing == Existing::Leave || outline.has_hidden_markers);
        let mut plan = plan(outline, rules, &self.history, self.options.keeps_alive, now);
        if leaves {
            plan.markers.clear();
        }
        if !shares {
            self.leave_to_leader(&mut plan, outline, now);
        }
        let tail = |block: &OutlineBlock| block.boundary == Some(Boundary::Tail);
        let tail = outline.blocks.iter().rposition(tail);
        let tail = tail.and_then(|at| classes(outline, at));
        let mut boundaries = Vec::new();
        let mut markers: Vec<MarkedPrefix> = Vec::new();
        for (at, block) in outline.blocks.iter().enumerate() {
            let planned = plan.markers.iter().find(|marker| marker.block == at);
            let ttl = planned.map(|marker| marker.ttl).or(block.caller_ttl);
            // A breakpoint of the caller may be anywhere.
            let is_new = ttl.is_some() && !self.history.knows(block.prefix);
            let place = classes(outline, at).or(tail.filter(|_| is_new));
            if let Some(place) = place {
                self.history.begin(block.prefix, place, now);
                boundaries.push(block.prefix);
            }
            if let Some(ttl) = ttl {
                markers.push(MarkedPrefix {
                    hash: block.prefix,
                    ttl,
                    tokens: block.tokens,
                });
            }
        }
        let miss = self.conversations.cause(outline, &self.history, now);
        let last = outline.blocks.iter().rposition(|block| {
            markers
                .last()
                .is_some_and(|marker| marker.hash == block.prefix)
        });
        let is_marked = |block: &OutlineBlock| {
            let mut markers = markers.iter();
            markers.any(|marker| marker.hash == block.prefix)
        };
        let expected = readable(outline, is_marked, |block| {
            self.history.expected(block.prefix, now)
        });
        if let Some(last) = last {
            self.conversations.keep(outline, last, now);
        }
        let is_cold = |marker: &&MarkedPrefix| {
            // Of an unknown prefix it would never be learned that it is cached.
            marker.tokens >= rules.min_tokens
                && self.history.knows(marker.hash)
                && self.history.cached(marker.hash, now).is_none()
        };
        let cold = markers
            .iter()
            .rev()
            .filter(is_cold)
            .map(|marker| marker.hash);
        let cold: Vec<u64> = cold.collect();
        self.requests += 1;
        let id = self.requests;
        let hold = (shares && self.gate.is_led(&cold, id)).then(|| Hold {
            until: now + self.options.max_hold,
            released_at: None,
        });
        let running = Running {
            since: now,
            sent_at: None,
            salt: outline.salt,
            streams: outline.streams,
            rules: *rules,
            estimate,
            has_server_tools: outline.has_server_tools,
            boundaries,
            markers,
            cold,
            expected,
            miss,
            hold,
            was_held: hold.is_some(),
            began: false,
        };
        self.running.insert(id, running);
        let gate = self.poll_gate(id, now);
        Started {
            id: Some(id),
            plan,
            gate,
        }
    }

    /// Returns true if followers wait: the gate is on, first contents come soon enough, and the
    /// wait costs less than a second write.
    fn holds(&self, mut facts: ModelFacts, outline: &Outline, rules: &CacheRules) -> bool {
        let max = self.options.max_hold;
        let known = *facts.first_content(outline.streams, outline.tokens());
        let rates = &rules.rates;
        let saved = nanos(rates.cache_write_5m) - nanos(rates.cache_read);
        let saved = saved.times(outline.tokens()).dollars();
        let wait = known.unwrap_or(UNKNOWN_WAIT);
        !max.is_zero()
            && known.is_none_or(|seconds| seconds <= max.as_secs_f64())
            && saved > wait * self.options.second_price.dollars()
    }

    /// Removes the last markers of a request that does not wait, so far as another request is
    /// writing their prefixes already. A second write would cost the same again.
    fn leave_to_leader(&self, plan: &mut Plan, outline: &Outline, now: Instant) {
        while let Some(marker) = plan.markers.last() {
            let prefix = outline.blocks[marker.block].prefix;
            let is_cold = self.history.cached(prefix, now).is_none();
            if !is_cold || !self.gate.is_led(&[prefix], self.requests + 1) {
                return;
            }
            plan.markers.pop();
        }
    }

    /// Returns the state of a request at the gate. Call it again when the request is released, and
    /// at the time of its state.
    pub fn poll_gate(&mut self, id: u64, now: Instant) -> GateState {
        let Some(running) = self.running.get_mut(&id) else {
            return GateState::Pass;
        };
        if running.sent_at.is_some() {
            return GateState::Pass;
        }
        if let Some(hold) = running.hold
            && now < hold.until
        {
            let settled = hold
                .released_at
                .map(|at| (at + self.settle).min(hold.until));
            if let Some(until) = settled.filter(|until| now < *until) {
                return GateState::Follow { until };
            }
            let history = &self.history;
            running
                .cold
                .retain(|hash| history.cached(*hash, now).is_none());
            if self.gate.follow(&running.cold, id) {
                running.hold = Some(Hold {
                    released_at: None,
                    ..hold
                });
                return GateState::Follow { until: hold.until };
            }
        } else {
            self.gate.leave(&running.cold, id);
        }
        running.hold = None;
        running.sent_at = Some(now);
        let history = &self.history;
        running
            .cold
            .retain(|hash| history.cached(*hash, now).is_none());
        // A prefix that a leader has written in the meantime is read.
        let mut markers = running.markers.iter().rev();
        let warm = markers.find_map(|marker| history.expected(marker.hash, now));
        let known = running.expected.map_or(0, |expected| expected.tokens);
        if let Some(warm) = warm.filter(|warm| warm.tokens > known) {
            running.expected = Some(warm);
        }
        self.gate.lead(&running.cold, id);
        GateState::Pass
    }

    /// Limits the wait of a request at the gate.
    pub(crate) fn limit_hold(&mut self, id: u64, until: Instant) {
        let running = self.running.get_mut(&id);
        if let Some(hold) = running.and_then(|running| running.hold.as_mut()) {
            hold.until = hold.until.min(until);
        }
    }

    /// Records that no limiter keeps the request any longer.
    pub(crate) fn on_sent(&mut self, id: u64, now: Instant) {
        let running = self.running.get_mut(&id);
        if let Some(running) = running.filter(|it| it.sent_at.is_some() && !it.began) {
            running.sent_at = Some(now);
        }
    }

    /// Records the first content of a response, from which on its prefixes can be read. Returns the
    /// followers, which are then polled again.
    pub fn on_first_content(&mut self, id: u64, now: Instant) -> Vec<u64> {
        let Some(running) = self.running.get_mut(&id).filter(|running| !running.began) else {
            return Vec::new();
        };
        running.began = true;
        let sent_at = running.sent_at.unwrap_or(running.since);
        for marker in &running.markers {
            self.history
                .set_cached(marker.hash, marker.ttl, marker.tokens, sent_at);
        }
        for hash in &running.boundaries {
            self.history.end_unread(*hash);
        }
        let seconds = now.saturating_duration_since(sent_at).as_secs_f64();
        let (salt, streams, estimate) = (running.salt, running.streams, running.estimate);
        let mut released = self.gate.release(&running.cold, id);
        // Another leader of the same prefix may hang.
        let written = running.markers.iter().map(|marker| marker.hash);
        released.extend(self.gate.release_all(written));
        let facts = self.facts(salt);
        let tokens = (estimate as f64 * facts.correction) as u64;
        let mean = facts.first_content(streams, tokens);
        *mean = Some(mean.map_or(seconds, |mean| mean + (seconds - mean) / 8.0));
        self.release(released, now)
    }

    fn release(&mut self, followers: Vec<u64>, now: Instant) -> Vec<u64> {
        for id in &followers {
            if let Some(hold) = self.running.get_mut(id).and_then(|it| it.hold.as_mut()) {
                hold.released_at = Some(now);
            }
        }
        followers
    }

    fn facts(&mut self, salt: u64) -> &mut ModelFacts {
        if self.models.len() >= MAX_MODELS && !self.models.contains_key(&salt) {
            self.models.clear();
        }
        self.models.entry(salt).or_default()
    }

    /// Records the usage of a response that has ended. Call
    /// [`on_first_content`](Self::on_first_content) before.
    pub fn on_usage(&mut self, id: u64, usage: &CacheUsage, now: Instant) -> Option<Learned> {
        let running = self.running.remove(&id)?;
        let total = usage.total();
        if running.estimate > 500 && total > 0 && !running.has_server_tools {
            // Of the estimate itself, because many requests may end with the same old correction.
            let ratio = (total as f64 / running.estimate as f64).clamp(0.1, 10.0);
            let correction = &mut self.facts(running.salt).correction;
            *correction += (ratio - *correction) / 4.0;
        }
        let last = running.markers.last()?;
        let written = usage.written_5m.saturating_add(usage.written_1h);
        if !running.has_server_tools {
            let cached = usage.read.saturating_add(written);
            self.history.set_tokens(last.hash, cached);
        }
        let mut learned = Learned {
            saved: usage.saved(&running.rules.rates),
            ..Learned::default()
        };
        if usage.read == 0 && written == 0 {
            for marker in &running.markers {
                self.history.set_uncached(marker.hash);
            }
            learned.miss = Some(MissCause::TooShort);
            return Some(learned);
        }
        let reads = running.expected.is_none_or(|expected| {
            let reads = match expected.counted {
                Some(tokens) => usage.read >= tokens - tokens / 4,
                None => usage.read > 0,
            };
            self.history.record_read(expected.hash, reads, now);
            reads
        });
        if running.was_held {
            self.settle = if reads {
                self.settle.mul_f64(0.9)
            } else {
                (self.settle + Duration::from_millis(250)).min(MAX_SETTLE)
            };
        }
        learned.miss = match (reads, running.miss) {
            (false, _) => Some(MissCause::Server),
            (true, cause) => cause,
        };
        if self.options.keeps_alive && last.ttl == CacheTtl::FiveMinutes {
            let sent_at = running.sent_at.unwrap_or(running.since);
            let chances = self.history.known_chances(last.hash, now);
            let renewals = chances.and_then(|chances| running.rules.renewals(&chances));
            learned.keep_alive = renewals.map(|renewals| (last.hash, sent_at, renewals.until));
        }
        // A read is owed to the class that has written the prefix, a write to that of the last
        // marker.
        let read = usage.read_saving(&running.rules.rates);
        if let Some(expected) = running.expected {
            learned.switched_off = self.history.add_saving(expected.hash, read, None, now);
        }
        let premium = learned.saved - read;
        let off = self
            .history
            .add_saving(last.hash, premium, Some(last.ttl), now);
        learned.switched_off = learned.switched_off.or(off);
        Some(learned)
    }

    /// Records a request that failed, or whose usage will not be known. Returns its followers,
    /// which are then polled again.
    pub fn on_dropped(&mut self, id: u64, now: Instant) -> Vec<u64> {
        let Some(running) = self.running.remove(&id) else {
            return Vec::new();
        };
        if !running.began {
            // Nothing was written, and another attempt is no other use.
            for hash in &running.boundaries {
                self.history.end_unread(*hash);
                self.history.cancel(*hash);
            }
        }
        self.gate.leave(&running.cold, id);
        let released = self.gate.release(&running.cold, id);
        self.release(released, now)
    }

    /// Records that a prefix was renewed by a request that was sent at `since`. `read` is the
    /// number of tokens that the server has read.
    pub(crate) fn on_renewed(&mut self, hash: u64, read: u64, since: Instant) {
        if read > 0 {
            self.history
                .set_cached(hash, CacheTtl::FiveMinutes, read, since);
        } else {
            self.history.set_uncached(hash);
        }
    }

    /// Returns the number of requests that wait at the gate.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }

    /// Returns the number of prefixes that are known.
    #[must_use]
    pub fn known_prefixes(&self) -> usize {
        self.history.len()
    }

    /// Returns the classes of markers with their balance, those with the greatest savings or losses
    /// first.
    #[must_use]
    pub fn classes(&self, now: Instant) -> Vec<ClassSnapshot> {
        self.history.classes(now)
    }
}
