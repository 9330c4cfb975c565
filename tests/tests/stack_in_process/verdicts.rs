//! Successes without a message, and errors that no wait changes, through the recommended stack.

use http::{Method, Request};
use tower::Layer;
use tower_claude::{
    CircuitBreakerLayer, FallbackModelLayer, Kind, Recommended, RequestBody, RetryLayer,
    recommended,
};
use tower_claude_tests::{
    HAIKU, SONNET,
    api::{Api, Piece, Reply, sse},
    request, send,
};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../../crates/wire/tests/fixtures/", $name))
    };
}

const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{"a":{"b":1}}},{"type":"text","text":"done}"}],"stop_reason":"tool_use","usage":{"input_tokens":10,"output_tokens":5}}"#;

/// Returns a 200 with this body and media type.
fn ok(media: &str, body: &'static str) -> Reply {
    Reply::new(200)
        .header("content-type", media)
        .pieces([Piece::data(body)])
}

fn error(status: u16, kind: &str, message: &str, code: &str) -> Reply {
    let details = format!(r#"{{"error_code":"{code}"}}"#);
    let error = format!(r#"{{"type":"{kind}","message":"{message}","details":{details}}}"#);
    Reply::json(status, format!(r#"{{"type":"error","error":{error}}}"#))
}

fn head(method: Method) -> Request<RequestBody> {
    let mut request = request(SONNET, false);
    *request.method_mut() = method;
    request
}

/// Asserts that no circuit has opened, and that no attempt was repeated.
fn assert_calm(stack: &Recommended, what: &str) {
    assert_eq!(stack.retry().handle().snapshot().retries, 0, "{what}");
    assert_eq!(stack.breaker().handle().snapshot().opened, 0, "{what}");
}

fn without_a_message() -> Vec<Reply> {
    vec![
        ok("application/json", fixture!("200_not_message_empty.json")),
        ok("application/json", fixture!("200_not_message_braces.json")),
        ok("application/json", fixture!("200_not_message_null.json")),
        ok("application/json", fixture!("200_not_message_error.json")),
        ok("text/html", fixture!("200_not_message_page.html")),
        ok("application/json", fixture!("200_not_message_page.html")),
        ok("text/event-stream", fixture!("200_not_message_done.txt")),
        ok("text/event-stream", fixture!("200_not_message_error.json")),
        ok("application/json", "[]"),
        ok("text/plain", "service unavailable"),
        ok(
            "text/event-stream",
            "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\"}}\n\n",
        ),
        ok(
            "text/event-stream",
            "event: throttlingException\ndata: {\"message\":\"m\"}\n\n",
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn success_without_a_message_is_retried() {
    for reply in without_a_message() {
        let what = format!("{reply:?}");
        let api = Api::new([reply, Reply::fine()]);
        let answer = send(&recommended().layer(api.clone()), request(SONNET, false)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((answer.status, api.seen().len()), (200, 2), "{what}");
        assert!(answer.text().contains("content"), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn success_without_a_message_leads_to_fallback_and_opens_the_circuit() {
    for reply in without_a_message() {
        let what = format!("{reply:?}");
        let bad = reply.clone();
        let api = Api::by_model(move |model| match model {
            SONNET => bad.clone(),
            _ => Reply::fine(),
        });
        let fallback = FallbackModelLayer::new([HAIKU]);
        send(&fallback.layer(api.clone()), request(SONNET, false))
            .await
            .expect("an answer");
        assert_eq!(api.models(), [SONNET, HAIKU], "{what}");
        if what.contains("throttlingException") {
            continue;
        }
        let breaker = CircuitBreakerLayer::new();
        let service = breaker.layer(Api::by_model(move |_| reply.clone()));
        for _ in 0..5 {
            send(&service, request(SONNET, false))
                .await
                .expect("an answer");
        }
        assert_eq!(breaker.handle().snapshot().opened, 1, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn message_that_is_cut_anywhere_is_retried() {
    let length = MESSAGE.len().to_string();
    for at in (0..MESSAGE.len()).step_by(3) {
        for has_length in [false, true] {
            let mut cut = ok("application/json", &MESSAGE[..at]);
            if has_length {
                cut = cut.header("content-length", &length);
            }
            let api = Api::new([cut, Reply::fine()]);
            let answer = send(
                &RetryLayer::new().layer(api.clone()),
                request(SONNET, false),
            )
            .await;
            assert_eq!(answer.expect("an answer").status, 200);
            assert_eq!(api.seen().len(), 2, "cut at {at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn response_without_a_body_is_no_failure() {
    for media in ["text/event-stream", "application/json", "text/html"] {
        for (method, status) in [
            (Method::HEAD, 200),
            (Method::POST, 204),
            (Method::POST, 205),
            (Method::GET, 304),
        ] {
            let what = format!("{method} {status} {media}");
            let stack = recommended();
            let reply = Reply::new(status).header("content-type", media);
            let api = Api::by_model(move |_| reply.clone().header("content-length", "1234"));
            for _ in 0..6 {
                let answer = send(&stack.layer(api.clone()), head(method.clone())).await;
                assert_eq!(answer.expect("an answer").status, status, "{what}");
            }
            assert_calm(&stack, &what);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn misdirected_or_early_request_is_sent_again() {
    for status in [421, 425] {
        let stack = recommended();
        let bad = || ok("text/html", "<html>").into_status(status);
        let api = Api::new([bad(), bad(), Reply::fine()]);
        let answer = send(&stack.layer(api.clone()), request(SONNET, false)).await;
        assert_eq!(answer.expect("an answer").status, 200);
        assert_eq!(api.seen().len(), 3, "{status}");
        assert_eq!(stack.breaker().handle().snapshot().opened, 0, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn delta_without_block_start_is_forwarded_at_once() {
    let stack = recommended();
    let error = [
        Piece::Wait(tower_claude_tests::SECOND * 20),
        Piece::data(sse::ERROR),
    ];
    let pieces = [sse::START, sse::DELTA, sse::DELTA].map(Piece::data);
    let api = Api::new([Reply::stream(pieces.into_iter().chain(error))]);
    let answer = send(&stack.layer(api.clone()), request(SONNET, true))
        .await
        .expect("an answer");
    // The error comes after content, so the request is not sent again.
    assert!(answer.text().contains("overloaded_error"));
    assert_eq!(api.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn error_that_no_wait_changes_delays_no_other_request() {
    let long = || Reply::json(429, fixture!("429_long_context.json"));
    let gateway = || {
        let text = "spend limit reached (daily; resets at 00:00)";
        error(429, "rate_limit_error", text, "").header("x-should-retry", "false")
    };
    let credits =
        || error(429, "rate_limit_error", "m", "credits_required").header("retry-after", "7200");
    let plain = || Reply::error(429, "rate_limit_error").header("x-should-retry", "false");
    for (reply, falls_back) in [
        (long(), true),
        (gateway(), false),
        (credits(), false),
        (plain(), true),
    ] {
        let what = format!("{reply:?}");
        let stack = recommended();
        let bad = reply.clone();
        let api = Api::by_model(move |_| bad.clone());
        for _ in 0..8 {
            let answer = send(&stack.layer(api.clone()), request(SONNET, false)).await;
            assert_eq!(answer.expect("an answer").status, 429, "{what}");
        }
        assert_eq!(api.arrivals(), [0; 8], "{what}");
        assert_calm(&stack, &what);
        let stack = recommended().with_fallback([HAIKU]);
        let api = Api::by_model(move |model| match model {
            SONNET => reply.clone(),
            _ => Reply::fine(),
        });
        for _ in 0..4 {
            send(&stack.layer(api.clone()), request(SONNET, false))
                .await
                .expect("an answer");
        }
        // The model asked for stays the first.
        let each: &[&str] = if falls_back {
            &[SONNET, HAIKU]
        } else {
            &[SONNET]
        };
        assert_eq!(api.models(), each.repeat(4), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn error_of_the_request_leads_to_no_other_model() {
    for (status, code) in [
        (404, "thread_not_found"),
        (400, "thread_already_continued"),
        (404, "file_expired"),
        (404, ""),
        (400, "organization_on_hold"),
        (400, "cmek_key_disabled"),
        (413, "request_body_too_large_after_decoding"),
    ] {
        let stack = recommended().with_fallback([HAIKU]);
        let api =
            Api::by_model(move |_| error(status, "invalid_request_error", "File not found", code));
        let answer = send(&stack.layer(api.clone()), request(SONNET, false)).await;
        assert_eq!(answer.expect("an answer").status, status, "{code}");
        assert_eq!(api.models(), [SONNET], "{code}");
    }
    for (status, message, code) in [
        (404, "model: claude-sonnet-5-5", ""),
        (403, "m", "model_access_suspended"),
        (403, "No access to model claude-sonnet-5-5", ""),
        (400, "must have data retention enabled", ""),
    ] {
        let stack = recommended().with_fallback([HAIKU]);
        let api = Api::by_model(move |model| match model {
            SONNET => error(status, "invalid_request_error", message, code),
            _ => Reply::fine(),
        });
        let answer = send(&stack.layer(api.clone()), request(SONNET, false)).await;
        assert_eq!(answer.expect("an answer").status, 200, "{message} {code}");
        assert_eq!(api.models(), [SONNET, HAIKU], "{message} {code}");
    }
}

/// A client that does not follow redirects returns them.
#[tokio::test(start_paused = true)]
async fn redirect_is_an_error_that_is_neither_retried_nor_held_against_the_model() {
    for status in [301, 302, 303, 304, 307, 308] {
        for location in [
            "https://elsewhere.test/v1/messages",
            "/v1/other",
            "//x",
            "%%%",
        ] {
            let api = Api::by_model(move |_| {
                Reply::new(status)
                    .header("location", location)
                    .header("content-type", "application/json")
            });
            let stack = recommended().with_fallback([HAIKU]);
            let service = stack.layer(api.clone());
            for stream in [false, true].repeat(10) {
                let answer = send(&service, request(SONNET, stream))
                    .await
                    .expect("a response");
                assert_eq!(
                    (answer.status, answer.kind(), answer.header("location")),
                    (status, Some(Kind::BadRequest), location)
                );
            }
            assert_eq!(api.seen().len(), 20);
            assert_calm(&stack, location);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn redirect_of_a_file_and_unchanged_list_are_no_errors() {
    for (path, status) in [("/v1/files/f/content", 302), ("/v1/models", 304)] {
        let api =
            Api::by_model(move |_| Reply::new(status).header("location", "https://files.test"));
        let mut request = head(Method::GET);
        *request.uri_mut() = format!("http://localhost{path}").parse().expect("a URI");
        let answer = send(&recommended().layer(api), request)
            .await
            .expect("a response");
        assert_eq!((answer.status, answer.kind()), (status, None), "{path}");
    }
}
