//! The evidence for a higher limit.

use std::fmt::Write as _;

use tower_claude_planner::{
    Mark,
    evidence::{EvidenceOptions, MARGIN, evidence},
    limits::LimitTable,
    plan::{PlanOptions, plan},
    read::read,
    time::Time,
    traffic::{Traffic, TrafficBuilder},
};

const START: i64 = 1_793_577_600_000_000;
const MINUTE: i64 = 60_000_000;

/// Returns days of one request in each minute. Those of the last day have twice the input, and one
/// of them is refused.
fn days(count: i64) -> Traffic {
    let mut log = String::new();
    let minutes = count * 24 * 60;
    for minute in 0..=minutes {
        let input = if minute > minutes - 24 * 60 {
            2_000
        } else {
            1_000
        };
        let status = if minute == minutes { 429 } else { 200 };
        let start = Time(START + minute * MINUTE);
        let _ = writeln!(
            log,
            r#"{{"t_start":"{start}","t_end":"{start}","wait":0.5,"call":"{minute}","attempt":1,"model":"claude-sonnet-5-5","input":{input},"cache_read":1000,"output":5,"status":{status},"request_id":"req_{minute}"}}"#
        );
    }
    let mut builder = TrafficBuilder::new(None);
    let report = read("days.jsonl", log.as_bytes(), None, &mut |line, record| {
        builder.add(line, &record);
    });
    builder.end_file(report.unwrap());
    builder.build().unwrap()
}

fn options() -> EvidenceOptions {
    let mut options = EvidenceOptions::new("claude-sonnet-5-5");
    let limits = r#"{"sonnet-5.5":{"requests":100,"input_tokens":2400}}"#;
    options.limits = Some(LimitTable::from_json("own.json", limits).unwrap());
    options
}

#[test]
fn evidence_has_the_figures_of_the_console_and_the_time_above_the_limit() {
    let report = evidence(&days(10), &options()).unwrap();
    assert_eq!(
        (report.pool.as_str(), report.dimension),
        ("sonnet-5.5", "input tokens")
    );
    assert_eq!(report.mark, Mark::Exact);
    let input = &report.dimensions[1];
    assert_eq!(input.console_7_days, Some(2_000));
    assert_eq!(input.console_28_days, None);
    assert_eq!(input.rolling_minutes, [1_000, 2_000, 2_000, 2_000]);
    let [half, most, all] = input.time_above.unwrap();
    // One of ten days is above 80 %, and all but that day are at 42 %.
    assert!((half - 0.1).abs() < 0.01 && (most - 0.1).abs() < 0.01 && all == 0.0);
    assert_eq!(report.request_ids, ["req_14400"]);
    assert!(
        (report.cache_rate - 0.476).abs() < 0.01,
        "{}",
        report.cache_rate
    );
    assert_eq!(
        (report.paced_share, report.paced_since),
        (1.0, Some(Time(START)))
    );
    let need = report.need.unwrap();
    assert_eq!(report.ask, (need as f64 * 1.5 * MARGIN).ceil() as u64);
    assert!(
        report.verdict.contains("83 % of the limit of 2,400"),
        "{}",
        report.verdict
    );
    let text = report.text();
    assert!(text.lines().count() <= 40, "{text}");
    assert!(text.contains("Request ids: req_14400."), "{text}");
    assert!(report.no_forecast.unwrap().contains("10.0 days"));
}

#[test]
fn evidence_for_a_limit_that_is_hardly_used_says_so() {
    let mut options = options();
    options.dimension = Some(0);
    options.ask = Some(500);
    let report = evidence(&days(1), &options).unwrap();
    assert_eq!((report.dimension, report.ask), ("requests", 500));
    assert!(report.verdict.contains("from 50 %"), "{}", report.verdict);
    assert!(evidence(&days(1), &EvidenceOptions::new("opus-5.5")).is_err());
}

#[test]
fn plan_of_weeks_has_a_forecast_and_the_data_of_a_page() {
    let traffic = days(22);
    let mut options = PlanOptions::default();
    options.limits = Some(LimitTable::tier("start").unwrap());
    let report = plan(&traffic, &options, &mut |_, share| {
        assert!((0.0..=1.0).contains(&share));
    })
    .unwrap();
    let pool = &report.pools[0];
    let forecast = pool.forecast.as_ref().unwrap();
    assert_eq!(forecast.weeks, 3);
    let input = &pool.dimensions[1];
    assert_eq!(input.hours.len(), 22 * 24 + 1);
    assert_eq!(input.hours[0].most, 1_000);
    assert_eq!(input.hours.last().unwrap().most, 2_000);
    let curve = &input.curves[0];
    assert_eq!(curve.points.len(), 12);
    assert!(
        curve
            .points
            .windows(2)
            .all(|pair| pair[1].limit >= pair[0].limit)
    );
    assert!(
        curve
            .points
            .windows(2)
            .all(|pair| pair[1].wait_max <= pair[0].wait_max)
    );
    assert_eq!(curve.points.last().unwrap().wait_max, 0.0);
    // 60 requests an hour for 22 days, for 30 days: 1,000 input, 1,000 cache reads and 5 output.
    assert!(pool.dollars_per_month.unwrap() > 50.0);
}

#[test]
fn evidence_of_a_pool_leaves_out_the_other_pools() {
    let mut log = String::new();
    for number in 0..40 {
        let (model, status) = match number % 2 {
            0 => ("claude-sonnet-5-5", 200),
            _ => ("claude-opus-5-5", 429),
        };
        let start = Time(START + number * MINUTE);
        let _ = writeln!(
            log,
            r#"{{"t_start":"{start}","model":"{model}","input":10,"status":{status},"request_id":"req_{number}"}}"#
        );
    }
    let mut builder = TrafficBuilder::new(None);
    let report = read("two.jsonl", log.as_bytes(), None, &mut |line, record| {
        builder.add(line, &record);
    });
    builder.end_file(report.unwrap());
    let traffic = builder.build().unwrap();
    let report = evidence(&traffic, &EvidenceOptions::new("sonnet-5.5")).unwrap();
    assert_eq!((report.requests, report.rejections.len()), (20, 0));
    assert!(report.request_ids.is_empty());
    assert!(report.paste().contains("Basis: 20 requests"));
    let mut options = EvidenceOptions::new("claude-opus-5-5");
    options.limits =
        Some(LimitTable::from_json("own", r#"{"sonnet-5.5":{"requests":1}}"#).unwrap());
    options.ask = Some(100);
    let report = evidence(&traffic, &options).unwrap();
    assert_eq!(
        report.rejections.iter().map(|cause| cause.1).sum::<u64>(),
        20
    );
    let has_warning = |warning: &String| warning == "own has no limits of pool opus-5.5";
    assert!(report.warnings.iter().any(has_warning));
    options.growth = f64::NAN;
    assert!(evidence(&traffic, &options).is_err());
}
