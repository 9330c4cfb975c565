//! Time to live, and stale responses in place of errors.

use std::time::Duration;

use http::HeaderName;
use tower::Layer;
use tower_claude_cache::{CacheLayer, Cacheable};
use tower_claude_core::{Class, Kind};
use tower_claude_tests::Broken;

use crate::api::*;

fn lasting(ttl: Duration) -> http::Request<tower_claude_core::RequestBody> {
    let mut request = bare(body("Hi", false));
    request
        .extensions_mut()
        .insert(Cacheable::new().with_ttl(ttl));
    request
}

#[tokio::test(start_paused = true)]
async fn ttl_jitter_is_at_most_ten_percent() {
    for _ in 0..50 {
        let (upstream, scripts) = upstream();
        let service = layer().layer(upstream);
        filled(&service, &scripts, request()).await;
        tokio::time::advance(89 * SECOND).await;
        assert_eq!(
            send(&service, request())
                .await
                .expect("a hit")
                .cache_status(),
            "hit"
        );
        tokio::time::advance(22 * SECOND).await;
        let late = filled(&service, &scripts, request()).await;
        assert_eq!((late.cache_status(), scripts.calls()), ("miss", 2));
    }
}

#[tokio::test(start_paused = true)]
async fn entries_stored_together_expire_apart() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    for number in 0..40 {
        filled(&service, &scripts, marked(&number.to_string(), false)).await;
    }
    tokio::time::advance(TTL).await;
    let mut hits = 0;
    for number in 0..40 {
        tokio::select! {
            biased;
            _ = send(&service, marked(&number.to_string(), false)) => hits += 1,
            () = settle() => {}
        }
    }
    assert!((5..36).contains(&hits), "{hits} of 40 are still fresh");
}

#[tokio::test(start_paused = true)]
async fn request_ttl_overrides_the_layer_ttl() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    filled(&service, &scripts, lasting(10 * MINUTE)).await;
    tokio::time::advance(8 * MINUTE).await;
    assert_eq!(
        send(&service, request())
            .await
            .expect("a hit")
            .cache_status(),
        "hit"
    );
    // A TTL of zero stores nothing.
    let none = marked("other", false);
    let (mut none, again) = (none, marked("other", false));
    none.extensions_mut()
        .insert(Cacheable::new().with_ttl(Duration::ZERO));
    filled(&service, &scripts, none).await;
    assert_eq!(
        filled(&service, &scripts, again).await.cache_status(),
        "miss"
    );
}

/// Stores a response, waits until it is stale, and sends the request again.
async fn after_an_hour(
    layer: CacheLayer,
    wait: Duration,
    answer: impl FnOnce(Script),
) -> Result<Got, Broken> {
    let (upstream, scripts) = upstream();
    let service = layer.layer(upstream);
    filled(&service, &scripts, request()).await;
    tokio::time::advance(wait).await;
    let (got, ()) = tokio::join!(send(&service, request()), async {
        answer(scripts.next().await);
    });
    assert_eq!(scripts.calls(), 2);
    got
}

#[tokio::test(start_paused = true)]
async fn stale_entry_is_served_in_place_of_an_outage() {
    let half = 30 * MINUTE;
    for status in [500, 502, 503, 504, 529, 408] {
        let got = after_an_hour(layer(), half, |script| script.json(status, "{}")).await;
        let got = got.expect("the stale one");
        assert_eq!(
            (got.status, got.cache_status(), got.text()),
            (200, "stale", MESSAGE)
        );
        assert_eq!(got.header("age"), "1800");
    }
    let got = after_an_hour(layer(), half, |script| script.error(Broken("reset"))).await;
    assert_eq!(got.expect("the stale one").cache_status(), "stale");
    let refused = |script: Script| {
        let by = [("x-tower-claude-refused-by", "token-bucket")];
        feed(&script.head(429, &by), "{}");
    };
    assert_eq!(
        after_an_hour(layer(), half, refused)
            .await
            .expect("stale")
            .cache_status(),
        "stale"
    );
}

#[tokio::test(start_paused = true)]
async fn stale_entry_is_not_served_in_place_of_a_client_error() {
    let half = 30 * MINUTE;
    for status in [400, 401, 403, 404, 413, 429] {
        let got = after_an_hour(layer(), half, |script| script.json(status, "{}")).await;
        assert_eq!((got.expect("the error").status), status);
    }
    let got = after_an_hour(layer(), half, Script::message)
        .await
        .expect("an answer");
    assert_eq!((got.cache_status(), got.header("age")), ("miss", ""));
}

