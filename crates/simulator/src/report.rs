//! The table.

use std::fmt::Write as _;

use crate::{
    metrics::Goal,
    runner::TallyTable,
    scenario::{Column, Line, Scenario},
    simulation::Tally,
};

/// Assumptions of all figures.
pub(crate) const ASSUMPTIONS: &str = "\
The model: a server that keeps the documented rules (this project's fake Claude API), clients that share one key, no
other traffic unless stated. Virtual time, fixed seeds. What it proves it proves about this model, not about the API.
  limits      RPM 1000 / ITPM 450k / OTPM 90k unless stated; buckets hold one minute's refill unless stated
  requests    input lognormal, mean 2.2k (sigma 1, at most 30k); output lognormal, mean 340 (sigma 0.8, at most 4,096)
  answers     first output after 0.4 s + Exp(0.3 s), then 80 tokens/s, charged as produced; generation never fails
  network     20 ms + Exp(20 ms) each way
  headers     tokens rounded to 1,000, reset in whole seconds; levels as at admission unless stated
  refusals    429 with retry-after in whole seconds; cost nothing unless stated
  estimates   of input have a standard error of 3 %; the server's own estimate is exact; output by its mean
  ours        limits configured, headers read, slow start at 8 requests; a 429 is retried until it is answered;
              \"ours\" is the default, which finds out by itself whether others share the key; \"shared\" and \"alone\"
              were told so
  redis       ours, with levels in a store that all processes share; 0.25 ms + Exp(0.1 ms) to the store and back each
  measured    after 5 minutes of warm-up, an hour unless stated; saturated means 512 workers in all (1,024 from 32
              processes on), each of which asks again as soon as it has its answer
  beside each figure of a line with goals stands its goal; \"! \" marks a figure that falls short
  not documented by the API, so both settings are run: does a refused request cost RPM; do headers show the levels at
  admission or at response. A figure is the worst of all seeds. A 429 counts as avoidable whenever the oracle (first
  in, first out at the server itself, with the length of each answer known) gets none, and it never gets one.
";

/// The ids of the columns, and the properties that they measure.
const COLUMNS: [(&str, &str); 20] = [
    (
        "R1",
        "one saturated process gets no 429 and uses the whole limit",
    ),
    (
        "R2",
        "processes that share a key without a store get few 429s, use the limit and share it evenly (Jain's index: 1 is even)",
    ),
    ("R3", "so do very many processes, with more 429s"),
    (
        "R5",
        "another client of the same key, which does not pace, costs few 429s",
    ),
    (
        "R6",
        "a change of the limits, or wrong configured limits, cost few 429s",
    ),
    ("R7", "small buckets cost few 429s"),
    (
        "R8",
        "big requests wait about as long as under the oracle, and need no more attempts than others",
    ),
    (
        "R26",
        "the local level equals the server's, beside requests in flight (drift: the largest difference, in requests or tokens)",
    ),
    (
        "R27",
        "faults of clocks cost at most one 429 and no long gap without an admission",
    ),
    (
        "R28",
        "urgent requests wait for little more than one request, and batch requests keep their share of the work",
    ),
    ("R29", "a limit that no header names is learned from 429s"),
    (
        "R30",
        "a limit that is enforced more strictly than headers tell is learned from 429s",
    ),
    ("R31", "windows of a minute are used like buckets"),
    ("R32", "limits that change again and again are followed"),
    ("R33", "limits of few requests a minute cost few 429s"),
    ("R34", "requests as large as a bucket cost few 429s"),
    ("R35", "headers that successes contradict lose their weight"),
    ("R36", "beside a plain SDK and without headers, both go on"),
    (
        "R37",
        "processes that share a key through a store get no 429, use the whole limit and share it evenly",
    ),
    ("open", "loads below the limit, without goals"),
];

/// Returns the properties that the columns of these rows measure.
pub(crate) fn legend(rows: &[Row]) -> String {
    let is_shown = |id: &str| {
        let cells = rows.iter().filter_map(|row| row.lines.first());
        let mut cells = cells.flat_map(|line| &line.cells);
        cells.any(|cell| cell.column.id == id)
    };
    let mut text = "Columns: the id of a property, and the figure that measures it.\n".to_owned();
    for (id, property) in COLUMNS.iter().filter(|(id, _)| is_shown(id)) {
        let _ = writeln!(text, "  {id:<10}  {property}");
    }
    text
}

