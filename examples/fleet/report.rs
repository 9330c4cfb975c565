//! The table of a run.

use std::time::Duration;

use tower_claude_fake_claude::Attempt;

use crate::{BURST, REQUESTS_PER_MINUTE};

/// The calls of one process, as the API has seen them.
struct Row {
    name: String,
    admitted: usize,
    rate_limited: usize,
    /// The longest time between two admitted calls.
    gap: Duration,
}

/// The result of a run.
pub(crate) struct Report {
    rows: Vec<Row>,
    /// Admitted calls, as a share of what the API could have admitted.
    used: f64,
}

impl Report {
    pub(crate) fn new(names: impl Iterator<Item = String>, log: &[Attempt]) -> Self {
        let rows = names.map(|name| {
            let own = |status| {
                let log = log.iter().filter(move |attempt| attempt.status == status);
                log.filter(|attempt| attempt.tag.as_deref() == Some(&*name))
            };
            let mut times: Vec<_> = own(200).map(|attempt| attempt.at).collect();
            times.sort_unstable();
            let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
            Row {
                admitted: times.len(),
                rate_limited: own(429).count(),
                gap: gaps.max().unwrap_or_default(),
                name: name.clone(),
            }
        });
        let rows: Vec<_> = rows.collect();
        let times = || log.iter().map(|attempt| attempt.at);
        let took = times().max().unwrap_or_default() - times().min().unwrap_or_default();
        let granted = REQUESTS_PER_MINUTE as f64 / 60.0 * (took + BURST).as_secs_f64();
        let admitted: usize = rows.iter().map(|row| row.admitted).sum();
        Self {
            used: admitted as f64 / granted,
            rows,
        }
    }

    /// Returns the number of responses with 429.
    pub(crate) fn rate_limited(&self) -> usize {
        self.rows.iter().map(|row| row.rate_limited).sum()
    }

    /// Returns true if every process was served, and at most one call in a hundred got a 429. A
    /// machine that is busy delays calls, so that they arrive at once.
    pub(crate) fn is_well(&self) -> bool {
        let admitted: usize = self.rows.iter().map(|row| row.admitted).sum();
        self.rows.iter().all(|row| row.admitted > 0) && self.rate_limited() * 100 <= admitted
    }

    pub(crate) fn print(&self, name: &str) {
        let all: usize = self.rows.iter().map(|row| row.admitted).sum();
        println!("{name}");
        println!("  process       admitted     429   share   longest wait");
        for row in &self.rows {
            println!(
                "  {:<12} {:>9} {:>7} {:>5.1} % {:>11} ms",
                row.name,
                row.admitted,
                row.rate_limited,
                100.0 * row.admitted as f64 / all.max(1) as f64,
                row.gap.as_millis(),
            );
        }
        println!("  {:.1} % of the limit used", 100.0 * self.used);
        println!();
    }
}
