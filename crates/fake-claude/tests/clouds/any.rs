//! No request makes a cloud panic.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use proptest::prelude::*;
use tower_claude_fake_claude::{FakeClaude, FakeCloud};

use crate::send;

static CLOUDS: LazyLock<[FakeClaude; 4]> = LazyLock::new(|| {
    let clouds = [
        FakeCloud::bedrock("us-east-1").access_key("AKID", "secret"),
        FakeCloud::bedrock("us-east-1"),
        FakeCloud::bedrock_messages("us-east-1"),
        FakeCloud::vertex("p", "global"),
    ];
    clouds.map(|cloud| FakeClaude::builder().cloud(cloud).build())
});

const PLACE: &str = "/v1/projects/p/locations/global/publishers/anthropic/models/";

fn path() -> impl Strategy<Value = String> {
    let id = prop_oneof![
        "(us\\.|eu\\.|)anthropic\\.claude-[a-z0-9-]{0,9}(-v[0-9])?(:[0-9])?",
        "claude-[a-z]{0,5}-[0-9]{0,2}-[0-9]{0,9}@?[0-9]{0,8}",
        "arn:aws(:[a-z0-9-]{0,9}){0,5}(%2[Ff][a-z.-]{0,9})?",
        "[!-~&&[^?#\"<>\\\\^`{|}]]{0,12}",
    ];
    let start = prop::sample::select(vec!["/", "/model/", "/anthropic/v1/messages", PLACE]);
    let end = prop::sample::select(vec![
        "",
        "/invoke",
        "/invoke-with-response-stream",
        ":rawPredict",
        ":streamRawPredict",
        "/count_tokens",
    ]);
    (start, id, end).prop_map(|(start, id, end)| format!("{start}{id}{end}"))
}

fn authorization() -> impl Strategy<Value = String> {
    prop_oneof![
        "Bearer [ -~]{0,8}",
        "AWS4-HMAC-SHA256 [ -~]{0,40}",
        "AWS4-HMAC-SHA256 Credential=AKID/[0-9]{0,8}/us-east-1/bedrock/aws4_request, SignedHeaders=[a-z;-]{0,20}, Signature=[0-9a-f]{0,4}",
        "[ -~]{0,20}",
    ]
}

fn body() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec![
        "1",
        "null",
        "true",
        "\"a\"",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "[null]",
        "-1e999",
        "\"\\ud800\"",
        "\"bedrock-2023-05-31\"",
        "\"2026-10-21\"",
        "[{\"content\":[{\"source\":{\"type\":\"url\"}}]}]",
        "[{\"content\":[{\"type\":\"thinking\",\"signature\":\"ZmFrZQ==\"}]}]",
    ]);
    let name = prop::sample::select(vec![
        "anthropic_version",
        "anthropic_beta",
        "model",
        "stream",
        "messages",
        "max_tokens",
        "tools",
        "system",
        "thinking",
        "output_config",
        "cache_control",
        "x",
    ]);
    let object = prop::collection::vec((name, value), 0..6).prop_map(|fields| {
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    });
    prop_oneof![9 => object, 1 => ".{0,20}"]
}

proptest! {
    #[test]
    fn any_request_to_a_cloud_is_answered(
        path in path(),
        authorization in authorization(),
        body in body(),
        date in prop_oneof![Just("20150830T123600Z".to_owned()), "[ -~]{0,20}"],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for fake in CLOUDS.iter() {
            let Ok(request) = Request::post(&path)
                .header("authorization", &authorization)
                .header("anthropic-version", HeaderValue::from_static("2023-06-01"))
                .header("x-amz-date", &date)
                .body(Full::new(Bytes::from(body.clone())))
            else {
                return Ok(());
            };
            let answer = runtime.block_on(async {
                send(fake, request).await
            });
            prop_assert!((200..600).contains(&answer.status));
        }
    }
}
