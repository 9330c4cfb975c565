//! The sample's future: ready, call, perhaps again.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body;
use tokio::{sync::OwnedSemaphorePermit, time::Sleep};
use tower_claude_core::{Rejection, RequestBody};
use tower_service::Service;

use crate::{
    body::SampleBody,
    sample::{Fault, State},
};

const ATTEMPTS: u32 = 3;

type Permit = Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>;

pub(crate) struct SampleFuture<S: Service<Request<RequestBody>>> {
    service: S,
    request: Option<Request<RequestBody>>,
    stage: Stage<S::Future, S::Response>,
    attempt: u32,
    fault: Fault,
    state: Arc<State>,
    permit: Option<OwnedSemaphorePermit>,
}

enum Stage<F, R> {
    Admit(Option<Permit>),
    Ready,
    Call(F),
    Sleep(Pin<Box<Sleep>>),
    SleepOn(Pin<Box<Sleep>>, R),
}

impl<S: Service<Request<RequestBody>>> SampleFuture<S> {
    pub(crate) fn new(
        service: S,
        mut request: Request<RequestBody>,
        fault: Fault,
        state: Arc<State>,
    ) -> Self {
        match fault {
            Fault::AddsRequestHeader => {
                let value = HeaderValue::from_static("1");
                request.headers_mut().insert("x-added", value);
            }
            Fault::LosesRequestExtensions => request.extensions_mut().clear(),
            Fault::CopiesRequest => {
                if let Some(bytes) = request.body().bytes() {
                    *request.body_mut() = bytes.to_vec().into();
                }
            }
            Fault::LosesStreams if request.body().bytes().is_none() => {
                *request.body_mut() = RequestBody::default();
            }
            _ => {}
        }
        let turn = state.turn.clone();
        let admit = matches!(fault, Fault::OneAtATime | Fault::CountsByHand).then(|| {
            Box::pin(async { turn.acquire_owned().await.expect("never closed") }) as Permit
        });
        Self {
            service,
            request: Some(request),
            stage: Stage::Admit(admit),
            attempt: 0,
            fault,
            state,
            permit: None,
        }
    }

    fn send(&mut self) -> S::Future {
        let request = self.request.take().expect("kept until the last attempt");
        self.attempt += 1;
        let (head, body) = request.into_parts();
        if let Some(copy) = body.try_clone() {
            self.request = Some(Request::from_parts(head.clone(), copy));
        }
        self.service.call(Request::from_parts(head, body))
    }

    /// The decision to try again, with its delay.
    fn again(&self) -> Option<Duration> {
        if self.fault == Fault::RetriesForEver {
            return Some(Duration::from_secs(3600));
        }
        (self.attempt < ATTEMPTS && self.request.is_some()).then_some(Duration::from_secs(1))
    }
}

impl<S, R> SampleFuture<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    R: Body<Data = Bytes> + Unpin,
{
    fn answer(&mut self, response: Response<R>) -> Response<SampleBody<R>> {
        let fault = self.fault;
        let (mut head, body) = response.into_parts();
        let failed = head.status.is_client_error() || head.status.is_server_error();
        match fault {
            Fault::AddsResponseHeader => {
                head.headers
                    .insert("x-added", HeaderValue::from_static("1"));
            }
            Fault::SortsResponseHeaders => sort(&mut head.headers),
            Fault::LosesResponseExtensions => head.extensions.clear(),
            Fault::LosesEncoding => drop(head.headers.remove(CONTENT_ENCODING)),
            Fault::LosesLengthOfEmpty if body.is_end_stream() => {
                head.headers.remove(CONTENT_LENGTH);
            }
            _ => {}
        }
        let stream = head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let body_fault = match fault {
            Fault::CutsErrorBody if !failed => Fault::None,
            fault => fault,
        };
        let body = (fault != Fault::LosesErrorBody || !failed).then_some(body);
        Response::from_parts(head, SampleBody::new(body, body_fault, stream))
    }

    fn own(&self, status: StatusCode) -> Response<SampleBody<R>> {
        let mut response = Response::new(SampleBody::new(None, self.fault, false));
        *response.status_mut() = status;
        response
    }
}

impl<S, R> Future for SampleFuture<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Unpin,
    S::Future: Unpin,
    R: Body<Data = Bytes> + Unpin,
{
    type Output = Result<Response<SampleBody<R>>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::Admit(admit) => {
                    let body = this.request.as_ref().map(Request::body);
                    if let Some(rejection) = body.and_then(RequestBody::rejection) {
                        let (head, _) = rejection.into_response::<R>().into_parts();
                        let body = SampleBody::new(None, this.fault, false);
                        return Poll::Ready(Ok(Response::from_parts(head, body)));
                    }
                    if let Some(admit) = admit {
                        let permit = ready!(admit.as_mut().poll(cx));
                        match this.fault {
                            // Given back at the end, unless the future is dropped before.
                            Fault::CountsByHand => permit.forget(),
                            _ => this.permit = Some(permit),
                        }
                    }
                    let other = this
                        .request
                        .as_ref()
                        .is_some_and(|r| r.body().peek().is_none());
                    if this.fault == Fault::RefusesOtherBodies && other {
                        return Poll::Ready(Ok(this.own(StatusCode::BAD_REQUEST)));
                    }
                    this.stage = Stage::Ready;
                }
                Stage::Ready => {
                    if this.fault != Fault::CallsUnready {
                        match ready!(this.service.poll_ready(cx)) {
                            Err(_) if this.fault == Fault::RetriesForEver => {
                                let wait = tokio::time::sleep(Duration::from_secs(3600));
                                this.stage = Stage::Sleep(Box::pin(wait));
                                continue;
                            }
                            result => result?,
                        }
                    }
                    this.stage = Stage::Call(this.send());
                }
                Stage::Call(call) => {
                    let result = ready!(Pin::new(call).poll(cx));
                    let failed = match &result {
                        Ok(response) => {
                            let refused = response.extensions().get::<Rejection>().is_some()
                                && this.fault != Fault::RetriesForEver;
                            let twice = this.fault == Fault::SendsTwice && this.attempt == 1;
                            let bad = matches!(response.status().as_u16(), 429 | 500..);
                            !refused && bad || twice
                        }
                        Err(_) => true,
                    };
                    if failed && let Some(wait) = this.again() {
                        let wait = Box::pin(tokio::time::sleep(wait));
                        this.stage = match result {
                            Ok(response) if this.fault == Fault::SleepsOnResponse => {
                                Stage::SleepOn(wait, response)
                            }
                            _ => Stage::Sleep(wait),
                        };
                        continue;
                    }
                    if this.fault == Fault::CountsByHand {
                        this.state.turn.add_permits(1);
                    }
                    return Poll::Ready(match result {
                        Ok(response) => Ok(this.answer(response)),
                        Err(_) if this.fault == Fault::AnswersErrors => {
                            Ok(this.own(StatusCode::BAD_GATEWAY))
                        }
                        Err(error) => Err(error),
                    });
                }
                Stage::Sleep(sleep) | Stage::SleepOn(sleep, _) => {
                    ready!(sleep.as_mut().poll(cx));
                    this.stage = Stage::Ready;
                }
            }
        }
    }
}

fn sort(headers: &mut HeaderMap) {
    let name = HeaderName::from_static("x-many");
    let mut values: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
    values.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    headers.remove(&name);
    for value in values {
        headers.append(&name, value);
    }
}
