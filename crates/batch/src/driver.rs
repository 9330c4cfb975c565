//! The driver: the requests about batches, and the journal.

use std::{
    fmt,
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use tokio::time::{Instant, sleep_until, timeout_at};
use tower_claude_core::{
    Class, Classify, ClassifyResponse, ClaudeClassify, Kind, Reach, RequestBody,
    event::{Event, emit},
};
use tower_claude_wire as wire;
use tower_service::Service;

use crate::{
    id::{BatchNumber, PoolId},
    journal::{Journal, JournalError},
    request::{LAYER, Template},
    results::{Described, Lines, Page, ResultLine, creation},
    scheduler::{Action, Creation, ItemOutcome, LineUse, Listed, ResultsEnd, SKEW, Status},
    shared::{Inner, Now, Shared, Word},
};

/// The most requests in flight.
const MOST_IN_FLIGHT: usize = 16;
/// The longest time of a request, or between two pieces of results.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest time of a creation, whose body may be large.
const CREATION: Duration = Duration::from_secs(300);
/// The greatest length of a body that is read whole, and of the body of an error.
const MOST_READ: usize = 16 * 1024 * 1024;
const MOST_OF_ERROR: usize = 64 * 1024;
/// The most pages of one list.
const PAGES: usize = 50;
/// The records after which a journal is compacted if most of them have no effect any more.
const COMPACTED: usize = 1_000;
/// The shortest sleep, so that an error in the schedule cannot spin.
const SHORTEST: Duration = Duration::from_millis(10);

/// The driver of a [`BatchLayer`](crate::BatchLayer): it creates the batches, polls them, reads
/// their results and keeps the journal.
///
/// Without it, calls are sent as ordinary calls when their tolerance is nearly over. After it was
/// dropped, new calls are sent at once.
#[must_use = "a driver does nothing until it runs"]
pub struct BatchDriver<J> {
    shared: Arc<Shared>,
    journal: Option<J>,
    is_persistent: bool,
    /// The records since the last compaction.
    appended: usize,
    /// The records with an effect, as last counted.
    live: usize,
    /// The time at which the journal failed.
    lost_at: Option<Instant>,
}

impl<J: Journal> BatchDriver<J> {
    pub(crate) fn new(shared: Arc<Shared>, journal: J) -> Self {
        Self {
            shared,
            is_persistent: journal.is_persistent(),
            journal: Some(journal),
            // An old journal is compacted soon.
            appended: COMPACTED,
            live: 0,
            lost_at: None,
        }
    }

    /// Runs until it is dropped. Spawn it, for instance by `tokio::spawn`.
    ///
    /// All its requests go through `service`, which may be any clone of the stack: a request about
    /// batches passes a batch layer. It spawns nothing, except that it writes to a persistent
    /// journal by `tokio::task::spawn_blocking`. If it is dropped meanwhile, the journal is closed
    /// when the write has ended.
    pub async fn run<S, R>(mut self, service: S)
    where
        S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
        S::Error: 'static,
        R: Body<Data = Bytes> + Unpin,
    {
        let mut running = FuturesUnordered::new();
        loop {
            self.write().await;
            while running.len() < MOST_IN_FLIGHT {
                let next = |inner: &mut Inner, now: Now| {
                    let action = inner.scheduler.next_action(now.instant)?;
                    let template = inner.template(pool_of(&action));
                    Some((action, template))
                };
                let Some((action, template)) = self.shared.change(next) else {
                    break;
                };
                let client = Client {
                    shared: self.shared.clone(),
                    service: service.clone(),
                    template,
                };
                running.push(client.execute(action));
            }
            let next = self.shared.change(|inner, now| {
                let at = inner.scheduler.next_at()?;
                Some(at.max(now.instant + SHORTEST))
            });
            let next = next.filter(|_| running.len() < MOST_IN_FLIGHT);
            tokio::select! {
                Some(()) = running.next(), if !running.is_empty() => {}
                () = self.shared.wake.notified() => {}
                () = sleep(next) => {}
            }
        }
    }

    /// Plans the batches that are due, and writes the records of all that has happened.
    async fn write(&mut self) {
        let (records, durable) = self.shared.change(|inner, now| {
            inner.scheduler.plan(now.instant, now.wall);
            inner.scheduler.take_records()
        });
        if records.is_empty() {
            return;
        }
        self.appended += records.len();
        let written = self
            .with_journal(move |journal| journal.append(&records, durable))
            .await;
        self.shared.change(|inner, _| {
            inner.journal_failures += u64::from(written.is_err());
            inner.scheduler.on_journal(written.is_ok());
        });
        let mut result = written;
        // Records that were not written are made up for by the whole state.
        if result.is_ok() && (self.lost_at.is_some() || self.appended > COMPACTED + 2 * self.live) {
            let records = self
                .shared
                .change(|inner, _| inner.scheduler.snapshot_records());
            self.live = records.len();
            if self.lost_at.is_some() || 2 * self.live < self.appended {
                self.appended = self.live;
                result = self
                    .with_journal(move |journal| journal.compact(&records))
                    .await;
            }
        }
        self.report(result);
    }

    /// Calls a function of the journal where it may block.
    async fn with_journal<F>(&mut self, call: F) -> Result<(), JournalError>
    where
        F: FnOnce(&mut J) -> Result<(), JournalError> + Send + 'static,
    {
        let Some(mut journal) = self.journal.take() else {
            return Err(JournalError::Gone);
        };
        if !self.is_persistent {
            let result = call(&mut journal);
            self.journal = Some(journal);
            return result;
        }
        let task = tokio::task::spawn_blocking(move || {
            let result = call(&mut journal);
            (journal, result)
        });
        // A journal that has panicked is gone.
        let (journal, result) = task.await.map_err(|_| JournalError::Gone)?;
        self.journal = Some(journal);
        result
    }

    /// Emits an event when the journal fails, and when it works again.
    fn report(&mut self, result: Result<(), JournalError>) {
        let now = Instant::now();
        let event = match (result, self.lost_at) {
            (Err(error), None) => {
                self.lost_at = Some(now);
                Event::StoreLost {
                    layer: LAYER,
                    because: error.cause(),
                }
            }
            (Ok(()), Some(lost_at)) => {
                self.lost_at = None;
                Event::StoreRegained {
                    layer: LAYER,
                    outage: now.saturating_duration_since(lost_at),
                }
            }
            _ => return,
        };
        emit(&self.shared.settings.events, &event);
    }
}

impl<J> Drop for BatchDriver<J> {
    fn drop(&mut self) {
        self.shared.set_ended();
    }
}

impl<J> fmt::Debug for BatchDriver<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchDriver").finish_non_exhaustive()
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

const fn pool_of(action: &Action) -> PoolId {
    match action {
        Action::Create { pool, .. }
        | Action::Retrieve { pool, .. }
        | Action::Cancel { pool, .. }
        | Action::List { pool, .. }
        | Action::Results { pool, .. } => *pool,
    }
}

/// A request that failed.
struct Failure {
    class: Class,
    /// The response, if there was one.
    response: Option<Response<Bytes>>,
}

impl Failure {
    /// Returns the failure of a request that was not answered in time.
    const fn timeout() -> Self {
        Self {
            class: Class::new(Kind::Timeout),
            response: None,
        }
    }

    /// Returns true if all requests with this credential fail.
    fn is_denied(&self) -> bool {
        match self.class.kind {
            Kind::SpendLimit | Kind::Unauthorized => true,
            // A key may have no permission for batches only.
            Kind::Forbidden => self.class.reach == Reach::Credential,
            _ => false,
        }
    }

    fn creation(&self) -> Creation {
        let class = &self.class;
        match class.kind {
            _ if self.is_denied() => Creation::Denied,
            Kind::TooLarge => Creation::TooLarge,
            Kind::BadRequest | Kind::Forbidden | Kind::NotFound => Creation::Rejected,
            _ if class.unprocessed => Creation::NotTaken {
                retry_after: class.retry_after,
            },
            _ => Creation::Ambiguous,
        }
    }

    fn status(&self) -> Status {
        match self.class.kind {
            _ if self.is_denied() => Status::Denied,
            Kind::NotFound => Status::NotFound,
            _ => Status::Failed {
                retry_after: self.class.retry_after,
            },
        }
    }

    fn results(&self) -> ResultsEnd {
        match self.status() {
            Status::Denied => ResultsEnd::Denied,
            Status::NotFound => ResultsEnd::NotFound,
            _ => ResultsEnd::Failed {
                retry_after: self.class.retry_after,
            },
        }
    }
}

/// The sender of one request.
struct Client<S> {
    shared: Arc<Shared>,
    service: S,
    /// `None` if no call of the pool has arrived in this run.
    template: Option<Arc<Template>>,
}

impl<S, R> Client<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    S::Error: 'static,
    R: Body<Data = Bytes> + Unpin,
{
    /// Executes an action and reports its outcome.
    async fn execute(mut self, action: Action) {
        match action {
            Action::Create { batch, items, .. } => self.create(batch, &items).await,
            Action::Retrieve { batch, id, .. } => self.retrieve(batch, &id).await,
            Action::Results { batch, id, .. } => self.results(batch, &id).await,
            Action::List { pool, since } => self.list(pool, since).await,
            Action::Cancel { id, .. } => {
                // Batches that are not cancelled end by themselves.
                let path = format!("/{id}/cancel");
                let until = Instant::now() + PATIENCE;
                let _ = self.exchange(Method::POST, &path, "", None, until).await;
            }
        }
    }

    async fn create(&mut self, batch: BatchNumber, items: &[(String, Bytes)]) {
        let until = Instant::now() + CREATION;
        let body = Some(creation(items));
        let sent = self.exchange(Method::POST, "", "", body, until).await;
        let (creation, error) = match sent {
            Ok((_, body)) => match Described::parse(&body) {
                Some(described) => (Creation::Created { id: described.id }, None),
                None => (Creation::Ambiguous, None),
            },
            Err(failure) => (failure.creation(), failure.response),
        };
        self.shared.change_with(error.as_ref(), |inner, now| {
            let scheduler = &mut inner.scheduler;
            scheduler.on_created(batch, creation, now.instant, now.wall);
        });
    }

    async fn retrieve(&mut self, batch: BatchNumber, id: &str) {
        let until = Instant::now() + PATIENCE;
        let path = format!("/{id}");
        let (status, error) = match self.exchange(Method::GET, &path, "", None, until).await {
            Ok((_, body)) => match Described::parse(&body) {
                Some(described) if described.has_ended() => (Status::Ended, None),
                Some(_) => (Status::Running, None),
                None => (Status::Failed { retry_after: None }, None),
            },
            Err(failure) => (failure.status(), failure.response),
        };
        self.shared.change_with(error.as_ref(), |inner, now| {
            let scheduler = &mut inner.scheduler;
            scheduler.on_status(batch, status, now.instant, now.wall);
        });
    }

    async fn list(&mut self, pool: PoolId, since: SystemTime) {
        let wall = (self.shared.settings.clock)();
        let needed = wall.duration_since(since).unwrap_or_default() + SKEW;
        let mut found: Option<Vec<Listed>> = None;
        let mut is_complete = false;
        let mut query = "limit=1000".to_owned();
        for _ in 0..PAGES {
            let until = Instant::now() + PATIENCE;
            let sent = self.exchange(Method::GET, "", &query, None, until).await;
            let (headers, body) = match sent {
                Ok(sent) => sent,
                Err(failure) if found.is_none() => {
                    let status = failure.status();
                    let error = failure.response.as_ref();
                    return self.shared.change_with(error, |inner, now| {
                        let scheduler = &mut inner.scheduler;
                        scheduler.on_list_failed(pool, status, now.instant);
                    });
                }
                Err(_) => break,
            };
            // Ages are compared by the clock of the server.
            let now = wire::date(&headers).unwrap_or(wall);
            let Some(page) = Page::parse(&body, now) else {
                break;
            };
            let reaches = page.reaches(needed);
            found.get_or_insert_default().extend(page.batches);
            match page.next {
                Some(last) if !reaches => query = format!("limit=1000&after_id={last}"),
                _ => {
                    is_complete = true;
                    break;
                }
            }
        }
        self.shared.change(|inner, now| {
            let (list, scheduler) = (found.as_deref(), &mut inner.scheduler);
            scheduler.on_list(pool, list, is_complete, now.instant, now.wall);
        });
    }

    async fn results(&mut self, batch: BatchNumber, id: &str) {
        let (end, error) = match self.read_results(batch, id).await {
            Ok(end) => (end, None),
            Err(failure) => (failure.results(), failure.response),
        };
        self.shared.change_with(error.as_ref(), |inner, now| {
            let scheduler = &mut inner.scheduler;
            scheduler.on_results(batch, end, now.instant, now.wall);
        });
    }

    /// Reads results and answers each call as its line arrives.
    async fn read_results(&mut self, batch: BatchNumber, id: &str) -> Result<ResultsEnd, Failure> {
        let until = Instant::now() + PATIENCE;
        let path = format!("/{id}/results");
        let response = self.send(Method::GET, &path, "", None, until).await?;
        let mut body = response.into_body();
        let mut lines = Lines::default();
        let mut is_other = false;
        let shared = &self.shared;
        let platform = self.template.as_ref().map(|template| template.platform());
        let platform = platform.unwrap_or_default();
        let read = |line: &[u8]| {
            let line = ResultLine::parse(line, platform);
            line.is_some_and(|line| answer(shared, batch, id, &line))
        };
        // The rest of another batch is not read.
        while !is_other {
            let until = Instant::now() + PATIENCE;
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            match timeout_at(until, frame).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        lines.feed(&data, |line| is_other |= read(line));
                    }
                }
                Ok(None) => break,
                Ok(Some(Err(_))) | Err(_) => {
                    return Ok(ResultsEnd::Failed { retry_after: None });
                }
            }
        }
        let mut is_cut = false;
        lines.finish(|line| {
            // The body has ended in the middle of a line.
            is_cut = ResultLine::parse(line, platform).is_none();
            is_other |= read(line);
        });
        Ok(match is_cut && !is_other {
            true => ResultsEnd::Failed { retry_after: None },
            false => ResultsEnd::Complete,
        })
    }

    /// Sends a request and reads the body of its response.
    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        body: Option<Bytes>,
        until: Instant,
    ) -> Result<(HeaderMap, Bytes), Failure> {
        let response = self.send(method, path, query, body, until).await?;
        let (parts, body) = response.into_parts();
        let body = timeout_at(until, read(body, MOST_READ)).await;
        match body {
            Ok(Some(body)) => Ok((parts.headers, body)),
            Ok(None) | Err(_) => Err(Failure::timeout()),
        }
    }

    /// Sends a request and returns its response if that is a success.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        body: Option<Bytes>,
        until: Instant,
    ) -> Result<Response<R>, Failure> {
        let Some(template) = &self.template else {
            return Err(Failure::timeout());
        };
        let request = template.request(method, path, query, body, until);
        let service = &mut self.service;
        let call = async {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        };
        let response = match timeout_at(until, call).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return Err(Failure {
                    class: ClaudeClassify::default().error(&error),
                    response: None,
                });
            }
            Err(_) => return Err(Failure::timeout()),
        };
        let by_head = Class::by_head(&ClaudeClassify::default(), true, &response);
        if by_head == Some(Class::SUCCESS) && response.status().is_success() {
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let body = timeout_at(until, read(body, MOST_OF_ERROR)).await;
        let body = body.ok().flatten().unwrap_or_default();
        let class = by_head.filter(|class| *class != Class::SUCCESS);
        let class = class
            .unwrap_or_else(|| ClaudeClassify::default().body(parts.status, &parts.headers, &body));
        // Callers that are answered with it get a body of this length.
        for name in [
            http::header::CONTENT_LENGTH,
            http::header::TRANSFER_ENCODING,
        ] {
            parts.headers.remove(name);
        }
        parts.extensions.insert(class);
        Err(Failure {
            class,
            response: Some(Response::from_parts(parts, body)),
        })
    }
}

/// Answers the caller of a result. Returns true if the batch is not the one that was looked for.
fn answer(shared: &Shared, batch: BatchNumber, id: &str, line: &ResultLine<'_>) -> bool {
    let response = || Box::new(line.response(id));
    let error = (line.outcome == ItemOutcome::Denied).then(response);
    let (used, waker) = shared.change_with(error.as_deref(), |inner, now| {
        let scheduler = &mut inner.scheduler;
        let used = scheduler.on_line(batch, &line.custom_id, line.outcome, now.instant);
        let waker = match used {
            LineUse::Deliver(ticket) => inner.set_word(ticket, Word::Answer(response())),
            _ => None,
        };
        (used, waker)
    });
    waker.into_iter().for_each(std::task::Waker::wake);
    used == LineUse::OtherBatch
}

/// Reads a body. `None` if it fails or is longer than the limit.
async fn read<R: Body<Data = Bytes> + Unpin>(mut body: R, limit: usize) -> Option<Bytes> {
    let mut read = BytesMut::new();
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let Some(frame) = frame else {
            return Some(read.freeze());
        };
        if let Ok(data) = frame.ok()?.into_data() {
            if read.len() + data.len() > limit {
                return None;
            }
            read.extend_from_slice(&data);
        }
    }
}
