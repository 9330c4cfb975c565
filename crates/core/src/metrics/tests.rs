use std::{collections::BTreeMap, time::Duration};

use ::metrics::with_local_recorder;
use http::StatusCode;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower_claude_wire::{Billing, Money, Usage};

use super::{CATALOGUE, GenAiNames, MetricKind, MetricsObserver};
use crate::{
    Class, Endpoint, EstimatedTokens, Kind, Priority, RejectReason, Scope, Workload,
    event::{AttemptDetails, BatchDecision, CacheDecision, CallEnd, Ending, Event, Observer},
    ledger::LimitWarning,
    sample_events::{MODEL, answered, scope},
};

fn usage() -> Usage {
    let json = br#"{"input_tokens":100,"cache_creation_input_tokens":20,
        "cache_read_input_tokens":3000,"output_tokens":50}"#;
    Usage::from_usage_object(json).expect("it is an object")
}

fn call<'a>(asked: &'a str, model: Option<&'a str>, usage: &'a Usage) -> CallEnd<'a> {
    CallEnd {
        layer: "retry",
        call: 1,
        ending: Ending::Answered,
        class: Class::SUCCESS,
        endpoint: Endpoint::Messages,
        asked: Some(asked),
        model,
        scope: None,
        credential: 7,
        tenant: None,
        workload: Workload::NONE,
        status: Some(StatusCode::OK),
        attempts: 2,
        wait: Duration::ZERO,
        backoff: Duration::ZERO,
        first_content: Some(Duration::from_millis(600)),
        duration: Duration::from_secs(3),
        usage,
        bill: None,
        request_id: Some("req_1"),
        request: None,
        rejection: None,
        cause: None,
        fallback: None,
    }
}

/// Returns the series as `name{label=value,…}` with their values. Histograms have the number of
/// their samples.
fn series(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let text = |(key, _, _, value): (metrics_util::CompositeKey, _, _, DebugValue)| {
        let key = key.key();
        let labels: Vec<String> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.0,
            DebugValue::Histogram(samples) => samples.len() as f64,
        };
        (format!("{}{{{}}}", key.name(), labels.join(",")), value)
    };
    snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .map(text)
        .collect()
}

/// Records events with a recorder of its own, and returns the series.
fn recorded(record: impl FnOnce()) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    with_local_recorder(&recorder, record);
    series(&snapshotter)
}

#[test]
fn attempt_is_charged_without_cache_reads() {
    let (scope, usage) = (scope(), usage());
    let series = recorded(|| {
        let metrics = MetricsObserver::new();
        metrics.on_event(&Event::AttemptEnded(&answered(MODEL, Some(&scope), &usage)));
    });
    let charged = |of: &str| {
        series[&format!("tower_claude_charged_total{{scope=messages/sonnet-5.5,dimension={of}}}")]
    };
    assert_eq!(charged("requests"), 1.0);
    assert_eq!(charged("input_tokens"), 120.0);
    assert_eq!(charged("output_tokens"), 50.0);
    let cost = series[&format!("tower_claude_cost_nanodollars_total{{model={MODEL}}}")];
    let prices = tower_claude_wire::ModelCatalog::builtin().lookup(MODEL);
    let prices = prices.about.prices.clone().expect("it has prices");
    let bill = prices.bill(&usage, Billing::default()).expect("counts");
    assert_eq!(cost, bill.cost.nanos() as f64);
}

#[test]
fn settled_estimate_is_recorded_as_the_ratio_of_used_to_estimated_tokens() {
    let (scope, usage) = (scope(), usage());
    let recorder = DebuggingRecorder::new();
    with_local_recorder(&recorder, || {
        let metrics = MetricsObserver::new();
        // The usage has 120 input tokens that count against the limit, and 50 output tokens.
        for (input, output) in [(Some(80), Some(100)), (Some(1), None), (Some(0), None)] {
            metrics.on_event(&Event::Settled {
                layer: "token-bucket",
                scope: &scope,
                estimated: EstimatedTokens { input, output },
                usage: &usage,
            });
        }
    });
    let mut ratios = BTreeMap::new();
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        if key.key().name() == "tower_claude_estimate_error_ratio"
            && let DebugValue::Histogram(samples) = value
        {
            let of = key.key().labels().last().expect("it has a dimension");
            let samples: Vec<f64> = samples.into_iter().map(f64::from).collect();
            ratios.insert(of.value().to_owned(), samples);
        }
    }
    // An estimate of 1 does not outweigh all others, and 0 has no ratio.
    assert_eq!(ratios["input_tokens"], [1.5, 10.0]);
    assert_eq!(ratios["output_tokens"], [0.5]);
}

