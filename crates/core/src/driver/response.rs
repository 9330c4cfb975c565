//! The steps from a response head to the answer or the failure of an attempt.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, response::Parts};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_wire::Usage;

use super::{
    attempt_policy::{AttemptPolicy, Clock},
    body::{Answer, Body},
    call_policy::{AttemptFailure, CallPolicy},
    failure::{FailedBody, Failure},
    peek::{Peeked, PeekedBody, is_refusal},
    policies::Policies,
    progress::Progress,
    report::Report,
};
use crate::{
    body_tracker::{BodyEnd, BodyTracker, ExpectedBody},
    class::Class,
    classify::{Classify, ClassifyResponse},
    error_body::ErrorBody,
    redirect::{bounded, class_of_redirect},
    response_body::ResponseBody,
};

/// A successful response that is held.
pub(super) struct Held<R: HttpBody> {
    pub(super) head: Parts,
    pub(super) body: PeekedBody<R>,
}

/// A failed response whose body is read.
pub(super) struct Failed<R: HttpBody> {
    pub(super) head: Parts,
    pub(super) body: ErrorBody<R>,
    /// Absent if the body decides it.
    pub(super) class: Option<Class>,
    /// Ends the reading at the deadline of the call.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

impl<R: HttpBody<Data = Bytes> + Unpin> Failed<R> {
    pub(super) fn poll_deadline(
        &mut self,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(until) = deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        timer.as_mut().poll(cx)
    }
}

/// The next step after a response head without an answer for the caller.
// Boxed, so that an answer is not moved through a larger value.
pub(super) enum Next<R: HttpBody<Data = Bytes>, E> {
    Hold(Box<Held<R>>),
    Read(Box<Failed<R>>),
    Fail(Box<Failure<R, E>>),
}

impl<R: HttpBody<Data = Bytes>, E> Next<R, E> {
    fn fail(class: Class, head: Parts, body: FailedBody<R>) -> Self {
        Self::Fail(Box::new(Failure::Response(class, head, body)))
    }
}

/// A response that is not handed on at once.
pub(super) enum Unfinished<E> {
    /// No success by its head, or one whose class the body decides.
    Failed(Option<Class>),
    /// A success whose body is not there as a whole, or is not as expected.
    Success(FirstFrame<E>, Clock),
    /// A whole success that counts as a failure for a call policy.
    Refused(Class, Bytes),
}

/// The first frame of a body.
pub(super) enum FirstFrame<E> {
    /// The body was not polled.
    NotPolled,
    /// The body was polled, and will wake the task.
    Pending,
    /// The frame, or `None` if the body has ended.
    Arrived(Option<Result<Frame<Bytes>, E>>),
}

/// Classifies a response by its head. Returns its data if it is a success and there as a whole.
// Always inlined and by reference, like the other steps of nearly every call: the response is not
// moved for it.
#[inline(always)]
pub(super) fn on_head<R, P, A, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    head: &mut Parts,
    body: &mut R,
    cx: &mut Context<'_>,
) -> Result<Bytes, Unfinished<R::Error>>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    let mut class = Class::of_head(&policies.classifier, policies.reuses_class, head);
    if head.status.is_redirection()
        && class.is_some_and(|class| class.is_success())
        && policies.classifier.expects_claude()
    {
        let (expected, origin) = (progress.expected, &progress.origin);
        class = class_of_redirect(head.status, &head.headers, expected, origin).or(class);
    }
    if let Some(report) = &mut progress.report {
        report.on_head(head);
    }
    let Some(class) = class.filter(Class::is_success) else {
        return Err(Unfinished::Failed(class));
    };
    let mut clock = Clock::default();
    report(policies, progress, &class, Some(head), &mut clock);
    let expected = expected(policies, progress);
    let mut first = FirstFrame::NotPolled;
    // Nearly every response that is no stream is the expected message and there as a whole. It
    // needs no tracker, and few of its headers are read.
    if ends_early(policies) && expected.expects_json(head) && !body.is_end_stream() {
        first = match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() && body.is_end_stream() => {
                let data = frame.into_data().unwrap_or_default();
                let usage = &mut None;
                let reads_usage = reads_usage(policies, progress);
                if expected.is_met_by(&data, &head.headers, reads_usage.then_some(usage)) {
                    let usage = usage.get_or_insert_default();
                    report_whole_end(policies, progress, BodyEnd::Complete, usage, &mut clock);
                    return match on_whole(policies, progress, head, &data) {
                        None => Ok(data),
                        Some(class) => Err(Unfinished::Refused(class, data)),
                    };
                }
                FirstFrame::Arrived(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(frame) => FirstFrame::Arrived(frame),
            Poll::Pending => FirstFrame::Pending,
        };
    }
    Err(Unfinished::Success(first, clock))
}

