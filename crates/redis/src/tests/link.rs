//! The connection against real servers and their faults.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
#[cfg(feature = "cluster")]
use tower_claude_tests::redis::RedisCluster;
#[cfg(feature = "tls")]
use tower_claude_tests::redis::RedisTls;
use tower_claude_tests::redis::{Direction, Proxy, RedisSentinels, RedisServer};

use crate::{
    config::RedisConfig,
    error::RedisError,
    link::{Item, Link, Script},
};

static CHECK: Script = Script::new(
    "for _, command in ipairs({{'SET', KEYS[1], '1', 'PX', '1000'}, {'HSET', KEYS[1], 'a', '1'}}) do
       local reply = redis.pcall(unpack(command))
       if type(reply) == 'table' and reply['err'] and not string.find(reply['err'], 'WRONGTYPE') then
         return {command[1], reply['err']}
       end
     end
     return {}",
);
static ADD: Script = Script::new("return {redis.call('INCRBY', KEYS[1], ARGV[1]), false, 'text'}");
static TEN_SECONDS: Duration = Duration::from_secs(10);

fn config(url: &str) -> RedisConfig {
    let config = RedisConfig::new(url).expect("a valid URL");
    config.with_deadline(Duration::from_millis(250)) // the machine may be busy
}

/// Opens a link and spawns its driver.
async fn open(config: &RedisConfig) -> Link {
    let (link, driver) = Link::open(config, &CHECK).await.expect("a connection");
    tokio::spawn(driver.run());
    link
}

async fn refusal(config: &RedisConfig) -> RedisError {
    match Link::open(config, &CHECK).await {
        Ok(_) => panic!("the server is usable"),
        Err(error) => error,
    }
}

/// Returns the number of connections that the server has accepted.
fn received(server: &RedisServer) -> u32 {
    let stats = server.command(&["INFO", "stats"]);
    let mut lines = stats.lines();
    let count = lines.find_map(|line| line.strip_prefix("total_connections_received:"));
    count
        .and_then(|count| count.trim().parse().ok())
        .expect("a count")
}

async fn add(link: &Link, key: &str) -> Result<i64, RedisError> {
    let items = link.eval(&ADD, &[key], &["1"]).await?;
    match items[..] {
        [Item::Int(sum), Item::Nil, Item::Text(_)] => Ok(sum),
        _ => panic!("{items:?}"),
    }
}

/// Calls until one succeeds. Returns the errors before it.
async fn errors_until_success(link: &Link, key: &str) -> Vec<RedisError> {
    let mut errors = Vec::new();
    let started = Instant::now();
    loop {
        match add(link, key).await {
            Ok(_) => return errors,
            Err(error) => errors.push(error),
        }
        assert!(started.elapsed() < TEN_SECONDS, "{:?}", errors.last());
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn script_is_sent_by_hash_and_in_full_once_it_is_unknown() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let link = open(&config(&server.url())).await;
    for sum in 1..=3 {
        assert_eq!(add(&link, "k").await, Ok(sum));
    }
    server.command(&["SCRIPT", "FLUSH"]);
    for sum in 4..=6 {
        assert_eq!(add(&link, "k").await, Ok(sum));
    }
    assert_eq!(server.calls_of("evalsha"), 6);
    assert_eq!(server.calls_of("eval"), 2 + 1, "two unknown, one check");
}

#[tokio::test]
async fn six_hundred_foreign_scripts_do_not_matter() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let link = open(&config(&server.url())).await;
    assert_eq!(add(&link, "k").await, Ok(1));
    let mut scripts = redis::pipe();
    for number in 0..600 {
        let script = format!("return {number}");
        scripts.cmd("EVAL").arg(script).arg(0).ignore();
    }
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut connection = client.get_connection().expect("a connection");
    scripts.query::<()>(&mut connection).expect("run");
    assert_eq!(add(&link, "k").await, Ok(2));
}

