//! The logs that a command reads.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tower_claude_planner::{
    read::{FileReport, Format, read},
    record::Record,
    traffic::{Traffic, TrafficBuilder},
};

use super::{api, failure::Failure, progress::Progress};

/// The logs that a command reads, together.
#[derive(Debug, Args)]
pub(crate) struct Inputs {
    /// The logs: event logs, access logs in JSON, SDK debug logs, usage reports, OTLP JSON,
    /// response heads, CSV tables. Their kind is found by their beginning. - is the standard input.
    #[arg(required_unless_present = "api", value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Asks the Admin API for the usage of the last 24h, or of a period such as =28d, beside the
    /// logs. A minute is its smallest unit, and an hour over 8 days. Needs an Admin key.
    #[arg(
        long,
        value_name = "PERIOD",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "24h",
        value_parser = api::parse_period
    )]
    api: Option<Duration>,
    /// The model of requests in a log that does not name one.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
}

impl Inputs {
    /// Reads all logs.
    pub(super) fn read(&self, progress: &Progress) -> Result<Traffic, Failure> {
        let mut builder = TrafficBuilder::new(self.model.as_deref());
        for (index, path) in self.inputs.iter().enumerate() {
            let name = path.display().to_string();
            if self.inputs[..index].contains(path) {
                let message = format!("{name}: the file is given twice");
                return Err(Failure::Input(message));
            }
            progress.read(&name, path.metadata().map_or(0, |file| file.len()));
            let report = read_with(path, None, progress, &mut |line, record| {
                builder.add(line, &record);
            })?;
            builder.end_file(report);
        }
        if let Some(period) = self.api {
            let usage = api::usage(period)?;
            let report = read(
                "Admin API",
                usage.as_bytes(),
                Some(Format::Analytics),
                &mut |line, record| {
                    builder.add(line, &record);
                },
            );
            builder.end_file(report.map_err(|error| Failure::Input(error.to_string()))?);
        }
        let empty = || Failure::Input("no request for a message in the input".to_owned());
        builder.build().ok_or_else(empty)
    }
}

/// Reads one log.
pub(super) fn read_file(
    path: &Path,
    format: Option<Format>,
    sink: &mut dyn FnMut(u64, Record),
) -> Result<FileReport, Failure> {
    read_with(path, format, &Progress::none(), sink)
}

fn read_with(
    path: &Path,
    format: Option<Format>,
    progress: &Progress,
    sink: &mut dyn FnMut(u64, Record),
) -> Result<FileReport, Failure> {
    let name = path.display().to_string();
    let input: Box<dyn BufRead + '_> = if name == "-" {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let file = File::open(path).map_err(|error| Failure::Input(format!("{name}: {error}")))?;
        Box::new(BufReader::with_capacity(
            1 << 16,
            Counted { file, progress },
        ))
    };
    read(&name, input, format, sink).map_err(|error| Failure::Input(error.to_string()))
}

/// A file whose reading moves the progress bar.
struct Counted<'a> {
    file: File,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.progress.add(count as u64);
        Ok(count)
    }
}
