//! Reads a trace of requests.

use std::{fmt, path::Path, time::Duration};

use jiff::civil::DateTime;

/// The built-in trace. `data/README.md` names its source.
const BUILT_IN: &str = include_str!("../data/azure-llm-code-2023.csv");
const BUILT_IN_NAME: &str = "azure-llm-code-2023.csv";
const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
/// The limits of the largest models. A larger number is a mistake in the file.
const MOST_INPUT: u64 = 1_000_000;
const MOST_OUTPUT: u64 = 64_000;

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The time since the first request.
    pub(crate) at: Duration,
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// An error with the file, the line if there is one, and the reason.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TraceError {
    file: String,
    line: Option<usize>,
    problem: String,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// Reads the trace in this file, or the built-in one, in order of arrival.
pub(crate) fn load(file: Option<&Path>) -> Result<Vec<Entry>, TraceError> {
    let Some(file) = file else {
        return parse(BUILT_IN_NAME, BUILT_IN);
    };
    let name = file.display().to_string();
    let failed = |problem: String| TraceError {
        file: name.clone(),
        line: None,
        problem,
    };
    let bytes = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    // Not `read_to_string`, which cannot name the line of an invalid byte.
    parse(&name, &String::from_utf8_lossy(&bytes))
}

pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Entry>, TraceError> {
    let failed = |line, problem| TraceError {
        file: file.to_owned(),
        line,
        problem,
    };
    let mut lines = text.lines().enumerate();
    let header = lines.next().map_or("", |(_, line)| line);
    if header.trim_start_matches('\u{feff}').trim_end() != HEADER {
        return Err(failed(Some(1), format!("expected the header {HEADER}")));
    }
    let mut stamped = Vec::new();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let entry = parse_line(line).map_err(|problem| failed(Some(index + 1), problem))?;
        stamped.push(entry);
    }
    // Traces merged from several servers are not always in order.
    stamped.sort_by_key(|(stamp, ..)| *stamp);
    let Some((first, ..)) = stamped.first().copied() else {
        return Err(failed(None, "no requests in it".to_owned()));
    };
    let entries = stamped.iter().map(|(stamp, input, output)| Entry {
        at: Duration::try_from(stamp.duration_since(first)).unwrap_or_default(),
        input: *input,
        output: *output,
    });
    Ok(entries.collect())
}

fn parse_line(line: &str) -> Result<(DateTime, u64, u64), String> {
    let fields: Vec<&str> = line.trim_end().split(',').collect();
    let [stamp, input, output] = fields[..] else {
        return Err(format!("expected 3 fields, found {}", fields.len()));
    };
    let time = stamp
        .parse::<DateTime>()
        .map_err(|_| format!("TIMESTAMP is not a date and time: {stamp:?}"))?;
    let count = |name: &str, text: &str, most: u64| match text.parse::<u64>() {
        Ok(count) if count <= most => Ok(count),
        _ => Err(format!("{name} is not a number from 0 to {most}: {text:?}")),
    };
    Ok((
        time,
        count("ContextTokens", input, MOST_INPUT)?,
        count("GeneratedTokens", output, MOST_OUTPUT)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_trace_is_whole() {
        let trace = load(None).unwrap();
        assert_eq!(trace.len(), 8_819);
        assert_eq!(
            trace.iter().map(|entry| entry.input).sum::<u64>(),
            18_059_974
        );
        assert_eq!(trace.iter().map(|entry| entry.output).sum::<u64>(), 245_896);
        assert_eq!(trace[0].at, Duration::ZERO);
        assert_eq!(trace[8_818].at, Duration::from_nanos(3_435_948_056_000));
    }

    #[test]
    fn lines_may_end_in_crlf_and_come_in_any_order() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
                    2024-01-01 00:00:02.5,10,1\r\n\r\n2024-01-01 00:00:01,20,2\r\n";
        let trace = parse("t.csv", text).unwrap();
        assert_eq!((trace[0].at, trace[0].input), (Duration::ZERO, 20));
        assert_eq!(
            (trace[1].at, trace[1].output),
            (Duration::from_millis(1_500), 1)
        );
    }

    #[test]
    fn a_problem_names_file_and_line() {
        let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        let good = "2024-01-01 00:00:01,20,2\n";
        for (text, expected) in [
            (String::new(), "t.csv, line 1: expected the header"),
            ("a,b\n".to_owned(), "t.csv, line 1: expected the header"),
            (header.to_owned(), "t.csv: no requests"),
            (
                format!("{header}{good}yesterday,1,2\n"),
                "t.csv, line 3: TIMESTAMP",
            ),
            (
                format!("{header}2024-13-01 00:00:01,1,2\n"),
                "t.csv, line 2: TIMESTAMP",
            ),
            (
                format!("{header}{good}{good}1,2\n"),
                "t.csv, line 4: expected 3 fields, found 2",
            ),
            (
                format!("{header}2024-01-01 00:00:01,-1,2\n"),
                "t.csv, line 2: ContextTokens",
            ),
            (
                format!("{header}2024-01-01 00:00:01,1,99999999\n"),
                "t.csv, line 2: GeneratedTokens",
            ),
        ] {
            let message = parse("t.csv", &text).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = load(Some(Path::new("missing.csv")))
            .unwrap_err()
            .to_string();
        assert!(message.starts_with("missing.csv: "), "{message}");
    }
}
