//! The results as JSON.

use serde_json::{Value, json};

use crate::{
    metrics::Goal,
    report::{Cell, Row},
};

/// Returns an array of `{id, scenario, strategy, metric, value, goal, pass}`. `goal` and `pass` are
/// null for a figure without a goal.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut all = Vec::new();
    for row in rows {
        for line in &row.lines {
            let figures = line.cells.iter();
            all.extend(figures.map(|cell| value(&row.title, &line.label, cell)));
        }
    }
    Value::Array(all).to_string()
}

fn value(scenario: &str, strategy: &str, cell: &Cell) -> Value {
    json!({
        "id": cell.column.id,
        "scenario": scenario,
        "strategy": strategy,
        "metric": cell.column.metric.name(),
        "value": cell.value,
        "goal": cell.goal.map(Goal::text),
        "pass": cell.pass(),
    })
}