#[tokio::test]
async fn values_are_set_read_and_removed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let link = open(&config(&server.url())).await;
    let minute = Duration::from_secs(60);
    assert_eq!(link.get(b"k").await, Ok(None));
    assert_eq!(link.set_px(b"k", b"one", minute).await, Ok(()));
    assert_eq!(link.get(b"k").await, Ok(Some(b"one".to_vec())));
    assert_eq!(link.set_px(b"k", b"\0\xff", Duration::MAX).await, Ok(()));
    assert_eq!(link.get(b"k").await, Ok(Some(b"\0\xff".to_vec())));
    assert_eq!(link.del(b"k").await, Ok(()));
    assert_eq!(link.get(b"k").await, Ok(None));
}

#[tokio::test]
async fn server_that_cannot_be_used_is_named_with_what_is_missing() {
    let Some(mut server) = RedisServer::start_with(&["--requirepass", "right"]) else {
        return;
    };
    let auth =
        |words: &[&str]| server.command(&[&["-a", "right", "--no-auth-warning"], words].concat());
    let port = server.port();
    let url = |login: &str| config(&format!("redis://{login}127.0.0.1:{port}"));
    let server_name = format!("127.0.0.1:{port}");
    let wrong = |user: &str| RedisError::WrongPassword {
        server: server_name.clone(),
        user: user.into(),
    };
    assert_eq!(refusal(&url("")).await, wrong("default"));
    assert_eq!(refusal(&url(":secret@")).await, wrong("default"));
    assert_eq!(refusal(&url("ann:secret@")).await, wrong("ann"));
    assert!(
        !refusal(&url("ann:secret@"))
            .await
            .to_string()
            .contains("secret")
    );
    drop(open(&url("").with_login("", "right")).await);
    drop(open(&url("nobody:wrong@").with_login("default", "right")).await);

    let right = |right: &str| RedisError::MissingRight {
        right: right.into(),
    };
    auth(&[
        "ACL", "SETUSER", "ann", "on", ">pass", "~*", "+@all", "-eval", "-evalsha",
    ]);
    assert_eq!(refusal(&url("ann:pass@")).await, right("EVAL"));
    auth(&["ACL", "SETUSER", "ann", "+eval", "+evalsha", "-hset"]);
    assert_eq!(refusal(&url("ann:pass@")).await, right("HSET"));
    auth(&["ACL", "SETUSER", "ann", "resetkeys", "~other:*", "+hset"]);
    assert_eq!(
        refusal(&url("ann:pass@")).await,
        right("EVAL on `tc1:{}:check`")
    );
    auth(&["ACL", "SETUSER", "ann", "~tc1:*", "~k*", "-script"]);
    let link = open(&url("ann:pass@")).await;
    assert_eq!(add(&link, "k").await, Ok(1));
    auth(&["ACL", "SETUSER", "ann", "-incrby"]);
    let error = add(&link, "k").await.expect_err("no right");
    assert!(matches!(error, RedisError::MissingRight { .. }), "{error}");

    server.kill();
    let error = refusal(&url("")).await;
    assert!(
        matches!(&error, RedisError::Unreachable { server, .. } if *server == server_name),
        "{error}"
    );
    let error = refusal(&config("unix:///no/such/socket")).await;
    assert!(error.to_string().contains("/no/such/socket"), "{error}");
}

#[tokio::test]
async fn failures_of_a_running_server_have_their_own_errors() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let link = open(&config(&server.url())).await;
    server.command(&["LPUSH", "list", "1"]);
    let wrong_type = RedisError::WrongType { key: "list".into() };
    assert_eq!(add(&link, "list").await, Err(wrong_type.clone()));
    assert_eq!(link.get(b"list").await, Err(wrong_type));
    static WRONG: Script = Script::new("return nonsense.field");
    let error = link
        .eval(&WRONG, &["k"], &[""; 0])
        .await
        .expect_err("an error");
    assert!(
        matches!(error, RedisError::ScriptFailed { .. }),
        "{error:?}"
    );
    static NESTED: Script = Script::new("return {{1}}");
    let error = link
        .eval(&NESTED, &["k"], &[""; 0])
        .await
        .expect_err("an error");
    assert!(matches!(error, RedisError::Other { .. }), "{error:?}");

    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(add(&link, "k").await, Err(RedisError::OutOfMemory));
    assert_eq!(
        link.set_px(b"k", b"", TEN_SECONDS).await,
        Err(RedisError::OutOfMemory)
    );
    assert_eq!(
        refusal(&config(&server.url())).await,
        RedisError::OutOfMemory
    );
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(add(&link, "k").await, Ok(1));
}

