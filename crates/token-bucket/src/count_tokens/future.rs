//! The future of a request whose tokens are counted first.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_claude_core::{
    Call, RequestBody, UsageBound,
    toolkit::{ErrorBody, host},
};
use tower_claude_wire::{count_tokens_body, counted_tokens};
use tower_service::Service;

use super::{Counter, PromptHash, request};

pin_project! {
    /// The future of [`CountTokens`](super::CountTokens).
    #[must_use = "futures do nothing unless polled"]
    pub struct CountTokensFuture<S, B>
    where
        S: Service<Request<RequestBody>>,
        B: Body,
    {
        counter: Arc<Counter>,
        service: S,
        request: Option<Request<RequestBody>>,
        #[pin]
        count: Count<S::Future, B>,
        #[pin]
        call: Option<S::Future>,
    }
}

pin_project! {
    #[project = CountProjection]
    enum Count<F, B: Body> {
        /// Until the first poll.
        New,
        /// Until the response with the count is read.
        Counting {
            call: Arc<Call>,
            prompt: PromptHash,
            most: u32,
            request: Option<Request<RequestBody>>,
            #[pin]
            future: Option<F>,
            body: Option<ErrorBody<B>>,
            #[pin]
            sleep: Sleep,
        },
        /// Counted, or left to the estimate.
        Done,
    }
}

impl<S, B> CountTokensFuture<S, B>
where
    S: Service<Request<RequestBody>>,
    B: Body,
{
    pub(super) const fn new(
        counter: Arc<Counter>,
        service: S,
        request: Request<RequestBody>,
    ) -> Self {
        Self {
            counter,
            service,
            request: Some(request),
            count: Count::New,
            call: None,
        }
    }
}

/// Starts to count a request. `None` if the count is known or the request cannot be counted.
fn start<F, B: Body>(counter: &Counter, message: &mut Request<RequestBody>) -> Option<Count<F, B>> {
    if !request::is_countable(message) {
        return None;
    }
    let now = Instant::now();
    let call = Call::get_or_attach(message, now);
    // The count of an earlier attempt may be that of another model.
    call.set_counted_input(None);
    let condition = counter.condition.as_ref();
    if condition.is_some_and(|is_wanted| !is_wanted(message)) {
        return None;
    }
    let body = count_tokens_body(message.body().bytes()?)?;
    let (prompt, known) = {
        let mut known = counter.known();
        let host = host(message.uri(), message.headers());
        let prompt = known.hash(&host, &body);
        (prompt, known.get(prompt))
    };
    call.set_counted_input(known.flatten());
    if known.is_some() {
        return None;
    }
    let end = now.checked_add(counter.timeout)?;
    let beside = call.beside(now).with_deadline(Some(end));
    let request = request::count_request(message, beside, body)?;
    // The outer layers must not take the message for sent yet.
    call.set_held_back(true);
    Some(Count::Counting {
        call,
        prompt,
        most: UsageBound::of(message).input_tokens,
        request: Some(request),
        future: None,
        body: None,
        sleep: sleep_until(end),
    })
}

impl<F, B> Count<F, B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Polls the count. Ready when it is known or has failed. An error means that the inner service
    /// failed to become ready.
    fn poll_count<S>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        counter: &Counter,
        service: &mut S,
    ) -> Poll<Result<(), S::Error>>
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Future = F>,
        F: Future<Output = Result<Response<B>, S::Error>>,
    {
        let CountProjection::Counting {
            call,
            prompt,
            most,
            request,
            mut future,
            body,
            sleep,
        } = self.project()
        else {
            return Poll::Ready(Ok(()));
        };
        let failed = |because| {
            counter.report_uncounted(because);
            Poll::Ready(Ok(()))
        };
        if sleep.poll(cx).is_ready() {
            return failed("timeout");
        }
        if request.is_some() {
            ready!(service.poll_ready(cx))?;
            future.set(request.take().map(|request| service.call(request)));
        }
        if let Some(counting) = future.as_mut().as_pin_mut() {
            let response = ready!(counting.poll(cx));
            future.set(None);
            let Ok(response) = response else {
                return failed("error");
            };
            if let Some(because) = request::failure(&response) {
                if request::is_permanent(response.status()) {
                    counter.known().insert(*prompt, None);
                }
                return failed(because);
            }
            *body = Some(ErrorBody::new(response.into_body()));
        }
        let Some(reading) = body else {
            return Poll::Ready(Ok(()));
        };
        ready!(reading.poll_read(cx));
        match counted_tokens(&reading.bytes()) {
            // More than the request can have is no count.
            Some(tokens) if tokens <= u64::from(*most) => {
                call.set_counted_input(Some(tokens));
                counter.known().insert(*prompt, Some(tokens));
                Poll::Ready(Ok(()))
            }
            _ => failed("answer"),
        }
    }
}

impl<S, B> Future for CountTokensFuture<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: Body<Data = Bytes> + Unpin,
{
    type Output = Result<Response<B>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(call) = this.call.as_mut().as_pin_mut() {
            return call.poll(cx);
        }
        let message = this.request.as_mut().expect("polled after completion");
        if matches!(*this.count, Count::New) {
            let count = start(this.counter, message).unwrap_or(Count::Done);
            this.count.set(count);
        }
        let counted = ready!(
            this.count
                .as_mut()
                .poll_count(cx, this.counter, this.service)
        );
        if let CountProjection::Counting { call, .. } = this.count.as_mut().project() {
            call.set_held_back(false);
        }
        // The response of the count is dropped before the request is sent, as it may hold a
        // connection.
        this.count.set(Count::Done);
        counted?;
        ready!(this.service.poll_ready(cx))?;
        let message = this.request.take().expect("taken once");
        this.call.set(Some(this.service.call(message)));
        let call = this.call.as_mut().as_pin_mut().expect("just set");
        call.poll(cx)
    }
}

impl<S, B> fmt::Debug for CountTokensFuture<S, B>
where
    S: Service<Request<RequestBody>>,
    B: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountTokensFuture")
            .field("sent", &self.call.is_some())
            .finish_non_exhaustive()
    }
}
