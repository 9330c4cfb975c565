//! Rules of storing.

use http::HeaderValue;
use tower::Layer;
use tower_claude_cache::CacheLayer;

use crate::api::*;

const SERVED: &str = "x-tower-claude-served-model";

/// Returns the cache status of the second of two equal requests, after this response to the first.
async fn second(
    layer: &CacheLayer,
    stream: bool,
    status: u16,
    headers: &[(&str, &str)],
    parts: &[&str],
) -> &'static str {
    let (upstream, scripts) = upstream();
    let service = layer.layer(upstream);
    let kind = if stream {
        "text/event-stream"
    } else {
        "application/json"
    };
    let mut all = vec![("content-type", kind)];
    all.extend_from_slice(headers);
    let (first, ()) = tokio::join!(send(&service, marked("Hi", stream)), async {
        let sender = scripts.next().await.head(status, &all);
        parts.iter().for_each(|part| feed(&sender, part));
    });
    let first = first.expect("an answer");
    assert_eq!((first.status, first.text()), (status, &*parts.concat()));
    let stored = layer.handle().snapshot().stored;
    tokio::select! {
        got = send(&service, marked("Hi", stream)) => {
            let got = got.expect("an answer");
            assert_eq!((got.text(), stored), (&*parts.concat(), 1));
            "stored"
        }
        _ = scripts.next() => {
            assert_eq!((stored, layer.handle().snapshot().bytes), (0, 0));
            "not"
        }
    }
}

async fn message(text: &str) -> &'static str {
    second(&layer(), false, 200, &[], &[text]).await
}

async fn stream(parts: &[&str]) -> &'static str {
    second(&layer(), true, 200, &[], parts).await
}

#[tokio::test(start_paused = true)]
async fn complete_response_is_stored() {
    assert_eq!(message(MESSAGE).await, "stored");
    assert_eq!(
        message(&MESSAGE.replace("end_turn", "stop_sequence")).await,
        "stored"
    );
    assert_eq!(stream(&STREAM).await, "stored");
    assert_eq!(stream(&[&STREAM.concat(), ": bye\n\n"]).await, "stored");
    assert_eq!(
        second(
            &layer(),
            false,
            200,
            &[],
            &MESSAGE.split_inclusive(',').collect::<Vec<_>>()
        )
        .await,
        "stored"
    );
    // Requested without a date, answered with the date.
    let dated = "claude-sonnet-5-5-20261001";
    assert_eq!(
        message(&MESSAGE.replace("claude-sonnet-5-5", dated)).await,
        "stored"
    );
}