#[tokio::test]
async fn server_blocked_by_a_script_is_busy() {
    let Some(server) = RedisServer::start_with(&["--busy-reply-threshold", "10"]) else {
        return;
    };
    let server = Arc::new(server);
    let link = open(&config(&server.url())).await;
    let blocked = server.clone();
    let script = std::thread::spawn(move || blocked.command(&["EVAL", "while true do end", "0"]));
    let mut seen = Vec::new();
    while !seen.contains(&RedisError::Busy) {
        seen.extend(add(&link, "k").await.err());
        assert!(seen.len() < 10_000);
        sleep(Duration::from_millis(1)).await;
    }
    server.command(&["SCRIPT", "KILL"]);
    script.join().expect("the script ends");
    errors_until_success(&link, "k").await;
}

#[tokio::test]
async fn server_without_the_newer_protocol_is_used_with_the_older_one() {
    let Some(server) = RedisServer::start_with(&["--rename-command", "HELLO", ""]) else {
        return;
    };
    let link = open(&config(&server.url())).await;
    assert_eq!(add(&link, "k").await, Ok(1));
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let errors = errors_until_success(&link, "k").await;
    assert!(errors.len() <= 1, "{errors:?}");
}

#[tokio::test]
async fn calls_that_time_out_together_cost_no_connection() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let link = open(&config(&server.url()).with_deadline(Duration::from_millis(25))).await;
    server.freeze();
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let link = link.clone();
            tokio::spawn(async move { add(&link, "k").await })
        })
        .collect();
    for call in calls {
        let error = call.await.expect("an end").expect_err("frozen");
        assert!(matches!(error, RedisError::Timeout { .. }), "{error}");
    }
    server.thaw();
    errors_until_success(&link, "k").await;
    let connects = received(&server);
    assert!(
        connects <= 4,
        "the check of the start, this link, and two of the test: {connects}"
    );
}

#[tokio::test]
async fn closed_connection_is_replaced_at_once() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let link = open(&config(&server.url())).await;
    assert_eq!(add(&link, "k").await, Ok(1));
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let errors = errors_until_success(&link, "k").await;
    assert!(errors.len() <= 1, "{errors:?}");
}

#[tokio::test]
async fn restarted_server_is_used_again() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let link = open(&config(&server.url())).await;
    assert_eq!(add(&link, "k").await, Ok(1));
    server.kill();
    let noticed = async {
        let mut unreachable = 0;
        while unreachable < 20 {
            let error = add(&link, "k").await.expect_err("no server");
            unreachable += u32::from(matches!(error, RedisError::Unreachable { .. }));
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(TEN_SECONDS, noticed).await.expect("unreachable");
    server.restart();
    errors_until_success(&link, "k").await;
}

#[tokio::test]
async fn outage_under_load_makes_few_connects_and_its_end_is_noticed() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::start(server.port()).await;
    let link = open(&config(&proxy.url())).await;
    let hammer = |link: Link| async move {
        let end = Instant::now() + Duration::from_secs(2);
        let mut failed = 0;
        while Instant::now() < end {
            failed += u32::from(add(&link, "k").await.is_err());
            sleep(Duration::from_millis(1)).await;
        }
        failed
    };
    server.kill();
    let tasks: Vec<_> = (0..16)
        .map(|_| tokio::spawn(hammer(link.clone())))
        .collect();
    let mut failed = 0;
    for task in tasks {
        failed += task.await.expect("an end");
    }
    // At once, then after at least 0.25, 0.5 and 1 s.
    assert!((2..=6).contains(&proxy.accepted()), "{}", proxy.accepted());
    assert!(failed > 16, "calls fail without a wait: {failed}");
    server.restart();
    errors_until_success(&link, "k").await;
}

