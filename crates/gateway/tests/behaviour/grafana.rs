//! The dashboard for Grafana: its structure, its queries against the catalogue of metrics, and each
//! of them answered by a real Prometheus that scrapes a gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use crate::common::{LONG, STREAM_REQUEST, TestGateway, config, prometheus::Prometheus, send};
use promql_parser::{
    label::Labels,
    parser::{Expr, LabelModifier},
};
use serde_json::Value;
use tower_claude::metrics::{CATALOGUE, MetricKind};
use tower_claude_fake_claude::{FakeClaude, Fault, GroupLimits};

const DATASOURCE: &str = "${datasource}";

/// Returns the dashboard, or `None` in the package of this crate, which does not contain it.
fn dashboard() -> Option<Value> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = crates.join("../../ops/grafana/tower-claude.json");
    let text = std::fs::read_to_string(path).ok()?;
    Some(serde_json::from_str(&text).expect("it is JSON"))
}

/// Returns the panels without rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    panels.filter(|panel| panel["type"] != "row").collect()
}

/// Returns the expressions of a panel with these values of Grafana's variables, and the legends.
fn queries<'a>(panel: &'a Value, scope: &str, window: &str) -> Vec<(String, &'a str)> {
    let targets = panel["targets"].as_array().into_iter().flatten();
    let query = |target: &'a Value| {
        let text = target["expr"].as_str().unwrap_or_default();
        let text = text
            .replace("$scope", scope)
            .replace("$__rate_interval", window);
        (text, target["legendFormat"].as_str().unwrap_or_default())
    };
    targets.map(query).collect()
}

/// Returns the labels of each series that Prometheus has of the metrics, and of its alerts.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = BTreeMap::new();
    for metric in CATALOGUE {
        let name = metric.name.replace('.', "_");
        let labels: BTreeSet<String> = metric
            .labels
            .iter()
            .map(|label| label.replace('.', "_"))
            .collect();
        if metric.kind == MetricKind::Histogram {
            let mut with_bound = labels.clone();
            with_bound.insert("le".to_owned());
            series.insert(format!("{name}_bucket"), with_bound);
            series.insert(format!("{name}_sum"), labels.clone());
            series.insert(format!("{name}_count"), labels);
        } else {
            series.insert(name, labels);
        }
    }
    let of_alerts = ["alertname", "alertstate", "severity", "scope", "dimension"];
    series.insert("ALERTS".to_owned(), of_alerts.map(str::to_owned).into());
    series
}

/// The names in an expression.
#[derive(Default)]
struct Names {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
    has_range: bool,
}

impl Names {
    fn add_labels(&mut self, modifier: Option<&LabelModifier>) {
        if let Some(
            LabelModifier::Include(Labels { labels }) | LabelModifier::Exclude(Labels { labels }),
        ) = modifier
        {
            self.labels.extend(labels.iter().cloned());
        }
    }

    fn add(&mut self, expression: &Expr) {
        match expression {
            Expr::Aggregate(aggregate) => {
                self.add_labels(aggregate.modifier.as_ref());
                self.add(&aggregate.expr);
            }
            Expr::Unary(unary) => self.add(&unary.expr),
            Expr::Binary(binary) => {
                let matching = binary.modifier.as_ref();
                self.add_labels(matching.and_then(|modifier| modifier.matching.as_ref()));
                self.add(&binary.lhs);
                self.add(&binary.rhs);
            }
            Expr::Paren(paren) => self.add(&paren.expr),
            Expr::Subquery(subquery) => self.add(&subquery.expr),
            Expr::VectorSelector(selector) => {
                self.metrics.extend(selector.name.clone());
                let matchers = selector.matchers.matchers.iter();
                self.labels
                    .extend(matchers.map(|matcher| matcher.name.clone()));
            }
            Expr::MatrixSelector(selector) => {
                self.has_range = true;
                self.add(&Expr::VectorSelector(selector.vs.clone()));
            }
            Expr::Call(call) => {
                for argument in &call.args.args {
                    self.add(argument);
                }
            }
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
        }
    }
}

