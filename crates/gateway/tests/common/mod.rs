//! An upstream that records and answers as scripted, a gateway in front of it, and a client.
#![allow(dead_code, reason = "each test file uses a part")]

#[cfg(target_os = "linux")]
pub(crate) mod process;
pub(crate) mod prometheus;

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tower_claude_gateway::{Config, Gateway, GatewayHandle};

/// The longest time that a test waits for what must happen.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A request as an upstream received it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

type Answer = Arc<dyn Fn(Received) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync>;

/// A server that records its requests.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    /// Starts a server that answers with this function.
    pub(crate) async fn new<F, R>(answer: F) -> Self
    where
        F: Fn(Received) -> R + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        let answer: Answer = Arc::new(move |request| Box::pin(answer(request)));
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = received.clone();
        let handler = move |request: Request| {
            let (answer, log) = (answer.clone(), log.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body
                    .collect()
                    .await
                    .map(http_body_util::Collected::to_bytes);
                let request = Received {
                    method: parts.method,
                    uri: parts.uri,
                    headers: parts.headers,
                    body: body.unwrap_or_default(),
                };
                log.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(request.clone());
                answer(request).await
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new().fallback(handler);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            addr,
            received,
            task,
        }
    }

    /// Starts a server that answers every request with a message, or with a count.
    pub(crate) async fn with_message() -> Self {
        Self::new(|request| async move {
            match request.uri.path() {
                "/v1/messages/count_tokens" => json(200, COUNT),
                _ => json(200, MESSAGE),
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn last(&self) -> Received {
        self.received().pop().expect("a request arrived")
    }
}

pub(crate) const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}"#;

pub(crate) const COUNT: &str = r#"{"input_tokens":3}"#;

/// A request to Messages with unusual order, space and fields.
pub(crate) const REQUEST: &str = "{ \"messages\" : [{\"content\":\"H\\u0069\",\"role\":\"user\"}],\n\t\"zzz_unknown\":1.50, \"model\":\"claude-sonnet-5-5\",\"max_tokens\":64 }";

pub(crate) const STREAM_REQUEST: &str = "{\"stream\":true,\"model\":\"claude-sonnet-5-5\",\"max_tokens\":64,\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}";

pub(crate) const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";

pub(crate) const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n";

pub(crate) const END: &str = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":2}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

pub(crate) const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

pub(crate) fn json(status: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let json = "application/json".parse().unwrap();
    response.headers_mut().insert("content-type", json);
    response
}

/// A stream whose chunks the test sends. The second value is the sender.
pub(crate) fn stream() -> (Response, mpsc::UnboundedSender<&'static str>) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<&'static str>();
    let chunks = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|chunk| {
            chunk.map(|chunk| Ok::<_, std::io::Error>(Bytes::from_static(chunk.as_bytes())))
        })
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let kind = "text/event-stream".parse().unwrap();
    response.headers_mut().insert("content-type", kind);
    (response, sender)
}

/// An upstream that answers each request with a stream, whose sender goes to the test.
pub(crate) async fn stream_upstream() -> (
    Upstream,
    mpsc::UnboundedReceiver<mpsc::UnboundedSender<&'static str>>,
) {
    let (senders, receiver) = mpsc::unbounded_channel();
    let upstream = Upstream::new(move |request| {
        let senders = senders.clone();
        async move {
            if request.uri.path().ends_with("count_tokens") {
                return json(200, COUNT);
            }
            let (response, sender) = stream();
            senders.send(sender).unwrap();
            response
        }
    })
    .await;
    (upstream, receiver)
}

/// A running gateway.
pub(crate) struct TestGateway {
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) handle: GatewayHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the configuration in TOML, with free ports.
pub(crate) fn config(toml: &str) -> Config {
    let toml = format!("listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{toml}");
    Config::from_toml(&toml).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Returns the configuration of one upstream, and this TOML before it.
pub(crate) fn config_for(upstream: &Upstream, before: &str, after: &str) -> Config {
    config(&format!(
        "{before}\n[[upstreams]]\nname = \"main\"\nurl = \"{}\"\n{after}",
        upstream.url()
    ))
}

impl TestGateway {
    pub(crate) async fn new(config: Config) -> Self {
        Self::run(Gateway::bind(config).await.unwrap())
    }

    pub(crate) fn run(gateway: Gateway) -> Self {
        let (addr, admin, handle) = (gateway.addr(), gateway.admin_addr(), gateway.handle());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(gateway.run(async {
            let _ = stopped.await;
        }));
        Self {
            addr,
            admin,
            handle,
            stop: Some(stop),
            task,
        }
    }

    pub(crate) async fn before(upstream: &Upstream) -> Self {
        Self::new(config_for(upstream, "", "")).await
    }

    /// Begins to drain.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits until `run` has returned.
    pub(crate) async fn ended(&mut self) {
        within(&mut self.task).await.unwrap();
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr))
    }

    pub(crate) fn message(&self) -> http::request::Builder {
        self.request("POST", "/v1/messages")
            .header("x-api-key", "key-of-caller")
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json")
    }

    /// Sends bytes on a connection of its own.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }
}

/// Reads until the end of the connection, or until the text occurs.
pub(crate) async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = within(stream.read(&mut buffer)).await.unwrap_or(0);
        all.extend_from_slice(&buffer[..read]);
        let found = String::from_utf8_lossy(&all).into_owned();
        if read == 0 || (!text.is_empty() && found.contains(text)) {
            return found;
        }
    }
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    let done = tokio::time::timeout(LONG, future).await;
    done.expect("must happen soon")
}

pub(crate) type TestClient = Client<HttpConnector, Full<Bytes>>;

pub(crate) fn client() -> TestClient {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn error_type(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(json["type"], "error", "{json}");
        json["error"]["type"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn send(builder: http::request::Builder, body: impl Into<Bytes>) -> Got {
    send_with(&client(), builder, body).await
}

pub(crate) async fn send_with(
    client: &TestClient,
    builder: http::request::Builder,
    body: impl Into<Bytes>,
) -> Got {
    let request = builder.body(Full::new(body.into())).unwrap();
    let response = within(client.request(request)).await.unwrap();
    let (parts, body) = response.into_parts();
    Got {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: within(body.collect()).await.unwrap().to_bytes(),
    }
}

/// A response whose body is read step by step.
pub(crate) struct Live {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    body: hyper::body::Incoming,
    pub(crate) text: String,
}

impl Live {
    pub(crate) async fn new(builder: http::request::Builder, body: impl Into<Bytes>) -> Self {
        let request = builder.body(Full::new(body.into())).unwrap();
        let response = within(client().request(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            text: String::new(),
        }
    }

    /// Reads until the text read so far ends so.
    pub(crate) async fn read_to(&mut self, end: &str) {
        while !self.text.ends_with(end) {
            let frame = within(self.body.frame()).await;
            let data = frame
                .expect("more is to come")
                .unwrap()
                .into_data()
                .unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// Reads to the end. Returns false if the body broke off.
    pub(crate) async fn read_all(&mut self) -> bool {
        loop {
            match within(self.body.frame()).await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap();
                    self.text.push_str(std::str::from_utf8(&data).unwrap());
                }
            }
        }
    }
}
