//! Readers that convert logs to the [normal form](crate::record).
//!
//! A reader never stops at a line that it cannot read. It skips the line, counts it, and keeps the
//! first few with their numbers. Only a file without any record is an error.

mod access_log;
mod analytics;
mod events;
mod headers;
mod json;
mod otlp;
mod sdk_log;
mod table;

use std::{
    fmt,
    io::{self, BufRead},
};

use serde::Serialize;

use crate::record::Record;

/// The problems of a file that are kept with their lines.
const MOST_PROBLEMS: usize = 5;

/// The longest line, in bytes. A longer one is skipped.
const LONGEST_LINE: usize = 64 << 20;

/// The times that records may have, in microseconds since 1970.
const TIMES: std::ops::Range<i64> = 1_000_000_000_000_000..10_000_000_000_000_000;

/// The largest plausible count. Sums of larger ones could overflow.
const MOST: u64 = 1 << 40;

/// The largest document that is not read line by line, in bytes.
const LARGEST_DOCUMENT: usize = 1 << 30;

/// The first bytes of gzip and Zstandard.
const COMPRESSED: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];

/// The kind of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// The normal form, one JSON object for each line.
    Events,
    /// An access log of nginx or Envoy, one JSON object for each line.
    AccessLog,
    /// The debug log of the official Python or TypeScript SDK (`ANTHROPIC_LOG=debug`).
    SdkLog,
    /// A response of the Analytics API, or of the older usage report.
    Analytics,
    /// Spans in OTLP JSON.
    Otlp,
    /// Heads of HTTP responses, as `curl -i` or `curl -v` prints them.
    Headers,
    /// A table in CSV whose columns are named as in the normal form, or as in the Azure traces.
    Table,
}

impl Format {
    /// Returns the name for messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "event log",
            Self::AccessLog => "access log",
            Self::SdkLog => "SDK debug log",
            Self::Analytics => "usage report",
            Self::Otlp => "OTLP spans",
            Self::Headers => "response heads",
            Self::Table => "CSV table",
        }
    }

    /// Finds the kind of a log by its beginning.
    fn detect(start: &str) -> Option<Self> {
        let start = start.trim_start_matches('\u{feff}').trim_start();
        let line = start.lines().find(|line| !line.trim().is_empty())?.trim();
        if start.starts_with(['{', '[']) && !line.starts_with("[log_") && !sdk_log::is_python(line)
        {
            return json::detect(start, line);
        }
        // A program may print something of its own before the first line of the SDK.
        if start.lines().any(sdk_log::is_line) {
            return Some(Self::SdkLog);
        }
        if table::is_header(line) {
            return Some(Self::Table);
        }
        headers::is_head(start).then_some(Self::Headers)
    }
}

/// A line that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The number of the line, from 1.
    pub line: u64,
    /// The reason.
    pub text: String,
}

/// The result of reading one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FileReport {
    /// The name of the file.
    pub name: String,
    /// The kind of the log.
    pub format: Format,
    /// The number of lines.
    pub lines: u64,
    /// The number of records.
    pub records: u64,
    /// The number of lines or entries that could not be read.
    pub skipped: u64,
    /// The number of entries that concern something else, such as other paths of a proxy.
    pub others: u64,
    /// The first problems.
    pub problems: Vec<Problem>,
    /// The figures that the log lacks, or has only roughly.
    pub notes: Vec<String>,
}

/// An error that makes a file useless.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The file cannot be read.
    Io {
        /// The name of the file.
        name: String,
        /// The cause.
        error: io::Error,
    },
    /// The file is empty.
    Empty {
        /// The name of the file.
        name: String,
    },
    /// The file is compressed.
    Compressed {
        /// The name of the file.
        name: String,
    },
    /// The file is no log of a known kind.
    UnknownKind {
        /// The name of the file.
        name: String,
        /// The beginning of its first line.
        line: String,
    },
    /// The file has no record that can be read.
    NoRecord {
        /// The name of the file.
        name: String,
        /// The kind for which it was taken.
        format: Format,
        /// The first problem.
        problem: Option<Problem>,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { name, error } => write!(f, "{name}: {error}"),
            Self::Empty { name } => write!(f, "{name}: the file is empty"),
            Self::Compressed { name } => write!(
                f,
                "{name}: the file is compressed: pass it through gzip -dc or zstd -dc, and read -"
            ),
            Self::UnknownKind { name, line } => write!(
                f,
                "{name}:1: no log of a known kind (event log, access log in JSON, SDK debug log, \
                 usage report, OTLP JSON, response heads, CSV): {line:?}"
            ),
            Self::NoRecord {
                name,
                format,
                problem: Some(problem),
            } => write!(
                f,
                "{name}:{}: no record in this {}: {}",
                problem.line,
                format.as_str(),
                problem.text
            ),
            Self::NoRecord { name, format, .. } => {
                write!(f, "{name}: no record in this {}", format.as_str())
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// The destination of what a parser finds.
pub(crate) struct Output<'a> {
    report: FileReport,
    sink: &'a mut dyn FnMut(u64, Record),
}

impl Output<'_> {
    pub(crate) fn record(&mut self, line: u64, record: Record) {
        // Times of other centuries are errors, and would make the record as long.
        if !TIMES.contains(&record.t_start.0) {
            return self.problem(line, "the time is before 2001 or after 2286");
        }
        let tokens = [
            record.input,
            record.cache_read,
            record.cache_write,
            record.output,
        ];
        let mut counts = tokens.into_iter().chain([record.requests]).flatten();
        if counts.any(|count| count > MOST) {
            return self.problem(line, "a count over 2^40");
        }
        self.report.records += 1;
        (self.sink)(line, record);
    }

    pub(crate) fn problem(&mut self, line: u64, text: impl fmt::Display) {
        self.report.skipped += 1;
        if self.report.problems.len() < MOST_PROBLEMS {
            let text = text.to_string();
            self.report.problems.push(Problem { line, text });
        }
    }

    /// Counts an entry that is no request for a message.
    pub(crate) fn other(&mut self) {
        self.report.others += 1;
    }

    /// Adds a note, once.
    pub(crate) fn note(&mut self, note: &str) {
        if !self.report.notes.iter().any(|old| old == note) {
            self.report.notes.push(note.to_owned());
        }
    }
}

