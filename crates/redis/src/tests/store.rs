//! The store against real servers, and the bytes of its values.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, service_fn};
use tower_claude_cache::{
    CacheLayer, Cacheable, Entry, EntryParts, Freshness, Key, MemoryStore, Store,
};
use tower_claude_core::{RequestBody, Tenant};
#[cfg(feature = "cluster")]
use tower_claude_tests::redis::RedisCluster;
use tower_claude_tests::{LogLines, SONNET, prompt, redis::RedisServer, send_ok};

use crate::{
    config::RedisConfig,
    link::{Link, Script},
    store::{
        codec::{decode, encode},
        expiry::cut_short,
        redis_store::RedisStore,
    },
};

const MINUTE: Duration = Duration::from_secs(60);
static NO_CHECK: Script = Script::new("return {}");

fn config(url: &str) -> RedisConfig {
    let config = RedisConfig::new(url).expect("a valid URL");
    config.with_deadline(Duration::from_millis(250)) // the machine may be busy
}

async fn store(config: &RedisConfig) -> RedisStore {
    let (store, driver) = RedisStore::connect(config).await.expect("a connection");
    tokio::spawn(driver);
    store
}

fn key(number: u8) -> Key {
    Key::from([number; 32])
}

fn parts(text: &str) -> EntryParts {
    let mut headers = HeaderMap::new();
    headers.append("x-a", HeaderValue::from_static("1"));
    headers.append("x-a", HeaderValue::from_bytes(b"\xff").expect("valid"));
    let frames = text
        .split_inclusive(' ')
        .map(|word| Bytes::copy_from_slice(word.as_bytes()));
    let mut parts = EntryParts::new(headers, frames.collect(), MINUTE);
    parts.tenant = Some(Tenant("ann".into()));
    parts.stale_for = MINUTE;
    parts
}

fn text(entry: &Entry) -> String {
    let frames = entry.parts().frames.iter();
    frames
        .map(|frame| String::from_utf8_lossy(frame).into_owned())
        .collect()
}

async fn text_of(store: &RedisStore, number: u8) -> Option<String> {
    let entry = timeout(MINUTE, store.get(&key(number)))
        .await
        .expect("an end");
    let fresh = entry.filter(|entry| entry.freshness(Instant::now()) == Freshness::Fresh);
    fresh.as_ref().map(text)
}

/// Waits until the driver has written as often.
async fn written(store: &RedisStore, count: u64) {
    until(|| store.snapshot().written >= count).await;
}

