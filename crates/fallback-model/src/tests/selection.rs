//! The choice of the next target, compared with a slow and obvious model.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;
use tower_claude_core::{Class, Kind};

use crate::{
    cooldown::Unavailable,
    selection::{Selection, Targets, TriedTargets, select},
};

#[derive(Clone, Debug)]
struct One {
    group: u8,
    min_latency: u64,
    /// The end of its outage, and true if its limits are exhausted.
    out: Option<(u64, bool)>,
    tried: bool,
    excluded: bool,
}

#[derive(Clone, Debug)]
struct Fake {
    targets: Vec<One>,
    start: Instant,
    admitted: Vec<usize>,
}

impl Fake {
    fn unavailable(&self, target: usize) -> Option<Unavailable> {
        let (until, limits) = self.targets[target].out?;
        Some(Unavailable {
            until: self.start + Duration::from_secs(until),
            why: Class::new(if limits {
                Kind::RateLimited
            } else {
                Kind::Overloaded
            }),
        })
    }
}

impl Targets for Fake {
    type Permit = usize;

    fn count(&self) -> usize {
        self.targets.len()
    }
    fn share_limits(&self, one: usize, other: usize) -> bool {
        self.targets[one].group == self.targets[other].group
    }
    fn min_latency(&self, target: usize) -> Duration {
        Duration::from_secs(self.targets[target].min_latency)
    }
    fn admit(&mut self, target: usize) -> Result<usize, Unavailable> {
        match self.unavailable(target) {
            Some(unavailable) => Err(unavailable),
            None => {
                self.admitted.push(target);
                Ok(target)
            }
        }
    }
}

/// Applies the rules one after the other to whole lists.
fn expected(fake: &Fake, remaining: Option<u64>) -> Selection<usize> {
    let targets = &fake.targets;
    let fresh = targets.iter().all(|one| !one.tried);
    let candidates: Vec<usize> = (0..targets.len())
        .filter(|&at| !targets[at].tried && !targets[at].excluded)
        .filter(|&at| {
            (fresh && at == 0) || remaining.is_none_or(|left| left > targets[at].min_latency)
        })
        .collect();
    // After a target whose limits are exhausted, no other of the same group is considered.
    let considered: Vec<usize> = candidates
        .iter()
        .copied()
        .filter(|&at| {
            !candidates.iter().any(|&before| {
                before < at
                    && targets[before].group == targets[at].group
                    && targets[before].out.is_some_and(|(_, limits)| limits)
            })
        })
        .collect();
    let first_skipped = considered.first().and_then(|&at| fake.unavailable(at));
    if let Some(&at) = considered.iter().find(|&&at| targets[at].out.is_none()) {
        return Selection::Use(at, at, first_skipped);
    }
    let back = |at: &usize| targets[*at].out.map_or(u64::MAX, |(until, _)| until);
    match (
        fresh,
        considered.iter().copied().min_by_key(back),
        first_skipped,
    ) {
        (true, Some(at), Some(first)) => Selection::UseSoonest(at, first),
        _ => Selection::None,
    }
}

fn one() -> impl Strategy<Value = One> {
    (
        0_u8..3,
        0_u64..20,
        proptest::option::of((0_u64..100, any::<bool>())),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(group, min_latency, out, tried, excluded)| One {
            group,
            min_latency,
            out,
            tried,
            excluded,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 2_000 } else { 20_000 }))]

    #[test]
    fn selection_of_any_targets_follows_the_rules(
        targets in prop::collection::vec(one(), 1..6),
        remaining in proptest::option::of(0_u64..30),
    ) {
        let mut fake = Fake { targets, start: Instant::now(), admitted: Vec::new() };
        let mut tried = TriedTargets::default();
        for (at, one) in fake.targets.iter().enumerate() {
            if one.tried { tried.mark_tried(at); }
            if one.excluded { tried.exclude(at); }
        }
        let expected = expected(&fake, remaining);
        let got = select(&mut fake, &tried, remaining.map(Duration::from_secs));
        // No permit is left of a target that was not selected.
        let admitted = if let Selection::Use(at, ..) = &got { vec![*at] } else { Vec::new() };
        prop_assert_eq!(&fake.admitted, &admitted);
        prop_assert_eq!(got, expected);
    }
}