/// Returns what is wrong with a query.
fn query_errors(query: &str, legend: &str, errors: &mut Vec<String>) {
    let expression = match promql_parser::parser::parse(query) {
        Ok(expression) => expression,
        Err(error) => return errors.push(format!("{query}: {error}")),
    };
    let mut names = Names::default();
    names.add(&expression);
    let series = series();
    let mut known = BTreeSet::new();
    for metric in &names.metrics {
        match series.get(metric) {
            Some(labels) => known.extend(labels.iter().cloned()),
            None => errors.push(format!("{query}: no metric {metric}")),
        }
    }
    if names.metrics.is_empty() {
        errors.push(format!("{query}: no metric"));
    }
    let in_legend = legend.split("{{").skip(1);
    let in_legend = in_legend.filter_map(|rest| Some(rest.split_once("}}")?.0.trim().to_owned()));
    for label in names.labels.into_iter().chain(in_legend) {
        if !known.contains(&label) {
            errors.push(format!("{query}: no label {label}"));
        }
    }
}

/// Returns all that is wrong with a dashboard.
fn errors(dashboard: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for field in ["title", "uid", "schemaVersion"] {
        if dashboard[field].is_null() {
            errors.push(format!("no {field}"));
        }
    }
    let variables = dashboard["templating"]["list"].as_array();
    let variables: Vec<_> = variables
        .into_iter()
        .flatten()
        .map(|list| &list["name"])
        .collect();
    if variables != ["datasource", "scope"] {
        errors.push(format!("variables {variables:?}"));
    }
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        let title = panel["title"].as_str().unwrap_or_default();
        if title.is_empty() || !ids.insert(panel["id"].as_u64()) {
            errors.push(format!(
                "panel {:?} {title:?}: no title, or the id of another",
                panel["id"]
            ));
        }
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap_or(99));
        if x + w > 24 || h > 30 {
            errors.push(format!("{title}: out of the grid"));
            continue;
        }
        let covered = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
        if covered.filter(|cell| !cells.insert(*cell)).count() > 0 {
            errors.push(format!("{title}: covers another panel"));
        }
    }
    for panel in panels(dashboard) {
        let title = &panel["title"];
        if panel["description"].as_str().is_none_or(str::is_empty) {
            errors.push(format!("{title}: no description"));
        }
        if panel["fieldConfig"]["defaults"]["unit"].as_str().is_none() {
            errors.push(format!("{title}: no unit"));
        }
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        let sources = targets.iter().chain([panel]);
        if targets.is_empty()
            || sources
                .clone()
                .any(|of| of["datasource"]["uid"] != DATASOURCE)
        {
            errors.push(format!("{title}: no query, or a fixed data source"));
        }
        for target in targets {
            let text = target["expr"].as_str().unwrap_or_default();
            if text.contains('[') && !text.contains("[$__rate_interval]") {
                errors.push(format!("{title}: a fixed range in {text}"));
            }
        }
        for (query, legend) in queries(panel, ".*", "1m") {
            query_errors(&query, legend, &mut errors);
        }
    }
    errors
}

#[test]
fn dashboard_has_no_errors() {
    let Some(dashboard) = dashboard() else {
        return;
    };
    assert_eq!(errors(&dashboard), Vec::<String>::new());
    assert!(panels(&dashboard).len() > 20);
}

