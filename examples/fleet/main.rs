//! A fleet of processes on one API key: without a store, with Redis, and with Redis killed half-way
//! and back. `fleet --help` explains it.
#![forbid(unsafe_code)]

mod member;
mod report;

use std::{
    num::{NonZeroU8, NonZeroU64},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};
use tower_claude_fake_claude::{FakeClaude, GroupLimits};
#[cfg(unix)]
use tower_claude_tests::redis::RedisServer;

use crate::{member::BoxError, report::Report};

const MODEL: &str = "claude-sonnet-5-5";
/// Requests per minute of the key.
const REQUESTS_PER_MINUTE: u64 = 3_000;
/// The duration of a refill that a bucket holds.
const BURST: Duration = Duration::from_secs(5);
/// The time for which the processes may take longer to start and to end.
const MARGIN: Duration = Duration::from_secs(30);

/// Lets several processes use one API key at once, without a store, with Redis, and with Redis that
/// is killed half-way and comes back.
///
/// Starts a fake Claude API that enforces its limit, and a `redis-server`. Each process keeps 8
/// calls under way. Ends with 0 if at most one call in a hundred got a 429 in the
/// runs with Redis, and every process was served.
#[derive(Parser)]
#[command(name = "fleet")]
struct Cli {
    /// Number of processes
    #[arg(long, value_name = "N", default_value_t = const { NonZeroU8::new(4).unwrap() })]
    processes: NonZeroU8,
    /// Duration of each run in seconds
    #[arg(long, value_name = "S", default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=3600))]
    seconds: u64,
    #[command(subcommand)]
    command: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// A process of the fleet, which the program starts
    #[command(hide = true)]
    Member(MemberArgs),
}

#[derive(Args)]
struct MemberArgs {
    api: String,
    name: String,
    seconds: u64,
    requests_per_minute: NonZeroU64,
    redis: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Part::Member(args)) => member::run(args, BURST).await.map(|()| true),
        None => supervise(&cli).await,
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::from(2)
        }
    }
}

/// Makes all runs. Returns true if the limit held in those with Redis.
#[cfg(unix)]
async fn supervise(cli: &Cli) -> Result<bool, BoxError> {
    let server = RedisServer::start();
    let mut server = server.ok_or("install redis-server")?;
    let url = server.url();
    let alone = run(cli, "without a store", None, None).await?;
    let shared = run(cli, "with Redis", Some(&url), None).await?;
    server.command(&["FLUSHALL"]);
    let killed = run(
        cli,
        "with Redis killed and back",
        Some(&url),
        Some(&mut server),
    )
    .await?;
    println!(
        "without a store {} responses with 429, with Redis {}, with Redis killed and back {}",
        alone.rate_limited(),
        shared.rate_limited(),
        killed.rate_limited(),
    );
    Ok(shared.is_well() && killed.is_well())
}

#[cfg(not(unix))]
async fn supervise(_: &Cli) -> Result<bool, BoxError> {
    Err("this example starts a redis-server, which needs Unix".into())
}

/// Lets all processes run for a time, with a fake of their own, and prints their table. `outage` is
/// killed after a third of the time, and started again after two thirds.
#[cfg(unix)]
async fn run(
    cli: &Cli,
    name: &str,
    redis: Option<&str>,
    mut outage: Option<&mut RedisServer>,
) -> Result<Report, BoxError> {
    let fake = FakeClaude::builder()
        .limits(
            GroupLimits::new()
                .with_requests_per_minute(REQUESTS_PER_MINUTE)
                .with_burst(BURST),
        )
        .time_to_first_token(Duration::from_millis(20))
        .tokens_per_second(1_000.0)
        .output_tokens(10)
        .build();
    let api = fake.serve().await?;
    let time = Duration::from_secs(cli.seconds);
    let started = Instant::now();
    let mut fleet = Fleet::start(cli, &api.url(), redis)?;
    let bar = ProgressBar::new(cli.seconds * 10);
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {elapsed} {prefix}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_prefix(name.to_owned());
    let mut is_killed = false;
    while !fleet.has_ended() {
        let elapsed = started.elapsed();
        bar.set_position((elapsed.as_millis() / 100) as u64);
        bar.set_message(format!("{} calls", fake.with_log(<[_]>::len)));
        if let Some(server) = &mut outage {
            let is_out = elapsed >= time / 3 && elapsed < time * 2 / 3;
            match (is_killed, is_out) {
                (false, true) => server.kill(),
                (true, false) => server.restart(),
                _ => {}
            }
            is_killed = is_out;
        }
        if elapsed > time + MARGIN {
            return Err(format!("a process has not ended after {elapsed:?}").into());
        }
        sleep(Duration::from_millis(50)).await;
    }
    bar.finish_and_clear();
    let names = (0..cli.processes.get()).map(member_name);
    let report = fake.with_log(|log| Report::new(names, log));
    report.print(name);
    Ok(report)
}

fn member_name(number: u8) -> String {
    format!("process-{number}")
}

/// The processes. They end with this value.
struct Fleet(Vec<Child>);

impl Fleet {
    #[cfg(unix)]
    fn start(cli: &Cli, api: &str, redis: Option<&str>) -> Result<Self, BoxError> {
        let program = std::env::current_exe()?;
        let start = |number| {
            Command::new(&program)
                .args(["member", api, &member_name(number)])
                .arg(cli.seconds.to_string())
                .arg(REQUESTS_PER_MINUTE.to_string())
                .args(redis)
                .stdin(Stdio::null())
                .spawn()
        };
        let members = (0..cli.processes.get()).map(start);
        Ok(Self(members.collect::<Result<_, _>>()?))
    }

    /// Returns true if all have ended.
    #[cfg(unix)]
    fn has_ended(&mut self) -> bool {
        self.0
            .iter_mut()
            .all(|member| !matches!(member.try_wait(), Ok(None)))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for member in &mut self.0 {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}
