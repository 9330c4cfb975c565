//! Processes and clients that share one limit.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tower_claude_core::Scope;
use tower_claude_limiter::{Limiter, Settlement};
use tower_claude_tests::redis::RedisServer;
use tower_claude_wire::Usage;

use crate::{
    limiter::{RedisLimiter, message::keys},
    tests::limiter::{
        config, connect,
        load::{Admitted, Consumer, LOAD, run},
        request, tokens,
    },
};

/// The limit of processes: 2,000 requests a second, with a burst of a second.
const PER_MINUTE: u64 = 120_000;
const BURST: Duration = Duration::from_secs(1);

/// Reads a number of the environment.
fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok().and_then(|it| it.parse().ok());
    value.unwrap_or(default)
}

fn jain(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// One of the processes that share a limit: this test, run by another test. Without a URL in the
/// environment it does nothing.
#[test]
#[ignore = "a process of other tests"]
fn process() {
    let Ok(url) = std::env::var("REDIS_LIMITER_URL") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let limiter = connect(&config(&url), tokens(PER_MINUTE, BURST)).await;
        println!("\n@ready");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("a line");
        let mut words = line
            .split_whitespace()
            .map(|it| it.parse().expect("a number"));
        let [tasks, seconds] = std::array::from_fn(|_| words.next().expect("two numbers"));
        let consumer = Arc::new(Consumer::default());
        let (wall, start) = (SystemTime::now(), Instant::now());
        let wall = wall.duration_since(SystemTime::UNIX_EPOCH).expect("later");
        let (tasks, time) = (tasks as usize, Duration::from_secs(seconds));
        run(std::slice::from_ref(&limiter), &consumer, tasks, None, time).await;
        for admitted in consumer.sorted() {
            println!("@{}", (wall + (admitted.at - start)).as_nanos());
        }
        println!("@losses {}", limiter.store().losses);
    });
}

/// A process that runs [`process`].
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(url: &str) -> Self {
        let program = std::env::current_exe().expect("the path of the test");
        let mut child = Command::new(program)
            .args(["--exact", "tests::limiter::sharing::process"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env("REDIS_LIMITER_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut process = Self { child, output };
        assert_eq!(process.next().as_deref(), Some("ready"));
        process
    }

    fn begin(&mut self, tasks: usize, seconds: u64) {
        let input = self.child.stdin.as_mut().expect("its input");
        writeln!(input, "{tasks} {seconds}").expect("it reads");
    }

    /// Reads the next line of the process.
    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).expect("text") > 0 {
            if let Some(text) = line.trim_end().strip_prefix('@') {
                return Some(text.to_owned());
            }
            line.clear();
        }
        None
    }

    /// Reads the times of all admissions, and the number of losses of Redis.
    fn end(mut self) -> (Vec<u64>, u64) {
        let mut times = Vec::new();
        while let Some(line) = self.next() {
            if let Some(losses) = line.strip_prefix("losses ") {
                let losses = losses.parse().expect("a number");
                assert!(self.child.wait().expect("it ends").success());
                return (times, losses);
            }
            times.push(line.parse().expect("a time"));
        }
        panic!("the process ended early");
    }
}

/// Lets processes share a limit for 20,000 requests, or as many as the environment asks for.
async fn share_a_limit(processes: usize) {
    let _alone = LOAD.lock().await;
    let Some(server) = RedisServer::start() else {
        return;
    };
    let seconds = number("REDIS_LIMITER_REQUESTS", 20_000) * 60 / PER_MINUTE;
    let ended = tokio::task::spawn_blocking({
        let url = server.url();
        move || {
            let mut running: Vec<_> = (0..processes).map(|_| Process::start(&url)).collect();
            for process in &mut running {
                process.begin(64 / processes + 4, seconds);
            }
            running.into_iter().map(Process::end).collect::<Vec<_>>()
        }
    });
    let ended = ended.await.expect("no panic");
    let first = ended.iter().filter_map(|(times, _)| times.first()).min();
    let first = *first.expect("an admission");
    let (start, consumer) = (Instant::now(), Consumer::default());
    let end = start + Duration::from_secs(seconds);
    for nanos in ended.iter().flat_map(|(times, _)| times) {
        let at = start + Duration::from_nanos(nanos - first);
        let (tokens, wait) = (1, Duration::ZERO);
        consumer
            .0
            .lock()
            .unwrap()
            .push(Admitted { at, tokens, wait });
    }
    let (over, used) = consumer.check(PER_MINUTE, BURST, start, end);
    let counts: Vec<_> = ended.iter().map(|(times, _)| times.len()).collect();
    let losses: u64 = ended.iter().map(|(_, losses)| losses).sum();
    let calls = server.calls_of("evalsha") + server.calls_of("eval");
    let requests: usize = counts.iter().sum();
    let jain = jain(&counts);
    let per_request = calls as f64 / requests as f64;
    println!(
        "{processes} processes: {requests} requests, {over:.1} over, {used:.4} used, Jain {jain:.4}, \
         {per_request:.3} calls per request, {losses} losses"
    );
    assert!(per_request <= 1.0, "{per_request}");
    assert_eq!(losses, 0);
    // What time refills while an answer is under way.
    assert!(over <= PER_MINUTE as f64 / 60.0 * 0.1, "{over}");
    assert!(used >= 0.98, "{used}");
    assert!(jain >= 0.99, "{jain} {counts:?}");
}

