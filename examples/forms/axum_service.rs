//! Claude behind an axum service: the layers around the client in the app's state, directly on a
//! route, and beside tower's timeout.
//!
//! `cargo run --example axum_service`
#![forbid(unsafe_code)]

mod common;

use std::time::Duration;

use axum::{
    BoxError, Router,
    body::Body,
    error_handling::HandleErrorLayer,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{StatusCode, Uri, header::HOST};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_claude_core::{ClaudeClassify, RequestBody};
use tower_claude_fake_claude::{FakeClaude, Fault};

use common::{Error, LIMITED, describe, message, recommended, saw};

type Client = legacy::Client<HttpConnector, RequestBody>;

/// The stack has a long type. A box hides it in the struct.
type Claude = BoxCloneSyncService<http::Request<RequestBody>, Response, legacy::Error>;

#[derive(Clone)]
struct App {
    claude: Claude,
    client: Client,
    api: String,
}

/// Asks Claude through the stack in the state.
async fn ask(State(app): State<App>) -> Response {
    let answer = app.claude.oneshot(message(&app.api, false));
    answer
        .await
        .unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
}

/// Forwards a request to the API. The layers are around this handler. (A real proxy also drops
/// hop-by-hop headers.)
async fn forward(State(app): State<App>, mut request: Request) -> Response {
    let uri = format!("{}{}", app.api, request.uri());
    *request.uri_mut() = Uri::try_from(uri).unwrap_or_default();
    request.headers_mut().remove(HOST);
    match app.client.request(request.map(RequestBody::new)).await {
        Ok(answer) => answer.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

fn router(api: String) -> Router {
    let client: Client = legacy::Client::builder(TokioExecutor::new()).build_http();
    let layers = recommended(ClaudeClassify::default());
    let claude = ServiceBuilder::new()
        .map_response(|answer: http::Response<_>| answer.map(Body::new))
        .layer(layers.clone())
        .service(client.clone());
    let claude = BoxCloneSyncService::new(claude);
    let app = App {
        claude,
        client,
        api,
    };
    // Our layers keep the error type, which is `Infallible` for axum. `HandleErrorLayer` turns the
    // error of tower's timeout into a response.
    let too_slow = async |_: BoxError| StatusCode::GATEWAY_TIMEOUT;
    let patience = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(too_slow))
        .timeout(Duration::from_secs(1));
    Router::new()
        .route("/ask", post(ask))
        .route("/ask/quickly", post(ask).layer(patience))
        // The same layers, and so the same budgets, as the stack in the state.
        .route("/v1/messages", post(forward).layer(layers))
        .with_state(app)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let fake = FakeClaude::default();
    let api = fake.serve().await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, router(api.url())).into_future());
    let browser: Client = legacy::Client::builder(TokioExecutor::new()).build_http();
    let call = async |path: &str, stream| -> Result<(), Error> {
        let mut request = message(&base, stream);
        *request.uri_mut() = format!("{base}{path}").parse()?;
        let (head, body) = browser.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        println!("  -> {}", describe(head.status, &head.headers, &body));
        Ok(())
    };

    println!("POST /ask, while the API is overloaded twice");
    fake.inject_times(Fault::Overloaded, 2);
    call("/ask", false).await?;
    println!("POST /v1/messages as a stream, while the API limits the rate once");
    fake.inject(LIMITED);
    call("/v1/messages", true).await?;
    println!("POST /ask/quickly, while the API is slow");
    fake.inject(Fault::SlowHead(Duration::from_secs(60)));
    call("/ask/quickly", false).await?;
    // The caller gave up the slow attempt, so it has no response: 0.
    fake.wait_for(|log| log.iter().all(|attempt| attempt.finished_at.is_some()))
        .await;
    println!("the API saw: {}", saw(&fake));
    Ok(())
}
