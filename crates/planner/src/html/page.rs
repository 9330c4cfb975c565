//! The parts that all pages share.

use super::markup::{Html, Table};
use crate::{
    mark::Mark,
    text::{count, exact, span},
    time::SECOND,
    traffic::Coverage,
};

/// The beginning of a page. The policy forbids the browser to load anything from elsewhere.
const HEAD: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<meta name=\"color-scheme\" content=\"light dark\">\n",
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ",
    "style-src 'unsafe-inline'; img-src data:\">\n",
    "<link rel=\"icon\" href=\"data:,\">\n<style>",
    include_str!("page.css"),
    "</style>\n"
);

/// The level of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Good,
    Warning,
    Bad,
}

impl Level {
    /// Returns the name in the style sheet, the sign and the word for it.
    const fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Good => ("good", "✓", "good"),
            Self::Warning => ("warning", "▲", "warning"),
            Self::Bad => ("bad", "✖", "problem"),
        }
    }
}

/// Returns a page with its verdict first.
pub(super) fn page(
    title: &str,
    level: Level,
    verdict: &str,
    coverage: &Coverage,
    content: impl FnOnce(&mut Html),
) -> String {
    let mut html = Html::default();
    html.raw(HEAD);
    html.leaf("title", &[], title);
    html.element("body", &[], |html| {
        html.element("header", &[], |html| {
            html.leaf("h1", &[], title);
            html.leaf("p", &[], &period(coverage));
        });
        html.element("main", &[], |html| {
            let (name, sign, word) = level.parts();
            let attributes = [
                ("id", "verdict"),
                ("data-level", name),
                ("aria-label", "Verdict"),
            ];
            html.element("section", &attributes, |html| {
                let attributes = [("class", "sign"), ("role", "img"), ("aria-label", word)];
                html.leaf("span", &attributes, sign);
                let sentence = format!("{}.", capitalized(verdict));
                html.leaf("p", &[("id", "verdict-text")], &sentence);
            });
            content(html);
        });
        html.leaf("footer", &[], FOOTER);
    });
    html.raw("\n</html>\n");
    html.into_string()
}

const FOOTER: &str = concat!(
    "tower-claude ",
    env!("CARGO_PKG_VERSION"),
    ". This page loads nothing from elsewhere. All times are UTC."
);

/// Returns a text with a capital as its first letter. A sign of percent stays with its number.
pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(char::to_uppercase);
    let mut capitalized: String = first.into_iter().flatten().collect();
    capitalized.push_str(characters.as_str());
    capitalized.replace(" %", "\u{a0}%")
}

/// Returns a limit. It is mostly a round number: `2 M`.
pub(super) fn limit(limit: u64) -> String {
    let text = count(limit);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            let number = number.trim_end_matches('0').trim_end_matches('.');
            format!("{number}\u{a0}{unit}")
        }
        _ => text,
    }
}

/// Writes a text of the program with code between backticks.
pub(super) fn with_code(html: &mut Html, text: &str) {
    for (index, part) in text.split('`').enumerate() {
        match index % 2 {
            0 => html.text(part),
            _ => html.leaf("code", &[], part),
        }
    }
}

/// Returns an amount of money, which is an estimate.
pub(super) fn dollars(dollars: Option<f64>) -> String {
    dollars.map_or("–".to_owned(), |dollars| {
        format!("${}", exact(dollars.round() as u64))
    })
}

fn period(coverage: &Coverage) -> String {
    format!(
        "{} to {} UTC, {}",
        coverage.from.to_minute(),
        coverage.until.to_minute(),
        span(coverage.span())
    )
}

/// Writes a section with a heading.
pub(super) fn section(html: &mut Html, title: &str, more: &str, content: impl FnOnce(&mut Html)) {
    html.element("section", &[], |html| {
        html.element("h2", &[], |html| {
            html.text(title);
            if !more.is_empty() {
                html.text(" ");
                html.leaf("small", &[], more);
            }
        });
        content(html);
    });
}

