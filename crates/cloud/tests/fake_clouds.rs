//! The layer over the fake clouds, which check requests as the clouds do.

use std::time::Duration;

use http::Request;
use tokio::time::advance;
use tower::util::BoxCloneSyncService;
use tower_claude_cloud::{Bearer, CloudLayer, Issued, Native};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{
    FakeClaude, FakeCloud, FakeCredential, FakeError, FakeHosts, Fault,
};
use tower_claude_tests::{HOUR, Received, prompt, request, send_ok};
use tower_claude_wire::{ApiError, cloud::Target};
use tower_layer::Layer;

const OPUS: &str = "claude-opus-5-5";

fn server(cloud: FakeCloud) -> FakeClaude {
    FakeClaude::builder().cloud(cloud).build()
}

fn bearer(token: &str) -> Bearer {
    Bearer::fixed(token).expect("a token")
}

fn messages() -> Target {
    Target::bedrock_messages("us-east-1").expect("a target")
}

fn vertex() -> Target {
    Target::vertex("project", "global").expect("a target")
}

async fn call(
    layer: &CloudLayer,
    servers: &FakeHosts,
    request: Request<RequestBody>,
) -> Received<FakeError> {
    send_ok(&layer.layer(servers.clone()), request).await
}

/// Marks a request for a target.
fn to(target: &Target, mut request: Request<RequestBody>) -> Request<RequestBody> {
    request.extensions_mut().insert(target.clone());
    request
}

