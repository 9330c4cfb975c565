//! Faults of the server under load.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tower_claude_core::{
    Scope,
    event::{Event, observer_fn},
};
#[cfg(feature = "cluster")]
use tower_claude_tests::redis::RedisCluster;
#[cfg(feature = "tls")]
use tower_claude_tests::redis::RedisTls;
use tower_claude_tests::{
    LogLines,
    redis::{Direction, Proxy, RedisSentinels, RedisServer},
};

use crate::{
    config::RedisConfig,
    limiter::{SharedLimits, StoreState, message::keys},
    tests::limiter::{
        config, connect,
        load::{Consumer, run, two, under_load},
        tokens,
    },
};

/// The tokens by which a limit of 1,000 may be exceeded. The rules promise half a bucket after a
/// lost state and nothing else. The rest is for a machine that stops this test.
const SMALL: f64 = 100.0;
const OUTAGE: f64 = 300.0;
const STATE_LOST: f64 = 550.0;

fn plain(url: &str) -> RedisConfig {
    RedisConfig::new(url).expect("a valid URL")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_that_pass_at_once_are_not_noticed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiters = two(&plain(&server.url())).await;
    let report = under_load("SCRIPT FLUSH", &limiters, SMALL, async || {
        server.command(&["SCRIPT", "FLUSH"]);
    });
    report.await;
    let report = under_load("600 foreign scripts", &limiters, SMALL, async || {
        for number in 0..600 {
            server.command(&["EVAL", &format!("return {number}"), "0"]);
        }
    });
    report.await;
    let report = under_load("CLIENT KILL", &limiters, OUTAGE, async || {
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    });
    report.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_state_begins_with_half_of_the_burst() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiters = two(&plain(&server.url())).await;
    let report = under_load("FLUSHALL", &limiters, STATE_LOST, async || {
        server.command(&["FLUSHALL"]);
    });
    report.await;
    let lost: u64 = limiters.iter().map(|it| it.store().states_lost).sum();
    assert!(lost >= 1, "{lost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_server_leaves_the_local_share() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let limiters = two(&plain(&server.url())).await;
    let seconds = Duration::from_secs(3);
    let report = under_load("CLIENT PAUSE", &limiters, OUTAGE, async || {
        server.command(&["CLIENT", "PAUSE", "3000", "ALL"]);
        sleep(seconds).await;
    });
    assert!(report.await.losses >= 2);
    let report = under_load("SIGSTOP", &limiters, OUTAGE, async || {
        server.freeze();
        sleep(seconds).await;
        server.thaw();
    });
    report.await;
    let report = under_load("SIGKILL", &limiters, STATE_LOST, async || {
        server.kill();
        sleep(seconds).await;
        assert!(
            limiters
                .iter()
                .all(|it| it.store().state == StoreState::LocalShare)
        );
        server.restart();
    });
    report.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_refuses_writes_leaves_the_local_share() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiters = two(&plain(&server.url())).await;
    let seconds = Duration::from_secs(2);
    let report = under_load("REPLICAOF", &limiters, OUTAGE, async || {
        server.command(&["REPLICAOF", "127.0.0.1", "1"]);
        sleep(seconds).await;
        server.command(&["REPLICAOF", "NO", "ONE"]);
    });
    assert!(report.await.losses >= 2);
    let report = under_load("OOM", &limiters, OUTAGE, async || {
        server.command(&["CONFIG", "SET", "maxmemory", "1"]);
        sleep(seconds).await;
        server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    });
    report.await;
    let report = under_load("DEBUG SLEEP", &limiters, OUTAGE, async || {
        server.command(&[
            "EVAL",
            "local t = redis.call('TIME')[1] + 2 while redis.call('TIME')[1] + 0 < t do end",
            "0",
        ]);
    });
    report.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_right_and_wrong_type_leave_the_local_share() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = plain(&server.url());
    let limiters = two(&config).await;
    let report = under_load("ACL", &limiters, OUTAGE, async || {
        server.command(&["ACL", "SETUSER", "default", "-hset"]);
        sleep(Duration::from_secs(2)).await;
        server.command(&["ACL", "SETUSER", "default", "+hset"]);
    });
    report.await;
    let [key, ..] = keys(&config, &Scope::named("load"));
    let key = String::from_utf8(key).expect("text");
    let report = under_load("wrong type", &limiters, OUTAGE, async || {
        server.command(&["DEL", &key]);
        server.command(&["LPUSH", &key, "x"]);
        sleep(Duration::from_secs(2)).await;
        server.command(&["DEL", &key]);
    });
    report.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connection_is_replaced() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::start(server.port()).await;
    let limiters = two(&plain(&proxy.url())).await;
    let report = under_load("half-open", &limiters, OUTAGE, async || {
        proxy.stall(Direction::Responses);
        sleep(Duration::from_secs(3)).await;
        proxy.resume();
    });
    assert!(report.await.losses >= 2);
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_of_a_cluster_keeps_the_limit() {
    let Some(mut cluster) = RedisCluster::start() else {
        return;
    };
    let urls = cluster.urls();
    let config = RedisConfig::cluster(urls.iter().map(String::as_str)).expect("valid URLs");
    let limiters = two(&config).await;
    let [key, ..] = keys(&config, &Scope::named("load"));
    let key = String::from_utf8(key).expect("text");
    let port = cluster.master_of(&key).port();
    let report = under_load("CLUSTER FAILOVER", &limiters, STATE_LOST, async || {
        cluster.fail_over(port);
        sleep(Duration::from_secs(2)).await;
    });
    report.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_by_sentinels_keeps_the_limit() {
    let Some(mut sentinels) = RedisSentinels::start() else {
        return;
    };
    let urls = sentinels.urls();
    let config = RedisConfig::sentinel(urls.iter().map(String::as_str), RedisSentinels::MASTER);
    let config = config.expect("valid URLs");
    let limiters = two(&config).await;
    let report = under_load("Sentinel", &limiters, STATE_LOST, async || {
        let old = sentinels.servers()[0].port();
        sentinels.servers()[0].kill();
        sleep(Duration::from_secs(4)).await;
        // The time of the sentinels themselves depends on the machine.
        for _ in 0..200 {
            if sentinels.master_port().is_some_and(|port| port != old) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("no sentinel has promoted the replica");
    });
    assert!(report.await.losses >= 2);
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_of_a_tls_server_leaves_the_local_share() {
    let Some(mut tls) = RedisTls::start() else {
        return;
    };
    let pem = std::fs::read(tls.certificate()).expect("a certificate");
    let config = plain(&tls.url()).with_root_certificate(pem);
    let limiters = two(&config).await;
    let report = under_load("TLS, CLIENT KILL", &limiters, OUTAGE, async || {
        tls.server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    });
    report.await;
    let report = under_load("TLS, SIGKILL", &limiters, STATE_LOST, async || {
        tls.server.kill();
        sleep(Duration::from_secs(2)).await;
        tls.server.restart();
    });
    assert!(report.await.losses >= 2);
}

/// An outage under 1,000 requests a second, for 4 s or the seconds of `REDIS_LIMITER_OUTAGE`.
#[tokio::test]
async fn outage_is_reported_once_however_many_requests_it_meets() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let (lines, _guard) = LogLines::start(tracing::Level::DEBUG);
    let events = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let events = events.clone();
        observer_fn(move |event| match event {
            Event::StoreLost { because, .. } => events.lock().unwrap().push(*because),
            Event::StoreRegained { .. } => events.lock().unwrap().push("regained"),
            _ => {}
        })
    };
    let limits = tokens(90_000, Duration::from_secs(1));
    let limits = SharedLimits::new(limits).with_observer(observer);
    let limiter = connect(&config(&server.url()), limits).await;
    let consumer = Arc::new(Consumer::default());
    let load = {
        let (limiter, consumer) = (limiter.clone(), consumer.clone());
        let (pace, time) = (Duration::from_millis(16), Duration::from_secs(600));
        tokio::spawn(async move { run(&[limiter], &consumer, 16, Some(pace), time).await })
    };
    sleep(Duration::from_millis(500)).await;
    let _ = lines.take();
    let seconds = std::env::var("REDIS_LIMITER_OUTAGE").ok();
    let seconds = seconds.and_then(|it| it.parse().ok()).unwrap_or(4);
    let begun = Instant::now();
    server.kill();
    sleep(Duration::from_secs(seconds)).await;
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
    let admitted = consumer.sorted();
    let requests = admitted.iter().filter(|it| it.at >= begun).count();
    let lines = lines.take();
    println!(
        "{seconds} s, {requests} requests: {} lines {lines:#?}",
        lines.len()
    );
    assert!(requests as u64 > 500 * seconds, "{requests}");
    assert_eq!(*events.lock().unwrap(), ["unreachable", "regained"]);
    assert!((2..=10).contains(&lines.len()), "{lines:?}");
}
