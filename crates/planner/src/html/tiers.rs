//! The table of tiers: with and without pacing, now and with growth.

use super::{
    markup::Html,
    page::{self, figure, none},
};
use crate::{
    bucket::DIMENSIONS,
    mark::Mark,
    plan::{Fit, PlanReport, PoolPlan, TierFit},
    text::{percent, seconds},
};

/// Writes the table of tiers.
pub(super) fn write(html: &mut Html, report: &PlanReport, plan: &PoolPlan) {
    let Some(first) = plan.tiers.first() else {
        none(html, "No limits are published for this pool.");
        return;
    };
    let growth = format!("× {}", report.growth);
    let caption = format!(
        "Published limits as of {}, below each name that on {} a minute. ✓: enough, with pacing {}, \
             without at most 0.1 % refused.",
        report.catalog_as_of, DIMENSIONS[plan.binding], report.target
    );
    figure(
        html,
        "Now and with growth",
        Mark::Estimated,
        &caption,
        |html| {
            html.element("table", &[("class", "tiers")], |html| {
                html.element("thead", &[], |html| {
                    html.element("tr", &[], |html| {
                        html.leaf("th", &[("scope", "col"), ("rowspan", "2")], "Tier");
                        let two = [("scope", "colgroup"), ("colspan", "2"), ("class", "span")];
                        html.leaf("th", &two, "With pacing: p95 wait, longest");
                        html.leaf("th", &two, "Without: refused");
                    });
                    html.element("tr", &[], |html| {
                        for head in ["now", &growth, "now", &growth] {
                            html.leaf("th", &[("scope", "col")], head);
                        }
                    });
                });
                for (index, fit) in first.fits.iter().enumerate() {
                    html.element("tbody", &[], |html| {
                        html.element("tr", &[("class", "group")], |html| {
                            let size = format!("A minute enforced over {} s", fit.capacity_seconds);
                            html.leaf("th", &[("scope", "rowgroup"), ("colspan", "5")], &size);
                        });
                        for row in &plan.tiers {
                            if let Some(fit) = row.fits.get(index) {
                                tier(html, row.tier, row.limits[plan.binding], fit);
                            }
                        }
                    });
                }
            });
        },
    );
}

/// Writes the row of a tier.
fn tier(html: &mut Html, name: &str, limit: Option<u64>, fit: &TierFit) {
    html.element("tr", &[], |html| {
        html.element("th", &[("scope", "row")], |html| {
            html.text(name);
            if let Some(limit) = limit {
                html.leaf("small", &[], &page::limit(limit));
            }
        });
        for found in [&fit.now, &fit.grown] {
            paced(html, found);
        }
        for found in [&fit.now, &fit.grown] {
            cell(html, found.suffices_unpaced, &percent(found.refused), "");
        }
    });
}

fn paced(html: &mut Html, fit: &Fit) {
    let p95 = seconds(fit.wait_p95);
    cell(html, fit.suffices_paced, &p95, &seconds(fit.wait_max));
}

/// Writes a cell with the answer if limits are enough.
fn cell(html: &mut Html, is_enough: bool, figure: &str, more: &str) {
    html.element("td", &[], |html| {
        let (class, sign, word) = match is_enough {
            true => ("yes", "✓", "enough"),
            false => ("no", "✗", "not enough"),
        };
        html.leaf(
            "span",
            &[("class", class), ("role", "img"), ("aria-label", word)],
            sign,
        );
        html.text(" ");
        // On a narrow phone the sign stands above the figure, which stays in one piece.
        html.text(&figure.replace(' ', "\u{a0}"));
        if !more.is_empty() {
            html.leaf("small", &[], &more.replace(' ', "\u{a0}"));
        }
    });
}
