//! Forwards the Messages requests of all callers with one key, through all six layers.

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    middleware::map_request_with_state,
    response::{IntoResponse, Response},
    routing::post,
};
use tower::ServiceExt;
use tower_claude::{RequestBody, recommended};
use tower_claude_reqwest::HttpService;

#[derive(Clone)]
struct App {
    client: HttpService<reqwest::Client>,
    uri: Uri,
    key: HeaderValue,
}

/// Runs outside the layers, which keep limits for each key and read no compressed responses.
async fn authorize(State(app): State<App>, mut request: Request) -> Request {
    let headers = request.headers_mut();
    for name in [
        header::AUTHORIZATION,
        header::COOKIE,
        header::ACCEPT_ENCODING,
    ] {
        headers.remove(name);
    }
    headers.insert("x-api-key", app.key);
    request
}

async fn forward(State(app): State<App>, mut request: Request) -> Response {
    request.headers_mut().remove(header::HOST);
    *request.uri_mut() = app.uri;
    match app.client.oneshot(request.map(RequestBody::new)).await {
        Ok(response) => response.map(axum::body::Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let api = std::env::var("ANTHROPIC_BASE_URL");
    let api = api.unwrap_or_else(|_| "https://api.anthropic.com".to_owned());
    let app = App {
        client: HttpService::recommended()?,
        uri: format!("{api}/v1/messages").parse()?,
        key: std::env::var("ANTHROPIC_API_KEY")?.parse()?,
    };
    let router = Router::new()
        .route("/v1/messages", post(forward))
        .layer(recommended().with_deadline(std::time::Duration::from_secs(60)))
        .layer(map_request_with_state(app.clone(), authorize)) // added last, runs first
        .with_state(app);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