/// One figure of the table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) column: Column,
    pub(crate) value: Option<f64>,
    /// The goal, if it applies to this strategy.
    pub(crate) goal: Option<Goal>,
}

impl Cell {
    fn of(column: Column, line: &Line, tallies: &[Tally], oracle: Option<&Vec<Tally>>) -> Self {
        let values: Vec<f64> = tallies
            .iter()
            .enumerate()
            .filter_map(|(seed, tally)| {
                let oracle = oracle.and_then(|oracle| oracle.get(seed));
                column.metric.of(tally, oracle)
            })
            .collect();
        Self {
            column,
            // A seed without a figure counts as the worst.
            value: column
                .metric
                .worst(&values, column.goal)
                .filter(|_| values.len() == tallies.len()),
            goal: column.goal.filter(|_| line.has_goals),
        }
    }

    /// Returns true if the goal is met. `None` without a goal. A missing figure does not meet it.
    pub(crate) fn pass(&self) -> Option<bool> {
        let goal = self.goal?;
        Some(self.value.is_some_and(|value| goal.met(value)))
    }

    fn text(&self) -> String {
        let digits = self.column.metric.digits();
        let value = self
            .value
            .map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
        match (self.goal, self.pass()) {
            (Some(goal), Some(pass)) => {
                let mark = if pass { "" } else { "! " };
                format!("{mark}{value} ({})", goal.text())
            }
            _ => value,
        }
    }
}

/// One strategy in one row.
#[derive(Clone, Debug)]
pub(crate) struct LineResult {
    pub(crate) label: String,
    pub(crate) cells: Vec<Cell>,
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) lines: Vec<LineResult>,
}

pub(crate) fn rows(scenarios: &[Scenario], tallies: &TallyTable) -> Vec<Row> {
    let row = |(scenario, tallies): (&Scenario, &Vec<Vec<Tally>>)| {
        let oracle = scenario.lines.iter().position(|line| line.is_oracle);
        let oracle = oracle.and_then(|index| tallies.get(index));
        let figures = |(line, tallies): (&Line, &Vec<Tally>)| LineResult {
            label: line.label.clone(),
            cells: scenario
                .columns
                .iter()
                .map(|column| Cell::of(*column, line, tallies, oracle))
                .collect(),
        };
        Row {
            title: scenario.title.clone(),
            lines: scenario.lines.iter().zip(tallies).map(figures).collect(),
        }
    };
    scenarios.iter().zip(tallies).map(row).collect()
}

/// One row as text, its columns aligned.
pub(crate) fn print(row: &Row) -> String {
    let Some(first) = row.lines.first() else {
        return String::new();
    };
    let mut head = vec![String::new()];
    for cell in &first.cells {
        head.push(format!("{} {}", cell.column.id, cell.column.metric.name()));
    }
    head.push(String::new());
    let mut grid = vec![head];
    for line in &row.lines {
        let mut texts = vec![line.label.clone()];
        texts.extend(line.cells.iter().map(Cell::text));
        let passes: Vec<bool> = line.cells.iter().filter_map(Cell::pass).collect();
        texts.push(match passes.as_slice() {
            [] => String::new(),
            passes if passes.iter().all(|pass| *pass) => "PASS".to_owned(),
            _ => "FALL SHORT".to_owned(),
        });
        grid.push(texts);
    }
    format!("{}\n{}", row.title, aligned(&grid))
}

/// Returns lines of cells in columns. The first and the last column begin at the left.
pub(crate) fn aligned(grid: &[Vec<String>]) -> String {
    let width = |column: usize| grid.iter().map(|texts| texts[column].chars().count()).max();
    let columns = grid.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for texts in grid {
        let mut line = String::new();
        for (index, (cell, width)) in texts.iter().zip(&widths).enumerate() {
            let _ = if index == 0 || index + 1 == texts.len() {
                write!(line, "  {cell:<width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
