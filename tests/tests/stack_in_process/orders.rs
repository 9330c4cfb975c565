//! Layers alone, in pairs, and in odd orders: nothing is charged twice, nothing waits for itself.

use std::num::NonZeroU64;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::{task::JoinSet, time::Instant};
use tower_claude_core::RequestBody;
use tower_claude_fake_claude::{FakeClaude, FakeError, Fault};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::{Limiter, Limits, LocalLimiter};
use tower_claude_retry::RetryLayer;
use tower_claude_token_bucket::TokenBucketLayer;
use tower_layer::Layer;
use tower_service::Service;

use crate::common::{SECOND, SONNET, assert_idle, at_once, request, rpm, send, silent};

/// Sends trouble of every kind through, then ten requests at once, and expects whole answers, soon.
async fn works<S, R>(what: &str, service: &S, fake: &FakeClaude, limiters: &[&LocalLimiter])
where
    S: Service<Request<RequestBody>, Response = Response<R>, Error = FakeError>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    R: Body<Data = Bytes, Error = FakeError> + Unpin + Send,
{
    let retry_after = 3 * SECOND;
    for fault in [
        Fault::Overloaded,
        Fault::RateLimited { retry_after },
        Fault::RateLimitedBare,
        Fault::Reset,
        Fault::ErrorBeforeContent,
    ] {
        for stream in [false, true] {
            fake.inject(fault.clone());
            let before = fake.log_len();
            let seen = send(service, request(SONNET, stream)).await;
            let seen = seen.unwrap_or_else(|error| panic!("{what}, {fault:?}: {error}"));
            assert!(seen.is_complete(stream), "{what}, {fault:?}: {seen:?}");
            let log = fake.log();
            assert_eq!(log.len(), before + 2, "{what}, {fault:?}");
            let gap = log[before + 1].at - log[before].at;
            let least = if matches!(fault, Fault::RateLimited { .. }) {
                retry_after
            } else {
                SECOND
            };
            assert!(gap >= least, "{what}, {fault:?}: again after {gap:?}");
            for limiter in limiters {
                assert_idle(limiter, what);
            }
        }
    }
    let mut tasks = JoinSet::new();
    for index in 0..10 {
        let service = service.clone();
        tasks.spawn(async move { send(&service, request(SONNET, index % 2 == 0)).await });
    }
    let start = Instant::now();
    for seen in tasks.join_all().await {
        assert_eq!(seen.expect("an answer").status, 200, "{what}");
    }
    assert!(
        start.elapsed() < 30 * SECOND,
        "{what}: {:?}",
        start.elapsed()
    );
    assert_eq!(fake.in_flight(), 0, "{what}");
    for limiter in limiters {
        assert_idle(limiter, what);
    }
}

/// One request at once shows at the first double reservation.
fn bucket() -> TokenBucketLayer {
    TokenBucketLayer::new(at_once(1))
}

