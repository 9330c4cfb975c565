//! The heat strip: the use of the limit in each hour of the week.

use super::{
    chart::{self, place},
    markup::{Html, Table},
    series::Series,
};
use crate::{rolling::Point, text::percent, time::HOUR};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// The shortest record that has a heat strip.
const SHORTEST: i64 = 6 * HOUR;

/// The reason for which a record has no heat strip.
pub(super) const TOO_SHORT: &str =
    "The record is shorter than six hours: too short for this figure.";

/// The height of a day, the gap between days, and the height of the axis.
const ROW: (f64, f64) = (22.0, 2.0);
const AXIS: f64 = 20.0;

/// The shares of the width for the names of days, and for an hour.
const NAMES: f64 = 0.1;
const CELL: f64 = (1.0 - NAMES) / 24.0;

/// The highest use of the limit in each hour of the week, the days from Monday on.
pub(super) struct Heat {
    /// `None` for hours that are not in the record.
    cells: [[Option<f64>; 24]; 7],
    /// True if the shares are those of a limit, false if they are those of the highest use.
    is_limited: bool,
}

impl Heat {
    /// Finds the highest use of a limit, which is in the units of the points. `None` if the record
    /// is too short.
    pub(super) fn of(points: &[Point], limit: Option<u64>) -> Option<Self> {
        let (first, last) = (points.first()?.0, points.last()?.0);
        if last - first < SHORTEST {
            return None;
        }
        let series = Series::of(points, HOUR);
        let most = series.uses.iter().map(|found| found.most).max()?;
        let whole = limit.unwrap_or(most).max(1) as f64;
        let mut cells = [[None::<f64>; 24]; 7];
        for (index, found) in series.uses.iter().enumerate() {
            let hour = (series.from + index as i64 * HOUR).div_euclid(HOUR);
            // The first day of 1970 was a Thursday.
            let day = (hour.div_euclid(24) + 3).rem_euclid(7) as usize;
            let cell = &mut cells[day][hour.rem_euclid(24) as usize];
            let share = found.most as f64 / whole;
            *cell = Some(cell.map_or(share, |before| before.max(share)));
        }
        Some(Self {
            cells,
            is_limited: limit.is_some(),
        })
    }

    /// Writes the strip, its legend and its table. `of` names the limit.
    pub(super) fn write(&self, html: &mut Html, of: &str) {
        let label = self.label(of);
        let height = ROW.0 * 7.0 + AXIS;
        chart::picture(html, height, &label, |html| {
            for (day, cells) in self.cells.iter().enumerate() {
                let top = AXIS + ROW.0 * day as f64;
                chart::label(html, "axis", 0.0, top + ROW.0 * 0.68, DAYS[day]);
                for (hour, cell) in cells.iter().enumerate() {
                    self.write_cell(html, (day, hour), top, *cell);
                }
            }
            for hour in (0..24).step_by(6) {
                let x = place(NAMES + CELL * f64::from(hour));
                let text = format!("{hour:02}:00");
                html.leaf(
                    "text",
                    &[("class", "axis from"), ("x", &x), ("y", "13")],
                    &text,
                );
            }
        });
        self.write_key(html);
        self.table().write_folded(html);
    }

    fn label(&self, of: &str) -> String {
        let all = (0..7).flat_map(|day| (0..24).map(move |hour| (day, hour)));
        let known = all.filter_map(|(day, hour)| Some((day, hour, self.cells[day][hour]?)));
        let most = known.max_by(|a, b| a.2.total_cmp(&b.2));
        let most = most.map_or(String::new(), |(day, hour, share)| {
            format!(
                ": the highest is {} on {} from {hour:02}:00 UTC",
                percent(share),
                DAYS[day]
            )
        });
        format!("The highest use of {of} in any 60 s, by hour and weekday{most}")
    }

