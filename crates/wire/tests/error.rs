//! Error bodies, Claude's and others'.

mod common;

use common::fixture;
use proptest::prelude::*;
use tower_claude_wire::ApiError;

fn parse(name: &str) -> ApiError {
    ApiError::parse(&fixture(name)).unwrap_or_else(|| panic!("{name} is not an error envelope"))
}

#[test]
fn error_fixtures_are_parsed() {
    for (name, kind, code) in [
        ("400_credit_balance.json", "invalid_request_error", None),
        ("400_effort.json", "invalid_request_error", None),
        ("400_max_tokens.json", "invalid_request_error", None),
        ("400_own_spend_limit.json", "invalid_request_error", None),
        ("400_prefill.json", "invalid_request_error", None),
        ("400_prompt_too_long.json", "invalid_request_error", None),
        ("400_temperature.json", "invalid_request_error", None),
        ("400_thinking_adaptive.json", "invalid_request_error", None),
        ("400_thinking_enabled.json", "invalid_request_error", None),
        ("400_tool_choice.json", "invalid_request_error", None),
        ("401_authentication.json", "authentication_error", None),
        (
            "402_linked_org_spend.json",
            "billing_error",
            Some("linked_organization_spend_limit_reached"),
        ),
        ("403_permission.json", "permission_error", None),
        ("404_not_found.json", "not_found_error", None),
        ("409_conflict.json", "conflict_error", None),
        ("413_too_large.json", "request_too_large", None),
        ("429_concurrency_OBSERVED_3P.json", "rate_limit_error", None),
        (
            "429_contract_spend.json",
            "rate_limit_error",
            Some("contract_spend_limit_reached"),
        ),
        ("429_input_tokens.json", "rate_limit_error", None),
        (
            "429_ramp.json",
            "rate_limit_error",
            Some("ramp_limit_exceeded"),
        ),
        (
            "429_tier_spend_cap_NO_RETRY_AFTER.json",
            "rate_limit_error",
            Some("enforced_spend_limit_reached"),
        ),
        ("500_api_error.json", "api_error", None),
        (
            "503_cmek.json",
            "api_error",
            Some("cmek_context_unavailable"),
        ),
        ("504_timeout.json", "timeout_error", None),
        ("529_overloaded_details_null.json", "overloaded_error", None),
        ("529_overloaded_minimal.json", "overloaded_error", None),
    ] {
        let error = parse(name);
        assert_eq!(error.kind, kind, "{name}");
        assert_eq!(error.error_code.as_deref(), code, "{name}");
        assert!(!error.message.is_empty(), "{name}");
        assert_eq!(ApiError::parse(error.to_body().as_bytes()), Some(error));
    }
    assert_eq!(
        parse("429_ramp.json").request_id.as_deref(),
        Some("req_011FixtureAAAAAAAAAAAAAA")
    );
    assert_eq!(parse("529_overloaded_minimal.json").request_id, None);
}

