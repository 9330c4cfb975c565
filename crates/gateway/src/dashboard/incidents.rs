//! The last incidents, in words.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;
use tower_claude::{
    Class,
    core::{
        alert::{Alert, AlertSink, Severity},
        toolkit::ReadableDuration,
    },
    event::{CallEnd, Ending, Event},
    metrics::MetricsObserver,
    wire::ModelCatalog,
};

/// The number of incidents that are kept.
const KEPT: usize = 50;

/// The time without a further event after which an incident is over. The next event begins a new
/// one.
const QUIET: Duration = Duration::from_secs(60);

/// The longest request id that is kept.
const LONGEST_ID: usize = 128;

/// The urgency of an incident or of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// It is over, or nothing is wrong.
    Good,
    /// The gateway copes with it.
    Warning,
    /// Callers feel it.
    Bad,
}

/// Events of one kind that concern the same subject.
#[derive(Clone, Debug)]
pub(super) struct Incident {
    kind: &'static str,
    subject: Arc<str>,
    pub(super) level: Level,
    pub(super) text: String,
    /// The request of the last event that names one.
    pub(super) request_id: Option<String>,
    pub(super) count: u64,
    pub(super) last: Instant,
}

#[derive(Debug, Default)]
struct List {
    /// The one with the newest event last.
    incidents: VecDeque<Incident>,
    /// The alerts that are raised.
    alerts: Vec<Alert>,
}

/// The incidents of all upstreams. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Incidents(Arc<Mutex<List>>);

/// An event in words.
struct Entry {
    kind: &'static str,
    subject: Arc<str>,
    level: Level,
    text: String,
}

impl Entry {
    fn new(kind: &'static str, subject: Arc<str>, level: Level, text: String) -> Self {
        Self {
            kind,
            subject,
            level,
            text,
        }
    }
}

impl List {
    fn add(&mut self, entry: Entry, request_id: Option<&str>, now: Instant) {
        let request_id = request_id
            .filter(|id| id.len() <= LONGEST_ID)
            .map(str::to_owned);
        let open = self.incidents.iter().position(|incident| {
            incident.kind == entry.kind
                && incident.subject == entry.subject
                && now.saturating_duration_since(incident.last) < QUIET
        });
        let before = open.and_then(|index| self.incidents.remove(index));
        self.incidents.push_back(Incident {
            kind: entry.kind,
            subject: entry.subject,
            level: entry.level,
            text: entry.text,
            count: before.as_ref().map_or(1, |before| before.count + 1),
            request_id: request_id.or(before.and_then(|before| before.request_id)),
            last: now,
        });
        if self.incidents.len() > KEPT {
            self.incidents.pop_front();
        }
    }
}

impl Incidents {
    /// Records an event if it is an incident. `labels` has the names of scopes.
    pub(crate) fn on_event(&self, event: &Event<'_>, labels: &MetricsObserver) {
        if let Some((entry, request_id)) = describe(event, labels) {
            let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            list.add(entry, request_id, Instant::now());
        }
    }

    /// Returns the incidents, the newest first, and the alerts that are raised.
    pub(super) fn all(&self) -> (Vec<Incident>, Vec<Alert>) {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest_first = list.incidents.iter().rev().cloned();
        (newest_first.collect(), list.alerts.clone())
    }
}

impl AlertSink for Incidents {
    fn on_alert(&self, alert: &Alert) {
        let is_same = |other: &Alert| {
            (other.kind, &other.subject, other.dimension)
                == (alert.kind, &alert.subject, alert.dimension)
        };
        let level = match (alert.raised, alert.kind.severity()) {
            (false, _) => Level::Good,
            (true, Severity::Critical) => Level::Bad,
            (true, _) => Level::Warning,
        };
        let what = if alert.raised {
            "Alert"
        } else {
            "Alert is over"
        };
        let text = format!("{what}: {}. {}", alert.message, alert.kind.help());
        let dimension = alert.dimension.map_or("", |dimension| dimension.label());
        let subject = format!("{} {dimension}", alert.subject).into();
        let entry = Entry::new(alert.kind.as_str(), subject, level, text);
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.alerts.retain(|other| !is_same(other));
        if alert.raised {
            list.alerts.push(alert.clone());
        }
        list.add(entry, None, Instant::now());
    }
}

/// Returns the class of a failure in words.
fn failure(class: Class, status: Option<StatusCode>) -> String {
    let kind = class.kind.as_str().replace('_', " ");
    match status {
        Some(status) => format!("{kind}, {}", status.as_u16()),
        None => kind,
    }
}

/// Returns the catalog's name of a model. Other names are those of callers, and not shown.
fn model(name: Option<&str>) -> Arc<str> {
    let known = name.and_then(|name| ModelCatalog::builtin().get(name));
    known.map_or_else(|| Arc::from("unlisted model"), |model| model.id.clone())
}

