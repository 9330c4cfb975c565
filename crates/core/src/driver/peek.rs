//! A successful response until it is ready for the caller.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tower_claude_wire::{StreamState, stop_reason};

use super::attempt_policy::{AttemptPolicy, Clock};
use crate::{
    body_tracker::BodyTracker, class::Class, classify::ClassifyResponse, outcome::Outcome,
};

/// The most that is held of a response: 64 KiB.
const HELD_LIMIT: usize = 64 * 1024;

/// The result of holding a response.
#[derive(Clone, Copy)]
pub(super) enum Peeked {
    /// Content has begun, the response is whole, or the limit is reached.
    Forward,
    /// The response failed before its first content.
    Failed(Class),
}

/// The body of a successful response with the frames that were read of it.
pub(super) struct PeekedBody<R: Body> {
    pub(super) tracker: BodyTracker,
    /// The first data, which is all of an ordinary JSON response. Empty if there is none.
    pub(super) first: Bytes,
    pub(super) more: VecDeque<Frame<Bytes>>,
    pub(super) length: usize,
    pub(super) error: Option<R::Error>,
    pub(super) rest: Option<R>,
    /// The response failed, so far as it was read.
    failed: Option<Class>,
    /// The attempt policies know how the response ended.
    pub(super) ended: bool,
}

/// Feeds a frame to the tracker and reports the progress of a stream. Returns the outcome if it is
/// certain with this frame.
pub(super) fn track<A: AttemptPolicy>(
    tracker: &mut BodyTracker,
    attempts: &A,
    attempt: &mut A::Attempt,
    classifier: &impl ClassifyResponse,
    frame: &Frame<Bytes>,
    is_last: bool,
) -> Option<Outcome> {
    let classify = |error: &_| classifier.stream_error(error);
    let Some(data) = frame.data_ref() else {
        return is_last.then(|| tracker.ended(classify));
    };
    if tracker.stream().is_none() && is_last {
        return Some(tracker.last(data, classify));
    }
    tracker.feed(data);
    if let Some(stream) = tracker.stream() {
        attempts.on_progress(attempt, stream);
    }
    let early = tracker.early(classify);
    early.or_else(|| is_last.then(|| tracker.ended(classify)))
}

impl<R: Body> PeekedBody<R> {
    /// Drops the rest of the response, and reports that it is not read to its end unless its end is
    /// known.
    pub(super) fn report_dropped<A: AttemptPolicy>(
        &mut self,
        attempts: &A,
        attempt: &mut A::Attempt,
    ) {
        // The inner body must be gone before its end is reported.
        self.rest = None;
        if !self.ended {
            self.ended = true;
            let usage = self.tracker.usage();
            attempts.on_end(attempt, &Outcome::Dropped { usage }, &mut Clock::default());
        }
    }
}

impl<R: Body<Data = Bytes> + Unpin> PeekedBody<R> {
    pub(super) const fn new(body: R, tracker: BodyTracker) -> Self {
        Self {
            tracker,
            first: Bytes::new(),
            more: VecDeque::new(),
            length: 0,
            error: None,
            rest: Some(body),
            failed: None,
            ended: false,
        }
    }

    /// Reports the end of a response that has no frames, such as the answer to a HEAD request.
    pub(super) fn report_empty<A: AttemptPolicy>(
        &mut self,
        attempts: &A,
        attempt: &mut A::Attempt,
        classifier: &impl ClassifyResponse,
        clock: &mut Clock,
    ) {
        if self.rest.as_ref().is_some_and(Body::is_end_stream) {
            let outcome = self.tracker.ended(|error| classifier.stream_error(error));
            self.end(attempts, attempt, &outcome, clock);
        }
    }

    /// Reports the outcome.
    fn end<A: AttemptPolicy>(
        &mut self,
        attempts: &A,
        attempt: &mut A::Attempt,
        outcome: &Outcome,
        clock: &mut Clock,
    ) {
        self.ended = true;
        if let Outcome::Failed { class, .. } = outcome {
            self.failed = Some(*class);
        }
        attempts.on_end(attempt, outcome, clock);
    }

    /// Reads on until the response is ready for the caller or has failed, and reports to the attempt
    /// policies.
    pub(super) fn poll_peek<A: AttemptPolicy>(
        &mut self,
        attempts: &A,
        attempt: &mut A::Attempt,
        classifier: &impl ClassifyResponse,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Peeked> {
        loop {
            if let Some(peeked) = self.peeked() {
                return Poll::Ready(peeked);
            }
            let Some(body) = &mut self.rest else {
                return Poll::Ready(Peeked::Forward);
            };
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                return Poll::Pending;
            };
            let outcome = match &frame {
                // An empty frame would never fill the limit.
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => continue,
                _ if self.ended => None,
                Some(Ok(frame)) => {
                    let is_last = body.is_end_stream();
                    track(
                        &mut self.tracker,
                        attempts,
                        attempt,
                        classifier,
                        frame,
                        is_last,
                    )
                }
                Some(Err(_)) => Some(self.tracker.broken()),
                None => Some(self.tracker.ended(|error| classifier.stream_error(error))),
            };
            if let Some(outcome) = outcome {
                self.end(attempts, attempt, &outcome, clock);
            }
            match frame {
                Some(Ok(frame)) => self.keep(frame),
                Some(Err(error)) => {
                    self.error = Some(error);
                    self.rest = None;
                }
                None => self.rest = None,
            }
        }
    }

    fn keep(&mut self, frame: Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.length += data.len();
        }
        if self.first.is_empty() && self.more.is_empty() {
            match frame.into_data() {
                Ok(data) => self.first = data,
                Err(frame) => self.more.push_back(frame),
            }
        } else {
            self.more.push_back(frame);
        }
    }

    fn peeked(&self) -> Option<Peeked> {
        let has_content = self.tracker.stream().is_some_and(StreamState::has_content);
        if let Some(class) = self.failed.filter(|_| !has_content) {
            return Some(Peeked::Failed(class));
        }
        let is_over = self.rest.as_ref().is_none_or(Body::is_end_stream);
        let forwards = self.tracker.has_begun() || is_over || self.length >= HELD_LIMIT;
        forwards.then_some(Peeked::Forward)
    }

    /// Returns true if the model declined before any content of a stream, or in a whole JSON response.
    pub(super) fn is_refusal(&self) -> bool {
        if let Some(stream) = self.tracker.stream() {
            return stream.is_refusal() && !stream.has_content();
        }
        let is_over = self.rest.as_ref().is_none_or(Body::is_end_stream);
        if !self.tracker.is_json() || !is_over {
            return false;
        }
        let declined = |body: &[u8]| stop_reason(body).as_deref() == Some("refusal");
        if self.more.is_empty() {
            return declined(&self.first);
        }
        let mut whole = self.first.to_vec();
        for data in self.more.iter().filter_map(Frame::data_ref) {
            whole.extend_from_slice(data);
        }
        declined(&whole)
    }

    /// Returns true if the response is one frame at most, and nothing is left that could fail.
    pub(super) fn is_whole(&self) -> bool {
        self.ended
            && self.more.is_empty()
            && self.error.is_none()
            && match &self.rest {
                Some(body) => self.tracker.is_json() && body.is_end_stream(),
                None => true,
            }
    }

    /// Returns the frames that were read, in order.
    pub(super) fn take_frames(&mut self) -> VecDeque<Frame<Bytes>> {
        let mut frames = std::mem::take(&mut self.more);
        if !self.first.is_empty() {
            frames.push_front(Frame::data(std::mem::take(&mut self.first)));
        }
        frames
    }
}
