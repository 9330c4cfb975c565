//! An answer until it is worth handing on, watched as it comes.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::Instant;

use super::attempt_policy::AttemptPolicy;
use crate::{BodyTracker, Class, ClassifyResponse, HOLD_LIMIT, Kind, Outcome, Verdict};

/// A successful answer: what has come of it, and what is told of that.
pub(super) struct PeekedBody<R: Body> {
    pub(super) watch: BodyTracker,
    /// The first data, which is all of an ordinary JSON answer; empty when there is none.
    pub(super) first: Bytes,
    pub(super) more: VecDeque<Frame<Bytes>>,
    pub(super) length: usize,
    pub(super) error: Option<R::Error>,
    pub(super) rest: Option<R>,
    /// Its end has been told.
    pub(super) over: bool,
}

/// What is told of a body as it goes by: the guards, by way of the one watch.
pub(super) fn tell<G: AttemptPolicy>(
    watch: &mut BodyTracker,
    guards: &G,
    held: &mut G::Held,
    classifier: &impl ClassifyResponse,
    frame: &Frame<Bytes>,
    last: bool,
) -> Option<Outcome> {
    let Some(data) = frame.data_ref() else {
        return last.then(|| watch.ended());
    };
    if watch.stream().is_none() && last {
        return Some(watch.last(data));
    }
    watch.feed(data);
    guards.progress(held, watch.stream()?);
    watch
        .early(|error| classifier.stream_error(error))
        .or_else(|| last.then(|| watch.ended()))
}

impl<R: Body<Data = Bytes> + Unpin> PeekedBody<R> {
    pub(super) const fn new(body: R, watch: BodyTracker) -> Self {
        Self {
            watch,
            first: Bytes::new(),
            more: VecDeque::new(),
            length: 0,
            error: None,
            rest: Some(body),
            over: false,
        }
    }

    /// Reads on until there is a verdict, and tells the guards.
    pub(super) fn poll_verdict<G: AttemptPolicy>(
        &mut self,
        guards: &G,
        held: &mut G::Held,
        classifier: &impl ClassifyResponse,
        at: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Verdict> {
        if !self.over
            && self.length == 0
            && let Some(body) = &self.rest
            && body.is_end_stream()
        {
            self.over = true;
            guards.end(held, &self.watch.ended(), at);
        }
        loop {
            if let Some(verdict) = self.verdict(classifier) {
                return Poll::Ready(verdict);
            }
            let Some(body) = &mut self.rest else {
                return Poll::Ready(Verdict::Commit);
            };
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                return Poll::Pending;
            };
            let outcome = match &frame {
                // Nothing to hold, and nothing that would ever fill the hold.
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => continue,
                _ if self.over => None,
                Some(Ok(frame)) => {
                    let last = body.is_end_stream();
                    tell(&mut self.watch, guards, held, classifier, frame, last)
                }
                Some(Err(_)) => Some(self.watch.broken()),
                None => Some(self.watch.ended()),
            };
            if let Some(outcome) = outcome {
                self.over = true;
                guards.end(held, &outcome, at);
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

    fn verdict(&self, classifier: &impl ClassifyResponse) -> Option<Verdict> {
        if let Some(stream) = self.watch.stream() {
            if let Some(error) = stream.error()
                && !stream.has_content()
            {
                return Some(Verdict::Failed(classifier.stream_error(error)));
            }
            if stream.has_content() || stream.is_complete() || stream.is_not_claude() {
                return Some(Verdict::Commit);
            }
        } else if !self.watch.is_message() {
            return Some(Verdict::Commit);
        }
        if self.length >= HOLD_LIMIT {
            return Some(Verdict::Commit);
        }
        match (&self.rest, &self.error) {
            (Some(body), _) if !body.is_end_stream() => None,
            (_, Some(_)) => Some(Verdict::Failed(Class::new(Kind::Transport))),
            _ => Some(self.cut_short().map_or(Verdict::Commit, Verdict::Failed)),
        }
    }

    /// A JSON answer that was read to its end in one look was not kept by the watch.
    fn cut_short(&self) -> Option<Class> {
        self.watch.cut_short()
    }

    /// Whether the model declined before any content of a stream.
    pub(super) fn is_refusal(&self) -> bool {
        if let Some(stream) = self.watch.stream() {
            return stream.is_refusal() && !stream.has_content();
        }
        let over = self.rest.as_ref().is_none_or(Body::is_end_stream);
        if !self.watch.is_message() || !over {
            return false;
        }
        let declined =
            |body: &[u8]| tower_claude_wire::stop_reason(body).as_deref() == Some("refusal");
        if self.more.is_empty() {
            return declined(&self.first);
        }
        let mut whole = self.first.to_vec();
        for data in self.more.iter().filter_map(Frame::data_ref) {
            whole.extend_from_slice(data);
        }
        declined(&whole)
    }

    /// One frame at most, and nothing left that could fail or be watched.
    pub(super) fn is_whole(&self) -> bool {
        self.over
            && self.more.is_empty()
            && self.error.is_none()
            && match &self.rest {
                Some(body) => self.watch.is_message() && body.is_end_stream(),
                None => true,
            }
    }
}