#[test]
fn all_classes_of_a_scope_begin_at_zero() {
    let (scope, usage) = (scope(), Usage::default());
    let series = recorded(|| {
        let metrics = MetricsObserver::new();
        let mut end = answered(MODEL, Some(&scope), &usage);
        (end.ending, end.class) = (Ending::Failed, Class::new(Kind::RateLimited));
        metrics.on_event(&Event::AttemptEnded(&end));
        end.ending = Ending::Dropped;
        metrics.on_event(&Event::AttemptEnded(&end));
    });
    let of = |class: &str| {
        series[&format!("tower_claude_responses_total{{scope=messages/sonnet-5.5,class={class}}}")]
    };
    assert_eq!(of("rate_limited"), 1.0);
    assert_eq!(of("dropped"), 1.0);
    for kind in Kind::ALL {
        let expected = f64::from(u8::from(kind == Kind::RateLimited));
        assert_eq!(of(kind.as_str()), expected, "{kind:?}");
    }
}

#[test]
fn call_is_counted_once_with_cache_tokens_in_its_input() {
    let usage = usage();
    let series = recorded(|| {
        let metrics = MetricsObserver::new();
        metrics.on_event(&Event::CallEnded(&call(MODEL, Some(MODEL), &usage)));
    });
    let labels = format!(
        "gen_ai.operation.name=chat,gen_ai.provider.name=anthropic,gen_ai.request.model={MODEL},\
         gen_ai.response.model={MODEL}"
    );
    let of = |name: &str| series[&format!("gen_ai.client.inference.{name}{{{labels}}}")];
    assert_eq!(of("usage.input_tokens"), 3_120.0);
    assert_eq!(of("usage.output_tokens"), 50.0);
    assert_eq!(of("usage.cache_read.input_tokens"), 3_000.0);
    assert_eq!(of("usage.cache_write.input_tokens"), 20.0);
    assert_eq!(of("time_to_first_chunk"), 1.0);
    let duration = format!("gen_ai.client.inference.duration{{{labels},error.type=}}");
    assert_eq!(series[&duration], 1.0);
}

#[test]
fn failed_call_names_the_error_and_has_no_model_that_served_it() {
    let usage = Usage::default();
    let series = recorded(|| {
        let metrics = MetricsObserver::new();
        let mut end = call(MODEL, None, &usage);
        (end.ending, end.class) = (Ending::Failed, Class::new(Kind::Overloaded));
        metrics.on_event(&Event::CallEnded(&end));
        end.ending = Ending::Dropped;
        metrics.on_event(&Event::CallEnded(&end));
    });
    for error in ["overloaded", "dropped"] {
        let name = format!(
            "gen_ai.client.inference.duration{{gen_ai.operation.name=chat,\
             gen_ai.provider.name=anthropic,gen_ai.request.model={MODEL},gen_ai.response.model=,\
             error.type={error}}}"
        );
        assert_eq!(series.get(&name), Some(&1.0), "{name} in {series:#?}");
    }
}

#[test]
fn genai_names_are_new_or_old_or_both() {
    let usage = usage();
    let names_of = |names: GenAiNames| {
        let series = recorded(|| {
            let metrics = MetricsObserver::new().with_genai_names(names);
            metrics.on_event(&Event::CallEnded(&call(MODEL, Some(MODEL), &usage)));
        });
        let has = |name: &str| series.keys().any(|key| key.starts_with(name));
        (
            has("gen_ai.client.inference."),
            has("gen_ai.client.operation.duration") && has("gen_ai.client.token.usage"),
        )
    };
    assert_eq!(names_of(GenAiNames::New), (true, false));
    assert_eq!(names_of(GenAiNames::Old), (false, true));
    assert_eq!(names_of(GenAiNames::Both), (true, true));
}

