//! Requests that are kept for another attempt.

use http::{Method, Request, Uri, Version};
use proptest::prelude::*;
use tower_claude_core::{RequestBody, Tenant, toolkit::SavedRequest};

fn request() -> Request<RequestBody> {
    Request::post("https://api.anthropic.com/v1/messages?beta=true")
        .header("x-api-key", "key")
        .header("x-twice", "one")
        .header("x-twice", "two")
        .body(RequestBody::from(r#"{"model":"claude-sonnet-5-5"}"#))
        .expect("a request")
}

#[test]
fn copy_of_saved_request_is_complete() {
    let mut request = request();
    let key = request.headers_mut().get_mut("x-api-key");
    key.expect("there").set_sensitive(true);
    *request.version_mut() = Version::HTTP_2;
    request.extensions_mut().insert(Tenant("acme".into()));
    let bytes = request.body().bytes().expect("buffered").as_ptr();
    let original = SavedRequest::of(&request).expect("buffered");
    assert_eq!(original.method(), Method::POST);
    assert_eq!(original.path(), "/v1/messages");
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

/// Saves a request with this URI, compares all that comes back, and returns a copy.
fn check_uri(uri: &Uri) -> Request<RequestBody> {
    let mut request = request();
    *request.uri_mut() = uri.clone();
    let saved = SavedRequest::of(&request).expect("buffered");
    assert_eq!(saved.path(), uri.path());
    let copy = saved.copy();
    assert_eq!(copy.uri(), uri);
    assert_eq!(copy.uri().to_string(), uri.to_string());
    let sent = |uri: &Uri| uri.path_and_query().map(|path| path.as_str().to_owned());
    assert_eq!(sent(copy.uri()), sent(uri));
    assert_eq!(copy.headers(), request.headers());
    assert_eq!(saved.into_request().uri(), uri);
    copy
}

#[test]
fn copy_of_saved_request_has_the_same_uri_in_every_form() {
    for uri in [
        "",
        "/",
        "*",
        "/v1/messages",
        "/v1/messages?",
        "/v1/messages?beta=true&key=%20",
        "api.anthropic.com:443",
        "http://api.anthropic.com",
        "http://api.anthropic.com?beta=true",
        "https://user@API.anthropic.com:8443/v1/messages",
        "unix+http://socket/v1/messages",
    ] {
        let uri: Uri = match uri {
            "" => Uri::from_parts(http::uri::Parts::default()).expect("an empty URI"),
            text => text.parse().expect("a URI"),
        };
        let copy = check_uri(&uri);
        assert_eq!(copy.uri().path_and_query(), uri.path_and_query());
    }
}

proptest! {
    #[test]
    fn any_uri_comes_back_from_a_saved_request(
        text in prop_oneof![
            "[!-~é]{1,24}",
            "/[!-~é]{0,24}",
            "[a-zA-Z][a-z0-9+.-]{0,5}://[!-~é]{1,24}",
            "https?://[a-z@:.0-9\\[\\]]{1,12}[/?#]{0,2}[!-~é]{0,8}",
        ]
    ) {
        if let Ok(uri) = text.parse::<Uri>() {
            check_uri(&uri);
        }
    }
}

#[test]
fn saved_request_keeps_a_method_of_its_own_name() {
    let mut request = request();
    let method = Method::from_bytes(b"PURGE-EVERYTHING-AT-ONCE").expect("a method");
    *request.method_mut() = method.clone();
    let saved = SavedRequest::of(&request).expect("buffered");
    assert_eq!(saved.method(), method);
    assert_eq!(saved.copy().method(), method);
}

#[test]
fn streamed_request_is_not_saved() {
    let stream = http_body_util::StreamBody::new(futures_util::stream::pending::<
        Result<http_body::Frame<bytes::Bytes>, std::io::Error>,
    >());
    let request = request().map(|_| RequestBody::new(stream));
    assert!(SavedRequest::of(&request).is_none(), "cannot be sent again");
}
