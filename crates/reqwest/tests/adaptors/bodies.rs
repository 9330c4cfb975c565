//! Streamed bodies of requests and responses.

use bytes::Bytes;
use http_body_util::BodyExt;
use reqwest::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tower::{Layer, ServiceExt};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::Fault;
use tower_claude_reqwest::{Execute, HttpService, TowerMiddleware};

use crate::common::{
    ChannelBody, HOUR, SONNET, at_once, bounded, middleware, post, prompt, quiet, request_to,
};

const STALL: Fault = Fault::Stall {
    after_tokens: 4,
    duration: HOUR,
};

/// The first chunk of a response arrives before the server sends the rest.
#[tokio::test]
async fn response_streams_and_its_drop_closes_the_connection() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        fake.inject(STALL);
        let service = at_once().layer(HttpService::new(Client::new()));
        let response = service
            .oneshot(request_to(&server.url(), SONNET, true))
            .await
            .unwrap();
        let mut body = response.into_body();
        let mut text = String::new();
        while !text.contains("content_block_delta") {
            let frame = body.frame().await.expect("more").expect("no error");
            text += std::str::from_utf8(&frame.into_data().expect("data")).expect("text");
        }
        assert!(fake.with_log(|log| !log[0].client_gone && log[0].finished_at.is_none()));
        drop(body);
        fake.wait_for(|log| log[0].client_gone).await;
    })
    .await;
}

#[tokio::test]
async fn response_of_a_middleware_streams() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        fake.inject(STALL);
        let client = reqwest_middleware::ClientBuilder::new(Client::new())
            .with(TowerMiddleware::new(at_once()))
            .build();
        let sent = post(&client, &server.url())
            .body(prompt(SONNET, true))
            .send()
            .await;
        let mut response = sent.unwrap();
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains("content_block_delta") {
            text.extend_from_slice(&response.chunk().await.expect("no error").expect("more"));
        }
        drop(response);
        fake.wait_for(|log| log[0].client_gone).await;
    })
    .await;
}

/// The server gets the first chunk of a request before the second exists.
async fn requests_go_out_in_pieces<C>(client: C)
where
    C: Execute,
    C::Future: Send + 'static,
    C::Error: std::fmt::Debug + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (pieces, receive) = mpsc::unbounded_channel();
    let body = RequestBody::new(ChannelBody(receive));
    let mut service = HttpService::new(client);
    std::future::poll_fn(|cx| tower::Service::poll_ready(&mut service, cx))
        .await
        .unwrap();
    let call = tokio::spawn(tower::Service::call(
        &mut service,
        tower_claude_tests::post::<RequestBody>(&url, body),
    ));
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut text = String::new();
    for piece in ["first", "second"] {
        pieces.send(Bytes::from_static(piece.as_bytes())).unwrap();
        while !text.contains(piece) {
            let mut buffer = [0; 1024];
            let count = socket.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "{text}");
            text += std::str::from_utf8(&buffer[..count]).unwrap();
        }
    }
    drop(pieces);
    while !text.ends_with("0\r\n\r\n") {
        let mut buffer = [0; 1024];
        let count = socket.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "{text}");
        text += std::str::from_utf8(&buffer[..count]).unwrap();
    }
    assert!(text.contains("transfer-encoding: chunked"), "{text}");
    socket
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(call.await.unwrap().unwrap().status(), 204);
}

#[tokio::test]
async fn request_of_either_client_streams() {
    bounded(async {
        requests_go_out_in_pieces(Client::new()).await;
        requests_go_out_in_pieces(middleware()).await;
    })
    .await;
}

/// The length decides between `content-length` and chunked encoding.
#[tokio::test]
async fn bytes_are_sent_with_their_length() {
    bounded(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = HttpService::new(Client::new());
        let call = tokio::spawn(service.oneshot(tower_claude_tests::post::<RequestBody>(
            &url,
            "{\"some\":1}",
        )));
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        while !text.ends_with('}') {
            let mut buffer = [0; 1024];
            let count = socket.read(&mut buffer).await.unwrap();
            text += std::str::from_utf8(&buffer[..count]).unwrap();
        }
        assert!(text.contains("content-length: 10\r\n"), "{text}");
        assert!(!text.contains("transfer-encoding"), "{text}");
        call.abort();
    })
    .await;
}
