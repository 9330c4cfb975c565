//! The limiter against real servers and their faults.

use std::{
    num::NonZeroU64,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tower_claude_core::{
    Cost, Priority, RejectReason, Scope,
    event::{Event, observer_fn},
};
use tower_claude_limiter::{
    AcquireRequest, Limiter, LimiterConfig, Limits, Pool, Settlement, SharePolicy,
    pool::{MemoryStore, PoolRequest, ReservationId, ShareMessage, WaiterId},
};
#[cfg(feature = "cluster")]
use tower_claude_tests::redis::RedisCluster;
use tower_claude_tests::redis::{Direction, Proxy, RedisSentinels, RedisServer};

use crate::{
    config::RedisConfig,
    error::RedisError,
    limiter::{
        CHECK, RedisLimiter, SharedLimits, StoreState,
        message::{arguments, keys, reply},
    },
    link::{Link, Script},
};

fn n(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).expect("not 0")
}

fn tokens(per_minute: u64, burst: Duration) -> Limits {
    Limits::new()
        .with_input_tokens_per_minute(n(per_minute))
        .with_burst(burst)
}

fn config(url: &str) -> RedisConfig {
    let config = RedisConfig::new(url).expect("a valid URL");
    config.with_deadline(Duration::from_millis(250)) // the machine may be busy
}

async fn connect(config: &RedisConfig, limits: impl Into<SharedLimits>) -> RedisLimiter {
    let (limiter, driver) = RedisLimiter::connect(config, limits)
        .await
        .expect("a connection");
    tokio::spawn(driver);
    limiter
}

fn request(scope: &str, tokens: u64) -> AcquireRequest {
    AcquireRequest::new(Scope::named(scope), Cost::new(tokens, 0))
}

/// A script whose clock is the last two arguments.
fn timed_script() -> &'static Script {
    let source = include_str!("../limiter/share.lua");
    let clock = "local t = call('TIME')";
    assert!(source.contains(clock));
    let source = source.replace(clock, "local t = {ARGV[#ARGV - 1], ARGV[#ARGV]}");
    Box::leak(Box::new(Script::new(String::leak(source))))
}

/// Pools, whose messages go to the script and to the store in memory.
struct Twins {
    link: Link,
    script: &'static Script,
    store: MemoryStore,
    scope: Scope,
}

impl Twins {
    async fn apply(
        &mut self,
        micros: u64,
        process: u64,
        message: &ShareMessage,
    ) -> tower_claude_limiter::pool::ShareReply {
        let keys = keys(self.link.config(), &self.scope);
        let name = process.to_string();
        let mut arguments = arguments(format!("{name}-{}", message.id), &name, message);
        arguments.push((micros / 1_000_000).to_string());
        arguments.push((micros % 1_000_000).to_string());
        let items = self.link.eval(self.script, &keys, &arguments).await;
        let by_script = reply(&items.expect("an answer")).expect("a reply");
        let by_model = self.store.apply(micros, process, message);
        assert_eq!(by_script, by_model, "{message:?} at {micros}");
        by_script
    }
}