/// Handles a response that is not handed on at once.
// Never inlined, so that it does not slow down the fast path.
#[inline(never)]
pub(super) fn on_response<R, P, A, C, E>(
    policies: &Arc<Policies<P, A, C>>,
    progress: &mut Progress<P, A>,
    mut head: Parts,
    body: R,
    response: Unfinished<R::Error>,
    cx: &mut Context<'_>,
) -> Result<Answer<R, P, A, C>, Next<R, E>>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: Classify<E>,
{
    match response {
        Unfinished::Success(first, mut clock) => {
            on_success(policies, progress, head, body, first, &mut clock, cx)
        }
        Unfinished::Refused(class, data) => {
            // The outcome is known.
            let body = PeekedBody::whole(data, BodyTracker::opaque());
            Err(Next::fail(class, head, FailedBody::Held(body)))
        }
        Unfinished::Failed(Some(class)) if !policies.call.reads_error_body(&class) => {
            let class = bounded(class, &head.extensions);
            let clock = &mut Clock::default();
            report(policies, progress, &class, Some(&mut head), clock);
            let body = FailedBody::Error(ErrorBody::new(body));
            Err(Next::fail(class, head, body))
        }
        Unfinished::Failed(class) => Err(Next::Read(Box::new(Failed {
            head,
            body: ErrorBody::new(body),
            class,
            timer: None,
        }))),
    }
}

/// Hands a successful response on, or holds it until its first content.
#[inline]
fn on_success<R, P, A, C, E>(
    policies: &Arc<Policies<P, A, C>>,
    progress: &mut Progress<P, A>,
    mut head: Parts,
    mut body: R,
    mut first: FirstFrame<R::Error>,
    clock: &mut Clock,
    cx: &mut Context<'_>,
) -> Result<Answer<R, P, A, C>, Next<R, E>>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    let mut tracker = start_tracking(policies, progress, &head);
    if ends_early(policies) && tracker.is_json() {
        if matches!(first, FirstFrame::NotPolled)
            && !body.is_end_stream()
            && let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx)
        {
            first = FirstFrame::Arrived(frame);
        }
        if let FirstFrame::Arrived(Some(Ok(frame))) = &first
            && let Some(data) = frame.data_ref()
            && body.is_end_stream()
        {
            let data = data.clone();
            let classify = |error: &_| policies.classifier.stream_error(error);
            let usage = &mut None;
            let end = tracker.last(&data, usage, classify);
            report_whole_end(policies, progress, end, tracker.usage_or(usage), clock);
            if let Some(class) = end.failure() {
                let mut body = PeekedBody::whole(data, tracker);
                if P::HOLDS_RESPONSE {
                    return Err(Next::fail(class, head, FailedBody::Held(body)));
                }
                body.failed = Some(class);
                return Ok(into_answer(policies, progress, head, body));
            }
            return match on_whole(policies, progress, &mut head, &data) {
                None => Ok(Response::from_parts(head, ResponseBody::full(data))),
                Some(class) => {
                    let body = FailedBody::Held(PeekedBody::whole(data, tracker));
                    Err(Next::fail(class, head, body))
                }
            };
        }
    }
    let mut body = PeekedBody::new(body, tracker);
    let attempt = &mut progress.attempt;
    match first {
        FirstFrame::Arrived(frame) => body.add(frame, policies, attempt, clock),
        FirstFrame::NotPolled | FirstFrame::Pending => body.report_empty(policies, attempt, clock),
    }
    if !P::HOLDS_RESPONSE {
        return Ok(into_answer(policies, progress, head, body));
    }
    match body.poll_peek(policies, &mut progress.attempt, clock, cx) {
        Poll::Ready(peeked) => on_peeked(policies, progress, head, body, peeked)
            .map_err(|failure| Next::Fail(Box::new(failure))),
        Poll::Pending => Err(Next::Hold(Box::new(Held { head, body }))),
    }
}

/// Returns true if a response that is there as a whole has ended when it is handed on.
#[inline]
fn ends_early<P: CallPolicy, A: AttemptPolicy, C>(policies: &Policies<P, A, C>) -> bool {
    P::HOLDS_RESPONSE || !policies.attempts.ends_with_body()
}

/// Reports the outcome of a response whose only frame has arrived.
#[inline(always)]
fn report_whole_end<P: CallPolicy, A: AttemptPolicy, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    end: BodyEnd,
    usage: &Usage,
    clock: &mut Clock,
) {
    let (attempts, attempt) = (&policies.attempts, &mut progress.attempt);
    attempts.on_end(attempt, &end.outcome(usage), clock);
    if let Some(report) = &mut progress.report {
        report.set_usage(usage);
    }
}

/// Records a success whose only frame has arrived. Returns the class under which it counts as a
/// failure, if a call policy does not accept it.
#[inline(always)]
fn on_whole<P: CallPolicy, A: AttemptPolicy, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    head: &mut Parts,
    data: &Bytes,
) -> Option<Class> {
    let (state, call) = (&mut progress.state, &progress.call);
    let refused = policies.call.detects_refusal() && is_refusal(data);
    let failed = policies.call.on_success(state, call, head, refused);
    if failed.is_none() {
        policies.call.finish(state, call);
        if progress.report.is_some() {
            progress.report_whole(policies);
        }
    }
    failed
}

