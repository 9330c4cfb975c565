//! Alerts before users feel a limit, without a monitoring system.
//!
//! [`AlertObserver`] is an [`Observer`] of events. It raises an alert when a limit is nearly used
//! up, when it will be soon, when a key is rejected, when requests wait for long, and so on
//! ([`AlertKind`]), and resolves it when the condition is over. The conditions are those of the
//! rules for Prometheus in `ops/prometheus/rules.yml`, and have the same names. Where a monitoring
//! system scrapes the metrics, those rules suffice.
//!
//! ```
//! use tower_claude_core::{
//!     alert::{Alert, AlertObserver},
//!     event::EventSink,
//! };
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let alerts = AlertObserver::new().with_sink(|alert: &Alert| {
//!     if alert.raised {
//!         println!("{}: {}. {}", alert.kind, alert.message, alert.kind.help());
//!     }
//! });
//! let sink = EventSink::new(alerts.clone()); // or `recommended().with_observer(alerts.clone())`
//! // Conditions are evaluated every 30 s while this future is polled.
//! tokio::spawn(alerts.run());
//! # let _ = sink;
//! # }
//! ```
//!
//! # When an alert is raised
//!
//! A condition must hold for the time that [`AlertKind::holds_for`] returns. Each subject has one
//! alert, which is raised once and resolved once. A rejected key and a spend limit are raised at
//! once, in the call that meets them. Everything else needs [`AlertObserver::run`], or calls of
//! [`AlertObserver::evaluate`].
//!
//! A raised alert is a line at `WARN` of `tracing` (target `tower_claude::alert`), or at `ERROR` if
//! it is [`Severity::Critical`], and a resolved one a line at `INFO`. A [`AlertSink`] gets both.
//!
//! # Review of rejected requests
//!
//! A sink can also get the end of each attempt that the API has answered with 400 or 403
//! ([`AlertSink::on_rejected_request`]): its model, status and request id. The content of the
//! request follows only through a function that redacts it, if the program sets one
//! ([`AlertObserver::with_redactor`]).
//!
//! # Webhook
//!
//! The module `webhook` (feature `webhook`) has a sink that posts alerts to a URL, signed and
//! repeated until they are accepted.
//!
//! # Memory
//!
//! Subjects are the bounded labels of scopes, circuits and models, which no caller can choose
//! freely. There are at most 128 scopes, each with one hour of samples.

mod condition;
mod counters;
mod history;
mod kind;
mod message;
#[cfg(test)]
mod tests;
#[cfg(feature = "webhook")]
pub mod webhook;

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::{Instant, MissedTickBehavior};
use tower_claude_wire::ModelCatalog;

use self::{
    condition::{Active, Key, Met},
    counters::{Counters, ScopeCounters},
    history::History,
};
use crate::{
    class::Kind,
    event::{AttemptEnd, Ending, Event, Observer},
    labels::Labels,
    scope::Scope,
};

pub use self::{
    history::INTERVAL,
    kind::{AlertKind, Severity},
    message::Alert,
};

/// A receiver of alerts. A closure is a sink.
///
/// It is called inside of a call or of [`AlertObserver::evaluate`], so it must be fast: a sink that
/// sends the alert elsewhere puts it into a channel.
pub trait AlertSink: Send + Sync {
    /// Receives an alert that was raised or resolved.
    fn on_alert(&self, alert: &Alert);

    /// Receives the end of an attempt that the API has rejected for its content or its rights (400
    /// or 403), for review. It has model, status and request id, and no content.
    ///
    /// `redacted` is the request as the redactor has returned it. `None` without a redactor. See
    /// [`AlertObserver::with_redactor`].
    fn on_rejected_request(&self, end: &AttemptEnd<'_>, redacted: Option<&str>) {
        let _ = (end, redacted);
    }
}

impl<F: Fn(&Alert) + Send + Sync> AlertSink for F {
    fn on_alert(&self, alert: &Alert) {
        self(alert);
    }
}

/// A function that returns the text of a request without what nobody may see.
type Redactor = dyn Fn(&AttemptEnd<'_>, &[u8]) -> Option<String> + Send + Sync;

/// The samples and the conditions that hold.
#[derive(Default)]
struct State {
    history: History,
    active: HashMap<Key, Active>,
}

struct Inner {
    counters: Counters,
    state: Mutex<State>,
}

/// An observer that raises alerts. See the [module](self).
///
/// Cheap to clone. Clones share all alerts.
#[derive(Clone)]
pub struct AlertObserver {
    labels: Arc<Labels>,
    sinks: Vec<Arc<dyn AlertSink>>,
    redactor: Option<Arc<Redactor>>,
    inner: Arc<Inner>,
}

impl Default for AlertObserver {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for AlertObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlertObserver")
            .field("sinks", &self.sinks.len())
            .finish_non_exhaustive()
    }
}

impl AlertObserver {
    /// Creates an observer whose alerts go to `tracing`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            labels: Arc::new(Labels::new(Cow::Borrowed(ModelCatalog::builtin()))),
            sinks: Vec::new(),
            redactor: None,
            inner: Arc::new(Inner {
                counters: Counters::default(),
                state: Mutex::default(),
            }),
        }
    }

    /// Adds a sink. Each sink gets all alerts.
    #[must_use]
    pub fn with_sink(mut self, sink: impl AlertSink + 'static) -> Self {
        self.sinks.push(Arc::new(sink));
        self
    }

    /// Sets the function that redacts the body of a rejected request for the review hook
    /// [`AlertSink::on_rejected_request`]. None by default, and then no request is kept.
    ///
    /// It gets the end of the attempt and the body as it was sent, and returns a text, or `None` to
    /// pass no text on. Headers, and so keys, are never passed. It is called inside of the call,
    /// only for responses 400 and 403, and must not panic. While calls run, their bodies are kept
    /// until the end of the attempt. The bodies of streams are not.
    ///
    /// ```
    /// use tower_claude_core::alert::AlertObserver;
    ///
    /// let alerts = AlertObserver::new()
    ///     .with_redactor(|end, body| Some(format!("{:?}: {} bytes", end.model, body.len())));
    /// # let _ = alerts;
    /// ```
    #[must_use]
    pub fn with_redactor(
        mut self,
        redact: impl Fn(&AttemptEnd<'_>, &[u8]) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.redactor = Some(Arc::new(redact));
        self
    }

    /// Sets the catalog, whose models and groups are named. [`ModelCatalog::builtin`] by default.
    #[must_use]
    pub fn with_catalog(mut self, catalog: ModelCatalog) -> Self {
        self.labels = Arc::new(self.labels.with_catalog(catalog));
        self
    }

    /// Puts a name before the subjects of alerts of scopes, for example that of one of several
    /// upstreams.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.labels = Arc::new(self.labels.with_name(name));
        self
    }

    /// Names a credential, so that its scopes have alerts of their own.
    ///
    /// `credential` is the value of [`Scope::credential_of`](crate::Scope::credential_of) for a
    /// request with it.
    #[must_use]
    pub fn with_credential_name(mut self, credential: u64, name: &str) -> Self {
        self.labels = Arc::new(self.labels.with_credential(credential, name));
        self
    }

    /// Evaluates all conditions every 30 s. Spawn it. It ends when it is dropped.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.evaluate(Instant::now());
        }
    }

    /// Takes a sample of all counters and evaluates all conditions. Call it every 30 s if
    /// [`run`](Self::run) is not used.
    pub fn evaluate(&self, now: Instant) {
        let alerts = {
            let mut state = self.lock();
            state.history.sample(&self.inner.counters, now);
            let met = state.history.conditions(&self.inner.counters, now);
            condition::update(&mut state.active, met, now)
        };
        self.emit(&alerts);
    }

    /// Returns the alerts that are raised, in no order.
    #[must_use]
    pub fn raised(&self) -> Vec<Alert> {
        let state = self.lock();
        let raised = state.active.iter().filter(|(_, active)| active.raised);
        raised
            .map(|(key, active)| active.alert(key, true))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn emit(&self, alerts: &[Alert]) {
        for alert in alerts {
            alert.trace();
            for sink in &self.sinks {
                sink.on_alert(alert);
            }
        }
    }

    /// Raises an alert whose condition has just been met and need not hold for a time.
    fn raise(&self, kind: AlertKind, subject: Arc<str>) {
        let met = Met::new(kind, subject, None, 1.0);
        let raised = condition::raise(&mut self.lock().active, met, Instant::now());
        self.emit(raised.as_slice());
    }

    fn review(&self, end: &AttemptEnd<'_>, redacted: Option<&str>) {
        for sink in &self.sinks {
            sink.on_rejected_request(end, redacted);
        }
    }

    fn of_scope(&self, scope: &Scope) -> Arc<ScopeCounters> {
        let scopes = &self.inner.counters.scopes;
        scopes.of_scope(&self.labels, scope, ScopeCounters::new)
    }

    fn on_attempt(&self, end: &AttemptEnd<'_>) {
        let scopes = &self.inner.counters.scopes;
        let scope = scopes.of_attempt(&self.labels, end, ScopeCounters::new);
        let kind = (end.ending != Ending::Dropped).then_some(end.class.kind);
        scope.on_attempt(kind, end.usage);
        match kind {
            Some(Kind::Unauthorized) => self.raise(AlertKind::KeyRejected, scope.label.clone()),
            Some(Kind::SpendLimit) => self.raise(AlertKind::SpendLimit, scope.label.clone()),
            // With a redactor, `Observer::on_rejected_request` follows.
            Some(Kind::Forbidden | Kind::BadRequest) if self.redactor.is_none() => {
                self.review(end, None);
            }
            _ => {}
        }
    }
}

