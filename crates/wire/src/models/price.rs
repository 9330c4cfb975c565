//! The prices of a model, and the price of a usage.

use std::ops::AddAssign;

use super::money::Money;
use super::platform::Platform;
use crate::usage::{ServiceTier, Speed, Usage};

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
    /// Creates a card of these prices of input and output. The prices of the cache are the usual
    /// ones: a write costs 1.25 or 2 times the input, a read a tenth of it.
    #[must_use]
    pub const fn new(input: u64, output: u64) -> Self {
        Self {
            input,
            output,
            cache_write_5m: input.saturating_add(input / 4),
            cache_write_1h: input.saturating_mul(2),
            cache_read: input / 10,
        }
    }

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

/// Prices of a model, as the Claude API charges them.
///
/// Source: <https://platform.claude.com/docs/en/about-claude/pricing>.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prices {
    /// The usual prices.
    pub base: RateCard,
    /// The prices of the fast mode. `None`: the model has none.
    pub fast: Option<RateCard>,
    /// The prices of a request whose prompt is longer than this number of tokens, cache reads and
    /// writes included.
    pub long_prompt: Option<(u64, RateCard)>,
    /// Percentage of the price of tokens for inference in the US only, e.g. 110. 100 without a
    /// surcharge.
    pub us_percent: u64,
    /// Percentage of the price of tokens in a batch. 50, as the API charges.
    pub batch_percent: u64,
    /// The price of one web search in nano-dollars. No percentage applies to it.
    pub web_search: u64,
    /// The platforms on which these are the prices. Empty: all of them.
    pub platforms: Vec<Platform>,
}

impl Prices {
    /// The price of a web search in nano-dollars: 10 USD per 1,000.
    pub const WEB_SEARCH: u64 = 10_000_000;

    /// Creates prices without fast mode, surcharges and dearer long prompts, on all platforms.
    /// Batches cost half. Set the fields for what differs.
    #[must_use]
    pub const fn new(base: RateCard) -> Self {
        Self {
            base,
            fast: None,
            long_prompt: None,
            us_percent: 100,
            batch_percent: 50,
            web_search: Self::WEB_SEARCH,
            platforms: Vec::new(),
        }
    }

    /// Returns the prices of one request.
    #[must_use]
    pub fn card(&self, prompt_tokens: u64, fast: bool) -> &RateCard {
        match (&self.fast, &self.long_prompt) {
            (Some(card), _) if fast => card,
            (_, Some((above, card))) if prompt_tokens > *above => card,
            _ => &self.base,
        }
    }

    /// Returns the bill of one message, or `None` if its price is not known:
    ///
    /// - The platform has other prices.
    /// - The usage lacks the count of input or of output.
    /// - The request was fast, and the model has no price for it. Or the usage names another speed
    ///   or service tier than the known ones. Priority Tier is paid by contract.
    /// - A fallback credit waives a part that the usage does not show.
    ///
    /// The counts at the top level are used, and not those of
    /// [`iterations`](Usage::iterations), which may be of other models. See
    /// [`ModelCatalog::bill`](crate::ModelCatalog::bill).
    ///
    /// ```
    /// use tower_claude_wire::{Billing, ModelCatalog, Usage};
    /// let usage = br#"{"input_tokens":1000,"cache_read_input_tokens":9000,"output_tokens":500}"#;
    /// let usage = Usage::from_usage_object(usage).unwrap();
    /// let prices = ModelCatalog::builtin().lookup("claude-opus-5-5").about.prices.clone().unwrap();
    /// let bill = prices.bill(&usage, Billing::default()).unwrap();
    /// assert_eq!(bill.cost.to_string(), "$0.0158");
    /// assert_eq!(bill.cache_savings().to_string(), "$0.0342");
    /// ```
    #[must_use]
    pub fn bill(&self, usage: &Usage, billing: Billing) -> Option<Bill> {
        let terms = billing.of_usage(usage)?;
        let (input, output) = (usage.input_tokens?, usage.output_tokens?);
        if terms.fast && self.fast.is_none() || !self.hold_on(terms.platform) {
            return None;
        }
        let written = usage.cache_creation_input_tokens.unwrap_or(0);
        let read = usage.cache_read_input_tokens.unwrap_or(0);
        let hour = usage
            .cache_creation_1h_input_tokens
            .unwrap_or(0)
            .min(written);
        let prompt = input.saturating_add(written).saturating_add(read);
        let card = self.card(prompt, terms.fast);
        let answer = nanos(output, card.output);
        let cached = [
            nanos(input, card.input),
            nanos(written - hour, card.cache_write_5m),
            nanos(hour, card.cache_write_1h),
            nanos(read, card.cache_read),
        ];
        let cached = cached.into_iter().fold(answer, i128::saturating_add);
        let plain = nanos(prompt, card.input).saturating_add(answer);
        let searches = usage.web_search_requests.unwrap_or(0);
        let searches = Money::from_picos(nanos(searches, self.web_search).saturating_mul(1_000));
        let geo = if terms.us { self.us_percent } else { 100 };
        let batch = if terms.batch { self.batch_percent } else { 100 };
        let priced = |tokens: i128, batch: u64| {
            // Pico-dollars: 1,000 a nano-dollar, divided by 100 for each percentage.
            let percent = i128::from(geo).saturating_mul(i128::from(batch));
            Money::from_picos(tokens.saturating_mul(percent) / 10) + searches
        };
        Some(Bill {
            cost: priced(cached, batch),
            uncached: priced(plain, batch),
            unbatched: priced(cached, 100),
        })
    }

