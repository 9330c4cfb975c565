//! Redirects.

use reqwest::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::{Layer, ServiceExt};
use tower_claude_core::{Class, Classify, Kind};
use tower_claude_reqwest::{HttpService, ReqwestClassify, TowerMiddleware, client};

use crate::common::{SONNET, at_once, bounded, post, prompt, quiet, request_to, statuses};

/// Starts a server that redirects every request to `there`, or to itself.
async fn elsewhere(there: Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let there = there.unwrap_or_else(|| url.clone());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut asked = String::new();
            while !asked.ends_with("]}") {
                let mut buffer = [0; 1024];
                let count = socket.read(&mut buffer).await.unwrap();
                assert_ne!(count, 0, "{asked}");
                asked += std::str::from_utf8(&buffer[..count]).unwrap();
            }
            let answer = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nlocation: {there}/v1/messages\r\n\
                 connection: close\r\ncontent-length: 0\r\n\r\n"
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    url
}

/// The client can send a body of bytes again, and the response has the URL that answered.
#[tokio::test]
async fn redirect_is_followed_and_the_response_has_the_last_url() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        let (first, last) = (
            elsewhere(Some(server.url())).await,
            format!("{}/v1/messages", server.url()),
        );
        let service = at_once().layer(HttpService::new(Client::new()));
        let answer = service
            .oneshot(request_to(&first, SONNET, false))
            .await
            .unwrap();
        let answer = reqwest::Response::from(answer.map(reqwest::Body::wrap));
        assert_eq!(
            (answer.status().as_u16(), answer.url().as_str()),
            (200, &*last)
        );
        let client = reqwest_middleware::ClientBuilder::new(Client::new())
            .with(TowerMiddleware::new(at_once()))
            .build();
        let sent = post(&client, &first)
            .body(prompt(SONNET, false))
            .send()
            .await;
        let answer = sent.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.url().as_str()),
            (200, &*last)
        );
        assert_eq!(statuses(&fake), [200, 200]);
    })
    .await;
}

#[tokio::test]
async fn circular_redirect_is_not_retried() {
    bounded(async {
        let retry = at_once();
        let handle = retry.handle();
        let service = retry.layer(HttpService::new(Client::new()));
        let round = request_to(&elsewhere(None).await, SONNET, false);
        let error = service.oneshot(round).await.unwrap_err();
        assert!(error.is_redirect(), "{error:?}");
        let class = ReqwestClassify::new().error(&error);
        assert_eq!(class, Class::new(Kind::BadRequest));
        assert_eq!(handle.snapshot().retries, 0);
    })
    .await;
}

/// The key and the prompt stay with the host that the caller has chosen.
#[tokio::test]
async fn recommended_client_returns_a_redirect_and_sends_nothing_elsewhere() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        let first = elsewhere(Some(server.url())).await;
        let service = at_once().layer(HttpService::recommended().unwrap());
        let answer = service
            .oneshot(request_to(&first, SONNET, false))
            .await
            .unwrap();
        assert_eq!(answer.status(), 307);
        let class = answer.extensions().get::<Class>();
        assert_eq!(class.map(|class| class.kind), Some(Kind::BadRequest));
        let client = reqwest_middleware::ClientBuilder::new(client().unwrap())
            .with(TowerMiddleware::new(at_once()))
            .build();
        let sent = post(&client, &first)
            .body(prompt(SONNET, false))
            .send()
            .await;
        assert_eq!(sent.unwrap().status(), 307);
        assert_eq!(statuses(&fake), [0; 0]);
    })
    .await;
}
