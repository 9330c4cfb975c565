//! The printed output.

use std::{collections::BTreeSet, process::ExitCode};

use serde::Serialize;

use crate::cli::{Cli, Incident};
use crate::load::{BURST, Load};
use crate::report::{Row, Run};

/// Announces the run, since without a terminal nothing else is printed until the end.
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

/// Prints the runs and their comparison.
pub(crate) fn results(cli: &Cli, plain: &Run, layers: &Run) -> ExitCode {
    println!("{}", table(cli.incident, &plain.row, &layers.row));
    for (name, count) in &layers.extras {
        println!("{:<32}{:>28}", format!("  {name}"), grouped(*count));
    }
    if cli.incident == Incident::Outage {
        return outage(cli, plain, layers);
    }
    println!("broken after content, by the servers' logs");
    println!("  plain client: {}", listed(&plain.broken));
    println!("  layers:       {}", listed(&layers.broken));
    let good = layers.failed == layers.broken;
    if good {
        println!("the layers failed exactly these and no other");
    } else {
        println!("the layers failed:  {}", listed(&layers.failed));
    }
    json(cli, plain, layers);
    if good {
        return ExitCode::SUCCESS;
    }
    eprintln!("storm: the layers failed other requests than those the server broke after content");
    ExitCode::FAILURE
}

/// Several readers may have had a response that broke, so only the callers' side is compared.
fn outage(cli: &Cli, plain: &Run, layers: &Run) -> ExitCode {
    let good = layers.lost_only_after_content();
    if good {
        println!("\nthe layers failed no request but those that broke after content");
    }
    json(cli, plain, layers);
    if good {
        return ExitCode::SUCCESS;
    }
    eprintln!("storm: the layers failed requests before their content");
    ExitCode::FAILURE
}

fn json(cli: &Cli, plain: &Run, layers: &Run) {
    if cli.json {
        let rows = Rows {
            plain: &plain.row,
            layers: &layers.row,
        };
        let json = serde_json::to_string(&rows).expect("numbers are JSON");
        println!("{json}");
    }
}

#[derive(Serialize)]
struct Rows<'a> {
    plain: &'a Row,
    layers: &'a Row,
}

/// Prints both runs side by side. In an outage most requests do not wait for the limit, but for the
/// model or another one, so that the use of the limit has no meaning.
fn table(incident: Incident, plain: &Row, layers: &Row) -> String {
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
        match incident {
            Incident::Storm => line("use of the limit", &|row| percent(row.utilisation)),
            Incident::Outage => String::new(),
        },
        line("latency p50", &|row| ms(row.p50_ms)),
        line("latency p99", &|row| ms(row.p99_ms)),
    ]
    .concat()
}

/// Formats a number with separated thousands.
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

/// Formats request numbers in a line, or a word for none.
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
    fn columns_line_up() {
        let lines = table(
            Incident::Storm,
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
