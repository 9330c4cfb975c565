//! The costs of other layers in the same loop.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, retry::Policy};
use tower_resilience::{
    bulkhead::{BulkheadLayer, BulkheadServiceError},
    circuitbreaker::{CircuitBreakerError, CircuitBreakerLayer},
    fallback::FallbackLayer,
    ratelimiter::{RateLimiterLayer, RateLimiterServiceError},
    retry::RetryLayer,
};

use crate::{
    floor::{Answer, calls},
    harness::Case,
};

type Body = Full<Bytes>;
type Limited<E> = RateLimiterServiceError<BulkheadServiceError<E>>;

/// Far above what a loop can use.
const PLENTY: usize = 1_000_000_000;

/// The name of the row our three layers are compared with.
pub(crate) const STACK: &str = "tower-resilience: its stack of the three";

/// The name of the row our breaker is compared with.
pub(crate) const BREAKER: &str = "tower-resilience: circuit breaker by counts";

/// The name of the row our six layers are compared with.
pub(crate) const FIVE: &str = "tower-resilience: its stack of five";

type Guarded = CircuitBreakerError<BulkheadServiceError<Infallible>>;

/// From the outside in: fallback, rate limiter, retry, circuit breaker, bulkhead.
fn five() -> Case {
    let breaker = CircuitBreakerLayer::builder()
        .failure_classifier(
            |result: &Result<Response<Body>, BulkheadServiceError<Infallible>>| {
                result.as_ref().is_ok_and(is_failure)
            },
        )
        .build()
        .expect("a valid configuration");
    let inside = retry::<Guarded>().layer(breaker.layer(bulkhead().layer(Answer)));
    let fallback =
        FallbackLayer::<Request<Body>, Response<Body>, RateLimiterServiceError<Guarded>>::value_fn(
            || Response::new(Body::default()),
        );
    calls(FIVE, fallback.layer(limiter().layer(inside)), Full::new)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        calls(
            "tower: concurrency_limit",
            tower::limit::ConcurrencyLimitLayer::new(1024).layer(Answer),
            Full::new,
        ),
        calls(
            "tower: retry, policy that clones",
            tower::retry::RetryLayer::new(Again).layer(Answer),
            Full::new,
        ),
        calls(
            "tower-resilience: rate limiter",
            limiter().layer(Answer),
            Full::new,
        ),
        calls(
            "tower-resilience: retry",
            retry::<Infallible>().layer(Answer),
            Full::new,
        ),
        calls(
            "tower-resilience: bulkhead",
            bulkhead().layer(Answer),
            Full::new,
        ),
        calls(
            BREAKER,
            CircuitBreakerLayer::builder()
                .failure_classifier(|result: &Result<Response<Body>, Infallible>| {
                    result.as_ref().is_ok_and(is_failure)
                })
                .build()
                .expect("a valid configuration")
                .layer(Answer),
            Full::new,
        ),
        calls(
            STACK,
            retry::<Limited<Infallible>>().layer(limiter().layer(bulkhead().layer(Answer))),
            Full::new,
        ),
        five(),
    ]
}

fn limiter() -> RateLimiterLayer {
    RateLimiterLayer::burst(PLENTY, PLENTY)
        .build()
        .expect("a valid configuration")
}

fn retry<E>() -> RetryLayer<Request<Body>, Response<Body>, E>
where
    E: Send + 'static,
{
    RetryLayer::builder()
        .max_attempts(5)
        .exponential_backoff(Duration::from_secs(1))
        .retry_on_response(is_failure)
        .build()
}

fn bulkhead() -> BulkheadLayer {
    BulkheadLayer::builder()
        .max_concurrent_calls(1024)
        .build()
        .expect("a valid configuration")
}

fn is_failure(response: &Response<Body>) -> bool {
    response.status().as_u16() == 429 || response.status().is_server_error()
}

#[derive(Clone, Copy)]
struct Again;

impl Policy<Request<Body>, Response<Body>, Infallible> for Again {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _request: &mut Request<Body>,
        result: &mut Result<Response<Body>, Infallible>,
    ) -> Option<Ready<()>> {
        result.as_ref().is_ok_and(is_failure).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}
