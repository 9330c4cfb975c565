//! Layer stacks as a middleware.

use std::{
    num::NonZeroU64,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Extensions;
use reqwest::{Body, Client, Request, Response};
use reqwest_middleware::{ClientBuilder, Error, Middleware, Next, Result};
use tower::{ServiceBuilder, timeout::TimeoutLayer, timeout::error::Elapsed};
use tower_claude_core::{Deadline, Rejection};
use tower_claude_fake_claude::{FakeClaude, Fault, HeaderFamily};
use tower_claude_header_budget::HeaderBudgetLayer;
use tower_claude_limiter::Limits;
use tower_claude_reqwest::TowerMiddleware;
use tower_claude_token_bucket::TokenBucketLayer;

use crate::common::{
    HOUR, SONNET, at_once, bounded, pieces, post, prompt, quiet, request_to, statuses,
};

/// An extension that a middleware increments before and after the rest of the chain.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mark(u32);

/// A middleware that records the mark before and after the rest of the chain.
#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Vec<Passage>>>);

/// The marks before and after.
type Passage = (Option<Mark>, Option<Mark>);

impl Watch {
    fn seen(&self) -> Vec<Passage> {
        self.0.lock().unwrap().clone()
    }
}

impl Middleware for Watch {
    fn handle<'a, 'b, 'c, 'd>(
        &'a self,
        request: Request,
        extensions: &'b mut Extensions,
        next: Next<'c>,
    ) -> Pin<Box<dyn Future<Output = Result<Response>> + Send + 'd>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        Box::pin(async move {
            let before = extensions.get::<Mark>().copied();
            extensions.insert(Mark(before.map_or(0, |mark| mark.0) + 1));
            let answer = next.run(request, extensions).await;
            let after = extensions.get::<Mark>().copied();
            self.0.lock().unwrap().push((before, after));
            answer
        })
    }
}

#[tokio::test]
async fn each_attempt_runs_the_rest_of_the_chain_with_the_callers_extensions() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        let (outer, inner) = (Watch::default(), Watch::default());
        let client = ClientBuilder::new(Client::new())
            .with(outer.clone())
            .with(TowerMiddleware::new(at_once()))
            .with(inner.clone())
            .build();
        fake.inject_times(Fault::Overloaded, 2);
        let request = post(&client, &server.url()).body(prompt(SONNET, false));
        let response = request.with_extension(Mark(7)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.url().as_str(),
            format!("{}/v1/messages", server.url())
        );
        assert!(response.text().await.unwrap().contains("\"usage\""));
        assert_eq!(statuses(&fake), [529, 529, 200]);
        // Each attempt starts with the caller's mark, and the mark of the last attempt comes back.
        assert_eq!(inner.seen(), [(Some(Mark(8)), Some(Mark(9))); 3]);
        assert_eq!(outer.seen(), [(Some(Mark(7)), Some(Mark(9)))]);
    })
    .await;
}

#[tokio::test]
async fn rejection_of_a_full_stack_is_a_response() {
    bounded(async {
        // It sends no limit headers, so that the configured limits stay.
        let fake = FakeClaude::builder()
            .header_family(HeaderFamily::None)
            .build();
        let server = fake.serve().await.unwrap();
        let one = const { NonZeroU64::new(1).expect("one") };
        let limits = Limits::new().with_requests_per_minute(one);
        let bucket = TokenBucketLayer::new(limits).with_max_wait(Duration::ZERO);
        let budget: HeaderBudgetLayer = HeaderBudgetLayer::over(bucket.limiter());
        let stack = ServiceBuilder::new()
            .layer(at_once())
            .layer(bucket)
            .layer(budget)
            .into_inner();
        let client = ClientBuilder::new(Client::new())
            .with(TowerMiddleware::new(stack))
            .build();
        let send = || {
            post(&client, &server.url())
                .body(prompt(SONNET, true))
                .send()
        };
        let text = send().await.unwrap().text().await.unwrap();
        assert!(text.contains("event: message_stop"));
        let refused = send().await.unwrap();
        assert_eq!(refused.status(), 429);
        assert_eq!(
            refused.url().as_str(),
            format!("{}/v1/messages", server.url())
        );
        assert_eq!(
            refused.headers()["x-tower-claude-refused-by"],
            "token-bucket"
        );
        let by = refused
            .extensions()
            .get::<Rejection>()
            .map(|refused| refused.by);
        assert_eq!(by, Some("token-bucket"));
        assert!(refused.text().await.unwrap().contains("rate_limit_error"));
        assert_eq!(statuses(&fake), [200]);
    })
    .await;
}

#[tokio::test]
async fn caller_extensions_reach_the_layers() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        let client = ClientBuilder::new(Client::new())
            .with(TowerMiddleware::new(at_once()))
            .build();
        let late = Deadline(tokio::time::Instant::now());
        let request = post(&client, &server.url()).body(prompt(SONNET, false));
        let response = request.with_extension(late).send().await.unwrap();
        assert_eq!(response.status(), 504);
        assert!(response.extensions().get::<Rejection>().is_some());
        assert_eq!(fake.log_len(), 0);
    })
    .await;
}

