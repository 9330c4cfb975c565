//! Message Batches.

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod life;

use bytes::Bytes;
use common::{full, post};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_claude_fake_claude::FakeClaude;

const PATH: &str = "/v1/messages/batches";

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn error_type(&self) -> String {
        self.json()["error"]["type"].as_str().unwrap().to_owned()
    }

    fn id(&self) -> String {
        self.json()["id"].as_str().unwrap().to_owned()
    }

    /// Returns the results, one value per line.
    fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).expect("UTF-8");
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("JSON lines")
    }
}

async fn send(fake: &FakeClaude, request: Request<Full<Bytes>>) -> Answer {
    let response = fake.clone().oneshot(request).await.expect("a response");
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.expect("a complete body").to_bytes(),
    }
}

async fn call(fake: &FakeClaude, method: Method, path: &str) -> Answer {
    let request = post(&format!("{PATH}{path}")).method(method);
    send(fake, request.body(full("")).unwrap()).await
}

async fn get(fake: &FakeClaude, path: &str) -> Answer {
    call(fake, Method::GET, path).await
}

fn params(more: Value) -> Value {
    let mut params = json!({"model": "claude-sonnet-5-5", "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}]});
    if let (Value::Object(params), Value::Object(more)) = (&mut params, more) {
        params.extend(more);
    }
    params
}

/// Returns a creation of requests with these ids and params.
fn creation(requests: &[(&str, Value)]) -> Request<Full<Bytes>> {
    let requests: Vec<Value> = requests
        .iter()
        .map(|(id, params)| json!({"custom_id": id, "params": params}))
        .collect();
    let body = json!({"requests": requests}).to_string();
    post(PATH).body(full(body)).unwrap()
}

/// Creates a batch of valid requests.
async fn create(fake: &FakeClaude, ids: &[&str]) -> Answer {
    let requests: Vec<(&str, Value)> = ids.iter().map(|id| (*id, params(json!({})))).collect();
    send(fake, creation(&requests)).await
}