async fn until(is_met: impl Fn() -> bool) {
    let waited = timeout(MINUTE, async {
        while !is_met() {
            sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("the condition is met");
}

/// Returns the name of a value or a lock.
fn name(number: u8, kind: &str) -> String {
    format!("tc1:{{{}}}:{kind}", format!("{number:02x}").repeat(32))
}

#[test]
fn bytes_decode_to_what_was_encoded() {
    let config = config("redis://localhost");
    let without_tenant = EntryParts::new(HeaderMap::new(), Box::new([]), Duration::ZERO);
    for parts in [parts("Hello there, world"), without_tenant] {
        let bytes = encode(&config, &key(1), &parts, MINUTE).expect("bytes");
        let saved = decode(&config, &key(1), bytes).expect("the parts");
        assert_eq!(saved.took, MINUTE);
        assert_eq!(saved.parts.headers, parts.headers);
        assert_eq!(saved.parts.frames, parts.frames);
        assert_eq!(saved.parts.tenant, parts.tenant);
        assert_eq!(saved.parts.fresh_for, parts.fresh_for);
        assert_eq!(saved.parts.stale_for, parts.stale_for);
        let lost = parts
            .stored_at
            .duration_since(saved.parts.stored_at)
            .expect("cut");
        assert!(lost < Duration::from_millis(1));
    }
}

#[test]
fn changed_cut_or_foreign_bytes_decode_to_nothing() {
    let config = config("redis://localhost");
    let bytes = encode(&config, &key(1), &parts("Hello there"), MINUTE).expect("bytes");
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 1 << (index % 8);
        assert!(decode(&config, &key(1), changed).is_none(), "{index}");
        assert!(
            decode(&config, &key(1), bytes[..index].to_vec()).is_none(),
            "{index}"
        );
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(decode(&config, &key(1), longer).is_none());
    assert!(decode(&config, &key(2), bytes.clone()).is_none());
    assert!(decode(&config.clone().with_hash_key("other"), &key(1), bytes).is_none());
}

#[test]
fn early_refresh_grows_with_the_time_of_the_call_and_ends_at_half() {
    let cut = |took: u64, draw| {
        let parts = cut_short(parts(""), Duration::from_secs(took), draw);
        assert_eq!(parts.fresh_for + parts.stale_for, 2 * MINUTE);
        (MINUTE - parts.fresh_for).as_secs_f64()
    };
    assert_eq!(cut(0, 0.9), 0.0);
    assert_eq!(cut(10, 0.0), 0.0);
    assert!((cut(10, 0.5) - 10.0 * 2_f64.ln()).abs() < 1e-6);
    assert_eq!(cut(10, 1.0 - f64::EPSILON / 2.0), 30.0);
    assert_eq!(cut(u64::MAX, 0.5), 30.0);
    // Of many processes the earliest refreshes: about one in a thousand before 7 times the call.
    let mean: f64 = (0..1000)
        .map(|draw| cut(1, f64::from(draw) / 1000.0))
        .sum::<f64>()
        / 1000.0;
    assert!((0.9..1.1).contains(&mean), "{mean}");
}

#[tokio::test]
async fn response_of_one_store_is_found_by_another() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let [first, second] = [store(&config).await, store(&config).await];
    let mut old = parts("Hello there");
    old.stored_at = SystemTime::now() - Duration::from_secs(20);
    first.insert(key(1), old.into());
    written(&first, 1).await;
    let entry = second.get(&key(1)).await.expect("an entry");
    assert_eq!(text(&entry), "Hello there");
    assert_eq!(entry.parts().headers.get_all("x-a").iter().count(), 2);
    assert_eq!(entry.parts().tenant, Some(Tenant("ann".into())));
    assert_eq!(entry.age(Instant::now()).as_secs(), 20);
    assert_eq!(entry.freshness(Instant::now()), Freshness::Fresh);
    let time: u64 = server
        .command(&["PTTL", &name(1, "v")])
        .trim()
        .parse()
        .expect("a time");
    assert!((90_000..=100_000).contains(&time), "{time}");

    let gets = server.calls_of("get");
    assert_eq!(text_of(&second, 1).await.as_deref(), Some("Hello there"));
    assert_eq!(server.calls_of("get"), gets, "from memory");
    assert_eq!(second.snapshot().hits, 1);

    second.remove(&key(1));
    until(|| server.command(&["EXISTS", &name(1, "v")]).trim() == "0").await;
    let third = store(&config).await;
    assert_eq!(text_of(&third, 1).await, None);
    assert_eq!(third.snapshot().misses, 1);
    assert_eq!(
        text_of(&store(&config.clone().with_prefix("other")).await, 1).await,
        None
    );
}

#[tokio::test]
async fn lost_damaged_foreign_and_wrongly_typed_values_are_misses() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let [writer, reader] = [store(&config).await, store(&config).await];
    let [value, other] = [name(1, "v"), name(2, "v")];
    let damages: [&[&str]; 5] = [
        &["FLUSHALL"],
        &["SETRANGE", &value, "40", "x"],
        &["SET", &value, "foreign"],
        &["RENAME", &value, &other],
        &[
            "EVAL",
            "redis.call('DEL', KEYS[1]) redis.call('LPUSH', KEYS[1], '1')",
            "1",
            &value,
        ],
    ];
    for (count, damage) in (1..).zip(damages) {
        writer.insert(key(1), parts("Hello").into());
        written(&writer, count).await;
        server.command(damage);
        assert_eq!(text_of(&reader, 1).await, None, "{damage:?}");
        assert_eq!(text_of(&reader, 2).await, None, "{damage:?}");
    }
    let counted = reader.snapshot();
    // Three damaged values, the renamed one, and the list.
    assert_eq!(
        (counted.hits, counted.invalid, counted.failures),
        (0, 3 + 1 + 1, 0),
        "{counted:?}"
    );
    writer.insert(key(1), parts("Hello").into());
    written(&writer, 6).await;
    assert_eq!(text_of(&reader, 1).await.as_deref(), Some("Hello"));
}

#[tokio::test]
async fn response_above_the_limit_stays_in_memory_and_replaces_the_value() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let writer = store(&config).await.with_max_value(1000);
    writer.insert(key(1), parts("short").into());
    written(&writer, 1).await;
    let long = "x".repeat(1000);
    writer.insert(key(1), parts(&long).into());
    until(|| server.command(&["EXISTS", &name(1, "v")]).trim() == "0").await;
    assert_eq!(text_of(&writer, 1).await, Some(long));
    assert_eq!(
        (writer.snapshot().written, writer.snapshot().dropped),
        (1, 1)
    );
}

