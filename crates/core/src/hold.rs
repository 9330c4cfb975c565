//! Holding a response back until it is worth handing on.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tower_claude_wire::{self as wire, ApiError};

use crate::{BodyTracker, Class, Outcome, ResponseBody};

/// The most that is held of a response: 64 KiB.
pub const HOLD_LIMIT: usize = 64 * 1024;

/// What holding a response led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Hand it on: content has begun, the answer is whole, or the limit is reached.
    Commit,
    /// It failed before any content: nothing was handed on, so it may be sent again.
    Failed(Class),
}

/// A successful response, held until its first content event (a stream), or until it is whole (a
/// JSON answer, which is of no use in parts); at most [`HOLD_LIMIT`] bytes. Retry and fallback are
/// possible until then, and not after.
#[derive(Debug)]
pub struct Hold<B: Body> {
    watch: BodyTracker,
    /// The first data, which is all of an ordinary JSON answer; empty when there is none.
    first: Bytes,
    more: VecDeque<Frame<Bytes>>,
    length: usize,
    error: Option<B::Error>,
    rest: Option<B>,
}

impl<B: Body<Data = Bytes> + Unpin> Hold<B> {
    /// Nothing held yet.
    pub const fn new(body: B, watch: BodyTracker) -> Self {
        Self {
            watch,
            first: Bytes::new(),
            more: VecDeque::new(),
            length: 0,
            error: None,
            rest: Some(body),
        }
    }

    /// Reads on until there is a verdict. `stream_error` classifies an `error` event.
    pub fn poll_verdict(
        &mut self,
        cx: &mut Context<'_>,
        stream_error: impl Fn(&ApiError) -> Class,
    ) -> Poll<Verdict> {
        loop {
            if let Some(verdict) = self.verdict(&stream_error) {
                return Poll::Ready(verdict);
            }
            let Some(body) = &mut self.rest else {
                return Poll::Ready(Verdict::Commit);
            };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
                return Poll::Pending;
            };
            match frame {
                // Nothing to hold, and nothing that would ever fill the hold.
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
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
            self.watch.feed(data);
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

    fn verdict(&self, stream_error: &impl Fn(&ApiError) -> Class) -> Option<Verdict> {
        if let Some(stream) = self.watch.stream() {
            if let Some(error) = stream.error()
                && !stream.has_content()
            {
                return Some(Verdict::Failed(stream_error(error)));
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
            (_, Some(_)) => Some(Verdict::Failed(Class::new(crate::Kind::Transport))),
            _ => Some(
                self.watch
                    .cut_short()
                    .map_or(Verdict::Commit, Verdict::Failed),
            ),
        }
    }

    /// Bytes held so far: more of them means that the server is not silent.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Whether the answer is whole, and one in which the model declined before any content of a stream
    /// (`stop_reason: "refusal"`).
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        if let Some(stream) = self.watch.stream() {
            return stream.is_refusal() && !stream.has_content();
        }
        let over = self.rest.as_ref().is_none_or(Body::is_end_stream);
        if !self.watch.is_message() || !over {
            return false;
        }
        let declined = |body: &[u8]| wire::stop_reason(body).as_deref() == Some("refusal");
        if self.more.is_empty() {
            return declined(&self.first);
        }
        let mut whole = self.first.to_vec();
        for data in self.more.iter().filter_map(Frame::data_ref) {
            whole.extend_from_slice(data);
        }
        declined(&whole)
    }

    /// How the response ended, when it ended while it was held.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.rest.is_none().then(|| self.watch.ended())
    }

    /// The response as it came, with the rest wrapped by the layer, which may go on watching.
    pub fn into_body<W>(self, wrap: impl FnOnce(B, BodyTracker) -> W) -> ResponseBody<W>
    where
        W: Body<Data = Bytes, Error = B::Error>,
    {
        if self.is_whole() {
            return ResponseBody::full(self.first);
        }
        let Self {
            watch,
            first,
            mut more,
            error,
            rest,
            ..
        } = self;
        match rest {
            Some(body) if first.is_empty() && more.is_empty() => {
                ResponseBody::inner(wrap(body, watch))
            }
            rest => {
                if !first.is_empty() {
                    more.push_front(Frame::data(first));
                }
                ResponseBody::held(more, error, rest.map(|body| wrap(body, watch)))
            }
        }
    }

    /// One frame at most, and nothing left that could fail or be watched.
    fn is_whole(&self) -> bool {
        self.more.is_empty()
            && self.error.is_none()
            && match &self.rest {
                Some(body) => {
                    self.watch.is_message()
                        && self.watch.cut_short().is_none()
                        && body.is_end_stream()
                }
                None => true,
            }
    }
}
