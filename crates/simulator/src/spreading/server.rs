//! The three targets.

use std::{num::NonZeroU32, time::Duration};

use tower_claude_core::{Class, Kind};
use tower_claude_fake_claude::model::{
    Accounting, AdmissionId, CacheBlock, CacheMarker, CacheTokens, CacheTtl, CacheWrite, Charge,
    GaugeSet, GroupLimits, PromptCache, Reading,
};
use tower_claude_spread::SpreadTarget;
use tower_claude_wire::{Gauge, RateLimits, cloud::Target};

use crate::units::{MINUTE, SECOND};

pub(crate) const TARGETS: usize = 3;

/// The least tokens of a prefix that is cached.
const LEAST_CACHED: u64 = 1_024;
const GROUP: &str = "models";

/// Input tokens a minute, without cache reads. Output tokens are a fifth.
pub(crate) const POOLS: [u64; TARGETS] = [300_000, 200_000, 100_000];
/// In percent of the price of the Claude API.
pub(crate) const PERCENT: [u32; TARGETS] = [100, 110, 100];

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Healthy,
    Troubled,
}

impl Row {
    pub(crate) const ALL: [Self; 2] = [Self::Healthy, Self::Troubled];

    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Healthy => "S1",
            Self::Troubled => "S2",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Healthy => "three targets, all well",
            Self::Troubled => "one fails for 6 min, one has a quarter of its pool for 10 min",
        }
    }
}

/// Returns the settings of the targets.
pub(crate) fn targets() -> [SpreadTarget; TARGETS] {
    let bedrock = Target::bedrock("us-west-2").expect("a region");
    let vertex = Target::vertex("project", "global").expect("a location");
    let mut number = 0;
    [Target::claude_api(), bedrock, vertex].map(|target| {
        let weight = u32::try_from(POOLS[number] / 100_000).ok();
        let weight = weight.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let percent = PERCENT[number];
        number += 1;
        SpreadTarget::new(target)
            .with_weight(weight)
            .with_price_percent(percent)
            .with_held_max_tokens(false)
    })
}

/// A request that a target has taken.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) id: AdmissionId,
    /// The accounting that admitted it is that of the throttled time.
    is_throttled: bool,
    pub(crate) tokens: CacheTokens,
    pub(crate) write: CacheWrite,
    /// The rate-limit headers. Only the first target has them.
    pub(crate) limits: Option<RateLimits>,
}

/// One target: its pool, its prompt cache and its troubles.
#[derive(Debug)]
pub(crate) struct Server {
    target: usize,
    pool: Accounting,
    /// The pool of the throttled time.
    throttled: Accounting,
    cache: PromptCache,
    fails: Option<(u64, u64)>,
    throttles: Option<(u64, u64)>,
}

impl Server {
    pub(crate) fn new(target: usize, row: Row, end: u64) -> Self {
        let limits = |input: u64| {
            let mut limits = GroupLimits::unlimited();
            limits.input_tokens_per_minute = input;
            limits.output_tokens_per_minute = input / 5;
            limits
        };
        let from = end / 3;
        let is = |number| row == Row::Troubled && target == number;
        Self {
            target,
            pool: Accounting::new(limits(POOLS[target])),
            throttled: Accounting::new(limits(POOLS[target] / 4)),
            cache: PromptCache::new(),
            fails: is(0).then_some((from, from + 6 * MINUTE)),
            throttles: is(1).then_some((end / 2, end / 2 + 10 * MINUTE)),
        }
    }

    /// Takes a request, or returns the class of the failure.
    pub(crate) fn start(&mut self, now: u64, prompt: &[CacheBlock]) -> Result<Admitted, Class> {
        let is_in = |times: Option<(u64, u64)>| times.is_some_and(|(a, b)| a <= now && now < b);
        if is_in(self.fails) {
            return Err(Class::new(Kind::Overloaded));
        }
        let is_throttled = is_in(self.throttles);
        let pool = if is_throttled {
            &mut self.throttled
        } else {
            &mut self.pool
        };
        // What is not read is charged when the cache is known.
        let charge = Charge {
            input_estimate: 1,
            ..Charge::default()
        };
        let admitted = pool.admit(now, GROUP, charge);
        let id = admitted.map_err(|rejected| {
            // Only the Claude API names a wait.
            let wait = (self.target == 0).then(|| {
                let wait = rejected.retry_after.as_secs_f64().ceil();
                Duration::from_secs_f64(wait.max(1.0))
            });
            Class::new(Kind::RateLimited).with_retry_after(wait)
        })?;
        let marker = |block| CacheMarker {
            block,
            ttl: CacheTtl::FiveMinutes,
        };
        let markers = [marker(0), marker(prompt.len() - 1)];
        let (tokens, write) = self.cache.start(now, prompt, &markers, LEAST_CACHED);
        let total = prompt.last().map_or(0, |block| block.tokens);
        pool.correct_input(now, id, total - tokens.read);
        let limits = (self.target == 0).then(|| limits_of(&pool.gauges(now, GROUP)));
        Ok(Admitted {
            id,
            is_throttled,
            tokens,
            write,
            limits,
        })
    }

    pub(crate) fn begin_response(&mut self, now: u64, write: CacheWrite) {
        self.cache.begin_response(now, write);
    }

    pub(crate) fn end(&mut self, now: u64, admitted: &Admitted, output: u64) {
        let pool = if admitted.is_throttled {
            &mut self.throttled
        } else {
            &mut self.pool
        };
        pool.produce(now, admitted.id, output);
        pool.finish(now, admitted.id);
    }

    /// Returns the time until a failure is known.
    pub(crate) const fn time_of_failure(class: &Class) -> u64 {
        match class.kind {
            Kind::RateLimited => SECOND / 10,
            _ => SECOND / 2,
        }
    }
}

fn limits_of(gauges: &GaugeSet) -> RateLimits {
    let gauge = |reading: &Reading| Gauge {
        limit: Some(reading.limit),
        remaining: Some(reading.remaining_rounded()),
        reset: None,
    };
    let mut limits = RateLimits::default();
    limits.input_tokens = gauge(&gauges.input_tokens);
    limits.output_tokens = gauge(&gauges.output_tokens);
    limits
}
