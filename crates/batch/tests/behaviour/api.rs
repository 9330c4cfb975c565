//! A layer with its driver over the fake API.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use tokio::{task::JoinHandle, time::Instant};
use tower::Layer;
use tower_claude_batch::{
    BatchBuilder, BatchHandle, BatchLayer, BatchSnapshot, Journal, TOLERANCE,
};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{Attempt, Endpoint, FakeClaude, FakeClaudeBuilder, FakeError};
pub(crate) use tower_claude_tests::{EventLog, HOUR, MINUTE, SECOND, SONNET};
use tower_claude_tests::{Received, post, send};

pub(crate) type Answer = Received<FakeError>;

/// A layer whose driver runs, and the API behind it.
pub(crate) struct World {
    pub(crate) fake: FakeClaude,
    pub(crate) layer: BatchLayer,
    pub(crate) driver: JoinHandle<()>,
    pub(crate) log: EventLog,
}

/// Returns an API whose batches take ten minutes.
pub(crate) fn api() -> FakeClaudeBuilder {
    FakeClaude::builder().batch_time(10 * MINUTE)
}

/// Returns a clock that follows tokio's, from now on.
pub(crate) fn clock() -> impl Fn() -> SystemTime + Send + Sync + Clone + 'static {
    let (start, at) = (Instant::now(), SystemTime::now());
    move || at + start.elapsed()
}

impl World {
    pub(crate) fn new(fake: FakeClaudeBuilder) -> Self {
        Self::with(fake.build(), BatchLayer::in_memory())
    }

    pub(crate) fn with<J: Journal>(fake: FakeClaude, builder: BatchBuilder<J>) -> Self {
        let log = EventLog::new(line);
        let (layer, driver) = builder.with_observer(log.clone()).pair();
        let driver = tokio::spawn(driver.run(fake.clone()));
        Self {
            fake,
            layer,
            driver,
            log,
        }
    }

    pub(crate) fn handle(&self) -> BatchHandle {
        self.layer.handle()
    }

    pub(crate) fn snapshot(&self) -> BatchSnapshot {
        self.handle().snapshot()
    }

    /// Starts a call in a task.
    pub(crate) fn start(&self, request: Request<RequestBody>) -> JoinHandle<Answer> {
        let service = self.layer.layer(self.fake.clone());
        tokio::spawn(async move { send(&service, request).await.expect("a response") })
    }

    /// Starts a call that can wait.
    pub(crate) fn ask(&self, text: &str, tolerance: Duration) -> JoinHandle<Answer> {
        self.start(question(text, tolerance))
    }

    /// Returns the requests of all batches that were created, as `params`.
    pub(crate) fn batched(&self) -> Vec<String> {
        let log = self.fake.log();
        log.iter()
            .filter(|attempt| is_creation(attempt))
            .flat_map(params)
            .collect()
    }

    /// Returns the number of ordinary calls.
    pub(crate) fn live(&self) -> usize {
        self.fake.with_log(|log| {
            log.iter()
                .filter(|a| a.endpoint == Endpoint::Messages)
                .count()
        })
    }

    /// Returns the paths of the requests about batches, without the ids.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = self.fake.log();
        let batches = log
            .iter()
            .filter(|attempt| attempt.endpoint == Endpoint::Batches);
        let shown = batches.filter_map(|attempt| {
            let request = attempt.request.as_ref()?;
            let path = request
                .uri
                .path()
                .trim_start_matches("/v1/messages/batches");
            let path = match path.trim_start_matches('/').split_once('/') {
                Some((_, action)) => action,
                None if path.is_empty() && request.method == "POST" => "create",
                None if path.is_empty() => "list",
                None => "retrieve",
            };
            Some(path.to_owned())
        });
        shown.collect()
    }
}

pub(crate) fn is_creation(attempt: &Attempt) -> bool {
    attempt.endpoint == Endpoint::Batches
        && attempt.request.as_ref().is_some_and(|request| {
            request.method == "POST" && request.uri.path().ends_with("/batches")
        })
}

/// Returns the `params` of a creation as they were received.
pub(crate) fn params(attempt: &Attempt) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        requests: Vec<Item<'a>>,
    }
    #[derive(serde::Deserialize)]
    struct Item<'a> {
        #[serde(borrow)]
        params: &'a serde_json::value::RawValue,
    }
    let request = attempt.request.as_ref().expect("kept");
    let body: Body<'_> = serde_json::from_slice(&request.body).expect("a creation");
    body.requests
        .iter()
        .map(|item| item.params.get().to_owned())
        .collect()
}

/// Returns the body of a question.
pub(crate) fn body(text: &str) -> String {
    format!(
        r#"{{ "model":"{SONNET}","max_tokens":100,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    )
}

/// Returns a request that can wait.
pub(crate) fn question(text: &str, tolerance: Duration) -> Request<RequestBody> {
    tower_claude_tests::with(
        post("http://localhost", body(text)),
        TOLERANCE.as_str().to_owned().leak(),
        tolerance.as_secs().to_string(),
    )
}

fn line(event: &tower_claude_core::event::Event<'_>) -> Option<String> {
    use tower_claude_core::event::Event;
    match event {
        Event::Batch {
            decision,
            because,
            calls,
            ..
        } => Some(format!("{} {because} {calls}", decision.as_str())),
        Event::StoreLost { because, .. } => Some(format!("store_lost {because}")),
        Event::StoreRegained { .. } => Some("store_regained".to_owned()),
        _ => None,
    }
}

/// Returns a text as bytes.
pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