/// Writes a figure: its title, its mark and its caption.
pub(super) fn figure(
    html: &mut Html,
    title: &str,
    mark: Mark,
    caption: &str,
    content: impl FnOnce(&mut Html),
) {
    html.element("figure", &[], |html| {
        html.element("figcaption", &[], |html| {
            html.element("h3", &[], |html| {
                html.text(title);
                html.text(" ");
                badge(html, mark);
            });
            if !caption.is_empty() {
                html.leaf("p", &[("class", "note")], caption);
            }
        });
        content(html);
    });
}

/// Writes the title of a figure that there is none of, and the reason.
pub(super) fn missing(html: &mut Html, title: &str, reason: &str) {
    html.element("figure", &[], |html| {
        html.leaf("h3", &[], title);
        none(html, reason);
    });
}

/// Writes the mark of figures.
pub(super) fn badge(html: &mut Html, mark: Mark) {
    match mark {
        Mark::Exact => html.leaf("span", &[("class", "badge exact")], "exact"),
        Mark::Estimated => html.leaf("span", &[("class", "badge estimated")], "~ estimated"),
    }
}

/// Writes names with their figures.
pub(super) fn facts(html: &mut Html, facts: &[(&str, String)]) {
    listed(html, "facts", facts);
}

/// Writes names with figures of a few letters.
pub(super) fn short_facts(html: &mut Html, facts: &[(&str, String)]) {
    listed(html, "facts short", facts);
}

fn listed(html: &mut Html, class: &str, facts: &[(&str, String)]) {
    html.element("dl", &[("class", class)], |html| {
        for (name, fact) in facts {
            html.element("div", &[], |html| {
                html.leaf("dt", &[], name);
                html.leaf("dd", &[], fact);
            });
        }
    });
}

/// Writes a paragraph in place of something that is missing.
pub(super) fn none(html: &mut Html, text: &str) {
    html.leaf("p", &[("class", "none")], text);
}

/// Writes the basis of all figures: the files, what they lack, and the warnings.
pub(super) fn basis(html: &mut Html, coverage: &Coverage, warnings: &[String]) {
    section(html, "Basis of the figures", "", |html| {
        if !warnings.is_empty() {
            html.element("ul", &[("class", "warnings")], |html| {
                for warning in warnings {
                    html.leaf("li", &[], &format!("{}.", capitalized(warning)));
                }
            });
        }
        let covered = coverage.span() - (coverage.hole_seconds * SECOND as f64) as i64;
        let others: u64 = coverage.files.iter().map(|file| file.others).sum();
        short_facts(
            html,
            &[
                (
                    "Covered",
                    format!("{} of {}", span(covered), span(coverage.span())),
                ),
                ("Records", exact(coverage.records)),
                ("Duplicates left out", exact(coverage.duplicates)),
                ("Lines skipped", exact(coverage.skipped())),
                ("Other requests", exact(coverage.other_endpoints + others)),
                ("Records without tokens", exact(coverage.unmeasured)),
                ("With estimated tokens", exact(coverage.estimated)),
                ("With a recorded wait", exact(coverage.with_wait)),
            ],
        );
        let rows = coverage.files.iter().map(|file| {
            let figures = [file.records, file.lines, file.skipped].map(exact);
            [file.name.clone()].into_iter().chain(figures).collect()
        });
        let table = Table {
            caption: "Files",
            head: ["File", "Records", "Lines", "Skipped"]
                .map(str::to_owned)
                .to_vec(),
            rows: rows.collect(),
        };
        table.write(html);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_no_empty_digits() {
        let texts = [0, 5_000, 400_000, 2_000_000, 2_500_000].map(limit);
        assert_eq!(texts, ["0", "5,000", "400 k", "2\u{a0}M", "2.5\u{a0}M"]);
    }

    #[test]
    fn code_stands_between_backticks() {
        let mut html = Html::default();
        with_code(&mut html, "Use `a < b` or `c`.");
        let expected = "Use <code>a &lt; b</code> or <code>c</code>.";
        assert_eq!(html.into_string(), expected);
    }
}
