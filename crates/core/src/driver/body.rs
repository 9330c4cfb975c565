//! The rest of an answer that was handed on.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    attempt_policy::AttemptPolicy,
    call_policy::CallPolicy,
    peek::{PeekedBody, tell},
    service::Policies,
};
use crate::{BodyTracker, Call, ClassifyResponse, Outcome, ResponseBody, collect::plus};

/// What was held of an answer and then the rest of it, watched for how it ends.
// Boxed: an answer that was whole when it was handed on has none, and moves the lighter for it.
pub struct Rest<R, Re, G, C>(Option<Box<Live<R, Re, G, C>>>)
where
    R: Body<Data = Bytes>,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: ClassifyResponse;

struct Live<R, Re, G, C>
where
    R: Body<Data = Bytes>,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: ClassifyResponse,
{
    frames: VecDeque<Frame<Bytes>>,
    error: Option<R::Error>,
    body: Option<R>,
    /// Until the end is told.
    watched: Option<Watched<Re, G, C>>,
}

struct Watched<Re: CallPolicy, G: AttemptPolicy, C> {
    watch: BodyTracker,
    stages: Arc<Policies<Re, G, C>>,
    held: G::Held,
    tail: Re::Tail,
    over: bool,
    /// Tells whether a timer ended it.
    context: Arc<Call>,
}

impl<R, Re, G, C> Rest<R, Re, G, C>
where
    R: Body<Data = Bytes> + Unpin,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: ClassifyResponse,
{
    /// Passes through.
    pub(super) fn off(body: R) -> Self {
        Self(Some(Box::new(Live {
            frames: VecDeque::new(),
            error: None,
            body: Some(body),
            watched: None,
        })))
    }

    /// What was held of an answer that failed.
    pub(super) fn unwatched(landing: PeekedBody<R>) -> ResponseBody<Self> {
        let mut frames = landing.more;
        if !landing.first.is_empty() {
            frames.push_front(Frame::data(landing.first));
        }
        ResponseBody::inner(Self(Some(Box::new(Live {
            frames,
            error: landing.error,
            body: landing.rest,
            watched: None,
        }))))
    }

    /// The rest of an answer that is handed on.
    pub(super) fn watched(
        landing: PeekedBody<R>,
        stages: &Arc<Policies<Re, G, C>>,
        held: G::Held,
        trip: &mut Re::Trip,
        context: &Arc<Call>,
    ) -> ResponseBody<Self> {
        let PeekedBody {
            watch,
            first,
            more: mut frames,
            error,
            rest,
            over,
            ..
        } = landing;
        if !first.is_empty() {
            frames.push_front(Frame::data(first));
        }
        let is_stream = watch.stream().is_some_and(|stream| !stream.is_not_claude());
        // A length was promised: other words in its place would break the promise.
        let can_end = rest
            .as_ref()
            .is_some_and(|body| body.size_hint().exact().is_none());
        let tail = stages.resends.tail(trip, context, is_stream && can_end);
        let watched = Watched {
            watch,
            stages: stages.clone(),
            held,
            tail,
            over,
            context: context.clone(),
        };
        ResponseBody::inner(Self(Some(Box::new(Live {
            frames,
            error,
            body: rest,
            watched: Some(watched),
        }))))
    }
}

impl<Re: CallPolicy, G: AttemptPolicy, C: ClassifyResponse> Watched<Re, G, C> {
    fn tell<E>(&mut self, frame: Option<&Result<Frame<Bytes>, E>>, last: bool) {
        if self.over {
            return;
        }
        let stages = &*self.stages;
        let outcome = match frame {
            None => Some(self.watch.ended()),
            Some(Err(_)) => Some(self.watch.broken()),
            // The caller may never poll past the last frame.
            Some(Ok(frame)) => tell(
                &mut self.watch,
                &stages.guards,
                &mut self.held,
                &stages.classifier,
                frame,
                last,
            ),
        };
        if let Some(outcome) = outcome {
            self.end(&outcome);
        }
    }

    fn end(&mut self, outcome: &Outcome) {
        self.over = true;
        self.stages.guards.end(&mut self.held, outcome, &mut None);
        if let Outcome::Failed { class, .. } = outcome {
            self.stages.resends.broken(*class);
        }
        // What was held goes now, not when somebody drops the body.
        self.held = G::Held::default();
    }
}

impl<R, Re, G, C> Body for Rest<R, Re, G, C>
where
    R: Body<Data = Bytes> + Unpin,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: ClassifyResponse,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let this = self.get_mut();
        let Some(live) = &mut this.0 else {
            return Poll::Ready(None);
        };
        if let Some(frame) = live.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = live.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(body) = &mut live.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            if let Some(watched) = &mut live.watched {
                watched.tell(frame.as_ref(), body.is_end_stream());
                match &frame {
                    Some(Ok(_)) => watched.stages.resends.heard(&mut watched.tail),
                    _ => watched.tail = Re::Tail::default(),
                }
            }
            return Poll::Ready(frame);
        }
        let Some(watched) = &mut live.watched else {
            return Poll::Pending;
        };
        let Watched {
            stages,
            tail,
            watch,
            ..
        } = watched;
        let Poll::Ready(words) = stages.resends.poll_silent(tail, watch, cx) else {
            return Poll::Pending;
        };
        // Whatever the inner body holds is free from here on.
        this.0 = None;
        Poll::Ready(words.map(|words| Ok(Frame::data(words))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|live| {
            live.frames.is_empty()
                && live.error.is_none()
                && live.body.as_ref().is_none_or(Body::is_end_stream)
        })
    }

    fn size_hint(&self) -> SizeHint {
        let Some(live) = &self.0 else {
            return SizeHint::with_exact(0);
        };
        if let Some(watched) = &live.watched
            && watched.stages.resends.is_timed(&watched.tail)
        {
            // It may end early, and with words of ours.
            return SizeHint::new();
        }
        let lengths = live.frames.iter().filter_map(Frame::data_ref);
        let length = lengths.map(|data| data.len() as u64).sum();
        match &live.body {
            Some(body) => plus(body.size_hint(), length),
            None if live.error.is_none() => SizeHint::with_exact(length),
            None => {
                let mut hint = SizeHint::new();
                hint.set_lower(length);
                hint
            }
        }
    }
}

impl<R, Re, G, C> Drop for Live<R, Re, G, C>
where
    R: Body<Data = Bytes>,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: ClassifyResponse,
{
    fn drop(&mut self) {
        // What is dropped is gone before its end is told.
        self.body = None;
        if let Some(watched) = &mut self.watched
            && !watched.over
        {
            let usage = watched.watch.usage();
            watched.over = true;
            if watched.context.is_timed_out() && !watched.context.is_held_back() {
                watched.stages.guards.timed_out(&mut watched.held);
            }
            watched
                .stages
                .guards
                .end(&mut watched.held, &Outcome::Dropped { usage }, &mut None);
        }
    }
}

impl<R, Re, G, C> fmt::Debug for Rest<R, Re, G, C>
where
    R: Body<Data = Bytes>,
    Re: CallPolicy,
    G: AttemptPolicy,
    C: ClassifyResponse,
{
    /// Never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest")
            .field("ended", &self.0.is_none())
            .finish_non_exhaustive()
    }
}