#[tokio::test]
async fn link_made_without_a_server_connects_later() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    server.kill();
    let (link, driver) = Link::lazy(&config(&server.url()), &CHECK);
    tokio::spawn(driver.run());
    let error = add(&link, "k").await.expect_err("no server");
    assert!(matches!(error, RedisError::Unreachable { .. }), "{error}");
    server.restart();
    errors_until_success(&link, "k").await;
}

#[tokio::test]
async fn frozen_server_ends_no_call_later_than_the_deadline() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let link = open(&config(&server.url()).with_deadline(Duration::from_millis(25))).await;
    errors_until_success(&link, "k").await;
    server.freeze();
    let mut timeouts = 0;
    for _ in 0..10 {
        let error = add(&link, "k").await.expect_err("frozen");
        timeouts += u32::from(matches!(error, RedisError::Timeout { .. }));
    }
    assert!((1..=10).contains(&timeouts), "{timeouts}");
    server.thaw();
    errors_until_success(&link, "k").await;
}

#[tokio::test]
async fn half_open_connection_is_replaced_after_five_timeouts() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    for direction in [Direction::Requests, Direction::Responses] {
        let proxy = Proxy::start(server.port()).await;
        let link = open(&config(&proxy.url()).with_deadline(Duration::from_millis(50))).await;
        errors_until_success(&link, "k").await;
        proxy.stall(direction);
        for _ in 0..5 {
            add(&link, "k").await.expect_err("stalled");
        }
        let replaced = async {
            while proxy.accepted() < 2 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEN_SECONDS, replaced)
            .await
            .expect("another connection");
        proxy.resume();
        errors_until_success(&link, "k").await;
    }
}

#[tokio::test]
async fn server_that_becomes_a_replica_is_left_until_it_is_a_master() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let Some(master) = RedisServer::start() else {
        return;
    };
    let link = open(&config(&server.url())).await;
    assert_eq!(add(&link, "k").await, Ok(1));
    server.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    let mut kinds = Vec::new();
    for _ in 0..50 {
        kinds.extend(add(&link, "k").await.err());
        sleep(Duration::from_millis(2)).await;
    }
    assert!(kinds.contains(&RedisError::ReadOnly), "{kinds:?}");
    let connects = received(&server);
    assert!(connects < 20, "{connects}");
    server.command(&["REPLICAOF", "NO", "ONE"]);
    errors_until_success(&link, "k").await;
}

