//! The future of the layer: transitions only.

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
use tower_claude_core::{Call, ErrorBody, RequestBody};
use tower_claude_wire::{count_tokens_body, counted_tokens};
use tower_service::Service;

use super::{layer::Counter, memory::Prompt, request};

pin_project! {
    /// Future of [`CountTokens`](super::CountTokens).
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
        /// Nothing was asked yet.
        New,
        /// Sending the count, and reading its answer.
        Asking {
            context: Arc<Call>,
            prompt: Prompt,
            request: Option<Request<RequestBody>>,
            #[pin]
            future: Option<F>,
            answer: Option<ErrorBody<B>>,
            #[pin]
            sleep: Sleep,
        },
        /// Counted, or left to the estimate.
        Over,
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

/// What there is to ask: nothing when the count is known, or cannot be had.
fn begin<F, B: Body>(counter: &Counter, message: &mut Request<RequestBody>) -> Count<F, B> {
    if !request::is_countable(message) {
        return Count::Over;
    }
    let Some(body) = message
        .body()
        .bytes()
        .and_then(|body| count_tokens_body(body))
    else {
        return Count::Over;
    };
    let now = Instant::now();
    let context = Call::get_or_attach(message, now);
    let (prompt, known) = {
        let mut memory = counter.memory();
        let prompt = memory.prompt(&body);
        (prompt, memory.get(prompt))
    };
    // Also takes back what was counted for another model, further out in the same call.
    context.set_counted_input(known);
    if known.is_some() {
        return Count::Over;
    }
    let Some(end) = now.checked_add(counter.timeout) else {
        return Count::Over;
    };
    let beside = context.beside(now).with_deadline(Some(end));
    let Some(request) = request::counting(message, beside, body) else {
        return Count::Over;
    };
    // The layers further out learn that the message itself is not sent yet.
    context.set_held_back(true);
    Count::Asking {
        context,
        prompt,
        request: Some(request),
        future: None,
        answer: None,
        sleep: sleep_until(end),
    }
}

impl<F, B> Count<F, B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Asks; ready when it is counted or not to be had. An error is the service's own want of readiness.
    fn poll_ask<S>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        counter: &Counter,
        service: &mut S,
    ) -> Poll<Result<(), S::Error>>
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Future = F>,
        F: Future<Output = Result<Response<B>, S::Error>>,
    {
        let CountProjection::Asking {
            context,
            prompt,
            request,
            mut future,
            answer,
            sleep,
        } = self.project()
        else {
            return Poll::Ready(Ok(()));
        };
        let failed = |because| {
            counter.uncounted(because);
            Poll::Ready(Ok(()))
        };
        if sleep.poll(cx).is_ready() {
            return failed("timeout");
        }
        if request.is_some() {
            ready!(service.poll_ready(cx))?;
            future.set(request.take().map(|request| service.call(request)));
        }
        if let Some(asking) = future.as_mut().as_pin_mut() {
            let response = ready!(asking.poll(cx));
            future.set(None);
            let Ok(response) = response else {
                return failed("error");
            };
            if let Some(because) = request::fault(&response) {
                return failed(because);
            }
            *answer = Some(ErrorBody::new(response.into_body()));
        }
        let Some(reading) = answer else {
            return Poll::Ready(Ok(()));
        };
        ready!(reading.poll_read(cx));
        match counted_tokens(&reading.bytes()) {
            Some(tokens) => {
                context.set_counted_input(Some(tokens));
                counter.memory().put(*prompt, tokens);
                Poll::Ready(Ok(()))
            }
            None => failed("answer"),
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
            this.count.set(begin(this.counter, message));
        }
        let asked = ready!(this.count.as_mut().poll_ask(cx, this.counter, this.service));
        if let CountProjection::Asking { context, .. } = this.count.as_mut().project() {
            context.set_held_back(false);
        }
        // Whatever is left of the count goes before the request itself is sent.
        this.count.set(Count::Over);
        asked?;
        ready!(this.service.poll_ready(cx))?;
        let message = this.request.take().expect("just there");
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
