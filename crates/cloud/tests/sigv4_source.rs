//! Signatures with credentials from a source.
#![cfg(feature = "bedrock")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, request::Parts};
use tower_claude_cloud::{
    Authorization, Authorize, AuthorizeError,
    bedrock::{Credentials, SigV4},
};
use tower_claude_wire::cloud::Target;

fn request() -> Parts {
    let uri = "https://bedrock-runtime.us-west-2.amazonaws.com/model/m/invoke";
    Request::post(uri)
        .body(())
        .expect("a valid request")
        .into_parts()
        .0
}

/// A signer whose source returns the keys `AKID1`, `AKID2` and so on, and the number of its calls.
fn counting(lifetime: Option<Duration>) -> (SigV4, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let source = move || {
        let call = counter.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            // A source takes its time.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let expiry = lifetime.map(|lifetime| SystemTime::now() + lifetime);
            Ok(Credentials::new(format!("AKID{call}"), "secret").with_expiry(expiry))
        }
    };
    (SigV4::new(source, "bedrock", "us-west-2"), calls)
}

/// Signs a request, and returns the id of the key and the number of the credentials.
async fn sign(signer: &SigV4) -> Result<(String, u64), AuthorizeError> {
    let mut head = request();
    loop {
        match signer.authorize(&mut head, &Bytes::new(), SystemTime::now()) {
            Authorization::Done(number) => {
                let value = head.headers["authorization"]
                    .to_str()
                    .expect("visible ASCII");
                let (_, rest) = value.split_once("Credential=").expect("a credential");
                let (key, _) = rest.split_once('/').expect("a scope");
                return Ok((key.to_owned(), number));
            }
            Authorization::Wait(wait) => wait.await?,
            Authorization::Failed(error) => return Err(error),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_wait_for_one_fetch() {
    let (signer, calls) = counting(None);
    let keys = futures_util::future::join_all((0..20).map(|_| sign(&signer))).await;
    for key in keys {
        assert_eq!(key.expect("a signature").0, "AKID1");
    }
    tokio::time::sleep(Duration::from_secs(1_000_000)).await;
    assert_eq!(
        sign(&signer).await.expect("a signature").0,
        "AKID1",
        "they never expire"
    );
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn credentials_are_fetched_early_and_the_old_ones_sign_meanwhile() {
    let (signer, calls) = counting(Some(Duration::from_secs(3_600)));
    assert_eq!(sign(&signer).await.expect("a signature").0, "AKID1");
    tokio::time::sleep(Duration::from_secs(3_600 - 200)).await;
    assert_eq!(sign(&signer).await.expect("a signature").0, "AKID1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(sign(&signer).await.expect("a signature").0, "AKID2");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn rejected_credentials_are_fetched_again_once() {
    let (signer, calls) = counting(None);
    let (_, number) = sign(&signer).await.expect("a signature");
    // Two calls were rejected with the same credentials.
    assert!(signer.reject(number));
    assert_eq!(sign(&signer).await.expect("a signature").0, "AKID2");
    assert!(signer.reject(number), "there are newer ones already");
    assert_eq!(sign(&signer).await.expect("a signature").0, "AKID2");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn fixed_credentials_have_no_successor() {
    let signer = SigV4::fixed(Credentials::new("AKID", "secret"), "bedrock", "us-west-2");
    let (key, number) = sign(&signer).await.expect("a signature");
    assert_eq!(key, "AKID");
    assert!(!signer.reject(number));
}

#[tokio::test(start_paused = true)]
async fn source_that_fails_is_an_error_with_its_cause() {
    let signer = SigV4::new(
        || async { Err("no profile".into()) },
        "bedrock",
        "us-west-2",
    );
    let error = sign(&signer).await.expect_err("no credentials");
    let cause = std::error::Error::source(&error).expect("a cause");
    assert_eq!(cause.to_string(), "no profile");
    assert!(
        !error.to_string().contains("profile"),
        "a cause may name secrets"
    );
}

#[test]
fn signer_for_a_target_takes_its_service_and_region() {
    let signer = SigV4::fixed(Credentials::new("AKID", "secret"), "bedrock", "us-west-2");
    let scope = |target: &Target| {
        let mut head = request();
        let signer = signer.clone().for_target(target);
        let done = signer.authorize(&mut head, &Bytes::new(), SystemTime::UNIX_EPOCH);
        assert!(matches!(done, Authorization::Done(_)));
        let value = head.headers["authorization"]
            .to_str()
            .expect("visible ASCII");
        let (_, rest) = value.split_once("19700101/").expect("a day");
        rest.split_once("/aws4_request")
            .expect("an end")
            .0
            .to_owned()
    };
    let runtime = || Target::bedrock("eu-west-1").expect("a region");
    let mantle = || Target::bedrock_messages("us-east-1").expect("a region");
    let at = |target: Target, host| target.with_host(host).expect("a host");
    assert_eq!(scope(&runtime()), "eu-west-1/bedrock");
    assert_eq!(scope(&mantle()), "us-east-1/bedrock-mantle");
    assert_eq!(
        scope(&at(runtime(), "http://127.0.0.1:8080")),
        "eu-west-1/bedrock"
    );
    assert_eq!(
        scope(&at(mantle(), "http://127.0.0.1:8080")),
        "us-east-1/bedrock-mantle"
    );
    let endpoint = "vpce-0a1b.bedrock-runtime.us-east-1.vpce.amazonaws.com";
    assert_eq!(scope(&at(mantle(), endpoint)), "us-east-1/bedrock");
    let vertex = Target::vertex("project", "global").expect("a location");
    assert_eq!(
        scope(&vertex),
        "us-west-2/bedrock",
        "no service of AWS changes nothing"
    );
}