#[tokio::test]
async fn driver_ends_after_the_last_link_and_calls_end_without_it() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (link, driver) = Link::open(&config(&server.url()), &CHECK)
        .await
        .expect("a connection");
    let task = tokio::spawn(driver.run());
    let other = link.clone();
    drop(link);
    assert_eq!(add(&other, "k").await, Ok(1));
    drop(other);
    task.await.expect("an end");

    let (link, driver) = Link::open(&config(&server.url()), &CHECK)
        .await
        .expect("a connection");
    drop(driver);
    assert_eq!(add(&link, "k").await, Err(RedisError::DriverGone));
    let (link, _unpolled) = Link::lazy(&config(&server.url()), &CHECK);
    let error = add(&link, "k").await.expect_err("no connection");
    assert!(matches!(error, RedisError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn promoted_replica_of_sentinels_is_found() {
    let Some(mut sentinels) = RedisSentinels::start() else {
        return;
    };
    let urls = sentinels.urls();
    let with = |name| {
        let urls = urls.iter().map(String::as_str);
        RedisConfig::sentinel(urls, name)
            .expect("valid")
            .with_deadline(Duration::from_millis(250))
    };
    let error = refusal(&with("other")).await;
    assert!(error.to_string().contains("no master `other`"), "{error}");
    let link = open(&with(RedisSentinels::MASTER)).await;
    assert_eq!(add(&link, "k").await, Ok(1));
    sentinels.servers()[0].kill();
    add(&link, "k").await.expect_err("no master");
    errors_until_success(&link, "k").await;
    assert_ne!(sentinels.servers()[1].command(&["GET", "k"]).trim(), "");
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_survives_a_failover_and_the_end_of_a_master() {
    let Some(mut cluster) = RedisCluster::start() else {
        return;
    };
    let port = cluster.master_of("{k}:b").port();
    let urls = cluster.urls();
    let config = RedisConfig::cluster(urls.iter().map(String::as_str)).expect("valid");
    let link = open(&config.with_deadline(Duration::from_millis(250))).await;
    for key in ["{k}:b", "{l}:b", "{m}:b", "{n}:b", "{o}:b"] {
        assert_eq!(add(&link, key).await, Ok(1));
    }
    let caller = link.clone();
    let calls = tokio::spawn(async move {
        loop {
            let _ = add(&caller, "{k}:b").await;
            sleep(Duration::from_millis(5)).await;
        }
    });
    cluster.fail_over(port);
    calls.abort();
    assert_ne!(cluster.master_of("{k}:b").port(), port);
    errors_until_success(&link, "{k}:b").await;
    cluster.master_of("{k}:b").kill();
    errors_until_success(&link, "{k}:b").await;
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn topology_that_does_not_fit_is_named() {
    let Some(mut cluster) = RedisCluster::start() else {
        return;
    };
    let owner = cluster.master_of("tc1:{}:check").port();
    let masters: Vec<u16> = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .map(|key| cluster.master_of(key).port())
        .to_vec();
    let other = masters
        .iter()
        .find(|port| **port != owner)
        .expect("another master");
    let error = refusal(&config(&format!("redis://127.0.0.1:{other}"))).await;
    assert_eq!(
        error.to_string(),
        "the Redis server needs `RedisConfig::cluster`"
    );
    let Some(server) = RedisServer::start() else {
        return;
    };
    let lone = RedisConfig::cluster([server.tcp_url().as_str()]).expect("valid");
    let error = refusal(&lone).await;
    assert_eq!(
        error.to_string(),
        "the Redis server needs `RedisConfig::new`"
    );
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_server_is_trusted_by_its_certificate_only() {
    let Some(tls) = RedisTls::start() else {
        return;
    };
    let server = &tls.server;
    let untrusted = config(&tls.url());
    let error = refusal(&untrusted).await;
    assert!(error.to_string().contains("certificate"), "{error}");
    let pem = std::fs::read(tls.certificate()).expect("a certificate");
    let trusted = untrusted.with_root_certificate(pem.clone());
    let link = open(&trusted).await;
    assert_eq!(add(&link, "k").await, Ok(1));
    let error = refusal(&config(&tls.url().replace("rediss", "redis"))).await;
    assert!(matches!(error, RedisError::Unreachable { .. }), "{error}");
    // The server requires a certificate of its clients, and trusts its own one.
    let trusted = trusted.with_deadline(Duration::from_millis(250));
    for (name, value) in [
        (
            "tls-ca-cert-file",
            &*tls.certificate().display().to_string(),
        ),
        ("tls-auth-clients", "yes"),
    ] {
        assert_eq!(server.command(&["CONFIG", "SET", name, value]).trim(), "OK");
    }
    let error = refusal(&trusted).await;
    assert!(matches!(error, RedisError::Unreachable { .. }), "{error}");
    let key = std::fs::read(tls.key()).expect("a key");
    let link = open(&trusted.with_client_certificate(pem, key)).await;
    assert_eq!(add(&link, "k").await, Ok(2));
}
