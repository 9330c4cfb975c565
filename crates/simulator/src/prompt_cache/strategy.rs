//! Strategies that place markers.

use std::time::Duration;

use tokio::time::Instant;
use tower_claude_fake_claude::model::{CacheMarker, CacheTokens};
use tower_claude_prompt_cache::{
    CacheRules, CacheUsage, GateState, Outline, Planner, PlannerOptions,
};
use tower_claude_wire::{CacheTtl, PromptPart, RateCard};

use super::{prices::Prices, traffic::Conversation};

/// A way to place markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrategyKind {
    /// No markers.
    Never,
    /// The top-level `cache_control`, which marks the last block.
    Automatic,
    /// A marker at the end of the system prompt, and the automatic one.
    SystemAndAutomatic,
    /// The planner of this project without its gate.
    Ours,
    /// The planner with its gate.
    OursWithGate,
}

/// All strategies, in the order of the table.
pub(crate) const STRATEGIES: [StrategyKind; 5] = [
    StrategyKind::Never,
    StrategyKind::Automatic,
    StrategyKind::SystemAndAutomatic,
    StrategyKind::Ours,
    StrategyKind::OursWithGate,
];

impl StrategyKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Never => "none",
            Self::Automatic => "automatic",
            Self::SystemAndAutomatic => "system + automatic",
            Self::Ours => "ours without gate",
            Self::OursWithGate => "ours",
        }
    }
}

/// A request that the strategy has seen.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The number for the planner.
    pub(crate) id: Option<u64>,
    pub(crate) markers: Vec<CacheMarker>,
    /// The time at which a follower asks again. `None` if the request is sent now.
    pub(crate) wait_until: Option<u64>,
}

/// A strategy in one run.
#[derive(Debug)]
pub(crate) struct Strategy {
    kind: StrategyKind,
    planner: Planner,
    rules: CacheRules,
    /// The instant of the virtual time zero.
    zero: Instant,
}

impl Strategy {
    pub(crate) fn new(kind: StrategyKind, prices: &Prices) -> Self {
        let mut options = PlannerOptions::default();
        if kind != StrategyKind::OursWithGate {
            options.max_hold = Duration::ZERO;
        }
        /// The base price in the unit of a rate card. Any would do.
        const BASE: u64 = 1_000_000;
        let mut rates = RateCard::new(BASE, 5 * BASE);
        let price = |multiple: f64| (multiple * BASE as f64).round() as u64;
        rates.cache_read = price(prices.read);
        rates.cache_write_5m = price(prices.write_5m);
        rates.cache_write_1h = price(prices.write_1h);
        Self {
            kind,
            planner: Planner::new(options),
            rules: CacheRules::new(prices.least_tokens, rates),
            zero: Instant::now(),
        }
    }

    fn instant(&self, now: u64) -> Instant {
        self.zero + Duration::from_nanos(now)
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.zero).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// Plans the markers of a request with the first `end` blocks of a conversation.
    pub(crate) fn start(&mut self, conversation: &Conversation, end: usize, now: u64) -> Planned {
        let marker = |block| CacheMarker {
            block,
            ttl: CacheTtl::FiveMinutes,
        };
        let system = || {
            let blocks = conversation.outline[..end].iter();
            blocks
                .rev()
                .position(|block| block.part < PromptPart::Messages)
        };
        let markers = match self.kind {
            StrategyKind::Never => Vec::new(),
            StrategyKind::Automatic => vec![marker(end - 1)],
            StrategyKind::SystemAndAutomatic => {
                let system = system().map(|from_end| marker(end - 1 - from_end));
                system.into_iter().chain([marker(end - 1)]).collect()
            }
            StrategyKind::Ours | StrategyKind::OursWithGate => {
                return self.plan(conversation, end, now);
            }
        };
        Planned {
            id: None,
            markers,
            wait_until: None,
        }
    }

    fn plan(&mut self, conversation: &Conversation, end: usize, now: u64) -> Planned {
        let mut outline = Outline::new(1, conversation.outline[..end].to_vec());
        let now = self.instant(now);
        let started = self.planner.start(&mut outline, &self.rules, now);
        let markers = started.plan.markers.iter().map(|marker| CacheMarker {
            block: marker.block,
            ttl: marker.ttl,
        });
        Planned {
            id: started.id,
            markers: markers.collect(),
            wait_until: self.wait_until(started.gate),
        }
    }

    fn wait_until(&self, gate: GateState) -> Option<u64> {
        match gate {
            GateState::Pass => None,
            GateState::Follow { until } => Some(self.nanos(until)),
        }
    }

    /// Returns the time at which a follower asks again. `None` if it is sent now.
    pub(crate) fn poll(&mut self, id: u64, now: u64) -> Option<u64> {
        let gate = self.planner.poll_gate(id, self.instant(now));
        self.wait_until(gate)
    }

    /// Records the first content of a response, and returns the followers that ask again.
    pub(crate) fn first_content(&mut self, id: Option<u64>, now: u64) -> Vec<u64> {
        let now = self.instant(now);
        let released = id.map(|id| self.planner.on_first_content(id, now));
        released.unwrap_or_default()
    }

    /// Records the end of a response. `total` are all tokens of the prompt.
    pub(crate) fn end(&mut self, id: Option<u64>, tokens: CacheTokens, total: u64, now: u64) {
        let usage = CacheUsage {
            plain: total - tokens.read - tokens.written(),
            read: tokens.read,
            written_5m: tokens.written_5m,
            written_1h: tokens.written_1h,
        };
        if let Some(id) = id {
            self.planner.on_usage(id, &usage, self.instant(now));
        }
    }
}
