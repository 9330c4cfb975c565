//! The health of targets: failures, cool-downs and probes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_core::{Class, Kind, Reach};

/// The most parts of targets that are remembered.
const MAX_PARTS: usize = 1_024;
/// The failures in a row that begin a cool-down.
const FAILURES: u32 = 3;
/// The time after which a failure is forgotten.
const RECENT: Duration = Duration::from_secs(60);
/// The longest wait that a server can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// The penalty of one recent failure, and of a target that has just recovered, in seconds.
const PENALTY: f64 = 2.0;
/// The most failures that count for the penalty.
const MOST_PENALTIES: u32 = 5;
/// The time in which the penalty after a recovery ends.
const RAMP: Duration = Duration::from_secs(30);

/// The part of a target to which a failure belongs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// Its credential: all models.
    All,
    /// The models of one rate group.
    Group(Arc<str>),
    Model(Arc<str>),
}

impl Part {
    /// Returns the model or the group. Empty for the whole target.
    pub(crate) fn name(&self) -> Arc<str> {
        match self {
            Self::All => "".into(),
            Self::Group(name) | Self::Model(name) => name.clone(),
        }
    }
}

/// A model on a target, for one caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelAtTarget<'a> {
    pub(crate) target: usize,
    /// The credential of the caller, as a hash. 0 for a target that has a credential of its own.
    pub(crate) caller: u64,
    pub(crate) group: &'a Arc<str>,
    pub(crate) model: &'a Arc<str>,
}

/// The target, the caller or 0 for all callers, and the part.
type Key = (usize, u64, Part);

impl<'a> ModelAtTarget<'a> {
    /// Returns the keys of all parts that concern the place: those of all callers, and those of
    /// this one.
    fn keys(self) -> impl Iterator<Item = Key> + use<'a> {
        let own = (self.caller != 0).then_some(self.caller);
        [Some(0), own]
            .into_iter()
            .flatten()
            .flat_map(move |caller| {
                [
                    Part::All,
                    Part::Group(self.group.clone()),
                    Part::Model(self.model.clone()),
                ]
                .map(|part| (self.target, caller, part))
            })
    }

    /// Returns the key of the part to which a failure belongs. `None` if it is that of the request.
    fn key_of(&self, class: &Class) -> Option<Key> {
        let part = match class.reach {
            Reach::Credential => Part::All,
            Reach::Group => Part::Group(self.group.clone()),
            Reach::Model => Part::Model(self.model.clone()),
            _ => return None,
        };
        let caller = match class.kind {
            // The server itself is at fault.
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated => 0,
            _ => self.caller,
        };
        Some((self.target, caller, part))
    }
}

/// The course of the cool-downs after one kind of failure.
#[derive(Clone, Copy, Debug)]
struct Course {
    failures: u32,
    first: Duration,
    longest: Duration,
    /// The time in which one probe keeps other requests away. A probe whose end never comes keeps
    /// them away no longer.
    probe: Duration,
}

impl Course {
    /// Returns the course for a kind of failure, or `None` if the target is not at fault.
    fn of(kind: Kind) -> Option<Self> {
        let course = |failures, first, longest, probe| {
            Some(Self {
                failures,
                first: Duration::from_secs(first),
                longest: Duration::from_secs(longest),
                probe: Duration::from_secs(probe),
            })
        };
        match kind {
            // A 429 comes at once, so a second without one means that the request was admitted.
            Kind::RateLimited | Kind::RampLimited => course(1, 1, 30, 1),
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated => course(FAILURES, 5, 120, 60),
            // One 401 of a key that has worked is not yet a revoked key.
            Kind::Unauthorized => course(2, 30, 600, 60),
            Kind::SpendLimit => course(1, 60, 600, 60),
            // Only reported for a model that another target serves.
            Kind::Forbidden | Kind::NotFound => course(1, 300, 3_600, 60),
            _ => None,
        }
    }
}

