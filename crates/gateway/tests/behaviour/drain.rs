//! The end of a gateway.

use crate::common::*;
use tokio::net::TcpStream;

async fn refuses_connections(gateway: &TestGateway) {
    while TcpStream::connect(gateway.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn open_stream_ends_by_itself_within_the_drain_timeout() {
    let (upstream, mut senders) = stream_upstream().await;
    let mut gateway = TestGateway::before(&upstream).await;
    let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    let mut live = within(answering).await.unwrap();
    live.read_to(START).await;
    gateway.stop();
    // The admin address goes on, and reports the drain.
    within(async {
        let ready = || http::Request::get(format!("http://{}/readyz", gateway.admin));
        while send(ready(), "").await.status != 503 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within(refuses_connections(&gateway)).await;
    for part in [DELTA, END] {
        sender.send(part).unwrap();
        live.read_to(part).await;
    }
    drop(sender);
    assert!(live.read_all().await);
    assert_eq!(live.text, [START, DELTA, END].concat());
    gateway.ended().await;
    assert!(TcpStream::connect(gateway.admin).await.is_err());
}

#[tokio::test]
async fn stream_is_cut_with_an_error_event_after_the_drain_timeout() {
    let (upstream, mut senders) = stream_upstream().await;
    let config = config_for(&upstream, "server.drain_timeout = \"100ms\"", "");
    let mut gateway = TestGateway::new(config).await;
    let answering = tokio::spawn(Live::new(gateway.message(), STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    let mut live = within(answering).await.unwrap();
    live.read_to(START).await;
    gateway.stop();
    assert!(
        live.read_all().await,
        "the body must end, and not break off"
    );
    let added = live.text.strip_prefix(START).unwrap();
    assert!(added.starts_with("event: error\ndata: {"), "{added}");
    assert!(
        added.contains("api_error") && added.ends_with("\n\n"),
        "{added}"
    );
    within(sender.closed()).await;
    gateway.ended().await;
}

#[tokio::test]
async fn idle_connection_does_not_hold_up_the_end() {
    let upstream = Upstream::with_message().await;
    // So long that only the drain can close the connection.
    let config = config_for(&upstream, "server.header_timeout = \"1h\"", "");
    let mut gateway = TestGateway::new(config).await;
    let mut idle = gateway
        .raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    read_until(&mut idle, "ok").await;
    gateway.stop();
    gateway.ended().await;
}

#[tokio::test]
async fn first_request_that_crosses_the_signal_is_answered() {
    let upstream = Upstream::with_message().await;
    let mut gateway = TestGateway::before(&upstream).await;
    let mut connection = gateway.raw(b"").await;
    // Connections are accepted in their order, so that the first one is accepted as well.
    assert_eq!(send(gateway.message(), REQUEST).await.status, 200);
    gateway.stop();
    within(refuses_connections(&gateway)).await;
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: k\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{REQUEST}",
        REQUEST.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut connection, request.as_bytes())
        .await
        .unwrap();
    let response = read_until(&mut connection, "").await;
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response:?}");
    assert!(response.ends_with(MESSAGE), "{response}");
    gateway.ended().await;
}
