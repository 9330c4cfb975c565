//! An API that answers by model, and keeps a diary.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt};
use tower_claude_core::{Class, Classify, RequestBody, event::Event};
use tower_claude_fallback_model::{FallbackModelLayer, SERVED_MODEL, ServedBy};
use tower_claude_tests::{Alive, Guard, read};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n";
pub(crate) const PING: &str = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
pub(crate) const CONTENT: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
pub(crate) const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n";
pub(crate) const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
pub(crate) const ERROR: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";

#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Broken,
}

pub(crate) fn data(text: &'static str) -> Piece {
    Piece::Data(Bytes::from_static(text.as_bytes()))
}

/// What the API answers to one request.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    after: Option<Duration>,
    broken: Option<io::ErrorKind>,
    status: u16,
    headers: HeaderMap,
    extensions: Extensions,
    body: Vec<Piece>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            after: Some(Duration::ZERO),
            broken: None,
            status,
            headers: HeaderMap::new(),
            extensions: Extensions::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status)
            .header("content-type", "application/json")
            .pieces([Piece::Data(body.into())])
    }

    pub(crate) fn fine() -> Self {
        Self::json(200, r#"{"type":"message","content":[]}"#)
    }

    pub(crate) fn error(status: u16, kind: &str) -> Self {
        Self::json(
            status,
            format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"scripted"}}}}"#),
        )
    }

    pub(crate) fn overloaded() -> Self {
        Self::error(529, "overloaded_error")
    }

    pub(crate) fn rate_limited(retry_after: &str) -> Self {
        Self::error(429, "rate_limit_error").header("retry-after", retry_after)
    }

    pub(crate) fn stream(pieces: impl IntoIterator<Item = Piece>) -> Self {
        Self::new(200)
            .header("content-type", "text/event-stream")
            .pieces(pieces)
    }

    pub(crate) fn broken(kind: io::ErrorKind) -> Self {
        Self {
            broken: Some(kind),
            ..Self::new(200)
        }
    }

    pub(crate) fn never() -> Self {
        Self {
            after: None,
            ..Self::new(200)
        }
    }

    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.after = Some(wait);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header value");
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    pub(crate) fn pieces(mut self, pieces: impl IntoIterator<Item = Piece>) -> Self {
        self.body = pieces.into_iter().collect();
        self
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) model: String,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
    pub(crate) body: Bytes,
}

type Script = Box<dyn FnMut(&str) -> Reply + Send>;

/// Answers what the script says for the model that is asked.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

struct Shared {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    alive: Alive,
}

impl Api {
    pub(crate) fn new(script: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
        Self(Arc::new(Shared {
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            alive: Alive::new(),
        }))
    }

    /// Opus answers so, all others are well.
    pub(crate) fn opus(reply: Reply) -> Self {
        Self::new(move |model| {
            if model == OPUS {
                reply.clone()
            } else {
                Reply::fine()
            }
        })
    }

    /// Opus answers so, Sonnet so, all others are well.
    pub(crate) fn both(opus: Reply, sonnet: Reply) -> Self {
        Self::new(move |model| match model {
            OPUS => opus.clone(),
            SONNET => sonnet.clone(),
            _ => Reply::fine(),
        })
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap().clone()
    }

    /// Which models were asked, in order.
    pub(crate) fn models(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.model).collect()
    }

    pub(crate) fn forget(&self) {
        self.0.seen.lock().unwrap().clear();
    }

    /// Calls and bodies that were not dropped yet.
    pub(crate) fn alive(&self) -> usize {
        self.0.alive.count()
    }
}