/// The state of one part of a target.
#[derive(Clone, Copy, Debug)]
struct Health {
    kind: Kind,
    /// Failures in a row.
    failures: u32,
    failed_at: Instant,
    /// Cool-downs in a row.
    count: u32,
    cool_down: Option<CoolDown>,
    probe: Option<Probe>,
    /// The end of the last cool-down that a probe has ended.
    recovered_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct CoolDown {
    since: Instant,
    until: Instant,
    /// True if the server has asked for it.
    is_explicit: bool,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    id: u64,
    until: Instant,
}

/// The availability of a target for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Open,
    /// A cool-down is over, and one request may find out if the target has recovered.
    Probe,
    Unavailable(Unavailable),
}

/// The reason why a target is not available now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable {
    pub(crate) until: Instant,
    pub(crate) kind: Kind,
    /// The server has asked for this wait.
    pub(crate) is_explicit: bool,
    /// A probe is in flight.
    pub(crate) is_probed: bool,
}

impl Unavailable {
    /// Returns true if a request must wait, and is not sent before, even if nothing else is left.
    pub(crate) const fn must_wait(&self) -> bool {
        self.is_explicit || matches!(self.kind, Kind::RateLimited | Kind::RampLimited)
    }
}

/// The health of all targets.
#[derive(Debug, Default)]
pub(crate) struct HealthTable {
    parts: HashMap<Key, Health, RandomState>,
    /// The number of probes so far, for the next id.
    probes: u64,
}

impl HealthTable {
    fn parts_of(&self, place: ModelAtTarget<'_>) -> impl Iterator<Item = &Health> {
        // Nearly always, no target has failed.
        let keys = (!self.parts.is_empty()).then(|| place.keys());
        let keys = keys.into_iter().flatten();
        keys.filter_map(|key| self.parts.get(&key))
    }

    /// Returns the availability of a target for a model of a group.
    pub(crate) fn availability(&self, place: ModelAtTarget<'_>, now: Instant) -> Availability {
        let mut found = Availability::Open;
        for health in self.parts_of(place) {
            let Some(cool_down) = health.cool_down else {
                continue;
            };
            let unavailable = |until, is_probed: bool| Unavailable {
                until,
                kind: health.kind,
                is_explicit: cool_down.is_explicit && !is_probed,
                is_probed,
            };
            let next = if now < cool_down.until {
                Availability::Unavailable(unavailable(cool_down.until, false))
            } else {
                match health.probe {
                    Some(probe) if now < probe.until => {
                        Availability::Unavailable(unavailable(probe.until, true))
                    }
                    _ => Availability::Probe,
                }
            };
            found = match (found, next) {
                (Availability::Unavailable(a), Availability::Unavailable(b)) => {
                    let longer = if a.until >= b.until { a } else { b };
                    Availability::Unavailable(Unavailable {
                        is_explicit: a.is_explicit || b.is_explicit,
                        ..longer
                    })
                }
                (Availability::Unavailable(a), _) => Availability::Unavailable(a),
                (Availability::Probe, Availability::Open) => Availability::Probe,
                (_, next) => next,
            };
        }
        found
    }

    /// Returns the seconds by which recent failures make a target less attractive.
    pub(crate) fn penalty(&self, place: ModelAtTarget<'_>, now: Instant) -> f64 {
        let left = |since: Instant, span: Duration| {
            let since = now.saturating_duration_since(since).as_secs_f64();
            (1.0 - since / span.as_secs_f64()).max(0.0)
        };
        let of_part = |health: &Health| {
            let failures = f64::from(health.failures.min(MOST_PENALTIES));
            let recovered = health.recovered_at.map_or(0.0, |at| left(at, RAMP));
            PENALTY * (failures * left(health.failed_at, RECENT) + recovered)
        };
        self.parts_of(place).map(of_part).fold(0.0, f64::max)
    }

    /// Begins the probe of all parts of a target whose cool-down is over. Returns its id.
    pub(crate) fn begin_probe(&mut self, place: ModelAtTarget<'_>, now: Instant) -> u64 {
        self.probes += 1;
        let id = self.probes;
        for key in place.keys() {
            if let Some(health) = self.parts.get_mut(&key)
                && health.cool_down.is_some_and(|it| it.until <= now)
            {
                let length = Course::of(health.kind).map_or(RECENT, |course| course.probe);
                let until = now + length;
                health.probe = Some(Probe { id, until });
            }
        }
        id
    }

