use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, advance};
use tower_claude_wire::{RateLimits, Usage};

use super::{Alert, AlertKind, AlertObserver, AlertSink, INTERVAL};
use crate::{
    Class, EstimatedTokens, Kind, Priority, Scope,
    event::{AttemptDetails, AttemptEnd, Ending, Event, Observer},
    sample_events::{MODEL, answered, scope},
};

const SCOPE: &str = "messages/sonnet-5.5";
const LIMIT: u64 = 1_000_000;

fn usage(input: u64) -> Usage {
    let json = format!(r#"{{"input_tokens":{input},"output_tokens":0}}"#);
    Usage::from_usage_object(json.as_bytes()).expect("it is an object")
}

/// Emits the end of an attempt of this kind.
fn attempt(alerts: &AlertObserver, scope: &Scope, kind: Kind, usage: &Usage) {
    let ending = match kind {
        Kind::Success => Ending::Answered,
        _ => Ending::Failed,
    };
    let mut end = answered(MODEL, Some(scope), usage);
    (end.ending, end.class) = (ending, Class::new(kind));
    alerts.on_event(&Event::AttemptEnded(&end));
}

/// A sink that keeps all alerts, and the request ids for review.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<(Vec<Alert>, Vec<String>)>>);

impl AlertSink for Kept {
    fn on_alert(&self, alert: &Alert) {
        self.0.lock().unwrap().0.push(alert.clone());
    }

    fn on_rejected_request(&self, end: &AttemptEnd<'_>, redacted: Option<&str>) {
        let id = end.request_id.unwrap_or_default();
        let text = redacted.map_or_else(|| id.to_owned(), |text| format!("{id}: {text}"));
        self.0.lock().unwrap().1.push(text);
    }
}

impl Kept {
    /// Returns the kinds, and true if they were raised.
    fn take(&self) -> Vec<(AlertKind, bool)> {
        let alerts = std::mem::take(&mut self.0.lock().unwrap().0);
        let kinds = alerts.into_iter();
        kinds.map(|alert| (alert.kind, alert.raised)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_key_is_raised_at_once_and_resolved_after_five_minutes() {
    let kept = Kept::default();
    let alerts = AlertObserver::new().with_sink(kept.clone());
    tokio::spawn(alerts.clone().run());
    for _ in 0..10 {
        attempt(&alerts, &scope(), Kind::Unauthorized, &Usage::default());
    }
    assert_eq!(kept.take(), [(AlertKind::KeyRejected, true)]);
    assert_eq!(alerts.raised()[0].subject.as_ref(), SCOPE);
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(kept.take(), []);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(kept.take(), [(AlertKind::KeyRejected, false)]);
    assert_eq!(alerts.raised(), []);
    attempt(&alerts, &scope(), Kind::Unauthorized, &Usage::default());
    assert_eq!(kept.take(), [(AlertKind::KeyRejected, true)]);
}

#[tokio::test(start_paused = true)]
async fn open_circuit_is_raised_after_two_minutes_and_resolved_when_it_closes() {
    let kept = Kept::default();
    let alerts = AlertObserver::new().with_sink(kept.clone());
    tokio::spawn(alerts.clone().run());
    let scope = scope();
    let opened = Event::CircuitOpened {
        layer: "circuit-breaker",
        scope: &scope,
        because: Kind::Overloaded,
        cool_down: Duration::from_secs(10),
        opens: 1,
    };
    alerts.on_event(&opened);
    tokio::time::sleep(Duration::from_secs(119)).await;
    assert_eq!(kept.take(), []);
    tokio::time::sleep(INTERVAL).await;
    assert_eq!(kept.take(), [(AlertKind::CircuitOpen, true)]);
    let layer = "circuit-breaker";
    alerts.on_event(&Event::CircuitClosed {
        layer,
        scope: &scope,
    });
    tokio::time::sleep(INTERVAL).await;
    assert_eq!(kept.take(), [(AlertKind::CircuitOpen, false)]);
}

#[tokio::test(start_paused = true)]
async fn rejected_requests_go_to_the_review_hook_alone() {
    let kept = Kept::default();
    let alerts = AlertObserver::new().with_sink(kept.clone());
    for kind in [Kind::Forbidden, Kind::BadRequest, Kind::Overloaded] {
        attempt(&alerts, &scope(), kind, &Usage::default());
    }
    assert_eq!(kept.take(), []);
    assert_eq!(kept.0.lock().unwrap().1, ["req_1", "req_1"]);
}

#[tokio::test(start_paused = true)]
async fn names_chosen_by_callers_add_no_subject() {
    let alerts = AlertObserver::new();
    for junk in 0..10_000 {
        let mut scope = scope();
        scope.group = format!("junk-{junk}").into();
        scope.credential = junk;
        attempt(&alerts, &scope, Kind::Unauthorized, &Usage::default());
    }
    let raised = alerts.raised();
    assert_eq!(raised.len(), 1, "{raised:?}");
    assert_eq!(raised[0].subject.as_ref(), "messages/other");
}

/// The folder of the rules for Prometheus, which is no part of the package.
fn rules() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/prometheus")
}

#[test]
fn kinds_have_the_names_help_and_severity_of_the_rules() {
    let Ok(text) = std::fs::read_to_string(rules().join("rules.yml")) else {
        println!("skipped: the rules are not in this package");
        return;
    };
    let rules: Vec<&str> = text.split("- alert: ").skip(1).collect();
    assert_eq!(rules.len(), AlertKind::ALL.len() + 1, "and absent metrics");
    for kind in AlertKind::ALL {
        let rule = rules.iter().find(|rule| rule.starts_with(kind.as_str()));
        let rule = rule.unwrap_or_else(|| panic!("no rule {kind}"));
        assert!(rule.contains(kind.help()), "{rule}");
        assert!(rule.contains(kind.severity().as_str()), "{rule}");
        let minutes = kind.holds_for().as_secs() / 60;
        let holds = format!("for: {minutes}m");
        assert_eq!(rule.contains(&holds), minutes > 0, "{rule}");
    }
}

/// The counters after each step of 30 s, as Prometheus scrapes them. `None` before a series begins.
#[derive(Default)]
struct Scraped(BTreeMap<String, Vec<Option<f64>>>);

impl Scraped {
    fn set(&mut self, step: usize, series: &str, value: f64) {
        let values = self.0.entry(series.to_owned()).or_default();
        values.resize(step, None);
        values.push(Some(value));
    }

    /// Returns the series for a test of promtool.
    fn yaml(&self) -> String {
        let mut yaml = String::new();
        for (series, values) in &self.0 {
            let values = values.iter().map(|value| match value {
                Some(value) => value.to_string(),
                None => "_".to_owned(),
            });
            let values: Vec<String> = values.collect();
            let values = values.join(" ");
            writeln!(yaml, "  - {{series: '{series}', values: '{values}'}}").unwrap();
        }
        yaml
    }
}

/// A number from 0 to 1 that depends on the step alone.
fn noise(step: u64) -> f64 {
    let mut state = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d;
    state ^= state >> 31;
    state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (state >> 11) as f64 / (1u64 << 53) as f64
}

/// Runs four hours with incidents of each kind. Returns what Prometheus scrapes, and the kinds that
/// are raised at each step.
async fn run(alerts: &AlertObserver) -> (Scraped, Vec<Vec<AlertKind>>) {
    let mut scraped = Scraped::default();
    let mut raised = Vec::new();
    let scope = scope();
    let layer = "layer";
    let mut headers = http::HeaderMap::new();
    for name in ["limit", "remaining"] {
        let name = format!("anthropic-ratelimit-input-tokens-{name}");
        let name = http::HeaderName::try_from(name).unwrap();
        headers.insert(name, LIMIT.to_string().parse().unwrap());
    }
    let limits = RateLimits::from_headers(&headers);
    let mut charged = 0;
    let mut waits = [0u64; 3];
    let mut fallbacks = 0;
    let (mut estimates, mut ratios) = ([0u64; 2], [0.0; 2]);
    let mut classes: BTreeMap<&str, u64> = BTreeMap::new();
    for kind in ["success", "rate_limited", "unauthorized", "spend_limit"] {
        classes.insert(kind, 0);
    }
    let (mut is_open, mut is_lost) = (false, false);
    for step in 0..480u64 {
        let minute = step as f64 / 2.0;
        if minute == 0.0 {
            alerts.on_event(&Event::Headroom {
                layer,
                scope: &scope,
                limits: &limits,
                request_id: None,
            });
        }
        // Use: low, then growing, high for long, and low again.
        let share = match minute {
            m if m < 40.0 => 0.3,
            m if m < 80.0 => 0.3 + (m - 40.0) * 0.013,
            m if m < 150.0 => 0.9,
            _ => 0.4,
        };
        let share = share + 0.04 * noise(step);
        let input = (share * LIMIT as f64 / 2.0) as u64;
        let mut count = |kind: Kind, times: u64| {
            *classes.entry(kind.as_str()).or_default() += times;
            (kind, times)
        };
        let mut ends = vec![count(Kind::Success, 20)];
        if (20.0..26.0).contains(&minute) {
            ends.push(count(Kind::RateLimited, 3));
        }
        if minute == 55.0 {
            ends.push(count(Kind::Unauthorized, 1));
        }
        if minute == 70.5 {
            ends.push(count(Kind::SpendLimit, 2));
        }
        charged += input;
        for (kind, times) in ends {
            for number in 0..times {
                let first = kind == Kind::Success && number == 0;
                let input = usage(if first { input } else { 0 });
                attempt(alerts, &scope, kind, &input);
            }
        }
        let long = (90.0..100.0).contains(&minute);
        for number in 0..10 {
            let wait = if long && number < 4 { 7.0 } else { 0.02 };
            waits[0] += u64::from(wait < 0.05);
            waits[1] += u64::from(wait < 5.0);
            waits[2] += 1;
            alerts.on_event(&Event::Admitted {
                layer,
                scope: &scope,
                wait: Duration::from_secs_f64(wait),
                priority: Priority::Normal,
            });
        }
        // Input at first uses twice its estimate, and later half of it.
        for _ in 0..6 {
            let input = match minute {
                m if (30.0..52.0).contains(&m) => 2_000,
                m if (170.0..200.0).contains(&m) => 500,
                _ => 1_050,
            };
            let used = [input, 410];
            for (index, ratio) in [f64::from(used[0]) / 1_000.0, f64::from(used[1]) / 400.0]
                .into_iter()
                .enumerate()
            {
                estimates[index] += 1;
                ratios[index] += ratio;
            }
            let json = format!(
                r#"{{"input_tokens":{},"output_tokens":{}}}"#,
                used[0], used[1]
            );
            alerts.on_event(&Event::Settled {
                layer,
                scope: &scope,
                estimated: EstimatedTokens {
                    input: Some(1_000),
                    output: Some(400),
                },
                usage: &Usage::from_usage_object(json.as_bytes()).expect("it is an object"),
            });
        }
        let opens = (110.0..115.0).contains(&minute);
        if opens && !is_open {
            alerts.on_event(&Event::CircuitOpened {
                layer,
                scope: &scope,
                because: Kind::Overloaded,
                cool_down: Duration::from_secs(10),
                opens: 1,
            });
        } else if !opens && is_open {
            alerts.on_event(&Event::CircuitClosed {
                layer,
                scope: &scope,
            });
        }
        is_open = opens;
        if (120.0..140.0).contains(&minute) {
            fallbacks += 1;
            alerts.on_event(&Event::FellBack {
                layer,
                from: MODEL,
                to: "claude-haiku-5-5",
                class: Class::new(Kind::Overloaded),
                asked: true,
                details: AttemptDetails::default(),
            });
        }
        let loses = (160.0..166.0).contains(&minute);
        if loses && !is_lost {
            let because = "timeout";
            alerts.on_event(&Event::StoreLost { layer, because });
        } else if !loses && is_lost {
            let outage = Duration::from_secs(360);
            alerts.on_event(&Event::StoreRegained { layer, outage });
        }
        is_lost = loses;

        let now = step as usize;
        let of = |name: &str, labels: &str| format!("tower_claude_{name}{{{labels}}}");
        let input = format!(r#"scope="{SCOPE}",dimension="input_tokens""#);
        scraped.set(now, &of("limit_per_minute", &input), LIMIT as f64);
        scraped.set(now, &of("charged_total", &input), charged as f64);
        for (class, count) in &classes {
            let labels = format!(r#"scope="{SCOPE}",class="{class}""#);
            scraped.set(now, &of("responses_total", &labels), *count as f64);
        }
        for (bound, count) in ["0.05", "5", "10", "+Inf"]
            .into_iter()
            .zip([waits[0], waits[1], waits[2], waits[2]])
        {
            let labels = format!(r#"scope="{SCOPE}",priority="normal",le="{bound}""#);
            let series = of("wait_seconds_bucket", &labels);
            scraped.set(now, &series, count as f64);
        }
        for (index, dimension) in ["input_tokens", "output_tokens"].into_iter().enumerate() {
            let labels = format!(r#"scope="{SCOPE}",dimension="{dimension}""#);
            let count = of("estimate_error_ratio_count", &labels);
            scraped.set(now, &count, estimates[index] as f64);
            let sum = of("estimate_error_ratio_sum", &labels);
            scraped.set(now, &sum, ratios[index]);
        }
        let circuit = format!(r#"circuit="{SCOPE}""#);
        let state = if is_open { 2.0 } else { 0.0 };
        scraped.set(now, &of("circuit_state", &circuit), state);
        let lost = f64::from(u8::from(is_lost));
        scraped.set(now, &of("store_state", r#"layer="layer""#), lost);
        if fallbacks > 0 {
            let labels = r#"from="claude-sonnet-5-5",to="claude-haiku-5-5",class="overloaded""#;
            scraped.set(now, &of("fallback_total", labels), f64::from(fallbacks));
        }

        alerts.evaluate(Instant::now());
        let mut kinds: Vec<_> = alerts.raised().iter().map(|alert| alert.kind).collect();
        kinds.sort();
        raised.push(kinds);
        advance(INTERVAL).await;
    }
    (scraped, raised)
}

/// Returns the labels that the rule of this kind has.
fn labels(kind: AlertKind) -> String {
    let severity = kind.severity().as_str();
    let subject = match kind {
        AlertKind::LimitUseHigh | AlertKind::LimitExhaustionForecast | AlertKind::EstimateDrift => {
            format!("scope: {SCOPE}, dimension: input_tokens")
        }
        AlertKind::KeyRejected => format!("scope: {SCOPE}, class: unauthorized"),
        AlertKind::SpendLimit => format!("scope: {SCOPE}, class: spend_limit"),
        AlertKind::RateLimitedUpstream | AlertKind::QueueWait => format!("scope: {SCOPE}"),
        AlertKind::CircuitOpen => format!("circuit: {SCOPE}"),
        AlertKind::FallbackActive => "from: claude-sonnet-5-5, to: claude-haiku-5-5".to_owned(),
        AlertKind::StoreLocal => "layer: layer".to_owned(),
    };
    format!("{{severity: {severity}, {subject}}}")
}

#[tokio::test(start_paused = true)]
async fn alerts_equal_those_of_prometheus_on_the_same_series() {
    let (scraped, raised) = run(&AlertObserver::new()).await;
    for kind in AlertKind::ALL {
        let steps = raised.iter().filter(|kinds| kinds.contains(&kind)).count();
        assert!(steps > 0, "{kind} is raised");
        assert!(steps < raised.len() / 2, "{kind} is resolved");
    }
    let Ok(text) = std::fs::read_to_string(rules().join("rules.yml")) else {
        println!("skipped: the rules are not in this package");
        return;
    };
    // Only which alerts are raised is compared, and not their texts.
    let is_text = |line: &&str| {
        let line = line.trim_start();
        ["annotations:", "summary:", "help:"]
            .iter()
            .any(|begin| line.starts_with(begin))
    };
    let lines: Vec<&str> = text.lines().filter(|line| !is_text(line)).collect();
    // Without an order promtool evaluates the groups in a random one, and alerts on records of the
    // step before.
    let mut test = "rule_files: [rules.yml]\nevaluation_interval: 30s\n\
                    group_eval_order: [tower_claude.records, tower_claude.alerts]\ntests:\n\
                    - interval: 30s\n  input_series:\n"
        .to_owned()
        + &scraped.yaml()
        + "  alert_rule_test:\n";
    for (step, kinds) in raised.iter().enumerate() {
        for kind in AlertKind::ALL {
            let seconds = 30 * step;
            let expected = match kinds.contains(&kind) {
                true => format!(", exp_alerts: [{{exp_labels: {}}}]", labels(kind)),
                false => String::new(),
            };
            writeln!(
                test,
                "  - {{eval_time: {seconds}s, alertname: {kind}{expected}}}"
            )
            .unwrap();
        }
    }
    let folder = std::env::temp_dir().join(format!("tower-claude-alerts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder is made");
    std::fs::write(folder.join("rules.yml"), lines.join("\n")).expect("it is written");
    std::fs::write(folder.join("test.yml"), test).expect("it is written");
    let mut command = Command::new("promtool");
    command
        .args(["test", "rules", "test.yml"])
        .current_dir(&folder);
    let output = command.output();
    std::fs::remove_dir_all(&folder).expect("the folder is removed");
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}");
        }
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("skipped: promtool (Debian package prometheus) does not start: {error}");
        }
        Err(error) => panic!("promtool (Debian package prometheus) does not start: {error}"),
    }
}