#[tokio::test(start_paused = true)]
async fn retry_alone_serves_every_fault() {
    let fake = silent();
    works("retry", &RetryLayer::new().layer(fake.clone()), &fake, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn retry_over_bucket_serves_every_fault() {
    let (fake, bucket) = (silent(), bucket());
    let service = RetryLayer::new().layer(bucket.layer(fake.clone()));
    works("retry, bucket", &service, &fake, &[&bucket.limiter()]).await;
}

#[tokio::test(start_paused = true)]
async fn retry_over_budget_serves_every_fault() {
    let (fake, budget) = (silent(), HeaderBudgetLayer::new());
    let service = RetryLayer::new().layer(budget.layer(fake.clone()));
    works("retry, budget", &service, &fake, &[&budget.limiter()]).await;
}

#[tokio::test(start_paused = true)]
async fn recommended_order_serves_every_fault() {
    let (fake, bucket) = (silent(), bucket());
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let service = RetryLayer::new().layer(bucket.layer(budget.layer(fake.clone())));
    works("recommended", &service, &fake, &[&bucket.limiter()]).await;
}

#[tokio::test(start_paused = true)]
async fn budget_over_bucket_serves_every_fault() {
    let (fake, bucket) = (silent(), bucket());
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let service = RetryLayer::new().layer(budget.layer(bucket.layer(fake.clone())));
    works("budget, bucket", &service, &fake, &[&bucket.limiter()]).await;
}

#[tokio::test(start_paused = true)]
async fn retry_innermost() {
    let (fake, bucket) = (silent(), bucket());
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let service = bucket.layer(budget.layer(RetryLayer::new().layer(fake.clone())));
    works("retry innermost", &service, &fake, &[&bucket.limiter()]).await;
}

#[tokio::test(start_paused = true)]
async fn retry_between_bucket_and_budget() {
    let (fake, bucket) = (silent(), bucket());
    let budget = HeaderBudgetLayer::over(bucket.limiter());
    let service = bucket.layer(RetryLayer::new().layer(budget.layer(fake.clone())));
    works("retry between", &service, &fake, &[&bucket.limiter()]).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_bucket_twice() {
    let (fake, bucket) = (silent(), bucket());
    let service = RetryLayer::new().layer(bucket.layer(bucket.layer(fake.clone())));
    works("bucket twice", &service, &fake, &[&bucket.limiter()]).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_budget_twice() {
    let fake = silent();
    let limiter = LocalLimiter::new(at_once(1));
    let budget = HeaderBudgetLayer::over(limiter.clone());
    let service = RetryLayer::new().layer(budget.layer(budget.layer(fake.clone())));
    works("budget twice", &service, &fake, &[&limiter]).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_retry_twice() {
    let (fake, retry, bucket) = (silent(), RetryLayer::new(), bucket());
    let service = retry.layer(retry.layer(bucket.layer(fake.clone())));
    works("retry twice", &service, &fake, &[&bucket.limiter()]).await;
    // Five attempts in all, not five times five.
    let before = fake.log_len();
    fake.inject_times(Fault::Overloaded, 100);
    let seen = send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(seen.status, 529);
    assert_eq!(fake.log_len() - before, 5);
}

#[tokio::test(start_paused = true)]
async fn two_retries_with_a_bucket_between() {
    let (fake, bucket) = (silent(), bucket());
    let service = RetryLayer::new().layer(bucket.layer(RetryLayer::new().layer(fake.clone())));
    works(
        "retry, bucket, retry",
        &service,
        &fake,
        &[&bucket.limiter()],
    )
    .await;
    let before = fake.log_len();
    fake.inject_times(Fault::Overloaded, 100);
    let seen = send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(seen.status, 529);
    assert_eq!(fake.log_len() - before, 5);
}

#[tokio::test(start_paused = true)]
async fn two_buckets_with_limiters_of_their_own() {
    let fake = silent();
    let (outer, inner) = (bucket(), bucket());
    let service = RetryLayer::new().layer(outer.layer(inner.layer(fake.clone())));
    let limiters = [&outer.limiter(), &inner.limiter()];
    works("two buckets", &service, &fake, &limiters).await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_with_a_limiter_of_its_own_under_a_bucket() {
    let fake = silent();
    let (bucket, budget) = (bucket(), HeaderBudgetLayer::new());
    let service = RetryLayer::new().layer(bucket.layer(budget.layer(fake.clone())));
    let limiters = [&bucket.limiter(), &budget.limiter()];
    works("bucket, own budget", &service, &fake, &limiters).await;
}

/// A request is charged once, even if several layers use the limiter.
#[tokio::test(start_paused = true)]
async fn nothing_is_charged_twice_on_one_limiter() {
    let minute = NonZeroU64::new(1_000).expect("a limit");
    let limits = || {
        Limits::new()
            .with_requests_per_minute(minute)
            .with_input_tokens_per_minute(minute)
            .with_output_tokens_per_minute(minute)
    };
    let levels = |limiter: &LocalLimiter| -> Vec<i64> {
        let scopes = limiter.snapshot();
        let dimensions = scopes[0].dimensions.iter();
        dimensions.map(|limit| limit.available).collect()
    };
    let fake = silent();
    let bucket = || TokenBucketLayer::new(limits());

    let alone = bucket();
    send(&alone.layer(fake.clone()), request(SONNET, false))
        .await
        .expect("an answer");
    let once = levels(&alone.limiter());
    assert_eq!(once[0], 999);

    let layer = bucket();
    let twice = layer.layer(layer.layer(fake.clone()));
    send(&twice, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(levels(&layer.limiter()), once, "a bucket twice");

    let layer = bucket();
    let budget = HeaderBudgetLayer::over(layer.limiter());
    let service = layer.layer(budget.layer(fake.clone()));
    send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(levels(&layer.limiter()), once, "bucket, budget");

    let layer = bucket();
    let budget = HeaderBudgetLayer::over(layer.limiter());
    let service = budget.layer(layer.layer(fake.clone()));
    send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    assert_eq!(levels(&layer.limiter()), once, "budget, bucket");
}

/// Two buckets over one limiter that look at different scopes are two limits.
#[tokio::test(start_paused = true)]
async fn one_limiter_with_two_scopes_is_two_limits() {
    let fake = silent();
    let limiter = LocalLimiter::new(rpm(60));
    let named = |name: &'static str| {
        TokenBucketLayer::over(limiter.clone())
            .with_scope(move |_| tower_claude_core::Scope::named(name))
    };
    let service = named("tenant").layer(named("all").layer(fake.clone()));
    send(&service, request(SONNET, false))
        .await
        .expect("an answer");
    let mut scopes = limiter.snapshot();
    scopes.sort_by_key(|scope| scope.scope.to_string());
    let left: Vec<_> = scopes
        .iter()
        .map(|scope| (scope.scope.to_string(), scope.dimensions[0].available))
        .collect();
    assert_eq!(
        left,
        [("other/all".into(), 59), ("other/tenant".into(), 59)]
    );
    assert_idle(&limiter, "two scopes");
}
