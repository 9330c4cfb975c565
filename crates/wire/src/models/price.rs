//! The prices of a model.

use crate::usage::Usage;

/// Prices of one token in nano-dollars. A price of 8 USD per million tokens is 8,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateCard {
    /// Input that is neither read from the cache nor written to it.
    pub input: u64,
    /// Output, thinking included.
    pub output: u64,
    /// Input written to the cache for 5 minutes.
    pub cache_write_5m: u64,
    /// Input written to the cache for 1 hour.
    pub cache_write_1h: u64,
    /// Input read from the cache.
    pub cache_read: u64,
}

impl RateCard {
    /// Returns the card with another base price. The prices of the cache keep their proportion.
    pub(super) fn with_base(self, input: u64, output: u64) -> Self {
        let scale = |price: u64| price * input / self.input.max(1);
        Self {
            input,
            output,
            cache_write_5m: scale(self.cache_write_5m),
            cache_write_1h: scale(self.cache_write_1h),
            cache_read: scale(self.cache_read),
        }
    }
}

/// Prices of a model, as the Claude API charges them. The Batches API charges half. Clouds have
/// prices of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prices {
    /// The usual prices.
    pub base: RateCard,
    /// The prices of the fast mode.
    pub fast: Option<RateCard>,
    /// The prices of a request whose prompt is longer than this number of tokens, cache reads and
    /// writes included.
    pub long_prompt: Option<(u64, RateCard)>,
    /// Percentage of the price for inference in the US only, e.g. 110. 100 without a surcharge.
    pub us_percent: u64,
}

impl Prices {
    /// Returns the prices of one request.
    #[must_use]
    pub fn card(&self, prompt_tokens: u64, fast: bool) -> &RateCard {
        match (&self.fast, &self.long_prompt) {
            (Some(card), _) if fast => card,
            (_, Some((above, card))) if prompt_tokens > *above => card,
            _ => &self.base,
        }
    }

    /// Returns the cost of one message in nano-dollars, without surcharges and server tools. All
    /// cache writes count as those for 5 minutes.
    ///
    /// ```
    /// use tower_claude_wire::{ModelCatalog, Usage};
    /// let usage = Usage::from_usage_object(br#"{"input_tokens":1000,"output_tokens":500}"#).unwrap();
    /// let prices = ModelCatalog::builtin().lookup("claude-opus-5-5").about.prices.clone().unwrap();
    /// assert_eq!(prices.cost(&usage, false), 14_000_000); // 1.4 cents
    /// ```
    #[must_use]
    pub fn cost(&self, usage: &Usage, fast: bool) -> u64 {
        let written = usage.cache_creation_input_tokens.unwrap_or(0);
        let read = usage.cache_read_input_tokens.unwrap_or(0);
        let input = usage.input_tokens.unwrap_or(0);
        let prompt = input.saturating_add(written).saturating_add(read);
        let card = self.card(prompt, fast);
        [
            (input, card.input),
            (written, card.cache_write_5m),
            (read, card.cache_read),
            (usage.output_tokens.unwrap_or(0), card.output),
        ]
        .into_iter()
        .fold(0, |sum: u64, (tokens, price)| {
            sum.saturating_add(tokens.saturating_mul(price))
        })
    }
}
