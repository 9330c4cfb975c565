//! The rules of the prompt cache for one model.

use tower_claude_wire::{Model, RateCard};

use crate::reuse::{Chances, PERIOD, Renewals};

/// The rules and prices of the prompt cache for one model.
///
/// Source: <https://platform.claude.com/docs/en/build-with-claude/prompt-caching>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheRules {
    /// The least tokens of a prefix that is cached. The API ignores breakpoints before it.
    pub min_tokens: u64,
    /// The prices of input.
    pub rates: RateCard,
}

impl CacheRules {
    /// The number of positions, backwards from and including a breakpoint, at which the server
    /// looks for a cached prefix.
    pub const LOOK_BACK: u32 = 20;

    /// The most breakpoints of a request.
    pub const MAX_MARKERS: usize = 4;

    /// Creates rules from the least tokens of a cached prefix and the prices of input.
    #[must_use]
    pub const fn new(min_tokens: u64, rates: RateCard) -> Self {
        Self { min_tokens, rates }
    }

    /// Returns the rules of a model of the catalog. `None` if the catalog does not know its minimum
    /// or its prices, because a guess could cost money.
    #[must_use]
    pub fn of(model: &Model) -> Option<Self> {
        let min_tokens = model.capabilities.min_cache_tokens?;
        let rates = model.about.prices.as_ref()?.base;
        (rates.input > 0).then_some(Self { min_tokens, rates })
    }

    /// Returns a price as a multiple of the price of plain input.
    fn multiple(&self, price: u64) -> f64 {
        price as f64 / self.rates.input.max(1) as f64
    }

    /// Returns the price of a read as a multiple of plain input, e.g. 0.1.
    pub(crate) fn read(&self) -> f64 {
        self.multiple(self.rates.cache_read)
    }

    /// Returns the additional price of a write for 5 minutes over plain input, e.g. 0.25.
    pub(crate) fn premium_5m(&self) -> f64 {
        self.multiple(self.rates.cache_write_5m) - 1.0
    }

    /// Returns the additional price of a write for 1 hour over plain input, e.g. 1.
    pub(crate) fn premium_1h(&self) -> f64 {
        self.multiple(self.rates.cache_write_1h) - 1.0
    }

    /// Returns the renewals of a prefix that pay. `None` if none do.
    pub(crate) fn renewals(&self, chances: &Chances) -> Option<Renewals> {
        chances.renewals(self.read(), 1.0 + self.premium_5m(), PERIOD)
    }
}
