//! The kinds of JSON, and documents that are not one for each line.

use serde_json::{Deserializer, Map, Value};

use super::{Format, LARGEST_DOCUMENT, Output, Parser};

/// Finds the kind of a log that begins with JSON.
pub(super) fn detect(start: &str, line: &str) -> Option<Format> {
    if let Ok(Value::Object(object)) = serde_json::from_str(line) {
        return of_object(&object);
    }
    // A document over several lines, or one that is cut off.
    let has = |key: &str| start.contains(&format!("\"{key}\""));
    if has("resourceSpans") {
        Some(Format::Otlp)
    } else if has("starting_at") && (has("usage") || has("results")) {
        Some(Format::Analytics)
    } else if has("t_start") {
        Some(Format::Events)
    } else {
        None
    }
}

fn of_object(object: &Map<String, Value>) -> Option<Format> {
    if object.contains_key("t_start") {
        Some(Format::Events)
    } else if object.contains_key("resourceSpans") {
        Some(Format::Otlp)
    } else if object.get("data").is_some_and(Value::is_array) {
        Some(Format::Analytics)
    } else {
        super::access_log::has_time(object).then_some(Format::AccessLog)
    }
}

/// A parser of whole JSON documents, one after the other.
pub(super) struct Documents {
    text: String,
    first_line: u64,
    is_too_long: bool,
    read: fn(&Value, u64, &mut Output<'_>),
}

impl Documents {
    pub(super) fn new(read: fn(&Value, u64, &mut Output<'_>)) -> Self {
        Self {
            text: String::new(),
            first_line: 1,
            is_too_long: false,
            read,
        }
    }
}

impl Parser for Documents {
    fn line(&mut self, number: u64, line: &str, out: &mut Output<'_>) {
        if self.text.is_empty() {
            // Most exporters write one document for each line.
            if let Ok(value) = serde_json::from_str::<Value>(line) {
                return (self.read)(&value, number, out);
            }
            self.first_line = number;
        }
        if self.text.len() + line.len() > LARGEST_DOCUMENT {
            self.is_too_long = true;
            return;
        }
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn end(&mut self, out: &mut Output<'_>) {
        if self.is_too_long {
            out.problem(self.first_line, "the document is longer than 1 GiB");
        }
        let mut documents = Deserializer::from_str(&self.text).into_iter::<Value>();
        loop {
            let line = |offset: usize| {
                let before = self.text[..offset].matches('\n').count();
                self.first_line + before as u64
            };
            let at = documents.byte_offset();
            match documents.next() {
                Some(Ok(value)) => (self.read)(&value, line(at), out),
                Some(Err(error)) => {
                    let number = self.first_line + (error.line() as u64).saturating_sub(1);
                    match error.is_eof() {
                        true => out.problem(number, "the document is cut off"),
                        false => out.problem(number, error),
                    }
                    return;
                }
                None => return,
            }
        }
    }
}

/// Returns a number that may be written as text.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

/// Returns a count that may be written as text.
pub(super) fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Returns a text that is not empty.
pub(super) fn text(value: &Value) -> Option<&str> {
    value
        .as_str()
        .filter(|text| !text.is_empty() && *text != "-")
}
