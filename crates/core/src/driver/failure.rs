//! Failed attempts, and the outputs that they become.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, response::Parts};
use http_body::Body as HttpBody;

use super::{
    attempt_policy::AttemptPolicy,
    body::{Answer, Body},
    call_policy::{AttemptFailure, CallPolicy},
    peek::PeekedBody,
    policies::Policies,
    progress::{NotSent, Progress},
    report::{CallResult, Report},
};
use crate::{
    class::{Class, Kind},
    classify::{Classify, ClassifyResponse},
    error_body::ErrorBody,
    event::Ending,
    held_body::HeldBody,
    paused_by_limiter::PausedByLimiter,
    rejection::{RejectReason, Rejection},
    response_body::ResponseBody,
};

/// An attempt that failed, with all that it would hand to the caller.
#[expect(
    clippy::large_enum_variant,
    reason = "most failures are responses, and a box would be one more allocation for each"
)]
pub(super) enum Failure<R: HttpBody<Data = Bytes>, E> {
    Response(Class, Parts, FailedBody<R>),
    Error(Class, E),
    Rejected(Box<Rejection>),
    TimedOut(Rejection),
}

/// The body of a failed response.
pub(super) enum FailedBody<R: HttpBody<Data = Bytes>> {
    /// Read in part or not at all.
    Error(ErrorBody<R>),
    /// A success that failed while it was held.
    Held(PeekedBody<R>),
}

/// Returns a failure when a timer of the call policy ends the attempt.
pub(super) fn poll_timeout<R, E, P, A, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    received: Option<usize>,
    cx: &mut Context<'_>,
) -> Poll<Failure<R, E>>
where
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
{
    let (state, call) = (&mut progress.state, &progress.call);
    let mut rejection = ready!(policies.call.poll_timeout(state, call, received, cx));
    progress.report_unfinished(policies, received.is_some());
    let body = progress.call.unfinished_body();
    Poll::Ready(match body.filter(|_| received.is_none()) {
        // The caller kept the server waiting, and not the other way round.
        Some(failure) => {
            rejection.reason = RejectReason::Body { failure };
            policies.call.on_rejection(&rejection);
            Failure::Rejected(Box::new(rejection))
        }
        None => Failure::TimedOut(rejection),
    })
}

pub(super) fn not_sent<R, E, P, A, C>(
    policies: &Policies<P, A, C>,
    reason: NotSent<E>,
) -> Failure<R, E>
where
    R: HttpBody<Data = Bytes>,
    C: Classify<E>,
{
    match reason {
        NotSent::Rejected(rejection) => Failure::Rejected(rejection),
        NotSent::Unready(error) => Failure::Error(policies.classifier.error(&error), error),
    }
}

impl<R: HttpBody<Data = Bytes> + Unpin> FailedBody<R> {
    /// Drops the body, and reports that a held response is not read to its end.
    pub(super) fn discard<A: AttemptPolicy>(self, attempts: &A, attempt: &mut A::Attempt) {
        match self {
            Self::Error(body) => body.into_held().drain(),
            Self::Held(mut body) => {
                if let Some(rest) = body.held.rest.take() {
                    HeldBody::new(rest).drain();
                }
                body.report_dropped(attempts, attempt);
            }
        }
    }
}

