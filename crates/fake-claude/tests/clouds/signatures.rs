//! Credentials of AWS.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tower_claude_fake_claude::{FakeClaude, FakeCloud, FakeCredential};

use crate::sign::Signer;
use crate::{Answer, INVOKE, invoke_body, post, send, with_header};

fn signed(cloud: FakeCloud) -> FakeClaude {
    let cloud = cloud.access_key("AKID", "secret");
    FakeClaude::builder().cloud(cloud).build()
}

async fn ask(fake: &FakeClaude, signer: &Signer<'_>) -> Answer {
    let body = invoke_body(&json!({})).to_string();
    send(fake, signer.post(INVOKE, &body)).await
}

fn assert_rejected(answer: &Answer, name: &str, part: &str) {
    assert_eq!(answer.status, 403, "{:?}", answer.body);
    let kind = answer.header("x-amzn-errortype");
    assert_eq!(kind.split(':').next(), Some(name));
    assert!(
        answer.message().contains(part),
        "{part}: {}",
        answer.message()
    );
}

#[tokio::test(start_paused = true)]
async fn signature_is_verified() {
    let fake = signed(FakeCloud::bedrock("us-east-1"));
    let signer = Signer::default();
    assert_eq!(ask(&fake, &signer).await.status, 200);
    assert!(fake.log()[0].completed);
    let wrong = Signer {
        key: ("AKID", "other"),
        ..Signer::default()
    };
    let answer = ask(&fake, &wrong).await;
    assert_rejected(
        &answer,
        "InvalidSignatureException",
        "does not match the signature",
    );
    assert!(answer.message().contains("\nhost:localhost\n"));
    let unknown = Signer {
        key: ("AKOTHER", "secret"),
        ..Signer::default()
    };
    assert_rejected(
        &ask(&fake, &unknown).await,
        "UnrecognizedClientException",
        "invalid",
    );
    // The body and the path are signed.
    let body = invoke_body(&json!({})).to_string();
    let (parts, _) = signer.post(INVOKE, &body).into_parts();
    let other = invoke_body(&json!({"max_tokens": 63})).to_string();
    let changed = http::Request::from_parts(parts, http_body_util::Full::new(other.into()));
    assert_rejected(
        &send(&fake, changed).await,
        "InvalidSignatureException",
        "does not match",
    );
    let mut changed = signer.post(INVOKE, &body);
    *changed.uri_mut() = "/model/us.anthropic.claude-haiku-5-5/invoke"
        .parse()
        .unwrap();
    assert_rejected(
        &send(&fake, changed).await,
        "InvalidSignatureException",
        "does not match",
    );
}

#[tokio::test(start_paused = true)]
async fn scope_of_another_region_or_service_is_rejected() {
    let fake = signed(FakeCloud::bedrock("us-east-1"));
    let other = Signer {
        region: "us-west-2",
        ..Signer::default()
    };
    assert_rejected(
        &ask(&fake, &other).await,
        "InvalidSignatureException",
        "valid region",
    );
    let other = Signer {
        service: "bedrock-mantle",
        ..Signer::default()
    };
    let part = "correct service: 'bedrock'";
    assert_rejected(&ask(&fake, &other).await, "InvalidSignatureException", part);
    // The other host has its own name of the service, and the shape of the Claude API.
    let fake = signed(FakeCloud::bedrock_messages("us-east-1"));
    let body = json!({"model": "anthropic.claude-opus-5-5", "max_tokens": 9, "messages": []});
    let right = other.post("/anthropic/v1/messages", &body.to_string());
    assert_eq!(send(&fake, right).await.status, 200);
    let wrong = Signer::default().post("/anthropic/v1/messages", &body.to_string());
    let answer = send(&fake, wrong).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["type"]),
        (403, &json!("permission_error"))
    );
    // Without keys the scope is checked all the same.
    let any = FakeCloud::bedrock("us-east-1");
    let any = FakeClaude::builder().cloud(any).build();
    assert_eq!(ask(&any, &Signer::default()).await.status, 200);
    assert_eq!(ask(&any, &other).await.status, 403);
}

