//! A durable work queue: 1,000 jobs of three priorities in Redis Streams, four worker processes
//! that keep to one limit, and one of them killed half-way. `worker_queue --help` explains it.
#![forbid(unsafe_code)]

mod queue;
mod report;
mod worker;

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

use crate::{queue::Queue, report::Report, worker::BoxError};

const MODEL: &str = "claude-sonnet-5-5";
/// Input tokens per minute of the key.
const INPUT_PER_MINUTE: NonZeroU64 = NonZeroU64::new(2_400_000).unwrap();
/// The duration of a refill that a bucket holds.
const BURST: Duration = Duration::from_secs(2);
const BYTES_PER_TOKEN: f64 = 2.5;
/// The longest run that is waited for.
const LONGEST: Duration = Duration::from_secs(300);

/// Answers jobs from a durable queue in Redis Streams with several worker processes on one API key.
///
/// Starts a `redis-server` and a fake Claude API that enforces its limit, fills three streams, and
/// starts the workers. Half-way, one worker is killed. Ends with 0 if no job was lost or answered
/// twice, and the API answered no call with 429.
#[derive(Parser)]
#[command(name = "worker_queue")]
struct Cli {
    /// Number of jobs
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    jobs: u64,
    /// Number of worker processes
    #[arg(long, value_name = "N", default_value_t = const { NonZeroU8::new(4).unwrap() })]
    workers: NonZeroU8,
    /// URL of an empty Redis or Valkey to use in place of one that is started
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Kill no worker
    #[arg(long)]
    no_kill: bool,
    #[command(subcommand)]
    command: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// A worker process, which the program starts
    #[command(hide = true)]
    Worker(WorkerArgs),
}

#[derive(Args)]
struct WorkerArgs {
    queue: String,
    api: String,
    name: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Part::Worker(args)) => worker::run(&args.queue, &args.api, &args.name)
            .await
            .map(|()| true),
        None => supervise(&cli).await,
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("worker_queue: {error}");
            ExitCode::from(2)
        }
    }
}

/// Starts everything, waits for the last answer, and prints the report. Returns true if all is
/// well.
async fn supervise(cli: &Cli) -> Result<bool, BoxError> {
    let (url, _server) = redis(cli)?;
    let fake = FakeClaude::builder()
        .limits(
            GroupLimits::new()
                .with_requests_per_minute(60_000)
                .with_input_tokens_per_minute(INPUT_PER_MINUTE.get())
                .with_burst(BURST),
        )
        .bytes_per_token(BYTES_PER_TOKEN)
        .time_to_first_token(Duration::from_millis(50))
        .tokens_per_second(200.0)
        .output_tokens(20)
        .build();
    let api = fake.serve().await?;
    let queue = Queue::open(&url, "supervisor").await;
    let mut queue = queue.map_err(|error| format!("this Redis cannot be used: {error}"))?;
    if queue.progress().await.is_ok_and(|(_, jobs)| jobs > 0) {
        return Err("this Redis has a queue already: use an empty one".into());
    }
    queue.fill(&jobs(cli.jobs)).await?;

    let started = Instant::now();
    let count = u64::from(cli.workers.get());
    let mut workers = Workers::start(count, &url, &api.url())?;
    let bar = ProgressBar::new(cli.jobs);
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos:>5}/{len} jobs {elapsed}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut killed = None;
    loop {
        let (answered, all) = queue.progress().await?;
        bar.set_position(answered);
        if killed.is_none() && !cli.no_kill && count > 1 && answered >= all / 2 {
            killed = Some(workers.kill_first());
            bar.set_message("worker-0 killed");
        }
        if workers.have_ended() {
            break;
        }
        if started.elapsed() > LONGEST {
            return Err(format!("{answered} of {all} jobs answered in {LONGEST:?}").into());
        }
        sleep(Duration::from_millis(50)).await;
    }
    bar.finish_and_clear();
    let (answers, late) = queue.answers().await?;
    let report = fake.with_log(|log| Report::new(cli.jobs, &answers, late, killed, log));
    report.print();
    Ok(report.is_well())
}

/// Returns the URL of an empty Redis, and its server if it was started.
#[cfg(unix)]
fn redis(cli: &Cli) -> Result<(String, Option<RedisServer>), BoxError> {
    if let Some(url) = &cli.redis {
        return Ok((url.clone(), None));
    }
    let server = RedisServer::start();
    let server = server.ok_or("install redis-server, or name a Redis with --redis URL")?;
    Ok((server.url(), Some(server)))
}

#[cfg(not(unix))]
fn redis(cli: &Cli) -> Result<(String, ()), BoxError> {
    let url = cli.redis.clone().ok_or("name a Redis with --redis URL")?;
    Ok((url, ()))
}

/// Returns jobs of mixed priorities and lengths: the index of the priority, and the prompt.
fn jobs(count: u64) -> Vec<(usize, String)> {
    let mut random = fastrand::Rng::with_seed(14);
    let job = |number| {
        let level = [0, 0, 1, 1, 1, 2, 2, 2, 2, 2][random.usize(..10)];
        let lines = random.usize(5..100);
        let text = "Classify the tone of this line, please.\n".repeat(lines);
        (level, format!("Job {number}. {text}"))
    };
    (0..count).map(job).collect()
}

/// The worker processes. They end with this value.
struct Workers(Vec<Child>);

impl Workers {
    fn start(count: u64, redis: &str, api: &str) -> Result<Self, BoxError> {
        let program = std::env::current_exe()?;
        let start = |number| {
            Command::new(&program)
                .args(["worker", redis, api])
                .arg(format!("worker-{number}"))
                .stdin(Stdio::null())
                .spawn()
        };
        Ok(Self((0..count).map(start).collect::<Result<_, _>>()?))
    }

    /// Kills the first worker. Returns its name.
    fn kill_first(&mut self) -> &'static str {
        let _ = self.0[0].kill();
        "worker-0"
    }

    /// Returns true if all have ended.
    fn have_ended(&mut self) -> bool {
        self.0
            .iter_mut()
            .all(|worker| !matches!(worker.try_wait(), Ok(None)))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}
