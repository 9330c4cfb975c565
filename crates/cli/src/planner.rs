//! `tower-claude plan`, `diagnose`, `evidence` and `convert`.

mod api;
mod failure;
mod input;
mod page;
mod progress;

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::Serialize;
use tower_claude_planner::{
    diagnose::diagnose,
    event::Event,
    evidence::{EvidenceOptions, evidence},
    html,
    limits::LimitTable,
    plan::{PlanOptions, plan},
    read::Format,
    search::Target,
    text::printable,
    time::Time,
    what_if::WhatIf,
};

use self::{failure::Failure, input::Inputs, progress::Progress};

pub(crate) use self::page::render;

const PLAN_EXAMPLES: &str = "Examples:
  tower-claude plan events.jsonl
  tower-claude plan events.jsonl --limits tier:build --what-if cache=0.6 --what-if batch=tag:nightly
  tower-claude plan usage.json access.log --model claude-sonnet-5-5 --capacity 10s --target \"max 30s\"
  tower-claude plan events.jsonl --event \"2026-12-05T18:00 4x 2h\" --json

Figures with ~ are estimates, all others follow from the record. All times are UTC. Nothing is sent
anywhere, unless --api or --limits api ask the Admin API with the key in ANTHROPIC_ADMIN_KEY. The
exit status is 0, 1 if a file cannot be written, and 2 for bad input.";

/// The options of `tower-claude plan`.
#[derive(Debug, Args)]
#[command(after_help = PLAN_EXAMPLES)]
pub(crate) struct Plan {
    #[command(flatten)]
    inputs: Inputs,
    /// Plans this pool (or the pool of this model) only.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// The limits: tier:start, tier:build, tier:scale, or a file in JSON or TOML, such as the
    /// answer of the Rate Limits API. api asks the Admin API for those of the organization, and
    /// api:WORKSPACE for those of a workspace as well, of which the smaller hold. Default: those
    /// that the recorded headers show.
    #[arg(long, value_name = "tier:NAME|FILE|api")]
    limits: Option<String>,
    /// The time in which a bucket of the server fills. Default: what the record shows, or all.
    #[arg(long, value_name = "TIME", default_value = "auto")]
    capacity: Capacity,
    /// The factor of growth to plan for.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.5)]
    growth: f64,
    /// The waits that are acceptable with pacing: "p95 5s", "max 30s" or "none".
    #[arg(long, value_name = "TARGET", default_value = "p95 5s")]
    target: Target,
    /// A change whose effect is to be known. Repeat it for more. `cache=0.6`, `batch=tag:T`,
    /// `spread=10m:tag:T`, `model=A:B`, `keys=N`, `workspaces=N` or `max_tokens=N`.
    #[arg(long, value_name = "CHANGE")]
    what_if: Vec<WhatIf>,
    /// An event: its start (UTC unless it has an offset), its multiple of the usual traffic, its
    /// length. Repeat it for more.
    #[arg(long, value_name = "\"TIME FACTORx LENGTH\"")]
    event: Vec<Event>,
    /// Writes plan.txt, plan.json and the page plan.html into this folder as well.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// The size of the server's buckets.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Capacity {
    Auto,
    #[value(name = "1m")]
    Minute,
    #[value(name = "10s")]
    TenSeconds,
    #[value(name = "1s")]
    Second,
}

impl Capacity {
    const fn duration(self) -> Option<Duration> {
        match self {
            Self::Auto => None,
            Self::Minute => Some(Duration::from_secs(60)),
            Self::TenSeconds => Some(Duration::from_secs(10)),
            Self::Second => Some(Duration::from_secs(1)),
        }
    }
}

impl Plan {
    /// Prints the plan.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let limits = read_limits(self.limits.as_deref())?;
        let progress = Progress::start();
        let traffic = self.inputs.read(&progress)?;
        let mut options = PlanOptions::default();
        options.pool = self.pool;
        options.limits = limits;
        options.capacity = self.capacity.duration();
        options.growth = self.growth;
        options.target = self.target;
        options.what_ifs = self.what_if;
        options.events = self.event;
        let mut step = |name: &str, share: f64| progress.step(name, share);
        let mut report = plan(&traffic, &options, &mut step).map_err(Failure::Input)?;
        progress.end();
        if let Some(workspace) = self.limits.as_deref().and_then(of_api) {
            let prices = report
                .pools
                .iter()
                .filter_map(|pool| pool.dollars_per_month);
            report
                .warnings
                .extend(api::spend_warning(prices.sum(), workspace));
        }
        if let Some(folder) = &self.out {
            let page = html::plan(&report, &traffic);
            write(folder, "plan", &report, &report.text(), &page)?;
        }
        print(self.json, &report, report.text())
    }
}

