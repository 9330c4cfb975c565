//! The savings of a layer at one moment.

use std::time::Duration;

use tower_claude_wire::Money;

use crate::{history::ClassSnapshot, miss::MissCause, planner::Learned, usage::CacheUsage};

/// The state of a layer at one moment. Counters start when the layer is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PromptCacheSnapshot {
    /// The number of requests that were planned. Prompts that are too short are not.
    pub requests: u64,
    /// The number of requests that got markers.
    pub marked: u64,
    /// The number of requests that waited at the gate.
    pub held: u64,
    /// The sum of their waits.
    pub waited: Duration,
    /// The number of requests that wait now.
    pub waiting: usize,
    /// The input tokens of finished requests with markers.
    pub usage: CacheUsage,
    /// The price without a cache, less the price with it. Negative for a loss. By the list prices
    /// of the Claude API, without surcharges for a region.
    pub saved: Money,
    /// The input tokens that did not count against the limit, because they were read.
    pub unlimited_tokens: u64,
    /// The misses by their causes.
    pub misses: MissCounts,
    /// The number of requests that renewed a prefix. Their price is taken from `saved`.
    pub renewals: u64,
    /// The number of prefixes that are kept alive now.
    pub kept_alive: usize,
    /// The number of prefixes that are known.
    pub known_prefixes: usize,
    /// The classes of markers, those with the greatest savings or losses first.
    pub classes: Vec<ClassSnapshot>,
}

/// The numbers of cache misses by their causes. See [`MissCause`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissCounts {
    /// A tool has changed.
    pub tools_changed: u64,
    /// The system prompt has changed.
    pub system_changed: u64,
    /// A message before the new ones has changed.
    pub messages_changed: u64,
    /// The tools came in another order.
    pub tool_order: u64,
    /// A setting has changed.
    pub settings: u64,
    /// The lifetime was over.
    pub expired: u64,
    /// The prefix was too short.
    pub too_short: u64,
    /// The server did not read an entry that should be alive.
    pub server: u64,
}

impl MissCounts {
    fn add(&mut self, cause: MissCause) {
        use tower_claude_wire::PromptPart;
        let count = match cause {
            MissCause::Changed { part, .. } => match part {
                PromptPart::Tools => &mut self.tools_changed,
                PromptPart::System => &mut self.system_changed,
                PromptPart::Messages => &mut self.messages_changed,
            },
            MissCause::ToolOrder => &mut self.tool_order,
            MissCause::Settings => &mut self.settings,
            MissCause::Expired => &mut self.expired,
            MissCause::TooShort => &mut self.too_short,
            MissCause::Server => &mut self.server,
        };
        *count += 1;
    }
}

impl PromptCacheSnapshot {
    pub(crate) fn add(&mut self, usage: &CacheUsage, learned: &Learned) {
        self.usage.add(usage);
        self.saved += learned.saved;
        self.unlimited_tokens = self.unlimited_tokens.saturating_add(usage.read);
        if let Some(cause) = learned.miss {
            self.misses.add(cause);
        }
    }
}