#[tokio::test(start_paused = true)]
async fn signature_of_another_time_is_rejected() {
    let fake = signed(FakeCloud::bedrock("us-east-1"));
    for offset in [Duration::from_secs(400), Duration::from_secs(40_000_000)] {
        for time in [SystemTime::now() - offset, SystemTime::now() + offset] {
            let signer = Signer {
                time,
                ..Signer::default()
            };
            let answer = ask(&fake, &signer).await;
            assert_rejected(&answer, "InvalidSignatureException", "more than 5 min.");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn temporary_key_needs_its_session_token_and_expires() {
    let hour = Duration::from_secs(3_600);
    let key = FakeCredential::access_key("ASIA", "secret").session_token("session");
    let cloud = FakeCloud::bedrock("us-east-1").credential(key.valid_for(hour));
    let fake = FakeClaude::builder().cloud(cloud).build();
    let temporary = || Signer {
        key: ("ASIA", "secret"),
        session: Some("session"),
        // The wall clock of the server follows the paused clock.
        time: SystemTime::now() + fake.elapsed(),
        ..Signer::default()
    };
    assert_eq!(ask(&fake, &temporary()).await.status, 200);
    for session in [None, Some("other")] {
        let signer = Signer {
            session,
            ..temporary()
        };
        assert_rejected(
            &ask(&fake, &signer).await,
            "UnrecognizedClientException",
            "invalid",
        );
    }
    tokio::time::advance(hour).await;
    // The time of a signer may follow the paused clock of the server or not.
    let real = Signer {
        time: SystemTime::now(),
        ..temporary()
    };
    assert_rejected(&ask(&fake, &real).await, "ExpiredTokenException", "expired");
    let answer = ask(&fake, &temporary()).await;
    assert_rejected(
        &answer,
        "ExpiredTokenException",
        "token included in the request is expired",
    );
    assert_eq!(
        answer.json()["message"],
        "The security token included in the request is expired"
    );
}

#[tokio::test(start_paused = true)]
async fn bearer_is_rejected_unless_known_and_valid() {
    let cloud = FakeCloud::bedrock("us-east-1").bearer("token");
    let fake = FakeClaude::builder().cloud(cloud).build();
    let request = || post(INVOKE, &invoke_body(&json!({})));
    assert_eq!(send(&fake, request()).await.status, 200);
    let other = with_header(request(), "authorization", "Bearer other");
    let answer = send(&fake, other).await;
    assert_rejected(
        &answer,
        "AccessDeniedException",
        "make sure your API Key is valid",
    );
    // The check in front writes the name with a capital letter.
    assert!(answer.json()["Message"].is_string());
    fake.expire_credential("token");
    assert_rejected(
        &send(&fake, request()).await,
        "ExpiredTokenException",
        "expired",
    );
    let mut none = request();
    none.headers_mut().remove("authorization");
    // InvokeModel does not read this header.
    let none = with_header(none, "x-api-key", "token");
    let name = "MissingAuthenticationTokenException";
    assert_rejected(
        &send(&fake, none).await,
        name,
        "Missing Authentication Token",
    );
}

#[tokio::test(start_paused = true)]
async fn host_of_a_request_without_the_header_is_that_of_its_uri() {
    let fake = signed(FakeCloud::bedrock("us-east-1"));
    let body = invoke_body(&json!({})).to_string();
    for (host, status) in [("localhost", 200), ("elsewhere", 403)] {
        let mut request = Signer::default().post(INVOKE, &body);
        request.headers_mut().remove("host");
        *request.uri_mut() = format!("http://{host}{INVOKE}").parse().unwrap();
        assert_eq!(send(&fake, request).await.status, status, "{host}");
    }
}

#[tokio::test(start_paused = true)]
async fn malformed_authorization_is_rejected() {
    let fake = signed(FakeCloud::bedrock("us-east-1"));
    for (value, name) in [
        ("Basic abc", "MissingAuthenticationTokenException"),
        ("AWS4-HMAC-SHA256", "MissingAuthenticationTokenException"),
        ("AWS4-HMAC-SHA256 ", "IncompleteSignatureException"),
        (
            "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=0",
            "IncompleteSignatureException",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=AKID/20150830/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=0",
            "IncompleteSignatureException",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=AKID/20150830/us-east-1/bedrock/other, SignedHeaders=host, Signature=0",
            "InvalidSignatureException",
        ),
    ] {
        let request = with_header(
            post(INVOKE, &invoke_body(&json!({}))),
            "authorization",
            value,
        );
        assert_rejected(&send(&fake, request).await, name, "");
    }
}
