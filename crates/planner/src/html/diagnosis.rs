//! The page of a diagnosis.

use super::{
    chart::{self, place},
    markup::{Html, Table},
    page::{self, Level, capitalized, facts, figure, none, section, short_facts, with_code},
    series::Series,
};
use crate::{
    diagnose::{Diagnosis, Finding, cause::SLOW},
    mark::Mark,
    rolling::Point,
    text::{exact, percent},
    time::{DAY, HOUR, MINUTE, SECOND, Time},
    traffic::{Outcome, Row, Traffic},
};

/// The most periods of a picture and of its table.
const MOST: (i64, i64) = (160, 32);

/// The y axis of a picture: its top and its bottom.
const TOP: f64 = 16.0;
const BOTTOM: f64 = 74.0;
const HEIGHT: f64 = 96.0;

/// Returns a diagnosis as a page. The traffic is the one that was diagnosed.
#[must_use]
pub fn diagnosis(report: &Diagnosis, traffic: &Traffic) -> String {
    let level = match (report.rejected, report.slow) {
        (0, 0) => Level::Good,
        (0, _) => Level::Warning,
        _ => Level::Bad,
    };
    let title = "tower-claude diagnose";
    page::page(title, level, &report.verdict, &report.coverage, |html| {
        section(html, "Summary", "", |html| {
            summary(html, report);
            over_time(html, report, traffic);
        });
        section(html, "Causes", "", |html| {
            if report.findings.is_empty() {
                none(html, "Nothing was rejected and nothing was slow.");
            }
            for finding in &report.findings {
                cause(html, finding, (report.from, report.until));
            }
        });
        page::basis(html, &report.coverage, &report.warnings);
    })
}

fn summary(html: &mut Html, report: &Diagnosis) {
    let (from, until) = (report.from.to_minute(), report.until.to_minute());
    facts(
        html,
        &[
            ("Diagnosed", format!("{from} to {until} UTC")),
            ("Attempts", exact(report.attempts)),
            ("Rejections and failures", exact(report.rejected)),
            ("Calls that waited for 1 s or more", exact(report.slow)),
        ],
    );
}

/// Writes the attempts and the rejections over time.
fn over_time(html: &mut Html, report: &Diagnosis, traffic: &Traffic) {
    let inside = (report.from.0, report.until.0);
    let chosen = |is_chosen: fn(&Row) -> bool| -> Vec<Point> {
        let rows = traffic
            .rows
            .iter()
            .filter(|row| is_chosen(row) && (inside.0..=inside.1).contains(&row.start));
        let mut points: Vec<Point> = rows
            .map(|row| (row.start, u64::from(row.requests)))
            .collect();
        points.sort_unstable();
        // Both ends are shown, whether something happened there or not.
        points.insert(0, (inside.0, 0));
        points.push((inside.1, 0));
        points
    };
    let rejected = |row: &Row| row.outcome.is_refusal();
    let slow = |row: &Row| row.outcome == Outcome::Answered && row.sent - row.start >= SLOW;
    let all = [
        ("attempts", chosen(|_| true)),
        ("rejections and failures", chosen(rejected)),
        ("slow calls", chosen(slow)),
    ];
    figure(html, "Over time", Mark::Exact, "", |html| {
        for (name, points) in &all {
            bars(html, name, points);
        }
        let series: Vec<Series> = all
            .iter()
            .map(|(_, points)| Series::within(points, MOST.1))
            .collect();
        let mut head = vec!["UTC, from".to_owned()];
        head.extend(all.iter().map(|(name, _)| (*name).to_owned()));
        let first = &series[0];
        let rows = (0..first.uses.len()).map(|index| {
            let start = Time(first.from + index as i64 * first.step).to_minute();
            let sums = series.iter().map(|series| series.uses.get(index));
            let sums = sums.map(|found| exact(found.map_or(0, |found| found.sum)));
            [start].into_iter().chain(sums).collect()
        });
        let table = Table {
            caption: "Numbers by time",
            head,
            rows: rows.collect(),
        };
        table.write_folded(html);
    });
}