#[tokio::test]
async fn hanging_and_ended_server_is_a_miss_and_is_used_again() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let (log, _guard) = LogLines::start(tracing::Level::INFO);
    let config = config(&server.url()).with_deadline(Duration::from_millis(25));
    let [writer, reader] = [store(&config).await, store(&config).await];
    writer.insert(key(1), parts("Hello").into());
    until(|| server.command(&["EXISTS", &name(1, "v")]).trim() == "1").await;
    assert_eq!(text_of(&writer, 1).await.as_deref(), Some("Hello"));
    server.freeze();
    for number in 2..30 {
        assert_eq!(text_of(&reader, number).await, None);
        writer.insert(key(number), parts("Hello").into());
    }
    assert_eq!(
        text_of(&writer, 1).await.as_deref(),
        Some("Hello"),
        "from memory"
    );
    server.thaw();
    let found = timeout(MINUTE, async {
        while text_of(&reader, 1).await.is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.expect("found again");
    server.kill();
    for number in 30..60 {
        assert_eq!(text_of(&reader, number).await, None);
    }
    server.restart();
    writer.insert(key(1), parts("anew").into());
    let found = timeout(MINUTE, async {
        let reader = store(&config).await;
        while text_of(&reader, 1).await.as_deref() != Some("anew") {
            writer.insert(key(1), parts("anew").into());
            sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.expect("written again");
    let lines = log.take();
    assert!((1..=8).contains(&lines.len()), "{lines:#?}");
    assert!(
        lines[0].contains("the cache goes on in memory"),
        "{lines:#?}"
    );
    assert!(reader.snapshot().failures > 0);
}

#[tokio::test]
async fn store_made_without_a_server_works_in_memory_and_connects_later() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    server.kill();
    let config = config(&server.url());
    let error = RedisStore::connect(&config)
        .await
        .map(drop)
        .expect_err("no server");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    let (lone, driver) = RedisStore::connect_later(&config);
    let task = tokio::spawn(driver);
    lone.insert(key(1), parts("Hello").into());
    assert_eq!(text_of(&lone, 1).await.as_deref(), Some("Hello"));
    assert_eq!(text_of(&lone, 2).await, None);
    server.restart();
    let stored = timeout(MINUTE, async {
        while lone.snapshot().written == 0 {
            lone.insert(key(1), parts("Hello").into());
            sleep(Duration::from_millis(50)).await;
        }
    });
    stored.await.expect("written");
    drop(lone);
    task.await.expect("the driver ends with the last store");
}

#[tokio::test]
async fn store_whose_driver_is_not_polled_is_one_in_memory() {
    let (store, driver) = RedisStore::connect_later(&config("redis://127.0.0.1:1"));
    store.insert(key(1), parts("Hello").into());
    assert_eq!(text_of(&store, 1).await.as_deref(), Some("Hello"));
    assert_eq!(text_of(&store, 2).await, None);
    drop(driver);
    for number in 2..200 {
        assert_eq!(text_of(&store, number).await, None);
    }
    assert_eq!(text_of(&store, 1).await.as_deref(), Some("Hello"));
}

#[tokio::test]
async fn user_without_a_right_of_the_store_is_named() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    server.command(&[
        "ACL", "SETUSER", "ann", "on", ">pass", "~tc1:*", "+@all", "-pttl",
    ]);
    let config = config(&server.tcp_url()).with_login("ann", "pass");
    let error = RedisStore::connect(&config)
        .await
        .map(drop)
        .expect_err("no right");
    assert_eq!(error.to_string(), "the Redis user has no right to use PTTL");
}

#[tokio::test]
async fn one_of_many_processes_makes_the_call_for_all() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let mut stores = Vec::new();
    for _ in 0..8 {
        stores.push(store(&config).await.with_single_flight(MINUTE));
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let all = stores.iter().map(|store| {
        let (store, calls) = (store.clone(), calls.clone());
        tokio::spawn(async move {
            if let Some(text) = text_of(&store, 1).await {
                return text;
            }
            calls.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
            store.insert(key(1), parts("Hello").into());
            text_of(&store, 1).await.expect("in memory")
        })
    });
    for task in all.collect::<Vec<_>>() {
        assert_eq!(task.await.expect("an end"), "Hello");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(
        stores
            .iter()
            .map(|store| store.snapshot().waited)
            .sum::<u64>(),
        7
    );
    until(|| server.command(&["EXISTS", &name(1, "l")]).trim() == "0").await;
}

#[tokio::test]
async fn expired_response_is_fetched_by_one_process_and_again_by_it_after_a_failure() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let [first, second] = [
        store(&config).await.with_single_flight(MINUTE),
        store(&config).await.with_single_flight(MINUTE),
    ];
    let mut old = parts("old");
    old.stored_at = SystemTime::now() - MINUTE - Duration::from_secs(1);
    first.insert(key(1), old.into());
    written(&first, 1).await;
    for _ in 0..2 {
        let entry = first.get(&key(1)).await.expect("an entry");
        assert_eq!(entry.freshness(Instant::now()), Freshness::Stale);
    }
    let waiting = tokio::spawn({
        let second = second.clone();
        async move { text_of(&second, 1).await }
    });
    until(|| second.snapshot().waited == 1).await;
    first.insert(key(1), parts("new").into());
    assert_eq!(waiting.await.expect("an end").as_deref(), Some("new"));
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn cluster_stores_responses_and_locks() {
    let Some(cluster) = RedisCluster::start() else {
        return;
    };
    let urls = cluster.urls();
    let config = RedisConfig::cluster(urls.iter().map(String::as_str)).expect("valid");
    let config = config.with_deadline(Duration::from_millis(250));
    let first = store(&config).await.with_single_flight(MINUTE);
    let second = store(&config).await.with_single_flight(MINUTE);
    for number in 1..10 {
        assert_eq!(text_of(&first, number).await, None);
        first.insert(key(number), parts("Hello").into());
        assert_eq!(text_of(&second, number).await.as_deref(), Some("Hello"));
    }
    assert_eq!(
        (first.snapshot().failures, second.snapshot().failures),
        (0, 0)
    );
}

#[tokio::test]
async fn lost_lock_costs_a_call_and_no_foreign_lock_is_given_back() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let flight = Duration::from_secs(2);
    let [first, second, third] = [
        store(&config).await.with_single_flight(flight),
        store(&config).await.with_single_flight(flight),
        store(&config).await.with_single_flight(MINUTE),
    ];
    // The first process takes the lock and ends. The second one takes over once it has expired.
    assert_eq!(text_of(&first, 1).await, None);
    assert_eq!(text_of(&first, 1).await, None, "its own lock");
    let time: u64 = server
        .command(&["PTTL", &name(1, "l")])
        .trim()
        .parse()
        .expect("a time");
    assert!(time <= 2000);
    assert_eq!(text_of(&second, 1).await, None);

    // The lock is lost, so that two processes make the call.
    assert_eq!(text_of(&first, 2).await, None);
    server.command(&["DEL", &name(2, "l")]);
    assert_eq!(text_of(&third, 2).await, None);
    let foreign = server.command(&["GET", &name(2, "l")]);
    first.insert(key(2), parts("first").into());
    written(&first, 1).await;
    first.remove(&key(9)); // after the unlock of the same driver
    until(|| server.calls_of("del") >= 1).await;
    assert_eq!(server.command(&["GET", &name(2, "l")]), foreign);
    assert_eq!(text_of(&second, 2).await.as_deref(), Some("first"));
    third.insert(key(2), parts("third").into());
    written(&third, 1).await;
    until(|| server.command(&["EXISTS", &name(2, "l")]).trim() == "0").await;
    assert_eq!(
        text_of(&store(&config).await, 2).await.as_deref(),
        Some("third")
    );
}

#[tokio::test]
async fn wait_for_another_process_ends_when_its_server_fails() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let [first, second] = [
        store(&config).await.with_single_flight(MINUTE),
        store(&config).await.with_single_flight(MINUTE),
    ];
    assert_eq!(text_of(&first, 1).await, None);
    let waiting = tokio::spawn({
        let second = second.clone();
        async move { text_of(&second, 1).await }
    });
    until(|| second.snapshot().waited == 1).await;
    server.kill();
    assert_eq!(waiting.await.expect("an end"), None);
}

#[tokio::test]
async fn response_is_refreshed_early_by_one_process() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let (link, driver) = Link::open(&config, &NO_CHECK).await.expect("a connection");
    tokio::spawn(driver.run());
    // The call took an hour, so the response counts as old in the second half of its time.
    let mut old = parts("old");
    old.stored_at = SystemTime::now() - Duration::from_secs(45);
    let bytes = encode(&config, &key(1), &old, Duration::from_secs(3600)).expect("bytes");
    link.set_px(name(1, "v").as_bytes(), &bytes, MINUTE)
        .await
        .expect("set");
    let [first, second] = [
        store(&config).await.with_single_flight(MINUTE),
        store(&config).await.with_single_flight(MINUTE),
    ];
    let entry = first.get(&key(1)).await.expect("an entry");
    assert_eq!(
        entry.freshness(Instant::now()),
        Freshness::Stale,
        "to be refreshed"
    );
    assert_eq!(text(&entry), "old", "in place of an error");
    assert_eq!(text_of(&second, 1).await.as_deref(), Some("old"));
    first.insert(key(1), parts("new").into());
    written(&first, 1).await;
    assert_eq!(text_of(&first, 1).await.as_deref(), Some("new"));
    let third = store(&config).await.with_memory(MemoryStore::new(1 << 20));
    assert_eq!(text_of(&third, 1).await.as_deref(), Some("new"));
}

