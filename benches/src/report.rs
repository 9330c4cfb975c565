//! Plain tables, and the goals.

use crate::{
    harness::{Case, Effort, measure},
    instructions::Counter,
};

/// The measurements of one case.
pub(crate) struct Row {
    pub(crate) name: String,
    /// Nanoseconds per item on one thread.
    pub(crate) one: f64,
    /// The same on two threads over the same state.
    pub(crate) two: Option<f64>,
    pub(crate) instructions: Option<f64>,
}

impl Row {
    /// A floor that costs nothing.
    pub(crate) const NOTHING: Self = Self {
        name: String::new(),
        one: 0.0,
        two: Some(0.0),
        instructions: Some(0.0),
    };

    /// Returns the cost of this row above `floor`.
    pub(crate) fn over(&self, floor: &Self) -> Self {
        let minus = |a: Option<f64>, b: Option<f64>| Some(a? - b?);
        Self {
            name: self.name.clone(),
            one: self.one - floor.one,
            two: minus(self.two, floor.two),
            instructions: minus(self.instructions, floor.instructions),
        }
    }
}

/// The goals of a ratio: for the time on one thread, on two threads, and for the instructions.
#[derive(Clone, Copy, Default)]
pub(crate) struct Goals {
    pub(crate) one: Option<f64>,
    pub(crate) two: Option<f64>,
    pub(crate) instructions: Option<f64>,
}

impl Goals {
    /// A goal for the time on one thread only.
    pub(crate) const fn one(goal: f64) -> Self {
        Self {
            one: Some(goal),
            two: None,
            instructions: None,
        }
    }
}

/// Measures rows, prints tables, and counts the goals that fall short.
pub(crate) struct Report {
    effort: Effort,
    counter: Option<Counter>,
    short: u32,
}

impl Report {
    pub(crate) fn new(effort: Effort, counter: Option<Counter>) -> Self {
        println!(
            "Lower quartiles of {} rounds, all rows of a table interleaved. Compare ratios within one run only.",
            effort.rounds
        );
        if counter.is_none() {
            println!("Instructions are not counted: no valgrind, or not wanted.");
        }
        Self {
            effort,
            counter,
            short: 0,
        }
    }

    /// Returns true if every goal was met.
    pub(crate) const fn is_good(&self) -> bool {
        self.short == 0
    }

    pub(crate) fn measure(&self, cases: &[Case], two_threads: bool) -> Vec<Row> {
        let one = measure(cases, 1, self.effort);
        let two = two_threads.then(|| measure(cases, 2, self.effort));
        cases
            .iter()
            .enumerate()
            .map(|(at, case)| Row {
                name: case.name.clone(),
                one: one[at],
                two: two.as_ref().map(|two| two[at]),
                instructions: self
                    .counter
                    .as_ref()
                    .and_then(|counter| counter.count(case)),
            })
            .collect()
    }

    pub(crate) fn title(&self, title: &str) {
        println!("\n{title}");
        println!(
            "{:<52} {:>12} {:>12} {:>14}",
            "", "1 thread", "2 threads", "instructions"
        );
    }

    pub(crate) fn row(&self, row: &Row) {
        let count = row
            .instructions
            .map_or_else(|| "-".to_owned(), |count| format!("{count:.0}"));
        println!(
            "{:<52} {:>12} {:>12} {:>14}",
            row.name,
            time(row.one),
            row.two.map_or_else(|| "-".to_owned(), time),
            count
        );
    }

    /// Prints the ratio of two rows beside its goals, and records each goal that falls short.
    pub(crate) fn ratio(&mut self, of: &Row, to: &Row, goals: Goals) {
        println!("{} / {}:", of.name, to.name);
        self.goal("1 thread", of.one / to.one, goals.one);
        if let (Some(a), Some(b)) = (of.two, to.two) {
            self.goal("2 threads", a / b, goals.two);
        }
        if let (Some(a), Some(b)) = (of.instructions, to.instructions) {
            self.goal("instructions", a / b, goals.instructions);
        }
    }

    /// Prints the instructions of a row beside their goal.
    pub(crate) fn instructions(&mut self, row: &Row, goal: f64) {
        if let Some(count) = row.instructions {
            println!("{}:", row.name);
            self.goal("instructions", count, Some(goal));
        }
    }

    /// Prints the growth of the cost from `to` to `of`. The goal applies to instructions, and to
    /// times only where there are none, because times also include slower memory.
    pub(crate) fn growth(&mut self, of: &Row, to: &Row, goal: f64) {
        println!("{} / {}:", of.name, to.name);
        let counts = of.instructions.zip(to.instructions);
        let goal = Some((goal * 100.0).floor() / 100.0);
        self.goal(
            "1 thread",
            of.one / to.one,
            goal.filter(|_| counts.is_none()),
        );
        if let Some((of, to)) = counts {
            self.goal("instructions", of / to, goal);
        }
    }

    /// Prints a figure beside its upper limit.
    pub(crate) fn at_most(&mut self, what: &str, figure: f64, goal: f64) {
        self.goal(what, figure, Some(goal));
    }

    fn goal(&mut self, what: &str, ratio: f64, goal: Option<f64>) {
        let verdict = match goal {
            None => String::new(),
            Some(goal) if ratio <= goal => format!("(goal {goal}: met)"),
            Some(goal) => {
                self.short += 1;
                format!("(goal {goal}: SHORT)")
            }
        };
        println!("    {what:<14} {ratio:>6.2} {verdict}");
    }
}

fn time(nanos: f64) -> String {
    if nanos.abs() < 10_000.0 {
        format!("{nanos:.1} ns")
    } else {
        format!("{:.1} us", nanos / 1000.0)
    }
}
