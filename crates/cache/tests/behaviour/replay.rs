//! Replay of stored responses.

use http_body::Body;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};

use crate::api::*;

#[tokio::test(start_paused = true)]
async fn stored_stream_is_replayed_frame_by_frame() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let text: Vec<String> = STREAM.iter().map(|part| (*part).to_owned()).collect();
    let whole = text.concat();
    let pieces: Vec<&str> = vec![&whole[..3], &whole[3..200], &whole[200..201], &whole[201..]];
    let (first, ()) = tokio::join!(send(&service, marked("Hi", true)), async {
        let sender = scripts.next().await.stream();
        pieces.iter().for_each(|piece| feed(&sender, piece));
    });
    assert_eq!(first.expect("an answer").text(), whole);
    let response = service.oneshot(marked("Hi", true)).await.expect("a hit");
    assert_eq!(
        response.headers()["content-length"],
        whole.len().to_string()
    );
    let mut body = response.into_body();
    for (at, piece) in pieces.iter().enumerate() {
        let left: usize = pieces[at..].iter().map(|piece| piece.len()).sum();
        assert_eq!(body.size_hint().exact(), Some(left as u64));
        assert!(!body.is_end_stream());
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), piece.as_bytes());
    }
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn stored_json_is_replayed_byte_for_byte_with_age() {
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let first = filled(&service, &scripts, request()).await;
    assert_eq!((first.cache_status(), first.header("age")), ("miss", ""));
    tokio::time::advance(7 * SECOND).await;
    let second = send(&service, request()).await.expect("a hit");
    assert_eq!((second.cache_status(), second.header("age")), ("hit", "7"));
    assert_eq!((second.status, second.text()), (200, MESSAGE));
    assert_eq!(second.header("content-length"), MESSAGE.len().to_string());
    assert_eq!(second.header("content-type"), "application/json");
}

#[tokio::test(start_paused = true)]
async fn transient_headers_are_not_replayed() {
    const PASSING: [(&str, &str); 19] = [
        ("set-cookie", "a=b"),
        ("request-id", "req_1"),
        ("x-request-id", "1"),
        ("apim-request-id", "1"),
        ("x-amzn-requestid", "1"),
        ("anthropic-ratelimit-requests-remaining", "5"),
        ("anthropic-ratelimit-unified-status", "allowed"),
        ("anthropic-priority-input-tokens-limit", "5"),
        ("anthropic-fast-input-tokens-limit", "5"),
        ("retry-after", "5"),
        ("x-should-retry", "true"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("traceparent", "00-1-1-00"),
        ("cf-ray", "1"),
        ("via", "1.1 proxy"),
        ("x-tower-claude-attempt", "2"),
    ];
    const LASTING: [(&str, &str); 4] = [
        ("date", "Sun, 22 Nov 2026 10:00:00 GMT"),
        ("anthropic-organization-id", "org"),
        ("x-own", "1"),
        ("content-language", "en"),
    ];
    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let mut headers = vec![("content-type", "application/json; charset=utf-8")];
    headers.extend(PASSING);
    headers.extend(LASTING);
    let answering = async {
        let script = scripts.next().await;
        settle().await;
        feed(&script.head(200, &headers), MESSAGE);
    };
    let (own, joined, ()) = tokio::join!(
        send(&service, request()),
        send(&service, request()),
        answering
    );
    let hit = send(&service, request()).await.expect("a hit");
    assert_eq!(scripts.calls(), 1);
    let (own, joined) = (own.expect("an answer"), joined.expect("an answer"));
    for (name, value) in PASSING {
        assert_eq!(
            own.header(name),
            value,
            "the caller's own answer comes as it is"
        );
        assert_eq!(joined.header(name), "", "{name}");
        assert_eq!(hit.header(name), "", "{name}");
    }
    for (name, value) in LASTING {
        assert_eq!((joined.header(name), hit.header(name)), (value, value));
    }
    assert_eq!(
        (
            own.cache_status(),
            joined.cache_status(),
            hit.cache_status()
        ),
        ("miss", "hit", "hit")
    );
}
