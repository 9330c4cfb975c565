//! What one call carries, how an attempt failed, and what goes up when no other follows.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::Body as HttpBody;
use tower_claude_core::{
    BodyTracker, Class, ClassifyResponse, ErrorBody, Hold, RequestBody, ResponseBody,
};
use tower_claude_wire::is_event_stream;

use crate::{journey::Journey, last, layer::Config};

/// What the caller gets.
pub(crate) type Answer<R> = Response<ResponseBody<R>>;

/// One call.
pub(crate) struct FallbackCall<C> {
    pub(crate) classifier: C,
    config: Arc<Config>,
    /// None, when no other model could serve: the call passes through.
    journey: Option<Journey>,
}

impl<C> FallbackCall<C> {
    pub(crate) fn new(config: Arc<Config>, classifier: C, request: &Request<RequestBody>) -> Self {
        let journey = Journey::of(&config, request, None);
        Self {
            classifier,
            config,
            journey,
        }
    }

    /// Whether another model could serve.
    pub(crate) const fn may_fall_back(&self) -> bool {
        self.journey.is_some()
    }

    /// This is sent now. The first of a journey is chosen here, when nothing but its way is before it.
    pub(crate) fn launch(&mut self, request: &mut Request<RequestBody>) {
        if let Some(journey) = &mut self.journey {
            journey.launch(request);
        }
    }

    /// How the answer is looked at while it is held.
    pub(crate) fn watch(&self, head: &Parts) -> BodyTracker {
        BodyTracker::of(&head.headers).without_usage()
    }

    /// Whether an answer that was held is one in which the model declined, and that matters.
    pub(crate) fn is_declined<R>(&self, hold: &Hold<R>) -> bool
    where
        R: HttpBody<Data = Bytes> + Unpin,
    {
        self.config.triggers.refusals && hold.is_refusal()
    }

    /// Whether the body of such a failure is read although its meaning is known: its words may be replaced.
    pub(crate) fn reads(&self, class: &Class) -> bool {
        self.config.last_message.is_some() && last::is_due(class)
    }

    /// The request of the next attempt, if there is to be one.
    pub(crate) fn next(&mut self, class: &Class) -> Option<Request<RequestBody>> {
        self.journey.as_mut()?.after_failure(class)
    }

    /// Whether an answer goes up as it is: a layer further in has held it until it was worth that, and this one does
    /// not ask for more.
    pub(crate) fn is_settled(&self) -> bool {
        let journey = self.journey.as_ref();
        journey.is_some_and(Journey::is_committed) && !self.config.triggers.refusals
    }

    /// Hands an answer on that was not held.
    pub(crate) fn hand_on<R>(&mut self, mut head: Parts, body: R) -> Answer<R>
    where
        R: HttpBody<Data = Bytes>,
    {
        self.succeeded(&mut head);
        Response::from_parts(head, ResponseBody::inner(body))
    }

    /// Hands a held answer on.
    pub(crate) fn hand_on_held<R>(&mut self, mut head: Parts, hold: Hold<R>) -> Answer<R>
    where
        R: HttpBody<Data = Bytes> + Unpin,
    {
        self.succeeded(&mut head);
        Response::from_parts(head, hold.into_body(|body, _| body))
    }
}

impl<C> FallbackCall<C> {
    fn succeeded(&mut self, head: &mut Parts) {
        if let Some(journey) = &mut self.journey {
            journey.after_success(head);
        }
    }
}

impl<C: ClassifyResponse> FallbackCall<C> {
    /// What the head means, if the body need not tell.
    pub(crate) fn class_of<R>(&self, response: &Response<R>) -> Option<Class> {
        Class::by_head(&self.classifier, self.config.reuse_class, response)
    }
}

/// An attempt that failed.
#[allow(clippy::large_enum_variant, reason = "lives for one decision")]
pub(crate) enum Failure<R: HttpBody<Data = Bytes>, E> {
    /// With a response, whole but for what was read of it.
    Answer(Class, Parts, Rest<R>),
    /// With an error of the inner service.
    Error(Class, E),
}

/// The body of a response that failed.
pub(crate) enum Rest<R: HttpBody<Data = Bytes>> {
    Whole(R),
    Read(ErrorBody<R>),
    Held(Hold<R>),
}

impl<R, E> Failure<R, E>
where
    R: HttpBody<Data = Bytes> + Unpin,
{
    pub(crate) const fn class(&self) -> &Class {
        let (Self::Answer(class, ..) | Self::Error(class, _)) = self;
        class
    }

    /// What goes up: the response as it came, with what it means; or in the user's own words.
    pub(crate) fn into_output<C>(self, call: &mut FallbackCall<C>) -> Result<Answer<R>, E> {
        let (class, mut head, rest) = match self {
            Self::Answer(class, head, rest) => (class, head, rest),
            Self::Error(_, error) => return Err(error),
        };
        head.extensions.insert(class);
        if let Some(journey) = &mut call.journey {
            journey.after_all(&class, &mut head);
            // What is cut short has no error whose words could be others.
            let has_words = !head.status.is_success() || is_event_stream(&head.headers);
            if let Some((message, eta)) = journey.last_words(&class)
                && has_words
            {
                let read = match &rest {
                    Rest::Read(body) => body.bytes(),
                    _ => Default::default(),
                };
                let body = last::replace(&mut head, &read, &class, &message, eta);
                return Ok(Response::from_parts(head, ResponseBody::full(body)));
            }
        }
        let body = match rest {
            Rest::Whole(body) => ResponseBody::inner(body),
            Rest::Read(body) => body.into_body(|body| body),
            Rest::Held(hold) => hold.into_body(|body, _| body),
        };
        Ok(Response::from_parts(head, body))
    }
}
