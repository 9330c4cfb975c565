//! The response body after its content has begun: observed, and ended when the stream falls silent.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_core::{
    BodyTracker, Call, Class, ClassifyResponse, ClaudeClassify, Kind, Observe, Observed, Outcome,
    event::{Event, emit},
};
use tower_claude_wire::ApiError;

use crate::{
    LAYER,
    call::RetryCall,
    handle::count,
    layer::Config,
    timeouts::{Silence, after, earlier, poll_sleep},
};

/// The inner body, byte for byte, watched for how it ends.
///
/// A Claude stream that stays silent for longer than the idle timeout, or goes on past the
/// total one, ends with an `error` event as Claude itself would send it (`timeout_error`). The
/// timers do not act on other bodies: there is no way to say it in them.
// Boxed: an answer that was whole when it was handed on has none, and moves the lighter for it.
pub struct Body<R, C = ClaudeClassify>(Option<Pin<Box<Rest<R, C>>>>)
where
    C: ClassifyResponse;

pin_project! {
    /// What is left of a response.
    struct Rest<R, C>
    where
        C: ClassifyResponse,
    {
        #[pin]
        inner: Observed<R, Watcher<C>>,
        // Only streams have it.
        timed: Option<Timed>,
    }
}

/// The timers of a stream.
pub(crate) struct Timed {
    config: Arc<Config>,
    context: Option<Arc<Call>>,
    started: Instant,
    deadline: Option<Instant>,
    silence: Silence,
    frames: usize,
    /// Made when there is first something to wait for. Boxed, so that `Timed` need not be pinned.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Tells of a break.
struct Watcher<C> {
    config: Arc<Config>,
    classifier: C,
}

impl<R, C> Body<R, C>
where
    R: HttpBody<Data = Bytes>,
    C: ClassifyResponse,
{
    /// A body that only passes through.
    pub(crate) fn off(body: R) -> Self {
        Self::new(Observed::off(body), None)
    }

    /// The rest of a response whose content has begun.
    pub(crate) fn watched(body: R, watch: BodyTracker, call: &RetryCall<C>) -> Self
    where
        C: Clone,
    {
        let config = &call.config;
        let is_stream = watch.stream().is_some_and(|stream| !stream.is_not_claude());
        let is_timed = config.timeouts.idle.is_some() || call.deadline().is_some();
        // A length was promised: other words in its place would break the promise.
        let can_end = body.size_hint().exact().is_none();
        let timed = (is_stream && is_timed && can_end).then(|| Timed {
            config: config.clone(),
            context: call.context().cloned(),
            started: call.started(),
            deadline: call.deadline(),
            silence: Silence::default(),
            frames: 0,
            sleep: None,
        });
        let watcher = Watcher {
            config: config.clone(),
            classifier: call.classifier.clone(),
        };
        Self::new(Observed::new(body, watch, watcher), timed)
    }

    fn new(inner: Observed<R, Watcher<C>>, timed: Option<Timed>) -> Self {
        Self(Some(Box::pin(Rest { inner, timed })))
    }
}

impl<R, C> HttpBody for Body<R, C>
where
    R: HttpBody<Data = Bytes>,
    C: ClassifyResponse,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let rest = &mut self.get_mut().0;
        let Some(left) = rest else {
            return Poll::Ready(None);
        };
        let mut this = left.as_mut().project();
        if let Poll::Ready(frame) = this.inner.as_mut().poll_frame(cx) {
            match (&frame, this.timed.as_mut()) {
                (Some(Ok(_)), Some(timed)) => timed.frames = timed.frames.wrapping_add(1),
                _ => *this.timed = None,
            }
            return Poll::Ready(frame);
        }
        let Some(timed) = this.timed else {
            return Poll::Pending;
        };
        let waited = ready!(timed.poll_late(cx));
        let words = timed.last_words(this.inner.watch(), &waited);
        // Whatever the inner body holds is free from here on.
        *rest = None;
        Poll::Ready(words.map(|words| Ok(Frame::data(words))))
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|rest| rest.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            // It may end early, and with words of ours.
            Some(rest) if rest.timed.is_some() => SizeHint::new(),
            Some(rest) => rest.inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Timed {
    pub(crate) fn of<C>(call: &RetryCall<C>) -> Self {
        Self {
            config: call.config.clone(),
            context: call.context().cloned(),
            started: call.started(),
            deadline: call.deadline(),
            silence: Silence::default(),
            frames: 0,
            sleep: None,
        }
    }

    pub(crate) const fn heard(&mut self) {
        self.frames = self.frames.wrapping_add(1);
    }

    /// Ready when the stream has been silent, or gone on, for too long; with what to say then.
    pub(crate) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let idle = self.config.timeouts.idle;
        let silent = idle.and_then(|_| after(self.silence.since(self.frames), idle));
        let Some(until) = earlier(silent, self.deadline) else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        ready!(poll_sleep(sleep.as_mut(), until, cx));
        Poll::Ready(if Some(until) == self.deadline {
            let waited = until.saturating_duration_since(self.started);
            format!("{LAYER}: the stream did not end within {waited:.1?}")
        } else {
            // Told before the stream is dropped: it is a failure, and not a caller who lost interest.
            if let Some(context) = &self.context {
                context.time_out_attempt();
            }
            let waited = idle.unwrap_or_default();
            format!("{LAYER}: the stream was silent for {waited:.1?}")
        })
    }

    /// Claude's own `error` event; nothing, when the stream has already said how it ended.
    pub(crate) fn last_words(&self, watch: &BodyTracker, message: &str) -> Option<Bytes> {
        let stream = watch.stream()?;
        if stream.is_complete() || stream.error().is_some() {
            return None;
        }
        let counters = &self.config.counters;
        count(&counters.timed_out);
        count(&counters.broken);
        say_broken(&self.config, Class::new(Kind::Timeout));
        // A blank line closes the event that was cut in half.
        let close = if stream.at_boundary() { "" } else { "\n\n" };
        let event = ApiError::new("timeout_error", message).to_sse_event();
        Some(format!("{close}{event}").into())
    }
}

impl<C: ClassifyResponse> Observe for Watcher<C> {
    fn stream_error(&self, error: &ApiError) -> Class {
        self.classifier.stream_error(error)
    }

    fn end(self, outcome: Outcome) {
        if let Outcome::Failed { class, .. } = outcome {
            count(&self.config.counters.broken);
            say_broken(&self.config, class);
        }
    }
}

pub(crate) fn say_broken(config: &Config, class: Class) {
    emit(
        &config.observers,
        &Event::Broken {
            layer: LAYER,
            class,
        },
    );
}

impl<R, C: ClassifyResponse> fmt::Debug for Body<R, C> {
    /// Never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("ended", &self.0.is_none())
            .finish_non_exhaustive()
    }
}
