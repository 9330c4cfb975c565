//! Sends a message to Claude through all six layers.

use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_claude::{RequestBody, check, recommended};
use tower_claude_reqwest::HttpService;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let api = std::env::var("ANTHROPIC_BASE_URL");
    let api = api.unwrap_or_else(|_| "https://api.anthropic.com".to_owned());
    let claude = check(
        recommended()
            .with_deadline(std::time::Duration::from_secs(60)) // a caller waits no longer
            .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"])
            .layer(HttpService::recommended()?),
    );
    let request = http::Request::post(format!("{api}/v1/messages"))
        .header("x-api-key", std::env::var("ANTHROPIC_API_KEY")?)
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(RequestBody::from(
            r#"{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#,
        ))?;
    let response = claude.oneshot(request).await?; // a rejection is a response as well
    println!("{}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&body));
    Ok(())
}
