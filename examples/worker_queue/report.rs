//! The result of a run.

use std::{collections::BTreeMap, time::Duration};

use tower_claude_fake_claude::Attempt;

use crate::{BURST, INPUT_PER_MINUTE, queue::STREAMS};

/// The result of a run, from the stored answers and the log of the API.
pub(crate) struct Report {
    jobs: u64,
    lost: u64,
    twice: u64,
    failed: u64,
    rate_limited: usize,
    /// Calls of jobs that had a call already: those of the killed worker.
    repeated: u64,
    /// Answers and claimed jobs by worker.
    workers: BTreeMap<String, (u64, u64)>,
    killed: Option<&'static str>,
    /// Number of jobs and mean time of the call by priority.
    levels: [(u64, Duration); STREAMS.len()],
    took: Duration,
    /// Input tokens that the API charged, as a share of what its bucket could have granted.
    used: f64,
}

impl Report {
    pub(crate) fn new(
        jobs: u64,
        answers: &[[String; 4]],
        late: u64,
        killed: Option<&'static str>,
        log: &[Attempt],
    ) -> Self {
        let mut workers: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for [worker, _, how, _] in answers {
            let (all, claimed) = workers.entry(worker.clone()).or_default();
            *all += 1;
            *claimed += u64::from(how == "claimed");
        }
        let mut calls: BTreeMap<&str, u64> = BTreeMap::new();
        let admitted = log.iter().filter(|attempt| attempt.status == 200);
        for tag in admitted
            .clone()
            .filter_map(|attempt| attempt.tag.as_deref())
        {
            *calls.entry(tag).or_default() += 1;
        }
        let first = log.first().map(|attempt| attempt.at).unwrap_or_default();
        let last = admitted
            .clone()
            .map(|attempt| attempt.at)
            .max()
            .unwrap_or_default();
        let took = last.saturating_sub(first);
        let per_second = INPUT_PER_MINUTE.get() as f64 / 60.0;
        let granted = per_second * (took + BURST).as_secs_f64();
        let charged: u64 = admitted.map(|attempt| attempt.charged_input).sum();
        Self {
            jobs,
            lost: jobs.saturating_sub(answers.len() as u64),
            twice: late,
            failed: answers
                .iter()
                .filter(|[.., text]| !text.starts_with('{'))
                .count() as u64,
            rate_limited: log.iter().filter(|attempt| attempt.status == 429).count(),
            repeated: calls.values().map(|count| count - 1).sum(),
            workers,
            killed,
            levels: levels(answers, log, first),
            took,
            used: charged as f64 / granted,
        }
    }

    /// Returns true if no job was lost, failed or answered twice, and no call met the limit.
    pub(crate) fn is_well(&self) -> bool {
        self.lost + self.twice + self.failed == 0 && self.rate_limited == 0
    }

    pub(crate) fn print(&self) {
        println!("worker       answered   claimed");
        for (worker, (answered, claimed)) in &self.workers {
            let note = match self.killed {
                Some(killed) if killed == worker => "   killed half-way",
                _ => "",
            };
            println!("{worker:<12} {answered:>8} {claimed:>9}{note}");
        }
        println!();
        println!("priority         jobs   mean time until the call");
        for ((priority, _), (jobs, mean)) in STREAMS.iter().zip(self.levels) {
            let priority = format!("{priority:?}");
            println!("{priority:<12} {jobs:>8}   {:>6.1} s", mean.as_secs_f64());
        }
        println!();
        println!(
            "{} jobs in {:.1} s: {} lost, {} answered twice, {} failed, {} responses with 429, \
             {} calls repeated, {:.0} % of the limit used",
            self.jobs,
            self.took.as_secs_f64(),
            self.lost,
            self.twice,
            self.failed,
            self.rate_limited,
            self.repeated,
            100.0 * self.used,
        );
    }
}

/// Returns the number of jobs of each priority, and the mean time of their calls since the first
/// call of all. The tag of a call begins with the index of the priority.
fn levels(
    answers: &[[String; 4]],
    log: &[Attempt],
    first: Duration,
) -> [(u64, Duration); STREAMS.len()] {
    std::array::from_fn(|level| {
        let is_of_level = |answer: &&[String; 4]| answer[1] == level.to_string();
        let prefix = format!("{level}/");
        let calls = log
            .iter()
            .filter(|attempt| (attempt.tag.as_deref()).is_some_and(|tag| tag.starts_with(&prefix)));
        let starts: Vec<Duration> = calls
            .map(|attempt| attempt.at.saturating_sub(first))
            .collect();
        let count = u32::try_from(starts.len().max(1)).unwrap_or(u32::MAX);
        let mean = starts.iter().sum::<Duration>() / count;
        (answers.iter().filter(is_of_level).count() as u64, mean)
    })
}
