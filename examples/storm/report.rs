//! What is printed.

use std::collections::{BTreeSet, HashMap};
use std::process::ExitCode;
use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use tower_claude_fake_claude::Attempt;

use crate::answer::Ending;
use crate::cli::Cli;
use crate::load::{BURST, Load};
use crate::measure::{self, Bucket, Judged, Wait};
use crate::replay::Done;

/// One client's run, as `--json` shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) requests: usize,
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    pub(crate) failed_after_content: usize,
    pub(crate) attempts: usize,
    pub(crate) http_429: usize,
    pub(crate) http_429_outside_incidents: usize,
    pub(crate) http_529_seen: usize,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) utilisation: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// A row, and the requests by number behind two of its columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) row: Row,
    /// Those that failed for their caller.
    pub(crate) failed: BTreeSet<usize>,
    /// Those the server says it broke after content.
    pub(crate) broken: BTreeSet<usize>,
}

impl Run {
    /// Puts together what the client saw and what the server wrote down.
    pub(crate) fn new(load: &Load, done: &[Done], log: &[Attempt]) -> Self {
        let tagged: Vec<(usize, &Attempt)> = log
            .iter()
            .filter_map(|attempt| Some((attempt.tag.as_deref()?.parse().ok()?, attempt)))
            .collect();
        let broken = tagged
            .iter()
            .filter(|(_, attempt)| attempt.broken_after_content)
            .map(|(index, _)| *index)
            .collect();
        let failed: BTreeSet<usize> = done
            .iter()
            .filter(|done| done.ending != Ending::Whole)
            .map(|done| done.index)
            .collect();
        let count =
            |pick: &dyn Fn(&Ending) -> bool| done.iter().filter(|done| pick(&done.ending)).count();
        let overloaded = StatusCode::from_u16(529).ok();
        let refused = log.iter().filter(|attempt| attempt.status == 429);
        let mut latencies: Vec<Duration> = done
            .iter()
            .filter(|done| done.ending == Ending::Whole)
            .map(|done| done.ended.saturating_sub(done.arrived))
            .collect();
        latencies.sort_unstable();
        let row = Row {
            requests: done.len(),
            succeeded: done.len() - failed.len(),
            failed: failed.len(),
            failed_after_content: count(&|ending| {
                matches!(
                    ending,
                    Ending::Failed {
                        after_content: true,
                        ..
                    }
                )
            }),
            attempts: log.len(),
            http_429: refused.clone().count(),
            http_429_outside_incidents: refused.filter(|attempt| !attempt.in_incident).count(),
            http_529_seen: count(
                &|ending| matches!(ending, Ending::Failed { status, .. } if *status == overloaded),
            ),
            input_tokens: log.iter().map(|attempt| attempt.charged_input).sum(),
            output_tokens: log.iter().map(|attempt| attempt.charged_output).sum(),
            utilisation: used(load, done, &tagged),
            p50_ms: measure::percentile_ms(&latencies, 0.50),
            p99_ms: measure::percentile_ms(&latencies, 0.99),
        };
        Self {
            row,
            failed,
            broken,
        }
    }
}

fn used(load: &Load, done: &[Done], tagged: &[(usize, &Attempt)]) -> f64 {
    let charged = tagged
        .iter()
        .filter(|(_, attempt)| attempt.charged_input > 0);
    let last: HashMap<usize, Duration> = charged
        .map(|(index, attempt)| (*index, attempt.at))
        .collect();
    let waits: Vec<Wait> = done
        .iter()
        .flat_map(|done| {
            let whole = Wait {
                request: done.index,
                from: done.arrived,
                until: last.get(&done.index).copied().unwrap_or(done.ended),
                tokens: load.jobs[done.index].input,
            };
            whole.without(&done.pauses)
        })
        .collect();
    // What met trouble in front of the bucket says nothing about its level.
    let judged: Vec<Judged> = tagged
        .iter()
        .filter(|(_, attempt)| attempt.charged_input > 0 || attempt.dimension.is_some())
        .map(|(_, attempt)| Judged {
            at: attempt.at,
            level: attempt.input_level_before,
            charged: attempt.charged_input,
        })
        .collect();
    let bucket = Bucket {
        per_second: load.per_minute.input_per_second(),
        capacity: load.per_minute.input_capacity(),
    };
    let used = measure::utilisation(&judged, &waits, &load.windows, bucket);
    (used * 10_000.0).round() / 10_000.0
}

