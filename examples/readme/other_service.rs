//! Calls a service other than Claude, with retries and a circuit breaker.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{ServiceBuilder, ServiceExt};
use tower_claude::{
    CircuitBreakerLayer, DeadlineLayer, HttpClassify, RejectionLayer, RequestBody, RetryLayer,
};
use tower_claude_reqwest::HttpService;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("PRICES_URL");
    let url = url.unwrap_or_else(|_| "https://prices.example/btc".to_owned());
    let prices = ServiceBuilder::new()
        .layer(RejectionLayer::new(|rejection| {
            let mut response = Response::new(format!("{rejection}\n"));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }))
        .layer(DeadlineLayer::new(Duration::from_secs(20)))
        .layer(RetryLayer::new().with_classifier(HttpClassify::default()))
        .layer(CircuitBreakerLayer::new().with_classifier(HttpClassify::default()))
        .service(HttpService::recommended()?);
    let request = Request::get(url).body(RequestBody::from(""))?;
    let response = prices.oneshot(request).await?;
    println!("{}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&body));
    Ok(())
}
