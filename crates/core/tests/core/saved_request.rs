//! Saved requests, which two layers share if the request was not changed between them.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Version};
use tokio::time::Instant;
use tower_claude_core::{Call, RequestBody, SavedRequest, Tenant};

fn request() -> Request<RequestBody> {
    Request::post("https://api.anthropic.com/v1/messages?beta=true")
        .header("x-api-key", "key")
        .header("x-twice", "one")
        .header("x-twice", "two")
        .body(RequestBody::from(r#"{"model":"claude-sonnet-5-5"}"#))
        .expect("a request")
}

/// Returns the request that an outer layer saves, and the copy that it sends with a call.
fn sent(request: Request<RequestBody>) -> (Arc<SavedRequest>, Request<RequestBody>) {
    let original = SavedRequest::of(&request).expect("buffered");
    let call = Call::new(request.extensions(), Instant::now());
    let mut sent = request;
    let call = Arc::new(call.with_original(&original));
    call.attach(&mut sent);
    (original, sent)
}

fn shared(request: &Request<RequestBody>) -> Option<Arc<SavedRequest>> {
    Call::of(request)?.original_of(request)
}

#[test]
fn unchanged_copy_shares_the_saved_request() {
    let (original, copy) = sent(request());
    let found = shared(&copy).expect("the same");
    assert!(Arc::ptr_eq(&found, &original));
    // A value in other memory is still equal.
    let (_original, mut copy) = sent(request());
    let headers = std::mem::take(copy.headers_mut());
    *copy.headers_mut() = headers;
    assert!(shared(&copy).is_some());
}

#[test]
fn changed_copy_does_not_share_the_saved_request() {
    type Change = fn(&mut Request<RequestBody>);
    let changes: [(&str, Change); 14] = [
        ("a header more", |request| {
            let value = HeaderValue::from_static("new");
            request.headers_mut().insert("x-new", value);
        }),
        ("a header less", |request| {
            request.headers_mut().remove("x-api-key");
        }),
        ("another value", |request| {
            let value = HeaderValue::from_static("other");
            request.headers_mut().insert("x-api-key", value);
        }),
        ("the same value under another name", |request| {
            let value = request.headers_mut().remove("x-api-key").expect("there");
            request.headers_mut().insert("x-key", value);
        }),
        ("a value twice", |request| {
            let value = request.headers()["x-api-key"].clone();
            request.headers_mut().append("x-api-key", value);
        }),
        ("the order of values", |request| {
            let headers = request.headers_mut();
            let two = headers.get_all("x-twice").iter().nth(1).cloned();
            let one = headers.remove("x-twice").expect("there");
            headers.append("x-twice", two.expect("there"));
            headers.append("x-twice", one);
        }),
        ("a value that is sensitive now", |request| {
            let value = request.headers_mut().get_mut("x-api-key");
            value.expect("there").set_sensitive(true);
        }),
        ("an extension", |request| {
            request.extensions_mut().insert(Tenant("acme".into()));
        }),
        ("the body", |request| {
            *request.body_mut() = RequestBody::from(r#"{"model":"claude-opus-5-5"}"#);
        }),
        ("an equal body", |request| {
            let bytes = request.body().bytes().expect("buffered").to_vec();
            *request.body_mut() = bytes.into();
        }),
        ("a part of the body", |request| {
            let bytes = request.body().bytes().expect("buffered").slice(..9);
            *request.body_mut() = bytes.into();
        }),
        ("the method", |request| *request.method_mut() = Method::PUT),
        ("the version", |request| {
            *request.version_mut() = Version::HTTP_2;
        }),
        ("the query", |request| {
            let uri = "https://api.anthropic.com/v1/messages";
            *request.uri_mut() = uri.parse().expect("a uri");
        }),
    ];
    for (what, change) in changes {
        let (_original, mut copy) = sent(request());
        change(&mut copy);
        assert!(shared(&copy).is_none(), "{what}");
    }
}

#[test]
fn copy_with_extensions_does_not_share_the_saved_request() {
    let mut request = request();
    request.extensions_mut().insert(Tenant("acme".into()));
    let (_original, copy) = sent(request);
    assert!(shared(&copy).is_none());
    assert_eq!(copy.extensions().get(), Some(&Tenant("acme".into())));
}

/// The call lives as long as the response, which may take minutes.
#[test]
fn call_does_not_keep_the_saved_request_alive() {
    struct Held(#[allow(dead_code, reason = "counts")] Arc<()>);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            b"{}"
        }
    }
    let alive = Arc::new(());
    let bytes = bytes::Bytes::from_owner(Held(alive.clone()));
    let (original, copy) = sent(request().map(|_| bytes.into()));
    let call = Call::of(&copy).cloned();
    drop(copy);
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(original);
    assert_eq!(Arc::strong_count(&alive), 1, "kept by {call:?}");
}

#[test]
fn copy_is_complete_and_the_last_is_moved() {
    let mut request = request();
    let key = request.headers_mut().get_mut("x-api-key");
    key.expect("there").set_sensitive(true);
    *request.version_mut() = Version::HTTP_2;
    request.extensions_mut().insert(Tenant("acme".into()));
    let bytes = request.body().bytes().expect("buffered").as_ptr();
    let original = SavedRequest::of(&request).expect("buffered");
    for got in [original.copy(), original.copy(), request] {
        assert_eq!(got.method(), Method::POST);
        assert_eq!(got.version(), Version::HTTP_2);
        assert_eq!(got.uri().query(), Some("beta=true"));
        assert!(got.headers()["x-api-key"].is_sensitive());
        let twice: Vec<_> = got.headers().get_all("x-twice").iter().collect();
        assert_eq!(twice, ["one", "two"]);
        assert_eq!(got.extensions().get(), Some(&Tenant("acme".into())));
        assert_eq!(got.body().bytes().expect("buffered").as_ptr(), bytes);
    }
}

#[test]
fn stream_is_not_saved() {
    let stream = http_body_util::StreamBody::new(futures_util::stream::pending::<
        Result<http_body::Frame<bytes::Bytes>, std::io::Error>,
    >());
    let request = request().map(|_| RequestBody::new(stream));
    assert!(SavedRequest::of(&request).is_none(), "cannot be sent again");
}