const DIAGNOSE_EXAMPLES: &str = "Examples:
  tower-claude diagnose events.jsonl
  tower-claude diagnose events.jsonl --at 2026-11-28T09:12
  tower-claude diagnose sdk-debug.log --limits tier:start --json

For each rejection and each wait of a second or more, the first cause that holds: spend limit, key,
ramp, concurrency, burst, another consumer, a full limit, overload, retry storm. The exit status is
0, and 2 for bad input.";

/// The options of `tower-claude diagnose`.
#[derive(Debug, Args)]
#[command(after_help = DIAGNOSE_EXAMPLES)]
pub(crate) struct Diagnose {
    #[command(flatten)]
    inputs: Inputs,
    /// Diagnoses the five minutes before and after this time. UTC unless it has an offset.
    #[arg(long, value_name = "TIME", value_parser = Time::parse_or_utc)]
    at: Option<Time>,
    /// The limits, as for `plan`.
    #[arg(long, value_name = "tier:NAME|FILE|api")]
    limits: Option<String>,
    /// Writes diagnosis.txt, diagnosis.json and the page diagnosis.html into this folder as well.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Diagnose {
    /// Prints the diagnosis.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let limits = read_limits(self.limits.as_deref())?;
        let progress = Progress::start();
        let traffic = self.inputs.read(&progress)?;
        progress.end();
        let report = diagnose(&traffic, limits.as_ref(), self.at).map_err(Failure::Input)?;
        if let Some(folder) = &self.out {
            let page = html::diagnosis(&report, &traffic);
            write(folder, "diagnosis", &report, &report.text(), &page)?;
        }
        print(self.json, &report, report.text())
    }
}

const EVIDENCE_EXAMPLES: &str = "Examples:
  tower-claude evidence events.jsonl --pool sonnet-5.5 --ask 4M
  tower-claude evidence events.jsonl --pool claude-opus-5-5 --limits tier:build --done \"batches for nightly work\"

The last part is a block to paste into the request form. It has no prompt and no key. The exit
status is 0, and 2 for bad input.";

/// The options of `tower-claude evidence`.
#[derive(Debug, Args)]
#[command(after_help = EVIDENCE_EXAMPLES)]
pub(crate) struct Evidence {
    #[command(flatten)]
    inputs: Inputs,
    /// The pool, or a model in it.
    #[arg(long, value_name = "NAME")]
    pool: String,
    /// The limit per minute to ask for, such as 4M or 800k. Default: need × growth × 1.2.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    ask: Option<u64>,
    /// The dimension. Default: the one that comes closest to its limit.
    #[arg(long, value_name = "DIMENSION")]
    dimension: Option<DimensionName>,
    /// The limits, as for `plan`.
    #[arg(long, value_name = "tier:NAME|FILE|api")]
    limits: Option<String>,
    /// The factor of growth to ask for.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.5)]
    growth: f64,
    /// The waits that are acceptable with pacing, as for `plan`.
    #[arg(long, value_name = "TARGET", default_value = "p95 5s")]
    target: Target,
    /// Something that was already done, in your words. Repeat it for more.
    #[arg(long, value_name = "TEXT")]
    done: Vec<String>,
    /// Writes evidence.txt, evidence.json and the page evidence.html into this folder as well.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A dimension of limits.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DimensionName {
    Requests,
    InputTokens,
    OutputTokens,
}

impl Evidence {
    /// Prints the evidence.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let limits = read_limits(self.limits.as_deref())?;
        let progress = Progress::start();
        let traffic = self.inputs.read(&progress)?;
        progress.end();
        let mut options = EvidenceOptions::new(&self.pool);
        options.ask = self.ask;
        options.dimension = self.dimension.map(|dimension| dimension as usize);
        options.limits = limits;
        options.growth = self.growth;
        options.target = self.target;
        options.done = self.done;
        let report = evidence(&traffic, &options).map_err(Failure::Input)?;
        if let Some(folder) = &self.out {
            let page = html::evidence(&report, &traffic);
            write(folder, "evidence", &report, &report.text(), &page)?;
        }
        print(self.json, &report, report.text())
    }
}

