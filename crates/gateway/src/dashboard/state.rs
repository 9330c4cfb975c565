//! The state that the page shows.

use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;
use tower_claude::{core::alert::Alert, limiter::ScopeSnapshot};

use super::{
    circuits::{CircuitState, circuits},
    incidents::{Incident, Level},
    models::{ModelState, models},
    samples::{Samples, Series},
    scopes::{ScopeState, scopes},
    verdict::{Facts, Verdict, verdict},
};

/// The state at one moment. Rates are those of the last minute.
#[derive(Debug, Serialize)]
pub(super) struct State {
    verdict: Verdict,
    /// The time since the start of the gateway in seconds.
    uptime: u64,
    draining: bool,
    /// There is a page with a plan.
    has_plan: bool,
    rates: Rates,
    scopes: Vec<ScopeState>,
    circuits: Vec<CircuitState>,
    models: Vec<ModelState>,
    responses: Vec<Responses>,
    incidents: Vec<IncidentState>,
}

/// The counts of the last minute.
#[derive(Debug, Default, Serialize)]
struct Rates {
    requests: u64,
    rate_limited: u64,
    overloaded: u64,
    failed: u64,
    retries: u64,
    refused: u64,
    input_tokens: u64,
    cache_read_tokens: u64,
    output_tokens: u64,
    usd: f64,
    cache_hits: u64,
    cache_misses: u64,
}

/// The attempts that ended in 10 s.
#[derive(Debug, Default, Serialize)]
struct Responses {
    success: u64,
    rate_limited: u64,
    overloaded: u64,
    failed: u64,
}

#[derive(Debug, Serialize)]
struct IncidentState {
    level: Level,
    text: String,
    request_id: Option<String>,
    count: u64,
    /// The time since the last event in seconds.
    ago: u64,
}

/// The sources of a state.
pub(super) struct Sources<'a> {
    pub(super) now: Instant,
    pub(super) started: Instant,
    pub(super) draining: bool,
    pub(super) has_plan: bool,
    pub(super) samples: &'a Samples,
    /// The scopes of all limiters with their label.
    pub(super) scopes: Vec<(Arc<str>, ScopeSnapshot)>,
    pub(super) incidents: Vec<Incident>,
    pub(super) alerts: Vec<Alert>,
}

impl State {
    pub(super) fn new(sources: Sources<'_>) -> Self {
        let Sources {
            now,
            started,
            draining,
            has_plan,
            samples,
            incidents,
            alerts,
            ..
        } = sources;
        let scopes = scopes(sources.scopes, samples);
        let circuits = circuits(samples);
        let rates = Rates::new(samples);
        let models = models(samples);
        let verdict = verdict(&Facts {
            draining,
            requests: rates.requests,
            scopes: &scopes,
            circuits: &circuits,
            models: &models,
            alerts: &alerts,
        });
        Self {
            verdict,
            uptime: seconds_since(started, now),
            draining,
            has_plan,
            rates,
            scopes,
            circuits,
            models,
            responses: responses(samples),
            incidents: incidents
                .into_iter()
                .map(|incident| IncidentState {
                    ago: seconds_since(incident.last, now),
                    level: incident.level,
                    text: incident.text,
                    request_id: incident.request_id,
                    count: incident.count,
                })
                .collect(),
        }
    }
}

fn seconds_since(then: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(then).as_secs()
}

impl Rates {
    fn new(samples: &Samples) -> Self {
        let of = |metric: &'static str, label: &str, wanted: &[&str]| {
            let is_wanted = |series: &Series| wanted.contains(&series.label(label));
            samples.last_minute(metric, is_wanted) as u64
        };
        let all = |metric: &'static str| samples.last_minute(metric, |_| true);
        let charged = |of_dimension| of("tower_claude_charged_total", "dimension", &[of_dimension]);
        let class = |wanted| of("tower_claude_responses_total", "class", wanted);
        let responses = all("tower_claude_responses_total") as u64;
        let (rate_limited, overloaded) = (class(RATE_LIMITED), class(OVERLOADED));
        let failed = responses - class(NO_FAILURE) - rate_limited - overloaded;
        Self {
            requests: charged("requests"),
            rate_limited,
            overloaded,
            failed,
            retries: all("tower_claude_retries_total") as u64,
            refused: all("tower_claude_refused_total") as u64,
            input_tokens: charged("input_tokens"),
            cache_read_tokens: all("gen_ai_client_inference_usage_cache_read_input_tokens") as u64,
            output_tokens: charged("output_tokens"),
            usd: all("tower_claude_cost_nanodollars_total") / 1e9,
            cache_hits: of(
                "tower_claude_cache_total",
                "outcome",
                &["hit", "stale", "joined"],
            ),
            cache_misses: of("tower_claude_cache_total", "outcome", &["miss"]),
        }
    }
}

/// The classes of responses that are shown as one.
const RATE_LIMITED: &[&str] = &["rate_limited", "ramp_limited"];
const OVERLOADED: &[&str] = &["overloaded"];
const NO_FAILURE: &[&str] = &["success", "model_refusal", "dropped"];

fn responses(samples: &Samples) -> Vec<Responses> {
    let series: Vec<_> = samples.of("tower_claude_responses_total").collect();
    let at = |ago: usize| {
        let mut point = Responses::default();
        for series in &series {
            let class = series.label("class");
            let count = match class {
                _ if NO_FAILURE.contains(&class) => &mut point.success,
                _ if RATE_LIMITED.contains(&class) => &mut point.rate_limited,
                _ if OVERLOADED.contains(&class) => &mut point.overloaded,
                _ => &mut point.failed,
            };
            *count += series.step_until(ago) as u64;
        }
        point
    };
    samples.points().map(at).collect()
}