#[tokio::test]
async fn request_extensions_win_over_caller_extensions() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        let client = ClientBuilder::new(Client::new())
            .with(TowerMiddleware::new(at_once()))
            .build();
        let (mut request, mut attached) =
            (request_to(&server.url(), SONNET, false), Extensions::new());
        let now = tokio::time::Instant::now();
        attached.insert(Deadline(now + HOUR));
        request.extensions_mut().insert(Deadline(now));
        let request = Request::try_from(request.map(Body::wrap)).unwrap();
        let sent = client.execute_with_extensions(request, &mut attached).await;
        assert_eq!(sent.unwrap().status(), 504);
        assert_eq!(fake.log_len(), 0);
    })
    .await;
}

#[tokio::test]
async fn body_without_clone_is_buffered_and_sent_again() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        let body = || {
            Body::wrap(pieces(&[
                r#"{"model":"claude-sonnet-5-5","max_tokens":64,"#,
                r#""messages":[{"role":"user","content":"Hi"}]}"#,
            ]))
        };
        let client = ClientBuilder::new(Client::new())
            .with(TowerMiddleware::new(at_once()))
            .build();
        fake.inject_times(Fault::Overloaded, 2);
        let sent = post(&client, &server.url()).body(body()).send().await;
        assert_eq!(sent.unwrap().status(), 200);
        assert_eq!(statuses(&fake), [529, 529, 200]);
        // Over the limit: it is sent once, complete, and its response is returned.
        let client = ClientBuilder::new(Client::new())
            .with(TowerMiddleware::new(at_once()).with_body_limit(10))
            .build();
        fake.inject(Fault::Overloaded);
        let sent = post(&client, &server.url()).body(body()).send().await;
        assert_eq!(sent.unwrap().status(), 529);
        let sent = post(&client, &server.url()).body(body()).send().await;
        assert_eq!(sent.unwrap().status(), 200);
        assert_eq!(statuses(&fake), [529, 529, 200, 529, 200]);
    })
    .await;
}

#[tokio::test]
async fn invalid_request_keeps_its_error_type() {
    let retry = at_once();
    let handle = retry.handle();
    let client = ClientBuilder::new(Client::new())
        .with(TowerMiddleware::new(retry))
        .build();
    for url in ["ftp://localhost/", "data:text/plain,no"] {
        let error = client.post(url).send().await.unwrap_err();
        assert!(
            matches!(&error, Error::Reqwest(error) if error.is_builder()),
            "{error:?}"
        );
    }
    assert_eq!(handle.snapshot().retries, 0);
}

/// With a paused clock the timeout passes as soon as all tasks are idle.
#[tokio::test(start_paused = true)]
async fn the_timeout_of_one_request_still_acts_and_is_retried_once() {
    let fake = quiet();
    let server = fake.serve().await.unwrap();
    let retry = at_once();
    let handle = retry.handle();
    let client = ClientBuilder::new(Client::new())
        .with(TowerMiddleware::new(retry))
        .build();
    fake.inject_times(Fault::SlowHead(HOUR), 9);
    let request = post(&client, &server.url()).body(prompt(SONNET, false));
    let error = request
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(handle.snapshot().retries, 1);
}

/// With one of tower's own layers the error of the stack is a box. Callers get the original error.
#[tokio::test(start_paused = true)]
async fn errors_of_towers_layers_can_be_found() {
    let fake = quiet();
    let server = fake.serve().await.unwrap();
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(5)))
        .layer(at_once())
        .into_inner();
    let client = ClientBuilder::new(Client::new())
        .with(TowerMiddleware::new(stack))
        .build();
    fake.inject(Fault::SlowHead(HOUR));
    let sent = post(&client, &server.url())
        .body(prompt(SONNET, false))
        .send()
        .await;
    let Err(Error::Middleware(error)) = sent else {
        panic!("{sent:?}");
    };
    assert!(
        error.chain().any(<dyn std::error::Error>::is::<Elapsed>),
        "{error:?}"
    );
    // The client's error is taken out of the box.
    let error = client.post("ftp://localhost/").send().await.unwrap_err();
    assert!(error.is_builder(), "{error:?}");
}

/// A middleware that polls the rest of the chain once and drops it.
struct Hasty(Watch);

impl Middleware for Hasty {
    fn handle<'a, 'b, 'c, 'd>(
        &'a self,
        request: Request,
        extensions: &'b mut Extensions,
        next: Next<'c>,
    ) -> Pin<Box<dyn Future<Output = Result<Response>> + Send + 'd>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        Box::pin(async move {
            let again = request.try_clone().expect("bytes");
            tokio::select! {
                biased;
                _ = next.clone().run(request, extensions) => panic!("too fast"),
                () = std::future::ready(()) => {}
            }
            let mark = extensions.get::<Mark>().copied();
            self.0.0.lock().unwrap().push((mark, None));
            next.run(again, extensions).await
        })
    }
}

#[tokio::test]
async fn cancelled_call_gives_the_extensions_back() {
    bounded(async {
        let fake = quiet();
        let server = fake.serve().await.unwrap();
        let watch = Watch::default();
        let client = ClientBuilder::new(Client::new())
            .with(Hasty(watch.clone()))
            .with(TowerMiddleware::new(at_once()))
            .build();
        let request = post(&client, &server.url()).body(prompt(SONNET, false));
        let response = request.with_extension(Mark(7)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(watch.seen(), [(Some(Mark(7)), None)]);
    })
    .await;
}
