//! The effects of what-ifs and events on a pool.

use tower_claude_wire::ModelCatalog;

use super::report::{EventResult, WhatIfResult};
use crate::{
    bucket::{DIMENSIONS, Quota},
    demand::{Demand, PoolDemand},
    event::{self, Event},
    money,
    replay::paced,
    search::{Target, least_limit},
    traffic::Traffic,
    what_if::WhatIf,
};

/// The basis of the effects of what-ifs and events.
pub(super) struct Context<'a> {
    pub(super) traffic: &'a Traffic,
    pub(super) pool: &'a PoolDemand,
    pub(super) all: &'a [PoolDemand],
    pub(super) quota: Quota,
    pub(super) binding: usize,
    pub(super) target: Target,
    pub(super) per_month: f64,
}

impl Context<'_> {
    fn need(&self, demand: &[Demand], dimension: usize) -> Option<u64> {
        least_limit(demand, dimension, self.quota.burst, &self.target)
    }

    fn wait_p95(&self, demand: &[Demand]) -> f64 {
        paced(demand, &self.quota).wait_p95
    }

    fn dollars(&self, demand: &[Demand], model: Option<&str>, is_batch: bool) -> Option<f64> {
        Some(money::price(demand, &self.traffic.names, model, is_batch)? * self.per_month)
    }

    pub(super) fn what_if(&self, what_if: &WhatIf) -> WhatIfResult {
        let before = &self.pool.demand;
        let need = self.need(before, self.binding);
        let wait = self.wait_p95(before);
        let dollars = self.dollars(before, None, false);
        if let Some(note) = what_if.no_effect() {
            return WhatIfResult {
                what_if: what_if.to_string(),
                note: Some(note.to_owned()),
                need: (need, need),
                wait_p95: (wait, wait),
                dollars_per_month: (dollars, dollars),
            };
        }
        let names = &self.traffic.names;
        let edited = what_if.edit(before, names);
        let mut after = edited.demand;
        let mut note = None;
        let mut price = self.dollars(&after, None, false);
        let batched = self.dollars(&edited.batched, None, true);
        price = price.zip(batched).map(|(price, batched)| price + batched);
        if let WhatIf::Model(_, to) = what_if {
            let catalog = ModelCatalog::builtin();
            let group = catalog.lookup(to).rate_group;
            let moved = self.dollars(&edited.moved, Some(to), false);
            price = price.zip(moved).map(|(price, moved)| price + moved);
            if *group == *names.get(self.pool.pool) {
                after.extend(edited.moved);
                after.sort_by_key(|request| request.at);
                note = Some(format!("no gain: both models share the limits of {group}"));
            } else {
                note = Some(self.other_pool(&group, edited.moved));
            }
        }
        WhatIfResult {
            what_if: what_if.to_string(),
            note,
            need: (need, self.need(&after, self.binding)),
            wait_p95: (wait, self.wait_p95(&after)),
            dollars_per_month: (dollars, price),
        }
    }

    /// Describes the need of the pool that gets the requests of another model.
    fn other_pool(&self, group: &str, mut moved: Vec<Demand>) -> String {
        let names = &self.traffic.names;
        let other = self.all.iter().find(|pool| names.get(pool.pool) == group);
        if let Some(other) = other {
            moved.extend(&other.demand);
            moved.sort_by_key(|request| request.at);
        }
        let need = self.need(&moved, self.binding);
        let need = need.map_or_else(|| "no limit".to_owned(), crate::text::count);
        format!(
            "pool {group} then needs {need} {}",
            DIMENSIONS[self.binding]
        )
    }

    pub(super) fn event(&self, event: &Event) -> EventResult {
        let name = format!(
            "{} {}x {} min",
            event.at.to_minute(),
            event.factor,
            event.length.as_secs() / 60
        );
        let Some((demand, basis)) = event::demand(&self.pool.demand, event) else {
            return EventResult {
                event: name,
                basis: None,
                needs: [None; 3],
                fits: false,
                wait_p95: 0.0,
            };
        };
        EventResult {
            event: name,
            basis: Some(basis),
            needs: [0, 1, 2].map(|dimension| self.need(&demand, dimension)),
            fits: self.target.is_met(&demand, &self.quota),
            wait_p95: self.wait_p95(&demand),
        }
    }
}