/// A parser that gets the lines of a file one by one.
pub(crate) trait Parser {
    /// Parses a line. It is not blank, and its end is removed.
    fn line(&mut self, number: u64, line: &str, out: &mut Output<'_>);
    /// Ends the file.
    fn end(&mut self, _out: &mut Output<'_>) {}
}

/// Reads a log and passes its records to `sink`, with the number of their line.
///
/// The kind of the log is found by its beginning, unless `format` is given.
///
/// # Errors
/// Returns an error for a file that cannot be read, is empty, is of an unknown kind, or has no
/// record.
pub fn read(
    name: &str,
    mut input: impl BufRead,
    format: Option<Format>,
    sink: &mut dyn FnMut(u64, Record),
) -> Result<FileReport, ReadError> {
    let io = |error| ReadError::Io {
        name: name.to_owned(),
        error,
    };
    let start = peek(&mut input).map_err(io)?;
    if COMPRESSED.iter().any(|magic| start.starts_with(magic)) {
        return Err(ReadError::Compressed {
            name: name.to_owned(),
        });
    }
    let text = String::from_utf8_lossy(&start);
    let Some(first) = text.lines().find(|line| !line.trim().is_empty()) else {
        return Err(ReadError::Empty {
            name: name.to_owned(),
        });
    };
    let Some(format) = format.or_else(|| Format::detect(&text)) else {
        return Err(ReadError::UnknownKind {
            name: name.to_owned(),
            line: first.chars().take(60).collect(),
        });
    };
    let report = FileReport {
        name: name.to_owned(),
        format,
        lines: 0,
        records: 0,
        skipped: 0,
        others: 0,
        problems: Vec::new(),
        notes: Vec::new(),
    };
    let mut out = Output { report, sink };
    let mut parser = parser(format, &text);
    let input = io::Read::chain(&start[..], input);
    lines(input, &mut *parser, &mut out).map_err(io)?;
    let report = out.report;
    if report.records == 0 {
        return Err(ReadError::NoRecord {
            name: name.to_owned(),
            format,
            problem: report.problems.into_iter().next(),
        });
    }
    Ok(report)
}

fn parser(format: Format, start: &str) -> Box<dyn Parser> {
    match format {
        Format::Events => Box::new(events::Events),
        Format::AccessLog => Box::new(access_log::AccessLog),
        Format::SdkLog => match start.lines().any(sdk_log::is_python) {
            true => Box::<sdk_log::python::PythonLog>::default(),
            false => Box::<sdk_log::typescript::TypeScriptLog>::default(),
        },
        Format::Analytics => Box::new(json::Documents::new(analytics::read)),
        Format::Otlp => Box::new(json::Documents::new(otlp::read)),
        Format::Headers => Box::<headers::Heads>::default(),
        Format::Table => Box::<table::Table>::default(),
    }
}

/// Takes the first bytes of the input, up to 64 KiB.
fn peek(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    while start.len() < 1 << 16 {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let taken = buffer.len().min((1 << 16) - start.len());
        start.extend_from_slice(&buffer[..taken]);
        input.consume(taken);
    }
    Ok(start)
}

fn lines(mut input: impl BufRead, parser: &mut dyn Parser, out: &mut Output<'_>) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let length =
            io::Read::take(&mut input, LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        out.report.lines += 1;
        let number = out.report.lines;
        if length == LONGEST_LINE && line.last() != Some(&b'\n') {
            out.problem(number, "the line is longer than 64 MiB");
            skip_line(&mut input)?;
            continue;
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            out.problem(number, "the line is no UTF-8");
            continue;
        };
        let text = text.trim_start_matches('\u{feff}').trim_end();
        if !text.trim_start().is_empty() {
            parser.line(number, text, out);
        }
    }
    parser.end(out);
    Ok(())
}

fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(buffer.len(), |end| end + 1);
        let is_done = end.is_some() || buffer.is_empty();
        input.consume(taken);
        if is_done {
            return Ok(());
        }
    }
}
