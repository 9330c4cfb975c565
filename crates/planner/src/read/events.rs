//! The normal form.

use super::{Output, Parser};
use crate::{record::Record, time::Time};

/// Parses one record for each line.
pub(super) struct Events;

impl Parser for Events {
    fn line(&mut self, number: u64, line: &str, out: &mut Output<'_>) {
        match serde_json::from_str::<Record>(line) {
            Ok(record) => match check(&record) {
                None => out.record(number, record),
                Some(problem) => out.problem(number, problem),
            },
            Err(error) if error.is_eof() => out.problem(number, "the line is cut off"),
            Err(error) => out.problem(number, message(&error)),
        }
    }
}

/// Returns the message without the position, since a record is one line.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line ") {
        Some((message, _)) => message.to_owned(),
        None => text,
    }
}

/// Returns the reason for which a record is no record.
fn check(record: &Record) -> Option<&'static str> {
    if record.t_start == Time::default() {
        return Some("no t_start");
    }
    if record.t_end.is_some_and(|end| end < record.t_start) {
        return Some("t_end is before t_start");
    }
    if record.requests.is_some() && record.t_end.is_none() {
        return Some("a sum without t_end");
    }
    let seconds = [record.wait, record.retry_after];
    let is_seconds = |seconds: f64| (0.0..1e9).contains(&seconds);
    if seconds
        .into_iter()
        .flatten()
        .any(|seconds| !is_seconds(seconds))
    {
        return Some("wait and retry_after are seconds from 0");
    }
    if record
        .sample_rate
        .is_some_and(|rate| !(rate > 0.0 && rate <= 1.0))
    {
        return Some("sample_rate is a share above 0 and up to 1");
    }
    None
}