#[tokio::test(start_paused = true)]
async fn stale_entry_expires_and_zero_disables_it() {
    let outage = |script: Script| script.json(529, "{}");
    let day = Duration::from_secs(86_400);
    assert_eq!(
        after_an_hour(layer(), day, outage)
            .await
            .expect("an error")
            .status,
        529
    );
    let never = layer().with_stale_if_error(Duration::ZERO);
    assert_eq!(
        after_an_hour(never, 5 * MINUTE, outage)
            .await
            .expect("an error")
            .status,
        529
    );
    let long = layer().with_stale_if_error(2 * day);
    assert_eq!(
        after_an_hour(long, day, outage)
            .await
            .expect("stale")
            .cache_status(),
        "stale"
    );
}

#[tokio::test(start_paused = true)]
async fn stale_entry_is_served_to_all_waiters() {
    let (upstream, scripts) = upstream();
    let layer = layer();
    let service = layer.layer(upstream);
    filled(&service, &scripts, request()).await;
    tokio::time::advance(30 * MINUTE).await;
    let asking = || send(&service, request());
    let (a, b, c, ()) = tokio::join!(asking(), asking(), asking(), async {
        let script = scripts.next().await;
        settle().await;
        script.json(529, "{}");
    });
    for got in [a, b, c] {
        assert_eq!(got.expect("stale").cache_status(), "stale");
    }
    assert_eq!((scripts.calls(), layer.handle().snapshot().stale), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn stream_failed_before_content_counts_as_outage() {
    for (parts, expected) in [
        (&[START, ERROR][..], "stale"),
        (&[START], "stale"),
        (&[], "stale"),
        (&[START, CONTENT, ERROR], "miss"),
        (&STREAM, "miss"),
    ] {
        let (upstream, scripts) = upstream();
        let service = layer().layer(upstream);
        let answer = |parts: &'static [&'static str]| {
            let scripts = &scripts;
            async move {
                let sender = scripts.next().await.stream();
                parts.iter().for_each(|part| feed(&sender, part));
            }
        };
        let (first, ()) = tokio::join!(send(&service, marked("Hi", true)), answer(&STREAM));
        assert_eq!(first.expect("an answer").text(), STREAM.concat());
        tokio::time::advance(30 * MINUTE).await;
        let parts: &'static [&'static str] = Box::leak(parts.to_vec().into_boxed_slice());
        let (second, ()) = tokio::join!(send(&service, marked("Hi", true)), answer(parts));
        let second = second.expect("an answer");
        assert_eq!(second.cache_status(), expected, "{parts:?}");
        let text = if expected == "stale" {
            STREAM.concat()
        } else {
            parts.concat()
        };
        assert_eq!(second.text(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn class_of_an_inner_layer_decides_on_stale() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(tower::util::MapResponse::new(
        upstream,
        |mut response: http::Response<Pipe>| {
            if response
                .headers()
                .contains_key(HeaderName::from_static("x-late"))
            {
                response
                    .extensions_mut()
                    .insert(Class::new(Kind::Overloaded));
            }
            response
        },
    ));
    filled(&service, &scripts, request()).await;
    tokio::time::advance(30 * MINUTE).await;
    let (got, ()) = tokio::join!(send(&service, request()), async {
        let headers = [("content-type", "application/json"), ("x-late", "1")];
        feed(&scripts.next().await.head(200, &headers), MESSAGE);
    });
    assert_eq!(got.expect("stale").cache_status(), "stale");
}

#[tokio::test(start_paused = true)]
async fn broken_json_body_counts_as_outage() {
    let begin = |script: Script| {
        let sender = script.head(200, &[("content-type", "application/json")]);
        feed(&sender, "{\"id\":");
        sender
    };
    let got = after_an_hour(layer(), 30 * MINUTE, |script| {
        let _ = begin(script).send(Err(Broken("reset")));
    })
    .await
    .expect("the stale one");
    assert_eq!((got.cache_status(), got.text()), ("stale", MESSAGE));
    // A body too long to be held is forwarded to the leader.
    let short = layer().with_entry_limit(8 * 1024);
    let long = MESSAGE.replace("Hi", &"Hi".repeat(20_000));
    let got = after_an_hour(short, 30 * MINUTE, |script| {
        let sender = script.head(200, &[("content-type", "application/json")]);
        for part in long.split_inclusive("HiHi") {
            feed(&sender, part);
        }
    })
    .await
    .expect("an answer");
    assert!(got.cache_status() == "miss" && got.text() == long);
}