#[tokio::test]
async fn four_processes_share_one_limit_equally() {
    share_a_limit(4).await;
}

#[tokio::test]
async fn sixteen_processes_share_one_limit_equally() {
    share_a_limit(16).await;
}

/// Six clients of one limit, each of which is replaced or crashes some three times. Their tasks
/// cancel, try again, send nothing, and use less than was estimated, which they report late. A
/// crash costs the block of the client, so that a short run uses less. It takes 5 s for 5,000
/// requests, and 250 s for the million that the environment may ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_crash_and_cancel_exceed_no_limit() {
    let _alone = LOAD.lock().await;
    let Some(server) = RedisServer::start() else {
        return;
    };
    let requests = number("REDIS_LIMITER_ACQUIRES", 5_000);
    let seconds = 5.max(requests / 4_000);
    // Requests have 1.5 tokens.
    let per_minute = 60 * requests * 3 / 2 / seconds;
    let burst = Duration::from_secs(1);
    let time = Duration::from_secs(seconds);
    let end = Instant::now() + time;
    let consumer = Arc::new(Consumer::default());
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for seed in 0..6 {
        let (consumer, config) = (consumer.clone(), config(&server.url()));
        clients.spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut crashes = 0;
            while Instant::now() < end {
                let (limiter, driver) = RedisLimiter::connect(&config, tokens(per_minute, burst))
                    .await
                    .expect("a connection");
                let driver = tokio::spawn(driver);
                let end = end.min(Instant::now() + time.mul_f64(0.2 + rng.f64() * 0.3));
                let mut tasks = JoinSet::new();
                for _ in 0..8 {
                    let (limiter, consumer, rng) = (limiter.clone(), consumer.clone(), rng.fork());
                    tasks.spawn(send(limiter, consumer, rng, end));
                }
                if rng.bool() {
                    while tasks.join_next().await.is_some() {}
                } else {
                    tasks.join_next().await;
                    crashes += 1;
                    driver.abort(); // with all that is under way
                    tasks.shutdown().await;
                }
            }
            crashes
        });
    }
    let mut crashes = 0;
    while let Some(ended) = clients.join_next().await {
        crashes += ended.expect("no panic");
    }
    let (over, used) = consumer.check(per_minute, burst, start, end);
    let requests = consumer.0.lock().unwrap().len();
    println!("{requests} requests, {crashes} crashes: {over:.1} over, {used:.4} used");
    // What time refills while an answer is under way.
    let rate = per_minute as f64 / 60.0;
    assert!(over <= rate * 0.1, "{over}");
    let least = if seconds > 60 { 0.98 } else { 0.8 };
    assert!(used >= least, "{used}");
    // Messages are remembered for 10 s.
    let [_, applied, _] = keys(&config(&server.url()), &Scope::named("load"));
    let applied = String::from_utf8(applied).expect("text");
    let time = server.command(&["TIME"]);
    let second: u64 = time
        .lines()
        .next()
        .and_then(|it| it.parse().ok())
        .expect("a time");
    let ended = (2 * second * 1_000_000).to_string();
    let ended = server.command(&["ZCOUNT", &applied, "-inf", &ended]);
    assert!(
        ended.trim().parse::<u64>().expect("a number") <= 256,
        "{ended}"
    );
    // Nothing stays charged, and no key stays.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let config = config(&server.url());
    let limiter = connect(&config, tokens(per_minute, burst)).await;
    let all = limiter.acquire(request("load", per_minute / 60 * 63 / 64));
    let all = timeout(Duration::from_millis(250), all).await;
    all.expect("at once")
        .expect("admitted")
        .settle(Settlement::dropped());
    for key in server.command(&["KEYS", "*"]).lines() {
        let left: i64 = server
            .command(&["PTTL", key])
            .trim()
            .parse()
            .expect("a number");
        assert!((1..=660_000).contains(&left), "{key}: {left}");
    }
}

/// Sends requests of a client.
async fn send(
    limiter: RedisLimiter,
    consumer: Arc<Consumer>,
    mut rng: fastrand::Rng,
    end: Instant,
) {
    let mut late = Vec::new();
    loop {
        let estimate = rng.u64(1..=3);
        let used = rng.u64(1..=estimate);
        let since = Instant::now();
        if since >= end {
            break;
        }
        let patience = Duration::from_millis(rng.u64(1..200));
        let acquire = timeout(patience, limiter.acquire(request("load", estimate)));
        let Ok(Ok(mut reservation)) = acquire.await else {
            continue;
        };
        if rng.u8(0..8) == 0 {
            let unsent = rng.bool().then_some(reservation);
            unsent
                .into_iter()
                .for_each(|it| it.settle(Settlement::NotSent));
            continue;
        }
        consumer.record(since, used);
        reservation.sent();
        late.push((reservation, used));
        if late.len() > 8 || rng.bool() {
            let (reservation, tokens) = late.swap_remove(rng.usize(0..late.len()));
            let mut usage = Usage::default();
            usage.input_tokens = Some(tokens);
            reservation.settle(Settlement::Used { usage });
        }
    }
}