#[test]
fn each_kind_of_mistake_in_a_dashboard_is_found() {
    let no_metric = "sum(tower_claude_no_such)";
    let no_label = "sum by (key) (tower_claude_paused)";
    let fixed_range = "sum(rate(tower_claude_paused_seconds_total[1m]))";
    let mistakes = [
        ("/title", Value::Null, "no title"),
        ("/panels/0/title", "".into(), "no title"),
        ("/panels/1/id", 1.into(), "the id of another"),
        ("/panels/1/gridPos/x", 1.into(), "covers another"),
        ("/panels/1/gridPos/w", 25.into(), "out of the grid"),
        ("/panels/0/description", Value::Null, "no description"),
        (
            "/panels/0/fieldConfig/defaults/unit",
            Value::Null,
            "no unit",
        ),
        (
            "/panels/0/datasource/uid",
            "abc".into(),
            "fixed data source",
        ),
        ("/panels/0/targets/0/expr", no_metric.into(), "no metric"),
        ("/panels/0/targets/0/expr", no_label.into(), "no label key"),
        (
            "/panels/0/targets/0/expr",
            fixed_range.into(),
            "a fixed range",
        ),
        ("/panels/0/targets/0/expr", "sum(".into(), "sum(: "),
        (
            "/panels/0/targets/0/legendFormat",
            "{{user}}".into(),
            "no label user",
        ),
    ];
    for (place, mistake, expected) in mistakes {
        let Some(mut dashboard) = dashboard() else {
            return;
        };
        *dashboard.pointer_mut(place).expect("the place is there") = mistake;
        let errors = errors(&dashboard);
        assert!(
            errors.iter().any(|error| error.contains(expected)),
            "{place}: {errors:?}"
        );
    }
}

/// Sends requests with incidents of each kind: a server that is overloaded until the circuit opens
/// and a stand-in answers, a 429, rejected keys, and requests for the cache.
async fn send_some(gateway: &TestGateway, fake: &FakeClaude, round: u32) {
    if round.is_multiple_of(8) {
        fake.inject_times(Fault::Overloaded, 12);
    }
    if round % 8 == 4 {
        let retry_after = Duration::from_secs(1);
        fake.inject(Fault::RateLimited { retry_after });
    }
    let mut requests = Vec::new();
    for number in 0..6 {
        let mut request = gateway.message();
        if number == 0 {
            request = request.header("x-tower-claude-cache", "true");
        }
        let mut body = STREAM_REQUEST.to_owned();
        if number == 1 {
            request = gateway
                .request("POST", "/v1/messages")
                .header("x-api-key", "unknown")
                .header("anthropic-version", "2023-06-01")
                .header("content-type", "application/json");
            body = body.replace("claude-sonnet-5-5", "claude-opus-5-1");
        }
        requests.push(send(request, body));
    }
    futures_util::future::join_all(requests).await;
}

#[tokio::test]
async fn every_panel_has_data_in_prometheus() {
    let limits = GroupLimits::new()
        .with_requests_per_minute(2_000)
        .with_input_tokens_per_minute(1_000_000)
        .with_output_tokens_per_minute(200_000);
    let fake = FakeClaude::builder()
        .limits(limits)
        .api_key("key-of-caller")
        .output_tokens(9)
        .build();
    let server = fake.serve().await.expect("it starts");
    let gateway = TestGateway::new(config(&format!(
        "[[upstreams]]\nname = \"fake\"\nurl = \"{}\"\ncache = \"1s\"\n\
         fallback = [\"claude-sonnet-5-5\", \"claude-haiku-5-5\"]\n\
         limits = {{ requests_per_minute = 2000 }}\n",
        server.url()
    )))
    .await;
    let (Some(prometheus), Some(dashboard)) = (Prometheus::start(gateway.admin), dashboard())
    else {
        return;
    };
    let mut missing: Vec<String> = panels(&dashboard)
        .into_iter()
        .flat_map(|panel| queries(panel, ".*", "10s"))
        .map(|(query, _)| query)
        .collect();
    let all_have_data = async {
        for round in 0.. {
            send_some(&gateway, &fake, round).await;
            let mut left = Vec::new();
            for query in std::mem::take(&mut missing) {
                if prometheus.count(&query).await.unwrap_or(0) == 0 {
                    left.push(query);
                }
            }
            missing = left;
            if missing.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let done = tokio::time::timeout(3 * LONG, all_have_data).await;
    assert!(done.is_ok(), "no data for {missing:#?}");
}