/// Reports the class of an attempt to the attempt policies.
#[inline]
pub(super) fn report<P: CallPolicy, A: AttemptPolicy, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    class: &Class,
    head: Option<&mut Parts>,
    clock: &mut Clock,
) {
    policies
        .attempts
        .on_response(&mut progress.attempt, class, head, clock);
}

/// Returns the body that answers the request of the call.
#[inline]
fn expected<P: CallPolicy, A: AttemptPolicy, C: ClassifyResponse>(
    policies: &Policies<P, A, C>,
    progress: &Progress<P, A>,
) -> ExpectedBody {
    if policies.classifier.expects_claude() {
        progress.expected
    } else {
        progress.expected.or_any()
    }
}

/// Returns true if a policy or a report reads the usage of this attempt.
#[inline]
fn reads_usage<P: CallPolicy, A: AttemptPolicy, C>(
    policies: &Policies<P, A, C>,
    progress: &Progress<P, A>,
) -> bool {
    policies.attempts.reads_usage(&progress.attempt)
        || progress.report.is_some() && progress.is_reported_here()
}

fn start_tracking<P: CallPolicy, A: AttemptPolicy, C: ClassifyResponse>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    head: &Parts,
) -> BodyTracker {
    let expected = expected(policies, progress);
    let tracker = BodyTracker::of(expected, head.status, &head.headers);
    if tracker.is_opaque() {
        policies.attempts.on_opaque_body(&mut progress.attempt);
    }
    if reads_usage(policies, progress) {
        tracker
    } else {
        tracker.without_usage()
    }
}

/// Hands a held response on, or returns it as a failure.
#[expect(
    clippy::result_large_err,
    reason = "a failure is rare, and a box would cost every call that has one an allocation"
)]
pub(super) fn on_peeked<R, P, A, C, E>(
    policies: &Arc<Policies<P, A, C>>,
    progress: &mut Progress<P, A>,
    mut head: Parts,
    body: PeekedBody<R>,
    peeked: Peeked,
) -> Result<Answer<R, P, A, C>, Failure<R, E>>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    if let Peeked::Failed(class) = peeked {
        return Err(Failure::Response(class, head, FailedBody::Held(body)));
    }
    let refused = policies.call.detects_refusal() && body.is_refusal();
    let (state, call) = (&mut progress.state, &progress.call);
    if let Some(class) = policies.call.on_success(state, call, &mut head, refused) {
        return Err(Failure::Response(class, head, FailedBody::Held(body)));
    }
    Ok(into_answer(policies, progress, head, body))
}

/// Reports a response that has ended before it is handed to the caller.
#[cold]
#[inline(never)]
fn on_ended<R, P, A, C>(
    policies: &Policies<P, A, C>,
    progress: &mut Progress<P, A>,
    body: &PeekedBody<R>,
    mut report: Option<Box<Report>>,
) where
    R: HttpBody<Data = Bytes>,
    P: CallPolicy,
    A: AttemptPolicy,
{
    let (state, call) = (&mut progress.state, &progress.call);
    if let Some(report) = &mut report {
        // It is known already if the body arrived with the head.
        if report.has_no_usage() {
            report.set_usage(&body.usage());
        }
        report.end_response(policies.reporter(), call, body.failed);
    }
    if let Some(class) = body.failed {
        // It arrived as a whole, with its content and the failure.
        let details = report.as_ref().map(|report| report.details());
        let failure = AttemptFailure::of_body(class, details.unwrap_or_default());
        let state = policies.call.start_body(state, call, false);
        policies.call.on_body_failure(&state, &failure);
    }
    if let Some(report) = &mut report {
        report.end_answer(policies.reporter(), call, body.failed);
    }
}

/// Hands a successful response to the caller.
pub(super) fn into_answer<R, P, A, C>(
    policies: &Arc<Policies<P, A, C>>,
    progress: &mut Progress<P, A>,
    head: Parts,
    body: PeekedBody<R>,
) -> Answer<R, P, A, C>
where
    R: HttpBody<Data = Bytes> + Unpin,
    P: CallPolicy,
    A: AttemptPolicy,
    C: ClassifyResponse,
{
    let mut report = progress.report.take();
    let has_begun = body.held.chunks.len() > 0 && body.tracker.stream().is_none();
    if (P::HOLDS_RESPONSE || has_begun)
        && let Some(report) = &mut report
    {
        report.on_content();
    }
    if body.ended && (report.is_some() || body.failed.is_some()) {
        on_ended(policies, progress, &body, report.take());
    }
    let body = if body.is_whole() {
        ResponseBody::full(body.held.chunks.into_bytes())
    } else {
        let attempt = std::mem::take(&mut progress.attempt);
        let (state, call) = (&mut progress.state, &progress.call);
        Body::tracked(body, policies, attempt, state, call, report)
    };
    policies.call.finish(&mut progress.state, &progress.call);
    Response::from_parts(head, body)
}