const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":11,"output_tokens":7}}"#;

/// Returns the cache header of a response through the layer of a new process, and the calls made.
async fn asked(config: &RedisConfig, secret: u8, calls: &Arc<AtomicUsize>) -> String {
    let store = store(config).await;
    let layer = CacheLayer::new(MINUTE)
        .with_secret([secret; 32])
        .with_store(store.clone());
    let calls = calls.clone();
    let service = layer.layer(service_fn(move |_: Request<RequestBody>| {
        calls.fetch_add(1, Ordering::Relaxed);
        let response = Response::builder().header("content-type", "application/json");
        std::future::ready(Ok::<_, Infallible>(
            response.body(Full::from(MESSAGE)).expect("valid"),
        ))
    }));
    let request = Request::post("https://api.anthropic.com/v1/messages")
        .header("x-api-key", "key")
        .extension(Cacheable::new())
        .body(RequestBody::from(prompt(SONNET, false)));
    let received = send_ok(&service, request.expect("valid")).await;
    assert_eq!(received.text(), MESSAGE);
    let status = received.header("x-tower-claude-cache").to_owned();
    if status == "miss" {
        written(&store, 1).await;
    }
    let misses = store.snapshot().misses;
    assert_eq!(
        misses,
        u64::from(status == "miss"),
        "one lookup for each call"
    );
    status
}

#[tokio::test]
async fn layers_of_several_processes_share_responses_with_one_secret() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let config = config(&server.url());
    let calls = Arc::new(AtomicUsize::new(0));
    for expected in ["miss", "hit", "hit"] {
        assert_eq!(asked(&config, 1, &calls).await, expected);
    }
    assert_eq!(asked(&config, 2, &calls).await, "miss");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let keys = server.command(&["KEYS", "*"]);
    assert!(keys.lines().all(|key| key.starts_with("tc1:{")), "{keys}");
    for key in keys.lines() {
        let time: i64 = server
            .command(&["PTTL", key])
            .trim()
            .parse()
            .expect("a time");
        assert!(time > 0, "{key} has a time");
    }
}
