//! Who is asked next, beside a slow and obvious model of it.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;
use tower_claude_core::{Class, Kind};

use crate::policy::{Choice, Shut, Targets, Trail, choose};

#[derive(Clone, Debug)]
struct One {
    group: u8,
    quickest: u64,
    /// When it is back, and whether its limits are what is exhausted.
    out: Option<(Option<u64>, bool)>,
    asked: bool,
    ruled_out: bool,
}

#[derive(Clone, Debug)]
struct Fake {
    targets: Vec<One>,
    start: Instant,
    admitted: Vec<usize>,
}

impl Fake {
    fn shut(&self, target: usize) -> Option<Shut> {
        let (until, limits) = self.targets[target].out?;
        Some(Shut {
            until: until.map(|until| self.start + Duration::from_secs(until)),
            why: Class::new(if limits {
                Kind::RateLimited
            } else {
                Kind::Overloaded
            }),
        })
    }
}

impl Targets for Fake {
    type Leave = usize;

    fn count(&self) -> usize {
        self.targets.len()
    }
    fn share_limits(&self, one: usize, other: usize) -> bool {
        self.targets[one].group == self.targets[other].group
    }
    fn quickest(&self, target: usize) -> Duration {
        Duration::from_secs(self.targets[target].quickest)
    }
    fn admit(&mut self, target: usize) -> Result<usize, Shut> {
        match self.shut(target) {
            Some(shut) => Err(shut),
            None => {
                self.admitted.push(target);
                Ok(target)
            }
        }
    }
}

/// The rules, one after the other over whole lists.
fn expected(fake: &Fake, remaining: Option<u64>) -> Choice<usize> {
    let targets = &fake.targets;
    let fresh = targets.iter().all(|one| !one.asked);
    let candidates: Vec<usize> = (0..targets.len())
        .filter(|&at| !targets[at].asked && !targets[at].ruled_out)
        .filter(|&at| {
            (fresh && at == 0) || remaining.is_none_or(|left| left > targets[at].quickest)
        })
        .collect();
    // Behind a target whose limits are exhausted, no other of the same group is looked at.
    let looked_at: Vec<usize> = candidates
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
    let first_shut = looked_at.first().and_then(|&at| fake.shut(at));
    if let Some(&at) = looked_at.iter().find(|&&at| targets[at].out.is_none()) {
        return Choice::Ask(at, at, first_shut);
    }
    let back = |at: &usize| {
        targets[*at]
            .out
            .and_then(|(until, _)| until)
            .unwrap_or(u64::MAX)
    };
    match (
        fresh,
        looked_at.iter().copied().min_by_key(back),
        first_shut,
    ) {
        (true, Some(at), Some(first)) => Choice::Force(at, first),
        _ => Choice::Nobody,
    }
}

fn one() -> impl Strategy<Value = One> {
    (
        0_u8..3,
        0_u64..20,
        proptest::option::of((proptest::option::of(0_u64..100), any::<bool>())),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(group, quickest, out, asked, ruled_out)| One {
            group,
            quickest,
            out,
            asked,
            ruled_out,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn chooses_as_the_rules_say(
        targets in prop::collection::vec(one(), 1..6),
        remaining in proptest::option::of(0_u64..30),
    ) {
        let mut fake = Fake { targets, start: Instant::now(), admitted: Vec::new() };
        let mut trail = Trail::default();
        for (at, one) in fake.targets.iter().enumerate() {
            if one.asked { trail.asks(at); }
            if one.ruled_out { trail.rules_out(at); }
        }
        let expected = expected(&fake, remaining);
        let got = choose(&mut fake, &trail, remaining.map(Duration::from_secs));
        // Who is not chosen keeps no right to be asked.
        let admitted = if let Choice::Ask(at, ..) = &got { vec![*at] } else { Vec::new() };
        prop_assert_eq!(&fake.admitted, &admitted);
        prop_assert_eq!(got, expected);
    }
}
