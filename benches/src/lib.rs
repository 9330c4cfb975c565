//! Per-call overhead of the layers beside floors and peers.
//!
//! `cargo bench -p tower-claude-benches` prints everything in some minutes. Options,
//! after `--`: `--check` exits with 1 when a goal falls short (nearly all goals are ratios),
//! `--no-instructions` leaves valgrind out, `--case NAME --calls N` runs one row only, for a
//! profiler, `--limiter` and `--cache` their sections only.
#![forbid(unsafe_code)]

mod cache;
mod floor;
mod harness;
mod instructions;
mod layers;
mod limiter;
mod parsing;
mod peers;
mod prompt_cache;
mod report;
mod texts;

use std::{process::ExitCode, time::Duration};

use bytes::Bytes;
use http_body_util::Full;

use crate::{
    harness::{Case, Effort},
    instructions::Counter,
    report::{Goals, Report, Row},
};

/// Measures and prints, as these arguments say.
pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1)
    };
    if let Some(name) = value("--case") {
        let calls = value("--calls").and_then(|calls| calls.parse().ok());
        return run_one(name, calls.unwrap_or(1));
    }
    if has("--waiting") {
        limiter::count_bytes()
            .iter()
            .for_each(|bytes| println!("{bytes}"));
        return ExitCode::SUCCESS;
    }
    // `cargo test` starts benches too: then it is enough that every row runs.
    if !has("--bench") {
        all().iter().for_each(|case| case.worker()(1));
        return ExitCode::SUCCESS;
    }
    let effort = Effort {
        rounds: 61,
        batch: Duration::from_millis(2),
    };
    let counter = if has("--no-instructions") {
        None
    } else {
        Counter::find()
    };
    let mut report = Report::new(effort, counter);
    if has("--cache") {
        hits(&mut report);
        return verdict(&has, &report);
    }
    if has("--prompt-cache") {
        markers(&mut report);
        return verdict(&has, &report);
    }
    if !has("--limiter") {
        per_call(&mut report);
        heads(&mut report);
        streams(&mut report);
        bodies(&mut report);
        hits(&mut report);
        markers(&mut report);
    }
    reservations(&mut report);
    queues(&mut report);
    verdict(&has, &report)
}

fn verdict(has: &dyn Fn(&str) -> bool, report: &Report) -> ExitCode {
    if has("--check") && !report.is_good() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run_one(name: &str, calls: u64) -> ExitCode {
    let parts: [fn() -> Vec<Case>; 6] = [
        call_cases,
        limiter_cases,
        parsing::all,
        || cache::hits().into(),
        || prompt_cache::cases().into(),
        || layers::streams().into(),
    ];
    let mut cases = parts.into_iter().flat_map(|cases| cases());
    match cases.find(|case| case.name == name) {
        Some(case) => {
            case.worker()(calls);
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("no such case; there are:");
            all().iter().for_each(|case| eprintln!("  {}", case.name));
            ExitCode::FAILURE
        }
    }
}

fn all() -> Vec<Case> {
    let mut cases = call_cases();
    cases.extend(limiter_cases());
    cases.extend(parsing::all());
    cases.extend(cache::hits());
    cases.extend(prompt_cache::cases());
    cases.extend(layers::streams());
    cases
}

fn limiter_cases() -> Vec<Case> {
    let mut cases: Vec<Case> = limiter::reservations().into();
    cases.extend(limiter::QUEUES.into_iter().flat_map(limiter::queue));
    cases
}

fn call_cases() -> Vec<Case> {
    let mut cases = vec![floor::calls("floor", floor::Answer, Full::<Bytes>::new)];
    cases.extend(peers::cases());
    cases.extend(layers::cases());
    cases.extend(parsing::of_one_call());
    cases
}

fn per_call(report: &mut Report) {
    let rows = report.measure(&call_cases(), true);
    let (floor, rows) = rows.split_first().expect("the floor comes first");
    report.title("Per call: a request of 2 KiB with 5 headers, an answer of 800 bytes with 17");
    report.row(floor);
    report.title("Above the floor");
    let (parsing, calls): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.name.starts_with("parsing"));
    let calls: Vec<Row> = calls.iter().map(|row| row.over(floor)).collect();
    calls.iter().for_each(|row| report.row(row));
    report.title(
        "Of which parsing (the peers parse nothing): the head once in 100 ms, the rest per call",
    );
    parsing.iter().for_each(|row| report.row(row));
    let named = |name| calls.iter().find(|row| row.name == name);
    let rows = (
        named(layers::BREAKER),
        named(layers::RETRY),
        named(layers::SIX),
    );
    let (Some(breaker), Some(retry), Some(six)) = rows else {
        return;
    };
    let rows = (
        named(layers::STACK),
        named(peers::STACK),
        named(peers::FIVE),
    );
    let (Some(three), Some(their_three), Some(their_five)) = rows else {
        return;
    };
    report.instructions(breaker, 1_500.0);
    report.instructions(retry, 3_400.0);
    report.instructions(six, 15_500.0);
    if let Some(theirs) = named(peers::BREAKER) {
        report.ratio(breaker, theirs, Goals::default());
    }
    // The head is no part of a call, because nearly all heads are skipped this far from the limits.
    let (check, rest): (Vec<&Row>, Vec<&Row>) = parsing
        .into_iter()
        .filter(|row| row.name != parsing::HEAD)
        .partition(|row| row.name == parsing::CHECK);
    let breaker = minus("the breaker minus its check of the answer", breaker, &check);
    let three = minus("three in one driver minus parsing", three, &rest);
    let six = minus("all six minus parsing", six, &rest);
    println!();
    report.row(&breaker);
    report.row(&three);
    report.row(&six);
    let goals = Goals {
        instructions: Some(1.6),
        ..Goals::default()
    };
    report.ratio(&three, their_three, goals);
    let goals = Goals {
        one: Some(1.0),
        two: Some(0.8),
        instructions: Some(1.05),
    };
    report.ratio(&six, their_five, goals);
}

