//! Answers of another host, which a client got by following a redirect.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use reqwest::Client;
use reqwest_middleware::ClientBuilder;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower_claude::recommended;
use tower_claude_reqwest::{HttpService, TowerMiddleware};
use tower_claude_tests::{SONNET, prompt, request_to};
use tower_layer::Layer;
use tower_service::Service;

/// Starts a server that gives this response to all requests. Returns its URL and the number of its
/// requests.
async fn server(response: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"]}") {
                let read = socket.read_buf(&mut request).await.expect("a request");
                assert_ne!(read, 0, "the request ends early");
            }
            counter.fetch_add(1, Ordering::Relaxed);
            let sent = socket.write_all(response.as_bytes()).await;
            sent.expect("a response");
        }
    });
    (format!("http://{address}"), count)
}

fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

fn error(kind: &str, message: &str) -> String {
    format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}}}}"#)
}

/// Responses with limits, waits and verdicts on a credential, with their statuses.
fn responses() -> Vec<(u16, String)> {
    let message = r#"{"type":"message","id":"msg_1","role":"assistant","model":"m",
        "content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null,
        "usage":{"input_tokens":5,"output_tokens":2}}"#;
    let limited = error("rate_limit_error", "too many");
    let hour = "retry-after: 3600\r\n";
    let closed = "anthropic-ratelimit-requests-limit: 1\r\n\
        anthropic-ratelimit-requests-remaining: 0\r\n\
        anthropic-ratelimit-requests-reset: 2099-01-01T00:00:00Z\r\n\
        anthropic-ratelimit-input-tokens-limit: 1\r\n\
        anthropic-ratelimit-input-tokens-remaining: 0\r\n\
        anthropic-ratelimit-input-tokens-reset: 2099-01-01T00:00:00Z\r\n";
    let billing = error("billing_error", "no credit");
    let key = error("authentication_error", "invalid x-api-key");
    let permission = error("permission_error", "This organization has been disabled.");
    let busy = error("overloaded_error", "Overloaded");
    vec![
        (200, response("200 OK", closed, message)),
        (429, response("429 Too Many Requests", hour, &limited)),
        (
            429,
            response(
                "429 Too Many Requests",
                &format!("{hour}{closed}"),
                &limited,
            ),
        ),
        (401, response("401 Unauthorized", "", &key)),
        (402, response("402 Payment Required", "", &billing)),
        (403, response("403 Forbidden", "", &permission)),
        (529, response("529 Overloaded", hour, &busy)),
    ]
}

#[tokio::test]
async fn another_host_binds_no_further_request() {
    super::bounded(async {
        for (status, response) in responses() {
            let (other, count) = server(response).await;
            let location = format!("location: {other}/v1/messages\r\n");
            let redirect = self::response("307 Temporary Redirect", &location, "");
            let (asked, _) = server(redirect).await;
            let mut service = recommended().layer(HttpService::new(Client::new()));
            for number in 1..=7 {
                let request = request_to(&asked, SONNET, false);
                let call = service.call(request);
                let called = tokio::time::timeout(Duration::from_secs(20), call).await;
                let answer = called.expect("no wait").expect("a response");
                assert_eq!(answer.status().as_u16(), status, "{number}");
                assert_eq!(count.load(Ordering::Relaxed), number, "{status}");
            }
            let middleware = ClientBuilder::new(Client::new())
                .with(TowerMiddleware::new(recommended()))
                .build();
            for number in 8..=14 {
                let (head, _) = tower_claude_tests::post::<String>(&asked, "").into_parts();
                let request = middleware.post(head.uri.to_string()).headers(head.headers);
                let call = request.body(prompt(SONNET, false)).send();
                let called = tokio::time::timeout(Duration::from_secs(20), call).await;
                let answer = called.expect("no wait").expect("a response");
                assert_eq!(answer.status().as_u16(), status, "{number}");
                assert_eq!(count.load(Ordering::Relaxed), number, "{status}");
            }
        }
    })
    .await;
}

/// The host that was asked binds its own requests, with the same responses.
#[tokio::test]
async fn same_host_binds_its_own_requests() {
    super::bounded(async {
        let (url, count) = server(responses().swap_remove(3).1).await;
        let mut service = recommended().layer(HttpService::new(Client::new()));
        for _ in 0..7 {
            let answer = service.call(request_to(&url, SONNET, false)).await;
            assert_eq!(
                answer.expect("a response").status(),
                StatusCode::UNAUTHORIZED
            );
        }
        assert!(count.load(Ordering::Relaxed) < 7);
    })
    .await;
}
