//! The parts of pictures: SVG that is as wide as its place. A place on its x axis is a share of the
//! width, one on its y axis a number of pixels. Texts therefore keep their size on a phone.

use super::markup::Html;
use crate::time::{DAY, HOUR, MINUTE, Time};

/// The units of the width inside of a path.
const WIDTH: f64 = 1_000.0;

/// The line between texts and the edge.
const EDGE: f64 = 0.985;

/// Writes a picture with a text alternative.
pub(super) fn picture(html: &mut Html, height: f64, label: &str, draw: impl FnOnce(&mut Html)) {
    let height = height.to_string();
    let attributes = [
        ("class", "picture"),
        ("width", "100%"),
        ("height", &*height),
        ("role", "img"),
        ("aria-label", label),
    ];
    html.element("svg", &attributes, draw);
}

/// Returns a share as a place on the x axis.
pub(super) fn place(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// Writes a horizontal line.
pub(super) fn across(html: &mut Html, class: &str, y: f64) {
    let y = format!("{y:.1}");
    let attributes = [
        ("class", class),
        ("x1", "0"),
        ("x2", "100%"),
        ("y1", &*y),
        ("y2", &*y),
    ];
    html.empty("line", &attributes);
}

/// Writes a vertical line.
pub(super) fn upright(html: &mut Html, class: &str, x: f64, (top, bottom): (f64, f64)) {
    let (x, top, bottom) = (place(x), format!("{top:.1}"), format!("{bottom:.1}"));
    let attributes = [
        ("class", class),
        ("x1", &*x),
        ("x2", &*x),
        ("y1", &*top),
        ("y2", &*bottom),
    ];
    html.empty("line", &attributes);
}

/// Writes a text that begins, has its middle or ends at a place, so that it stays inside.
pub(super) fn label(html: &mut Html, class: &str, x: f64, y: f64, text: &str) {
    let class = match x {
        ..0.08 => format!("{class} from"),
        0.9.. => format!("{class} to"),
        _ => class.to_owned(),
    };
    let x = match x {
        0.9.. => place(x.min(EDGE)),
        _ => place(x),
    };
    let y = format!("{y:.1}");
    html.leaf("text", &[("class", &class), ("x", &x), ("y", &y)], text);
}

/// Writes a line through points. A jump in the line is a point without a value.
pub(super) fn path(html: &mut Html, class: &str, height: f64, points: &[(f64, Option<f64>)]) {
    stretched(html, height, class, &line(points));
}

/// Writes the area between points and a base line.
pub(super) fn area(html: &mut Html, class: &str, height: f64, base: f64, points: &[(f64, f64)]) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return;
    };
    let top: Vec<_> = points.iter().map(|(x, y)| (*x, Some(*y))).collect();
    let data = format!(
        "{}L{:.1} {base:.1}L{:.1} {base:.1}Z",
        line(&top),
        last.0 * WIDTH,
        first.0 * WIDTH
    );
    stretched(html, height, class, &data);
}

fn line(points: &[(f64, Option<f64>)]) -> String {
    let mut data = String::new();
    let mut is_down = false;
    for (x, y) in points {
        let Some(y) = y else {
            is_down = false;
            continue;
        };
        let command = if is_down { 'L' } else { 'M' };
        data.push_str(&format!("{command}{:.1} {y:.1}", x * WIDTH));
        is_down = true;
    }
    data
}

fn stretched(html: &mut Html, height: f64, class: &str, data: &str) {
    let view = format!("0 0 {WIDTH} {height}");
    let height = height.to_string();
    let attributes = [
        ("width", "100%"),
        ("height", &*height),
        ("viewBox", &*view),
        ("preserveAspectRatio", "none"),
    ];
    html.element("svg", &attributes, |html| {
        html.empty("path", &[("class", class), ("d", data)]);
    });
}

/// Writes the legend of a picture.
pub(super) fn key(html: &mut Html, lines: &[(&str, &str)]) {
    html.element("p", &[("class", "key")], |html| {
        for (class, name) in lines {
            html.element("span", &[], |html| {
                let sample = [("width", "28"), ("height", "10"), ("aria-hidden", "true")];
                html.element("svg", &sample, |html| {
                    across(html, class, 5.0);
                });
                html.text(name);
            });
        }
    });
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// The distances between the marks of a time axis.
const DISTANCES: [i64; 16] = [
    MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
    28 * DAY,
    91 * DAY,
];

/// The most marks of a time axis. They fit the width of a phone.
const MOST_MARKS: i64 = 5;

/// Returns the marks of a time axis: their shares of the width, and their texts in UTC.
pub(super) fn time_marks(from: i64, until: i64) -> Vec<(f64, String)> {
    let span = (until - from).max(1);
    let enough = |distance: &i64| span / distance <= MOST_MARKS;
    let distance = DISTANCES.into_iter().find(enough).unwrap_or(span.max(DAY));
    let mut at = (from + distance - 1).div_euclid(distance) * distance;
    let mut marks = Vec::new();
    while at <= until {
        let text = match distance {
            DAY.. => day(Time(at)),
            _ if at % DAY == 0 && span > DAY => day(Time(at)),
            _ => Time(at).to_minute().split_off(11),
        };
        marks.push(((at - from) as f64 / span as f64, text));
        at += distance;
    }
    marks
}

/// Returns the day and the month.
fn day(time: Time) -> String {
    let date = time.to_date();
    let mut parts = date.rsplit('-');
    let day = parts.next().unwrap_or_default().trim_start_matches('0');
    let month = parts.next().and_then(|month| month.parse::<usize>().ok());
    let month = month.and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    format!("{day} {}", month.copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_axis_has_round_marks() {
        let from = Time::parse("2026-11-28T09:12:00Z").unwrap().0;
        let texts = |span: i64| -> Vec<String> {
            let marks = time_marks(from, from + span);
            marks.into_iter().map(|mark| mark.1).collect()
        };
        assert_eq!(
            texts(48 * MINUTE),
            ["09:20", "09:30", "09:40", "09:50", "10:00"]
        );
        assert_eq!(texts(2 * DAY), ["12:00", "29 Nov", "12:00", "30 Nov"]);
        assert_eq!(texts(4 * DAY), ["29 Nov", "30 Nov", "1 Dec", "2 Dec"]);
        for span in [0, 1, 365 * DAY, 100_000 * DAY] {
            let marks = time_marks(from, from + span);
            assert!(marks.len() <= 7, "{marks:?}");
            assert!(marks.iter().all(|mark| (0.0..=1.0).contains(&mark.0)));
        }
    }
}