/// Returns the row without these parts.
fn minus(name: &str, row: &Row, parts: &[&Row]) -> Row {
    let whole = row.over(&Row::NOTHING);
    let mut rest = parts.iter().fold(whole, |left, part| left.over(part));
    rest.name = name.to_owned();
    rest
}

fn reservations(report: &mut Report) {
    report.title(
        "The limiter: requests, input, output, total, a day's tokens and concurrency limited",
    );
    let rows = report.measure(&limiter::reservations(), true);
    rows.iter().for_each(|row| report.row(row));
    report.at_most("1 thread, ns", rows[0].one, 400.0);
    report.ratio(&rows[0], &rows[1], Goals::default());
}

/// From the fewest to the most that wait, costs may grow as the logarithm does.
fn queues(report: &mut Report) {
    report.title("The limiter: long queues of 100 tenants");
    let [few, _, many] = limiter::QUEUES;
    let growth = (many as f64).ln() / (few as f64).ln();
    let cases = limiter::QUEUES.into_iter().flat_map(limiter::queue);
    let rows = report.measure(&cases.collect::<Vec<_>>(), false);
    rows.iter().for_each(|row| report.row(row));
    for at in [0, 1] {
        let (few, many) = (&rows[at], &rows[rows.len() - 2 + at]);
        report.growth(many, few, growth);
    }
    match limiter::bytes() {
        Some(bytes) => report.at_most("bytes of memory for each that waits", bytes, 1_024.0),
        None => println!("    bytes for each that waits: the system does not tell"),
    }
}

fn heads(report: &mut Report) {
    report.title("Response head: rate-limit headers");
    pair(report, &parsing::heads());
    report.title("Response body: usage of an answer of 800 bytes");
    pair(report, &parsing::usages());
}

fn streams(report: &mut Report) {
    report.title("Streams: per event of 150 bytes, one per chunk");
    let rows = report.measure(&parsing::streams(), false);
    rows.iter().for_each(|row| report.row(row));
    report.ratio(&rows[1], &rows[2], Goals::one(0.25));
    report.title("Streams: per event of 150 bytes, above the floor");
    let rows = report.measure(&layers::streams(), false);
    let six = rows[1].over(&rows[0]);
    report.row(&rows[0]);
    report.row(&six);
    report.instructions(&six, 1_000.0);
}

fn bodies(report: &mut Report) {
    report.title("Request body: three fields of its top level");
    for (_, cases) in parsing::bodies() {
        let rows = report.measure(&cases, false);
        rows.iter().for_each(|row| report.row(row));
        report.ratio(&rows[0], &rows[1], Goals::one(1.2));
    }
}

/// Compares cache hits. Our layer derives its key from the complete request, and the peer gets a
/// key.
fn hits(report: &mut Report) {
    report.title("A cache hit: a request of 2 KiB with 5 headers, an answer of 800 bytes");
    let rows = report.measure(&cache::hits(), true);
    rows.iter().for_each(|row| report.row(row));
    let [alone, hash, theirs, ours] = &rows[..] else {
        return;
    };
    let mut both = theirs.over(alone);
    both.name = "the hash and the peer's hit".to_owned();
    both.one += hash.one;
    both.two = both.two.zip(hash.two).map(|(a, b)| a + b);
    both.instructions = both.instructions.zip(hash.instructions).map(|(a, b)| a + b);
    report.ratio(&ours.over(alone), &both, Goals::one(1.3));
}

/// Compares the plan and the markers of a prompt with the pass over its body.
fn markers(report: &mut Report) {
    report.title("Markers for the prompt cache: a turn of an agent with 10 tools and 97 messages");
    let rows = report.measure(&prompt_cache::cases(), false);
    rows.iter().for_each(|row| report.row(row));
    if let [peek, _, ours] = &rows[..] {
        report.ratio(ours, peek, Goals::one(1.3));
    }
}

/// Prints two rows and their ratio.
fn pair(report: &mut Report, cases: &[Case; 2]) {
    let rows = report.measure(cases, false);
    rows.iter().for_each(|row| report.row(row));
    report.ratio(&rows[0], &rows[1], Goals::default());
}