#[tokio::test]
async fn script_answers_as_the_store_in_memory() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    for seed in 0..4 {
        let config = config(&server.url());
        let (link, driver) = Link::lazy(&config, &CHECK);
        let driver = tokio::spawn(driver.run());
        let mut rng = fastrand::Rng::with_seed(seed);
        let scope = Scope::named(&format!("twins {seed}"));
        let limits = Limits::new()
            .with_requests_per_minute(n(600))
            .with_input_tokens_per_minute(n(60_000))
            .with_additional(tokens(rng.u64(30_000..90_000), Duration::from_secs(10)))
            .with_burst(Duration::from_secs(rng.u64(1..30)));
        let mut twins = Twins {
            link,
            script: timed_script(),
            store: MemoryStore::new(),
            scope: scope.clone(),
        };
        let policy = SharePolicy::new();
        let mut pools: Vec<_> = (0..4)
            .map(|_| {
                let limits = limits.for_scope(&scope);
                Pool::shared(scope.clone(), &limits, LimiterConfig::new(), &policy, 0)
            })
            .collect();
        let mut flying: Vec<Vec<ReservationId>> = vec![Vec::new(); 4];
        let mut granted: Vec<(WaiterId, ReservationId)> = Vec::new();
        let start = 1_700_000_000_000_000;
        let mut now = 0;
        for _ in 0..1_500 {
            now += rng.u64(0..200_000_000);
            let index = rng.usize(0..4);
            let pool = &mut pools[index];
            match rng.u8(0..10) {
                0..6 => {
                    let priority = rng.choice([Priority::Batch, Priority::Normal]).unwrap();
                    let cost = Cost::new(rng.u64(1..2_000), 0);
                    let request = PoolRequest::new(cost, now)
                        .with_priority(priority)
                        .with_max_wait(rng.bool().then_some(rng.u64(0..5_000_000_000)));
                    if let Ok(tower_claude_limiter::pool::Enqueued::Granted(id)) =
                        pool.enqueue(now, request)
                    {
                        flying[index].push(id);
                    }
                }
                6..9 => {
                    if let Some(id) = flying[index].pop() {
                        let ends = [Settlement::NotSent, Settlement::dropped()];
                        pool.settle(now, id, &rng.choice(ends).unwrap());
                    }
                }
                _ => {
                    if let Some(id) = flying[index].last() {
                        let wait = rng.bool().then_some(Duration::from_secs(1));
                        pool.rate_limited(now, *id, wait, 0.5);
                    }
                }
            }
            loop {
                pool.poll(now, &mut granted);
                flying[index].extend(granted.drain(..).map(|(_, id)| id));
                pool.take_shed();
                let Some(message) = pool.take_message(now) else {
                    break;
                };
                let micros = start + now / 1_000;
                let reply = twins.apply(micros, index as u64, &message).await;
                if rng.u8(0..8) == 0 {
                    // A repetition after a lost answer.
                    twins.apply(micros, index as u64, &message).await;
                }
                pool.on_reply(now, message.id, &reply);
            }
        }
        drop(twins);
        driver.await.expect("the driver ends");
    }
}

/// The use of a limit by several clients.
#[derive(Default)]
struct Consumer {
    admitted: Mutex<Vec<(Instant, u64)>>,
}

impl Consumer {
    /// Returns the most by which any window exceeds the limit, in tokens, and the used share of all
    /// until `end`.
    fn check(&self, per_minute: u64, burst: Duration, start: Instant, end: Instant) -> (f64, f64) {
        let mut admitted = self.admitted.lock().unwrap().clone();
        admitted.sort_by_key(|(at, _)| *at);
        let rate = per_minute as f64 / 60.0;
        let capacity = rate * burst.as_secs_f64();
        let (mut level, mut at, mut lowest, mut sum) = (capacity, start, capacity, 0.0);
        for (time, amount) in admitted.into_iter().filter(|(at, _)| *at <= end) {
            level += rate * (time - at).as_secs_f64();
            level = level.min(capacity) - amount as f64;
            sum += amount as f64;
            at = time;
            lowest = lowest.min(level);
        }
        let all = capacity + rate * (end - start).as_secs_f64();
        ((-lowest).max(0.0), sum / all)
    }
}

/// Lets tasks of each limiter send requests of this size as fast as they are admitted. Returns the
/// requests of each limiter.
async fn run(
    limiters: &[RedisLimiter],
    consumer: &Arc<Consumer>,
    tasks: usize,
    size: impl Fn(usize) -> u64,
    time: Duration,
) -> Vec<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<Vec<AtomicU64>> =
        Arc::new(limiters.iter().map(|_| AtomicU64::new(0)).collect());
    let mut set = JoinSet::new();
    for (index, limiter) in limiters.iter().enumerate() {
        for _ in 0..tasks {
            let (limiter, stop, counts) = (limiter.clone(), stop.clone(), counts.clone());
            let (consumer, size) = (consumer.clone(), size(index));
            set.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let acquired = limiter.acquire(request("load", size)).await;
                    let mut reservation = acquired.expect("admitted");
                    let at = Instant::now();
                    consumer.admitted.lock().unwrap().push((at, size));
                    counts[index].fetch_add(1, Ordering::Relaxed);
                    reservation.sent();
                    reservation.settle(Settlement::dropped());
                    tokio::task::yield_now().await;
                }
            });
        }
    }
    sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let counted = counts
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .collect();
    set.abort_all();
    while set.join_next().await.is_some() {}
    counted
}