#[tokio::test(start_paused = true)]
async fn same_request_is_served_by_each_cloud() {
    let hosts = FakeHosts::new()
        .with_server(server(
            FakeCloud::bedrock_messages("us-east-1").bearer("amazon"),
        ))
        .with_server(server(
            FakeCloud::vertex("project", "global").bearer("google"),
        ))
        .with_server(FakeClaude::default());
    let layer = CloudLayer::new()
        .with_target(messages(), bearer("amazon"))
        .with_target(vertex(), bearer("google"));
    let fields = r#","max_tokens":64,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"thinking":{"type":"adaptive"},"tools":[{"name":"n","input_schema":{"type":"object"}}],"fallbacks":"default","service_tier":"auto""#;
    for target in [messages(), vertex(), Target::claude_api()] {
        for stream in [false, true] {
            let body = prompt(OPUS, stream);
            let body = body.replace(r#","max_tokens":256"#, fields);
            let body = match target == Target::claude_api() {
                true => prompt(OPUS, stream),
                false => body,
            };
            let mut sent = request(OPUS, stream);
            *sent.body_mut() = RequestBody::from(body);
            sent.headers_mut()
                .insert("anthropic-beta", "context-1m-2025-08-07".parse().unwrap());
            let got = call(&layer, &hosts, to(&target, sent)).await;
            assert_eq!(got.status, 200, "{target}: {}", got.text());
            assert!(got.is_complete(stream), "{target}: {}", got.text());
            assert_eq!(got.header("x-tower-claude-target"), target.name());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_are_counted_by_both_clouds_that_can() {
    let hosts = FakeHosts::new()
        .with_server(server(FakeCloud::bedrock_messages("us-east-1")))
        .with_server(server(FakeCloud::vertex("project", "global")));
    let layer = CloudLayer::new()
        .with_target(messages(), bearer("a"))
        .with_target(vertex(), bearer("b"));
    for target in [messages(), vertex()] {
        let body = r#"{"model":"claude-opus-5-5","messages":[{"role":"user","content":"Hi"}]}"#;
        let count = Request::post("https://h/v1/messages/count_tokens")
            .header("anthropic-version", "2023-06-01")
            .header("anthropic-beta", "context-1m-2025-08-07")
            .body(RequestBody::from(body))
            .unwrap();
        let got = call(&layer, &hosts, to(&target, count)).await;
        assert_eq!(got.status, 200, "{target}: {}", got.text());
        assert!(got.contains("input_tokens"), "{target}: {}", got.text());
    }
}

#[tokio::test(start_paused = true)]
async fn error_of_google_is_said_in_the_shape_of_the_api() {
    let server = server(FakeCloud::vertex("project", "global"));
    let hosts = FakeHosts::new().with_server(server.clone());
    let layer = CloudLayer::new().with_default_target(vertex(), bearer("b"));
    for (fault, status, kind) in [
        (Fault::RateLimitedBare, 429, "rate_limit_error"),
        (Fault::Unavailable, 503, "overloaded_error"),
    ] {
        server.inject(fault);
        let got = call(&layer, &hosts, request(OPUS, true)).await;
        assert_eq!(got.status, status, "{}", got.text());
        let error = ApiError::parse(&got.body).expect("the shape of the API");
        assert_eq!(error.kind, kind);
        assert!(got.extensions.get::<Native>().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn expired_token_is_replaced_without_a_failure_of_the_caller() {
    let second = FakeCredential::bearer("token-2");
    let first = FakeCredential::bearer("token-1").valid_for(Duration::from_secs(600));
    let cloud = FakeCloud::vertex("project", "global")
        .credential(first)
        .credential(second);
    let server = server(cloud);
    let hosts = FakeHosts::new().with_server(server.clone());
    let calls = std::sync::atomic::AtomicU32::new(0);
    // The source believes in an hour, and the server takes the first token for ten minutes.
    let tokens = Bearer::refreshing(move || {
        let number = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        async move { Ok(Issued::lasting(format!("token-{number}"), HOUR)) }
    });
    let layer = CloudLayer::new().with_default_target(vertex(), tokens);
    for _ in 0..2 {
        let got = call(&layer, &hosts, request(OPUS, false)).await;
        assert_eq!(got.status, 200, "{}", got.text());
        advance(Duration::from_secs(700)).await;
    }
    assert_eq!(server.log_len(), 3);
    let got = call(&layer, &hosts, request(OPUS, true)).await;
    assert!(got.is_complete(true));
    assert_eq!(server.log_len(), 4);
}

#[tokio::test(start_paused = true)]
async fn service_can_be_boxed_and_cloned() {
    let hosts = FakeHosts::new().with_server(FakeClaude::default());
    let service = CloudLayer::new().layer(hosts);
    let boxed: BoxCloneSyncService<Request<RequestBody>, _, _> = BoxCloneSyncService::new(service);
    let mut sent = request(OPUS, false);
    *sent.uri_mut() = "https://api.anthropic.com/v1/messages".parse().unwrap();
    assert_eq!(send_ok(&boxed, sent).await.status, 200);
}

#[cfg(feature = "bedrock")]
mod invoke_model {
    use http::StatusCode;
    use tower_claude_cloud::bedrock::{Credentials, SigV4};
    use tower_claude_core::STREAM_TRUNCATED;
    use tower_claude_fake_claude::FrameFault;
    use tower_claude_wire::cloud::Profile;

    use super::*;

    const ARN: &str =
        "arn:aws:bedrock:us-west-2:111122223333:application-inference-profile/jf2sje1c0jnb";

    fn target() -> Target {
        let target = Target::bedrock("us-west-2").expect("a target");
        target.with_profile(Profile::Us).expect("a target")
    }

    fn signer(target: &Target) -> SigV4 {
        let credentials = Credentials::new("AKID", "secret");
        SigV4::fixed(credentials, "bedrock", "us-west-2").for_target(target)
    }

    fn server() -> FakeClaude {
        let cloud = FakeCloud::bedrock("us-west-2").access_key("AKID", "secret");
        super::server(cloud.arn(ARN, OPUS))
    }

    #[tokio::test(start_paused = true)]
    async fn signed_requests_are_answered_with_messages_and_events() {
        let server = server();
        let hosts = FakeHosts::new().with_server(server.clone());
        let arn = target().with_model("claude-haiku-4-5", ARN).unwrap();
        let layer = CloudLayer::new().with_default_target(arn.clone(), signer(&arn));
        for model in [OPUS, "claude-opus-4-5", "claude-haiku-4-5"] {
            for stream in [false, true] {
                let got = call(&layer, &hosts, request(model, stream)).await;
                assert!(
                    got.is_complete(stream),
                    "{model}: {} {}",
                    got.status,
                    got.text()
                );
            }
        }
        assert_eq!(server.log_len(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn signature_with_another_secret_is_an_authentication_error() {
        let hosts = FakeHosts::new().with_server(server());
        let wrong = SigV4::fixed(Credentials::new("AKID", "other"), "bedrock", "us-west-2");
        let layer = CloudLayer::new().with_default_target(target(), wrong);
        let got = call(&layer, &hosts, request(OPUS, true)).await;
        assert_eq!(got.status, StatusCode::FORBIDDEN, "{}", got.text());
        let error = ApiError::parse(&got.body).expect("the shape of the API");
        assert_eq!(error.kind, "authentication_error");
    }

    #[tokio::test(start_paused = true)]
    async fn model_without_its_profile_is_a_plain_message() {
        let hosts = FakeHosts::new().with_server(server());
        let bare = Target::bedrock("us-west-2").unwrap();
        let layer = CloudLayer::new().with_default_target(bare.clone(), signer(&bare));
        let got = call(&layer, &hosts, request(OPUS, false)).await;
        assert_eq!(got.status, 400);
        assert!(
            got.contains("Set the profile of the target"),
            "{}",
            got.text()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_frames_end_the_stream_with_an_error() {
        let server = server();
        let hosts = FakeHosts::new().with_server(server.clone());
        let layer = CloudLayer::new().with_default_target(target(), signer(&target()));
        let exception = FrameFault::exception("throttlingException", "Too many requests");
        for (how, text) in [
            (exception, "rate_limit_error"),
            (FrameFault::BadChecksum, STREAM_TRUNCATED),
            (FrameFault::BadPrelude, STREAM_TRUNCATED),
            (FrameFault::Cut, STREAM_TRUNCATED),
            (FrameFault::UnknownHeader, STREAM_TRUNCATED),
        ] {
            server.inject(Fault::Frame {
                how: how.clone(),
                after_tokens: 1,
            });
            let got = call(&layer, &hosts, request(OPUS, true)).await;
            assert_eq!(got.status, 200);
            assert!(
                got.contains("event: error") && got.contains(text),
                "{how:?}: {}",
                got.text()
            );
            assert!(!got.contains("message_stop"), "{how:?}");
        }
        for how in [FrameFault::UnknownEvent, FrameFault::Untyped] {
            server.inject(Fault::Frame {
                how,
                after_tokens: 1,
            });
            let got = call(&layer, &hosts, request(OPUS, true)).await;
            assert!(got.is_complete(true), "{}", got.text());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn flat_error_of_a_streaming_call_is_said_in_the_shape_of_the_api() {
        let server = server();
        let hosts = FakeHosts::new().with_server(server.clone());
        let layer = CloudLayer::new().with_default_target(target(), signer(&target()));
        server.inject(Fault::RateLimitedBare);
        let got = call(&layer, &hosts, request(OPUS, true)).await;
        assert_eq!(got.status, 429);
        let error = ApiError::parse(&got.body).expect("the shape of the API");
        assert_eq!(error.kind, "rate_limit_error");
        assert!(got.extensions.get::<Native>().is_some());
    }
}
