//! The waits under each possible limit.

use super::{
    chart,
    markup::{Html, Table},
    page,
};
use crate::{
    plan::{Curve, CurvePoint},
    search::Target,
    text::{count, seconds},
};

/// The longest wait of the picture in seconds.
const LONGEST: f64 = 300.0;

/// The marks of the y axis.
const WAITS: [(f64, &str); 4] = [
    (1.0, "1 s"),
    (5.0, "5 s"),
    (30.0, "30 s"),
    (300.0, "5 min or more"),
];

/// The classes of lines, the largest bucket first.
const LINES: [&str; 3] = ["size-a", "size-b", "size-c"];

/// The parts of the picture.
const TOP: f64 = 52.0;
const BOTTOM: f64 = 206.0;
const HEIGHT: f64 = 228.0;

/// A named limit is shown if it is at most so many times as far away as the curves.
const FAR: u64 = 16;

/// The width that a text beside a mark needs.
const TEXT: f64 = 0.3;

/// A limit that the picture names.
pub(super) struct Named<'a> {
    /// The limit per minute.
    pub(super) limit: u64,
    /// The name.
    pub(super) name: &'a str,
    /// The class of its line.
    pub(super) class: &'static str,
}

/// The waits under each possible limit on one dimension, for each size of the buckets.
pub(super) struct Picture<'a> {
    curves: Vec<&'a Curve>,
    named: &'a [Named<'a>],
    target: Target,
    /// The ends of the x axis.
    low: f64,
    high: f64,
}

impl<'a> Picture<'a> {
    /// Returns a picture of curves around limits that are named. `None` if there is nothing to
    /// show.
    pub(super) fn of(curves: &'a [Curve], named: &'a [Named<'a>], target: Target) -> Option<Self> {
        let waits = |curve: &&Curve| curve.points.iter().any(|point| point.wait_max > 0.0);
        let curves: Vec<&Curve> = curves.iter().filter(waits).collect();
        let tried = || curves.iter().flat_map(|curve| &curve.points);
        let low = tried().map(|point| point.limit).min()?.max(1);
        let high = tried().map(|point| point.limit).max()?;
        // A limit that is far away would press the curves together.
        let is_near = |limit: &u64| (low / FAR..=high.saturating_mul(FAR)).contains(limit);
        let limits = || named.iter().map(|named| named.limit).filter(is_near);
        let low = limits().fold(low, u64::min).max(1) as f64 * 0.85;
        let high = limits().fold(high, u64::max) as f64 * 1.5;
        Some(Self {
            curves,
            named,
            target,
            low,
            high,
        })
    }

    /// Returns the waits of a curve: those of all requests, or the 95th percentile.
    fn waits(&self, curve: &Curve) -> Vec<(f64, f64)> {
        let wait = |point: &CurvePoint| match self.is_of_all() {
            true => point.wait_max,
            false => point.wait_p95,
        };
        let points = curve.points.iter();
        points
            .map(|point| (point.limit as f64, wait(point)))
            .collect()
    }

    /// Returns true if the target is about all requests.
    fn is_of_all(&self) -> bool {
        self.target.share >= 1.0
    }

    /// Returns the name of the waits that are shown.
    pub(super) fn name(&self) -> &'static str {
        match self.is_of_all() {
            true => "longest wait",
            false => "p95 of the waits",
        }
    }

    fn x(&self, limit: f64) -> f64 {
        (limit / self.low).ln() / (self.high / self.low).ln()
    }

