//! Metrics of all layers, for the facade crate [`metrics`](facade). Needs the feature `metrics`.
//!
//! [`MetricsObserver`] is an [`Observer`] of events. Give it to each layer with `with_observer`, or
//! to the whole recommended stack. The program chooses the recorder, for example that of
//! metrics-exporter-prometheus, and installs it **before** it creates the observer, because the
//! observer keeps the handles of its series.
//!
//! ```
//! use tower_claude_core::{event::EventSink, metrics::MetricsObserver};
//!
//! // Installed before: metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?
//! let metrics = MetricsObserver::new();
//! let sink = EventSink::new(metrics.clone());
//! # let _ = sink;
//! ```
//!
//! # The version of the facade
//!
//! The recorder must be one for the version of `metrics` that this crate re-exports as [`facade`].
//! A recorder for another version gets nothing, without an error.
//!
//! # Names and labels
//!
//! [`CATALOGUE`] lists all metrics with their labels. The names `tower_claude_*` are this project's
//! own. The names `gen_ai.*` follow the
//! [GenAI conventions of
//! OpenTelemetry](https://github.com/open-telemetry/semantic-conventions-genai) 0.1.0, and
//! [`GenAiNames`] selects older ones.
//!
//! No label has a value that a caller can choose freely:
//!
//! - `scope` is the endpoint and the group of models, such as `messages/sonnet-5.5`. Before it
//!   stands the name of the credential, if [`with_credential_name`] gives it one. Credentials
//!   without a name share their series, so give names if there are several with limits of their
//!   own. Several processes with one credential have the same labels.
//! - Models and their groups are those of the catalog, and `other`.
//! - There are at most 128 values of `scope`, and `other` for the rest.
//!
//! # What is counted
//!
//! - `tower_claude_*` counts attempts, which are what limits count. `gen_ai.*` counts calls. A call
//!   with two attempts is one call, and its usage is the sum of both.
//! - `tower_claude_charged_total` has no cache reads, because limits do not count them. The input
//!   of the GenAI conventions includes them.
//! - Durations end with the body of the response, or when it is dropped.
//! - Only Messages requests are counted in `gen_ai.*`.
//!
//! # Gauges of a limiter
//!
//! No event tells how levels refill. `tower_claude_limiter::record_metrics` (feature `metrics`)
//! records the state of a limiter. Call it before each scrape.
//!
//! # Cost
//!
//! The handles of a series are kept, so that most events look up no label. The series of a scope
//! are created with its first request. The head of each response is read, as for each observer.
//!
//! [`with_credential_name`]: MetricsObserver::with_credential_name

mod catalogue;
mod handles;
mod names;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc, time::Duration};

use ::metrics::{Counter, SharedString};
use tower_claude_wire::{Billing, ModelCatalog, Money, Usage};

use self::handles::{ModelHandles, ScopeHandles, word};
use crate::{
    class::Kind,
    dimension::Dimension,
    endpoint::Endpoint,
    event::{AttemptDetails, AttemptEnd, CallEnd, Ending, Event, Observer},
    labels::{Labels, ScopeTable, Table},
    priority::Priority,
    scope::Scope,
};

pub use self::{
    catalogue::{CATALOGUE, MetricDefinition, MetricKind},
    names::GenAiNames,
};
pub use ::metrics as facade;

struct Recorded {
    scopes: ScopeTable<ScopeHandles>,
    /// By the model asked for and the one that served.
    models: Table<(Arc<str>, Arc<str>), ModelHandles>,
    costs: Table<Arc<str>, Counter>,
}

/// An observer that records events as metrics. See the [module](self).
///
/// Cheap to clone. Clones record the same series.
#[derive(Clone)]
pub struct MetricsObserver {
    labels: Arc<Labels>,
    names: GenAiNames,
    recorded: Arc<Recorded>,
}