impl Observer for AlertObserver {
    fn wants_rejected_requests(&self) -> bool {
        self.redactor.is_some()
    }

    fn on_rejected_request(&self, end: &AttemptEnd<'_>, body: Option<&[u8]>) {
        let Some(redact) = &self.redactor else {
            return;
        };
        let redacted = body.and_then(|body| redact(end, body));
        self.review(end, redacted.as_deref());
    }

    fn on_event(&self, event: &Event<'_>) {
        let counters = &self.inner.counters;
        match event {
            Event::AttemptEnded(end) => self.on_attempt(end),
            Event::Admitted { scope, wait, .. } => {
                self.of_scope(scope).on_admitted(*wait);
            }
            Event::Headroom { scope, limits, .. } => {
                let limits = limits.of_pool(scope.fast).map(|gauge| gauge.limit);
                self.of_scope(scope).on_limits(limits);
            }
            Event::Settled {
                scope,
                estimated,
                usage,
                ..
            } => self.of_scope(scope).on_estimates(estimated.ratios(usage)),
            Event::CircuitOpened { scope, .. } => {
                counters.set_circuit(&self.labels.scope(scope), true);
            }
            Event::CircuitProbe { scope, .. } | Event::CircuitClosed { scope, .. } => {
                counters.set_circuit(&self.labels.scope(scope), false);
            }
            Event::FellBack { from, to, .. } => {
                let (from, to) = (self.labels.model(Some(from)), self.labels.model(Some(to)));
                counters.on_fallback(from, to);
            }
            Event::StoreLost { layer, .. } => counters.set_store(layer, true),
            Event::StoreRegained { layer, .. } => counters.set_store(layer, false),
            _ => {}
        }
    }
}
