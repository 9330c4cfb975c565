//! The targets of one call: the model asked for, then its stand-ins.

use std::{hash::Hash, sync::Arc, time::Duration};

use http::Request;
use tokio::time::Instant;
use tower_claude_core::{
    Class, Endpoint, RequestBody, Scope,
    event::{Event, emit},
    toolkit::{requested_model, requests_stream},
};

use crate::{
    chains::{ChainId, HostModel, RateGroup, Target},
    config::{Config, LAYER},
    cooldown::{CoolDownChange, Permit, Signal, Unavailable},
    selection::Targets,
};

/// The targets of one call, and the credential and host that it uses. Made only after a failure.
pub(crate) struct CallTargets {
    requested: Target,
    chain: ChainId,
    credential: u64,
    host: Arc<str>,
    /// True if the request asks for the fast mode.
    fast: bool,
    pub(crate) streams: bool,
}

impl CallTargets {
    pub(crate) fn of(config: &Config, chain: ChainId, request: &Request<RequestBody>) -> Self {
        let scope = Scope::of(request);
        let model = requested_model(request).unwrap_or_default();
        Self {
            requested: Target::new(&model, config.catalog()),
            chain,
            credential: scope.credential,
            host: scope.host,
            fast: scope.fast,
            streams: requests_stream(request),
        }
    }

    /// Returns a target by its number. 0 is the model asked for.
    pub(crate) fn target<'a>(&'a self, config: &'a Config, number: usize) -> &'a Target {
        match number.checked_sub(1) {
            None => &self.requested,
            Some(index) => &config.chains.list(self.chain)[index],
        }
    }

    pub(crate) fn count(&self, config: &Config) -> usize {
        1 + config.chains.list(self.chain).len()
    }

    /// Returns a permit for a target that is used whatever its state.
    pub(crate) fn permit(&self, config: &Config, number: usize) -> TargetPermit {
        let shared = &config.shared;
        TargetPermit {
            model: shared.models.permit(&self.host_model(config, number)),
            group: shared.groups.permit(&self.rate_group(config, number)),
        }
    }

    fn host_model(&self, config: &Config, number: usize) -> HostModel {
        HostModel {
            host: self.host.clone(),
            id: self.target(config, number).id.clone(),
        }
    }

    fn rate_group(&self, config: &Config, number: usize) -> RateGroup {
        let target = self.target(config, number);
        RateGroup {
            credential: self.credential,
            host: self.host.clone(),
            group: target.group.clone(),
            // A stand-in without a fast mode is not asked for it.
            fast: self.fast && (number == 0 || target.has_fast),
        }
    }
}

/// The targets of a call at one moment.
pub(crate) struct TargetView<'a> {
    pub(crate) config: &'a Config,
    pub(crate) targets: &'a CallTargets,
    pub(crate) now: Instant,
    /// The earliest time at which an unavailable target may be available again.
    pub(crate) back: Option<Instant>,
}

impl Targets for TargetView<'_> {
    type Permit = TargetPermit;

    fn count(&self) -> usize {
        self.targets.count(self.config)
    }

    fn share_limits(&self, one: usize, other: usize) -> bool {
        let group = |number| &self.targets.target(self.config, number).group;
        group(one) == group(other)
    }

    fn min_latency(&self, target: usize) -> Duration {
        let id = &self.targets.target(self.config, target).id;
        self.config.shared.min_latency(id, self.targets.streams)
    }

    fn admit(&mut self, target: usize) -> Result<TargetPermit, Unavailable> {
        let model = self.targets.host_model(self.config, target);
        let group = self.targets.rate_group(self.config, target);
        let shared = &self.config.shared;
        let admit = || {
            let group = shared.groups.admit(&group, self.now)?;
            let model = shared.models.admit(&model, self.now)?;
            Ok(TargetPermit { model, group })
        };
        admit().inspect_err(|unavailable: &Unavailable| {
            self.back = earlier(self.back, Some(unavailable.until));
        })
    }
}

/// A permit for one call to one target. Dropped unsettled, it gives a probe back.
pub(crate) struct TargetPermit {
    pub(crate) model: Permit<HostModel>,
    pub(crate) group: Permit<RateGroup>,
}

impl TargetPermit {
    /// Returns true if the call finds out whether an outage is over.
    pub(crate) fn is_probe(&self) -> bool {
        self.model.is_probe() || self.group.is_probe()
    }

    /// Emits an event if the call is a probe.
    pub(crate) fn report_probe(&self, config: &Config) {
        if self.is_probe() {
            let (layer, scope) = (LAYER, &self.model.key().scope());
            emit(&config.events, &Event::CircuitProbe { layer, scope });
        }
    }

    /// Records the outcome. Returns the time at which the target may be available again, if the
    /// outcome started a cool-down.
    pub(crate) fn settle(self, config: &Config, class: &Class, now: Instant) -> Option<Instant> {
        let signals = config.triggers.signals(class);
        let model = settle(self.model, config, signals.model, class, now);
        let group = settle(self.group, config, signals.group, class, now);
        model.max(group)
    }
}

/// A key of a cool-down table, as events name it.
pub(crate) trait TargetKey: Clone + Eq + Hash {
    /// Returns the scope of its events.
    fn scope(&self) -> Scope;
}

impl TargetKey for HostModel {
    fn scope(&self) -> Scope {
        let mut scope = Scope::named(&self.id);
        scope.host = self.host.clone();
        scope.endpoint = Endpoint::Messages;
        scope
    }
}

impl TargetKey for RateGroup {
    fn scope(&self) -> Scope {
        let mut scope = Scope::named(&self.group);
        scope.endpoint = Endpoint::Messages;
        scope.credential = self.credential;
        scope.host = self.host.clone();
        scope.fast = self.fast;
        scope
    }
}

/// Records an outcome under one key and emits the event of a change. Returns the end of the
/// cool-down that it started.
pub(crate) fn settle<K: TargetKey>(
    permit: Permit<K>,
    config: &Config,
    signal: Signal,
    class: &Class,
    now: Instant,
) -> Option<Instant> {
    let key = permit.key().clone();
    let change = permit.settle(signal, *class, &config.cool_down, now, fastrand::f64())?;
    let (layer, scope) = (LAYER, &key.scope());
    match change {
        CoolDownChange::Started { cool_down, count } => {
            let event = Event::CircuitOpened {
                layer,
                scope,
                because: class.kind,
                cool_down,
                opens: count,
            };
            emit(&config.events, &event);
            now.checked_add(cool_down)
        }
        CoolDownChange::Cleared => {
            emit(&config.events, &Event::CircuitClosed { layer, scope });
            None
        }
    }
}

/// Returns the earlier of two instants of which either may be missing.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
