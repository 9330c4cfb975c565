//! The one body that sees how a response ends.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_claude_wire::{ApiError, StreamState};

use crate::{BodyTracker, Class, Outcome};

/// Is told how a response goes on and how it ended.
pub trait Observe {
    /// What an `error` event inside the stream means.
    fn stream_error(&self, error: &ApiError) -> Class;

    /// More of the stream went by.
    fn progress(&mut self, stream: &StreamState) {
        let _ = stream;
    }

    /// How the response ended. Called exactly once; must not panic, since it may run in a drop.
    fn end(self, outcome: Outcome);
}

pin_project! {
    /// Passes a body through untouched and tells an [`Observe`]r how it ended: at its end, at
    /// `message_stop`, at an error, or when it is dropped; once.
    pub struct Observed<B, O>
    where
        O: Observe,
    {
        #[pin]
        body: B,
        // After the body: what is dropped is gone before its end is told.
        witness: Witness<O>,
    }
}

/// What was seen of a body, and who is to be told.
struct Witness<O: Observe> {
    watch: BodyTracker,
    observer: Option<O>,
}

impl<O: Observe> Drop for Witness<O> {
    fn drop(&mut self) {
        if let Some(observer) = self.observer.take() {
            let usage = self.watch.usage();
            observer.end(Outcome::Dropped { usage });
        }
    }
}

impl<B, O> Observed<B, O>
where
    B: Body<Data = Bytes>,
    O: Observe,
{
    /// Observes this body. One that has no frames (HEAD, 204) ends here; one whose `watch` has
    /// already seen its end does too.
    pub fn new(body: B, watch: BodyTracker, observer: O) -> Self {
        let observer = Self::still(&body, &watch, observer);
        Self::resumed(body, watch, observer)
    }

    /// The observer, unless the body is at its end already, which it is told then. The first half of
    /// [`new`](Self::new), for a body that is moved only once it is decided what becomes of it.
    pub fn still(body: &B, watch: &BodyTracker, observer: O) -> Option<O> {
        let over = watch
            .early(|error| observer.stream_error(error))
            .or_else(|| body.is_end_stream().then(|| watch.ended()));
        match over {
            Some(outcome) => {
                observer.end(outcome);
                None
            }
            None => Some(observer),
        }
    }

    /// Observes this body for whoever is [`still`](Self::still) to be told; nobody passes it through
    /// unobserved.
    pub const fn resumed(body: B, watch: BodyTracker, observer: Option<O>) -> Self {
        let witness = Witness { watch, observer };
        Self { body, witness }
    }

    /// What was understood of the body so far; nothing more once its end was reported.
    pub const fn watch(&self) -> &BodyTracker {
        &self.witness.watch
    }

    /// Passes the body through unobserved.
    pub const fn off(body: B) -> Self {
        Self::resumed(body, BodyTracker::opaque(), None)
    }
}

/// Takes note of a frame; the outcome, if it is certain with it.
#[inline]
fn goes_on<O: Observe>(
    watch: &mut BodyTracker,
    observer: &mut O,
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
    observer.progress(watch.stream()?);
    watch
        .early(|error| observer.stream_error(error))
        .or_else(|| last.then(|| watch.ended()))
}

impl<B, O> Body for Observed<B, O>
where
    B: Body<Data = Bytes>,
    O: Observe,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let Witness { watch, observer } = this.witness;
        let Some(told) = observer.as_mut() else {
            return Poll::Ready(frame);
        };
        let outcome = match &frame {
            None => Some(watch.ended()),
            Some(Err(_)) => Some(watch.broken()),
            // The caller may never poll past the last frame.
            Some(Ok(frame)) => goes_on(watch, told, frame, this.body.is_end_stream()),
        };
        if let Some(outcome) = outcome
            && let Some(observer) = observer.take()
        {
            observer.end(outcome);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B, O: Observe> fmt::Debug for Observed<B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed")
            .field("ended", &self.witness.observer.is_none())
            .finish_non_exhaustive()
    }
}
