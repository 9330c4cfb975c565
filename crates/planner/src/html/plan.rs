//! The page of a plan.

use super::{
    changes,
    curve::{Named, Picture},
    heat::{Heat, TOO_SHORT},
    markup::{Html, Table},
    over_time::{self, Panel},
    page::{self, Level, badge, capitalized, dollars, facts, figure, missing, none, section},
    tiers,
};
use crate::{
    bucket::{DIMENSIONS, Quota, scale},
    demand::PoolDemand,
    mark::Mark,
    plan::{DimensionPlan, Need, PlanReport, PoolPlan, points},
    rolling::{Peaks, Point},
    text::{count, percent, seconds},
    traffic::Traffic,
};

/// Returns a plan as a page. The traffic is the one that was planned.
#[must_use]
pub fn plan(report: &PlanReport, traffic: &Traffic) -> String {
    let pools: Vec<(&PoolPlan, Option<PoolDemand>)> = report
        .pools
        .iter()
        .map(|plan| {
            let pool = traffic.names.find(&plan.pool);
            (plan, pool.map(|pool| PoolDemand::of(traffic, pool)))
        })
        .collect();
    let level = match pools.first() {
        Some((plan, Some(demand))) => level(report, plan, demand),
        _ => Level::Warning,
    };
    let (verdict, coverage) = (&report.verdict, &report.coverage);
    page::page("tower-claude plan", level, verdict, coverage, |html| {
        contents(html, report);
        for (index, (plan, demand)) in pools.iter().enumerate() {
            let id = format!("pool-{index}");
            html.element("div", &[("class", "pool"), ("id", &id)], |html| {
                PoolPage::new(report, plan, demand.as_ref()).write(html);
            });
        }
        if !report.other_pools.is_empty() {
            section(html, "Other pools", "", |html| {
                html.leaf("p", &[], &report.other_pools.join(", "));
                let advice = "They are not planned here. The option --pool plans one of them.";
                none(html, advice);
            });
        }
        page::basis(html, coverage, &report.warnings);
    })
}

/// Returns the level of the verdict: bad if limits in force miss the target.
fn level(report: &PlanReport, plan: &PoolPlan, demand: &PoolDemand) -> Level {
    let smallest = plan.capacity.possible_seconds.last();
    let quota = Quota {
        limits: plan.replayed.limits,
        burst: std::time::Duration::from_secs(smallest.copied().unwrap_or(60)),
    };
    let is_close = plan
        .dimensions
        .iter()
        .any(|found| found.time_above.is_some_and(|above| above[1] > 0.0));
    if !report.target.is_met(&demand.demand, &quota) {
        Level::Bad
    } else if plan.is_bound || is_close || plan.limits.is_none() {
        Level::Warning
    } else {
        Level::Good
    }
}

/// Writes links to the pools, if there are several.
fn contents(html: &mut Html, report: &PlanReport) {
    if report.pools.len() < 2 {
        return;
    }
    html.element("nav", &[("aria-label", "Pools")], |html| {
        html.element("ul", &[], |html| {
            for (index, plan) in report.pools.iter().enumerate() {
                let target = format!("#pool-{index}");
                html.element("li", &[], |html| {
                    html.leaf("a", &[("href", &target)], &plan.pool);
                });
            }
        });
    });
}

/// The part of the page about one pool.
struct PoolPage<'a> {
    report: &'a PlanReport,
    plan: &'a PoolPlan,
    demand: Option<&'a PoolDemand>,
    /// The sign before figures about the record.
    sign: &'static str,
}

impl<'a> PoolPage<'a> {
    fn new(report: &'a PlanReport, plan: &'a PoolPlan, demand: Option<&'a PoolDemand>) -> Self {
        let sign = plan.mark.sign();
        Self {
            report,
            plan,
            demand,
            sign,
        }
    }

    fn write(&self, html: &mut Html) {
        let plan = self.plan;
        section(html, "Pool", &plan.pool, |html| self.facts(html));
        if let Some(demand) = self.demand {
            let points: [Vec<Point>; 3] =
                std::array::from_fn(|dimension| points(&demand.demand, dimension));
            section(html, "Use", &self.source(), |html| {
                self.heat(html, &points[plan.binding]);
                self.over_time(html, &points);
                self.peaks(html);
            });
        }
        section(html, "Need", &self.report.target.to_string(), |html| {
            self.curve(html);
            self.needs(html);
        });
        section(html, "Tiers", "", |html| {
            tiers::write(html, self.report, plan);
        });
        if !plan.what_ifs.is_empty() {
            section(html, "What if", "", |html| changes::what_ifs(html, plan));
        }
        if !plan.events.is_empty() {
            section(html, "Events", "", |html| changes::events(html, plan));
        }
        section(html, "Forecast", "", |html| match &plan.forecast {
            Some(found) => {
                let limit = plan.replayed.limits[plan.binding];
                changes::forecast(html, found, DIMENSIONS[plan.binding], limit);
            }
            None => none(
                html,
                &capitalized(plan.no_forecast.as_deref().unwrap_or("there is none")),
            ),
        });
    }

