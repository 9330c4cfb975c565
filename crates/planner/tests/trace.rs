//! The figures of the shipped trace, and the least limit against brute force.

use std::{fs::File, io::BufReader, path::PathBuf, time::Duration};

use tower_claude_planner::{
    bucket::Quota,
    demand::Demand,
    event::Event,
    limits::LimitTable,
    plan::{PlanOptions, PlanReport, plan},
    read::read,
    replay,
    search::{Target, least_limit},
    time::Time,
    traffic::{Traffic, TrafficBuilder},
};

fn trace() -> Traffic {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/data/azure-llm-code-2023.csv");
    let mut builder = TrafficBuilder::new(None);
    let input = BufReader::new(File::open(path).unwrap());
    let report = read("trace.csv", input, None, &mut |line, record| {
        builder.add(line, &record);
    });
    builder.end_file(report.unwrap());
    builder.build().unwrap()
}

/// Returns traffic of three requests.
fn few() -> Traffic {
    let log = "t_start,input,output\n2026-11-28T09:00:00Z,5,6\n2026-11-28T09:00:01Z,5,6\n2026-11-28T09:01:00Z,5,6\n";
    let mut builder = TrafficBuilder::new(None);
    let report = read("few.csv", log.as_bytes(), None, &mut |line, record| {
        builder.add(line, &record);
    });
    builder.end_file(report.unwrap());
    builder.build().unwrap()
}

fn planned(options: &PlanOptions) -> PlanReport {
    plan(&trace(), options, &mut |_, _| {}).unwrap()
}

/// Asserts that a figure is `expected` with an error of half a percent.
#[track_caller]
fn assert_about(figure: Option<u64>, expected: f64) {
    let figure = figure.unwrap() as f64;
    assert!(
        (figure / expected - 1.0).abs() < 0.005,
        "{figure} is not {expected}"
    );
}

#[test]
fn plan_of_the_trace_has_the_published_figures() {
    let report = planned(&PlanOptions::default());
    assert_eq!(report.coverage.records, 8_819);
    let pool = &report.pools[0];
    let peaks = &pool.dimensions[1].peaks;
    assert_about(Some(peaks.mean as u64), 315_371.0);
    assert_eq!(peaks.minute_p95, 940_747);
    assert_eq!(
        (peaks.clock_minute, peaks.minute_from_first),
        (1_242_714, 1_327_909)
    );
    assert_eq!(peaks.rolling_minute, 1_392_194);
    assert_eq!(
        (peaks.five_seconds, peaks.one_second),
        (6_849_084, 8_855_580)
    );
    let output = &pool.dimensions[2].peaks;
    // The largest 60 s are a third above the largest minute from the first request.
    assert_eq!(
        (output.rolling_minute, output.minute_from_first),
        (22_235, 16_642)
    );
    let needs = &pool.dimensions[1].needs;
    let expected = [
        (60, 816_600.0, 676_400.0, 648_800.0),
        (10, 2_688_000.0, 1_259_500.0, 1_074_700.0),
        (1, 6_230_000.0, 1_991_500.0, 1_293_500.0),
    ];
    for (need, (seconds, no_wait, paced, within)) in needs.iter().zip(expected) {
        assert_eq!(need.capacity_seconds, seconds);
        assert_about(need.without_wait, no_wait);
        assert_about(need.for_target, paced);
        assert_about(need.within_30_seconds, within);
    }
    let text = report.text();
    assert!(text.lines().count() <= 40, "{text}");
    let first = text.lines().next().unwrap();
    assert!(first.contains("676 k to 1.99 M input tokens"), "{first}");
    assert!(first.contains("Start"), "{first}");
}

#[test]
fn what_ifs_and_events_of_the_trace_change_the_need() {
    let mut options = PlanOptions::default();
    options.limits = Some(LimitTable::tier("start").unwrap());
    options.capacity = Some(Duration::from_secs(10));
    let changes = ["cache=0.6", "keys=3", "workspaces=2", "max_tokens=100"];
    options.what_ifs = changes.map(|change| change.parse().unwrap()).to_vec();
    options.events = vec!["2023-11-23T18:30 4x 20m".parse::<Event>().unwrap()];
    let report = planned(&options);
    let pool = &report.pools[0];
    let [cache, keys, workspaces, max_tokens] = &pool.what_ifs[..] else {
        panic!()
    };
    let (before, after) = (cache.need.0.unwrap() as f64, cache.need.1.unwrap() as f64);
    // All prompts shrink by the same share, and so does the need.
    assert!((after / before - 0.4).abs() < 0.01, "{cache:?}");
    for (result, note) in [
        (keys, "no gain"),
        (workspaces, "no gain"),
        (max_tokens, "no effect"),
    ] {
        assert!(
            result.note.as_ref().unwrap().starts_with(note),
            "{result:?}"
        );
        assert_eq!(result.need.0, result.need.1);
    }
    let event = &pool.events[0];
    assert!(event.basis.as_ref().unwrap().is_same_hours);
    let need = pool.dimensions[1].needs[0].for_target.unwrap();
    assert!(event.needs[1].unwrap() > 2 * need, "{event:?}");
    assert!(pool.no_forecast.as_ref().unwrap().contains("57 min"));
}

