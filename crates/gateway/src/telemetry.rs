//! The metrics and alerts of a gateway.

use std::sync::Arc;

use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tokio::time::Instant;
use tower_claude::{
    LocalLimiter,
    core::alert::{AlertObserver, webhook::WebhookSink},
    event::{Event, Observer},
    event_log::EventLogObserver,
    limiter::{Limiter, ScopeSnapshot, record_metrics},
    metrics::{CATALOGUE, MetricsObserver, facade::with_local_recorder},
};

use crate::dashboard::Incidents;

/// The recorder of a gateway. Each gateway of a process has one of its own.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<PrometheusRecorder>);

impl Recorder {
    /// Creates a recorder with the histogram buckets of the catalogue.
    pub(crate) fn new() -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for metric in CATALOGUE {
            if !metric.buckets.is_empty() {
                let name = Matcher::Full(metric.name.to_owned());
                builder = builder.set_buckets_for_metric(name, metric.buckets)?;
            }
        }
        Ok(Self(Arc::new(builder.build_recorder())))
    }

    pub(crate) fn handle(&self) -> PrometheusHandle {
        self.0.handle()
    }
}

/// The observer of the layers of one upstream.
#[derive(Clone)]
pub(crate) struct UpstreamObserver {
    recorder: Recorder,
    metrics: MetricsObserver,
    alerts: AlertObserver,
    incidents: Incidents,
    log: Option<EventLogObserver>,
}

impl UpstreamObserver {
    /// Creates an observer. `name` stands before all scopes if there is one. Alerts go to `webhook`
    /// as well, and attempts to `log`.
    pub(crate) fn new(
        recorder: &Recorder,
        incidents: &Incidents,
        webhook: Option<&WebhookSink>,
        log: Option<&EventLogObserver>,
        name: Option<&str>,
    ) -> Self {
        let mut metrics = with_local_recorder(&*recorder.0, MetricsObserver::new);
        let mut alerts = AlertObserver::new().with_sink(incidents.clone());
        if let Some(webhook) = webhook {
            alerts = alerts.with_sink(webhook.clone());
        }
        if let Some(name) = name {
            (metrics, alerts) = (metrics.with_name(name), alerts.with_name(name));
        }
        Self {
            recorder: recorder.clone(),
            metrics,
            alerts,
            incidents: incidents.clone(),
            log: log.cloned(),
        }
    }

    /// Records the state of the limiter as gauges.
    pub(crate) fn record(&self, limiter: &LocalLimiter) {
        with_local_recorder(&*self.recorder.0, || {
            record_metrics(&self.metrics, &limiter.snapshot());
        });
    }

    /// Returns the scopes of the limiter with their label.
    pub(crate) fn scopes(&self, limiter: &LocalLimiter) -> Vec<(Arc<str>, ScopeSnapshot)> {
        let scopes = limiter.snapshot().into_iter();
        let label = |scope: &ScopeSnapshot| {
            with_local_recorder(&*self.recorder.0, || self.metrics.scope_label(&scope.scope))
        };
        scopes.map(|scope| (label(&scope), scope)).collect()
    }

    pub(crate) fn evaluate_alerts(&self, now: Instant) {
        self.alerts.evaluate(now);
    }
}

impl Observer for UpstreamObserver {
    fn on_event(&self, event: &Event<'_>) {
        with_local_recorder(&*self.recorder.0, || {
            self.metrics.on_event(event);
            self.incidents.on_event(event, &self.metrics);
        });
        self.alerts.on_event(event);
        if let Some(log) = &self.log {
            log.on_event(event);
        }
    }

    fn wants_details(&self) -> bool {
        self.log.is_some()
    }
}
