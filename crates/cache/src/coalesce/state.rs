//! The state machine of a shared fetch: the received part of the response, and the meaning of its
//! end.

use std::{
    any::Any,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use serde::de::IgnoredAny;
use tokio::time::Instant;
use tower_claude_core::{Call, Kind, Priority, Tenant};

use crate::{
    answer::head::Head,
    answer::rules::{Rules, StreamCheck},
    coalesce::frame_buffer::FrameBuffer,
    request::key::UnkeyedFields,
    store::entry::{Entry, EntryParts},
};

/// An error of the inner body. Only one subscriber gets it, because it cannot be cloned.
pub(crate) type BodyError = Box<dyn Any + Send>;

/// An inner body of any type.
pub(crate) type Source = Box<dyn ErasedBody>;

/// The functions of an inner body of any type.
pub(crate) trait ErasedBody: Send {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>;
    fn is_end(&self) -> bool;
}

impl<R> ErasedBody for R
where
    R: Body<Data = Bytes> + Unpin + Send,
    R::Error: Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(self).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| Box::new(error) as BodyError)))
    }

    fn is_end(&self) -> bool {
        self.is_end_stream()
    }
}

/// The leader's request, as far as storing and sharing the response depend on it.
#[derive(Clone, Debug)]
pub(crate) struct FetchParams {
    pub(crate) rules: Rules,
    pub(crate) unkeyed: UnkeyedFields,
    pub(crate) tenant: Option<Tenant>,
    /// Jittered already.
    pub(crate) fresh_for: Duration,
    pub(crate) stale_for: Duration,
}

/// The state of a shared fetch, with the part of the response received so far.
///
/// It is changed under a lock. Functions that remove an inner body or received data from it return
/// them, so that their destructors run after the release of the lock.
pub(crate) struct FetchState {
    pub(super) subscribers: usize,
    next_id: u64,
    /// True if one of the subscribers is a detached task.
    pub(super) has_task: bool,
    pub(super) phase: Phase,
    /// The number of calls that were made. A leader of an earlier call has no effect.
    pub(super) calls: u64,
    /// The record of the last call.
    call: Option<Arc<Call>>,
    /// The highest priority of all subscribers.
    priority: Priority,
    /// The time of the last call, head or frame.
    pub(super) progress_at: Instant,
    head: Option<Arc<Head>>,
    params: Option<FetchParams>,
    pub(super) frames: FrameBuffer,
    /// For event streams only.
    stream: Option<StreamCheck>,
    /// The inner body, while no subscriber polls it.
    source: Option<Source>,
    /// The inner body's error, until a subscriber has taken it.
    error: Option<BodyError>,
    pub(super) trailers: Option<HeaderMap>,
    /// The complete body, unless it is a stream.
    whole: Option<Bytes>,
    /// True if `whole` was cut off. `None` until a subscriber asks for it.
    is_cut: Option<bool>,
    settled: bool,
}

/// A phase of a shared fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No call is made. The next subscriber that polls becomes the leader.
    NoLeader,
    /// A leader makes the call.
    Fetching,
    /// The head was received.
    Open,
    Over(FetchEnd),
}

/// The end of a shared fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FetchEnd {
    Complete,
    /// The body failed or was dropped.
    Broken,
    /// The body made no progress for too long.
    Stalled,
    /// The leader got an error in place of a head.
    LeaderFailed(Kind),
    /// The response cannot be shared.
    NotShareable,
}

/// A change of a shared fetch that a waiting subscriber acts on.
#[derive(Debug)]
pub(crate) enum Update {
    /// The subscriber is the leader now. `again` is true if an earlier call was cancelled.
    Lead {
        again: bool,
    },
    /// The fetch came to nothing. The subscriber must join another fetch.
    Again,
    Response(SharedResponse),
    LeaderFailed(Kind),
    /// The subscriber must make a call of its own.
    NotShareable,
}

/// A response that all subscribers get.
#[derive(Debug)]
pub(crate) struct SharedResponse {
    pub(crate) head: Arc<Head>,
    /// The unkeyed fields of the leader's request.
    pub(crate) unkeyed: UnkeyedFields,
    /// The body, unless it is a stream.
    pub(crate) whole: Option<Bytes>,
    /// True if the stream failed before its content began.
    pub(crate) failed: bool,
}

/// The result of joining a fetch.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// The id of the subscriber. `None` if too many callers share the fetch.
    pub(super) id: Option<u64>,
    /// True if the priority of the call was raised.
    pub(super) is_raised: bool,
}

/// The next item of a shared body.
pub(crate) enum NextFrame {
    Frame(Frame<Bytes>),
    /// The inner body's own error.
    Error(BodyError),
    /// The body broke, and another subscriber has its error.
    Broken,
    /// The next frame was dropped from the buffer.
    Lagged,
    End,
}