#[test]
fn unknown_names_and_sampled_traffic_are_refused() {
    let refused = |change: &dyn Fn(&mut PlanOptions)| {
        let mut options = PlanOptions::default();
        change(&mut options);
        plan(&few(), &options, &mut |_, _| {}).unwrap_err()
    };
    let pool = refused(&|options| options.pool = Some("opus-5.5".to_owned()));
    assert!(pool.contains("which has unknown"), "{pool}");
    let tag = refused(&|options| options.what_ifs = vec!["batch=tag:nightly".parse().unwrap()]);
    assert!(tag.contains("concerns no request"), "{tag}");
    assert!(refused(&|options| options.growth = f64::NAN).contains("growth"));
    let mut sampled = few();
    sampled.coverage.sample_rate = 0.1;
    let error = plan(&sampled, &PlanOptions::default(), &mut |_, _| {}).unwrap_err();
    assert!(error.contains("10.0 %"), "{error}");
}

/// Returns demand in bursts.
fn bursts(seed: u64) -> Vec<Demand> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut at = 1_795_857_000_000_000;
    let demand = (0..80).map(|_| {
        at += if random.u8(0..4) == 0 {
            random.i64(0..20_000_000)
        } else {
            random.i64(0..300_000)
        };
        Demand {
            at,
            millirequests: 1_000,
            input: random.u64(1..4_000),
            cache_read: 0,
            cache_write: 0,
            output: random.u64(1..500),
            tag: 0,
            model: 0,
        }
    });
    demand.collect()
}

/// Returns true if a replay through the limiter meets a target.
fn is_met(demand: &[Demand], quota: &Quota, target: &Target) -> bool {
    let waits = replay::replay(demand, quota, true, |_| {});
    let mut waits: Vec<u64> = waits.iter().map(|wait| wait.unwrap().nanos).collect();
    waits.sort_unstable();
    let rank = (target.share * waits.len() as f64).ceil() as usize;
    u128::from(waits[rank - 1]) <= target.wait.as_nanos()
}

#[test]
fn least_limit_is_that_of_all_limits_tried_in_turn() {
    for seed in 0..6 {
        let demand = bursts(seed);
        let dimension = [1, 2][seed as usize % 2];
        let burst = [Duration::from_secs(60), Duration::from_secs(1)][seed as usize / 2 % 2];
        let target = [Target::DEFAULT, Target::NONE, "max 2s".parse().unwrap()][seed as usize % 3];
        // All limits in steps of one percent, from one that is too low.
        let mut limit = 20.0_f64;
        let brute_force = loop {
            let quota = Quota::only(dimension, limit as u64, burst);
            if is_met(&demand, &quota, &target) {
                break limit;
            }
            limit *= 1.01;
        };
        let found = least_limit(&demand, dimension, burst, &target).unwrap() as f64;
        let difference = (found / brute_force - 1.0).abs();
        assert!(
            difference < 0.02,
            "seed {seed}: {found} instead of {brute_force}"
        );
        // What is found is enough, by the arithmetic and by the limiter.
        let quota = Quota::only(dimension, found as u64, burst);
        assert!(is_met(&demand, &quota, &target) && target.is_met(&demand, &quota));
    }
}

#[test]
fn short_time_above_the_limit_is_no_zero() {
    let mut log = "t_start,model,input\n".to_owned();
    let mut row = |at: i64| {
        let start = Time(1_793_577_600_000_000 + at * 1_000_000);
        log.push_str(&format!("{start},claude-sonnet-5-5,1000\n"));
    };
    let week = 8 * 86_400;
    (0..week / 600).for_each(|number| row(number * 600));
    (0..10).for_each(|_| row(week));
    row(week + 600);
    let mut builder = TrafficBuilder::new(None);
    let report = read("week.csv", log.as_bytes(), None, &mut |line, record| {
        builder.add(line, &record);
    });
    builder.end_file(report.unwrap());
    let traffic = builder.build().unwrap();
    let mut options = PlanOptions::default();
    let limits = "[claude-sonnet-5-5]\ninput_tokens = 10_000\n";
    options.limits = Some(LimitTable::from_toml("own.toml", limits).unwrap());
    let verdict = plan(&traffic, &options, &mut |_, _| {}).unwrap().verdict;
    // 60 s of eight days.
    let expected = "input tokens bind pool sonnet-5.5: 52 s/week above 80 %";
    assert!(verdict.starts_with(expected), "{verdict}");
}
