//! The failure of a command.

use std::{fmt, io, path::Path, process::ExitCode};

use tower_claude_planner::text::printable;

/// The end of a command that has failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A file or an option is wrong. Status 2.
    Input(String),
    /// The result cannot be written. Status 1.
    Output(String),
}

impl Failure {
    pub(super) fn write(path: &Path, error: &io::Error) -> Self {
        Self::Output(format!("{}: {error}", path.display()))
    }

    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Input(_) => ExitCode::from(2),
            Self::Output(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Input(text) | Self::Output(text)) = self;
        let lines: Vec<String> = text.lines().map(printable).collect();
        f.write_str(&lines.join("\n"))
    }
}