/// Says what is about to happen: without a terminal nothing more is heard until the end.
pub(crate) fn announce(cli: &Cli, load: &Load) {
    let limit = load.per_minute;
    println!(
        "{} requests in {} s, then until the last is answered; seed {}",
        grouped(load.jobs.len() as u64),
        cli.seconds,
        cli.seed,
    );
    println!(
        "limits per minute: {} requests, {} input tokens (0.9 of what is asked for), {} output tokens; buckets hold {} s",
        grouped(limit.requests),
        grouped(limit.input),
        grouped(limit.output),
        BURST.as_secs(),
    );
    let windows = load.windows.iter().map(|window| {
        let (from, until) = (window.from.as_secs_f64(), window.until.as_secs_f64());
        format!("{from:.1}–{until:.1} s")
    });
    println!("incidents at {}\n", windows.collect::<Vec<_>>().join(", "));
}

/// Prints the runs and says what they are worth.
pub(crate) fn print(cli: &Cli, plain: &Run, layers: &Run) -> ExitCode {
    println!("{}", table(&plain.row, &layers.row));
    println!("broken after content, by the servers' logs");
    println!("  plain client: {}", listed(&plain.broken));
    println!("  layers:       {}", listed(&layers.broken));
    let good = layers.failed == layers.broken;
    if good {
        println!("the layers failed exactly these and no other");
    } else {
        println!("the layers failed:  {}", listed(&layers.failed));
    }
    if cli.json {
        let rows = Rows {
            plain: &plain.row,
            layers: &layers.row,
        };
        match serde_json::to_string(&rows) {
            Ok(json) => println!("{json}"),
            Err(error) => {
                eprintln!("storm: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if good {
        return ExitCode::SUCCESS;
    }
    eprintln!("storm: the layers failed other requests than those the server broke after content");
    ExitCode::FAILURE
}

#[derive(Serialize)]
struct Rows<'a> {
    plain: &'a Row,
    layers: &'a Row,
}

/// Both runs side by side.
fn table(plain: &Row, layers: &Row) -> String {
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let ms = |ms: f64| format!("{ms:.0} ms");
    let line = |name: &str, of: &dyn Fn(&Row) -> String| {
        format!("{name:<32}{:>14}{:>14}\n", of(plain), of(layers))
    };
    let count = |name: &str, of: &dyn Fn(&Row) -> u64| line(name, &|row| grouped(of(row)));
    [
        format!("{:<32}{:>14}{:>14}\n", "", "plain client", "layers"),
        count("requests", &|row| row.requests as u64),
        count("succeeded", &|row| row.succeeded as u64),
        count("failed", &|row| row.failed as u64),
        count("  of these after content", &|row| {
            row.failed_after_content as u64
        }),
        count("attempts", &|row| row.attempts as u64),
        count("429s", &|row| row.http_429 as u64),
        count("  of these outside incidents", &|row| {
            row.http_429_outside_incidents as u64
        }),
        count("529s that reached the caller", &|row| {
            row.http_529_seen as u64
        }),
        count("input tokens charged", &|row| row.input_tokens),
        count("output tokens charged", &|row| row.output_tokens),
        line("use of the limit", &|row| percent(row.utilisation)),
        line("latency p50", &|row| ms(row.p50_ms)),
        line("latency p99", &|row| ms(row.p99_ms)),
    ]
    .concat()
}

/// Thousands apart, as people read them.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Request numbers in a line, or a word for none.
fn listed(ids: &BTreeSet<usize>) -> String {
    if ids.is_empty() {
        return "none".to_owned();
    }
    let ids: Vec<String> = ids.iter().map(|id| format!("#{id}")).collect();
    ids.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let all = [0, 999, 1_000, 18_059_974].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "18,059,974"]);
    }

    #[test]
    fn json_has_the_fields_that_scripts_read() {
        let json = serde_json::to_value(Row::default()).unwrap();
        let mut keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        keys.sort();
        let expected = [
            "attempts",
            "failed",
            "failed_after_content",
            "http_429",
            "http_429_outside_incidents",
            "http_529_seen",
            "input_tokens",
            "output_tokens",
            "p50_ms",
            "p99_ms",
            "requests",
            "succeeded",
            "utilisation",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn columns_line_up() {
        let lines = table(
            &Row::default(),
            &Row {
                input_tokens: 18_059_974,
                ..Row::default()
            },
        );
        let widths: BTreeSet<usize> = lines.lines().map(str::len).collect();
        assert_eq!(widths.len(), 1, "{lines}");
    }
}