/// Returns the incident of a call that failed for its caller. `None` for any other call.
fn failed_call(end: &CallEnd<'_>) -> Option<Entry> {
    let model = model(end.asked);
    let (kind, what) = match (end.ending, &end.rejection) {
        (Ending::Broken, _) => {
            let what = "a response broke off after its content began";
            ("broken", what.to_owned())
        }
        (Ending::Failed, Some(rejection)) if end.class.local => {
            ("rejected", format!("a call failed, {}", rejection.reason))
        }
        (Ending::Failed, _) => {
            let plural = if end.attempts == 1 { "" } else { "s" };
            let what = format!("a call failed after {} attempt{plural}", end.attempts);
            ("failed", what)
        }
        _ => return None,
    };
    // A request that the API does not accept is the caller's fault.
    let level = match end.status.map(|status| status.as_u16()) {
        Some(400 | 404 | 413 | 422) => Level::Warning,
        _ => Level::Bad,
    };
    let text = match kind {
        "rejected" => format!("{model}: {what}"),
        _ => format!("{model}: {what} ({})", failure(end.class, end.status)),
    };
    Some(Entry::new(kind, model, level, text))
}

/// Returns an incident with its request id. `None` for an ordinary event.
fn describe<'a>(event: &Event<'a>, labels: &MetricsObserver) -> Option<(Entry, Option<&'a str>)> {
    let (entry, request_id) = match event {
        Event::Retry {
            model: name,
            class,
            details,
            ..
        } => {
            let model = model(*name);
            let why = failure(*class, details.status);
            let text = format!("{model}: a request failed ({why}) and was sent again");
            let entry = Entry::new("retry", model, Level::Warning, text);
            (entry, details.request_id)
        }
        Event::CallEnded(end) => {
            let entry = failed_call(end)?;
            (entry, end.request_id)
        }
        Event::FellBack {
            from, to, class, ..
        } => {
            let (from, to) = (model(Some(from)), model(Some(to)));
            let text = format!("{to} answers for {from} ({})", failure(*class, None));
            (Entry::new("fell_back", from, Level::Warning, text), None)
        }
        Event::Paused { scope, pause, .. } => {
            let scope = labels.scope_label(scope);
            let pause = ReadableDuration(*pause);
            let text = format!("{scope}: a 429 arrived, nothing is sent for {pause}");
            (Entry::new("paused", scope, Level::Warning, text), None)
        }
        Event::CircuitOpened {
            scope,
            because,
            cool_down,
            ..
        } => {
            let scope = labels.scope_label(scope);
            let because = because.as_str().replace('_', " ");
            let cool_down = ReadableDuration(*cool_down);
            let text = format!(
                "{scope}: the circuit opened ({because}), the next probe is in {cool_down}"
            );
            (Entry::new("circuit", scope, Level::Warning, text), None)
        }
        Event::CircuitClosed { scope, .. } => {
            let scope = labels.scope_label(scope);
            let text = format!("{scope}: the circuit closed, its model answers again");
            (Entry::new("circuit_closed", scope, Level::Good, text), None)
        }
        Event::Unauthorized {
            scope, request_id, ..
        } => {
            let scope = labels.scope_label(scope);
            let text = format!("{scope}: the API does not accept a key (401)");
            let entry = Entry::new("unauthorized", scope, Level::Bad, text);
            (entry, *request_id)
        }
        Event::StoreLost { because, .. } => {
            let text = format!("The shared store does not answer ({because})");
            (Entry::new("store", "".into(), Level::Warning, text), None)
        }
        Event::StoreRegained { outage, .. } => {
            let outage = ReadableDuration(*outage);
            let text = format!("The shared store answers again after {outage}");
            (
                Entry::new("store_regained", "".into(), Level::Good, text),
                None,
            )
        }
        _ => return None,
    };
    Some((entry, request_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &'static str, subject: &str) -> Entry {
        Entry::new(
            kind,
            subject.into(),
            Level::Warning,
            format!("{subject} {kind}"),
        )
    }

    #[test]
    fn events_of_one_incident_are_one_line_with_the_last_request_id() {
        let (mut list, now) = (List::default(), Instant::now());
        list.add(entry("retry", "a"), Some("req_1"), now);
        list.add(entry("retry", "b"), None, now);
        list.add(entry("retry", "a"), Some("req_2"), now + QUIET / 2);
        list.add(entry("retry", "a"), None, now + QUIET);
        assert_eq!(list.incidents.len(), 2);
        let newest = list.incidents.back().unwrap();
        assert_eq!((newest.count, &*newest.subject), (3, "a"));
        assert_eq!(newest.request_id.as_deref(), Some("req_2"));
    }

    #[test]
    fn event_after_a_quiet_minute_begins_a_new_incident() {
        let (mut list, now) = (List::default(), Instant::now());
        list.add(entry("retry", "a"), None, now);
        list.add(entry("retry", "a"), None, now + QUIET);
        assert_eq!(list.incidents.len(), 2);
    }

    #[test]
    fn list_has_a_bound() {
        let (mut list, now) = (List::default(), Instant::now());
        for number in 0..1_000 {
            list.add(entry("retry", &number.to_string()), None, now);
        }
        assert_eq!(list.incidents.len(), KEPT);
        assert_eq!(&*list.incidents[0].subject, "950");
    }

    #[test]
    fn long_request_id_is_not_kept() {
        let mut list = List::default();
        list.add(entry("retry", "a"), Some(&"x".repeat(129)), Instant::now());
        assert_eq!(list.incidents[0].request_id, None);
    }
}