    /// Ends a probe without a result, so that another request may probe.
    pub(crate) fn end_probe(&mut self, target: usize, id: u64) {
        for ((of, ..), health) in &mut self.parts {
            if *of == target && health.probe.is_some_and(|probe| probe.id == id) {
                health.probe = None;
            }
        }
    }

    /// Records that a target has answered a request that was sent at `sent`.
    pub(crate) fn on_success(&mut self, place: ModelAtTarget<'_>, sent: Instant, now: Instant) {
        if self.parts.is_empty() {
            return;
        }
        for key in place.keys() {
            let Some(health) = self.parts.get_mut(&key) else {
                continue;
            };
            // The request was sent before the trouble began, so it shows nothing.
            if sent < health.failed_at && health.cool_down.is_some_and(|it| sent < it.until) {
                continue;
            }
            if health.cool_down.take().is_some() {
                health.recovered_at = Some(now);
            }
            health.probe = None;
            health.failures = 0;
            health.count = 0;
        }
    }

    /// Records the failure of a request that was sent at `sent`. `chance` is in `[0, 1)`.
    pub(crate) fn on_failure(
        &mut self,
        place: ModelAtTarget<'_>,
        class: &Class,
        sent: Instant,
        now: Instant,
        chance: f64,
    ) {
        let Some(course) = Course::of(class.kind) else {
            return;
        };
        let Some(key) = place.key_of(class) else {
            return;
        };
        self.evict(now);
        let health = self.parts.entry(key).or_insert(Health {
            kind: class.kind,
            failures: 0,
            failed_at: now,
            count: 0,
            cool_down: None,
            probe: None,
            recovered_at: None,
        });
        let is_old = now.saturating_duration_since(health.failed_at) > RECENT;
        if is_old && health.cool_down.is_none() {
            health.failures = 0;
            health.count = 0;
        }
        let asked = class.retry_after.map(|wait| wait.min(MAX_RETRY_AFTER));
        let asked = asked.filter(|wait| *wait > Duration::ZERO);
        health.failures = health.failures.saturating_add(1);
        health.failed_at = now;
        health.kind = class.kind;
        if let Some(running) = &mut health.cool_down
            && (now < running.until || sent < running.until)
        {
            // A request of the time before, or one that was sent because nothing else was left.
            // Only the server's word makes the cool-down longer.
            if let Some(until) = asked.map(|asked| now + asked)
                && until > running.until
            {
                running.until = until;
                running.is_explicit = true;
                health.probe = None;
            }
            return;
        }
        if asked.is_none() && health.failures < course.failures && health.cool_down.is_none() {
            return;
        }
        health.count = health.count.saturating_add(1);
        health.probe = None;
        let guess = course
            .first
            .saturating_mul(1 << (health.count - 1).min(16))
            .min(course.longest);
        // Upwards only: a wait that was asked for is not shortened.
        let length = asked.unwrap_or(guess).mul_f64(1.0 + 0.2 * chance);
        health.cool_down = Some(CoolDown {
            since: now,
            until: now + length,
            is_explicit: asked.is_some(),
        });
    }

    /// Returns the cool-downs that are not over: the target, the part, the kind and the time left.
    pub(crate) fn cool_downs(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (usize, &Part, Kind, Duration)> {
        self.parts
            .iter()
            .filter_map(move |((target, _, part), health)| {
                let left = health.cool_down?.until.saturating_duration_since(now);
                (left > Duration::ZERO).then_some((*target, part, health.kind, left))
            })
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Makes room for another part: first what has recovered, then what began to fail first.
    fn evict(&mut self, now: Instant) {
        if self.parts.len() < MAX_PARTS {
            return;
        }
        self.parts.retain(|_, health| {
            health.cool_down.is_some() || now.saturating_duration_since(health.failed_at) < RECENT
        });
        while self.parts.len() >= MAX_PARTS {
            let since = |health: &Health| health.cool_down.map_or(health.failed_at, |it| it.since);
            let oldest = self.parts.iter().min_by_key(|(_, health)| since(health));
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.parts.remove(&oldest);
        }
    }
}
