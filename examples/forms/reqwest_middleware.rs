//! The layers as a middleware of reqwest-middleware: callers keep its request builder and see
//! nothing of tower.
//!
//! `cargo run --example reqwest_middleware`
#![forbid(unsafe_code)]

mod common;

use std::time::Duration;

use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, RequestBuilder};
use tokio::time::Instant;
use tower_claude_core::{Class, Deadline};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_reqwest::{ReqwestClassify, TowerMiddleware, client};

use common::{Error, describe, prompt, recommended, saw};

/// A Messages request, as one writes it with reqwest.
fn post(client: &ClientWithMiddleware, base: &str, stream: bool) -> RequestBuilder {
    client
        .post(format!("{base}/v1/messages"))
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(prompt(stream))
}

/// Sends a request and reads its answer piece by piece.
async fn call(request: RequestBuilder) -> Result<(), Error> {
    let mut answer = request.send().await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    // A layer that read an error leaves what it means in the extensions.
    let class = answer.extensions().get::<Class>().copied();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        body.extend_from_slice(&piece);
    }
    let meaning = class.map_or("fine", |class| class.kind.as_str());
    println!("  -> {}: {meaning}", describe(status, &headers, &body));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let fake = FakeClaude::default();
    let api = fake.serve().await?;
    // Middleware before this one sees one call, middleware after it every attempt.
    let client = ClientBuilder::new(client()?)
        .with(TowerMiddleware::new(recommended(ReqwestClassify::new())))
        .build();

    println!("a message, while the API is overloaded twice");
    fake.inject_times(Fault::Overloaded, 2);
    call(post(&client, &api.url(), false)).await?;
    println!("a stream, while the API breaks one before its content");
    fake.inject(Fault::ErrorBeforeContent);
    call(post(&client, &api.url(), true)).await?;
    println!("a message with a deadline in 5 s, while the API asks to wait for 30 s");
    fake.inject(Fault::RateLimited {
        retry_after: Duration::from_secs(30),
    });
    let deadline = Deadline(Instant::now() + Duration::from_secs(5));
    call(post(&client, &api.url(), false).with_extension(deadline)).await?;
    println!("another with such a deadline: the layers know, and do not ask the API");
    call(post(&client, &api.url(), false).with_extension(deadline)).await?;
    println!("the API saw: {}", saw(&fake));
    Ok(())
}
