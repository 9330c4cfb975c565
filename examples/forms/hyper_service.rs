//! A proxy in front of Claude with hyper alone: the layers around hyper's client, served by hyper's
//! server.
//!
//! `cargo run --example hyper_service`
#![forbid(unsafe_code)]

mod common;

use http::{HeaderValue, Request, Response, StatusCode, Uri, header::HOST, uri::Authority};
use http_body_util::{BodyExt, Empty};
use hyper::server::conn::http1;
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_claude_core::{ClaudeClassify, RequestBody};
use tower_claude_fake_claude::{FakeClaude, Fault};

use common::{Error, LIMITED, describe, message, recommended, saw};

/// Returns the target as hyper's client expects it. (A real proxy also drops hop-by-hop headers.)
fn readdress(mut request: Request<RequestBody>, api: &Authority) -> Request<RequestBody> {
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = Some(api.clone());
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    request.headers_mut().remove(HOST);
    request
}

/// A server that runs until it is dropped.
async fn serve(listener: TcpListener, api: Authority) {
    let client: Client<HttpConnector, RequestBody> =
        Client::builder(TokioExecutor::new()).build_http();
    let service = ServiceBuilder::new()
        // A rejection by a layer is a response already. An API that cannot be reached is an error,
        // and the server must turn it into a response.
        .map_result(|answer: Result<Response<_>, _>| {
            Ok::<_, legacy::Error>(match answer {
                Ok(answer) => answer.map(BodyExt::boxed_unsync),
                Err(_) => {
                    let mut answer =
                        Response::new(Empty::new().map_err(|no| match no {}).boxed_unsync());
                    *answer.status_mut() = StatusCode::BAD_GATEWAY;
                    answer
                }
            })
        })
        .layer(recommended(ClaudeClassify::default()))
        .map_request(move |request| readdress(request, &api))
        .service(client);
    while let Ok((stream, _)) = listener.accept().await {
        // Each connection gets a clone. All of them share budgets, limits and what the layers have
        // learned.
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let io = TokioIo::new(stream);
            // The caller has disconnected, or did not send HTTP.
            let _ = http1::Builder::new().serve_connection(io, service).await;
        });
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let fake = FakeClaude::default();
    let api = fake.serve().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    tokio::spawn(serve(listener, api.addr().to_string().parse()?));

    let caller: Client<_, RequestBody> = Client::builder(TokioExecutor::new()).build_http();
    let call = async |stream, key| -> Result<(), Error> {
        let mut request = message(&base, stream);
        let key = HeaderValue::from_static(key);
        request.headers_mut().insert("x-api-key", key);
        let (head, body) = caller.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        println!("  -> {}", describe(head.status, &head.headers, &body));
        Ok(())
    };

    println!("a stream, while the API breaks two of them before their content");
    fake.inject(Fault::ErrorBeforeContent);
    fake.inject(Fault::TruncatedBeforeContent);
    call(true, "key").await?;
    println!("a message, while the API limits the rate once");
    fake.inject(LIMITED);
    call(false, "key").await?;
    println!("a message, while the money is spent: waiting does not help");
    fake.inject(Fault::SpendCap);
    call(false, "key").await?;
    println!("the same once more: the API is not asked again so soon");
    call(false, "key").await?;
    println!("the API saw: {}", saw(&fake));
    api.shutdown().await;
    println!("a message with another key, while there is no API at all");
    call(false, "another key").await?;
    Ok(())
}
