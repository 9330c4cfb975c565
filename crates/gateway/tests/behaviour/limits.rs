//! The limits that protect a gateway from its clients.

use std::time::Duration;

use crate::common::*;
use tokio::{io::AsyncWriteExt, net::TcpStream};

#[tokio::test]
async fn connection_without_a_request_is_closed() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::new(config_for(
        &upstream,
        "server.header_timeout = \"100ms\"",
        "",
    ))
    .await;
    // Nothing, the start of HTTP/2's preface, the whole of it, half a request, half after a whole.
    let whole = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    for text in [
        "",
        "PRI * H",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HT",
        whole,
    ] {
        let mut stream = gateway.raw(text.as_bytes()).await;
        // Ends because the gateway closes the connection.
        read_until(&mut stream, "").await;
    }
}

#[tokio::test]
async fn too_many_and_too_large_headers_are_answered_with_431() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::before(&upstream).await;
    let many: String = (0..101)
        .map(|number| format!("x-{number}: 1\r\n"))
        .collect();
    let large = format!("x-large: {}\r\n", "x".repeat(40 << 10));
    // Only a little too large, in one write.
    let little = format!("x-large: {}\r\n", "x".repeat(32 << 10));
    for headers in [many, large, little] {
        let text = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        // The gateway may close before it has read everything.
        let _ = stream.write_all(text.as_bytes()).await;
        let got = read_until(&mut stream, "").await;
        assert!(got.starts_with("HTTP/1.1 431"), "{got}");
        // A response of the upstream, which has the same limit, would have this header.
        assert!(!got.contains("request-id"), "{got}");
    }
    assert!(upstream.received().is_empty());
    // A hundred headers are allowed.
    let allowed: String = (0..97).map(|number| format!("x-{number}: 1\r\n")).collect();
    let text = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\n{allowed}\r\n");
    let mut stream = gateway.raw(text.as_bytes()).await;
    assert!(
        read_until(&mut stream, MESSAGE)
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn body_over_the_limit_is_answered_with_413() {
    let upstream = Upstream::with_message().await;
    let toml = "server = { body_bytes = \"1KiB\", buffered_bytes = \"1MiB\" }";
    let gateway = TestGateway::new(config_for(&upstream, toml, "")).await;
    // Announced, without sending it.
    let head = "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n";
    let announced = format!("{head}content-length: 1025\r\n\r\n");
    let chunk = "x".repeat(1025);
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n401\r\n{chunk}\r\n");
    for text in [announced, chunked] {
        let mut stream = gateway.raw(text.as_bytes()).await;
        let got = read_until(&mut stream, "request_too_large").await;
        assert!(got.starts_with("HTTP/1.1 413"), "{got}");
    }
    assert!(upstream.received().is_empty());
    let fits = send(gateway.message(), vec![b'x'; 1024]).await;
    assert_eq!(fits.status, 200);
}

#[tokio::test]
async fn body_that_pauses_is_answered_with_408() {
    let upstream = Upstream::with_message().await;
    let config = config_for(&upstream, "server.body_timeout = \"100ms\"", "");
    let gateway = TestGateway::new(config).await;
    for path in ["/v1/messages", "/v1/files"] {
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\ncontent-length: 9\r\n\r\nhalf"
        );
        let mut stream = gateway.raw(text.as_bytes()).await;
        let got = read_until(&mut stream, "timeout_error").await;
        assert!(got.starts_with("HTTP/1.1 408"), "{path}: {got}");
    }
}

#[tokio::test]
async fn memory_for_all_bodies_is_limited_and_given_back() {
    let (upstream, mut senders) = stream_upstream().await;
    let toml = "server = { body_bytes = \"1KiB\", buffered_bytes = \"1KiB\" }";
    let gateway = TestGateway::new(config_for(&upstream, toml, "")).await;
    let head =
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\ncontent-length: 1000\r\n\r\n";
    let open = gateway
        .raw(format!("{head}{}", "x".repeat(990)).as_bytes())
        .await;
    // The first body is being read. Until then the second may have been faster.
    let refused = loop {
        let sent = gateway.message();
        let got = tokio::spawn(send(sent, STREAM_REQUEST));
        tokio::select! {
            got = got => break got.unwrap(),
            sender = senders.recv() => {
                sender.unwrap().send(START).unwrap();
            }
        }
    };
    assert_eq!(
        (refused.status, &*refused.error_type()),
        (529, "overloaded_error")
    );
    assert_eq!(refused.header("retry-after"), "1");
    drop(open);
    loop {
        let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
        let sender = tokio::time::timeout(Duration::from_millis(200), senders.recv()).await;
        if let Ok(Some(sender)) = sender {
            sender.send(START).unwrap();
            assert_eq!(within(answering).await.unwrap().status, 200);
            break;
        }
        assert_eq!(within(answering).await.unwrap().status, 529);
    }
    // One after the other, more bodies than fit at once.
    for _ in 0..2 * 1024 / STREAM_REQUEST.len() {
        let count = gateway.request("POST", "/v1/messages/count_tokens");
        let got = send(count.header("x-api-key", "k"), STREAM_REQUEST).await;
        assert_eq!(got.status, 200);
    }
}

#[tokio::test]
async fn connection_over_the_limit_waits_for_another_to_close() {
    let upstream = Upstream::with_message().await;
    let gateway = TestGateway::new(config_for(&upstream, "server.max_connections = 1", "")).await;
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = gateway.raw(request).await;
    read_until(&mut first, "ok").await;
    let mut second = gateway.raw(request).await;
    let waits = tokio::time::timeout(Duration::from_millis(200), second.readable()).await;
    assert!(
        waits.is_err(),
        "the second connection was served beside the first"
    );
    drop(first);
    assert!(
        read_until(&mut second, "ok")
            .await
            .starts_with("HTTP/1.1 200")
    );
}
