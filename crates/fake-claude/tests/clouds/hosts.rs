//! Several servers behind their host names.

use http::Request;
use serde_json::json;
use tower::ServiceExt as _;
use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeError, FakeHosts};

use crate::{INVOKE, invoke_body, post};

#[test]
fn host_is_that_of_the_platform() {
    for (cloud, host) in [
        (
            FakeCloud::bedrock_messages("us-east-1"),
            "bedrock-mantle.us-east-1.api.aws",
        ),
        (
            FakeCloud::bedrock("eu-west-1"),
            "bedrock-runtime.eu-west-1.amazonaws.com",
        ),
        (
            FakeCloud::vertex("p", "global"),
            "aiplatform.googleapis.com",
        ),
        (
            FakeCloud::vertex("p", "eu"),
            "aiplatform.eu.rep.googleapis.com",
        ),
        (
            FakeCloud::vertex("p", "us-east5"),
            "us-east5-aiplatform.googleapis.com",
        ),
    ] {
        assert_eq!(cloud.host(), host);
    }
    assert_eq!(FakeClaude::default().host(), "api.anthropic.com");
}

#[tokio::test(start_paused = true)]
async fn request_goes_to_the_server_with_its_host() {
    let east = FakeClaude::builder()
        .cloud(FakeCloud::bedrock("us-east-1"))
        .build();
    let west = FakeClaude::builder()
        .cloud(FakeCloud::bedrock("us-west-2"))
        .build();
    let hosts = FakeHosts::new()
        .with_server(east.clone())
        .with_server(west.clone())
        .with_host("proxy:8080", east.clone());
    let to = |host: &str| {
        let mut request = post(INVOKE, &invoke_body(&json!({})));
        *request.uri_mut() = format!("https://{host}{INVOKE}").parse().unwrap();
        request
    };
    for host in [
        "bedrock-runtime.us-west-2.amazonaws.com",
        "BEDROCK-RUNTIME.us-west-2.amazonaws.com:443",
        "proxy:8080",
    ] {
        let response = hosts.clone().oneshot(to(host)).await.unwrap();
        assert_eq!(response.status(), 200, "{host}");
    }
    assert_eq!([east.log_len(), west.log_len()], [1, 2]);
    let mut request = post(INVOKE, &invoke_body(&json!({})));
    let host = "bedrock-runtime.us-east-1.amazonaws.com";
    request.headers_mut().insert("host", host.parse().unwrap());
    assert_eq!(hosts.clone().oneshot(request).await.unwrap().status(), 200);
    assert_eq!(east.log_len(), 2);
}

#[tokio::test(start_paused = true)]
async fn request_to_another_host_fails_as_a_connection_does() {
    let hosts = FakeHosts::new().with_server(FakeClaude::default());
    let request: Request<http_body_util::Full<bytes::Bytes>> = post(INVOKE, &json!({}));
    let error = hosts.oneshot(request).await.err().unwrap();
    assert_eq!(error, FakeError::UnknownHost);
    let source = std::error::Error::source(&error).unwrap();
    let source = source.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::HostUnreachable);
}