impl FetchState {
    pub(super) fn new(limit: usize, now: Instant) -> Self {
        Self {
            subscribers: 0,
            next_id: 0,
            has_task: false,
            phase: Phase::NoLeader,
            calls: 0,
            call: None,
            priority: Priority::Batch,
            progress_at: now,
            head: None,
            params: None,
            frames: FrameBuffer::new(limit),
            stream: None,
            source: None,
            error: None,
            trailers: None,
            whole: None,
            is_cut: None,
            settled: false,
        }
    }

    /// Adds a subscriber, unless too many callers share the fetch. `None` if a new subscriber
    /// cannot get the whole response, or if nothing has happened for `idle`.
    pub(super) fn join(
        &mut self,
        most: usize,
        idle: Duration,
        priority: Priority,
        now: Instant,
    ) -> Option<Joined> {
        if !self.is_joinable(now, idle) {
            return None;
        }
        if self.subscribers >= most.saturating_add(usize::from(self.has_task)) {
            return Some(Joined::default());
        }
        Some(Joined {
            id: Some(self.subscribe()),
            is_raised: self.raise_priority(priority),
        })
    }

    fn subscribe(&mut self) -> u64 {
        self.subscribers += 1;
        self.next_id += 1;
        self.next_id
    }

    /// Adds the subscriber of a detached task, which does not count as a caller.
    pub(super) fn subscribe_task(&mut self) -> u64 {
        self.has_task = true;
        self.subscribe()
    }

    /// Raises the priority of the call to that of a subscriber. Returns true if it was lower and
    /// the call has no head yet.
    fn raise_priority(&mut self, priority: Priority) -> bool {
        self.priority = self.priority.max(priority);
        let call = (self.call.as_ref()).filter(|call| call.priority() < priority);
        if let Some(call) = call {
            call.raise_priority(priority);
        }
        call.is_some() && self.phase == Phase::Fetching
    }

    /// Records the call that the leader makes. Returns the record of the call before.
    pub(super) fn launch(&mut self, call: Arc<Call>) -> Option<Arc<Call>> {
        call.raise_priority(self.priority);
        self.call.replace(call)
    }

    /// Removes a subscriber. Returns the inner body if it was the last.
    pub(super) fn unsubscribe(&mut self, is_task: bool) -> Option<Source> {
        self.subscribers -= 1;
        self.has_task &= !is_task;
        if self.subscribers > 0 || self.is_over() {
            return None;
        }
        // Many callers stop reading at the last event.
        let complete = self.stream.as_ref().is_some_and(StreamCheck::is_complete);
        self.end(if complete {
            FetchEnd::Complete
        } else {
            FetchEnd::Broken
        })
    }

