//! The limiter against real servers.

mod faults;
mod load;
mod script;
mod sharing;

use std::{num::NonZeroU64, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tower_claude_core::{Cost, RejectReason, Scope};
use tower_claude_limiter::{AcquireRequest, Limiter, Limits, Settlement};
use tower_claude_tests::redis::RedisServer;

use crate::{
    config::RedisConfig,
    error::RedisError,
    limiter::{RedisLimiter, SharedLimits, StoreState, message::keys},
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
