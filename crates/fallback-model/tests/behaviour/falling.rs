//! The outcomes that lead to a fallback, and those that do not.

use std::{
    future::Ready,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt};
use tower_claude_core::{Deadline, Dimension, Kind, RejectReason, Rejection, RequestBody};
use tower_claude_fallback_model::{FallbackModelLayer, RewriteOptions};

use crate::api::*;

/// Returns the status, and the models that were sent the request, for this response of Opus.
async fn asked(reply: Reply) -> (u16, Vec<String>) {
    let api = opus(reply);
    let answer = through(&layer().0, &api).await;
    assert_eq!(api.alive(), 0);
    (answer.status, api.models())
}

#[tokio::test(start_paused = true)]
async fn failure_that_another_model_may_avoid_leads_to_fallback() {
    let refused = |reason| {
        let class = Rejection::new("inside", reason).class();
        Reply::error(529, "overloaded_error").extension(class)
    };
    let second = SECOND;
    for reply in [
        Reply::overloaded(),
        Reply::error(500, "api_error"),
        Reply::error(504, "timeout_error"),
        Reply::no_model(),
        Reply::rate_limited("5"),
        Reply::stream([data(START), data(ERROR)]),
        Reply::stream([data(START), data(PING)]),
        Reply::stream([data(START), Piece::Broken]),
        Reply::json(200, r#"{"type":"mess"#),
        Reply::overloaded().header("x-should-retry", "false"),
        refused(RejectReason::CircuitOpen {
            because: Kind::Overloaded,
        }),
        refused(RejectReason::WaitTooLong {
            estimated: second,
            max_wait: second,
        }),
        refused(RejectReason::DeadlineWouldPass {
            estimated: second,
            remaining: second,
        }),
    ] {
        let what = format!("{reply:?}");
        assert_eq!(
            asked(reply).await,
            (200, vec![OPUS.into(), SONNET.into()]),
            "{what}"
        );
    }
    let api = opus(Reply::broken(io::ErrorKind::ConnectionRefused));
    assert_eq!(through(&layer().0, &api).await.by(), SONNET);
}

/// A client that fails to become ready, and the number of attempts.
#[derive(Clone, Default)]
struct Unready(Arc<AtomicU32>);

impl Service<Request<RequestBody>> for Unready {
    type Response = Response<Full<Bytes>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        unreachable!("it is not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_fails_to_become_ready_is_polled_once_per_model() {
    let client = Unready::default();
    let answer = layer().0.layer(client.clone()).oneshot(request()).await;
    assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(client.0.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn failure_of_every_model_leads_to_no_fallback() {
    let oversized = Rejection::new(
        "limiter",
        RejectReason::Oversized {
            dimension: Dimension::InputTokens,
            cost: 2,
            limit: 1,
        },
    );
    let unpaid = Reply::json(
        429,
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
    );
    for reply in [
        Reply::error(400, "invalid_request_error"),
        Reply::error(401, "authentication_error"),
        Reply::error(402, "billing_error"),
        Reply::error(403, "permission_error"),
        Reply::error(409, "conflict_error"),
        Reply::error(413, "request_too_large"),
        Reply::error(413, "request_too_large").extension(oversized.class()),
        Reply::error(418, "teapot_error").header("x-should-retry", "true"),
        unpaid,
    ] {
        let (status, models) = asked(reply).await;
        assert!(status >= 400);
        assert_eq!(models, [OPUS]);
    }
}

#[tokio::test(start_paused = true)]
async fn failure_after_content_leads_to_no_fallback() {
    for (reply, breaks) in [
        (
            Reply::stream([data(START), data(CONTENT), data(ERROR)]),
            false,
        ),
        (
            Reply::stream([data(START), data(CONTENT), Piece::Broken]),
            true,
        ),
        (
            Reply::stream([data(START), data(CONTENT), data(DELTA)]),
            false,
        ),
    ] {
        let api = opus(reply);
        let answer = through(&layer().0, &api).await;
        assert_eq!((answer.status, answer.error.is_some()), (200, breaks));
        assert!(answer.text().contains("content_block_start"));
        assert_eq!(api.models(), [OPUS]);
    }
}

/// Opus 4.8 and 4.7 share a rate group.
#[tokio::test(start_paused = true)]
async fn rate_limit_leads_to_another_rate_group_only() {
    let layer = FallbackModelLayer::new(["claude-opus-4-7", SONNET]);
    for (status, expected) in [
        (429, ["claude-opus-4-8", SONNET].as_slice()),
        (529, &["claude-opus-4-8", "claude-opus-4-7"]),
    ] {
        let api = Api::by_model(move |model| match model {
            "claude-opus-4-8" => Reply::error(status, "error"),
            _ => Reply::fine(),
        });
        let request = asking("claude-opus-4-8", "");
        let answer = send(&layer.layer(api.clone()), request).await.unwrap();
        assert_eq!(
            (answer.status, api.models().as_slice()),
            (
                200,
                expected
                    .iter()
                    .map(|m| (*m).to_owned())
                    .collect::<Vec<_>>()
                    .as_slice()
            )
        );
    }
    // No other model is left: the caller gets the 429 unchanged.
    let layer = FallbackModelLayer::new(["claude-opus-4-7"]);
    let api = Api::by_model(|_| Reply::rate_limited("5"));
    let request = asking("claude-opus-4-8", "");
    let answer = send(&layer.layer(api.clone()), request).await.unwrap();
    assert_eq!((answer.status, api.models().len()), (429, 1));
    assert_eq!(answer.class().retry_after, Some(5 * SECOND));
}

/// The model asked for is not tried either, if it was skipped and a stand-in of its group is
/// limited.
#[tokio::test(start_paused = true)]
async fn rate_limit_of_a_stand_in_excludes_its_rate_group() {
    let asked = "claude-opus-4-8";
    let layer = FallbackModelLayer::new(["claude-opus-4-7", SONNET]);
    let overloaded = Api::by_model(move |model| match model {
        model if model == asked => Reply::overloaded(),
        _ => Reply::fine(),
    });
    for _ in 0..3 {
        let service = layer.layer(overloaded.clone());
        send(&service, asking(asked, "")).await.unwrap();
    }
    let api = Api::by_model(|model| match model {
        "claude-opus-4-7" => Reply::rate_limited("5").after(60 * SECOND),
        _ => Reply::fine(),
    });
    let answer = send(&layer.layer(api.clone()), asking(asked, "")).await;
    assert_eq!(answer.unwrap().by(), SONNET);
    assert_eq!(api.models(), ["claude-opus-4-7", SONNET]);
}

#[tokio::test(start_paused = true)]
async fn model_in_the_list_is_not_its_own_stand_in() {
    let api = opus(Reply::overloaded());
    let answer = through(&FallbackModelLayer::new([SONNET, OPUS]), &api).await;
    assert_eq!((answer.by(), api.models().len()), (SONNET, 2));
    let api = opus(Reply::overloaded());
    let dressed = ["us.anthropic.claude-opus-5-5-v1:0", SONNET];
    let answer = through(&FallbackModelLayer::new(dressed), &api).await;
    assert_eq!(
        (answer.by(), api.models()),
        (SONNET, vec![OPUS.to_owned(), SONNET.to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn refusal_leads_to_fallback_only_if_enabled() {
    let declined = || {
        let json = r#"{"type":"message","content":[],"stop_reason":"refusal"}"#;
        let delta = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"refusal\"}}\n\n";
        [
            Reply::json(200, json),
            Reply::stream([data(START), data(delta), data(STOP)]),
        ]
    };
    for reply in declined() {
        assert_eq!(asked(reply.clone()).await, (200, vec![OPUS.into()]));
        let api = opus(reply);
        let answer = through(&layer().0.with_refusals(true), &api).await;
        assert_eq!((answer.status, answer.by()), (200, SONNET));
        assert_eq!(answer.served().unwrap().why.kind, Kind::ModelRefusal);
    }
    // If all models decline, the caller gets the response.
    let [reply, _] = declined();
    let api = Api::by_model(move |_| reply.clone());
    let answer = through(&layer().0.with_refusals(true), &api).await;
    assert!(answer.status == 200 && answer.text().contains("refusal"));
    assert_eq!(api.models().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn only_buffered_messages_requests_are_sent_to_another_model() {
    let uri = |path: &str| format!("https://api.anthropic.com{path}");
    let (layer, _) = layer();
    for (method, path) in [
        (Method::POST, "/v1/messages/count_tokens"),
        (Method::POST, "/v1/messages/batches"),
        (Method::GET, "/v1/messages"),
        (Method::GET, "/v1/models"),
    ] {
        let api = Api::by_model(|_| Reply::overloaded());
        let mut request = request();
        *request.method_mut() = method;
        *request.uri_mut() = uri(path).parse().unwrap();
        let answer = send(&layer.layer(api.clone()), request).await.unwrap();
        assert_eq!((answer.status, api.models().len()), (529, 1), "{path}");
    }
    for body in ["", "no json", r#"{"max_tokens":1}"#] {
        let api = Api::by_model(|_| Reply::overloaded());
        let request = Request::post(uri("/v1/messages"))
            .body(RequestBody::from(body))
            .unwrap();
        let answer = send(&layer.layer(api.clone()), request).await.unwrap();
        assert_eq!((answer.status, api.models().len()), (529, 1), "{body}");
    }
    let api = Api::by_model(|_| Reply::overloaded());
    let long = request().map(|body| Full::new(body.bytes().expect("buffered").clone()));
    let short = layer.with_body_limit(10).layer(api.clone());
    let response = short.oneshot(long).await.unwrap();
    assert_eq!((response.status().as_u16(), api.seen().len()), (529, 1));
}

#[tokio::test(start_paused = true)]
async fn each_target_gets_a_rewrite_of_the_original_request() {
    let api = both(Reply::overloaded(), Reply::overloaded());
    let (layer, events) = layer();
    // Opus takes the effort that Haiku 4.5 rejects.
    let layer = layer.with_chain(OPUS, [SONNET, "claude-haiku-4-5", HAIKU]);
    let mut request = asking(OPUS, r#","output_config":{"effort":"xhigh"}"#);
    let length = request.body().bytes().expect("buffered").len();
    request
        .headers_mut()
        .insert("content-length", length.into());
    let answer = send(&layer.layer(api.clone()), request).await.unwrap();
    assert_eq!(answer.by(), "claude-haiku-4-5");
    assert_eq!(answer.served().unwrap().hops, 3);
    let bodies: Vec<_> = api
        .seen()
        .iter()
        .map(|seen| String::from_utf8(seen.body.to_vec()).unwrap())
        .collect();
    assert!(
        bodies[0].contains("xhigh") && bodies[1].contains("xhigh"),
        "{bodies:?}"
    );
    assert!(!bodies[2].contains("effort"), "{bodies:?}");
    for seen in api.seen() {
        assert_eq!(seen.headers["x-api-key"], "key-a");
        let length = seen.body.len().to_string();
        assert_eq!(seen.headers["content-length"], length, "{}", seen.model);
    }
    assert_eq!(
        events.lines(),
        ["opus -> sonnet overloaded", "sonnet -> haiku overloaded"]
    );
}

/// Sonnet 5.5 rejects a forced tool.
#[tokio::test(start_paused = true)]
async fn unportable_request_skips_the_target() {
    let more =
        r#","tools":[{"name":"t","input_schema":{"type":"object"}}],"tool_choice":{"type":"any"}"#;
    let model = "claude-opus-5";
    let api = Api::by_model(move |asked| {
        if asked == model {
            Reply::overloaded()
        } else {
            Reply::fine()
        }
    });
    let (layer, _) = layer();
    let answer = send(&layer.layer(api.clone()), asking(model, more))
        .await
        .unwrap();
    assert_eq!((answer.status, answer.by()), (200, HAIKU));
    assert_eq!(api.models(), [model, HAIKU]);
    // No stand-in accepts the request, so the model is tried although it is out.
    let layer = FallbackModelLayer::new([SONNET]);
    api.forget();
    for _ in 0..5 {
        let answer = send(&layer.layer(api.clone()), asking(model, more))
            .await
            .unwrap();
        assert_eq!(answer.status, 529);
    }
    assert_eq!(api.models(), [model; 5]);
}

#[tokio::test(start_paused = true)]
async fn passed_deadline_ends_the_fallback() {
    let late = || Reply::overloaded().after(10 * SECOND);
    let api = opus(late());
    let (layer, events) = layer();
    let with_deadline = |wait: Duration| {
        let mut request = request();
        request
            .extensions_mut()
            .insert(Deadline(tokio::time::Instant::now() + wait));
        request
    };
    let service = layer.layer(api.clone());
    let answer = send(&service.clone(), with_deadline(10 * SECOND))
        .await
        .unwrap();
    assert_eq!((answer.status, api.models().len()), (529, 1));
    let answer = send(&service, with_deadline(11 * SECOND)).await.unwrap();
    assert_eq!(answer.by(), SONNET);
    assert_eq!(events.lines()[0], "opus gave up 1 overloaded deadline");
}

/// Sonnet takes 30 s for each response. The latency of Haiku is not known.
#[tokio::test(start_paused = true)]
async fn stand_in_slower_than_the_deadline_is_skipped() {
    let api = both(Reply::overloaded(), Reply::fine().after(30 * SECOND));
    let (layer, _) = layer();
    assert_eq!(through(&layer, &api).await.by(), SONNET);
    let mut request = request();
    let deadline = Deadline(tokio::time::Instant::now() + 20 * SECOND);
    request.extensions_mut().insert(deadline);
    let answer = send(&layer.layer(api.clone()), request).await.unwrap();
    assert_eq!(answer.by(), HAIKU);
}

#[tokio::test(start_paused = true)]
async fn failed_response_is_dropped_before_the_next_request() {
    let alive = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (api, note) = (opus(Reply::overloaded()), alive.clone());
    let watch = api.clone();
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        note.lock().unwrap().push(watch.alive());
        watch.clone().oneshot(request)
    });
    let answer = send(&layer().0.layer(service), request()).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(*alive.lock().unwrap(), [0, 0]);
}

/// Returns the statuses and the URIs of a call whose path names the model, with this body and
/// chain.
async fn in_path<const N: usize>(path: &str, body: &str, chain: [&str; N]) -> (u16, Vec<String>) {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = seen.clone();
    let api = tower::service_fn(move |request: Request<RequestBody>| {
        let body = String::from_utf8(request.body().bytes().expect("buffered").to_vec()).unwrap();
        let length = request.headers().get("content-length").cloned();
        assert!(length.is_none_or(|length| length == body.len().to_string()));
        let uri = request.uri().to_string();
        let status = if uri.contains("opus") { 529 } else { 200 };
        log.lock().unwrap().push(format!("{uri} {body}"));
        async move {
            let response = http::Response::builder().status(status);
            Ok::<_, std::io::Error>(response.body(Full::new(bytes::Bytes::from("ok"))).unwrap())
        }
    });
    let request = Request::post(path)
        .header("authorization", "Bearer k")
        .body(RequestBody::from(body.to_owned()))
        .unwrap();
    let service = FallbackModelLayer::new(chain).layer(api);
    let status = send(&service, request).await.unwrap().status;
    let seen = seen.lock().unwrap().clone();
    (status, seen)
}

#[tokio::test(start_paused = true)]
async fn model_in_the_path_is_replaced_where_the_platform_allows() {
    let vertex = "https://h/v1/projects/p/locations/l/publishers/anthropic/models";
    let body = r#"{ "anthropic_version":"vertex-2023-10-16","max_tokens":9,"messages":[]}"#;
    let (status, seen) = in_path(
        &format!("{vertex}/claude-opus-5-5:streamRawPredict?alt=sse"),
        body,
        [SONNET],
    )
    .await;
    assert_eq!(status, 200);
    // The rewrite adds fields behind those of the original, and no model remains.
    let is_sent = |seen: &[String], uri: &str, body: &str| {
        let fields = body.strip_suffix('}').unwrap();
        let last = seen.last().unwrap();
        last.starts_with(&format!("{uri} {fields}")) && !last.contains("\"model\"")
    };
    let uri = format!("{vertex}/{SONNET}:streamRawPredict?alt=sse");
    assert!(is_sent(&seen, &uri, body), "{seen:?}");
    let bedrock = r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[]}"#;
    let opus = "https://h/model/us.anthropic.claude-opus-4-5-20251101-v1%3A0/invoke";
    let stand_in = "us.anthropic.claude-sonnet-4-6";
    let (status, seen) = in_path(opus, bedrock, [stand_in]).await;
    assert_eq!(status, 200);
    let uri = format!("https://h/model/{stand_in}/invoke");
    assert!(is_sent(&seen, &uri, bedrock), "{seen:?}");
    // Names of another platform, a version that older models reject, and a signed URI.
    for (path, body, stand_in) in [
        (opus, bedrock, SONNET),
        (opus, body, stand_in),
        (&format!("{opus}?X-Amz-Signature=0"), bedrock, stand_in),
        (
            &format!("{vertex}/claude-opus-5-5:rawPredict"),
            body,
            stand_in,
        ),
        (
            &format!("{vertex}/claude-opus-5-5:rawPredict"),
            "no json",
            SONNET,
        ),
    ] {
        let (status, seen) = in_path(path, body, [stand_in]).await;
        assert_eq!((status, seen.len()), (529, 1), "{path} {stand_in}");
    }
}

#[tokio::test(start_paused = true)]
async fn model_at_an_unknown_endpoint_is_reported_once() {
    let api = Api::by_model(|_| Reply::overloaded());
    let (layer, events) = layer();
    for _ in 0..3 {
        let mut request = request();
        *request.uri_mut() = "https://gateway/v2/chat".parse().unwrap();
        let answer = send(&layer.layer(api.clone()), request).await.unwrap();
        assert_eq!(answer.status, 529);
    }
    assert_eq!(events.lines(), ["fallback-model inactive endpoint"]);
    let silent = FallbackModelLayer::new::<&str>([]).with_observer(events.clone());
    let mut request = request();
    *request.uri_mut() = "https://gateway/v2/chat".parse().unwrap();
    send(&silent.layer(api), request).await.unwrap();
    assert_eq!(events.lines().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn prompt_too_long_for_the_model_goes_to_a_larger_window_if_allowed() {
    const SMALL: &str = "claude-haiku-4-5";
    let too_long = r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#;
    let api = || {
        Api::by_model(move |model| match model {
            SMALL => Reply::json(400, too_long),
            _ => Reply::fine(),
        })
    };
    let layer = FallbackModelLayer::new(["claude-opus-4-5", SONNET]);
    for (allowed, served) in [(false, ""), (true, SONNET)] {
        let (layer, api) = (layer.clone().with_larger_windows(allowed), api());
        for _ in 0..5 {
            let answer = send(&layer.layer(api.clone()), asking(SMALL, ""))
                .await
                .unwrap();
            assert_eq!((answer.by(), answer.status == 200), (served, allowed));
        }
        // The model itself stays in use.
        let asked = |model: &str| api.seen().iter().filter(|seen| seen.model == model).count();
        assert_eq!((asked(SMALL), asked("claude-opus-4-5")), (5, 0));
    }
    // Another invalid request stays invalid.
    let api = Api::by_model(|_| Reply::error(400, "invalid_request_error"));
    let layer = layer.with_larger_windows(true);
    let answer = send(&layer.layer(api.clone()), asking(SMALL, ""))
        .await
        .unwrap();
    assert_eq!((answer.status, api.seen().len()), (400, 1));
}

#[tokio::test(start_paused = true)]
async fn settings_of_the_rewrite_allow_the_loss_of_a_forced_tool() {
    let forced = || asking("claude-sonnet-5", r#","tool_choice":{"type":"any"}"#);
    for (lose, served) in [(false, HAIKU), (true, SONNET)] {
        let api = Api::by_model(|model| match model {
            "claude-sonnet-5" => Reply::overloaded(),
            _ => Reply::fine(),
        });
        let options = RewriteOptions::new().with_forced_tool_choice_lost(lose);
        let layer = FallbackModelLayer::new([SONNET, HAIKU]).with_rewrite(options);
        let answer = send(&layer.layer(api), forced()).await.unwrap();
        assert_eq!(answer.by(), served);
    }
}