    /// Returns true if a new subscriber can get the whole response. False if frames were dropped or
    /// must be dropped, if the response has failed, or if nothing has happened for `idle`.
    fn is_joinable(&self, now: Instant, idle: Duration) -> bool {
        let failed = match self.phase {
            Phase::Over(end) => end != FetchEnd::Complete,
            _ => {
                now.saturating_duration_since(self.progress_at) >= idle
                    || self.stream.as_ref().is_some_and(StreamCheck::has_failed)
            }
        };
        !failed && !self.frames.is_over()
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// Makes the caller the leader. Returns true if there was an earlier leader.
    pub(super) fn lead(&mut self, now: Instant) -> bool {
        self.phase = Phase::Fetching;
        self.progress_at = now;
        self.calls += 1;
        self.calls > 1
    }

    /// Records the head and takes over the body. `is_end` is true if it has no frames. Returns a
    /// body that is no longer needed.
    pub(super) fn open(
        &mut self,
        head: Head,
        params: FetchParams,
        source: Source,
        is_end: bool,
        now: Instant,
    ) -> Option<Source> {
        self.stream = head
            .is_stream
            .then(|| StreamCheck::new(params.rules.clone()));
        self.head = Some(Arc::new(head));
        self.params = Some(params);
        self.phase = Phase::Open;
        self.progress_at = now;
        self.source = Some(source);
        is_end.then(|| self.end(FetchEnd::Complete)).flatten()
    }

    /// Ends the fetch, unless it has ended. Returns the inner body.
    pub(super) fn end(&mut self, end: FetchEnd) -> Option<Source> {
        if self.is_over() {
            return None;
        }
        let open = self.phase == Phase::Open;
        self.phase = Phase::Over(end);
        if open && end == FetchEnd::Complete && self.stream.is_none() {
            self.whole = self.frames.whole();
        }
        self.source.take()
    }

    /// Returns the inner body to poll it without the lock. `None` if another subscriber polls it.
    pub(super) fn take_source(&mut self) -> Option<Source> {
        self.source.take()
    }

    /// Takes the inner body back. Returns it if it is no longer needed.
    pub(super) fn put_source(&mut self, source: Source) -> Option<Source> {
        if self.is_over() {
            return Some(source);
        }
        self.source.replace(source)
    }

    /// Records a frame of the inner body. `is_end` is true if the body has no more frames. Returns
    /// the received data, which was copied.
    pub(super) fn record(
        &mut self,
        frame: Option<Result<Frame<Bytes>, BodyError>>,
        is_end: bool,
        now: Instant,
    ) -> Option<Bytes> {
        let mut received = None;
        self.progress_at = now;
        match frame {
            None => drop(self.end(FetchEnd::Complete)),
            Some(Err(error)) => {
                self.error = Some(error);
                drop(self.end(FetchEnd::Broken));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if !data.is_empty() {
                        if let Some(stream) = &mut self.stream {
                            stream.feed(&data);
                        }
                        self.frames.push(&data);
                    }
                    received = Some(data);
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            },
        }
        if is_end {
            drop(self.end(FetchEnd::Complete));
        }
        received
    }

    /// Returns the update for a waiting subscriber, once the head and enough of the body were
    /// received. With `until_content`, a stream must have begun its content or have failed.
    pub(super) fn update(&mut self, until_content: bool) -> Option<Update> {
        if let Some(stream) = &self.stream {
            let failed = !stream.has_begun() && (stream.has_failed() || self.is_over());
            let enough = !until_content || failed || stream.has_begun() || self.frames.is_over();
            return enough.then(|| self.response(None, failed)).flatten();
        }
        match self.phase {
            Phase::Over(FetchEnd::Complete) => match self.whole.clone() {
                Some(_) if self.is_cut() => Some(Update::LeaderFailed(Kind::Truncated)),
                Some(whole) => self.response(Some(whole), false),
                None => Some(Update::NotShareable),
            },
            Phase::Over(FetchEnd::Stalled) => Some(Update::Again),
            Phase::Over(_) => Some(Update::LeaderFailed(Kind::Transport)),
            _ => self.frames.is_over().then_some(Update::NotShareable),
        }
    }

    fn response(&self, whole: Option<Bytes>, failed: bool) -> Option<Update> {
        Some(Update::Response(SharedResponse {
            head: self.head.clone()?,
            unkeyed: self.params.as_ref()?.unkeyed,
            whole,
            failed,
        }))
    }

    /// Returns true if a successful JSON body is not complete, although its end was no error. A
    /// subscriber could not notice it, because its head has no length of its own.
    fn is_cut(&mut self) -> bool {
        if let (None, Some(head), Some(whole)) = (self.is_cut, &self.head, &self.whole) {
            let is_short = (head.length).is_some_and(|length| length != whole.len() as u64);
            let is_json = || serde_json::from_slice::<IgnoredAny>(whole).is_ok();
            self.is_cut = Some(head.status == StatusCode::OK && (is_short || !is_json()));
        }
        self.is_cut == Some(true)
    }

    /// Returns the item after the last data frame.
    pub(super) fn last(&mut self, end: FetchEnd, position: &mut u64) -> NextFrame {
        match (&self.trailers, self.error.take()) {
            (_, Some(error)) => NextFrame::Error(error),
            (Some(trailers), None) if *position == self.frames.end() => {
                *position += 1;
                NextFrame::Frame(Frame::trailers(trailers.clone()))
            }
            _ if end == FetchEnd::Complete => NextFrame::End,
            _ => NextFrame::Broken,
        }
    }

    /// Returns the entry to store, or the reason not to store one. `None` before the end, and after
    /// the first call.
    pub(super) fn settle(&mut self) -> Option<Result<Entry, &'static str>> {
        if !self.is_over() || mem::replace(&mut self.settled, true) {
            return None;
        }
        Some(self.entry())
    }

    fn entry(&self) -> Result<Entry, &'static str> {
        let (Some(head), Some(params)) = (&self.head, &self.params) else {
            return Err("no_answer");
        };
        if self.phase != Phase::Over(FetchEnd::Complete) || self.trailers.is_some() {
            return Err("incomplete");
        }
        if !head.storable {
            return Err("head");
        }
        if params.fresh_for <= head.age {
            return Err("ttl");
        }
        let wall = SystemTime::now();
        let stored_at = wall.checked_sub(head.age).ok_or("age")?;
        let frames = match (&self.stream, &self.whole) {
            (Some(stream), _) => {
                stream.verdict()?;
                self.frames.frames().ok_or("length")?
            }
            (None, Some(whole)) => {
                params.rules.check(whole)?;
                Box::new([whole.clone()])
            }
            (None, None) => return Err("length"),
        };
        let parts = EntryParts {
            headers: head.headers.clone(),
            frames,
            tenant: params.tenant.clone(),
            stored_at,
            fresh_for: params.fresh_for,
            stale_for: params.stale_for,
        };
        Ok(Entry::new(parts, wall, Instant::now()))
    }
}
