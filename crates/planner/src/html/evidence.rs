//! The page of the evidence for a higher limit, which is made to be printed.

use std::time::Duration;

use super::{
    changes,
    curve::{Named, Picture},
    heat::{Heat, TOO_SHORT},
    markup::{Html, Table},
    over_time::{self, Panel},
    page::{self, Level, capitalized, facts, figure, missing, none, section},
};
use crate::{
    bucket::{DIMENSIONS, scale},
    demand::{Demand, PoolDemand},
    evidence::{DimensionEvidence, Evidence},
    mark::Mark,
    plan::{Curve, Need, curve, points},
    rolling::Point,
    search::{Target, least_limit},
    text::{count, exact, percent, seconds},
    traffic::Traffic,
};

/// The place where a limit is asked for.
const FORM: &str = "https://platform.claude.com/settings/limits";

/// The share of a limit from which on an increase can be asked for.
const ENOUGH: f64 = 0.5;

/// Returns the evidence for a higher limit as a page. The traffic is the one that it was collected
/// from.
#[must_use]
pub fn evidence(report: &Evidence, traffic: &Traffic) -> String {
    let found = EvidencePage::new(report, traffic);
    let title = "Request for a higher limit";
    page::page(
        title,
        found.level(),
        &report.verdict,
        &report.coverage,
        |html| found.write(html),
    )
}

struct EvidencePage<'a> {
    report: &'a Evidence,
    demand: Option<PoolDemand>,
    /// The index of the dimension for which more is asked.
    chosen: usize,
}

impl<'a> EvidencePage<'a> {
    fn new(report: &'a Evidence, traffic: &Traffic) -> Self {
        let pool = traffic.names.find(&report.pool);
        let chosen = DIMENSIONS.iter().position(|name| *name == report.dimension);
        Self {
            report,
            demand: pool.map(|pool| PoolDemand::of(traffic, pool)),
            chosen: chosen.unwrap_or(1),
        }
    }

    /// Returns the dimension for which more is asked.
    fn dimension(&self) -> Option<&DimensionEvidence> {
        self.report.dimensions.get(self.chosen)
    }

    fn limit(&self) -> Option<u64> {
        self.dimension()?.limit
    }

    /// Returns the level: a request can be made if enough of the limit was used.
    fn level(&self) -> Level {
        let used = self
            .dimension()
            .map_or(0, |found| found.peaks.rolling_minute);
        match self.limit() {
            Some(limit) if used as f64 >= limit as f64 * ENOUGH => Level::Good,
            _ => Level::Warning,
        }
    }

    fn write(&self, html: &mut Html) {
        let report = self.report;
        section(html, "Request", "", |html| {
            self.facts(html);
            html.leaf("p", &[("class", "remedy")], &report.reasoning);
        });
        section(html, "Text to paste", "", |html| {
            html.element("p", &[("class", "note")], |html| {
                html.text("For the form at ");
                html.leaf(
                    "a",
                    &[("href", FORM), ("rel", "noreferrer")],
                    "platform.claude.com/settings/limits",
                );
                html.text(". A click selects the text. It has no prompt and no key.");
            });
            let attributes = [("tabindex", "0"), ("aria-label", "Text to paste")];
            html.leaf("pre", &attributes, &report.paste());
        });
        section(html, "Use", &self.source(), |html| self.uses(html));
        section(html, "Rejections", "", |html| self.rejections(html));
        section(html, "Need", &self.report.target.to_string(), |html| {
            self.curve(html);
        });
        section(html, "Growth", "", |html| match &report.forecast {
            Some(found) => changes::forecast(html, found, report.dimension, self.limit()),
            None => none(
                html,
                &capitalized(report.no_forecast.as_deref().unwrap_or("it is not known")),
            ),
        });
        section(html, "Already done", "", |html| self.done(html));
        page::basis(html, &report.coverage, &report.warnings);
    }

    fn source(&self) -> String {
        match &self.report.limits {
            Some(limits) => format!("limits: {}", limits.source),
            None => "the limits in force are not known".to_owned(),
        }
    }

    fn facts(&self, html: &mut Html) {
        let report = self.report;
        let mut found = vec![
            ("Pool", report.pool.clone()),
            (
                "Asked for",
                format!("{} {} a minute", page::limit(report.ask), report.dimension),
            ),
            (
                "In force",
                match self.limit() {
                    Some(limit) => format!("{} a minute", page::limit(limit)),
                    None => "not known".to_owned(),
                },
            ),
            (
                "Needed now",
                match report.need {
                    Some(need) => format!("~{} a minute ({})", count(need), self.report.target),
                    None => "no limit meets the target".to_owned(),
                },
            ),
        ];
        if let Some(wait) = report.wait_p95_if_refused {
            let wait = format!("p95 wait ~{}", seconds(wait));
            found.push(("With growth, without the increase", wait));
        }
        facts(html, &found);
    }

