//! The settings of a spread and of its targets.

use std::{num::NonZeroU32, time::Duration};

use tower_claude_wire::{Money, Platform, cloud::Target};

/// The limits of one target for one group of models, each per minute.
///
/// A limit that is not set is learned: from the rate-limit headers where the target sends them, and
/// from its 429s otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetLimits {
    /// Requests.
    pub requests: Option<NonZeroU32>,
    /// Input tokens, cache reads not counted.
    pub input_tokens: Option<NonZeroU32>,
    /// Output tokens.
    pub output_tokens: Option<NonZeroU32>,
    /// Input and output tokens together, as Amazon Bedrock counts them.
    pub all_tokens: Option<NonZeroU32>,
}

impl TargetLimits {
    /// Creates limits that are all learned.
    #[must_use]
    pub const fn learned() -> Self {
        Self {
            requests: None,
            input_tokens: None,
            output_tokens: None,
            all_tokens: None,
        }
    }

    /// Sets the requests per minute.
    #[must_use]
    pub const fn with_requests(mut self, limit: NonZeroU32) -> Self {
        self.requests = Some(limit);
        self
    }

    /// Sets the input tokens per minute.
    #[must_use]
    pub const fn with_input_tokens(mut self, limit: NonZeroU32) -> Self {
        self.input_tokens = Some(limit);
        self
    }

    /// Sets the output tokens per minute.
    #[must_use]
    pub const fn with_output_tokens(mut self, limit: NonZeroU32) -> Self {
        self.output_tokens = Some(limit);
        self
    }

    /// Sets the input and output tokens per minute, counted together.
    #[must_use]
    pub const fn with_all_tokens(mut self, limit: NonZeroU32) -> Self {
        self.all_tokens = Some(limit);
        self
    }
}

/// A target of a spread, with its weight, price and limits.
///
/// A [`Target`] alone is one with the defaults.
///
/// ```
/// use std::num::NonZeroU32;
/// use tower_claude_spread::{SpreadTarget, TargetLimits};
/// use tower_claude_wire::cloud::{Profile, Target};
///
/// let tokens = NonZeroU32::new(2_000_000).expect("not zero");
/// let bedrock = Target::bedrock("us-west-2")?.with_profile(Profile::Us)?;
/// let target = SpreadTarget::new(bedrock)
///     .with_limits(TargetLimits::learned().with_all_tokens(tokens))
///     .with_weight(NonZeroU32::MIN.saturating_add(1));
/// assert_eq!(target.price_percent(), 110);
/// # Ok::<(), tower_claude_wire::cloud::InvalidTarget>(())
/// ```
#[derive(Clone, Debug)]
pub struct SpreadTarget {
    target: Target,
    weight: NonZeroU32,
    price_percent: u32,
    limits: TargetLimits,
    output_weight: NonZeroU32,
    holds_max_tokens: bool,
    keeps_credential: bool,
}

impl SpreadTarget {
    /// Creates a target with the defaults of its platform.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let is_bedrock = target.platform() == Platform::Bedrock;
        Self {
            price_percent: if is_global(&target) { 100 } else { 110 },
            weight: NonZeroU32::MIN,
            limits: TargetLimits::learned(),
            output_weight: NonZeroU32::MIN,
            holds_max_tokens: is_bedrock,
            keeps_credential: false,
            target,
        }
    }

    /// Sets the weight, by which new conversations are divided among targets of the same cost. 1 by
    /// default.
    #[must_use]
    pub const fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the price in percent of the Claude API's price. 100 by default for the Claude API and
    /// for global endpoints and profiles, and 110 for regions and multi-regions.
    #[must_use]
    pub const fn with_price_percent(mut self, percent: u32) -> Self {
        self.price_percent = percent;
        self
    }

    /// Sets the limits of each group of models. All of them are learned by default.
    #[must_use]
    pub const fn with_limits(mut self, limits: TargetLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the number of tokens for which an output token counts in
    /// [`all_tokens`](TargetLimits::all_tokens). 1 by default. Amazon Bedrock counts 5 for models
    /// of the generation 4.
    #[must_use]
    pub const fn with_output_weight(mut self, weight: NonZeroU32) -> Self {
        self.output_weight = weight;
        self
    }

    /// Sets whether the target holds the `max_tokens` of a request until its response has ended.
    /// True by default for Amazon Bedrock, and false elsewhere.
    #[must_use]
    pub const fn with_held_max_tokens(mut self, holds: bool) -> Self {
        self.holds_max_tokens = holds;
        self
    }

    /// Keeps the credential of the caller, which this target accepts as it is. Limits then belong
    /// to that credential. By default, they belong to the target, whose credential an inner layer
    /// adds.
    #[must_use]
    pub const fn with_callers_credential(mut self) -> Self {
        self.keeps_credential = true;
        self
    }

    /// Returns the target.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the weight.
    #[must_use]
    pub const fn weight(&self) -> NonZeroU32 {
        self.weight
    }

    /// Returns the price in percent of the Claude API's price.
    #[must_use]
    pub const fn price_percent(&self) -> u32 {
        self.price_percent
    }

    /// Returns the limits.
    #[must_use]
    pub const fn limits(&self) -> &TargetLimits {
        &self.limits
    }

    pub(crate) const fn output_weight(&self) -> NonZeroU32 {
        self.output_weight
    }

    pub(crate) const fn holds_max_tokens(&self) -> bool {
        self.holds_max_tokens
    }

    pub(crate) const fn keeps_credential(&self) -> bool {
        self.keeps_credential
    }

    /// Returns the area in which the target may process a request: its profile, or its location.
    #[must_use]
    pub fn area(&self) -> &str {
        match self.target.profile() {
            Some(profile) => profile.as_str(),
            None => self.target.location(),
        }
    }
}

/// Returns true if the target may process a request anywhere, at the usual price.
fn is_global(target: &Target) -> bool {
    let area = match target.profile() {
        Some(profile) => profile.as_str(),
        None => target.location(),
    };
    area == "global"
}

impl From<Target> for SpreadTarget {
    fn from(target: Target) -> Self {
        Self::new(target)
    }
}

/// The settings of a [`Spreader`](crate::Spreader).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SpreadOptions {
    /// The price of a second of waiting. $0.002 by default.
    pub second_price: Money,
    /// The longest time for which a request waits if all targets are paused. 60 s by default.
    pub max_wait: Duration,
    /// True if a conversation may go to another account although its thinking is bound to one. The
    /// API then drops that thinking. False by default.
    pub may_lose_thinking: bool,
}

impl Default for SpreadOptions {
    fn default() -> Self {
        Self {
            second_price: Money::from_micros(2_000),
            max_wait: Duration::from_secs(60),
            may_lose_thinking: false,
        }
    }
}
