//! Reports as text for a terminal: at most 40 lines, the answer first.

use crate::{
    bucket::DIMENSIONS,
    plan::{Fit, Need, PlanReport, PoolPlan},
    rolling::Peaks,
    time::{DAY, HOUR, MINUTE, SECOND},
    traffic::Coverage,
};

/// The most lines of a report.
pub const MOST_LINES: usize = 40;

/// Returns a count with three digits: `812`, `8,819`, `315 k`, `1.39 M`.
#[must_use]
pub fn count(count: u64) -> String {
    let scaled = |unit: f64, name: &str| {
        let number = count as f64 / unit;
        let decimals = if number < 9.995 {
            2
        } else if number < 99.95 {
            1
        } else {
            0
        };
        format!("{number:.decimals$} {name}")
    };
    match count {
        0..1_000 => count.to_string(),
        1_000..10_000 => format!("{},{:03}", count / 1_000, count % 1_000),
        10_000..999_500 => scaled(1e3, "k"),
        999_500..999_500_000 => scaled(1e6, "M"),
        999_500_000..999_500_000_000 => scaled(1e9, "G"),
        _ => scaled(1e12, "T"),
    }
}

/// Returns a count of which each digit is shown.
#[must_use]
pub fn exact(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a share as a percentage.
#[must_use]
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent < 0.1 => "< 0.1 %".to_owned(),
        percent if percent < 9.95 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// Returns a time in seconds, or a longer unit.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    match seconds {
        0.0 => "0 s".to_owned(),
        ..0.0095 => format!("{:.0} ms", (seconds * 1e3).max(1.0)),
        ..9.95 => format!("{seconds:.2} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3_600.0),
    }
}

/// Returns a length of time in the largest fitting unit.
#[must_use]
pub fn span(micros: i64) -> String {
    match micros {
        micros if micros < MINUTE => format!("{:.0} s", micros as f64 / SECOND as f64),
        micros if micros < HOUR => format!("{:.0} min", micros as f64 / MINUTE as f64),
        micros if micros < DAY => format!("{:.1} h", micros as f64 / HOUR as f64),
        _ => format!("{:.1} days", micros as f64 / DAY as f64),
    }
}

/// Replaces what could act on a terminal, or turn the text around it. Names are those of a log.
#[must_use]
pub fn printable(text: &str) -> String {
    let replace = |character: char| match character {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        _ if character.is_control() => '\u{fffd}',
        _ => character,
    };
    text.chars().map(replace).collect()
}

type PeakFigure = fn(&Peaks) -> u64;
type NeedFigure = fn(&Need) -> Option<u64>;

/// Lines of a report.
#[derive(Default)]
pub(crate) struct Lines(Vec<String>);

impl Lines {
    pub(crate) fn push(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }

    /// Returns the text. Lines beyond the most are counted.
    pub(crate) fn text(mut self) -> String {
        if self.0.len() > MOST_LINES {
            let left = self.0.len() - (MOST_LINES - 1);
            self.0.truncate(MOST_LINES - 1);
            self.0.push(format!("… {left} more lines: --json has all"));
        }
        let lines = self.0.iter().map(|line| printable(line) + "\n");
        lines.collect()
    }
}

/// Returns the line about the completeness of the record.
pub(crate) fn coverage(coverage: &Coverage) -> String {
    let covered = coverage.span() - (coverage.hole_seconds * SECOND as f64) as i64;
    format!(
        "record   {} to {} UTC, {} of {}; {} records, {} duplicates, {} lines skipped, {} other \
         requests; {} file{}",
        coverage.from.to_minute(),
        coverage.until.to_minute(),
        span(covered),
        span(coverage.span()),
        exact(coverage.records),
        exact(coverage.duplicates),
        exact(coverage.skipped()),
        exact(
            coverage.other_endpoints + coverage.files.iter().map(|file| file.others).sum::<u64>()
        ),
        coverage.files.len(),
        if coverage.files.len() == 1 { "" } else { "s" },
    )
}

