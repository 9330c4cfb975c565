//! The message for end users.

use std::time::Duration;

use http::{
    Response,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
};
use tower_claude_core::{Class, Kind};
use tower_claude_wire::ApiError;

use crate::message::{FallbackMessage, HumanDuration, replace};

#[test]
fn duration_is_rounded_up_to_plain_words() {
    for (millis, words) in [
        (0, "in a few seconds"),
        (5_000, "in a few seconds"),
        (5_001, "in about 10 seconds"),
        (29_000, "in about 30 seconds"),
        (50_001, "in about 1 minute"),
        (61_000, "in about 2 minutes"),
        (5_400_000, "in about 90 minutes"),
        (5_400_001, "in about 2 hours"),
        (3 * 86_400_000, "in about 3 days"),
    ] {
        let wait = Duration::from_millis(millis);
        assert_eq!(HumanDuration(Some(wait)).to_string(), words);
    }
    assert_eq!(HumanDuration(None).to_string(), "in a little while");
    let long = HumanDuration(Some(Duration::MAX)).to_string();
    assert!(long.starts_with("in about ") && long.ends_with(" days"));
}

#[test]
fn replaced_message_keeps_type_code_and_request_id() {
    let body = br#"{"type":"error","error":{"type":"rate_limit_error","message":"old","details":{"error_code":"ramp_limit_exceeded"}},"request_id":"req_1"}"#;
    let response = Response::builder()
        .status(429)
        .header("retry-after", "90")
        .header(CONTENT_LENGTH, "7")
        .body(())
        .unwrap();
    let (mut head, ()) = response.into_parts();
    let class = Class::new(Kind::RampLimited);
    let eta = Some(Duration::from_secs(90));
    let new = replace(&mut head, body, &class, "Back \"{eta}\".", eta);
    let error = ApiError::parse(&new).unwrap();
    assert_eq!(error.kind, "rate_limit_error");
    assert_eq!(error.message, "Back \"in about 2 minutes\".");
    assert_eq!(error.error_code.as_deref(), Some("ramp_limit_exceeded"));
    assert_eq!(error.request_id.as_deref(), Some("req_1"));
    assert_eq!(
        (head.status.as_u16(), &head.headers["retry-after"]),
        (429, &"90".parse().unwrap())
    );
    assert_eq!(head.headers[CONTENT_LENGTH], new.len().to_string());
    assert_eq!(head.extensions.get(), Some(&FallbackMessage { eta }));
}

#[test]
fn unreadable_error_gets_the_type_of_its_class() {
    let (mut head, ()) = Response::builder()
        .status(502)
        .header(CONTENT_TYPE, "text/event-stream")
        .header(CONTENT_ENCODING, "gzip")
        .header(TRANSFER_ENCODING, "chunked")
        .body(())
        .unwrap()
        .into_parts();
    let class = Class::new(Kind::ServerError);
    let new = replace(&mut head, b"<html>", &class, "Sorry.", None);
    let error = ApiError::parse(&new).unwrap();
    assert_eq!((&*error.kind, &*error.message), ("api_error", "Sorry."));
    assert_eq!(head.headers[CONTENT_TYPE], "application/json");
    for gone in [CONTENT_ENCODING, TRANSFER_ENCODING] {
        assert!(!head.headers.contains_key(gone));
    }
}
