//! The prompt cache as a policy of the driver.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Method, Request, header, response::Parts};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_core::{
    Call, Class, Endpoint, Outcome, Rejection, RequestBody,
    driver::{AttemptPolicy, Clock},
    event::EventSink,
    toolkit::{ApiPath, SavedRequest},
};
use tower_claude_wire::{Fields, Model, ModelCatalog, Peek, StreamState};

use crate::{
    handle::PromptCacheHandle,
    keep_alive::Renewal,
    outline::Outline,
    planner::GateState,
    rules::CacheRules,
    shared::{LAYER, Shared},
};

/// The least bytes of a token in a prompt. A body with fewer bytes than the shortest cached prefix
/// needs is not read.
const LEAST_BYTES_PER_TOKEN: u64 = 1;

/// The media type of a stream.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// The attempt policy of a prompt cache layer. See [`PromptCacheLayer::policy`].
///
/// All clones share their history.
///
/// [`PromptCacheLayer::policy`]: crate::PromptCacheLayer::policy
#[derive(Clone)]
pub struct PromptCachePolicy {
    shared: Arc<Shared>,
}

/// The state of one attempt.
#[derive(Default)]
pub struct PromptCacheAttempt {
    /// `None` for a request that is not followed. Boxed, because all attempts have the place.
    request: Option<Box<FollowedRequest>>,
    /// The attempt has been planned.
    is_started: bool,
}

struct Hold {
    since: Instant,
    sleep: Pin<Box<Sleep>>,
}

/// A request that the planner follows. Its followers are released when it is dropped.
struct FollowedRequest {
    shared: Arc<Shared>,
    id: u64,
    model: Arc<str>,
    /// The request with its markers, if its prefix may be kept alive.
    saved: Option<(Arc<SavedRequest>, CacheRules)>,
    /// The timer of a request that waits at the gate.
    hold: Option<Hold>,
    has_begun: bool,
    has_ended: bool,
}

impl FollowedRequest {
    fn begin(&mut self, now: Instant) {
        if !self.has_begun {
            self.has_begun = true;
            let id = self.id;
            self.shared
                .release(|planner| planner.on_first_content(id, now));
        }
    }
}

impl Drop for FollowedRequest {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.forget(self.id, Instant::now());
        }
    }
}

impl PromptCachePolicy {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns a handle to read the savings.
    #[must_use]
    pub fn handle(&self) -> PromptCacheHandle {
        PromptCacheHandle::new(self.shared.clone())
    }

    /// Plans the markers of a request, and inserts them.
    fn start(
        &self,
        attempt: &mut PromptCacheAttempt,
        request: &mut Request<RequestBody>,
        call: &Arc<Call>,
        now: Instant,
    ) -> Option<()> {
        let path = ApiPath::parse(request.uri().path());
        let is_messages = path.endpoint == Endpoint::Messages && path.form.is_none();
        let is_renewal = request.extensions().get::<Renewal>().is_some();
        if !is_messages || is_renewal || request.method() != Method::POST {
            return None;
        }
        let body = request.body();
        let (bytes, peek, name) = (body.bytes()?, body.peek()?, body.model()?);
        let (model, mut rules) = self.model(name)?;
        if (bytes.len() as u64) < rules.min_tokens.saturating_mul(LEAST_BYTES_PER_TOKEN)
            || has_thread(peek, bytes)
        {
            return None;
        }
        let credential = call.credential_of(request);
        let mut outline = Outline::of(bytes, &model, credential, peek.stream())?;
        let is_listed = !self.shared.config.rules.contains_key(name);
        if let Some(prices) = model.about.prices.as_ref().filter(|_| is_listed) {
            rules.rates = *prices.card(outline.tokens(), peek.fast());
        }
        let started = self.shared.start(&mut outline, &rules, now);
        let id = started.id?;
        if started.gate != GateState::Pass
            && let Some(deadline) = call.deadline()
        {
            // The response needs time as well.
            let until = now + deadline.saturating_duration_since(now) / 2;
            self.shared.limit_hold(id, until);
        }
        attempt.request = Some(Box::new(FollowedRequest {
            shared: self.shared.clone(),
            id,
            model: model.id.clone(),
            saved: None,
            hold: None,
            has_begun: false,
            has_ended: false,
        }));
        if let Some(marked) = started.plan.apply(&outline, bytes) {
            let length = HeaderValue::from(marked.len());
            *request.body_mut() = marked.into();
            call.attach(request);
            request.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        if self.shared.config.options.keeps_alive
            && let (Some(followed), Some(saved)) = (&mut attempt.request, SavedRequest::of(request))
        {
            followed.saved = Some((Arc::new(saved), rules));
        }
        Some(())
    }

    /// Returns the model and its rules. `None` if a guess would be needed.
    fn model(&self, name: &str) -> Option<(Model, CacheRules)> {
        if let Some(rules) = self.shared.config.rules.get(name) {
            return Some((ModelCatalog::builtin().lookup(name), *rules));
        }
        let model = ModelCatalog::builtin().get(name)?;
        Some((model.clone(), CacheRules::of(model)?))
    }
}

/// Returns true if a part of the prompt is kept at the server, which fixes the breakpoints.
fn has_thread(peek: &Peek, body: &[u8]) -> bool {
    let is_thread = |field: tower_claude_wire::Field<'_>| {
        field.name == "thread" && field.value_in(body) != b"null"
    };
    peek.expands_at_server()
        && Fields::open(body).is_some_and(|fields| fields.flatten().any(is_thread))
}