#[test]
fn body_of_another_format_is_none() {
    for name in [
        "bedrock_invoke_429.json",
        "vertex_429_LIKELY.json",
        "200_message.json",
    ] {
        assert_eq!(ApiError::parse(&fixture(name)), None, "{name}");
    }
    for body in [
        "",
        "null",
        "[]",
        "<html>502 Bad Gateway</html>",
        r#"{"type":"error"}"#,
        r#"{"type":"warning","error":{"type":"api_error","message":"m"}}"#,
        r#"{"type":"error","error":null}"#,
        r#"{"type":"error","error":{"message":"no type"}}"#,
        r#"{"type":"error","error":{"type":7,"message":"m"}}"#,
        r#"{"error":{"type":"server_error","message":"another vendor"}}"#,
        r#"{"type":"error","error":{"type":"api_error","message":"cut sho"#,
    ] {
        assert_eq!(ApiError::parse(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn error_of_another_platform_is_parsed() {
    let parsed = |body: &str| {
        let error = ApiError::parse_any(body.as_bytes())?;
        Some((error.kind, error.message, error.error_code, error.status))
    };
    let error = |kind: &str, message: &str, code: Option<&str>, status| {
        Some((
            kind.to_owned(),
            message.to_owned(),
            code.map(str::to_owned),
            status,
        ))
    };
    for (body, expected) in [
        (r#"{"message":"m"}"#, error("", "m", None, None)),
        (r#"{"Message":"m"}"#, error("", "m", None, None)),
        (r#"{"detail":"m"}"#, error("", "m", None, None)),
        (r#"{"error":"m"}"#, error("", "m", None, None)),
        (
            r#"{"type":"error","error":{"message":"m"}}"#,
            error("", "m", None, None),
        ),
        (
            r#"{"__type":"com.amazon.coral.service#ThrottlingException","message":"m"}"#,
            error(
                "com.amazon.coral.service#ThrottlingException",
                "m",
                None,
                None,
            ),
        ),
        (
            r#"{"error":{"code":503,"message":"m","status":"UNAVAILABLE","details":[{}]}}"#,
            error("UNAVAILABLE", "m", None, Some(503)),
        ),
        (
            r#"[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}]"#,
            error("RESOURCE_EXHAUSTED", "m", None, Some(429)),
        ),
        (
            r#"{"error":{"message":"m","type":"server_error","param":null,"code":null}}"#,
            error("server_error", "m", None, None),
        ),
        (
            r#"{"error":{"message":"m","type":null,"code":"rate_limit_exceeded"}}"#,
            error(
                "rate_limit_exceeded",
                "m",
                Some("rate_limit_exceeded"),
                None,
            ),
        ),
        (
            r#"{"error":{"message":"m","code":"429"}}"#,
            error("429", "m", Some("429"), Some(429)),
        ),
    ] {
        assert_eq!(parsed(body), expected, "{body}");
    }
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "<html>",
        r#"{"error":null}"#,
        r#"{"error":5}"#,
        "[[[[",
    ] {
        assert_eq!(parsed(body), None, "{body}");
    }
    let claude = fixture("429_ramp.json");
    assert_eq!(ApiError::parse_any(&claude), ApiError::parse(&claude));
}

#[test]
fn unexpected_types_of_optional_fields_are_ignored() {
    for details in [
        "null",
        "7",
        "\"text\"",
        "[1]",
        "{}",
        r#"{"error_code":null}"#,
        r#"{"error_code":5}"#,
        r#"{"appeal_url":"https://example.com"}"#,
    ] {
        let body = format!(
            r#" {{"new":[{{}}],"error":{{"details":{details},"message":{{}},"type":"future_error"}},"request_id":9,"type":"error"}} "#
        );
        let error = ApiError::parse(body.as_bytes()).expect(details);
        assert_eq!(error, ApiError::new("future_error", ""), "{details}");
    }
    let body = br#"{"type":"error","error":{"type":"a\u005fb","message":"l\nm","details":{"error_code":"c\"d","n":1}}}"#;
    let error = ApiError::parse(body).unwrap();
    assert_eq!(
        (error.kind.as_str(), error.message.as_str()),
        ("a_b", "l\nm")
    );
    assert_eq!(error.error_code.as_deref(), Some("c\"d"));
}

#[test]
fn deeply_nested_body_does_not_overflow_the_stack() {
    let deep = "[".repeat(200_000);
    let body = format!(r#"{{"type":"error","error":{{"type":"t","details":{deep}"#);
    assert_eq!(ApiError::parse(body.as_bytes()), None);
}

#[test]
fn written_envelope_is_as_documented() {
    assert_eq!(
        ApiError::body("overloaded_error", "say \"hi\"\n", None),
        r#"{"type":"error","error":{"type":"overloaded_error","message":"say \"hi\"\n"}}"#
    );
    let mut error = ApiError::new("rate_limit_error", "slow");
    error.error_code = Some("ramp_limit_exceeded".into());
    error.request_id = Some("req_1".into());
    assert_eq!(
        error.to_body(),
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow","details":{"error_code":"ramp_limit_exceeded"}},"request_id":"req_1"}"#
    );
    assert_eq!(error.to_string(), "rate_limit_error: slow");
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = ApiError::parse_any(&body);
    }

    #[test]
    fn damaged_envelope_does_not_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<proptest::sample::Index>()) {
        let mut body = fixture("429_ramp.json");
        let place = at.index(body.len());
        body[place] = byte;
        let _ = ApiError::parse(&body);
        body.truncate(cut.index(body.len()));
        let _ = ApiError::parse(&body);
    }

    #[test]
    fn written_envelope_is_parsed_back(kind in any::<String>(), message in any::<String>(), code in any::<Option<String>>(), id in any::<Option<String>>()) {
        let mut error = ApiError::new(kind, message);
        error.error_code = code;
        error.request_id = id;
        prop_assert_eq!(ApiError::parse(error.to_body().as_bytes()), Some(error.clone()));
        error.error_code = None;
        let body = ApiError::body(&error.kind, &error.message, error.request_id.as_deref());
        prop_assert_eq!(ApiError::parse(body.as_bytes()), Some(error));
    }
}
