//! The program `tower-claude`.
#![forbid(unsafe_code)]

mod demo;
#[cfg_attr(not(feature = "otlp"), path = "no_otlp.rs")]
mod otlp;
mod planner;
mod serve;

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Keeps integrations with the Claude API inside their rate limits and alive through errors.
#[derive(Debug, Parser)]
#[command(name = "tower-claude", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the Claude API to clients in any language, which change their base URL only.
    Serve(serve::Serve),
    /// Prints a new gateway key, and its hash for the configuration.
    Key,
    /// Plans limits from recorded traffic: which limit binds, which limit and tier are enough.
    Plan(planner::Plan),
    /// Finds the causes of rejections and slow calls in recorded traffic.
    Diagnose(planner::Diagnose),
    /// Collects the evidence for a higher limit from recorded traffic.
    Evidence(planner::Evidence),
    /// Converts another log to the form of the event log.
    Convert(planner::Convert),
}

/// The error of a command, for people.
#[derive(Debug)]
struct CommandError(String);

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CommandError {}

/// Returns an error with the text of `error`.
fn failed(error: impl fmt::Display) -> CommandError {
    CommandError(error.to_string())
}

/// The variable with the log filter, for example `info,tower_claude_gateway=debug`.
const LOG: &str = "TOWER_CLAUDE_LOG";

fn start_log() -> Result<otlp::Traces, CommandError> {
    let filter = std::env::var(LOG).unwrap_or_else(|_| "info".to_owned());
    let targets: Targets = filter
        .parse()
        .map_err(|error| failed(format!("{LOG}={filter:?}: {error}")))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_filter(targets);
    let traces = otlp::Traces::start()?;
    let subscriber = tracing_subscriber::registry()
        .with(lines)
        .with(traces.layer());
    subscriber.try_init().map_err(failed)?;
    Ok(traces)
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // The commands about recorded traffic neither log nor export.
    let planned = match cli.command {
        Command::Serve(serve) => return end(serve_with_log(serve).await),
        Command::Key => return end(print_key()),
        Command::Plan(plan) => plan.run(),
        Command::Diagnose(diagnose) => diagnose.run(),
        Command::Evidence(evidence) => evidence.run(),
        Command::Convert(convert) => convert.run(),
    };
    match planned {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.code()
        }
    }
}

async fn serve_with_log(serve: serve::Serve) -> Result<(), CommandError> {
    let traces = start_log()?;
    serve.run(traces).await
}

fn end(done: Result<(), CommandError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. A standard output that was closed, as after `| head`, ends no process.
fn print_line(line: impl fmt::Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

fn print_key() -> Result<(), CommandError> {
    let (key, hash) = tower_claude_gateway::new_key().map_err(failed)?;
    print_line(format_args!("key:  {key}"));
    print_line(format_args!("hash: {hash}"));
    print_line("Give the key to the caller, and write the hash into the configuration:");
    print_line(format_args!(
        "\n[[keys]]\nname = \"team-a\"\nhash = \"{hash}\""
    ));
    Ok(())
}
