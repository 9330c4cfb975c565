//! The least cost of a load, by a strategy that knows the future.

use std::collections::BTreeMap;

use super::{prices::Prices, traffic::Conversation};
use crate::units::{HOUR, MINUTE};

/// The least cost of the uses of one block so far, by the state of its entry after the last use.
#[derive(Clone, Copy, Debug)]
struct Least {
    last_used: u64,
    plain: f64,
    short: f64,
    long: f64,
}

impl Least {
    fn first(now: u64, prices: &Prices) -> Self {
        Self {
            last_used: now,
            plain: 1.0,
            short: prices.write_5m,
            long: prices.write_1h,
        }
    }

    fn again(&mut self, now: u64, prices: &Prices) {
        let gap = now.saturating_sub(self.last_used);
        let before = self.least();
        let read = |cost: f64, lifetime: u64| match gap < lifetime {
            true => cost + prices.read,
            false => f64::INFINITY,
        };
        *self = Self {
            last_used: now,
            plain: before + 1.0,
            short: (before + prices.write_5m).min(read(self.short, 5 * MINUTE)),
            long: (before + prices.write_1h).min(read(self.long, HOUR)),
        };
    }

    fn least(&self) -> f64 {
        self.plain.min(self.short).min(self.long)
    }
}

/// Returns the least cost of these requests, given with their times, their conversations and their
/// numbers of blocks.
///
/// Each block is bought by itself, which ignores the number of markers, the look-back and the time
/// until an entry is readable, so no strategy reaches it. The blocks up to the first prefix that is
/// long enough to be cached are bought together.
pub(crate) fn least_cost(
    requests: &[(u64, usize, usize)],
    conversations: &[Conversation],
    prices: &Prices,
) -> f64 {
    // In order, because the sum of floats depends on it.
    let mut blocks: BTreeMap<u64, (u64, Least)> = BTreeMap::new();
    let mut uncached = 0;
    for (now, conversation, end) in requests {
        let mut bought = 0;
        for block in &conversations[*conversation].blocks[..*end] {
            if block.tokens < prices.least_tokens {
                continue;
            }
            let tokens = block.tokens - bought;
            bought = block.tokens;
            let fresh = Least::first(*now, prices);
            blocks
                .entry(block.prefix)
                .and_modify(|(_, least)| least.again(*now, prices))
                .or_insert((tokens, fresh));
        }
        let whole = conversations[*conversation].blocks[..*end].last();
        uncached += whole.map_or(0, |block| block.tokens) - bought;
    }
    let bought = blocks
        .values()
        .map(|(tokens, least)| *tokens as f64 * least.least());
    bought.sum::<f64>() + uncached as f64
}
