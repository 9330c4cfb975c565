//! `cargo bench -p tower-claude-benches --bench redis`: a reservation of the limiter over Redis,
//! beside commands that do nothing, on one connection to a server on this machine.
//!
//! Ratios hold for the machine that they are measured on, since all rows are from one run. With
//! many callers one round trip is for many reservations.

use std::{process::ExitCode, time::Duration};

use futures_util::future::join_all;
use redis::{Client, Script, aio::MultiplexedConnection};
use tokio::time::Instant;
use tower_claude_core::{Cost, Scope};
use tower_claude_limiter::{AcquireRequest, Limiter, Limits, Settlement};
use tower_claude_redis::{RedisConfig, RedisLimiter};
#[cfg(unix)]
use tower_claude_tests::redis::RedisServer;
use tower_claude_wire::Usage;

/// Time of each row, after a tenth of it to warm up.
const TIME: Duration = Duration::from_secs(2);
const CALLERS: [usize; 3] = [1, 16, 64];

/// The median time of a call in microseconds, and calls per second.
#[derive(Clone, Copy)]
struct Row {
    median: f64,
    per_second: f64,
}

#[cfg(unix)]
fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let Some(server) = RedisServer::start() else {
        return ExitCode::SUCCESS;
    };
    runtime.block_on(run(&server));
    ExitCode::SUCCESS
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    ExitCode::SUCCESS
}

#[cfg(unix)]
async fn run(server: &RedisServer) {
    let url = &*server.url();
    let connection = Client::open(url).expect("a URL");
    let connection = connection.get_multiplexed_async_connection().await;
    let connection = connection.expect("a connection");
    let nothing = Script::new("return 0");
    let () = nothing
        .invoke_async(&mut connection.clone())
        .await
        .expect("0");
    let most = u64::MAX.try_into().expect("not zero");
    let limits = Limits::new()
        .with_requests_per_minute(most)
        .with_input_tokens_per_minute(most)
        .with_output_tokens_per_minute(most);
    let config = RedisConfig::new(url).expect("a URL");
    let config = config.with_deadline(Duration::from_millis(250));
    let (limiter, driver) = RedisLimiter::connect(&config, limits)
        .await
        .expect("a limiter");
    tokio::spawn(driver);

    println!("callers  row               median µs   per second  × PING median");
    for callers in CALLERS {
        let ping = measure(callers, || ping(connection.clone())).await;
        let script = measure(callers, || eval(connection.clone(), &nothing)).await;
        server.command(&["CONFIG", "RESETSTAT"]);
        let reservation = measure(callers, || reserve(limiter.clone())).await;
        for (name, row) in [
            ("PING", ping),
            ("EVALSHA of nothing", script),
            ("acquire + settle", reservation),
        ] {
            println!(
                "{callers:>7}  {name:<18} {:>8.1} {:>12.0} {:>14.2}",
                row.median,
                row.per_second,
                row.median / ping.median
            );
        }
        let stats = server.command(&["INFO", "commandstats"]);
        let script = stats.lines().find(|line| line.contains("evalsha"));
        println!("         the script: {}", script.unwrap_or_default());
    }
}

async fn ping(mut connection: MultiplexedConnection) {
    let () = redis::cmd("PING")
        .query_async(&mut connection)
        .await
        .expect("an answer");
}

async fn eval(mut connection: MultiplexedConnection, script: &Script) {
    let () = script
        .invoke_async(&mut connection)
        .await
        .expect("an answer");
}

/// Makes a reservation and settles it with another usage than was estimated.
async fn reserve(limiter: RedisLimiter) {
    let request = AcquireRequest::new(Scope::named("bench"), Cost::new(1_000, 100));
    let mut reservation = limiter.acquire(request).await.expect("a reservation");
    reservation.sent();
    let mut usage = Usage::default();
    (usage.input_tokens, usage.output_tokens) = (Some(900), Some(80));
    reservation.settle(Settlement::Used { usage });
}

/// Runs calls of so many callers at the same time.
async fn measure<F: Future<Output = ()>>(callers: usize, call: impl Fn() -> F) -> Row {
    let start = Instant::now() + TIME / 10;
    let end = start + TIME;
    let caller = async || {
        let mut times = Vec::new();
        loop {
            let began = Instant::now();
            if began >= end {
                return times;
            }
            call().await;
            if began >= start {
                times.push(began.elapsed());
            }
        }
    };
    let times = join_all((0..callers).map(|_| caller())).await;
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    times.sort_unstable();
    Row {
        median: times[times.len() / 2].as_secs_f64() * 1e6,
        per_second: times.len() as f64 / TIME.as_secs_f64(),
    }
}