    /// Returns the table: the hours are rows, so that it fits a phone.
    fn table(&self) -> Table<'static> {
        let days = (0..7).filter(|day| self.cells[*day].iter().any(Option::is_some));
        let days: Vec<usize> = days.collect();
        let mut head = vec!["UTC".to_owned()];
        head.extend(days.iter().map(|day| DAYS[*day].to_owned()));
        let row = |hour: usize| {
            let cell = |day: &usize| {
                self.cells[*day][hour].map_or("–".to_owned(), |share| {
                    format!("{:.0}", (share * 100.0).ceil())
                })
            };
            let name = format!("{hour:02}:00");
            [name].into_iter().chain(days.iter().map(cell)).collect()
        };
        Table {
            caption: match self.is_limited {
                true => "The highest use in any 60 s, in % of the limit",
                false => "The highest use in any 60 s, in % of the highest of all",
            },
            head,
            rows: (0..24).map(row).collect(),
        }
    }

    fn grades(&self) -> &'static [Grade] {
        match self.is_limited {
            true => &GRADES,
            false => &UNLIMITED,
        }
    }

    fn grade(&self, share: Option<f64>) -> Grade {
        let index = match share {
            None => 0,
            Some(..=0.25) => 1,
            Some(..=0.5) => 2,
            Some(..=0.8) => 3,
            Some(..=1.0) => 4,
            Some(_) => 5,
        };
        let grades = self.grades();
        grades[index.min(grades.len() - 1)]
    }

    fn write_cell(
        &self,
        html: &mut Html,
        (day, hour): (usize, usize),
        top: f64,
        share: Option<f64>,
    ) {
        let (class, sign, name) = self.grade(share);
        let x = NAMES + CELL * hour as f64;
        let (left, width) = (place(x), place(CELL * 0.92));
        let (y, height) = (format!("{top:.0}"), format!("{:.0}", ROW.0 - ROW.1));
        let share = share.map_or(name.to_owned(), percent);
        let title = format!("{} {hour:02}:00: {share}", DAYS[day]);
        let class = format!("heat {class}");
        let attributes = [
            ("class", &*class),
            ("x", &*left),
            ("y", &*y),
            ("width", &*width),
            ("height", &*height),
        ];
        html.element("rect", &attributes, |html| {
            html.leaf("title", &[], &title);
        });
        if !sign.is_empty() {
            let (middle, y) = (place(x + CELL * 0.46), format!("{:.0}", top + ROW.0 * 0.66));
            let class = format!("sign {class}");
            html.leaf(
                "text",
                &[("class", &class), ("x", &middle), ("y", &y)],
                sign,
            );
        }
    }

    fn write_key(&self, html: &mut Html) {
        html.element("p", &[("class", "key")], |html| {
            for (class, sign, name) in self.grades().iter().copied() {
                html.element("span", &[], |html| {
                    let sample = [("width", "16"), ("height", "16"), ("aria-hidden", "true")];
                    html.element("svg", &sample, |html| {
                        let class = format!("heat {class}");
                        let attributes = [
                            ("class", &*class),
                            ("x", "1"),
                            ("y", "1"),
                            ("width", "14"),
                            ("height", "14"),
                        ];
                        html.empty("rect", &attributes);
                        if !sign.is_empty() {
                            let class = format!("sign {class}");
                            html.leaf("text", &[("class", &class), ("x", "8"), ("y", "12")], sign);
                        }
                    });
                    html.text(name);
                });
            }
        });
    }
}

/// A grade of use: its class, its sign, and its name.
type Grade = (&'static str, &'static str, &'static str);

/// The grades of the use of a limit.
const GRADES: [Grade; 6] = [
    ("none", "", "not in the record"),
    ("low", "", "up to 25 %"),
    ("middle", "", "25 to 50 %"),
    ("much", "", "50 to 80 %"),
    ("high", "▲", "80 to 100 %"),
    ("full", "✖", "above 100 %"),
];

/// The grades of use without a limit, of which none is a warning.
const UNLIMITED: [Grade; 4] = [GRADES[0], GRADES[1], GRADES[2], ("much", "", "50 to 100 %")];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{DAY, Time};

    #[test]
    fn cell_has_the_highest_use_of_its_hour_of_the_week() {
        // A Saturday.
        let at = Time::parse("2026-11-28T09:30:00Z").unwrap().0;
        let points = [(at, 40), (at + 2 * HOUR, 10), (at + 7 * DAY, 70)];
        let heat = Heat::of(&points, Some(100)).unwrap();
        assert_eq!(heat.cells[5][9], Some(0.7));
        assert_eq!(heat.cells[5][11], Some(0.1));
        assert_eq!(heat.cells[5][10], Some(0.0));
        assert!(heat.label("a limit").contains("70 % on Sat from 09:00"));
        let day = Heat::of(&points[..2], Some(100));
        assert!(day.is_none(), "two hours are too short");
        let day = Heat::of(&[(at, 1), (at + 8 * HOUR, 1)], None).unwrap();
        assert_eq!(day.cells[5][8], None);
        assert_eq!(day.cells[6][9], None);
        let grade = day.grade(day.cells[5][9]);
        assert_eq!(grade.1, "", "nothing is a warning without a limit");
        assert_eq!(heat.grade(Some(1.01)).1, "✖");
    }
}