impl AttemptPolicy for PromptCachePolicy {
    type Attempt = PromptCacheAttempt;

    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        visit(LAYER, &self.shared.config.events);
    }

    fn reads_usage(&self, attempt: &PromptCacheAttempt) -> bool {
        attempt.request.is_some()
    }

    /// The usage of a whole response is known, whether the caller reads it or not.
    fn ends_with_body(&self) -> bool {
        false
    }

    fn poll_admit(
        &self,
        attempt: &mut PromptCacheAttempt,
        request: &mut Request<RequestBody>,
        call: &Arc<Call>,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        let now = clock.now();
        if !attempt.is_started {
            attempt.is_started = true;
            let _ = self.start(attempt, request, call, now);
        }
        let Some(followed) = &mut attempt.request else {
            return Poll::Ready(Ok(()));
        };
        let GateState::Follow { until } = self.shared.poll_gate(followed.id, now, cx.waker())
        else {
            if let Some(hold) = followed.hold.take() {
                call.set_held_back(false);
                let waited = now.saturating_duration_since(hold.since);
                self.shared.end_wait(followed.id, waited);
            }
            return Poll::Ready(Ok(()));
        };
        call.set_held_back(true);
        let hold = followed.hold.get_or_insert_with(|| Hold {
            since: now,
            sleep: Box::pin(sleep_until(until)),
        });
        if hold.sleep.deadline() != until {
            hold.sleep.as_mut().reset(until);
        }
        if hold.sleep.as_mut().poll(cx).is_ready() {
            // The clock of this step was read before the timer.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// The lifetime of an entry and the time to the first content begin after the wait for a
    /// limiter.
    fn on_sent(&self, attempt: &mut PromptCacheAttempt) {
        if let Some(request) = &attempt.request
            && !request.has_begun
        {
            self.shared.on_sent(request.id, Instant::now());
        }
    }

    fn on_response(
        &self,
        attempt: &mut PromptCacheAttempt,
        class: &Class,
        head: Option<&mut Parts>,
        clock: &mut Clock,
    ) {
        if !class.is_success() || class.local {
            attempt.request = None;
            return;
        }
        let Some(request) = &mut attempt.request else {
            return;
        };
        // The head of a JSON response comes when the response is complete. A stream begins with its
        // first content.
        let content_type = head.and_then(|head| head.headers.get(header::CONTENT_TYPE));
        let is_stream = content_type.is_some_and(|value| {
            let name = value.as_bytes().get(..EVENT_STREAM.len());
            name.is_some_and(|name| name.eq_ignore_ascii_case(EVENT_STREAM))
        });
        if !is_stream {
            request.begin(clock.now());
        }
    }

    fn on_progress(&self, attempt: &mut PromptCacheAttempt, stream: &StreamState) {
        if let Some(request) = &mut attempt.request
            && !request.has_begun
            && stream.has_content()
        {
            request.begin(Instant::now());
        }
    }

    fn on_end(&self, attempt: &mut PromptCacheAttempt, outcome: &Outcome<'_>, clock: &mut Clock) {
        let Some(mut request) = attempt.request.take() else {
            return;
        };
        let now = clock.now();
        if matches!(outcome, Outcome::Complete { .. }) {
            request.begin(now);
        }
        if request.has_begun {
            request.has_ended = true;
            let saved = request.saved.take();
            let (id, model) = (request.id, &request.model);
            request.shared.end(id, model, saved, outcome.usage(), now);
        }
    }
}

impl fmt::Debug for PromptCachePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptCachePolicy").finish_non_exhaustive()
    }
}

impl fmt::Debug for PromptCacheAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptCacheAttempt")
            .field("is_followed", &self.request.is_some())
            .finish_non_exhaustive()
    }
}