    /// Returns true if these are the prices on this platform.
    #[must_use]
    pub fn hold_on(&self, platform: Platform) -> bool {
        self.platforms.is_empty() || self.platforms.contains(&platform)
    }
}

fn nanos(count: u64, price: u64) -> i128 {
    i128::from(count).saturating_mul(i128::from(price))
}

/// The properties of a request that change its price, for a usage that does not report them. What
/// a usage reports is used instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Billing {
    /// `speed: "fast"`.
    pub fast: bool,
    /// `inference_geo: "us"`.
    pub us: bool,
    /// The request is part of a batch.
    pub batch: bool,
    /// The platform of the request.
    pub platform: Platform,
}

impl Billing {
    /// Sets `speed: "fast"`.
    #[must_use]
    pub const fn with_fast(mut self, fast: bool) -> Self {
        self.fast = fast;
        self
    }

    /// Sets `inference_geo: "us"`.
    #[must_use]
    pub const fn with_us(mut self, us: bool) -> Self {
        self.us = us;
        self
    }

    /// Sets that the request is part of a batch.
    #[must_use]
    pub const fn with_batch(mut self, batch: bool) -> Self {
        self.batch = batch;
        self
    }

    /// Sets the platform.
    #[must_use]
    pub const fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Returns the properties with those that the usage reports. `None` if it reports one whose
    /// price is not known.
    fn of_usage(mut self, usage: &Usage) -> Option<Self> {
        match usage.speed {
            Some(Speed::Other) => return None,
            Some(speed) => self.fast = speed == Speed::Fast,
            None => {}
        }
        match usage.service_tier {
            Some(ServiceTier::Priority | ServiceTier::Other) => return None,
            Some(tier) => self.batch = tier == ServiceTier::Batch,
            None => {}
        }
        if let Some(us) = usage.us_inference {
            self.us = us;
        }
        (!usage.has_fallback_credit).then_some(self)
    }
}

/// The exact cost of a message, and what it would have cost otherwise.
///
/// Costs that no usage shows are left out, such as hours of code execution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bill {
    /// The cost.
    pub cost: Money,
    /// The cost if no input had been read from the prompt cache or written to it.
    pub uncached: Money,
    /// The cost if the message had not been part of a batch.
    pub unbatched: Money,
}

impl Bill {
    /// Returns the money that the prompt cache has saved. It is negative if the writes cost more
    /// than the reads saved.
    #[must_use]
    pub fn cache_savings(&self) -> Money {
        self.uncached - self.cost
    }

    /// Returns the money that the batch has saved.
    #[must_use]
    pub fn batch_savings(&self) -> Money {
        self.unbatched - self.cost
    }
}

impl AddAssign for Bill {
    fn add_assign(&mut self, other: Self) {
        self.cost += other.cost;
        self.uncached += other.uncached;
        self.unbatched += other.unbatched;
    }
}
