//! Tables in CSV.

use std::collections::HashMap;

use super::{Output, Parser};
use crate::{record::Record, time::Time};

/// The column of the time, as in the normal form and as in the Azure traces.
const TIMES: &[&str] = &["t_start", "TIMESTAMP"];

/// Returns true if a line is the header of a table that can be read.
pub(super) fn is_header(line: &str) -> bool {
    let columns: Vec<&str> = line.split(',').map(str::trim).collect();
    columns.len() > 1 && columns.iter().any(|column| TIMES.contains(column))
}

/// A parser of rows.
#[derive(Default)]
pub(super) struct Table {
    columns: HashMap<String, usize>,
    reader: csv::ReaderBuilder,
}

impl Table {
    fn cells(&mut self, line: &str) -> Option<csv::StringRecord> {
        let mut reader = self.reader.has_headers(false).from_reader(line.as_bytes());
        reader.records().next()?.ok()
    }

    fn record(&self, cells: &csv::StringRecord) -> Result<Record, String> {
        let cell = |names: &[&str]| {
            let column = names.iter().find_map(|name| self.columns.get(*name));
            column
                .and_then(|column| cells.get(*column))
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
        };
        let count = |names: &[&str]| match cell(names) {
            Some(cell) => cell
                .parse::<u64>()
                .map(Some)
                .map_err(|_| format!("{cell:?} is no count")),
            None => Ok(None),
        };
        let text = |name: &str| cell(&[name]).map(str::to_owned);
        let start = cell(TIMES).ok_or("no time")?;
        // The traces have no offset. Their times are UTC.
        let is_trace = self.columns.contains_key("TIMESTAMP");
        let start = if is_trace {
            Time::parse_or_utc(start)?
        } else {
            Time::parse(start)?
        };
        let status = count(&["status"])?;
        Ok(Record {
            t_start: start,
            t_end: cell(&["t_end"])
                .map(Time::parse)
                .transpose()?
                .filter(|end| *end >= start),
            input: count(&["input", "ContextTokens"])?,
            cache_read: count(&["cache_read"])?,
            cache_write: count(&["cache_write"])?,
            output: count(&["output", "GeneratedTokens"])?,
            status: status.and_then(|status| u16::try_from(status).ok()),
            model: text("model"),
            pool: text("pool"),
            tag: text("tag"),
            key: text("key"),
            request_id: text("request_id"),
            ..Record::default()
        })
    }
}

impl Parser for Table {
    fn line(&mut self, number: u64, line: &str, out: &mut Output<'_>) {
        let Some(cells) = self.cells(line) else {
            return out.problem(number, "no row of CSV");
        };
        if self.columns.is_empty() {
            let columns = cells.iter().map(|name| name.trim().to_owned());
            self.columns = columns.zip(0..).collect();
            return;
        }
        if cells.len() < self.columns.len() {
            return out.problem(number, "the row is cut off");
        }
        match self.record(&cells) {
            Ok(record) => out.record(number, record),
            Err(problem) => out.problem(number, problem),
        }
    }
}
