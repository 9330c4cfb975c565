//! A few tiny requests to the real API.

use std::{env, process::ExitCode};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower_claude_limiter::{LimiterConfig, Limits, LocalLimiter, ScopeSnapshot};
use tower_claude_wire::ApiError;

use crate::layers::Layers;

const REQUESTS: usize = 3;
const MODEL: &str = "claude-haiku-4-5";

/// Sends them with the key of the environment, to `ANTHROPIC_BASE_URL` if that is set.
pub(crate) async fn run() -> ExitCode {
    let Some(key) = env::var("ANTHROPIC_API_KEY")
        .ok()
        .filter(|key| !key.is_empty())
    else {
        eprintln!("storm: --live needs an API key in the variable ANTHROPIC_API_KEY");
        return ExitCode::from(2);
    };
    let base =
        env::var("ANTHROPIC_BASE_URL").unwrap_or_else(|_| "https://api.anthropic.com".to_owned());
    match send(base.trim_end_matches('/'), &key).await {
        Ok(scopes) => {
            print!("{}", headroom(&scopes));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("storm: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the limits that were learned, or the reason why a request failed.
async fn send(base: &str, key: &str) -> Result<Vec<ScopeSnapshot>, String> {
    let https = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .build();
    let config =
        LimiterConfig::new().with_initial_concurrency(Some(LimiterConfig::INITIAL_CONCURRENCY));
    let layers = Layers::over(
        Client::builder(TokioExecutor::new()).build(https),
        LocalLimiter::with_config(Limits::unlimited(), config),
    );
    for number in 1..=REQUESTS {
        let request = request(base, key)?;
        let response = layers.call(request).await.map_err(|error| chain(&error))?;
        let (head, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|_| "the answer broke off")?
            .to_bytes();
        println!("request {number}: {}", head.status);
        if !head.status.is_success() {
            let error = ApiError::parse(&body).map(|error| error.message.to_string());
            return Err(error.unwrap_or_else(|| "an answer in a foreign format".to_owned()));
        }
    }
    Ok(layers.snapshot())
}

fn request(base: &str, key: &str) -> Result<Request<Bytes>, String> {
    let body = format!(
        r#"{{"model":"{MODEL}","max_tokens":8,"messages":[{{"role":"user","content":"Say hi."}}]}}"#
    );
    Request::post(format!("{base}/v1/messages"))
        .header("x-api-key", key)
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(body.into())
        // The error names neither, and the key must not be shown.
        .map_err(|_| "the key or the base URL holds characters that no request may".to_owned())
}

fn headroom(scopes: &[ScopeSnapshot]) -> String {
    let mut out = String::new();
    for scope in scopes {
        out += &format!("headroom of {}\n", scope.scope);
        for limit in &scope.dimensions {
            out += &format!(
                "  {:<16} {:>10} of {:>10} per minute, full in {:.1} s\n",
                format!("{:?}", limit.dimension),
                limit.available,
                limit.limit,
                limit.time_to_full().as_secs_f64(),
            );
        }
    }
    out
}

/// Formats an error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        out += &format!(": {cause}");
        next = cause.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_claude_core::Dimension;
    use tower_claude_fake_claude::FakeClaude;

    #[tokio::test]
    async fn a_few_requests_teach_the_limits() {
        let server = FakeClaude::builder().api_key("right").build();
        let port = server.serve().await.unwrap();
        let scopes = send(&port.url(), "right").await.unwrap();
        assert_eq!(server.log_len(), REQUESTS);
        let requests = scopes[0].dimension(Dimension::Requests).unwrap();
        assert_eq!(requests.limit, 1_000);
        assert!(
            headroom(&scopes).contains("1000 per minute"),
            "{}",
            headroom(&scopes)
        );
        let problem = send(&port.url(), "wrong").await.unwrap_err();
        assert_eq!(problem, "invalid x-api-key");
        assert!(send(&port.url(), "line\nbreak").await.is_err());
    }
}
