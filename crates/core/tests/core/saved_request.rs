//! Requests that are kept for another attempt.

use http::{Method, Request, Version};
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
fn streamed_request_is_not_saved() {
    let stream = http_body_util::StreamBody::new(futures_util::stream::pending::<
        Result<http_body::Frame<bytes::Bytes>, std::io::Error>,
    >());
    let request = request().map(|_| RequestBody::new(stream));
    assert!(SavedRequest::of(&request).is_none(), "cannot be sent again");
}
