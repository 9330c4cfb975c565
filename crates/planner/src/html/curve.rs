//! The waits under each possible limit.

use std::time::Duration;

use super::{
    chart,
    markup::{Html, Table},
    page,
};
use crate::{
    bucket::{self, Quota},
    demand::Demand,
    search::Target,
    text::{count, seconds},
};

/// The number of limits that are tried, and that for long records.
const LIMITS: (usize, usize) = (36, 18);

/// A record with more requests is long.
const LONG: usize = 200_000;

/// The longest wait of the picture in seconds.
const LONGEST: f64 = 300.0;

/// The marks of the y axis.
const WAITS: [(f64, &str); 4] = [(1.0, "1 s"), (5.0, "5 s"), (30.0, "30 s"), (300.0, "5 min")];

/// The classes of lines, the largest bucket first.
const LINES: [&str; 3] = ["size-a", "size-b", "size-c"];

/// The parts of the picture.
const TOP: f64 = 52.0;
const BOTTOM: f64 = 206.0;
const HEIGHT: f64 = 228.0;

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
pub(super) struct Curve<'a> {
    target: Target,
    named: &'a [Named<'a>],
    low: f64,
    high: f64,
    /// The size in seconds, and the waits in seconds by limit.
    lines: Vec<(u64, Vec<(f64, f64)>)>,
}

impl<'a> Curve<'a> {
    /// Replays demand under limits around those that are named and those between `low` and `high`.
    /// `None` if there is nothing to try.
    pub(super) fn of(
        demand: &[Demand],
        dimension: usize,
        sizes: &[u64],
        target: Target,
        (low, high): (u64, u64),
        named: &'a [Named<'a>],
    ) -> Option<Self> {
        let limits = || named.iter().map(|named| named.limit);
        // A limit that is far away would press the curves together.
        let is_near =
            |limit: &u64| *limit >= low / 16 && *limit <= high.saturating_mul(16) && *limit > 0;
        let low = limits().filter(is_near).fold(low, u64::min) as f64 * 0.85;
        let high = limits().filter(is_near).fold(high, u64::max) as f64 * 1.5;
        if demand.is_empty() || low < 0.5 || high <= low {
            return None;
        }
        let number = if demand.len() > LONG {
            LIMITS.1
        } else {
            LIMITS.0
        };
        let tried = |index: usize| low * (high / low).powf(index as f64 / (number - 1) as f64);
        let of_size = |size: &u64| {
            let wait = |index: usize| {
                let limit = tried(index);
                let quota =
                    Quota::only(dimension, limit.round() as u64, Duration::from_secs(*size));
                (limit, wait(demand, &quota, target.share))
            };
            (*size, (0..number).map(wait).collect())
        };
        Some(Self {
            target,
            named,
            low,
            high,
            lines: sizes.iter().map(of_size).collect(),
        })
    }

    fn x(&self, limit: f64) -> f64 {
        (limit / self.low).ln() / (self.high / self.low).ln()
    }

    /// Writes the picture and its key.
    pub(super) fn write(&self, html: &mut Html, label: &str) {
        chart::picture(html, HEIGHT, label, |html| {
            chart::across(html, "base", BOTTOM);
            for (wait, _) in WAITS {
                chart::across(html, "grid", y(wait));
            }
            let target = self.target.wait.as_secs_f64();
            if target > 0.0 && target < LONGEST {
                chart::across(html, "warn-line", y(target));
                chart::label(html, "axis", 0.72, y(target) - 4.0, "target");
            }
            for limit in self.marks() {
                let x = self.x(limit);
                chart::upright(html, "base", x, (BOTTOM, BOTTOM + 4.0));
                let limit = page::limit(limit.round() as u64);
                chart::label(html, "axis", x, HEIGHT - 6.0, &limit);
            }
            for (index, (_, waits)) in self.lines.iter().enumerate() {
                let points: Vec<(f64, Option<f64>)> = waits
                    .iter()
                    .map(|(limit, wait)| (self.x(*limit), Some(y(*wait))))
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
        if self.lines.len() > 1 {
            let names: Vec<(&str, String)> = self
                .lines
                .iter()
                .enumerate()
                .map(|(index, (size, _))| {
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

    /// Returns some of the waits as a table.
    pub(super) fn table(&self) -> Table<'static> {
        let mut head = vec!["Limit a minute".to_owned()];
        let sizes = self.lines.iter().map(|(size, _)| match self.lines.len() {
            1 => "Wait".to_owned(),
            _ => format!("Wait, over {size} s"),
        });
        head.extend(sizes);
        let limits = self.lines.first().map_or(0, |line| line.1.len());
        let rows = (0..limits).step_by(3).map(|index| {
            let limit = self.lines[0].1[index].0;
            let waits = self.lines.iter().map(|(_, waits)| seconds(waits[index].1));
            [count(limit.round() as u64)]
                .into_iter()
                .chain(waits)
                .collect()
        });
        Table {
            caption: "Wait by limit",
            head,
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

/// Returns the wait in seconds that this share of the requests does not exceed.
fn wait(demand: &[Demand], quota: &Quota, share: f64) -> f64 {
    let mut waits = Vec::with_capacity(demand.len());
    bucket::replay(demand, quota, true, |_, wait| {
        waits.push(wait.map_or(0, |wait| wait.nanos));
        true
    });
    let rank = (share * waits.len() as f64).ceil() as usize;
    let index = rank.max(1).min(waits.len()) - 1;
    let (_, wait, _) = waits.select_nth_unstable(index);
    Duration::from_nanos(*wait).as_secs_f64()
}