/// Returns a length of time in whole units.
fn period(micros: i64) -> String {
    match micros {
        _ if micros % DAY == 0 => format!("{} days", micros / DAY),
        _ if micros % HOUR == 0 => format!("{} h", micros / HOUR),
        _ if micros % MINUTE == 0 => format!("{} min", micros / MINUTE),
        _ => format!("{} s", micros / SECOND),
    }
}

fn bars(html: &mut Html, name: &str, points: &[Point]) {
    let series = Series::within(points, MOST.0);
    let most = series.uses.iter().map(|found| found.sum).max().unwrap_or(0);
    let period = period(series.step);
    let summary = format!("at most {} in {period}", exact(most));
    html.element("h4", &[], |html| {
        html.text(&capitalized(name));
        html.text(" ");
        html.leaf("small", &[], &summary);
    });
    let label = format!("{name} over time: {summary}");
    chart::picture(html, HEIGHT, &label, |html| {
        let width = 1.0 / series.uses.len().max(1) as f64;
        for (index, found) in series
            .uses
            .iter()
            .enumerate()
            .filter(|found| found.1.sum > 0)
        {
            let height = ((BOTTOM - TOP) * found.sum as f64 / most.max(1) as f64).max(1.0);
            let (x, y) = (
                place(width * index as f64),
                format!("{:.1}", BOTTOM - height),
            );
            let (width, height) = (place(width * 0.9), format!("{height:.1}"));
            let attributes = [
                ("class", "share-bar"),
                ("x", &*x),
                ("y", &*y),
                ("width", &*width),
                ("height", &*height),
            ];
            html.empty("rect", &attributes);
        }
        chart::across(html, "base", BOTTOM);
        for (x, text) in chart::time_marks(series.from, series.until()) {
            chart::upright(html, "base", x, (BOTTOM, BOTTOM + 4.0));
            chart::label(html, "axis", x, HEIGHT - 6.0, &text);
        }
    });
}

/// Writes a cause: its share, the explanation and the advice.
fn cause(html: &mut Html, finding: &Finding, (from, until): (Time, Time)) {
    let share = percent(finding.share);
    let title = capitalized(&format!("{}: {share}", finding.name));
    figure(html, &title, finding.mark, "", |html| {
        let label = format!("{share} of all rejections and slow calls");
        chart::picture(html, 14.0, &label, |html| {
            for (class, share) in [("share-track", 1.0), ("share-bar", finding.share)] {
                let width = place(share.clamp(0.0, 1.0));
                let attributes = [
                    ("class", class),
                    ("width", &*width),
                    ("height", "12"),
                    ("rx", "3"),
                ];
                html.empty("rect", &attributes);
            }
        });
        html.leaf("p", &[("class", "remedy")], finding.sentence);
        html.element("p", &[("class", "remedy")], |html| {
            html.leaf("strong", &[], "Remedy: ");
            with_code(html, finding.remedy);
        });
        let is_short = until.0 - from.0 < HOUR;
        let when = |time: Time| match is_short {
            true => time.to_second(),
            false => time.to_minute(),
        };
        let mut found = vec![
            ("Number", exact(finding.count)),
            ("First", when(finding.first)),
            ("Last", when(finding.last)),
        ];
        if !finding.place.is_empty() {
            found.push(("First in the log", finding.place.clone()));
        }
        short_facts(html, &found);
        found.clear();
        for (name, counts) in [
            ("Pools", &finding.pools),
            ("Keys", &finding.keys),
            ("Tags", &finding.tags),
        ] {
            if !counts.is_empty() {
                found.push((name, listed(counts)));
            }
        }
        facts(html, &found);
        if !finding.request_ids.is_empty() {
            html.element("details", &[], |html| {
                html.leaf("summary", &[], "Request ids");
                html.leaf("p", &[("class", "ids")], &finding.request_ids.join(" "));
            });
        }
    });
}

fn listed(counts: &[(String, u64)]) -> String {
    let names = counts
        .iter()
        .map(|(name, number)| format!("{name} ({})", exact(*number)));
    names.collect::<Vec<String>>().join(", ")
}
