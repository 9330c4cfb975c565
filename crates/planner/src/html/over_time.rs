//! The use of the limits over time: one picture for each dimension.

use super::{
    chart,
    markup::{Html, Table},
    page::{self, capitalized},
    series::{Series, Use},
};
use crate::{
    bucket::{DIMENSIONS, scale},
    rolling::Point,
    text::{count, percent},
    time::{DAY, MINUTE, Time},
};

/// The most periods of a picture and of its table.
const MOST: (i64, i64) = (240, 32);

/// The y axis of a picture: its top and its bottom.
const TOP: f64 = 16.0;
const BOTTOM: f64 = 104.0;
const HEIGHT: f64 = 126.0;

/// The use of the limit on one dimension.
pub(super) struct Panel<'a> {
    /// The index of the dimension.
    pub(super) dimension: usize,
    /// The amounts.
    pub(super) points: &'a [Point],
    /// The limit per minute.
    pub(super) limit: Option<u64>,
}

impl Panel<'_> {
    /// Returns an amount per minute as people count it.
    fn amount(&self, amount: f64) -> String {
        let amount = amount / scale(self.dimension) as f64;
        count(amount.ceil() as u64)
    }

    /// Returns the limit in the units of the points.
    fn scaled(&self) -> Option<f64> {
        let limit = self.limit?.max(1);
        Some(limit as f64 * scale(self.dimension) as f64)
    }

    /// Returns the use as a share of the limit, or as an amount.
    fn share(&self, amount: f64) -> String {
        match self.scaled() {
            Some(limit) => percent(amount / limit),
            None => self.amount(amount),
        }
    }

    fn write(&self, html: &mut Html) {
        let series = Series::within(self.points, MOST.0);
        let peak = series.uses.iter().enumerate();
        let Some((index, peak)) = peak.max_by_key(|found| found.1.most) else {
            return;
        };
        let name = DIMENSIONS[self.dimension];
        let summary = match self.limit {
            Some(limit) => format!(
                "at most {} of {} a minute",
                self.share(peak.most as f64),
                page::limit(limit)
            ),
            None => format!("at most {} a minute", self.amount(peak.most as f64)),
        };
        html.element("h4", &[], |html| {
            html.text(&capitalized(name));
            html.text(" ");
            html.leaf("small", &[], &summary);
        });
        let limit = self.scaled();
        let most = limit.unwrap_or(0.0).max(peak.most as f64).max(1.0) * 1.04;
        let y = |amount: f64| BOTTOM - (BOTTOM - TOP) * amount / most;
        let at = series.from + index as i64 * series.step;
        let label = format!(
            "{name} over time: {summary}, at {} UTC",
            Time(at).to_minute()
        );
        chart::picture(html, HEIGHT, &label, |html| {
            let count = series.uses.len().max(1) as f64;
            let middle = |index: usize| (index as f64 + 0.5) / count;
            let means: Vec<(f64, f64)> = series
                .uses
                .iter()
                .enumerate()
                .map(|(index, found)| (middle(index), y(series.mean(found).min(most))))
                .collect();
            let tops: Vec<(f64, Option<f64>)> = series
                .uses
                .iter()
                .enumerate()
                .map(|(index, found)| (middle(index), Some(y(found.most as f64))))
                .collect();
            if has_mean(&series) {
                chart::area(html, "mean", HEIGHT, BOTTOM, &means);
            }
            chart::across(html, "base", BOTTOM);
            if let Some(limit) = limit {
                chart::across(html, "warn-line", y(limit * 0.8));
                chart::across(html, "limit-line", y(limit));
            }
            match tops[..] {
                [(_, top)] => chart::path(html, "use", HEIGHT, &[(0.0, top), (1.0, top)]),
                _ => chart::path(html, "use", HEIGHT, &tops),
            }
            if let Some(limit) = limit {
                chart::label(html, "axis", 0.0, y(limit) - 4.0, "limit");
                // Below this the words would lie on each other.
                if y(limit * 0.8) - y(limit) > 14.0 {
                    chart::label(html, "axis", 0.0, y(limit * 0.8) - 4.0, "80 %");
                }
            }
            for (x, text) in chart::time_marks(series.from, series.until()) {
                chart::upright(html, "base", x, (BOTTOM, BOTTOM + 4.0));
                chart::label(html, "axis", x, HEIGHT - 6.0, &text);
            }
        });
    }
}

/// Writes the pictures of all dimensions, their legend and their table.
pub(super) fn write(html: &mut Html, panels: &[Panel<'_>]) {
    for panel in panels {
        panel.write(html);
    }
    let mut lines = vec![("use", "highest use in any 60 s")];
    let first = panels
        .first()
        .map(|panel| Series::within(panel.points, MOST.0));
    if first.is_some_and(|series| has_mean(&series)) {
        lines.push(("mean-line", "mean of the minutes"));
    }
    if panels.iter().any(|panel| panel.limit.is_some()) {
        lines.push(("limit-line", "limit"));
        lines.push(("warn-line", "80 % of the limit"));
    }
    chart::key(html, &lines);
    table(panels).write_folded(html);
}

/// Returns true if the periods are longer than the minute of the other line.
fn has_mean(series: &Series) -> bool {
    series.step > MINUTE
}

fn table(panels: &[Panel<'_>]) -> Table<'static> {
    let series: Vec<Series> = panels
        .iter()
        .map(|panel| Series::within(panel.points, MOST.1))
        .collect();
    let mut head = vec!["UTC, from".to_owned()];
    head.extend(
        panels
            .iter()
            .map(|panel| DIMENSIONS[panel.dimension].to_owned()),
    );
    let first = series.first();
    let rows = (0..first.map_or(0, |first| first.uses.len())).map(|index| {
        let start = first.map_or(0, |first| first.from + index as i64 * first.step);
        let is_days = first.is_some_and(|first| first.step % DAY == 0);
        let mut row = vec![match is_days {
            true => Time(start).to_date(),
            false => Time(start).to_minute(),
        }];
        for (panel, series) in panels.iter().zip(&series) {
            let found: Use = series.uses.get(index).copied().unwrap_or_default();
            row.push(panel.share(found.most as f64));
        }
        row
    });
    Table {
        caption: "The highest use in any 60 s",
        rows: rows.collect(),
        head,
    }
}