#[test]
fn named_credentials_have_series_of_their_own() {
    let (first, usage) = (scope(), usage());
    let mut second = scope();
    second.credential = 8;
    let series = recorded(|| {
        let metrics = MetricsObserver::new().with_credential_name(8, "team-b");
        for scope in [&first, &second] {
            metrics.on_event(&Event::AttemptEnded(&answered(MODEL, Some(scope), &usage)));
        }
    });
    for scope in ["messages/sonnet-5.5", "team-b/messages/sonnet-5.5"] {
        let name = format!("tower_claude_responses_total{{scope={scope},class=success}}");
        assert_eq!(series.get(&name), Some(&1.0), "{name}");
    }
}

/// Emits one event of each kind that is recorded, with names that a caller has chosen.
fn emit_all(metrics: &MetricsObserver, junk: usize) {
    let name = format!("junk-{junk}\n\u{1b}[31m");
    let mut scope = scope();
    (scope.credential, scope.host) = (junk as u64, name.as_str().into());
    scope.group = name.as_str().into();
    let usage = usage();
    let details = AttemptDetails {
        model: Some(&name),
        scope: Some(&scope),
        ..AttemptDetails::default()
    };
    let limits = tower_claude_wire::RateLimits::from_headers(&headers());
    let layer = "retry";
    let class = Class::new(Kind::Overloaded);
    let scope = &scope;
    let in_scope = answered(&name, Some(scope), &usage);
    let elsewhere = answered(&name, None, &usage);
    let call = call(&name, Some(&name), &usage);
    let events = [
        Event::AttemptEnded(&in_scope),
        Event::AttemptEnded(&elsewhere),
        Event::CallEnded(&call),
        Event::Admitted {
            layer,
            scope,
            wait: Duration::from_millis(3),
            priority: Priority::Normal,
        },
        Event::Headroom {
            layer,
            scope,
            limits: &limits,
            request_id: None,
        },
        Event::Threshold {
            layer,
            scope,
            crossing: LimitWarning::new(crate::Dimension::Requests, 1, 50),
        },
        Event::Paused {
            layer,
            scope,
            pause: Duration::from_secs(2),
        },
        Event::Rejected {
            layer,
            scope: Some(scope),
            reason: RejectReason::LimiterUnavailable,
            class,
        },
        Event::Retry {
            layer,
            model: Some(&name),
            attempt: 1,
            class,
            delay: Duration::ZERO,
            details,
        },
        Event::GaveUp {
            layer,
            model: Some(&name),
            attempt: 2,
            class,
            because: "attempts",
            details,
        },
        Event::CircuitOpened {
            layer,
            scope,
            because: Kind::Overloaded,
            cool_down: Duration::from_secs(10),
            opens: 1,
        },
        Event::FellBack {
            layer,
            from: &name,
            to: &name,
            class,
            asked: true,
            details,
        },
        Event::Cache {
            layer,
            decision: CacheDecision::Hit,
            because: "",
        },
        Event::Batch {
            layer,
            decision: BatchDecision::Ended,
            because: "",
            calls: 3,
            batch: Some("msgbatch_1"),
            model: Some(MODEL),
            latency: Some(Duration::from_secs(300)),
            cost: Money::from_micros(5),
            saved: Money::from_micros(5),
        },
        Event::Uncounted {
            layer,
            because: "status",
        },
        Event::Settled {
            layer,
            scope,
            estimated: EstimatedTokens {
                input: Some(100),
                output: Some(60),
            },
            usage: &usage,
        },
        Event::StoreLost {
            layer,
            because: "timeout",
        },
        Event::PromptCache {
            layer,
            model: &name,
            plain: 10,
            read: 900,
            written: 90,
            saved: tower_claude_wire::Money::from_micros(7),
            miss: Some("expired"),
            block: None,
        },
        Event::Routed {
            layer,
            model: Some(&name),
            target: Some("vertex/global"),
            because: "cache",
            account: None,
            attempt: 1,
            skipped: &[],
        },
        Event::PromptCacheOff {
            layer,
            boundary: "tail",
            saved: tower_claude_wire::Money::from_micros(-7),
        },
    ];
    for event in events {
        metrics.on_event(&event);
    }
    let label = metrics.scope_label(scope);
    metrics.record_level(&label, crate::Dimension::Requests, -3, 50);
    metrics.record_queue(&label, Priority::Batch, 2, Duration::from_secs(1));
    metrics.record_in_flight(&label, 4, true);
}

