//! Strategies that choose a target.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use tower_claude_core::{Class, driver::Reroute, toolkit::Prefix};
use tower_claude_fake_claude::model::CacheTokens;
use tower_claude_spread::{
    Choice, Conversation as Hashes, Lease, Skip, SpreadOptions, SpreadRequest, Spreader, Tried,
};
use tower_claude_wire::{RateCard, RateLimits, Usage};

use super::{
    load::Conversation,
    server::{POOLS, TARGETS, targets},
};
use crate::units::{MINUTE, SECOND};

/// The time for which the others leave out a target that has failed.
const COOL_DOWN: u64 = 5 * SECOND;
/// The lifetime of a pin, that of a cached prefix.
const PIN: u64 = 5 * MINUTE;

/// A way to choose a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrategyKind {
    Random,
    /// Random, by the sizes of the pools.
    Weighted,
    /// Of two random ones that with fewer requests in flight, for its pool.
    PowerOfTwo,
    /// That which last served the longest prefix, or else by weight.
    Sticky,
    Ours,
}

pub(crate) const STRATEGIES: [StrategyKind; 5] = [
    StrategyKind::Random,
    StrategyKind::Weighted,
    StrategyKind::PowerOfTwo,
    StrategyKind::Sticky,
    StrategyKind::Ours,
];

impl StrategyKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Weighted => "weighted",
            Self::PowerOfTwo => "p2c",
            Self::Sticky => "sticky",
            Self::Ours => "ours",
        }
    }
}

/// The state of one call.
#[derive(Debug)]
pub(crate) struct CallState {
    tried: [Tried; TARGETS],
    request: Option<SpreadRequest>,
    lease: Option<Lease>,
}

/// The next step of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Send(usize),
    /// Choose again at this time.
    Wait(u64),
    GiveUp,
}

/// A strategy in one run.
#[derive(Debug)]
pub(crate) struct Strategy {
    kind: StrategyKind,
    rng: fastrand::Rng,
    spreader: Spreader,
    zero: Instant,
    in_flight: [u64; TARGETS],
    /// The end of the cool-down of each target.
    down: [u64; TARGETS],
    /// The target that last served a prefix, and when.
    pins: HashMap<u64, (usize, u64)>,
}

/// The prices of a large model.
pub(crate) const RATES: RateCard = RateCard::new(5_000, 25_000);

impl Strategy {
    pub(crate) fn new(kind: StrategyKind, rng: fastrand::Rng) -> Self {
        Self {
            kind,
            rng,
            spreader: Spreader::new(SpreadOptions::default(), targets().into()),
            zero: Instant::now(),
            in_flight: [0; TARGETS],
            down: [0; TARGETS],
            pins: HashMap::new(),
        }
    }

    fn instant(&self, now: u64) -> Instant {
        self.zero + Duration::from_nanos(now)
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.zero).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// Starts a call.
    pub(crate) fn call(&self, conversation: &Conversation, turn: usize) -> CallState {
        let request = (self.kind == StrategyKind::Ours).then(|| {
            let blocks = conversation.prompt(turn);
            let last = blocks.len() - 1;
            let prefix = |(at, block): (usize, &_)| {
                let block: &tower_claude_fake_claude::model::CacheBlock = block;
                Prefix {
                    hash: block.prefix,
                    bytes: block.tokens * 4,
                    // The system prompt, the first message and the end.
                    keep: (at < 2 || at == last).then_some(Duration::from_secs(300)),
                    joins: false,
                }
            };
            let prefixes = blocks.iter().enumerate().map(prefix).collect();
            let earlier = conversation.turns[..turn].iter().rev();
            let thinking = earlier.map(|turn| blocks[turn.blocks - 1].prefix);
            let hashes = Hashes::new(conversation.key, prefixes, thinking.collect());
            let tokens = blocks[last].tokens as f64 * conversation.estimate;
            let name = if conversation.is_bound {
                "bound"
            } else {
                "free"
            };
            let mut request = SpreadRequest::new(name, RATES, tokens as u64, hashes);
            // Both models share the pools.
            request.group = "models".into();
            request.binds_account = conversation.is_bound;
            request
        });
        CallState {
            tried: [Tried::No; TARGETS],
            request,
            lease: None,
        }
    }

    /// Chooses the target of an attempt.
    pub(crate) fn choose(
        &mut self,
        call: &mut CallState,
        conversation: &Conversation,
        turn: usize,
        now: u64,
    ) -> Step {
        let step = match &call.request {
            Some(request) => {
                let at = self.instant(now);
                let latest = at + Duration::from_secs(60);
                let mut skipped = Vec::new();
                let tried = &call.tried;
                match self
                    .spreader
                    .choose(request, tried, &mut skipped, latest, at)
                {
                    Choice::Send(lease) => {
                        let target = lease.target();
                        call.lease = Some(lease);
                        Step::Send(target)
                    }
                    Choice::Wait { until } => Step::Wait(self.nanos(until)),
                    _ => Step::GiveUp,
                }
            }
            None => Step::Send(self.other(call, conversation, turn, now)),
        };
        if let Step::Send(target) = step {
            self.in_flight[target] += 1;
        }
        step
    }