    /// Returns the source of the limits that the shares relate to.
    fn source(&self) -> String {
        let limits = &self.plan.replayed;
        match limits.limits.iter().any(Option::is_some) {
            true => format!("limits: {}", limits.source),
            false => limits.source.clone(),
        }
    }

    fn facts(&self, html: &mut Html) {
        let plan = self.plan;
        let limits: Vec<String> = plan
            .replayed
            .limits
            .iter()
            .zip(DIMENSIONS)
            .filter_map(|(limit, name)| Some(format!("{} {name}", page::limit((*limit)?))))
            .collect();
        let limits = match limits.is_empty() {
            true => "not known".to_owned(),
            false => format!("{} ({})", limits.join(", "), plan.replayed.source),
        };
        let binding = match plan.is_bound {
            true => format!("{} bind", DIMENSIONS[plan.binding]),
            false => format!("nothing binds, {} come closest", DIMENSIONS[plan.binding]),
        };
        let mut found = vec![
            ("Limits a minute", limits),
            ("Binding dimension", binding),
            ("Calls", format!("{}{}", self.sign, count(plan.basis.calls))),
        ];
        let is_limited = plan.replayed.limits.iter().any(Option::is_some);
        if let Some(replay) = plan.replays.last().filter(|_| is_limited) {
            let size = replay.capacity_seconds;
            found.push((
                "Replay with pacing",
                format!(
                    "~{} delayed, p95 wait ~{}, longest ~{}",
                    percent(replay.paced.delayed),
                    seconds(replay.paced.wait_p95),
                    seconds(replay.paced.wait_max)
                ),
            ));
            found.push((
                "Replay without pacing",
                format!("~{} refused", percent(replay.unpaced.refused)),
            ));
            found.push(("A minute is enforced over", self.sizes(size)));
        }
        if let Some(price) = plan.dollars_per_month {
            found.push((
                "Price for 30 days",
                format!("~{} at list prices", dollars(Some(price))),
            ));
        }
        facts(html, &found);
        html.element("p", &[("class", "note")], |html| {
            badge(html, Mark::Exact);
            html.text(" follows from the record without an assumption. ");
            badge(html, Mark::Estimated);
            html.text(" (or ~ before a figure) rests on an assumption or on estimated tokens.");
        });
    }

    fn sizes(&self, replayed: u64) -> String {
        let sizes = &self.plan.capacity.possible_seconds;
        let names: Vec<String> = sizes.iter().map(|size| format!("{size} s")).collect();
        match names.len() {
            1 => names.concat(),
            _ => format!(
                "{} (not known: replay with {replayed} s)",
                names.join(" or ")
            ),
        }
    }

    fn heat(&self, html: &mut Html, points: &[Point]) {
        let plan = self.plan;
        let name = DIMENSIONS[plan.binding];
        let title = "By hour and weekday";
        let limit = plan.dimensions[plan.binding].limit;
        let caption = match limit {
            Some(limit) => format!(
                "The highest use of the limit of {} {name} a minute in any 60 s, hours in UTC.",
                page::limit(limit)
            ),
            None => format!("The highest use of {name} in any 60 s, in % of the highest of all."),
        };
        let limit = limit.map(|limit| limit.saturating_mul(scale(plan.binding)));
        match Heat::of(points, limit) {
            Some(heat) => figure(html, title, plan.mark, &caption, |html| {
                heat.write(html, name);
            }),
            None => missing(html, title, TOO_SHORT),
        }
    }

    fn over_time(&self, html: &mut Html, points: &[Vec<Point>; 3]) {
        let panels: Vec<Panel<'_>> = points
            .iter()
            .enumerate()
            .map(|(dimension, points)| Panel {
                dimension,
                points,
                limit: self.plan.dimensions[dimension].limit,
            })
            .collect();
        figure(html, "Over time", self.plan.mark, "", |html| {
            over_time::write(html, &panels);
        });
    }

