//! The part of a plan about the future: what-ifs, events and the forecast.

use super::{
    markup::Html,
    page::{dollars, facts, figure, short_facts},
};
use crate::{
    bucket::DIMENSIONS,
    forecast::{Forecast, Passing},
    mark::Mark,
    plan::{EventResult, PoolPlan, WhatIfResult},
    text::{count, seconds},
};

/// Writes the effects of what-ifs.
pub(super) fn what_ifs(html: &mut Html, plan: &PoolPlan) {
    let caption = format!(
        "The need is the least limit on {} a minute for the target, with the smallest buckets that \
         the record allows. Dollars are list prices for 30 days.",
        DIMENSIONS[plan.binding]
    );
    figure(html, "Changes", Mark::Estimated, &caption, |html| {
        html.element("table", &[("class", "plain")], |html| {
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    for head in ["Need", "p95 wait", "30 days"] {
                        html.leaf("th", &[("scope", "col")], head);
                    }
                });
            });
            for result in &plan.what_ifs {
                html.element("tbody", &[], |html| what_if(html, result));
            }
        });
    });
}

/// Writes the name of a what-if above its figures.
fn what_if(html: &mut Html, result: &WhatIfResult) {
    html.element("tr", &[], |html| {
        let attributes = [("scope", "rowgroup"), ("colspan", "3"), ("class", "name")];
        html.element("th", &attributes, |html| {
            html.text(&result.what_if);
            if let Some(note) = &result.note {
                html.leaf("small", &[], note);
            }
        });
    });
    html.element("tr", &[], |html| {
        let need = |need: Option<u64>| need.map_or("–".to_owned(), count);
        changed(html, &need(result.need.0), &need(result.need.1));
        let (before, after) = result.wait_p95;
        changed(html, &seconds(before), &seconds(after));
        let (before, after) = result.dollars_per_month;
        changed(html, &dollars(before), &dollars(after));
    });
}

/// Writes a cell with the figure after a change, and the one before it.
fn changed(html: &mut Html, before: &str, after: &str) {
    html.element("td", &[], |html| {
        html.text(after);
        let before = match before == after {
            true => "unchanged".to_owned(),
            false => format!("was {before}"),
        };
        html.leaf("small", &[], &before);
    });
}

/// Writes the plans of events.
pub(super) fn events(html: &mut Html, plan: &PoolPlan) {
    for event in &plan.events {
        let caption = match &event.basis {
            Some(basis) if basis.is_same_hours => format!(
                "A multiple of the same hours from {} UTC. The need is the least limit a minute \
                 for the target.",
                basis.from.to_minute()
            ),
            Some(basis) => format!(
                "A multiple of the busiest hours, from {} UTC. The need is the least limit a \
                 minute for the target.",
                basis.from.to_minute()
            ),
            None => "The record has no traffic to multiply.".to_owned(),
        };
        figure(html, &event.event, Mark::Estimated, &caption, |html| {
            if event.basis.is_some() {
                of_event(html, event);
            }
        });
    }
}

fn of_event(html: &mut Html, event: &EventResult) {
    let fits = match event.fits {
        true => "✓ enough",
        false => "✗ not enough",
    };
    let [requests, input, output] = event.needs.map(|need| need.map_or("–".to_owned(), count));
    short_facts(
        html,
        &[
            ("Limits above", fits.to_owned()),
            ("p95 wait under them", seconds(event.wait_p95)),
            ("Need, requests", requests),
            ("Need, input tokens", input),
            ("Need, output tokens", output),
        ],
    );
}

/// Writes a forecast of one dimension under its limit.
pub(super) fn forecast(html: &mut Html, found: &Forecast, dimension: &str, limit: Option<u64>) {
    let passing = |passing: &Option<Passing>| match (passing, limit) {
        (Some(passing), _) => format!(
            "{} ({} to {})",
            passing.date,
            passing.earliest,
            passing.latest.as_deref().unwrap_or("never")
        ),
        (None, Some(_)) => "not within two years".to_owned(),
        (None, None) => "no limit is known".to_owned(),
    };
    let (low, high) = found.growth_interval;
    let (middle, least, most) = found.in_four_weeks;
    let amount = |amount: f64| count(amount.round() as u64);
    let title = format!("p95 of {dimension} a minute");
    let caption = format!(
        "From {} whole weeks. Each interval comes from leaving out one week after the other.",
        found.weeks
    );
    figure(html, &title, Mark::Estimated, &caption, |html| {
        facts(
            html,
            &[
                (
                    "Growth a week",
                    format!(
                        "{:+.1} % ({:+.1} to {:+.1} %)",
                        found.growth_per_week * 100.0,
                        low * 100.0,
                        high * 100.0
                    ),
                ),
                ("Last week", amount(found.last_week_p95)),
                (
                    "In four weeks",
                    format!("{} ({} to {})", amount(middle), amount(least), amount(most)),
                ),
                (
                    "Passes 80 % of the limit",
                    passing(&found.passes_80_percent),
                ),
                ("Passes the limit", passing(&found.passes_100_percent)),
            ],
        );
    });
}
