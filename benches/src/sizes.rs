//! Sizes of what moves.
use crate::floor::Answer;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::Layer;
use tower_claude_core::RequestBody;
use tower_service::Service;

fn sizes<S>(name: &str, mut service: S)
where
    S: Service<Request<RequestBody>>,
{
    let request = crate::floor::request(RequestBody::from(Bytes::from_static(b"{}")));
    let future = service.call(request);
    println!(
        "{name:40} service {:5} future {:5} response {:5}",
        size_of::<S>(),
        size_of_val(&future),
        size_of::<S::Response>()
    );
}

pub(crate) fn print() {
    println!("Request<RequestBody> {}", size_of::<Request<RequestBody>>());
    println!("request::Parts {}", size_of::<http::request::Parts>());
    println!("response::Parts {}", size_of::<http::response::Parts>());
    println!("RequestBody {}", size_of::<RequestBody>());
    println!(
        "Response<Full<Bytes>> {}",
        size_of::<Response<Full<Bytes>>>()
    );
    println!("Class {}", size_of::<tower_claude_core::Class>());
    println!(
        "BodyTracker {}",
        size_of::<tower_claude_core::BodyTracker>()
    );
    println!("Usage {}", size_of::<tower_claude_wire::Usage>());
    println!("Outcome {}", size_of::<tower_claude_core::Outcome>());
    println!("RateLimits {}", size_of::<tower_claude_wire::RateLimits>());
    println!("Call {}", size_of::<tower_claude_core::Call>());
    println!(
        "AcquireRequest {}",
        size_of::<tower_claude_limiter::AcquireRequest>()
    );
    println!(
        "LocalAcquire {}",
        size_of::<tower_claude_limiter::LocalAcquire>()
    );
    println!(
        "Reservation {}",
        size_of::<tower_claude_limiter::Reservation>()
    );
    println!("Scope {}", size_of::<tower_claude_core::Scope>());
    println!("Cost {}", size_of::<tower_claude_core::Cost>());
    println!("Pool {}", size_of::<tower_claude_limiter::Pool>());
    println!("Peek {}", size_of::<tower_claude_wire::Peek>());
    let bucket = tower_claude_token_bucket::TokenBucketLayer::new(crate::layers::limits());
    let budget = tower_claude_header_budget::HeaderBudgetLayer::over(bucket.limiter());
    sizes("floor", Answer);
    sizes("budget", budget.layer(Answer));
    sizes("bucket budget", bucket.layer(budget.layer(Answer)));
    let breaker = tower_claude_circuit_breaker::CircuitBreakerLayer::new();
    sizes("breaker", breaker.layer(Answer));
    sizes(
        "breaker bucket budget",
        breaker.layer(bucket.layer(budget.layer(Answer))),
    );
    let retry = tower_claude_retry::RetryLayer::new();
    sizes("retry", retry.layer(Answer));
    sizes(
        "retry breaker bucket budget",
        retry.layer(breaker.layer(bucket.layer(budget.layer(Answer)))),
    );
    let six = tower_claude::recommended()
        .with_limits(crate::layers::limits())
        .with_fallback(["claude-opus-5-5", "claude-haiku-5-5"]);
    let six2 = six.clone();
    sizes("fallback", six2.fallback().layer(Answer));
    sizes("cache", six2.cache().layer(Answer));
    sizes("six", six.layer(Answer));
}