    /// Returns the choice of the other strategies.
    fn other(
        &mut self,
        call: &CallState,
        conversation: &Conversation,
        turn: usize,
        now: u64,
    ) -> usize {
        let untried = |target: &usize| call.tried[*target] == Tried::No;
        let mut open: Vec<usize> = (0..TARGETS)
            .filter(|target| untried(target) && self.down[*target] <= now)
            .collect();
        if open.is_empty() {
            open = (0..TARGETS).filter(untried).collect();
        }
        if open.is_empty() {
            open = (0..TARGETS).collect();
        }
        if self.kind == StrategyKind::Sticky {
            let blocks = conversation.prompt(turn).iter().rev();
            let pinned = blocks.take(20).find_map(|block| {
                let (target, at) = self.pins.get(&block.prefix)?;
                (now < at + PIN && open.contains(target)).then_some(*target)
            });
            if let Some(target) = pinned {
                return target;
            }
        }
        match self.kind {
            StrategyKind::Random => open[self.rng.usize(..open.len())],
            StrategyKind::PowerOfTwo => {
                let a = open[self.rng.usize(..open.len())];
                let b = open[self.rng.usize(..open.len())];
                let load = |target: usize| self.in_flight[target] as f64 / POOLS[target] as f64;
                if load(a) <= load(b) { a } else { b }
            }
            _ => {
                let sum: u64 = open.iter().map(|target| POOLS[*target]).sum();
                let mut drawn = self.rng.u64(..sum);
                for target in &open {
                    if drawn < POOLS[*target] {
                        return *target;
                    }
                    drawn -= POOLS[*target];
                }
                open[0]
            }
        }
    }

    /// Records a failure. Returns the wait before another attempt, in seconds.
    pub(crate) fn fail(
        &mut self,
        call: &mut CallState,
        target: usize,
        class: &Class,
        attempts: u32,
        now: u64,
    ) -> Option<f64> {
        self.in_flight[target] -= 1;
        call.tried[target] = Tried::Failed(Skip::Failed(class.kind));
        let backoff = 0.5 * f64::from(1 << attempts.min(5)) * (0.75 + 0.5 * self.rng.f64());
        let (Some(lease), Some(request)) = (call.lease.take(), &call.request) else {
            let asked = class.retry_after.map_or(COOL_DOWN, |wait| {
                u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)
            });
            self.down[target] = self.down[target].max(now + asked);
            let has_others = call.tried.contains(&Tried::No);
            return Some(if has_others { 0.0 } else { backoff });
        };
        let (at, chance) = (self.instant(now), self.rng.f64());
        self.spreader.on_failure(lease, class, false, at, chance);
        match self.spreader.next(request, &call.tried, at) {
            Reroute::AtOnce => Some(0.0),
            Reroute::After(wait) if wait > Duration::ZERO => Some(wait.as_secs_f64()),
            Reroute::After(_) => Some(backoff),
            _ => None,
        }
    }

    /// Records the head of a success.
    pub(crate) fn answered(
        &mut self,
        call: &CallState,
        target: usize,
        conversation: &Conversation,
        turn: usize,
        limits: Option<&RateLimits>,
        now: u64,
    ) {
        let at = self.instant(now);
        if let Some(lease) = &call.lease {
            self.spreader.on_success(lease, at);
            self.spreader.on_first_content(lease, at);
            if let Some(limits) = limits {
                self.spreader.on_limits(lease, limits, at);
            }
        }
        if self.kind == StrategyKind::Sticky
            && let Some(last) = conversation.prompt(turn).last()
        {
            self.pins.insert(last.prefix, (target, now));
        }
    }

    /// Records the end of a response.
    pub(crate) fn end(
        &mut self,
        call: &mut CallState,
        target: usize,
        tokens: CacheTokens,
        total: u64,
        output: u64,
        now: u64,
    ) {
        self.in_flight[target] -= 1;
        let at = self.instant(now);
        if let Some(lease) = call.lease.take() {
            let mut usage = Usage::default();
            usage.input_tokens = Some(total - tokens.read - tokens.written());
            usage.cache_read_input_tokens = Some(tokens.read);
            usage.cache_creation_input_tokens = Some(tokens.written());
            usage.output_tokens = Some(output);
            self.spreader.on_end(lease, Some(&usage), at);
        }
    }
}
