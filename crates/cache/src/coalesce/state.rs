//! The state machine of a shared fetch: the received part of the response, and the meaning of its
//! end.

use std::{
    any::Any,
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::Instant;
use tower_claude_core::{Kind, Tenant};

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
pub(crate) struct FetchState {
    pub(super) subscribers: usize,
    next_id: u64,
    /// True if one of the subscribers is a detached task.
    has_task: bool,
    pub(super) phase: Phase,
    had_leader: bool,
    head: Option<Arc<Head>>,
    params: Option<FetchParams>,
    pub(super) frames: FrameBuffer,
    /// For event streams only.
    stream: Option<StreamCheck>,
    pub(super) source: Option<Box<dyn ErasedBody>>,
    /// The inner body's error, until a subscriber has taken it.
    error: Option<BodyError>,
    pub(super) trailers: Option<HeaderMap>,
    /// The complete body, unless it is a stream.
    whole: Option<Bytes>,
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
    /// The leader got an error in place of a head.
    LeaderFailed(Kind),
    /// The response cannot be shared.
    NotShareable,
}

/// A change of a shared fetch that a waiting subscriber acts on.
#[derive(Debug)]
pub(crate) enum Update {
    /// The subscriber is the leader now. `again` is true if an earlier leader was cancelled.
    Lead {
        again: bool,
    },
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
    pub(super) fn new(limit: usize) -> Self {
        Self {
            subscribers: 0,
            next_id: 0,
            has_task: false,
            phase: Phase::NoLeader,
            had_leader: false,
            head: None,
            params: None,
            frames: FrameBuffer::new(limit),
            stream: None,
            source: None,
            error: None,
            trailers: None,
            whole: None,
            settled: false,
        }
    }

    /// Adds a subscriber and returns its id.
    pub(super) fn subscribe(&mut self) -> u64 {
        self.subscribers += 1;
        self.next_id += 1;
        self.next_id
    }

    /// Adds the subscriber of a detached task, which does not count as a caller.
    pub(super) fn subscribe_task(&mut self) -> u64 {
        self.has_task = true;
        self.subscribe()
    }

    /// Returns true if `most` callers share the fetch.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.subscribers >= most.saturating_add(usize::from(self.has_task))
    }

    /// Removes a subscriber. The caller must drop the returned body after it has released all
    /// locks.
    pub(super) fn unsubscribe(&mut self) -> Option<Box<dyn ErasedBody>> {
        self.subscribers -= 1;
        let panicked = self.phase == Phase::Open && self.source.is_none();
        if panicked {
            self.end(FetchEnd::Broken);
        }
        if self.subscribers > 0 || self.is_over() {
            return None;
        }
        let source = self.source.take();
        // Many callers stop reading at the last event.
        let complete = self.stream.as_ref().is_some_and(StreamCheck::is_complete);
        self.end(if complete {
            FetchEnd::Complete
        } else {
            FetchEnd::Broken
        });
        source
    }

    /// Returns true if a new subscriber can get the whole response. False if frames were dropped or
    /// must be dropped, or if the response has failed.
    pub(super) fn is_joinable(&self) -> bool {
        let failed = match self.phase {
            Phase::Over(end) => end != FetchEnd::Complete,
            _ => self.stream.as_ref().is_some_and(StreamCheck::has_failed),
        };
        !failed && !self.frames.is_over()
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// Makes the caller the leader. Returns true if there was an earlier leader.
    pub(super) fn lead(&mut self) -> bool {
        self.phase = Phase::Fetching;
        mem::replace(&mut self.had_leader, true)
    }

    /// Records the head and takes over the body.
    pub(super) fn open(&mut self, head: Head, params: FetchParams, source: Box<dyn ErasedBody>) {
        self.stream = head
            .is_stream
            .then(|| StreamCheck::new(params.rules.clone()));
        self.head = Some(Arc::new(head));
        self.params = Some(params);
        self.phase = Phase::Open;
        let is_end = source.is_end();
        self.source = Some(source);
        if is_end {
            self.end(FetchEnd::Complete);
        }
    }

    pub(super) fn end(&mut self, end: FetchEnd) {
        if self.is_over() {
            return;
        }
        let open = self.phase == Phase::Open;
        self.phase = Phase::Over(end);
        self.source = None;
        if open && end == FetchEnd::Complete && self.stream.is_none() {
            self.whole = self.frames.whole();
        }
    }

    /// Records a frame of the inner body. `is_end` is true if the body has no more frames.
    pub(super) fn record(&mut self, frame: Option<Result<Frame<Bytes>, BodyError>>, is_end: bool) {
        match frame {
            None => return self.end(FetchEnd::Complete),
            Some(Err(error)) => {
                self.error = Some(error);
                return self.end(FetchEnd::Broken);
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    if let Some(stream) = &mut self.stream {
                        stream.feed(&data);
                    }
                    self.frames.push(&data);
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            },
        }
        if is_end {
            self.end(FetchEnd::Complete);
        }
    }

    /// Returns the update for a waiting subscriber, once the head and enough of the body were
    /// received. With `until_content`, a stream must have begun its content or have failed.
    pub(super) fn update(&self, until_content: bool) -> Option<Update> {
        let response = |whole, failed| {
            Some(Update::Response(SharedResponse {
                head: self.head.clone()?,
                unkeyed: self.params.as_ref()?.unkeyed,
                whole,
                failed,
            }))
        };
        if let Some(stream) = &self.stream {
            let failed = !stream.has_begun() && (stream.has_failed() || self.is_over());
            let enough = !until_content || failed || stream.has_begun() || self.frames.is_over();
            return enough.then(|| response(None, failed)).flatten();
        }
        match self.phase {
            Phase::Over(FetchEnd::Complete) => match &self.whole {
                Some(whole) => response(Some(whole.clone()), false),
                None => Some(Update::NotShareable),
            },
            Phase::Over(_) => Some(Update::LeaderFailed(Kind::Transport)),
            _ => self.frames.is_over().then_some(Update::NotShareable),
        }
    }

    /// Returns the item after the last data frame.
    pub(super) fn last(&mut self, end: FetchEnd, index: &mut usize) -> NextFrame {
        match (&self.trailers, self.error.take()) {
            (_, Some(error)) => NextFrame::Error(error),
            (Some(trailers), None) if *index == self.frames.end() => {
                *index += 1;
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
        let stored_at = Instant::now().checked_sub(head.age).ok_or("age")?;
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
        Ok(EntryParts {
            headers: head.headers.clone(),
            frames,
            tenant: params.tenant.clone(),
            stored_at,
            fresh_for: params.fresh_for,
            stale_for: params.stale_for,
        }
        .into())
    }
}

impl fmt::Debug for FetchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchState")
            .field("subscribers", &self.subscribers)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
