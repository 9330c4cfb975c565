//! The script of the limiter, with a clock that tests set.

use std::time::Duration;

use tower_claude_core::{Cost, Priority, Scope};
use tower_claude_limiter::{
    LimiterConfig, Limits, Pool, Settlement, SharePolicy,
    pool::{Enqueued, MemoryStore, PoolRequest, ReservationId, ShareMessage, ShareReply, WaiterId},
};
use tower_claude_tests::redis::RedisServer;

use crate::{
    config::RedisConfig,
    limiter::{
        CHECK,
        message::{arguments, keys, reply},
    },
    link::{Link, Script},
    tests::limiter::{config, n, tokens},
};

/// A script whose clock is the last two arguments.
fn timed_script() -> &'static Script {
    let source = include_str!("../../limiter/share.lua");
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
    async fn apply(&mut self, micros: u64, process: u64, message: &ShareMessage) -> ShareReply {
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
                    if let Ok(Enqueued::Granted(id)) = pool.enqueue(now, request) {
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
    // Ahead by a second and back: a second is refilled once.
    assert!(timed.ask(start - 3_594, 2_900).await);
    assert!(!timed.ask(start - 3_595, 1_000).await);
    assert!(!timed.ask(start - 3_594, 1_000).await);
    assert!(timed.ask(start - 3_593, 1_000).await);
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