fn headers() -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for of in ["requests", "input-tokens", "output-tokens"] {
        for (what, value) in [("limit", "1000"), ("remaining", "900")] {
            let name = format!("anthropic-ratelimit-{of}-{what}");
            let name = http::HeaderName::try_from(name).expect("it is a name");
            headers.insert(name, http::HeaderValue::from_static(value));
        }
    }
    headers
}

#[test]
fn names_chosen_by_callers_add_no_series() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let (one, many) = with_local_recorder(&recorder, || {
        let metrics = MetricsObserver::new();
        emit_all(&metrics, 0);
        let one = series(&snapshotter).len();
        for junk in 1..=10_000 {
            emit_all(&metrics, junk);
        }
        (one, series(&snapshotter))
    });
    assert_eq!(one, many.len());
    let junk = many.keys().find(|name| name.contains("junk"));
    assert_eq!(junk, None);
}

#[test]
fn scopes_of_other_services_are_bounded() {
    let usage = Usage::default();
    let series = recorded(|| {
        let metrics = MetricsObserver::new();
        for number in 0..10_000 {
            let scope = Scope::named(&format!("queue-{number}"));
            metrics.on_event(&Event::AttemptEnded(&answered(MODEL, Some(&scope), &usage)));
        }
    });
    let name = "tower_claude_responses_total{scope=other,class=success}";
    assert_eq!(series[name], 10_000.0 - 128.0);
    let successes = series
        .keys()
        .filter(|name| name.ends_with("class=success}"));
    assert_eq!(successes.count(), 129);
}

#[test]
fn every_series_is_in_the_catalogue_and_every_metric_is_recorded() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    with_local_recorder(&recorder, || {
        let metrics = MetricsObserver::new().with_genai_names(GenAiNames::Both);
        emit_all(&metrics, 0);
        let (scope, usage) = (scope(), usage());
        metrics.on_event(&Event::AttemptEnded(&answered(MODEL, Some(&scope), &usage)));
    });
    let mut recorded = std::collections::HashSet::new();
    for (key, unit, description, value) in snapshotter.snapshot().into_vec() {
        let name = key.key().name();
        let metric = CATALOGUE.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} is not in the catalogue"));
        let labels: Vec<&str> = key.key().labels().map(::metrics::Label::key).collect();
        assert_eq!(labels, metric.labels, "{name}");
        let kind = match value {
            DebugValue::Counter(_) => MetricKind::Counter,
            DebugValue::Gauge(_) => MetricKind::Gauge,
            DebugValue::Histogram(_) => MetricKind::Histogram,
        };
        assert_eq!(kind, metric.kind, "{name}");
        assert_eq!(description.as_deref(), Some(metric.description), "{name}");
        assert_eq!(unit, Some(metric.unit.unwrap_or(::metrics::Unit::Count)));
        let has_buckets = !metric.buckets.is_empty();
        assert_eq!(has_buckets, kind == MetricKind::Histogram, "{name}");
        recorded.insert(metric.name);
    }
    let missing: Vec<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
    let missing: Vec<&str> = missing
        .into_iter()
        .filter(|name| !recorded.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn circuit_of_a_model_has_its_name_and_that_of_an_unlisted_model_has_none() {
    let recorder = DebuggingRecorder::new();
    with_local_recorder(&recorder, || {
        let metrics = MetricsObserver::new();
        let mut scope = scope();
        for group in [MODEL, "invented-by-a-caller"] {
            scope.group = group.into();
            metrics.on_event(&Event::CircuitProbe {
                layer: "circuit-breaker",
                scope: &scope,
            });
        }
    });
    let series = series(&recorder.snapshotter());
    let state = |name| series.get(&format!("tower_claude_circuit_state{{circuit={name}}}"));
    assert_eq!(state("messages/claude-sonnet-5-5"), Some(&1.0));
    assert_eq!(state("messages/other"), Some(&1.0));
}
