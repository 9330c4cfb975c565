//! A successful response until it is ready for the caller.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use tower_claude_wire::{StreamState, Usage, stop_reason};

use super::{
    attempt_policy::{AttemptPolicy, Clock},
    policies::Policies,
};
use crate::{
    body_tracker::{BodyEnd, BodyTracker},
    class::Class,
    classify::ClassifyResponse,
    held_body::{FrameCredit, HeldBody},
    outcome::Outcome,
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
    pub(super) held: HeldBody<R>,
    /// The response failed, so far as it was read.
    pub(super) failed: Option<Class>,
    /// The attempt policies know how the response ended.
    pub(super) ended: bool,
    /// The usage in a JSON document of which the tracker keeps nothing. Boxed, because it is large
    /// and such a document is mostly there with the head.
    usage: Option<Box<Usage>>,
}

/// Feeds a frame to the tracker and reports the progress of a stream. Returns the end of the body
/// if it is certain with this frame. Usage that is not in the tracker goes to `usage`.
pub(super) fn track<A: AttemptPolicy>(
    tracker: &mut BodyTracker,
    attempts: &A,
    attempt: &mut A::Attempt,
    classifier: &impl ClassifyResponse,
    frame: &Frame<Bytes>,
    is_last: bool,
    usage: &mut Option<Usage>,
) -> Option<BodyEnd> {
    let classify = |error: &_| classifier.stream_error(error);
    let Some(data) = frame.data_ref() else {
        return is_last.then(|| tracker.ended(classify));
    };
    if tracker.stream().is_none() && is_last {
        return Some(tracker.last(data, usage, classify));
    }
    tracker.feed(data);
    if let Some(stream) = tracker.stream() {
        attempts.on_progress(attempt, stream);
    }
    let early = tracker.early(classify);
    early.or_else(|| is_last.then(|| tracker.ended(classify)))
}

/// Returns true if the model declined in this whole JSON response.
pub(super) fn is_refusal(body: &[u8]) -> bool {
    stop_reason(body).as_deref() == Some("refusal")
}

impl<R: Body<Data = Bytes>> PeekedBody<R> {
    pub(super) const fn new(body: R, tracker: BodyTracker) -> Self {
        Self {
            tracker,
            held: HeldBody::new(body),
            failed: None,
            ended: false,
            usage: None,
        }
    }

    /// Creates the body of a response that consists of this data, and whose outcome was reported.
    pub(super) fn whole(data: Bytes, tracker: BodyTracker) -> Self {
        Self {
            tracker,
            held: HeldBody::whole(data),
            failed: None,
            ended: true,
            usage: None,
        }
    }

    /// Drops the rest of the response, and reports that it is not read to its end unless its end is
    /// known.
    pub(super) fn report_dropped<A: AttemptPolicy>(
        &mut self,
        attempts: &A,
        attempt: &mut A::Attempt,
    ) {
        // The inner body must be gone before its end is reported.
        self.held.rest = None;
        if !self.ended {
            self.ended = true;
            let usage = &mut None;
            let usage = self.tracker.usage_or(usage);
            attempts.on_end(attempt, &Outcome::Dropped { usage }, &mut Clock::default());
        }
    }

    /// Reports the end of a response that has no frames, such as the answer to a HEAD request.
    pub(super) fn report_empty<P, A: AttemptPolicy, C: ClassifyResponse>(
        &mut self,
        policies: &Policies<P, A, C>,
        attempt: &mut A::Attempt,
        clock: &mut Clock,
    ) {
        if self.held.chunks.len() == 0 && self.held.is_read() {
            let classify = |error: &_| policies.classifier.stream_error(error);
            let end = self.tracker.ended(classify);
            let usage = &mut None;
            self.end(&policies.attempts, attempt, end, usage, clock);
        }
    }