impl Default for MetricsObserver {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MetricsObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsObserver")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl MetricsObserver {
    /// Creates an observer, and describes the metrics to the recorder of this thread or program.
    #[must_use]
    pub fn new() -> Self {
        for metric in CATALOGUE {
            metric.describe();
        }
        Self {
            labels: Arc::new(Labels::new(Cow::Borrowed(ModelCatalog::builtin()))),
            names: GenAiNames::default(),
            recorded: Arc::new(Recorded {
                scopes: ScopeTable::new(),
                models: Table::new(),
                costs: Table::new(),
            }),
        }
    }

    /// Selects the names by the GenAI conventions. [`GenAiNames::New`] by default.
    #[must_use]
    pub fn with_genai_names(mut self, names: GenAiNames) -> Self {
        self.names = names;
        self
    }

    /// Sets the catalog, whose models and groups have labels of their own, and whose prices are
    /// used. [`ModelCatalog::builtin`] by default.
    #[must_use]
    pub fn with_catalog(mut self, catalog: ModelCatalog) -> Self {
        self.labels = Arc::new(self.labels.with_catalog(catalog));
        self
    }

    /// Puts a name before all values of `scope`, for example that of one of several upstreams.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.labels = Arc::new(self.labels.with_name(name));
        self
    }

    /// Names a credential, so that its scopes have series of their own.
    ///
    /// `credential` is the value of [`Scope::credential_of`] for a request with it.
    #[must_use]
    pub fn with_credential_name(mut self, credential: u64, name: &str) -> Self {
        self.labels = Arc::new(self.labels.with_credential(credential, name));
        self
    }

    /// Returns the value of the label `scope` for a scope.
    #[must_use]
    pub fn scope_label(&self, scope: &Scope) -> Arc<str> {
        self.of_scope(scope).label.clone()
    }

    /// Records a level of a limiter. `scope` is a [`scope_label`](Self::scope_label). `level` is
    /// negative in debt.
    pub fn record_level(&self, scope: &Arc<str>, of: Dimension, level: i64, capacity: u64) {
        let labels = || {
            let scope = SharedString::from_shared(scope.clone());
            [scope, SharedString::const_str(of.label())]
        };
        catalogue::LEVEL.gauge_of(labels()).set(level as f64);
        catalogue::CAPACITY.gauge_of(labels()).set(capacity as f64);
    }

    /// Records the queue of one priority class of a limiter, and the estimated wait of a new
    /// request behind it. `scope` is a [`scope_label`](Self::scope_label).
    pub fn record_queue(&self, scope: &Arc<str>, of: Priority, queued: usize, wait: Duration) {
        let labels = || {
            let scope = SharedString::from_shared(scope.clone());
            [scope, SharedString::const_str(of.label())]
        };
        let length = catalogue::QUEUE_LENGTH.gauge_of(labels());
        length.set(queued as f64);
        let estimated = catalogue::ESTIMATED_WAIT.gauge_of(labels());
        estimated.set(wait.as_secs_f64());
    }

    /// Records the requests in flight of a limiter, and if it admits nothing because of a 429.
    /// `scope` is a [`scope_label`](Self::scope_label).
    pub fn record_in_flight(&self, scope: &Arc<str>, in_flight: u64, is_paused: bool) {
        let scope = SharedString::from_shared(scope.clone());
        let gauge = catalogue::IN_FLIGHT.gauge_of([scope.clone()]);
        gauge.set(in_flight as f64);
        catalogue::PAUSED
            .gauge_of([scope])
            .set(f64::from(u8::from(is_paused)));
    }

    fn of_scope(&self, scope: &Scope) -> Arc<ScopeHandles> {
        let scopes = &self.recorded.scopes;
        scopes.of_scope(&self.labels, scope, ScopeHandles::new)
    }

    /// Returns the label of the scope of an attempt, or an empty one.
    fn scope_of(&self, details: &AttemptDetails<'_>) -> SharedString {
        let scope = details.scope.map(|scope| self.of_scope(scope).scope());
        scope.unwrap_or(SharedString::const_str(""))
    }

    fn on_attempt(&self, end: &AttemptEnd<'_>) {
        let kind = (end.ending != Ending::Dropped).then_some(end.class.kind);
        let scopes = &self.recorded.scopes;
        let handles = scopes.of_attempt(&self.labels, end, ScopeHandles::new);
        handles.on_attempt(kind, end.usage);
        if let (Some(model), Some(billing)) = (end.model, end.billing) {
            self.on_cost(model, end.usage, billing);
        }
    }

    /// Records the cost of an attempt. The bill in the event may be by the catalog of an observer
    /// that forwards its events to this one.
    fn on_cost(&self, model: &str, usage: &Usage, billing: Billing) {
        let catalog = &self.labels.catalog;
        let Some(bill) = catalog.bill(model, usage, billing) else {
            return;
        };
        let label = self.labels.model(Some(model));
        let counter = self.recorded.costs.get_or_insert(label.clone(), || {
            catalogue::COST.counter_of([SharedString::from_shared(label)])
        });
        counter.increment(u64::try_from(bill.cost.nanos()).unwrap_or(0));
    }

    fn on_call(&self, end: &CallEnd<'_>) {
        if end.endpoint != Endpoint::Messages {
            return;
        }
        let asked = self.labels.model(end.asked);
        // A call that was never sent has no model that served it.
        let served = match end.model {
            Some(model) => self.labels.model(Some(model)),
            None => Arc::from(""),
        };
        let key = (asked.clone(), served.clone());
        let models = &self.recorded.models;
        let handles = models.get_or_insert(key, || ModelHandles::new(asked, served, self.names));
        let error = match end.ending {
            Ending::Answered => "",
            Ending::Dropped => "dropped",
            Ending::Failed | Ending::Broken => match &end.rejection {
                Some(rejection) if end.class.local => rejection.reason.as_str(),
                _ => end.class.kind.as_str(),
            },
        };
        handles.on_call(end, error);
    }

    fn set_circuit(&self, scope: &Scope, state: u8) {
        let circuit = SharedString::from_shared(self.labels.scope(scope));
        let gauge = catalogue::CIRCUIT_STATE.gauge_of([circuit]);
        gauge.set(f64::from(state));
    }
}

