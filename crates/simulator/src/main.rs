//! Prints how strategies that pace requests compare, in simulation.
#![forbid(unsafe_code)]

use std::{
    io::{ErrorKind, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use tower_claude_simulator::{
    CacheOptions, Options, batch_table, cache_table, picture, spread_table, table,
};

/// Client processes that share one rate limit, in virtual time: this project's limiter beside what
/// others do.
#[derive(Debug, Parser)]
#[command(name = "tower-claude-simulator")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all rows and print every figure beside its goal, with exit code 1 if one falls short
    Table(TableArgs),
    /// Print the price of input by the strategy that places the markers of the prompt cache, beside
    /// a bound, with exit code 1 if a figure falls short of its goal
    Cache(CacheArgs),
    /// Run conversations over three clouds: the spread layer's choice of targets beside others,
    /// with exit code 1 if a goal is missed
    Spread(SpreadArgs),
    /// Run calls that can wait: the batch layer's scheduler beside a fixed window and a fixed size,
    /// with exit code 1 if a goal is missed
    Batch(BatchArgs),
}

/// The arguments of all tables.
#[derive(Debug, Args)]
struct CommonArgs {
    /// The first seed, to repeat a run. Drawn at random if it is absent. The table names the seeds
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Number of seeds. Every figure is the worst of them
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,

    /// Only the rows of this id, as in R2, C1, B2 or S1
    #[arg(long, value_name = "ID")]
    only: Option<String>,

    /// Print the figures as one JSON array, last on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SpreadArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Run 30 minutes instead of two hours, with at most two seeds
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Args)]
struct BatchArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Run a sixth of the length with at most two seeds
    #[arg(long)]
    quick: bool,

    /// Only the lines with goals
    #[arg(long)]
    ours: bool,

    /// Draw the saved money and the missed deadlines
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CacheArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Run 40 minutes instead of four hours. Some figures may miss their goals
    #[arg(long)]
    quick: bool,

    /// The price of a cache read, as a multiple of plain input. 0.05 for the newest Opus and Sonnet
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    read: f64,

    /// Number of stores of the server's cache, of which each request uses a random one, so that it
    /// may miss what was just written
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    stores: u16,

    /// Draw the figures as bars
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TableArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Run a sixth of the length with at most two seeds. Some of the noisy figures may miss their
    /// goals
    #[arg(long)]
    quick: bool,

    /// Only the lines with goals and those of the oracle, without the other strategies
    #[arg(long)]
    ours: bool,

    /// Replay this trace in a row of its own (CSV: TIMESTAMP,ContextTokens,GeneratedTokens)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Draw level, admitted requests and 429s over time for a few strategies
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Table(args) => run_table(args),
        Command::Cache(args) => run_cache(args),
        Command::Batch(args) => run_batch(args),
        Command::Spread(args) => run_spread(args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tower-claude-simulator: {error}");
            ExitCode::from(2)
        }
    }
}

/// Returns the seed, short enough to be typed.
fn seed(given: Option<u64>) -> u64 {
    given.unwrap_or_else(|| fastrand::u64(1..1_000_000_000))
}

fn run_table(args: TableArgs) -> Result<bool, String> {
    let mut options = Options::default();
    let seed = seed(args.common.seed);
    options.seed = seed;
    options.seeds = args.common.seeds;
    options.quick = args.quick;
    options.only = args.common.only;
    options.ours = args.ours;
    options.trace = args.trace;
    let table = table(&options)?;
    let json = args.common.json.then(|| table.json());
    let svg = args.svg.map(|path| (path, picture(seed)));
    print(&table.text(), json, svg, table.passed())
}

fn run_cache(args: CacheArgs) -> Result<bool, String> {
    let mut options = CacheOptions::default();
    options.seed = seed(args.common.seed);
    options.seeds = args.common.seeds;
    options.quick = args.quick;
    options.only = args.common.only;
    options.read = args.read;
    options.stores = args.stores.into();
    let table = cache_table(&options)?;
    let json = args.common.json.then(|| table.json());
    let svg = args.svg.map(|path| (path, table.picture()));
    print(&table.text(), json, svg, table.passed())
}

fn run_batch(args: BatchArgs) -> Result<bool, String> {
    let mut options = Options::default();
    options.seed = seed(args.common.seed);
    options.seeds = args.common.seeds;
    options.quick = args.quick;
    options.only = args.common.only;
    options.ours = args.ours;
    let table = batch_table(&options)?;
    let json = args.common.json.then(|| table.json());
    let svg = args.svg.map(|path| (path, table.picture()));
    print(&table.text(), json, svg, table.passed())
}

fn run_spread(args: SpreadArgs) -> Result<bool, String> {
    let mut options = Options::default();
    options.seed = seed(args.common.seed);
    options.seeds = args.common.seeds;
    options.quick = args.quick;
    options.only = args.common.only;
    let table = spread_table(&options)?;
    let json = args.common.json.then(|| table.json());
    print(&table.text(), json, None, table.passed())
}

/// Prints a table, and writes its picture. Returns `passed`.
fn print(
    text: &str,
    json: Option<String>,
    svg: Option<(PathBuf, String)>,
    passed: bool,
) -> Result<bool, String> {
    if let Some((path, picture)) = svg {
        std::fs::write(&path, picture).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let verdict = if passed {
        "every goal is met"
    } else {
        "some figures fall short: see the lines marked FALL SHORT"
    };
    let mut output = format!("{text}\n{verdict}\n");
    if let Some(json) = json {
        output += &format!("{json}\n");
    }
    match std::io::stdout().write_all(output.as_bytes()) {
        // A reader such as `head` needs no more.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        _ => Ok(passed),
    }
}