    /// Writes the picture and its legend.
    pub(super) fn write(&self, html: &mut Html, label: &str) {
        chart::picture(html, HEIGHT, label, |html| {
            chart::across(html, "base", BOTTOM);
            for (wait, _) in WAITS {
                chart::across(html, "grid", y(wait));
            }
            let target = self.target.wait.as_secs_f64();
            let is_shown = self.is_of_all() || self.target.share == Target::DEFAULT.share;
            if is_shown && target > 0.0 && target < LONGEST {
                chart::across(html, "warn-line", y(target));
                chart::label(html, "axis", 0.72, y(target) - 4.0, "target");
            }
            for limit in self.marks() {
                let x = self.x(limit);
                chart::upright(html, "base", x, (BOTTOM, BOTTOM + 4.0));
                let limit = page::limit(limit.round() as u64);
                chart::label(html, "axis", x, HEIGHT - 6.0, &limit);
            }
            for (index, curve) in self.curves.iter().enumerate() {
                let waits = self.waits(curve);
                // Above the highest limit that was tried, nothing waits.
                let rest = waits.last().map(|last| (self.high, last.1));
                let points: Vec<(f64, Option<f64>)> = waits
                    .into_iter()
                    .chain(rest)
                    .map(|(limit, wait)| (self.x(limit), Some(y(wait))))
                    .collect();
                chart::path(html, LINES[index % LINES.len()], HEIGHT, &points);
            }
            self.write_named(html);
            // The curves fall, so that there is room at the end.
            for (wait, text) in WAITS {
                chart::label(html, "axis", 1.0, y(wait) - 3.0, text);
            }
            chart::label(html, "axis", 1.0, BOTTOM - 3.0, "no wait");
        });
        if self.curves.len() > 1 {
            let names: Vec<(&str, String)> = self
                .curves
                .iter()
                .enumerate()
                .map(|(index, curve)| {
                    let size = curve.capacity_seconds;
                    let class = LINES[index % LINES.len()];
                    (class, format!("a minute is enforced over {size} s"))
                })
                .collect();
            let lines: Vec<(&str, &str)> = names
                .iter()
                .map(|(class, name)| (*class, &**name))
                .collect();
            chart::key(html, &lines);
        }
    }

    /// Returns the waits as a table. Each curve has limits of its own.
    pub(super) fn table(&self) -> Table<'static> {
        let rows = self.curves.iter().flat_map(|curve| {
            let size = format!("{} s", curve.capacity_seconds);
            let waits = self.waits(curve).into_iter();
            waits.map(move |(limit, wait)| {
                vec![size.clone(), count(limit.round() as u64), seconds(wait)]
            })
        });
        Table {
            caption: "Wait by limit",
            head: ["Enforced over", "Limit a minute", "Wait"]
                .map(str::to_owned)
                .to_vec(),
            rows: rows.collect(),
        }
    }

    /// Writes the named limits. Texts that would lie on each other are in different rows.
    fn write_named(&self, html: &mut Html) {
        let mut named: Vec<&Named<'_>> = self.named.iter().collect();
        named.sort_by_key(|named| named.limit);
        let mut rows = [f64::NEG_INFINITY; 3];
        for named in named {
            let x = self.x(named.limit as f64);
            if !(0.0..=1.0).contains(&x) {
                continue;
            }
            // A text at an edge is beside its line, the others have it in their middle.
            let from = match x {
                ..0.08 => x,
                0.9.. => x - TEXT,
                _ => x - TEXT / 2.0,
            };
            let row = rows.iter().position(|end| *end <= from).unwrap_or(0);
            rows[row] = from + TEXT;
            let text = 12.0 + 14.0 * row as f64;
            chart::upright(html, named.class, x, (text + 3.0, BOTTOM));
            let name = format!("{} {}", named.name, page::limit(named.limit));
            chart::label(html, "axis strong", x, text, &name);
        }
    }

    /// Returns the marks of the x axis: round ones, or both ends.
    fn marks(&self) -> Vec<f64> {
        for steps in [&[1.0][..], &[1.0, 3.0], &[1.0, 2.0, 5.0]]
            .into_iter()
            .rev()
        {
            let mut marks = Vec::new();
            let mut power = 10_f64.powf(self.low.log10().floor());
            while power <= self.high {
                marks.extend(steps.iter().map(|step| step * power));
                power *= 10.0;
            }
            marks.retain(|mark| (self.low..=self.high).contains(mark));
            if (2..=5).contains(&marks.len()) {
                return marks;
            }
        }
        vec![self.low, self.high]
    }
}

/// Returns the place of a wait. Short waits have as much room as long ones.
fn y(wait: f64) -> f64 {
    let share = (1.0 + 2.0 * wait.min(LONGEST)).ln() / (1.0 + 2.0 * LONGEST).ln();
    BOTTOM - (BOTTOM - TOP) * share
}
