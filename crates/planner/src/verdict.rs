//! The answer of a plan in one sentence.

use crate::{
    bucket::DIMENSIONS,
    plan::{PlanOptions, PoolPlan, TierFit, TierRow},
    text::{count, exact, percent, seconds},
    time::DAY,
    traffic::{Coverage, UNKNOWN},
};

/// Returns the verdict about a pool.
pub(crate) fn plan(plan: &PoolPlan, options: &PlanOptions) -> String {
    let dimension = &plan.dimensions[plan.binding];
    let name = DIMENSIONS[plan.binding];
    let known = plan.limits.is_some();
    let hours = dimension
        .hours_above_80
        .filter(|hours| known && *hours > 0.0);
    // Hours of a record that is shorter than a week are not scaled up.
    let per = if plan.span_seconds < 7.0 * 86_400.0 {
        ""
    } else {
        "/week"
    };
    let above = hours.map_or(String::new(), |hours| {
        format!(": {}{per} above 80 %", seconds(hours * 3_600.0))
    });
    let what = if !known {
        let needs = || dimension.needs.iter().filter_map(|need| need.for_target);
        let range = match (needs().min(), needs().max()) {
            (Some(low), Some(high)) if low != high => format!("{} to {}", count(low), count(high)),
            (Some(low), _) => count(low),
            _ => "an unknown number of".to_owned(),
        };
        let sign = plan.mark.sign();
        format!(
            "pool {} needs {sign}{range} {name} a minute with pacing ({})",
            plan.pool, options.target
        )
    } else if plan.is_bound {
        format!("{name} bind pool {}{above}", plan.pool)
    } else {
        let share = dimension.limit.map_or(0.0, |limit| {
            dimension.peaks.rolling_minute as f64 / limit.max(1) as f64
        });
        format!(
            "nothing delays pool {}, {name} come closest to their limit ({} in 60 s at most)",
            plan.pool,
            percent(share)
        )
    };
    format!("{what}; {}", tier(plan, options))
}

/// Describes the tiers that are enough. The smallest buckets that fit the traffic decide.
fn tier(plan: &PoolPlan, options: &PlanOptions) -> String {
    if plan.tiers.is_empty() {
        return "no limits are published for this pool".to_owned();
    }
    let fit = |row: &TierRow| row.fits.last().copied();
    let find = |is_enough: fn(&TierFit) -> bool| {
        plan.tiers
            .iter()
            .find(|row| fit(row).is_some_and(|fit| is_enough(&fit)))
    };
    let paced = find(|fit| fit.now.suffices_paced);
    let unpaced = find(|fit| fit.now.suffices_unpaced);
    let assumed = if plan.pool == UNKNOWN {
        " (limits of most models)"
    } else {
        ""
    };
    let size = match plan.capacity.possible_seconds[..] {
        [_] => String::new(),
        _ => format!(
            " even if limits are enforced over {} s",
            plan.capacity.possible_seconds.last().unwrap_or(&60)
        ),
    };
    match (paced, unpaced) {
        (Some(paced), Some(unpaced)) if paced.tier == unpaced.tier => {
            format!(
                "{}{assumed} suffices with and without pacing{size}",
                paced.tier
            )
        }
        (Some(paced), unpaced) => {
            let wait = fit(paced).map_or(0.0, |fit| fit.now.wait_p95);
            let without = match unpaced {
                Some(unpaced) => format!("without it {}", unpaced.tier),
                None => "without it no published tier".to_owned(),
            };
            let wait = seconds(wait);
            format!(
                "{}{assumed} suffices with pacing (p95 wait {wait}){size}, {without}",
                paced.tier
            )
        }
        (None, _) => format!(
            "no published tier meets {} with pacing: ask for a custom limit",
            options.target
        ),
    }
}

/// Returns what makes the whole record less certain.
pub(crate) fn coverage_warnings(coverage: &Coverage) -> Vec<String> {
    let mut warnings = Vec::new();
    for file in &coverage.files {
        for problem in file.problems.iter().take(1) {
            warnings.push(format!(
                "{}:{}: {} ({} skipped in all)",
                file.name, problem.line, problem.text, file.skipped
            ));
        }
        for note in &file.notes {
            warnings.push(format!("{}: {note}", file.name));
        }
    }
    for (process, seconds) in &coverage.skews {
        let (seconds, side) = (
            seconds.abs(),
            if *seconds > 0.0 { "ahead of" } else { "behind" },
        );
        warnings.push(format!(
            "the clock of {process} is {seconds:.0} s {side} the server's: corrected"
        ));
    }
    if let Some(hole) = coverage.holes.first() {
        warnings.push(format!(
            "no records from {} to {}: idle, or a hole ({:.1} h without records in all)",
            hole.from.to_minute(),
            hole.until.to_minute(),
            coverage.hole_seconds / 3_600.0
        ));
    }
    if coverage.longest_sum_seconds > 60.0 {
        let seconds = coverage.longest_sum_seconds;
        warnings.push(format!(
            "the longest sum is of {seconds:.0} s: peaks of a minute are not in the record"
        ));
    }
    if coverage.not_logged > 0 {
        warnings.push(format!(
            "the event log has lost {} rows, so sums and needs are too low",
            exact(coverage.not_logged)
        ));
    }
    if coverage.without_status > 0 {
        let (count, all) = (exact(coverage.without_status), exact(coverage.records));
        warnings.push(format!(
            "{count} of {all} records have no status and count as answered if they have output"
        ));
    }
    if coverage.span() < DAY {
        warnings.push("the record is shorter than a day: busier hours may be missing".to_owned());
    }
    warnings
}
