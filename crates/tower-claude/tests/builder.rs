//! The layers as methods of tower's builder.

use std::any::type_name_of_val;

use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_claude::{RequestBody, ServiceBuilderExt, recommended};
use tower_claude_fake_claude::FakeClaude;

fn request() -> http::Request<RequestBody> {
    let body = r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#;
    http::Request::post("http://localhost/v1/messages")
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(RequestBody::from(body))
        .expect("a request")
}

/// Six separate layers would have six drivers, and so another type.
#[tokio::test(start_paused = true)]
async fn claude_recommended_builds_the_service_of_recommended() {
    fn assert_same<T>(_: &T, _: &T) {}
    let fake = FakeClaude::builder().build();
    let built = ServiceBuilder::new()
        .claude_recommended()
        .service(fake.clone());
    let layered = recommended().layer(fake);
    assert_same(&built, &layered);
    let drivers = type_name_of_val(&built).matches("::Driver<").count();
    assert_eq!(drivers, 1, "{}", type_name_of_val(&built));
    let response = built.oneshot(request()).await.expect("a response");
    assert!(response.status().is_success());
}
