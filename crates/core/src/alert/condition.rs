//! The conditions that hold, and since when.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{kind::AlertKind, message::Alert};
use crate::dimension::Dimension;

/// The subject of an alert of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    kind: AlertKind,
    subject: Arc<str>,
    dimension: Option<Dimension>,
}

/// A condition that is met now.
#[derive(Debug)]
pub(super) struct Met {
    key: Key,
    value: f64,
    message: String,
}

impl Met {
    pub(super) fn new(
        kind: AlertKind,
        subject: Arc<str>,
        dimension: Option<Dimension>,
        value: f64,
    ) -> Self {
        let message = message(kind, &subject, dimension, value);
        Self {
            key: Key {
                kind,
                subject,
                dimension,
            },
            value,
            message,
        }
    }
}

fn message(kind: AlertKind, subject: &str, dimension: Option<Dimension>, value: f64) -> String {
    let dimension = dimension.map_or("", Dimension::label);
    let percent = 100.0 * value;
    match kind {
        AlertKind::LimitUseHigh => {
            format!("{dimension} of {subject}: P95 use {percent:.0} % of the limit for an hour")
        }
        AlertKind::LimitExhaustionForecast => format!(
            "{dimension} of {subject}: the limit is used up within an hour if use goes on growing"
        ),
        AlertKind::KeyRejected => format!("{subject}: the API does not accept the key (401)"),
        AlertKind::SpendLimit => {
            format!("{subject}: the spend limit of the organization or workspace is reached")
        }
        AlertKind::RateLimitedUpstream => {
            format!("{subject}: {percent:.1} % of responses are rate limits (429)")
        }
        AlertKind::QueueWait => format!("{subject}: requests wait for {value:.1} s (P95)"),
        AlertKind::EstimateDrift => format!(
            "{dimension} of {subject}: requests use {value:.2} times the tokens that are estimated"
        ),
        AlertKind::CircuitOpen => format!("{subject}: the circuit is open"),
        AlertKind::FallbackActive => format!("{subject}: a stand-in has answered for ten minutes"),
        AlertKind::StoreLocal => {
            format!("{subject}: the shared store does not answer, each process uses its own share")
        }
    }
}

/// A condition that holds.
#[derive(Debug)]
pub(super) struct Active {
    since: Instant,
    pub(super) raised: bool,
    value: f64,
    message: String,
    /// The time at which it was met last.
    seen: Instant,
}

impl Active {
    pub(super) fn alert(&self, key: &Key, raised: bool) -> Alert {
        Alert {
            kind: key.kind,
            raised,
            subject: key.subject.clone(),
            dimension: key.dimension,
            value: self.value,
            since: self.since,
            message: self.message.clone(),
        }
    }
}

/// Records a condition. Returns the alert if it is raised now.
pub(super) fn raise(active: &mut HashMap<Key, Active>, met: Met, now: Instant) -> Option<Alert> {
    let Met {
        key,
        value,
        message,
    } = met;
    let entry = active.entry(key.clone()).or_insert_with(|| Active {
        since: now,
        raised: false,
        value,
        message: String::new(),
        seen: now,
    });
    (entry.value, entry.message, entry.seen) = (value, message, now);
    let held = now.saturating_duration_since(entry.since);
    if entry.raised || held < key.kind.holds_for() {
        return None;
    }
    entry.raised = true;
    Some(entry.alert(&key, true))
}

/// Records all conditions that are met now, and forgets all others. Returns the alerts that are
/// raised and resolved.
pub(super) fn update(active: &mut HashMap<Key, Active>, met: Vec<Met>, now: Instant) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for met in met {
        alerts.extend(raise(active, met, now));
    }
    active.retain(|key, entry| {
        // One that a call has met since this evaluation began is as new.
        let holds = entry.seen >= now;
        if !holds && entry.raised {
            alerts.push(entry.alert(key, false));
        }
        holds
    });
    alerts
}