const CONVERT_EXAMPLES: &str = "Examples:
  tower-claude convert --from nginx access.log > events.jsonl
  tower-claude convert --from sdk-log debug.log > events.jsonl
  tower-claude convert --from analytics usage.json > events.jsonl

The form is described in docs/planning.md. The exit status is 0, 1 if the output cannot be written,
and 2 for bad input.";

/// The options of `tower-claude convert`.
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub(crate) struct Convert {
    /// The kind of the log.
    #[arg(long, value_name = "KIND")]
    from: From,
    /// The log. - is the standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// The kind of a log.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    Nginx,
    Envoy,
    SdkLog,
    Analytics,
    Otlp,
    Headers,
    Csv,
}

impl From {
    const fn format(self) -> Format {
        match self {
            Self::Nginx | Self::Envoy => Format::AccessLog,
            Self::SdkLog => Format::SdkLog,
            Self::Analytics => Format::Analytics,
            Self::Otlp => Format::Otlp,
            Self::Headers => Format::Headers,
            Self::Csv => Format::Table,
        }
    }
}

impl Convert {
    /// Writes the records to the standard output, and what is missing to the standard error.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut written = Ok(());
        let report = input::read_file(&self.file, Some(self.from.format()), &mut |_, record| {
            if written.is_ok() {
                written = serde_json::to_writer(&mut out, &record)
                    .map_err(io::Error::from)
                    .and_then(|()| out.write_all(b"\n"));
            }
        })?;
        let written = written.and_then(|()| out.flush());
        eprintln!(
            "{}: {} records from {} lines, {} skipped, {} other requests",
            report.name, report.records, report.lines, report.skipped, report.others
        );
        for problem in &report.problems {
            let text = printable(&problem.text);
            eprintln!("{}:{}: {text}", report.name, problem.line);
        }
        for note in &report.notes {
            eprintln!("{}: {note}", report.name);
        }
        ignore_closed(written)
    }
}

/// Returns the workspace, if one is named, of limits that the Admin API is asked for.
fn of_api(limits: &str) -> Option<Option<&str>> {
    match limits.strip_prefix("api")? {
        "" => Some(None),
        rest => rest.strip_prefix(':').map(Some),
    }
}

fn read_limits(limits: Option<&str>) -> Result<Option<LimitTable>, Failure> {
    let Some(limits) = limits else {
        return Ok(None);
    };
    if let Some(workspace) = of_api(limits) {
        return api::limits(workspace).map(Some);
    }
    let table = match limits.strip_prefix("tier:") {
        Some(tier) => LimitTable::tier(tier),
        None => {
            let text = fs::read_to_string(limits)
                .map_err(|error| Failure::Input(format!("{limits}: {error}")))?;
            let text = text.trim_start_matches('\u{feff}');
            let is_toml = Path::new(limits)
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
            match is_toml {
                true => LimitTable::from_toml(limits, text),
                false => LimitTable::from_json(limits, text),
            }
        }
    };
    table.map(Some).map_err(Failure::Input)
}

/// Parses a count such as `4M`, `800k` or `5000`.
fn parse_count(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is no count such as 4M, 800k or 5000");
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1e3),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    let number: f64 = digits.trim().parse().map_err(|_| error())?;
    let count = (number * unit).round();
    (1.0..1e12)
        .contains(&count)
        .then_some(count as u64)
        .ok_or_else(error)
}

/// Writes a report into a folder, which is made.
fn write(
    folder: &Path,
    name: &str,
    report: &impl Serialize,
    text: &str,
    page: &str,
) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| Failure::write(folder, &error))?;
    let json = to_json(report)?;
    for (kind, content) in [("txt", text), ("json", &json), ("html", page)] {
        let path = folder.join(format!("{name}.{kind}"));
        fs::write(&path, content).map_err(|error| Failure::write(&path, &error))?;
    }
    Ok(())
}

fn to_json(report: &impl Serialize) -> Result<String, Failure> {
    let mut json =
        serde_json::to_string_pretty(report).map_err(|error| Failure::Output(error.to_string()))?;
    json.push('\n');
    Ok(json)
}

fn print(as_json: bool, report: &impl Serialize, text: String) -> Result<(), Failure> {
    let text = if as_json { to_json(report)? } else { text };
    let mut out = io::stdout().lock();
    ignore_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// A standard output that was closed, as after `| head`, is no error.
fn ignore_closed(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Output(error.to_string()))
        }
        _ => Ok(()),
    }
}
