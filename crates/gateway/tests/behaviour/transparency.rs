//! The changes that a gateway makes to requests and responses: a fixed list, and nothing else.

use std::collections::BTreeMap;

use crate::common::*;
use proptest::{
    prelude::*,
    test_runner::{Config as RunConfig, TestRunner},
};

/// The headers that differ by design, or that the test's own client and server add.
const CHANGED: [&str; 5] = [
    "host",
    "accept-encoding",
    "content-length",
    "transfer-encoding",
    "date",
];

/// The headers of one connection, which may not pass.
const OF_CONNECTION: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

type Headers = Vec<(String, String)>;

fn headers() -> impl Strategy<Value = Headers> {
    let prefix = prop_oneof!["x-", "anthropic-", "x-stainless-", "accept-", "content-l"];
    let name = (prefix, "[a-z0-9]{1,12}").prop_map(|(prefix, name)| prefix.to_owned() + &name);
    let is_plain = |name: &String| {
        let own = ["x-api-key", "x-should-retry", "x-accel-buffering"];
        !CHANGED.contains(&&**name) && !OF_CONNECTION.contains(&&**name) && !own.contains(&&**name)
    };
    // Printable, without space at the ends, which HTTP does not keep.
    let value = "[!-~]([ -~]{0,40}[!-~])?|";
    prop::collection::vec(
        (name.prop_filter("changed by design", is_plain), value),
        0..20,
    )
}

fn by_name(headers: &http::HeaderMap) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut all = BTreeMap::new();
    for (name, value) in headers {
        let values: &mut Vec<Vec<u8>> = all.entry(name.to_string()).or_default();
        values.push(value.as_bytes().to_vec());
    }
    for name in CHANGED.iter().chain(["x-api-key", "request-id"].iter()) {
        all.remove(*name);
    }
    all
}

fn expected(headers: &Headers) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut all: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for (name, value) in headers {
        all.entry(name.clone())
            .or_default()
            .push(value.as_bytes().to_vec());
    }
    all
}

#[test]
fn random_requests_and_responses_pass_unchanged() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    // Answers with what the request asks for.
    type Script = std::sync::Arc<std::sync::Mutex<(u16, Headers, Vec<u8>)>>;
    let script: Script = Default::default();
    let answers = script.clone();
    let (upstream, gateway) = runtime.block_on(async {
        let upstream = Upstream::new(move |_| {
            let (status, headers, body) = answers.lock().unwrap().clone();
            let mut response = axum::response::Response::new(axum::body::Body::from(body));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                let name: http::HeaderName = name.parse().unwrap();
                response.headers_mut().append(name, value.parse().unwrap());
            }
            async { response }
        })
        .await;
        let gateway = TestGateway::before(&upstream).await;
        (upstream, gateway)
    });
    let client = {
        let _guard = runtime.enter();
        client()
    };
    let path = prop_oneof![
        Just("/v1/messages"),
        Just("/v1/messages/count_tokens"),
        Just("/v1/messages/batches"),
        Just("/v1/files"),
        Just("/of/the/future"),
    ];
    let path =
        (path, "(\\?[a-zA-Z0-9%=&+]{0,20})?").prop_map(|(path, query)| path.to_owned() + &query);
    let method = prop_oneof![Just("POST"), Just("POST"), Just("PUT"), Just("DELETE")];
    // Statuses that no layer retries, and that open no circuit.
    let status = prop_oneof![Just(400_u16), Just(418), Just(422)];
    let bytes = || prop::collection::vec(any::<u8>(), 0..3_000);
    let case = (
        method,
        path,
        headers(),
        bytes(),
        (status, headers(), bytes()),
    );
    let mut runner = TestRunner::new(RunConfig {
        cases: 200,
        failure_persistence: None,
        ..RunConfig::default()
    });
    let outcome = runner.run(&case, |(method, path, headers, body, answer)| {
        *script.lock().unwrap() = answer.clone();
        let mut sent = gateway.request(method, &path);
        for (name, value) in &headers {
            sent = sent.header(name, value);
        }
        let sent = sent
            .header("x-api-key", "key-of-caller")
            .header("accept-encoding", "br");
        let got = runtime.block_on(send_with(&client, sent, body.clone()));
        let received = upstream.last();
        prop_assert_eq!(received.method.as_str(), method);
        prop_assert_eq!(received.uri.to_string(), path);
        prop_assert_eq!(by_name(&received.headers), expected(&headers));
        prop_assert_eq!(&received.headers["x-api-key"], "key-of-caller");
        prop_assert_eq!(&received.headers["accept-encoding"], "identity");
        prop_assert_eq!(&received.body[..], &body[..]);
        let (status, headers, body) = answer;
        prop_assert_eq!(got.status, status);
        prop_assert_eq!(by_name(&got.headers), expected(&headers));
        prop_assert_eq!(&got.body[..], &body[..]);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
