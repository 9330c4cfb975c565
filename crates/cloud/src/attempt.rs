//! One request on its way to a target.

use std::{pin::Pin, sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{
    Request,
    header::{CONTENT_LENGTH, HeaderValue},
    request::Parts,
};
use tower_claude_core::{Call, RejectReason, Rejection, RequestBody};
use tower_claude_wire::{
    Platform,
    cloud::{Dialect, Losses, Target, Unportable},
};

use crate::{
    authorize::{Authorization, Authorize, AuthorizeError},
    config::{Config, ConfiguredTarget},
    translate::TOO_LONG,
};

/// The name of the layer in rejections and events.
pub(crate) const NAME: &str = "cloud";

/// A request for a target, without its credential.
pub(crate) struct Attempt {
    head: Parts,
    /// The bytes that are signed. Empty for a stream, which only the Claude API gets.
    bytes: Bytes,
    /// A stream is taken when it is sent.
    body: Option<RequestBody>,
    call: Option<Arc<Call>>,
    authorize: Option<Arc<dyn Authorize>>,
    /// The number of the credential that was sent.
    number: u64,
    reauthorized: bool,
    is_stream: bool,
    pub(crate) target: Target,
    pub(crate) losses: Losses,
    pub(crate) stream: bool,
}

/// The next step of a request.
pub(crate) enum Step {
    /// It has no target.
    Pass(Request<RequestBody>),
    Send(Box<Attempt>),
    Reject(Rejection, Option<Target>),
}

impl Attempt {
    /// Translates a request for its target.
    pub(crate) fn prepare(config: &Config, mut request: Request<RequestBody>) -> Step {
        if let Some(rejection) = request.body().rejection() {
            return Step::Reject(rejection, None);
        }
        let reject = |reason, target| {
            let rejection = Rejection::new(NAME, RejectReason::Unportable { reason });
            Step::Reject(rejection, target)
        };
        let configured = match config.target_of(request.extensions()) {
            Ok(Some(configured)) => configured,
            Ok(None) => return Step::Pass(request),
            Err(reason) => return reject(reason, None),
        };
        let ConfiguredTarget { target, authorize } = configured;
        let call = Call::of(&request).cloned();
        request.extensions_mut().insert(target.clone());
        let (mut head, body) = request.into_parts();
        let bytes = match body.bytes() {
            Some(bytes) => bytes.clone(),
            None if is_claude_api(&target) => Bytes::new(),
            None => return reject(TOO_LONG, Some(target)),
        };
        let sent = config
            .translator
            .translate(&head.uri, &head.headers, &bytes, &target);
        let sent = match sent {
            Ok(sent) => sent,
            Err(reason) => return reject(reason, Some(target)),
        };
        if let Some(reason) = undecodable(&target, sent.stream) {
            return reject(reason, Some(target));
        }
        let length = head.headers.get(CONTENT_LENGTH).cloned();
        head.uri = sent.uri;
        head.headers = sent.headers;
        let is_stream = body.bytes().is_none();
        if !is_stream {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(sent.body.len()));
        } else if let Some(length) = length {
            head.headers.insert(CONTENT_LENGTH, length);
        }
        Step::Send(Box::new(Self {
            head,
            bytes: sent.body,
            body: is_stream.then_some(body),
            call,
            authorize,
            number: 0,
            reauthorized: false,
            is_stream,
            target,
            losses: sent.losses,
            stream: sent.stream,
        }))
    }

    /// Returns the request with its credential.
    pub(crate) fn authorize(&mut self, now: SystemTime) -> Authorized {
        let mut head = self.head.clone();
        if let Some(authorize) = &self.authorize {
            match authorize.authorize(&mut head, &self.bytes, now) {
                Authorization::Done(number) => self.number = number,
                Authorization::Wait(wait) => return Authorized::Wait(wait),
                Authorization::Failed(error) => return Authorized::Failed(error),
            }
        }
        let body = self.body.take();
        let body = body.unwrap_or_else(|| RequestBody::from(self.bytes.clone()));
        let mut request = Request::from_parts(head, body);
        if let Some(call) = &self.call {
            call.attach(&mut request);
        }
        Authorized::Request(Box::new(request))
    }

    /// Drops the first credential that was sent. Returns true if the request should be sent again
    /// with another one.
    pub(crate) fn reject_credential(&mut self) -> bool {
        // The second credential is a new one, so that its age is not the reason. It stays, or a
        // server that rejects all of them would cause two fetches for each request.
        let authorize = self.authorize.as_ref().filter(|_| !self.reauthorized);
        let Some(authorize) = authorize else {
            return false;
        };
        let has_another = authorize.reject(self.number);
        // A stream cannot be sent again.
        self.reauthorized = has_another && !self.is_stream;
        self.reauthorized
    }

    /// Returns true if the request can get another signature. A stream was taken by the first one.
    pub(crate) fn can_sign_again(&self) -> bool {
        !self.is_stream
    }
}

/// The result of [`Attempt::authorize`].
pub(crate) enum Authorized {
    Request(Box<Request<RequestBody>>),
    Wait(Pin<Box<dyn Future<Output = Result<(), AuthorizeError>> + Send>>),
    Failed(AuthorizeError),
}

fn is_claude_api(target: &Target) -> bool {
    target.platform() == Platform::ClaudeApi
}

/// Returns the reason why this build cannot read the answer.
pub(crate) fn undecodable(target: &Target, stream: bool) -> Option<Unportable> {
    let needs_decoder = stream && target.dialect() == Dialect::InvokeModel;
    let why = "streams of InvokeModel need the feature `bedrock`";
    (needs_decoder && !cfg!(feature = "bedrock")).then_some(Unportable::new("stream", why))
}
