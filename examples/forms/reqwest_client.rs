//! The layers around reqwest: around a `reqwest::Client`, and around a `ClientWithMiddleware`.
//!
//! `cargo run --example reqwest_client`
#![forbid(unsafe_code)]

mod common;

use std::pin::Pin;

use http::{Extensions, Request};
use reqwest::{Body, Response};
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use tower::{ServiceBuilder, ServiceExt};
use tower_claude_core::{RequestBody, check};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_reqwest::{HttpService, ReqwestClassify, client};

use common::{Error, LIMITED, describe, message, recommended, saw};

/// Sends a request and reads the answer as a user of reqwest would.
async fn call<S, B>(claude: &S, request: Request<RequestBody>) -> Result<(), Error>
where
    S: tower::Service<Request<RequestBody>, Response = http::Response<B>> + Clone,
    S::Error: Into<Error>,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<Error>> + Send + Sync + 'static,
{
    let answer = claude.clone().oneshot(request).await.map_err(Into::into)?;
    // Back to reqwest's own type, with the URL that answered.
    let answer = Response::from(answer.map(Body::wrap));
    let (status, headers) = (answer.status(), answer.headers().clone());
    let path = answer.url().path().to_owned();
    let line = describe(status, &headers, &answer.bytes().await?);
    println!("  -> {line}, from {path}");
    Ok(())
}

/// A middleware of the client: below the layers, so it sees every attempt.
struct Attempts;

impl Middleware for Attempts {
    // What `#[async_trait]` makes of `async fn handle`.
    fn handle<'a, 'b, 'c, 'd>(
        &'a self,
        request: reqwest::Request,
        extensions: &'b mut Extensions,
        next: Next<'c>,
    ) -> Pin<Box<dyn Future<Output = reqwest_middleware::Result<Response>> + Send + 'd>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        Box::pin(async move {
            println!("  middleware: an attempt");
            next.run(request, extensions).await
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let fake = FakeClaude::default();
    let api = fake.serve().await?;

    // A stack around the plain client. `check` names what is missing, should a part not fit.
    let claude = ServiceBuilder::new()
        .layer(recommended(ReqwestClassify::new()))
        .service(check(HttpService::recommended()?));
    println!("reqwest::Client, while the API is overloaded twice");
    fake.inject_times(Fault::Overloaded, 2);
    call(&claude, message(&api.url(), false)).await?;
    println!("the same client, a stream, while the API limits the rate once");
    fake.inject(LIMITED);
    call(&claude, message(&api.url(), true)).await?;
    println!("the same client, a wrong URL: an error of reqwest's own, and no second attempt");
    let wrong = message("ftp://localhost", false);
    let error: reqwest::Error = match claude.clone().oneshot(wrong).await {
        Ok(_) => return Err("nobody speaks ftp here".into()),
        Err(error) => error,
    };
    println!("  -> error of the builder: {}", error.is_builder());

    // The same around a client with middleware.
    let client = ClientBuilder::new(client()?).with(Attempts).build();
    let claude = ServiceBuilder::new()
        .layer(recommended(ReqwestClassify::new()))
        .service(check(HttpService::new(client)));
    println!("ClientWithMiddleware, while a connection breaks");
    fake.inject(Fault::Reset);
    call(&claude, message(&api.url(), true)).await?;
    println!("the API saw: {}", saw(&fake));
    Ok(())
}
