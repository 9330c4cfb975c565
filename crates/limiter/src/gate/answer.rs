//! What a gate makes of an answer.

use bytes::Bytes;
use http::{Extensions, HeaderMap, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_claude_core::{
    BodyTracker, Class, ClassifyResponse, ErrorBody, Observed, PausedByLimiter, PendingEstimate,
    Scope,
};

use super::{Gate, GateBody, Settle, head::Admission};

/// An error response whose body must be read to tell what it means.
pub(super) struct Failure<B: Body> {
    pub(super) response: Response<ErrorBody<B>>,
    pub(super) admission: Admission,
    pub(super) at: Option<Instant>,
}

impl<L, E, C: Clone> Gate<L, E, C> {
    /// What the head means, if the body need not tell.
    pub(super) fn class_of<B>(&self, response: &Response<B>) -> Option<Class>
    where
        C: ClassifyResponse,
    {
        Class::by_head(&self.classify, !self.own_classifier, response)
    }

    /// How an answer whose class is known from its head is watched, and for whom.
    pub(super) fn watch<B: Body<Data = Bytes>>(
        &self,
        response: &Response<B>,
        class: Class,
        admission: Admission,
        feedback: Option<Box<PendingEstimate>>,
    ) -> (BodyTracker, Option<Settle<C>>)
    where
        C: ClassifyResponse,
    {
        match admission {
            Admission::Own(reservation) if class.is_success() => {
                let watch = BodyTracker::of(response.headers());
                let settle = Settle::new(reservation, feedback, self.classify.clone());
                let settle = Observed::still(response.body(), &watch, settle);
                (watch, settle)
            }
            admission => {
                admission.settle(&class);
                (BodyTracker::opaque(), None)
            }
        }
    }

    /// The response of an attempt whose body told what it means; classified once, for all layers.
    pub(super) fn failed<B: Body<Data = Bytes> + Unpin>(
        &self,
        failure: Failure<B>,
        scope: &Option<Box<Scope>>,
    ) -> Response<GateBody<B, C>>
    where
        C: ClassifyResponse,
    {
        let Failure {
            response,
            admission,
            at,
        } = failure;
        let class = self.classify.body(
            response.status(),
            response.headers(),
            &response.body().bytes(),
        );
        let (mut head, body) = response.into_parts();
        self.on_head(
            &head.headers,
            &mut head.extensions,
            class,
            scope,
            &admission,
            at,
        );
        let mut response = Response::from_parts(head, body);
        admission.settle(&class);
        response.extensions_mut().insert(class);
        response.map(|body| body.into_body(Observed::off))
    }
}

impl<L, E, C> Gate<L, E, C> {
    /// Learns from the head, and leaves word of a pause.
    pub(super) fn on_head(
        &self,
        headers: &HeaderMap,
        extensions: &mut Extensions,
        class: Class,
        scope: &Option<Box<Scope>>,
        admission: &Admission,
        at: Option<Instant>,
    ) {
        if class.local {
            return;
        }
        let scope = admission.scope(scope);
        // The pause comes first: to learn of a 429 gives its share back, and nobody may be let out on it.
        if class.is_rate_limit() && extensions.get::<PausedByLimiter>().is_none() {
            let pause = self.pause(class, scope, admission, at);
            extensions.insert(PausedByLimiter { pause });
        }
        if self.reads_headers {
            self.learn(headers, class, scope, admission, at);
        }
    }
}
