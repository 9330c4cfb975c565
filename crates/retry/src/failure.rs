//! How an attempt failed, and what goes up when no other follows.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, response::Parts};
use http_body::Body as HttpBody;
use tower_claude_core::{
    Class, Classify, ClassifyResponse, Hold, Kind, PausedByLimiter, Rejection, ResponseBody,
    event::Event,
};

use crate::{Body, LAYER, call::RetryCall};

/// What the caller gets.
pub(crate) type Answer<R, C> = Response<ResponseBody<Body<R, C>>>;

/// An attempt that failed.
pub(crate) enum Failure<R: HttpBody<Data = Bytes>, C: ClassifyResponse, E> {
    /// With a response, whole but for what was read of it.
    Answer(Class, Answer<R, C>),
    /// With an error of the inner service.
    Error(Class, E),
    /// By one of the timers.
    Late(Rejection),
}

impl<R, C, E> Failure<R, C, E>
where
    R: HttpBody<Data = Bytes> + Unpin,
    C: ClassifyResponse,
{
    /// The wait before the next attempt, if there is to be one.
    pub(crate) fn delay(&self, call: &mut RetryCall<C>) -> Option<Duration> {
        match self {
            Self::Answer(class, answer) => {
                let paced = answer.extensions().get::<PausedByLimiter>().copied();
                call.after_failure(*class, paced, false)
            }
            Self::Error(class, _) => call.after_failure(*class, None, class.kind == Kind::Timeout),
            Self::Late(refusal) => call.after_failure(refusal.class(), None, true),
        }
    }

    /// What goes up: the response as it came, with what it means.
    pub(crate) fn into_output(self, call: &RetryCall<C>) -> Result<Answer<R, C>, E> {
        match self {
            Self::Answer(class, mut answer) => {
                answer.extensions_mut().insert(class);
                Ok(answer)
            }
            Self::Error(_, error) => Err(error),
            Self::Late(refusal) => Ok(refuse(call, refusal)),
        }
    }
}

/// The inner service's error as a failure.
pub(crate) fn failed<R, C, E>(call: &RetryCall<C>, error: E) -> Failure<R, C, E>
where
    R: HttpBody<Data = Bytes>,
    C: Classify<E>,
{
    Failure::Error(call.classifier.error(&error), error)
}

/// A held answer that failed before its content began.
pub(crate) fn broken_off<R, C, E>(class: Class, head: Parts, hold: Hold<R>) -> Failure<R, C, E>
where
    R: HttpBody<Data = Bytes> + Unpin,
    C: ClassifyResponse,
{
    let body = hold.into_body(|body, _| Body::off(body));
    Failure::Answer(class, Response::from_parts(head, body))
}

/// An answer of our own.
pub(crate) fn refuse<R, C>(call: &RetryCall<C>, refusal: Rejection) -> Answer<R, C>
where
    R: HttpBody<Data = Bytes>,
    C: ClassifyResponse,
{
    call.say(&Event::Rejected {
        layer: LAYER,
        scope: None,
        reason: refusal.reason,
        class: refusal.class(),
    });
    refusal.into_response()
}
