//! The input tokens of a response, and their price.

use tower_claude_wire::{Money, RateCard};

/// The input tokens of a response, by their price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Tokens that were neither read from the cache nor written to it.
    pub plain: u64,
    /// Tokens read from the cache.
    pub read: u64,
    /// Tokens written for five minutes.
    pub written_5m: u64,
    /// Tokens written for one hour.
    pub written_1h: u64,
}

impl CacheUsage {
    /// Returns all input tokens.
    #[must_use]
    pub const fn total(&self) -> u64 {
        let written = self.written_5m.saturating_add(self.written_1h);
        self.plain.saturating_add(self.read).saturating_add(written)
    }

    /// Returns the price of these tokens without a cache, less the price with it.
    pub(crate) fn saved(&self, rates: &RateCard) -> Money {
        let less = |price: u64| nanos(rates.input) - nanos(price);
        self.read_saving(rates)
            + less(rates.cache_write_5m).times(self.written_5m)
            + less(rates.cache_write_1h).times(self.written_1h)
    }

    /// Returns the price of these tokens.
    pub(crate) fn cost(&self, rates: &RateCard) -> Money {
        let parts = [
            (self.plain, rates.input),
            (self.read, rates.cache_read),
            (self.written_5m, rates.cache_write_5m),
            (self.written_1h, rates.cache_write_1h),
        ];
        parts
            .iter()
            .map(|(tokens, price)| nanos(*price).times(*tokens))
            .sum()
    }

    pub(crate) fn read_saving(&self, rates: &RateCard) -> Money {
        (nanos(rates.input) - nanos(rates.cache_read)).times(self.read)
    }

    /// Adds the tokens of another response.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            plain,
            read,
            written_5m,
            written_1h,
        } = self;
        *plain = plain.saturating_add(other.plain);
        *read = read.saturating_add(other.read);
        *written_5m = written_5m.saturating_add(other.written_5m);
        *written_1h = written_1h.saturating_add(other.written_1h);
    }
}

pub(crate) fn nanos(price: u64) -> Money {
    Money::from_nanos(i64::try_from(price).unwrap_or(i64::MAX))
}