impl Observer for MetricsObserver {
    fn catalog(&self) -> &ModelCatalog {
        &self.labels.catalog
    }

    fn on_event(&self, event: &Event<'_>) {
        let kind = |kind: Kind| SharedString::const_str(kind.as_str());
        match event {
            Event::AttemptEnded(end) => self.on_attempt(end),
            Event::CallEnded(end) => self.on_call(end),
            Event::Admitted {
                scope,
                wait,
                priority,
                ..
            } => {
                let handles = self.of_scope(scope);
                handles.wait(*priority).record(wait.as_secs_f64());
            }
            Event::Headroom { scope, limits, .. } => {
                let handles = self.of_scope(scope);
                for (index, gauge) in limits.of_pool(scope.fast).into_iter().enumerate() {
                    handles.on_gauge(index, gauge);
                }
            }
            Event::Threshold {
                scope, crossing, ..
            } => {
                let of = SharedString::const_str(crossing.dimension.label());
                let labels = [self.of_scope(scope).scope(), of];
                catalogue::THRESHOLD.counter_of(labels).increment(1);
            }
            Event::Settled {
                scope,
                estimated,
                usage,
                ..
            } => self.of_scope(scope).on_estimates(estimated.ratios(usage)),
            Event::Paused { scope, pause, .. } => {
                let seconds = pause.as_secs_f64().round() as u64;
                self.of_scope(scope).paused_seconds.increment(seconds);
            }
            Event::Rejected { scope, reason, .. } => {
                let scope = scope.map(|scope| self.of_scope(scope).scope());
                let scope = scope.unwrap_or(SharedString::const_str(""));
                let labels = [scope, word(reason.as_str())];
                catalogue::REFUSED.counter_of(labels).increment(1);
            }
            Event::Retry { class, details, .. } => {
                let labels = [self.scope_of(details), kind(class.kind)];
                catalogue::RETRIES.counter_of(labels).increment(1);
            }
            Event::GaveUp {
                because, details, ..
            } => {
                let labels = [self.scope_of(details), word(because)];
                catalogue::GAVE_UP.counter_of(labels).increment(1);
            }
            Event::CircuitOpened { scope, because, .. } => {
                self.set_circuit(scope, 2);
                let circuit = SharedString::from_shared(self.labels.scope(scope));
                let opened = catalogue::CIRCUIT_OPENED.counter_of([circuit, kind(*because)]);
                opened.increment(1);
            }
            Event::CircuitProbe { scope, .. } => self.set_circuit(scope, 1),
            Event::CircuitClosed { scope, .. } => self.set_circuit(scope, 0),
            Event::FellBack {
                from, to, class, ..
            } => {
                let labels = [
                    SharedString::from_shared(self.labels.model(Some(from))),
                    SharedString::from_shared(self.labels.model(Some(to))),
                    kind(class.kind),
                ];
                catalogue::FALLBACK.counter_of(labels).increment(1);
            }
            Event::Cache { decision, .. } => {
                let outcome = SharedString::const_str(decision.as_str());
                catalogue::CACHE.counter_of([outcome]).increment(1);
            }
            Event::Batch {
                decision,
                because,
                calls,
                model,
                latency,
                cost,
                saved,
                ..
            } => {
                let outcome = SharedString::const_str(decision.as_str());
                let reason = SharedString::const_str(because);
                let total = catalogue::BATCH.counter_of([outcome, reason]);
                total.increment(*calls as u64);
                let model = || [SharedString::from_shared(self.labels.model(*model))];
                if let Some(latency) = latency {
                    let histogram = catalogue::BATCH_LATENCY.histogram_of(model());
                    histogram.record(latency.as_secs_f64());
                }
                let nanos = |money: &Money| u64::try_from(money.nanos()).unwrap_or(0);
                if nanos(saved) > 0 {
                    let counter = catalogue::BATCH_SAVED.counter_of(model());
                    counter.increment(nanos(saved));
                }
                if nanos(cost) > 0 {
                    let counter = catalogue::COST.counter_of(model());
                    counter.increment(nanos(cost));
                }
            }
            Event::Uncounted { because, .. } => {
                catalogue::UNCOUNTED
                    .counter_of([word(because)])
                    .increment(1);
            }
            Event::StoreLost { layer, because } => {
                catalogue::STORE_STATE.gauge_of([word(layer)]).set(1.0);
                let lost = catalogue::STORE_LOST.counter_of([word(layer), word(because)]);
                lost.increment(1);
            }
            Event::StoreRegained { layer, .. } => {
                catalogue::STORE_STATE.gauge_of([word(layer)]).set(0.0);
            }
            Event::PromptCache {
                model,
                plain,
                read,
                written,
                saved,
                miss,
                ..
            } => {
                let model = SharedString::from_shared(self.labels.model(Some(model)));
                for (kind, tokens) in [("plain", plain), ("read", read), ("written", written)] {
                    let labels = [model.clone(), SharedString::const_str(kind)];
                    catalogue::PROMPT_CACHE_TOKENS
                        .counter_of(labels)
                        .increment(*tokens);
                }
                let sum = catalogue::PROMPT_CACHE_SAVED.gauge_of([model.clone()]);
                sum.increment(saved.dollars());
                if let Some(cause) = miss {
                    let labels = [model, word(cause)];
                    catalogue::PROMPT_CACHE_MISSES
                        .counter_of(labels)
                        .increment(1);
                }
            }
            Event::Routed {
                target, because, ..
            } => {
                let target = SharedString::from_owned(target.unwrap_or("none").to_owned());
                catalogue::ROUTED
                    .counter_of([target, word(because)])
                    .increment(1);
            }
            Event::PromptCacheOff { boundary, .. } => {
                catalogue::PROMPT_CACHE_OFF
                    .counter_of([word(boundary)])
                    .increment(1);
            }
            Event::Queued { .. }
            | Event::Abandoned { .. }
            | Event::LimitDiffers { .. }
            | Event::Broken { .. }
            | Event::DoubtfulModel { .. }
            | Event::Inactive { .. }
            | Event::UsageCapped { .. }
            | Event::Unauthorized { .. } => {}
        }
    }
}
