//! Falling back as a stage of a driver.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, response::Parts};
use tower_claude_core::{
    Call, Class, Kind, RequestBody, SavedRequest,
    driver::{AttemptFailure, CallPolicy, CallStart},
};
use tower_claude_wire::is_event_stream;

use crate::{chains::ChainId, journey::Journey, last, layer::Config};

/// Falling back as a stage of a driver.
pub struct FallbackPolicy(pub(crate) Arc<Config>);

/// One call on its way from model to model.
pub struct FallbackState {
    /// The ordinary call: the model asked for is asked, and has not failed.
    light: Option<Light>,
    /// None, when no other model could serve: the call passes through. Boxed: it moves with the future.
    journey: Option<Box<Journey>>,
    next: Option<Box<Request<RequestBody>>>,
}

/// What the first attempt needs.
pub(crate) struct Light {
    pub(crate) chain: ChainId,
    pub(crate) original: Arc<SavedRequest>,
    pub(crate) attempts: u32,
}

impl FallbackPolicy {
    fn journey<'a>(
        &self,
        trip: &'a mut FallbackState,
        context: &Arc<Call>,
    ) -> Option<&'a mut Journey> {
        if let Some(light) = trip.light.take() {
            trip.journey = Some(Box::new(Journey::resume(&self.0, context, light)));
        }
        trip.journey.as_deref_mut()
    }
}

impl CallPolicy for FallbackPolicy {
    type State = FallbackState;
    type BodyState = ();

    #[inline]
    fn start(&self, launch: &mut CallStart<'_>) -> FallbackState {
        let mut trip = FallbackState {
            light: None,
            journey: None,
            next: None,
        };
        let Some(chain) = Journey::chain_of(&self.0, launch.request) else {
            return trip;
        };
        let kept = launch.saved.take();
        let Some(original) = kept.or_else(|| SavedRequest::of(launch.request)) else {
            return trip;
        };
        launch.saved = Some(original.clone());
        trip.light = Some(Light {
            chain,
            original,
            attempts: launch.call.attempts(),
        });
        if !self.0.shared.outages.is_quiet()
            && let Some(journey) = self.journey(&mut trip, launch.call)
        {
            journey.begin_anew();
            journey.launch(launch.request);
            launch.saved = journey.original_now();
        }
        trip
    }

    fn reads_error_body(&self, class: &Class) -> bool {
        self.0.last_message.is_some() && last::is_due(class)
    }

    fn detects_refusal(&self) -> bool {
        self.0.triggers.refusals
    }

    #[inline]
    fn on_success(
        &self,
        trip: &mut FallbackState,
        context: &Arc<Call>,
        head: &mut Parts,
        declined: bool,
    ) -> Option<Class> {
        if trip.light.is_none() && trip.journey.is_none() {
            return None;
        }
        if declined && self.0.triggers.refusals {
            return Some(Class::new(Kind::ModelRefusal));
        }
        if let Some(light) = &trip.light {
            // Where no layer inside counts attempts, this one does.
            if context.attempts() == light.attempts {
                context.begin_attempt();
            }
        } else if let Some(journey) = &mut trip.journey {
            journey.after_success(head);
        }
        None
    }

    fn on_failure(
        &self,
        trip: &mut FallbackState,
        context: &Arc<Call>,
        failure: &AttemptFailure,
    ) -> Option<Duration> {
        let next = self.journey(trip, context)?.after_failure(&failure.class)?;
        trip.next = Some(Box::new(next));
        Some(Duration::ZERO)
    }

    fn next_request(&self, trip: &mut FallbackState, _: &Arc<Call>) -> Request<RequestBody> {
        let next = trip.next.take();
        let mut request = *next.expect("asked for after a failure only");
        if let Some(journey) = &mut trip.journey {
            journey.launch(&mut request);
        }
        request
    }

    fn on_give_up(
        &self,
        trip: &mut FallbackState,
        class: &Class,
        head: &mut Parts,
        read: &[u8],
    ) -> Option<Bytes> {
        let journey = trip.journey.as_mut()?;
        journey.after_all(class, head);
        // What is cut short has no error whose words could be others.
        let has_words = !head.status.is_success() || is_event_stream(&head.headers);
        let (message, eta) = journey.last_words(class).filter(|_| has_words)?;
        Some(last::replace(head, read, class, &message, eta))
    }

    #[inline]
    fn finish(&self, trip: &mut FallbackState, _: &Arc<Call>) {
        trip.light = None;
        trip.journey = None;
    }
}