impl Service<Request<RequestBody>> for Api {
    type Response = Response<ScriptedBody>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let api = self.0.clone();
        let guard = api.alive.guard();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let model = body.model().unwrap_or_default().to_owned();
            let (body, ..) = read(body).await;
            let reply = (api.script.lock().unwrap())(&model);
            api.seen.lock().unwrap().push(Seen {
                model,
                headers: head.headers,
                extensions: head.extensions,
                body,
            });
            match reply.after {
                None => std::future::pending().await,
                Some(Duration::ZERO) => {}
                Some(wait) => sleep(wait).await,
            }
            if let Some(kind) = reply.broken {
                return Err(kind.into());
            }
            let mut response = Response::new(ScriptedBody {
                pieces: reply.body.into(),
                _guard: guard,
            });
            *response.status_mut() = reply.status.try_into().expect("a status");
            *response.headers_mut() = reply.headers;
            *response.extensions_mut() = reply.extensions;
            Ok(response)
        })
    }
}

#[derive(Debug)]
pub(crate) struct ScriptedBody {
    pieces: VecDeque<Piece>,
    _guard: Guard,
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match self.pieces.pop_front() {
            None => None,
            Some(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Piece::Broken) => {
                self.pieces.clear();
                Some(Err(io::ErrorKind::ConnectionReset.into()))
            }
        })
    }
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
    pub(crate) body: Bytes,
    pub(crate) broken: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn class(&self) -> Class {
        *self.extensions.get().expect("a class")
    }

    pub(crate) fn served(&self) -> Option<&ServedBy> {
        self.extensions.get()
    }

    /// The model that served, by the header; nothing when it is the one asked for.
    pub(crate) fn by(&self) -> &str {
        let by = self.headers.get(SERVED_MODEL);
        by.map_or("", |by| by.to_str().expect("text"))
    }
}

pub(crate) const OPUS: &str = "claude-opus-5-5";
pub(crate) const SONNET: &str = "claude-sonnet-5-5";
pub(crate) const HAIKU: &str = "claude-haiku-5-5";

pub(crate) fn request() -> Request<RequestBody> {
    asking(OPUS, "")
}

/// A request for this model, with more fields.
pub(crate) fn asking(model: &str, more: &str) -> Request<RequestBody> {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":64{more},"messages":[{{"role":"user","content":"Hi"}}]}}"#
    );
    Request::post("https://api.anthropic.com/v1/messages")
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(RequestBody::from(body))
        .expect("a request")
}

pub(crate) async fn send<S, B>(service: S, request: Request<RequestBody>) -> io::Result<Answer>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = io::Error>,
    B: Body<Data = Bytes, Error = io::Error> + Unpin,
{
    let (head, body) = service.oneshot(request).await?.into_parts();
    let (body, _, error) = read(body).await;
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        extensions: head.extensions,
        body,
        broken: error.is_some(),
    })
}

/// One request through this layer.
pub(crate) async fn through<C>(layer: &FallbackModelLayer<C>, api: &Api) -> Answer
where
    C: Classify<io::Error> + Clone,
{
    send(layer.layer(api.clone()), request())
        .await
        .expect("a response")
}

/// Sonnet stands in, then Haiku; and what the layer says.
pub(crate) fn layer() -> (FallbackModelLayer, Diary) {
    let diary = Diary::default();
    let copy = diary.clone();
    let layer = FallbackModelLayer::new([SONNET, HAIKU])
        .with_observer(move |event: &Event<'_>| copy.note(event));
    (layer, diary)
}

/// The events, one line each.
#[derive(Clone, Default)]
pub(crate) struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, event: &Event<'_>) {
        let short = |model: &str| model.split('-').nth(1).unwrap_or(model).to_owned();
        let line = match event {
            Event::FellBack {
                from,
                to,
                class,
                asked,
                ..
            } => {
                let (from, to) = (short(from), short(to));
                let how = if *asked { "" } else { " unasked" };
                format!("{from} -> {to} {}{how}", class.kind.as_str())
            }
            Event::GaveUp {
                attempt,
                class,
                because,
                ..
            } => format!("gave up {attempt} {} {because}", class.kind.as_str()),
            Event::CircuitOpened { scope, because, .. } => {
                format!("opened {scope} {}", because.as_str())
            }
            Event::CircuitProbe { scope, .. } => format!("probe {scope}"),
            Event::CircuitClosed { scope, .. } => format!("closed {scope}"),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