    fn uses(&self, html: &mut Html) {
        let report = self.report;
        let name = report.dimension;
        let Some(demand) = &self.demand else {
            return;
        };
        let points: [Vec<Point>; 3] =
            std::array::from_fn(|dimension| points(&demand.demand, dimension));
        let whole = self
            .limit()
            .map(|limit| limit.saturating_mul(scale(self.chosen)));
        let caption = match self.limit() {
            Some(limit) => format!(
                "The highest use of the limit of {} {name} a minute in any 60 s, hours in UTC.",
                page::limit(limit)
            ),
            None => format!("The highest use of {name} in any 60 s, in % of the highest of all."),
        };
        let title = "By hour and weekday";
        match Heat::of(&points[self.chosen], whole) {
            Some(heat) => figure(html, title, report.mark, &caption, |html| {
                heat.write(html, name);
            }),
            None => missing(html, title, TOO_SHORT),
        }
        let panels: Vec<Panel<'_>> = points
            .iter()
            .enumerate()
            .map(|(dimension, points)| Panel {
                dimension,
                points,
                limit: report
                    .dimensions
                    .get(dimension)
                    .and_then(|found| found.limit),
            })
            .collect();
        figure(html, "Over time", report.mark, "", |html| {
            over_time::write(html, &panels);
        });
        let table = Table {
            caption: "Amounts in any 60 s, and shares of time",
            head: ["Figure", DIMENSIONS[0], DIMENSIONS[1], DIMENSIONS[2]]
                .map(str::to_owned)
                .to_vec(),
            rows: self.rows(),
        };
        figure(html, "Figures", report.mark, "", |html| table.write(html));
    }

    /// Returns the rows of the table of all dimensions.
    fn rows(&self) -> Vec<Vec<String>> {
        type Cell = fn(&DimensionEvidence) -> Option<String>;
        let rows: [(&str, Cell); 10] = [
            ("Limit a minute", |found| found.limit.map(page::limit)),
            ("p50", |found| Some(count(found.rolling_minutes[0]))),
            ("p95", |found| Some(count(found.rolling_minutes[1]))),
            ("p99", |found| Some(count(found.rolling_minutes[2]))),
            ("Highest", |found| Some(count(found.rolling_minutes[3]))),
            (
                "Highest clock minute of 7 days (as in the Console)",
                |found| found.console_7_days.map(count),
            ),
            ("… of 28 days", |found| found.console_28_days.map(count)),
            ("Time above 50 %", |found| {
                found.time_above.map(|above| percent(above[0]))
            }),
            ("Time above 80 %", |found| {
                found.time_above.map(|above| percent(above[1]))
            }),
            ("Time above the limit", |found| {
                found.time_above.map(|above| percent(above[2]))
            }),
        ];
        let dimensions = &self.report.dimensions;
        rows.into_iter()
            .map(|(name, cell)| {
                let cells = dimensions.iter().map(cell);
                let cells = cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned()));
                [name.to_owned()].into_iter().chain(cells).collect()
            })
            .collect()
    }

    fn rejections(&self, html: &mut Html) {
        let report = self.report;
        if report.rejections.is_empty() {
            none(html, "The record has no 429 and no slow call.");
            return;
        }
        let rows = report.rejections.iter();
        let table = Table {
            caption: "",
            head: vec!["Cause".to_owned(), "Number".to_owned()],
            rows: rows
                .map(|(cause, number)| vec![cause.clone(), exact(*number)])
                .collect(),
        };
        figure(
            html,
            "429s and waits by cause",
            Mark::Estimated,
            "",
            |html| table.write(html),
        );
        if !report.request_ids.is_empty() {
            figure(html, "Request ids of 429s", Mark::Exact, "", |html| {
                html.leaf("p", &[("class", "ids")], &report.request_ids.join(" "));
            });
        }
    }

    fn curve(&self, html: &mut Html) {
        let report = self.report;
        let mut named = vec![Named {
            limit: report.ask,
            name: "asked",
            class: "ask-line",
        }];
        named.extend(self.limit().map(|limit| Named {
            limit,
            name: "in force",
            class: "limit-line",
        }));
        let curves: Vec<Curve> = self
            .demand
            .iter()
            .map(|demand| self.waits(&demand.demand))
            .collect();
        let picture = Picture::of(&curves, &named, report.target);
        let title = format!("Wait by limit on {}", report.dimension);
        let Some(picture) = picture else {
            missing(html, &title, "Nothing waits at the limits that were tried.");
            return;
        };
        let caption = format!(
            "The {} with pacing of the recorded traffic, without growth, if a minute is enforced \
             over {} s.",
            picture.name(),
            report.capacity_seconds
        );
        figure(html, &title, Mark::Estimated, &caption, |html| {
            picture.write(html, &title);
            picture.table().write_folded(html);
        });
    }

    /// Replays the traffic under several limits.
    fn waits(&self, demand: &[Demand]) -> Curve {
        let size = self.report.capacity_seconds;
        let burst = Duration::from_secs(size);
        let need = Need {
            capacity_seconds: size,
            without_wait: least_limit(demand, self.chosen, burst, &Target::NONE),
            for_target: self.report.need,
            within_30_seconds: None,
        };
        curve(demand, self.chosen, &need)
    }

    fn done(&self, html: &mut Html) {
        let report = self.report;
        let paced = match report.paced_since {
            Some(since) => format!(
                "{} of the requests were paced (since {})",
                percent(report.paced_share),
                since.to_date()
            ),
            None => "No request was paced, as far as the record tells".to_owned(),
        };
        let cached = format!(
            "{} of the prompt tokens are read from the cache",
            percent(report.cache_rate)
        );
        html.element("ul", &[("class", "list")], |html| {
            for line in [cached, paced].iter().chain(&report.done) {
                html.leaf("li", &[], line);
            }
        });
    }
}