impl PlanReport {
    /// Returns the report as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = Lines::default();
        lines.push(&*self.verdict);
        lines.push(coverage(&self.coverage));
        if let Some(first) = self.pools.first() {
            self.pool(first, &mut lines);
        }
        for plan in self.pools.iter().skip(1) {
            let needs = plan.dimensions[plan.binding].needs.last();
            let need = needs
                .and_then(|need| need.for_target)
                .map_or("-".to_owned(), count);
            lines.push(format!(
                "pool {}: {} come closest, need ~{need} a minute with pacing; --pool {} has more",
                plan.pool, DIMENSIONS[plan.binding], plan.pool
            ));
        }
        if !self.other_pools.is_empty() {
            lines.push(format!("other pools: {}", self.other_pools.join(", ")));
        }
        for warning in &self.warnings {
            lines.push(format!("! {warning}"));
        }
        lines.text()
    }

    fn pool(&self, plan: &PoolPlan, lines: &mut Lines) {
        let limits = plan
            .replayed
            .limits
            .map(|limit| limit.map_or("-".to_owned(), count));
        lines.push(format!(
            "limits   {} requests, {} input, {} output tokens a minute ({})",
            limits[0], limits[1], limits[2], plan.replayed.source
        ));
        lines.push(capacity_line(plan));
        let sign = plan.mark.sign();
        let basis = match sign {
            "" => "exact for the record, ~ marks estimates",
            _ => "estimates, because the record lacks something (see below)",
        };
        lines.push(format!(
            "figures  {basis}; catalogue of {}",
            self.catalog_as_of
        ));
        lines.push(format!(
            "{:<36}{:>12}{:>14}{:>15}",
            format!("pool {}, per minute", plan.pool),
            DIMENSIONS[0],
            DIMENSIONS[1],
            DIMENSIONS[2]
        ));
        let rows: [(&str, PeakFigure); 7] = [
            ("mean", |peaks| peaks.mean.round() as u64),
            ("p95 of clock minutes", |peaks| peaks.minute_p95),
            ("clock-minute maximum (Console)", |peaks| peaks.clock_minute),
            ("… counted from the first request", |peaks| {
                peaks.minute_from_first
            }),
            ("rolling 60 s maximum", |peaks| peaks.rolling_minute),
            ("5 s maximum × 12", |peaks| peaks.five_seconds),
            ("1 s maximum × 60", |peaks| peaks.one_second),
        ];
        for (name, figure) in rows {
            let figures: Vec<String> = plan
                .dimensions
                .iter()
                .map(|dimension| format!("{sign}{}", count(figure(&dimension.peaks))))
                .collect();
            lines.push(format!(
                "  {name:<34}{:>12}{:>14}{:>15}",
                figures[0], figures[1], figures[2]
            ));
        }
        self.needs(plan, lines);
        tiers(plan, self.growth, lines);
        if let Some(replay) = plan.replays.last() {
            lines.push(format!(
                "replay   through the limiter, buckets of {} s: {} delayed, p95 {}, max {}; without pacing {} refused",
                replay.capacity_seconds,
                percent(replay.paced.delayed),
                seconds(replay.paced.wait_p95),
                seconds(replay.paced.wait_max),
                percent(replay.unpaced.refused)
            ));
        }
        if let Some(dollars) = plan.dollars_per_month {
            let dollars = exact(dollars.round() as u64);
            lines.push(format!(
                "cost     ~${dollars} for 30 days like these, at list prices"
            ));
        }
        what_ifs(plan, lines);
        for event in &plan.events {
            let [requests, input, output] =
                event.needs.map(|need| need.map_or("-".to_owned(), count));
            let basis = match &event.basis {
                Some(basis) if basis.is_same_hours => {
                    format!("same hours from {}", basis.from.to_minute())
                }
                Some(basis) => format!("busiest hours, from {}", basis.from.to_minute()),
                None => "no traffic to multiply".to_owned(),
            };
            lines.push(format!(
                "event    {}: ~{requests} requests, ~{input} input, ~{output} output a minute, {} the limits above (p95 wait ~{}; {basis})",
                event.event,
                if event.fits { "within" } else { "beyond" },
                seconds(event.wait_p95)
            ));
        }
        lines.push(forecast_line(plan));
    }

    fn needs(&self, plan: &PoolPlan, lines: &mut Lines) {
        let Some(first) = plan.dimensions.first() else {
            return;
        };
        let sizes = first
            .needs
            .iter()
            .map(|need| format!("{:>11}", format!("{} s", need.capacity_seconds)));
        lines.push(format!(
            "{:<44}{}",
            "least limit if a minute is enforced over",
            sizes.collect::<String>()
        ));
        let target = self.target.to_string();
        let rows: [(&str, NeedFigure); 3] = [
            ("no wait", |need| need.without_wait),
            (&target, |need| need.for_target),
            ("every wait ≤ 30 s", |need| need.within_30_seconds),
        ];
        for (index, dimension) in plan.dimensions.iter().enumerate() {
            // The dimension that binds has all rows.
            let shown = if index == plan.binding { 3 } else { 2 };
            let sign = if index == 2 { "~" } else { plan.mark.sign() };
            for (name, figure) in &rows[..shown] {
                let figures = dimension.needs.iter().map(|need| {
                    let need = figure(need).map_or("-".to_owned(), count);
                    format!("{:>11}", format!("{sign}{need}"))
                });
                lines.push(format!(
                    "  {:<42}{}",
                    format!("{}, {name}", dimension.dimension),
                    figures.collect::<String>()
                ));
            }
        }
    }
}

