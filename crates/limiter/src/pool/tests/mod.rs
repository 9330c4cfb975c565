//! Properties that need exact levels, which snapshots round to tokens.

mod all_or_nothing;
mod clamp;
mod reference;
mod time;

use std::num::NonZeroU64;

use tower_claude_core::Scope;

use super::{Pool, bucket::Bucket};
use crate::{LimiterConfig, Limits, Sharing};

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

fn n(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).expect("not 0")
}

/// Charges every request as it is estimated.
fn literal() -> LimiterConfig {
    LimiterConfig::new()
        .with_learn_output(false)
        .with_calibrate_input(false)
        .with_sharing(Sharing::Exclusive)
}

fn pool(limits: &Limits, config: LimiterConfig) -> Pool {
    let scope = Scope::named("proof");
    Pool::new(scope.clone(), &limits.for_scope(&scope), config, 0)
}

/// Returns the levels in units, or `None` for an unlimited dimension.
fn levels(pool: &Pool) -> Vec<Option<i128>> {
    let dimensions = pool.buckets.dimensions.iter();
    let level = |bucket: &Option<Bucket>| bucket.as_ref().map(Bucket::level);
    dimensions
        .map(|dimension| level(&dimension.bucket))
        .collect()
}