    /// Reports the outcome, with the usage in the tracker or else this one.
    fn end<A: AttemptPolicy>(
        &mut self,
        attempts: &A,
        attempt: &mut A::Attempt,
        end: BodyEnd,
        usage: &mut Option<Usage>,
        clock: &mut Clock,
    ) {
        self.ended = true;
        if let BodyEnd::Failed(class) = end {
            self.failed = Some(class);
        }
        let outcome = end.outcome(self.tracker.usage_or(usage));
        attempts.on_end(attempt, &outcome, clock);
        let found = usage.take().filter(|usage| !usage.is_empty());
        self.usage = found.map(Box::new);
    }

    /// Returns the usage that was read so far.
    pub(super) fn usage(&self) -> Usage {
        match &self.usage {
            Some(usage) => (**usage).clone(),
            None => self.tracker.usage(),
        }
    }

    /// Returns true if the model declined before any content of a stream, or in a whole JSON
    /// response.
    pub(super) fn is_refusal(&self) -> bool {
        if let Some(stream) = self.tracker.stream() {
            return stream.is_refusal() && !stream.has_content();
        }
        self.tracker.is_json() && self.held.is_read() && is_refusal(&self.held.chunks.bytes())
    }

    /// Returns true if the response is one frame at most, and nothing is left that could fail.
    pub(super) fn is_whole(&self) -> bool {
        self.ended
            && self.held.is_single()
            && match &self.held.rest {
                Some(body) => self.tracker.is_json() && body.is_end_stream(),
                None => true,
            }
    }

    fn peeked(&self) -> Option<Peeked> {
        let has_content = self.tracker.stream().is_some_and(StreamState::has_content);
        if let Some(class) = self.failed.filter(|_| !has_content) {
            return Some(Peeked::Failed(class));
        }
        let is_long = self.held.chunks.len() >= HELD_LIMIT;
        let forwards = self.tracker.has_begun() || self.held.is_read() || is_long;
        forwards.then_some(Peeked::Forward)
    }
}

impl<R: Body<Data = Bytes> + Unpin> PeekedBody<R> {
    /// Reads on until the response is ready for the caller or has failed, and reports to the
    /// attempt policies.
    pub(super) fn poll_peek<P, A: AttemptPolicy, C: ClassifyResponse>(
        &mut self,
        policies: &Policies<P, A, C>,
        attempt: &mut A::Attempt,
        clock: &mut Clock,
        cx: &mut Context<'_>,
    ) -> Poll<Peeked> {
        let mut credit = FrameCredit::new();
        loop {
            if let Some(peeked) = self.peeked() {
                return Poll::Ready(peeked);
            }
            ready!(credit.poll_take(cx));
            let Poll::Ready(frame) = self.held.poll_rest(cx) else {
                return Poll::Pending;
            };
            self.add(frame, policies, attempt, clock);
        }
    }

    /// Tracks what the body has yielded, keeps it, and reports to the attempt policies.
    pub(super) fn add<P, A: AttemptPolicy, C: ClassifyResponse>(
        &mut self,
        frame: Option<Result<Frame<Bytes>, R::Error>>,
        policies: &Policies<P, A, C>,
        attempt: &mut A::Attempt,
        clock: &mut Clock,
    ) {
        let usage = &mut None;
        let end = match &frame {
            _ if self.ended => None,
            Some(Ok(frame)) => {
                let (attempts, classifier) = (&policies.attempts, &policies.classifier);
                let is_last = self.held.is_read();
                let tracker = &mut self.tracker;
                track(
                    tracker, attempts, attempt, classifier, frame, is_last, usage,
                )
            }
            Some(Err(_)) => Some(BodyEnd::BROKEN),
            None => {
                let classify = |error: &_| policies.classifier.stream_error(error);
                Some(self.tracker.ended(classify))
            }
        };
        if let Some(end) = end {
            self.end(&policies.attempts, attempt, end, usage, clock);
        }
        self.held.keep(frame);
    }
}