/// The result of a load with a fault.
#[derive(Debug)]
struct Report {
    /// The tokens by which any window exceeded the limit.
    over: f64,
    #[expect(dead_code, reason = "printed")]
    used: f64,
    /// The longest time without an admission.
    gap: Duration,
    /// The time from the end of the fault until both clients shared again.
    back: Duration,
    losses: u64,
}

/// Held by each load, since two at once measure each other.
static LOAD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Loads two clients, with a fault after one second. Each client must admit in spite of it, and
/// share again after it.
async fn under_load(name: &str, limiters: &[RedisLimiter], fault: impl AsyncFnOnce()) -> Report {
    let _alone = LOAD.lock().await;
    let (per_minute, burst) = FAULT_LIMIT;
    let consumer = Arc::new(Consumer::default());
    let start = Instant::now();
    let load = {
        let (limiters, consumer) = (limiters.to_vec(), consumer.clone());
        let time = Duration::from_secs(60);
        tokio::spawn(async move { run(&limiters, &consumer, 8, |_| 1, time).await })
    };
    sleep(Duration::from_secs(1)).await;
    fault().await;
    let ended = Instant::now();
    let before: Vec<_> = limiters.iter().map(|it| it.store().answered).collect();
    let mut back = Duration::MAX;
    while ended.elapsed() < Duration::from_secs(10) {
        let shares = limiters.iter().zip(&before).all(|(limiter, before)| {
            let store = limiter.store();
            store.state == StoreState::Shared && store.answered > *before
        });
        if shares {
            back = ended.elapsed();
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let end = Instant::now();
    assert!(!load.is_finished(), "no request was lost");
    load.abort();
    let (over, used) = consumer.check(per_minute, burst, start, end);
    let mut times: Vec<_> = consumer
        .admitted
        .lock()
        .unwrap()
        .iter()
        .map(|it| it.0)
        .collect();
    times.sort();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let report = Report {
        over,
        used,
        gap: gaps.max().unwrap_or_default(),
        back,
        losses: limiters.iter().map(|it| it.store().losses).sum(),
    };
    println!("{name}: {report:?} {:?}", limiters[0].store().failures);
    assert!(report.back <= Duration::from_secs(5), "{name}: {report:?}");
    assert!(report.gap <= Duration::from_secs(1), "{name}: {report:?}");
    report
}

/// The limit under faults: 1,000 requests a second, with a burst of a second.
const FAULT_LIMIT: (u64, Duration) = (60_000, Duration::from_secs(1));

async fn two(url: &str) -> Vec<RedisLimiter> {
    let (per_minute, burst) = FAULT_LIMIT;
    let config = RedisConfig::new(url).expect("a valid URL");
    let limits = || tokens(per_minute, burst);
    vec![
        connect(&config, limits()).await,
        connect(&config, limits()).await,
    ]
}

fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Shares a limit for 20,000 requests, or as many as the environment asks for.
async fn share_a_limit(clients: usize) {
    let _alone = LOAD.lock().await;
    let per_minute = 120_000;
    let requests = std::env::var("REDIS_LIMITER_REQUESTS").ok();
    let requests: u64 = requests.and_then(|it| it.parse().ok()).unwrap_or(20_000);
    let seconds = requests * 60 / per_minute;
    let Some(server) = RedisServer::start() else {
        return;
    };
    let burst = Duration::from_secs(1);
    let limits = tokens(per_minute, burst);
    let mut limiters = Vec::new();
    for _ in 0..clients {
        limiters.push(connect(&config(&server.url()), limits.clone()).await);
    }
    let consumer = Arc::new(Consumer::default());
    let start = Instant::now();
    let time = Duration::from_secs(seconds);
    let counts = run(&limiters, &consumer, 64 / clients + 4, |_| 1, time).await;
    let end = Instant::now();
    let (over, used) = consumer.check(per_minute, burst, start, end);
    let calls = server.calls_of("evalsha") + server.calls_of("eval");
    let requests: u64 = counts.iter().sum();
    let jain = jain(&counts);
    let per_request = calls as f64 / requests as f64;
    let stats = server.command(&["INFO", "commandstats"]);
    let stats = stats.lines().filter(|line| line.contains("evalsha:"));
    println!("{}", stats.collect::<String>());
    println!(
        "{clients} clients: {requests} requests, {over:.1} over, {used:.4} used, Jain {jain:.4}, \
         {per_request:.3} calls per request"
    );
    let status: Vec<_> = limiters.iter().map(RedisLimiter::store).collect();
    assert!(per_request <= 1.0, "{per_request}");
    assert!(status.iter().all(|status| status.losses == 0), "{status:?}");
    // What time refills while an answer is under way.
    assert!(over <= per_minute as f64 / 60.0 * 0.1, "{over}");
    assert!(used >= 0.98, "{used}");
    assert!(jain >= 0.99, "{jain} {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_clients_share_one_limit_equally() {
    share_a_limit(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_clients_share_one_limit_equally() {
    share_a_limit(16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_that_pass_at_once_are_not_noticed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiters = two(&server.url()).await;
    let flush = under_load("SCRIPT FLUSH", &limiters, async || {
        server.command(&["SCRIPT", "FLUSH"]);
    });
    let report = flush.await;
    assert!(report.over <= 100.0, "{report:?}");
    let foreign = under_load("600 foreign scripts", &limiters, async || {
        for number in 0..600 {
            server.command(&["EVAL", &format!("return {number}"), "0"]);
        }
    });
    let report = foreign.await;
    assert!(report.over <= 100.0, "{report:?}");
    let kill = under_load("CLIENT KILL", &limiters, async || {
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    });
    let report = kill.await;
    assert!(report.over <= 300.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_state_begins_with_half_of_the_burst() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiters = two(&server.url()).await;
    let report = under_load("FLUSHALL", &limiters, async || {
        server.command(&["FLUSHALL"]);
    });
    let report = report.await;
    assert!(report.over <= 550.0, "{report:?}");
    let lost: u64 = limiters.iter().map(|it| it.store().states_lost).sum();
    assert!(lost >= 1, "{lost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_server_leaves_the_local_share() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let limiters = two(&server.url()).await;
    let seconds = Duration::from_secs(3);
    let report = under_load("CLIENT PAUSE", &limiters, async || {
        server.command(&["CLIENT", "PAUSE", "3000", "ALL"]);
        sleep(seconds).await;
    });
    let report = report.await;
    assert!(report.losses >= 2 && report.over <= 300.0, "{report:?}");
    let report = under_load("SIGSTOP", &limiters, async || {
        server.freeze();
        sleep(seconds).await;
        server.thaw();
    });
    let report = report.await;
    assert!(report.over <= 300.0, "{report:?}");
    let report = under_load("SIGKILL", &limiters, async || {
        server.kill();
        sleep(seconds).await;
        assert!(
            limiters
                .iter()
                .all(|it| it.store().state == StoreState::LocalShare)
        );
        server.restart();
    });
    let report = report.await;
    assert!(report.over <= 1_100.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_refuses_writes_leaves_the_local_share() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiters = two(&server.url()).await;
    let seconds = Duration::from_secs(2);
    let report = under_load("REPLICAOF", &limiters, async || {
        server.command(&["REPLICAOF", "127.0.0.1", "1"]);
        sleep(seconds).await;
        server.command(&["REPLICAOF", "NO", "ONE"]);
    });
    let report = report.await;
    assert!(report.losses >= 2 && report.over <= 300.0, "{report:?}");
    let report = under_load("OOM", &limiters, async || {
        server.command(&["CONFIG", "SET", "maxmemory", "1"]);
        sleep(seconds).await;
        server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    });
    let report = report.await;
    assert!(report.over <= 300.0, "{report:?}");
    let report = under_load("DEBUG SLEEP", &limiters, async || {
        server.command(&[
            "EVAL",
            "local t = redis.call('TIME')[1] + 2 while redis.call('TIME')[1] + 0 < t do end",
            "0",
        ]);
    });
    let report = report.await;
    assert!(report.over <= 300.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connection_is_replaced() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::start(server.port()).await;
    let limiters = two(&proxy.url()).await;
    let report = under_load("half-open", &limiters, async || {
        proxy.stall(Direction::Responses);
        sleep(Duration::from_secs(3)).await;
        proxy.resume();
    });
    let report = report.await;
    assert!(report.losses >= 2 && report.over <= 300.0, "{report:?}");
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_of_a_cluster_keeps_the_limit() {
    let Some(mut cluster) = RedisCluster::start() else {
        return;
    };
    let urls = cluster.urls();
    let config = RedisConfig::cluster(urls.iter().map(String::as_str)).expect("valid URLs");
    let (per_minute, burst) = FAULT_LIMIT;
    let mut limiters = Vec::new();
    for _ in 0..2 {
        limiters.push(connect(&config, tokens(per_minute, burst)).await);
    }
    let [key, ..] = keys(&config, &Scope::named("load"));
    let key = String::from_utf8(key).expect("text");
    let port = cluster.master_of(&key).port();
    let report = under_load("CLUSTER FAILOVER", &limiters, async || {
        cluster.fail_over(port);
        sleep(Duration::from_secs(2)).await;
    });
    let report = report.await;
    assert!(report.over <= 1_100.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_by_sentinels_keeps_the_limit() {
    let Some(mut sentinels) = RedisSentinels::start() else {
        return;
    };
    let urls = sentinels.urls();
    let config = RedisConfig::sentinel(urls.iter().map(String::as_str), RedisSentinels::MASTER);
    let config = config.expect("valid URLs");
    let (per_minute, burst) = FAULT_LIMIT;
    let mut limiters = Vec::new();
    for _ in 0..2 {
        limiters.push(connect(&config, tokens(per_minute, burst)).await);
    }
    let report = under_load("Sentinel", &limiters, async || {
        sentinels.servers()[0].kill();
        sleep(Duration::from_secs(4)).await;
    });
    let report = report.await;
    assert!(report.losses >= 2 && report.over <= 1_100.0, "{report:?}");
}

#[tokio::test]
async fn limiter_works_before_redis_does() {
    let config = config("unix:///nowhere/at/all");
    let limits = tokens(60_000, Duration::from_secs(60));
    let (limiter, driver) = RedisLimiter::connect_later(&config, limits).expect("a limiter");
    let driver = tokio::spawn(driver);
    for _ in 0..10 {
        let acquired = limiter.acquire(request("early", 1_000));
        let acquired = timeout(Duration::from_secs(5), acquired)
            .await
            .expect("in time");
        acquired.expect("admitted").settle(Settlement::dropped());
    }
    drop(limiter);
    timeout(Duration::from_secs(5), driver)
        .await
        .expect("the driver ends")
        .expect("without a panic");
}

#[tokio::test]
async fn limiter_without_a_driver_uses_the_local_share() {
    let config = config("redis://127.0.0.1:1");
    let limits = tokens(60_000, Duration::from_secs(60));
    let (limiter, driver) =
        RedisLimiter::connect_later(&config, limits.clone()).expect("a limiter");
    let unpolled = timeout(Duration::from_secs(5), limiter.acquire(request("a", 10))).await;
    unpolled
        .expect("in time")
        .expect("admitted")
        .settle(Settlement::NotSent);
    drop(driver);
    let dropped = timeout(Duration::from_secs(5), limiter.acquire(request("b", 10))).await;
    dropped
        .expect("in time")
        .expect("admitted")
        .settle(Settlement::NotSent);
    let closed = SharedLimits::new(limits).fail_closed();
    let (limiter, driver) = RedisLimiter::connect_later(&config, closed).expect("a limiter");
    drop(driver);
    let rejection = limiter
        .acquire(request("a", 10))
        .await
        .expect_err("rejected");
    assert_eq!(rejection.reason, RejectReason::LimiterUnavailable);
}

#[tokio::test]
async fn limiter_without_limits_admits() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = connect(&config(&server.url()), Limits::unlimited()).await;
    for _ in 0..20 {
        let acquired = timeout(Duration::from_secs(5), limiter.acquire(request("free", 10))).await;
        let acquired = acquired.expect("in time").expect("admitted");
        acquired.settle(Settlement::dropped());
    }
    let store = limiter.store();
    assert!(
        store.failures.is_empty() && store.answered >= 20,
        "{store:?}"
    );
}

#[tokio::test]
async fn pause_of_one_client_is_honoured_by_the_other() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limits = tokens(60_000, Duration::from_secs(60));
    let first = connect(&config(&server.url()), limits.clone()).await;
    let second = connect(&config(&server.url()), limits).await;
    let mut reservation = first.acquire(request("pause", 10)).await.expect("admitted");
    reservation.sent();
    reservation.pause(Some(Duration::from_secs(2)), Instant::now());
    let paused = Instant::now();
    reservation.settle(Settlement::Rejected);
    sleep(Duration::from_millis(50)).await;
    let acquired = second
        .acquire(request("pause", 10))
        .await
        .expect("admitted");
    assert!(paused.elapsed() >= Duration::from_millis(1_950));
    acquired.settle(Settlement::NotSent);
}

#[tokio::test]
async fn wrong_type_under_a_key_leaves_that_scope_local() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let limiter = connect(&config, tokens(60_000, Duration::from_secs(60))).await;
    let [key, ..] = keys(&config, &Scope::named("odd"));
    server.command(&["SET", &String::from_utf8(key).expect("text"), "x"]);
    for _ in 0..20 {
        let acquired = timeout(Duration::from_secs(5), limiter.acquire(request("odd", 10))).await;
        acquired
            .expect("in time")
            .expect("admitted")
            .settle(Settlement::dropped());
        let acquired = timeout(Duration::from_secs(5), limiter.acquire(request("even", 10))).await;
        acquired
            .expect("in time")
            .expect("admitted")
            .settle(Settlement::dropped());
    }
    let store = limiter.store();
    assert_eq!(store.state, StoreState::Shared, "{store:?}");
    assert_eq!(store.failures.values().sum::<u64>(), 1, "{store:?}");
}

#[tokio::test]
async fn user_without_rights_is_an_error_at_the_start() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    server.command(&[
        "ACL", "SETUSER", "weak", "on", ">word", "~*", "+@all", "-zadd",
    ]);
    let url = format!("redis://weak:word@127.0.0.1:{}", server.port());
    let result = RedisLimiter::connect(&config(&url), tokens(60, Duration::from_secs(1))).await;
    match result {
        Err(RedisError::MissingRight { right }) => assert!(right.contains("ZADD"), "{right}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a limiter without rights"),
    }
    // Without the right to load scripts, each is sent as a whole.
    server.command(&[
        "ACL", "SETUSER", "plain", "on", ">word", "~*", "+@all", "-script",
    ]);
    let url = format!("redis://plain:word@127.0.0.1:{}", server.port());
    let limiter = connect(&config(&url), tokens(6_000, Duration::from_secs(60))).await;
    let acquired = limiter
        .acquire(request("plain", 1))
        .await
        .expect("admitted");
    acquired.settle(Settlement::NotSent);
    assert_eq!(limiter.store().failures.len(), 0);
}

/// A scope whose script has a clock that tests set.
struct Timed {
    link: Link,
    script: &'static Script,
    scope: Scope,
    limits: Limits,
    asked: u64,
}

impl Timed {
    fn new(config: &RedisConfig, name: &str, limits: &Limits) -> Self {
        let (link, driver) = Link::lazy(config, &CHECK);
        tokio::spawn(driver.run());
        Self {
            link,
            script: timed_script(),
            scope: Scope::named(name),
            limits: limits.clone(),
            asked: 0,
        }
    }

    /// Asks for tokens, as a process that has just begun, at a time of the server in seconds.
    /// Returns true if they are granted at once.
    async fn ask(&mut self, server: u64, tokens: u64) -> bool {
        self.asked += 1;
        let (config, policy) = (LimiterConfig::new(), SharePolicy::new());
        let limits = self.limits.for_scope(&self.scope);
        let mut pool = Pool::shared(self.scope.clone(), &limits, config, &policy, 0);
        let request = PoolRequest::new(Cost::new(tokens, 0), 0).with_max_wait(Some(0));
        pool.enqueue(0, request).expect("asked for");
        let mut granted = Vec::new();
        pool.poll(0, &mut granted);
        while let Some(message) = pool.take_message(0) {
            let keys = keys(self.link.config(), &self.scope);
            let id = format!("{}-{}", self.asked, message.id);
            let mut arguments = arguments(id, "t", &message);
            arguments.extend([server.to_string(), "0".into()]);
            let items = self.link.eval(self.script, &keys, &arguments).await;
            let answer = reply(&items.expect("an answer")).expect("a reply");
            pool.on_reply(0, message.id, &answer);
            pool.poll(0, &mut granted);
        }
        !granted.is_empty()
    }
}

/// A time of the server in seconds: midnight.
const MIDNIGHT: u64 = 1_700_006_400;

#[tokio::test]
async fn clock_that_jumps_neither_stalls_nor_refills_twice() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limits = tokens(60_000, Duration::from_secs(60)); // 1,000 a second
    let mut timed = Timed::new(&config(&server.url()), "clock", &limits);
    let start = MIDNIGHT;
    let all = 60_000 - 60_000 / 64;
    assert!(timed.ask(start, all).await);
    // A small step back neither refills nor loses a refill.
    assert!(!timed.ask(start - 1, 2_000).await);
    assert!(!timed.ask(start, 2_000).await);
    assert!(timed.ask(start + 4, 3_000).await);
    // Back by an hour, as after a failover: nothing is refilled by the jump, and time goes on.
    assert!(!timed.ask(start - 3_600, 3_000).await);
    assert!(timed.ask(start - 3_595, 4_000).await);
    // Ahead by an hour: full once.
    assert!(timed.ask(start + 10, all).await);
    assert!(!timed.ask(start + 11, 3_000).await);
}

#[tokio::test]
async fn day_that_resets_begins_anew_at_its_time() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let day = tower_claude_limiter::Day::ResetsAt {
        seconds_after_midnight_utc: 3_600,
    };
    let limits = Limits::new().with_tokens_per_day(n(1_000)).with_day(day);
    let mut timed = Timed::new(&config(&server.url()), "day", &limits);
    assert!(timed.ask(MIDNIGHT, 600).await);
    assert!(!timed.ask(MIDNIGHT + 1, 600).await);
    assert!(timed.ask(MIDNIGHT + 2, 400).await);
    assert!(!timed.ask(MIDNIGHT + 3_599, 1).await);
    assert!(timed.ask(MIDNIGHT + 3_601, 1_000).await);
    assert!(!timed.ask(MIDNIGHT + 3_700, 1).await);
}

#[tokio::test]
async fn rolling_day_forgets_usage_after_a_day() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limits = Limits::new().with_tokens_per_day(n(1_000));
    let mut timed = Timed::new(&config(&server.url()), "rolling", &limits);
    assert!(timed.ask(MIDNIGHT, 600).await);
    assert!(timed.ask(MIDNIGHT + 43_200, 400).await);
    assert!(!timed.ask(MIDNIGHT + 86_000, 1).await);
    // The first quarter of an hour is a day old.
    assert!(timed.ask(MIDNIGHT + 86_400 + 901, 600).await);
    assert!(!timed.ask(MIDNIGHT + 86_400 + 902, 1).await);
    assert!(timed.ask(MIDNIGHT + 86_400 + 43_200 + 901, 400).await);
}

#[tokio::test]
async fn request_of_an_idle_client_takes_two_round_trips_at_most() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limits = tokens(6_000_000, Duration::from_secs(60));
    let limiter = connect(&config(&server.url()), limits).await;
    let calls = || server.calls_of("evalsha") + server.calls_of("eval");
    let before = calls();
    for _ in 0..100 {
        let acquired = limiter.acquire(request("idle", 10)).await;
        let mut reservation = acquired.expect("admitted");
        reservation.sent();
        reservation.settle(Settlement::Rejected); // a correction
    }
    sleep(Duration::from_millis(50)).await;
    let used = calls() - before;
    assert!(used <= 205, "{used}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_crash_and_cancel_exceed_no_limit() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (per_minute, burst) = (60_000, Duration::from_secs(1));
    let consumer = Arc::new(Consumer::default());
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for seed in 0..6 {
        let (consumer, config) = (consumer.clone(), config(&server.url()));
        clients.spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            while start.elapsed() < Duration::from_secs(5) {
                let (limiter, driver) = RedisLimiter::connect(&config, tokens(per_minute, burst))
                    .await
                    .expect("a connection");
                let driver = tokio::spawn(driver);
                for _ in 0..rng.u32(1..400) {
                    let size = rng.u64(1..20);
                    let acquire = limiter.acquire(request("load", size));
                    let patience = Duration::from_millis(rng.u64(1..200));
                    let Ok(Ok(mut reservation)) = timeout(patience, acquire).await else {
                        continue;
                    };
                    if rng.u8(0..4) > 0 {
                        let now = Instant::now();
                        consumer.admitted.lock().unwrap().push((now, size));
                        reservation.sent();
                    }
                    drop(reservation);
                }
                if rng.bool() {
                    driver.abort(); // with all that is under way
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no panic");
    }
    let (over, used) = consumer.check(per_minute, burst, start, Instant::now());
    println!("crashing clients: {over:.1} over, {used:.3} used");
    // A client whose driver has crashed uses its local share of the burst.
    assert!(over <= 1_000.0, "{over}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_is_reported_once_however_many_requests_it_meets() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let events = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let events = events.clone();
        observer_fn(move |event| match event {
            Event::StoreLost { because, .. } => events.lock().unwrap().push(*because),
            Event::StoreRegained { .. } => events.lock().unwrap().push("regained"),
            _ => {}
        })
    };
    let limits = SharedLimits::new(tokens(60_000, Duration::from_secs(1))).with_observer(observer);
    let limiter = connect(&config(&server.url()), limits).await;
    let consumer = Arc::new(Consumer::default());
    let load = {
        let (limiter, consumer) = (limiter.clone(), consumer.clone());
        let time = Duration::from_secs(30);
        tokio::spawn(async move { run(&[limiter], &consumer, 16, |_| 1, time).await })
    };
    sleep(Duration::from_millis(500)).await;
    server.kill();
    sleep(Duration::from_secs(4)).await;
    server.restart();
    let back = async {
        while limiter.store().state != StoreState::Shared {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), back)
        .await
        .expect("it is back");
    load.abort();
    let requests = consumer.admitted.lock().unwrap().len();
    assert!(requests > 2_000, "{requests}");
    assert_eq!(*events.lock().unwrap(), ["unreachable", "regained"]);
}

#[tokio::test]
async fn extreme_limits_are_answered_by_the_script() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let bursts = [0, 60, 86_400 * 365].map(Duration::from_secs);
    for (number, limit) in [1, 1 << 40, u64::MAX / 2, u64::MAX].into_iter().enumerate() {
        for burst in bursts {
            let limits = tokens(limit, burst).with_tokens_per_day(n(limit));
            let limiter = connect(&config, limits).await;
            let scope = format!("extreme {number} {burst:?}");
            for size in [0, 1, limit] {
                let request = request(&scope, size).with_max_wait(Some(Duration::from_millis(1)));
                // Admitted or rejected, but answered.
                let _ = timeout(Duration::from_secs(5), limiter.acquire(request))
                    .await
                    .expect("an end");
            }
            let store = limiter.store();
            assert!(
                store.answered > 0 && store.failures.is_empty(),
                "{limit} {burst:?}: {store:?}"
            );
        }
    }
}
