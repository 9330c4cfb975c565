//! Tests against the fake API.

use tower::{Layer, ServiceExt};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_tests::read;

use crate::api::*;

async fn ask(
    service: &(
         impl tower::Service<
        http::Request<tower_claude_core::RequestBody>,
        Response = http::Response<impl http_body::Body<Data = bytes::Bytes> + Unpin>,
        Error = impl std::fmt::Debug,
    > + Clone
     ),
    stream: bool,
) -> (u16, String, String) {
    let response = service
        .clone()
        .oneshot(marked("Tell me a story", stream))
        .await
        .expect("an answer");
    let said = response
        .headers()
        .get("x-tower-claude-cache")
        .map(|said| said.to_str().expect("text").to_owned());
    let status = response.status().as_u16();
    let (text, _, _) = read(response.into_body()).await;
    (
        status,
        said.unwrap_or_default(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[tokio::test(start_paused = true)]
async fn repeated_request_reaches_the_api_once() {
    for stream in [false, true] {
        let fake = FakeClaude::builder().build();
        let service = layer().layer(fake.clone());
        let (_, first, text) = ask(&service, stream).await;
        let (status, second, again) = ask(&service, stream).await;
        assert_eq!(
            (status, first.as_str(), second.as_str()),
            (200, "miss", "hit"),
            "{text}"
        );
        assert_eq!((text, fake.log_len()), (again, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn injected_fault_is_not_stored() {
    for fault in [
        Fault::Overloaded,
        Fault::ServerError,
        Fault::RateLimitedBare,
        Fault::SpendCap,
        Fault::ErrorBeforeContent,
        Fault::ErrorMidStream { after_tokens: 3 },
        Fault::Truncated { after_tokens: 3 },
        Fault::TruncatedBeforeContent,
    ] {
        let fake = FakeClaude::builder().build();
        fake.inject(fault.clone());
        let layer = layer();
        let service = layer.layer(fake.clone());
        let _ = ask(&service, true).await;
        assert_eq!(layer.handle().snapshot().stored, 0, "{fault:?}");
        let (status, said, text) = ask(&service, true).await;
        assert_eq!(
            (status, said.as_str(), fake.log_len()),
            (200, "miss", 2),
            "{fault:?}"
        );
        assert!(text.contains("message_stop"));
    }
}