impl<R, E> Failure<R, E>
where
    R: HttpBody<Data = Bytes> + Unpin,
{
    /// Returns the rejection, if a layer has made the failure.
    pub(super) fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Response(_, head, _) => head.extensions.get(),
            Self::Error(..) => None,
            Self::Rejected(rejection) => Some(rejection),
            Self::TimedOut(rejection) => Some(rejection),
        }
    }

    /// Returns the failure for the call policies. `report` has what their events need.
    pub(super) fn summary<'a>(&self, report: Option<&'a Report>) -> AttemptFailure<'a> {
        let (class, paused, unanswered) = match self {
            Self::Response(class, head, _) => {
                let paused = head.extensions.get::<PausedByLimiter>().copied();
                (*class, paused, false)
            }
            Self::Error(class, _) => (*class, None, class.kind == Kind::Timeout),
            Self::Rejected(rejection) => (rejection.class(), None, false),
            Self::TimedOut(rejection) => (rejection.class(), None, true),
        };
        AttemptFailure {
            class,
            paused,
            unanswered,
            reroute: None,
            details: report.map(Report::details).unwrap_or_default(),
        }
    }

    /// Reports the end of the attempt, if the server may have its request.
    #[cold]
    #[inline(never)]
    pub(super) fn report_attempt<P, A, C>(
        &self,
        policies: &Policies<P, A, C>,
        progress: &mut Progress<P, A>,
    ) where
        P: CallPolicy,
        A: AttemptPolicy,
        C: Classify<E>,
    {
        let is_sent = match self {
            Self::Response(class, ..) => !class.local,
            Self::Error(..) => progress.is_called(),
            Self::Rejected(_) => false,
            Self::TimedOut(_) => progress.is_sent(),
        };
        let class = self.summary(None).class;
        let Some(report) = &mut progress.report else {
            return;
        };
        match self {
            Self::Error(_, error) => report.set_cause(policies.classifier.cause(error)),
            Self::Response(_, _, FailedBody::Error(body)) => report.on_error_body(&body.bytes()),
            Self::Response(_, _, FailedBody::Held(body)) if report.has_no_usage() => {
                report.set_usage(&body.usage());
            }
            _ => {}
        }
        if is_sent {
            let reporter = policies.reporter();
            report.end_attempt(reporter, &progress.call, Ending::Failed, class);
        } else {
            report.end_unsent(&progress.call);
        }
    }

    /// Returns the result for the caller, if the failure ends the call.
    #[cold]
    #[inline(never)]
    pub(super) fn result(&self) -> CallResult {
        let (class, status, rejection) = match self {
            Self::Response(class, head, _) => {
                let rejection = head.extensions.get::<Rejection>().copied();
                (*class, Some(head.status), rejection)
            }
            Self::Error(class, _) => (*class, None, None),
            Self::Rejected(rejection) => return CallResult::rejected(rejection),
            Self::TimedOut(rejection) => return CallResult::rejected(rejection),
        };
        CallResult {
            ending: Ending::Failed,
            class,
            status,
            rejection,
        }
    }

    /// Drops the failure.
    pub(super) fn discard<A: AttemptPolicy>(self, attempts: &A, attempt: &mut A::Attempt) {
        if let Self::Response(_, _, body) = self {
            body.discard(attempts, attempt);
        }
    }

    pub(super) fn into_output<P, A, C>(
        self,
        policies: &Arc<Policies<P, A, C>>,
        progress: &mut Progress<P, A>,
    ) -> Result<Answer<R, P, A, C>, E>
    where
        P: CallPolicy,
        A: AttemptPolicy,
        C: ClassifyResponse,
    {
        let (class, mut head, body) = match self {
            Self::Error(_, error) => return Err(error),
            Self::TimedOut(rejection) => {
                policies.call.on_rejection(&rejection);
                return Ok(rejection_answer(policies, progress, rejection));
            }
            Self::Rejected(rejection) => {
                return Ok(rejection_answer(policies, progress, *rejection));
            }
            Self::Response(class, head, body) => (class, head, body),
        };
        head.extensions.insert(class);
        let read = match &body {
            FailedBody::Error(body) => body.bytes(),
            FailedBody::Held(_) => Default::default(),
        };
        let state = &mut progress.state;
        let replacement = policies.call.on_give_up(state, &class, &mut head, &read);
        drop(read);
        let body = match (replacement, body) {
            (Some(bytes), body) => {
                body.discard(&policies.attempts, &mut progress.attempt);
                ResponseBody::full(bytes)
            }
            (None, FailedBody::Error(body)) => Body::untracked(body.into_held()),
            (None, FailedBody::Held(body)) if body.ended => Body::untracked(body.held),
            // The model declined, and the caller reads on to the end of the response.
            (None, FailedBody::Held(body)) => {
                let attempt = std::mem::take(&mut progress.attempt);
                let report = progress.report.take();
                Body::tracked(body, policies, attempt, state, &progress.call, report)
            }
        };
        Ok(Response::from_parts(head, body))
    }
}

/// Hands a rejection to the caller.
pub(super) fn rejection_answer<R, P, A, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    rejection: Rejection,
) -> Answer<R, P, A, C>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    let class = rejection.class();
    let details = policies.attempts.details(&progress.attempt);
    let response = rejection.into_response_with(details.as_deref());
    let (mut head, body) = response.into_parts();
    let bytes = body.full_bytes().unwrap_or_default();
    let state = &mut progress.state;
    let replacement = policies.call.on_give_up(state, &class, &mut head, bytes);
    Response::from_parts(head, replacement.map_or(body, ResponseBody::full))
}
