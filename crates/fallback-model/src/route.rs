//! Where one call may go: the model asked for, then its chain.

use std::{sync::Arc, time::Duration};

use http::Request;
use tokio::time::Instant;
use tower_claude_core::{RequestBody, Scope};
use tower_claude_wire::Peek;

use crate::{
    chains::{ChainId, Target},
    layer::Config,
    outage::{Leave, Pool},
    policy::{Shut, Targets},
};

/// The targets of one call by their numbers, and on whose behalf they are asked. Made when first something is amiss.
pub(crate) struct CallTargets {
    asked: Target,
    chain: ChainId,
    credential: u64,
    /// Whether the fast pool is asked for.
    fast: bool,
    pub(crate) streams: bool,
}

impl CallTargets {
    pub(crate) fn of(config: &Config, chain: ChainId, request: &Request<RequestBody>) -> Self {
        let scope = Scope::of(request);
        let body = request.body();
        Self {
            asked: Target::new(body.model().unwrap_or_default(), config.catalog.get()),
            chain,
            credential: scope.credential,
            fast: scope.fast,
            streams: body.peek().is_some_and(Peek::stream),
        }
    }

    /// 0 is the model asked for.
    pub(crate) fn target<'a>(&'a self, config: &'a Config, number: usize) -> &'a Target {
        match number.checked_sub(1) {
            None => &self.asked,
            Some(index) => &config.chains.list(self.chain)[index],
        }
    }

    pub(crate) fn count(&self, config: &Config) -> usize {
        1 + config.chains.list(self.chain).len()
    }

    pub(crate) fn pool(&self, config: &Config, number: usize) -> Pool {
        let target = self.target(config, number);
        Pool {
            credential: self.credential,
            group: target.group.clone(),
            // A stand-in without a fast mode is not asked for it.
            fast: self.fast && (number == 0 || target.has_fast),
        }
    }
}

/// The targets as one choice sees them.
pub(crate) struct View<'a> {
    pub(crate) config: &'a Arc<Config>,
    pub(crate) route: &'a CallTargets,
    pub(crate) now: Instant,
    /// When the first of those that are out may be asked again.
    pub(crate) back: Option<Instant>,
}

impl Targets for View<'_> {
    type Leave = Leave;

    fn count(&self) -> usize {
        self.route.count(self.config)
    }

    fn share_limits(&self, one: usize, other: usize) -> bool {
        let group = |number| &self.route.target(self.config, number).group;
        group(one) == group(other)
    }

    fn quickest(&self, target: usize) -> Duration {
        let id = &self.route.target(self.config, target).id;
        self.config.shared.quickest(id, self.route.streams)
    }

    fn admit(&mut self, target: usize) -> Result<Leave, Shut> {
        let id = &self.route.target(self.config, target).id;
        let pool = self.route.pool(self.config, target);
        let outages = &self.config.shared.outages;
        let answer = outages.admit(id, &pool, self.now, fastrand::f64());
        if let Err(shut) = &answer {
            self.back = earlier(self.back, shut.until);
        }
        answer
    }
}

/// The earlier of two instants of which either may be missing.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
