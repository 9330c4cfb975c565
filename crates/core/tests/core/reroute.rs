//! An attempt policy that chooses among several targets reports the way of another attempt.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_claude_core::{
    Call, Class, ClaudeClassify, Kind, RejectReason, Rejection, RequestBody,
    driver::{AttemptFailure, AttemptPolicy, CallPolicy, CallStart, Clock, DriverLayer, Reroute},
};

const REASON: RejectReason = RejectReason::NoTarget {
    because: Kind::RateLimited,
};

/// The failures that a policy was notified of.
type Failures = Arc<Mutex<Vec<(Kind, Option<RejectReason>)>>>;

/// The ways that a policy was notified of, with the attempts so far.
type Ways = Arc<Mutex<Vec<(Option<Reroute>, u32)>>>;

/// Reports this way. Rejects each attempt if it has details.
#[derive(Clone, Default)]
struct Targets {
    way: Option<Reroute>,
    details: Option<&'static str>,
    seen: Failures,
}

#[derive(Default)]
struct Attempts(Mutex<u32>);

impl AttemptPolicy for Targets {
    type Attempt = ();

    fn poll_admit(
        &self,
        (): &mut (),
        _: &mut Request<RequestBody>,
        call: &Arc<Call>,
        _: &mut Clock,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        *call.state::<Attempts>().0.lock().unwrap() += 1;
        Poll::Ready(match self.details {
            None => Ok(()),
            Some(_) => Err(Rejection::new("targets", REASON)),
        })
    }

    fn reroute(
        &self,
        (): &mut (),
        _: &Arc<Call>,
        class: &Class,
        rejection: Option<&Rejection>,
    ) -> Option<Reroute> {
        let reason = rejection.map(|rejection| rejection.reason);
        self.seen.lock().unwrap().push((class.kind, reason));
        self.way
    }

    fn details(&self, (): &()) -> Option<String> {
        self.details.map(str::to_owned)
    }
}

/// Sends each call twice, and records the ways and the attempts that were counted.
#[derive(Clone, Default)]
struct Twice(Ways);

impl CallPolicy for Twice {
    type State = u32;
    type BodyState = ();

    fn start(&self, start: &mut CallStart<'_>) -> u32 {
        start.call.begin_attempt()
    }

    fn on_failure(
        &self,
        number: &mut u32,
        call: &Arc<Call>,
        failure: &AttemptFailure<'_>,
    ) -> Option<Duration> {
        let attempts = *call.state::<Attempts>().0.lock().unwrap();
        self.0.lock().unwrap().push((failure.reroute, attempts));
        (*number == 1).then_some(Duration::ZERO)
    }

    fn next_request(&self, number: &mut u32, call: &Arc<Call>) -> Request<RequestBody> {
        *number = call.begin_attempt();
        assert_eq!(call.reroute(), None, "a new attempt begins without a way");
        let mut request = request();
        call.attach(&mut request);
        request
    }
}

fn request() -> Request<RequestBody> {
    let body = r#"{"model":"claude-sonnet-5-5","max_tokens":1,"messages":[]}"#;
    Request::post("/v1/messages")
        .body(RequestBody::from(body))
        .unwrap()
}

async fn overloaded(_: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#;
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = http::StatusCode::from_u16(529).unwrap();
    Ok(response)
}

#[tokio::test(start_paused = true)]
async fn way_reaches_the_call_policy_in_one_driver_and_over_a_foreign_layer() {
    for way in [
        None,
        Some(Reroute::AtOnce),
        Some(Reroute::Nowhere),
        Some(Reroute::After(Duration::from_secs(7))),
    ] {
        let targets = Targets {
            way,
            ..Targets::default()
        };
        // Both orders in a pair, and a policy that may be left out.
        let (first, second, third) = (Twice::default(), Twice::default(), Twice::default());
        let classifier = ClaudeClassify::default;
        let one = DriverLayer::new(first.clone(), (targets.clone(), ()), classifier());
        let two = DriverLayer::new(second.clone(), ((), Some(targets.clone())), classifier());
        let inner = DriverLayer::new((), targets.clone(), classifier());
        let outer = DriverLayer::new(third.clone(), (), classifier());
        let one = one.layer(service_fn(overloaded));
        let two = two.layer(service_fn(overloaded));
        let inner = inner.layer(service_fn(overloaded));
        let three = outer.layer(tower::util::MapResponse::new(inner, |response| response));
        assert_eq!(one.oneshot(request()).await.unwrap().status(), 529);
        assert_eq!(two.oneshot(request()).await.unwrap().status(), 529);
        assert_eq!(three.oneshot(request()).await.unwrap().status(), 529);
        for policy in [first, second, third] {
            assert_eq!(*policy.0.lock().unwrap(), [(way, 1), (way, 2)]);
        }
        let seen = targets.seen.lock().unwrap();
        assert_eq!(*seen, [(Kind::Overloaded, None); 6]);
    }
}

#[tokio::test(start_paused = true)]
async fn details_of_a_rejection_are_in_its_message() {
    let targets = Targets {
        way: Some(Reroute::Nowhere),
        details: Some("a failed; b is paused"),
        ..Targets::default()
    };
    let layer = DriverLayer::new((), ((), targets.clone()), ClaudeClassify::default());
    let response = layer.layer(service_fn(overloaded)).oneshot(request()).await;
    let (head, body) = response.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(head.status, 429);
    assert_eq!(head.headers["content-length"], text.len().to_string());
    assert!(
        text.contains("targets: no target is left for this request: a failed; b is paused"),
        "{text}"
    );
    assert_eq!(
        *targets.seen.lock().unwrap(),
        [(Kind::RateLimited, Some(REASON))]
    );
}

#[test]
fn rejection_without_a_target_has_the_status_of_its_reason() {
    for (because, status, kind) in [
        (Kind::BadRequest, 400, Kind::BadRequest),
        (Kind::Unauthorized, 401, Kind::Unauthorized),
        (Kind::SpendLimit, 402, Kind::SpendLimit),
        (Kind::Forbidden, 403, Kind::Forbidden),
        (Kind::RateLimited, 429, Kind::RateLimited),
        (Kind::Overloaded, 529, Kind::Overloaded),
        (Kind::Timeout, 529, Kind::Overloaded),
    ] {
        let rejection = Rejection::new("spread", RejectReason::NoTarget { because });
        assert_eq!(rejection.status(), status);
        assert_eq!(
            (rejection.class().kind, rejection.class().local),
            (kind, true)
        );
    }
}

#[test]
fn state_of_a_call_is_one_for_each_type() {
    let call = Call::new(&http::Extensions::new(), Instant::now());
    *call.state::<Attempts>().0.lock().unwrap() = 7;
    assert_eq!(*call.state::<Attempts>().0.lock().unwrap(), 7);
    assert_eq!(*call.state::<Mutex<String>>().lock().unwrap(), "");
    let beside = call.beside(Instant::now());
    assert_eq!(*beside.state::<Attempts>().0.lock().unwrap(), 0);
}