    fn peaks(&self, html: &mut Html) {
        type Figure = fn(&Peaks) -> u64;
        let rows: [(&str, Figure); 6] = [
            ("p95 of clock minutes", |peaks| peaks.minute_p95),
            ("Highest clock minute (as in the Console)", |peaks| {
                peaks.clock_minute
            }),
            ("Highest minute from the first request", |peaks| {
                peaks.minute_from_first
            }),
            ("Highest 60 s", |peaks| peaks.rolling_minute),
            ("Highest 5 s × 12", |peaks| peaks.five_seconds),
            ("Highest second × 60", |peaks| peaks.one_second),
        ];
        let plan = self.plan;
        let figures = |figure: Figure| {
            plan.dimensions
                .iter()
                .map(move |found| count(figure(&found.peaks)))
        };
        let rows = rows.into_iter().map(|(name, figure)| {
            [name.to_owned()]
                .into_iter()
                .chain(figures(figure))
                .collect()
        });
        let mean = |found: &DimensionPlan| match found.peaks.mean {
            mean @ ..9.95 => format!("{mean:.1}"),
            mean => count(mean.round() as u64),
        };
        let means = plan.dimensions.iter().map(mean);
        let means = ["Mean".to_owned()].into_iter().chain(means).collect();
        let mut rows: Vec<Vec<String>> = [means].into_iter().chain(rows).collect();
        let above = |index: usize| {
            plan.dimensions.iter().map(move |found| {
                found
                    .time_above
                    .map_or("–".to_owned(), |above| percent(above[index]))
            })
        };
        for (index, name) in ["Time above 50 %", "Time above 80 %", "Time above the limit"]
            .into_iter()
            .enumerate()
            .filter(|_| {
                plan.dimensions
                    .iter()
                    .any(|found| found.time_above.is_some())
            })
        {
            rows.push([name.to_owned()].into_iter().chain(above(index)).collect());
        }
        let table = Table {
            caption: "Amounts a minute, and shares of time",
            head: head("Figure", &DIMENSIONS),
            rows,
        };
        figure(html, "Peaks", plan.mark, "", |html| table.write(html));
    }

    fn curve(&self, html: &mut Html) {
        let (report, plan) = (self.report, self.plan);
        let name = DIMENSIONS[plan.binding];
        let found = &plan.dimensions[plan.binding];
        let named: Vec<Named<'_>> = found
            .limit
            .iter()
            .map(|limit| Named {
                limit: *limit,
                name: if plan.replayed.is_assumed {
                    "assumed limit"
                } else {
                    "limit"
                },
                class: "limit-line",
            })
            .collect();
        let picture = Picture::of(&found.curves, &named, report.target);
        let title = format!("Wait by limit on {name}");
        let Some(picture) = picture else {
            missing(html, &title, "Nothing waits at the limits that were tried.");
            return;
        };
        let caption = format!(
            "The {} with pacing, if the limit a minute on {name} were the one below, and the \
             others did not matter.",
            picture.name()
        );
        figure(html, &title, Mark::Estimated, &caption, |html| {
            picture.write(html, &title);
            picture.table().write_folded(html);
        });
    }

    fn needs(&self, html: &mut Html) {
        let plan = self.plan;
        let Some(first) = plan.dimensions.first() else {
            return;
        };
        let target = self.report.target.to_string();
        type Figure = fn(&Need) -> Option<u64>;
        let rows: [(&str, Figure); 3] = [
            ("no wait", |need| need.without_wait),
            (&target, |need| need.for_target),
            ("every wait ≤ 30 s", |need| need.within_30_seconds),
        ];
        let caption = "The least limit a minute. It depends on the time over which the server \
                       enforces a minute, which may be shorter than a minute.";
        figure(html, "Least limit", plan.mark, caption, |html| {
            html.element("table", &[], |html| {
                html.element("thead", &[], |html| {
                    html.element("tr", &[], |html| {
                        html.leaf("th", &[("scope", "col")], "Enforced over");
                        for need in &first.needs {
                            let size = format!("{} s", need.capacity_seconds);
                            html.leaf("th", &[("scope", "col")], &size);
                        }
                    });
                });
                for (index, dimension) in plan.dimensions.iter().enumerate() {
                    // The server counts output while it is produced, which the replay cannot know.
                    let is_estimate = index == 2 && plan.mark == Mark::Exact;
                    let sign = if is_estimate { "~" } else { "" };
                    let columns = (first.needs.len() + 1).to_string();
                    html.element("tbody", &[], |html| {
                        html.element("tr", &[("class", "group")], |html| {
                            let attributes = [("scope", "rowgroup"), ("colspan", &*columns)];
                            html.leaf("th", &attributes, dimension.dimension);
                        });
                        for (name, figure) in &rows {
                            html.element("tr", &[], |html| {
                                html.leaf("th", &[("scope", "row")], name);
                                for need in &dimension.needs {
                                    let figure = figure(need).map_or("–".to_owned(), |need| {
                                        format!("{sign}{}", count(need))
                                    });
                                    html.leaf("td", &[], &figure);
                                }
                            });
                        }
                    });
                }
            });
        });
    }
}

fn head(first: &str, others: &[&str]) -> Vec<String> {
    let names = [first].into_iter().chain(others.iter().copied());
    names.map(str::to_owned).collect()
}
