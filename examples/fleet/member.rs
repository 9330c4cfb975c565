//! A process of the fleet: sends calls through the recommended layers for a time.

use std::{error::Error, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::{Layer, Service, ServiceExt};
use tower_claude::{RequestBody, recommended};
use tower_claude_limiter::{Limiter, Limits, LocalLimiter};
use tower_claude_redis::{RedisConfig, RedisLimiter};
use tower_claude_reqwest::HttpService;

use crate::{MODEL, MemberArgs};

/// Calls of a process at once.
const AT_ONCE: usize = 8;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Sends calls for the time of the arguments.
pub(crate) async fn run(args: &MemberArgs, burst: Duration) -> Result<(), BoxError> {
    let limits = Limits::new()
        .with_requests_per_minute(args.requests_per_minute)
        .with_burst(burst);
    match &args.redis {
        None => send(args, LocalLimiter::new(limits)).await,
        Some(url) => {
            let config = RedisConfig::new(url)?;
            let (limiter, driver) = RedisLimiter::connect(&config, limits).await?;
            let driver = tokio::spawn(driver);
            let result = send(args, limiter).await;
            // It ends with the limiter.
            driver.await?;
            result
        }
    }
}

async fn send<L>(args: &MemberArgs, limiter: L) -> Result<(), BoxError>
where
    L: Limiter<Acquire: Send> + Send + Sync + 'static,
{
    let claude = recommended()
        .with_limiter(limiter)
        .layer(HttpService::recommended()?);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut calls = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (claude, url, name) = (
            claude.clone(),
            format!("{}/v1/messages", args.api),
            args.name.clone(),
        );
        calls.spawn(async move {
            while Instant::now() < until {
                call(claude.clone(), &url, &name).await;
            }
        });
    }
    tokio::select! {
        () = async { while calls.join_next().await.is_some() {} } => {}
        // Calls that wait for the limit are dropped.
        () = sleep(Duration::from_secs(args.seconds) + Duration::from_secs(2)) => {}
    }
    Ok(())
}

async fn call<S, B>(claude: S, url: &str, name: &str)
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: http_body::Body,
{
    let request = Request::post(url)
        .header("x-api-key", "fleet")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .header("x-fake-tag", name)
        .body(RequestBody::from(format!(
            r#"{{"model":"{MODEL}","max_tokens":10,"messages":[{{"role":"user","content":"hello"}}]}}"#
        )));
    if let Ok(request) = request
        && let Ok(response) = claude.oneshot(request).await
    {
        // The table counts what the API has seen.
        let _ = response.into_body().collect().await;
    }
}
