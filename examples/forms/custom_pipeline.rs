//! A pipeline of one's own: single layers of this project between layers of tower and tower-http.
//!
//! `cargo run --example custom_pipeline`
#![forbid(unsafe_code)]

mod common;

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{ServiceBuilder, ServiceExt, load_shed::error::Overloaded};
use tower_claude_core::{RequestBody, check};
use tower_claude_fake_claude::{FakeClaude, Fault};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limiter;
use tower_claude_reqwest::{HttpService, ReqwestClassify};
use tower_claude_retry::{Backoff, Jitter, RetryLayer};
use tower_http::{timeout::TimeoutLayer, trace::TraceLayer};

use common::{Error, describe, message, saw, say};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let fake = FakeClaude::default();
    let api = fake.serve().await?;

    // By default retries wait 1 s, 2 s, 4 s …; an example has no patience.
    let backoff = Backoff::new(
        Duration::from_millis(20),
        Duration::from_secs(1),
        Jitter::Upward,
    );
    let retry = RetryLayer::new()
        .with_backoff(backoff)
        .with_classifier(ReqwestClassify::new())
        .with_observer(say);
    let budget = HeaderBudgetLayer::new();
    let learned = budget.handle();

    // From the outside in. Should a part not fit, `check` makes the compiler name what is missing,
    // and where.
    let pipeline = check(
        ServiceBuilder::new()
            .layer(
                TraceLayer::new_for_http()
                    .on_request(|request: &Request<RequestBody>, _: &_| {
                        println!("  trace: {}", request.method());
                    })
                    .on_response(|answer: &Response<_>, _, _: &_| {
                        println!("  trace: {}", answer.status().as_u16());
                    }),
            )
            // Layers of this project are always ready: what shall be shed is counted outside of
            // them.
            .load_shed()
            .concurrency_limit(2)
            .layer(retry)
            // Alone it needs no configuration: it learns the limits from the API's headers.
            .layer(budget)
            // Of one attempt. It answers 504 instead of failing, so that the error type stays the
            // client's; for that its inner body must have a default, as reqwest's has.
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                Duration::from_secs(1),
            ))
            .service(check(HttpService::recommended()?)),
    );

    let call = async |stream: bool| -> Result<String, Error> {
        let answer = pipeline.clone().oneshot(message(&api.url(), stream)).await;
        match answer {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok(describe(head.status, &head.headers, &body))
            }
            Err(error) if error.is::<Overloaded>() => Ok("shed: two are enough".to_owned()),
            Err(error) => Err(error),
        }
    };

    println!("a stream, while the API is overloaded and then slow");
    fake.inject(Fault::Overloaded);
    fake.inject(Fault::SlowHead(Duration::from_secs(60)));
    println!("  -> {}", call(true).await?);
    println!("three at once");
    fake.inject_times(Fault::SlowHead(Duration::from_millis(100)), 2);
    let (one, two, three) = tokio::join!(call(false), call(false), call(false));
    for answer in [one, two, three] {
        println!("  -> {}", answer?);
    }
    fake.wait_for(|log| log.iter().all(|attempt| attempt.finished_at.is_some()))
        .await;
    println!("the API saw: {}", saw(&fake));
    println!("pools of limits learned: {}", learned.snapshot().len());
    Ok(())
}