fn capacity_line(plan: &PoolPlan) -> String {
    let evidence = &plan.capacity;
    let sizes: Vec<String> = evidence
        .possible_seconds
        .iter()
        .map(|size| format!("{size} s"))
        .collect();
    let known = match (evidence.at_least_seconds, evidence.below_seconds) {
        (None, None) => "the record does not tell".to_owned(),
        (Some(least), _) if least > 62.0 => format!(
            "{least:.0} s of a limit were admitted at once, which is more than it allows: it was \
             changed, or the record counts more than the server"
        ),
        (Some(least), None) => format!("~{least:.1} s of a limit were admitted at once"),
        (None, Some(below)) => format!("~{below:.1} s of a limit were refused at once"),
        (Some(least), Some(below)) => {
            format!("~{least:.1} s of a limit were admitted at once, ~{below:.1} s refused")
        }
    };
    format!(
        "buckets  a minute may be enforced over {} ({known})",
        sizes.join(", ")
    )
}

fn tiers(plan: &PoolPlan, growth: f64, lines: &mut Lines) {
    if plan.tiers.is_empty() {
        return;
    }
    let grown = format!("× {growth}");
    lines.push(format!(
        "{:<16}{:>20}{:>20}{:>20}{:>14}",
        "tier, buckets",
        "paced: p95/max wait",
        grown,
        "not paced: refused",
        format!("× {growth}")
    ));
    let waits = |fit: &Fit| {
        let mark = if fit.suffices_paced { "" } else { " ✗" };
        format!("~{}/{}{mark}", seconds(fit.wait_p95), seconds(fit.wait_max))
    };
    for row in &plan.tiers {
        // The smallest and the largest size bound the others.
        let mut shown = vec![row.fits.first(), row.fits.last()];
        shown.dedup_by_key(|fit| fit.map(|fit| fit.capacity_seconds));
        for fit in shown.into_iter().flatten() {
            lines.push(format!(
                "  {:<14}{:>20}{:>20}{:>20}{:>14}",
                format!("{}, {} s", row.tier, fit.capacity_seconds),
                waits(&fit.now),
                waits(&fit.grown),
                format!("~{}", percent(fit.now.refused)),
                format!("~{}", percent(fit.grown.refused)),
            ));
        }
    }
}

fn what_ifs(plan: &PoolPlan, lines: &mut Lines) {
    for result in &plan.what_ifs {
        let note = result
            .note
            .as_ref()
            .map_or(String::new(), |note| format!("; {note}"));
        if result.need.0 == result.need.1
            && result.note.is_some()
            && result.dollars_per_month.0 == result.dollars_per_month.1
        {
            lines.push(format!("what if  {}{note}", result.what_if));
            continue;
        }
        let need = |need: Option<u64>| need.map_or("-".to_owned(), count);
        let dollars = match result.dollars_per_month {
            (Some(before), Some(after)) => format!(
                ", ${} → ~${} in 30 days",
                exact(before.round() as u64),
                exact(after.round() as u64)
            ),
            _ => String::new(),
        };
        lines.push(format!(
            "what if  {}: need {} → ~{} {}, p95 wait {} → ~{}{dollars}{note}",
            result.what_if,
            need(result.need.0),
            need(result.need.1),
            DIMENSIONS[plan.binding],
            seconds(result.wait_p95.0),
            seconds(result.wait_p95.1),
        ));
    }
}

fn forecast_line(plan: &PoolPlan) -> String {
    let Some(forecast) = &plan.forecast else {
        let reason = plan.no_forecast.as_deref().unwrap_or_default();
        return format!("forecast {reason}");
    };
    let passing = |share: &str, passing: &Option<crate::forecast::Passing>| match passing {
        Some(passing) if passing.is_past => format!("is above {share} already"),
        Some(passing) => format!(
            "passes {share} on ~{} ({} to {})",
            passing.date,
            passing.earliest,
            passing.latest.as_deref().unwrap_or("never")
        ),
        None => format!("does not pass {share}"),
    };
    let (low, high) = forecast.growth_interval;
    format!(
        "forecast {} weeks: ~{:+.1} % a week ({:+.1} to {:+.1} %); p95 of the hours' busiest minutes ({}) {}, {}",
        forecast.weeks,
        forecast.growth_per_week * 100.0,
        low * 100.0,
        high * 100.0,
        DIMENSIONS[plan.binding],
        passing("80 %", &forecast.passes_80_percent),
        passing("100 %", &forecast.passes_100_percent),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(count(812), "812");
        assert_eq!(count(8_819), "8,819");
        assert_eq!(count(315_371), "315 k");
        assert_eq!(count(22_235), "22.2 k");
        assert_eq!(count(1_392_194), "1.39 M");
        assert_eq!(count(999_600), "1.00 M");
        assert_eq!(count(999_600_000_000), "1.00 T");
        assert_eq!(exact(1_234_567), "1,234,567");
        assert_eq!(percent(0.0432), "4.3 %");
        assert_eq!(seconds(1.234), "1.23 s");
    }

    #[test]
    fn names_cannot_act_on_a_terminal() {
        let mut lines = Lines::default();
        lines.push("pool \u{1b}[31m\u{202e}\r\nü");
        assert_eq!(lines.text(), "pool \u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}ü\n");
    }
}