#[tokio::test(start_paused = true)]
async fn response_with_other_stop_reason_is_not_stored() {
    for reason in [
        "max_tokens",
        "pause_turn",
        "refusal",
        "model_context_window_exceeded",
        "x_new",
        "tool_use",
    ] {
        assert_eq!(
            message(&MESSAGE.replace("end_turn", reason)).await,
            "not",
            "{reason}"
        );
        let end = END.replace("end_turn", reason);
        assert_eq!(
            stream(&[START, CONTENT, DELTA, &end, STOP]).await,
            "not",
            "{reason}"
        );
    }
    assert_eq!(
        message(&MESSAGE.replace(r#""end_turn""#, "null")).await,
        "not"
    );
}

#[tokio::test(start_paused = true)]
async fn tool_use_is_stored_if_enabled() {
    let used = MESSAGE.replace("end_turn", "tool_use").replace(
        r#"{"type":"text","text":"Hi"}"#,
        r#"{"type":"tool_use","id":"t","name":"n","input":{}}"#,
    );
    assert_eq!(message(&used).await, "not");
    assert_eq!(
        second(&layer().with_tool_use(), false, 200, &[], &[&used]).await,
        "stored"
    );
}

#[tokio::test(start_paused = true)]
async fn error_is_not_stored() {
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    for status in [400, 401, 403, 404, 413, 429, 500, 503, 529] {
        assert_eq!(
            second(&layer(), false, status, &[], &[error]).await,
            "not",
            "{status}"
        );
    }
    // Not even an error that looks like a message, or a message that looks like an error.
    for status in [201, 206, 302, 500] {
        assert_eq!(
            second(&layer(), false, status, &[], &[MESSAGE]).await,
            "not",
            "{status}"
        );
    }
    assert_eq!(message(error).await, "not");
    assert_eq!(stream(&[START, CONTENT, DELTA, ERROR]).await, "not");
    assert_eq!(
        stream(&[START, CONTENT, DELTA, ERROR, END, STOP]).await,
        "not"
    );
    assert_eq!(stream(&[ERROR]).await, "not");
}

#[tokio::test(start_paused = true)]
async fn truncated_response_is_not_stored() {
    let whole = STREAM.concat();
    assert_eq!(stream(&STREAM[..4]).await, "not", "no message_stop");
    for cut in (0..whole.len()).step_by(7) {
        assert_eq!(stream(&[&whole[..cut]]).await, "not", "cut at {cut}");
    }
    for cut in (0..MESSAGE.len()).step_by(5) {
        assert_eq!(message(&MESSAGE[..cut]).await, "not", "cut at {cut}");
    }
    assert_eq!(stream(&[&whole, "event: mess"]).await, "not");
    assert_eq!(stream(&[&whole, DELTA]).await, "not");
    assert_eq!(stream(&[&whole, &whole]).await, "not");
}

#[tokio::test(start_paused = true)]
async fn response_of_another_model_is_not_stored() {
    for model in [
        "claude-haiku-5-5",
        "claude-sonnet-5-5-fast",
        "claude-sonnet-5",
        "claude-sonnet-5-51",
    ] {
        let other = MESSAGE.replace("claude-sonnet-5-5", model);
        assert_eq!(message(&other).await, "not", "{model}");
        let start = START.replace("claude-sonnet-5-5", model);
        assert_eq!(
            stream(&[&start, CONTENT, DELTA, END, STOP]).await,
            "not",
            "{model}"
        );
    }
    // Even if the body does not name the model.
    let headers = [(SERVED, "claude-sonnet-5-5")];
    assert_eq!(
        second(&layer(), false, 200, &headers, &[MESSAGE]).await,
        "not"
    );
    assert_eq!(second(&layer(), true, 200, &headers, &STREAM).await, "not");
    let headers = [("x-tower-claude-refused-by", "fallback-model")];
    assert_eq!(
        second(&layer(), false, 200, &headers, &[MESSAGE]).await,
        "not"
    );
}

/// Returns the cache status of the second of two requests for `asked`, which `served` answers.
async fn named(asked: &str, served: &str, streams: bool) -> String {
    let (service, (upstream, scripts)) = (layer(), upstream());
    let service = service.layer(upstream);
    let request = || {
        let mut request = marked("Hi", streams);
        let body = String::from_utf8(request.body().bytes().expect("buffered").to_vec());
        let body = body.expect("text").replace("claude-sonnet-5-5", asked);
        *request.body_mut() = body.into();
        request
    };
    let respond = async || {
        let kind = if streams {
            "text/event-stream"
        } else {
            "application/json"
        };
        let sender = scripts.next().await.head(200, &[("content-type", kind)]);
        let whole = STREAM.concat();
        let text = if streams { &whole } else { MESSAGE };
        feed(&sender, &text.replace("claude-sonnet-5-5", served));
    };
    let (first, ()) = tokio::join!(send(&service, request()), respond());
    assert_eq!(first.expect("an answer").cache_status(), "miss");
    tokio::select! {
        got = send(&service, request()) => got.expect("an answer").cache_status().to_owned(),
        _ = scripts.next() => "miss".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn response_of_the_model_in_another_dress_is_stored() {
    for (asked, served, expected) in [
        ("anthropic.claude-opus-5-5", "claude-opus-5-5", "hit"),
        (
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "claude-haiku-4-5-20251001",
            "hit",
        ),
        ("claude-opus-5-5[1m]", "claude-opus-5-5", "hit"),
        (
            "claude-haiku-4-5-latest",
            "claude-haiku-4-5-20251001",
            "hit",
        ),
        ("claude-sonnet-4-0", "claude-sonnet-4-20250514", "hit"),
        (
            "claude-haiku-4-5@20251001",
            "claude-haiku-4-5-20251001",
            "hit",
        ),
        ("anthropic/claude-opus-4.8", "claude-opus-4-8", "hit"),
        ("my-foundry-deployment", "claude-opus-5-5", "hit"),
        (
            "claude-haiku-4-5-20251001",
            "claude-haiku-4-5-20260101",
            "miss",
        ),
        ("claude-opus-5", "claude-opus-5-5", "miss"),
        ("claude-opus-9", "claude-opus-5-5", "miss"),
    ] {
        for streams in [false, true] {
            let status = named(asked, served, streams).await;
            assert_eq!(status, expected, "{asked}: {served}, streams: {streams}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn response_with_side_effects_is_not_stored() {
    for kind in [
        "server_tool_use",
        "web_search_tool_result",
        "mcp_tool_use",
        "container_upload",
        "fallback",
        "x_new",
    ] {
        let block = format!(r#"{{"type":"{kind}","x":1}}"#);
        let text = MESSAGE.replace(r#"{"type":"text","text":"Hi"}"#, &block);
        assert_eq!(message(&text).await, "not", "{kind}");
        let start = CONTENT.replace(r#""type":"text""#, &format!(r#""type":"{kind}""#));
        assert_eq!(
            stream(&[START, &start, DELTA, END, STOP]).await,
            "not",
            "{kind}"
        );
    }
    let searched = MESSAGE.replace(
        r#""output_tokens":7"#,
        r#""output_tokens":7,"server_tool_use":{"web_search_requests":1}"#,
    );
    assert_eq!(message(&searched).await, "not");
    let unused = searched.replace(r#"requests":1"#, r#"requests":0"#);
    assert_eq!(message(&unused).await, "stored");
    let contained = MESSAGE.replace(r#""stop_sequence":null"#, r#""container":{"id":"c"}"#);
    assert_eq!(message(&contained).await, "not");
}

#[tokio::test(start_paused = true)]
async fn unreadable_response_is_not_stored() {
    let headers = [("content-encoding", "gzip")];
    assert_eq!(
        second(&layer(), false, 200, &headers, &[MESSAGE]).await,
        "not"
    );
    assert_eq!(
        message(&MESSAGE.replace(r#""type":"message","#, r#""model":"claude-sonnet-5-5","#)).await,
        "not"
    );
    assert_eq!(message("\u{feff}").await, "not");
}

#[tokio::test(start_paused = true)]
async fn stream_read_to_its_last_event_is_stored() {
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    let (upstream, scripts) = upstream();
    let service = layer().layer(upstream);
    let first = async {
        let response = service
            .clone()
            .oneshot(marked("Hi", true))
            .await
            .expect("an answer");
        let mut body = response.into_body();
        for _ in STREAM {
            body.frame().await.expect("a frame").expect("no error");
        }
    };
    let answering = async {
        let sender = scripts.next().await.stream();
        STREAM.iter().for_each(|part| feed(&sender, part));
        sender
    };
    let ((), sender) = tokio::join!(first, answering);
    let got = send(&service, marked("Hi", true)).await.expect("an answer");
    assert_eq!((got.cache_status(), got.text()), ("hit", &*STREAM.concat()));
    drop(sender);
}

#[tokio::test(start_paused = true)]
async fn response_marked_by_an_inner_layer_is_not_stored() {
    let value = HeaderValue::from_static("1");
    let (upstream, scripts) = upstream();
    let service = layer().layer(tower::util::MapResponse::new(
        upstream,
        move |mut response: http::Response<Pipe>| {
            response.headers_mut().insert("x-plain", value.clone());
            let class = tower_claude_core::Class::new(tower_claude_core::Kind::ModelRefusal);
            response.extensions_mut().insert(class);
            response
        },
    ));
    filled(&service, &scripts, request()).await;
    let again = filled(&service, &scripts, request()).await;
    assert_eq!((again.cache_status(), scripts.calls()), ("miss", 2));
}

/// An inner cache, such as a gateway's.
#[tokio::test(start_paused = true)]
async fn age_of_an_inner_cache_counts() {
    let stale = [("x-tower-claude-cache", "stale")];
    assert_eq!(
        second(&layer(), false, 200, &stale, &[MESSAGE]).await,
        "not"
    );
    let (upstream, scripts) = upstream();
    let service = layer().with_stale_if_error(20 * SECOND).layer(upstream);
    let hit = [
        ("content-type", "application/json"),
        ("x-tower-claude-cache", "hit"),
        ("age", "60"),
    ];
    let (first, ()) = tokio::join!(send(&service, request()), async {
        feed(&scripts.next().await.head(200, &hit), MESSAGE);
    });
    assert_eq!(first.expect("an answer").header("age"), "60");
    tokio::time::advance(20 * SECOND).await;
    let again = send(&service, request()).await.expect("a hit");
    assert_eq!((again.cache_status(), again.header("age")), ("hit", "80"));
    tokio::time::advance(40 * SECOND).await;
    assert_eq!(
        filled(&service, &scripts, request()).await.cache_status(),
        "miss"
    );
}
