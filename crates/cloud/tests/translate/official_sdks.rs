//! Facts of the official SDKs: the same request has the same path and body as theirs.

use super::{MESSAGES, bedrock_messages, invoke_model, text, translate_at, vertex};

const BODY: &str = r#"{"model":"claude-opus-5-5","max_tokens":1024,"messages":[{"role":"user","content":"Say hello there!"}]}"#;

#[test]
fn invoke_model_has_version_and_betas_in_the_body_and_the_model_in_the_path() {
    let headers = [
        ("anthropic-version", "2026-10-21"),
        (
            "anthropic-beta",
            "context-1m-2025-08-07, compact-2026-01-12",
        ),
        ("anthropic-beta", "context-1m-2025-08-07"),
        ("anthropic-user-profile-id", "uprof_1"),
    ];
    let uri = format!("{MESSAGES}?beta=true");
    let sent = translate_at(&uri, &headers, BODY, &invoke_model()).unwrap();
    assert_eq!(
        sent.uri,
        "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-opus-5-5/invoke"
    );
    assert_eq!(
        text(&sent.body),
        r#"{"max_tokens":1024,"messages":[{"role":"user","content":"Say hello there!"}],"anthropic_version":"2026-10-21","anthropic_beta":["context-1m-2025-08-07","compact-2026-01-12"],"user_profile_id":"uprof_1"}"#
    );
    assert!(sent.losses.is_empty());
    for name in sent.headers.keys() {
        assert!(!name.as_str().starts_with("anthropic-"), "{name}");
    }
}

#[test]
fn id_of_an_application_profile_is_one_segment_of_the_path() {
    let arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/jf2sje1c0jnb";
    let target = invoke_model().with_model("claude-opus-5-5", arn).unwrap();
    let expected = "/model/arn:aws:bedrock:us-east-1:123456789012:application-inference-profile%2Fjf2sje1c0jnb/invoke";
    for model in ["claude-opus-5-5", arn] {
        let body = BODY.replace("claude-opus-5-5", model);
        let sent = translate_at(MESSAGES, &[], body, &target).unwrap();
        assert_eq!(sent.uri.path(), expected);
    }
}

#[test]
fn vertex_keeps_the_stream_in_the_body_and_the_betas_in_the_header() {
    let headers = [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "context-1m-2025-08-07,compact-2026-01-12"),
    ];
    let body = BODY.replace("}]}", r#"}],"stream":true,"system":"s"}"#);
    let body = body.replace("claude-opus-5-5", "claude-haiku-4-5");
    let sent = translate_at(MESSAGES, &headers, body, &vertex()).unwrap();
    assert_eq!(
        sent.uri,
        "https://us-east5-aiplatform.googleapis.com/v1/projects/project/locations/us-east5/publishers/anthropic/models/claude-haiku-4-5@20251001:streamRawPredict"
    );
    // The messages are the last member.
    assert_eq!(
        text(&sent.body),
        r#"{"max_tokens":1024,"stream":true,"system":"s","anthropic_version":"vertex-2023-10-16","messages":[{"role":"user","content":"Say hello there!"}]}"#
    );
    let beta = &sent.headers["anthropic-beta"];
    assert_eq!(beta, "context-1m-2025-08-07,compact-2026-01-12");
    assert!(!sent.headers.contains_key("anthropic-version"));
}

#[test]
fn count_of_tokens_on_vertex_has_the_model_in_the_body_and_no_betas() {
    let uri = format!("{MESSAGES}/count_tokens?beta=true");
    let headers = [(
        "anthropic-beta",
        "context-1m-2025-08-07,token-counting-2024-11-01",
    )];
    let body = r#"{"model":"claude-opus-4-5","messages":[]}"#;
    let sent = translate_at(&uri, &headers, body, &vertex()).unwrap();
    assert_eq!(
        sent.uri.path(),
        "/v1/projects/project/locations/us-east5/publishers/anthropic/models/count-tokens:rawPredict"
    );
    assert_eq!(
        text(&sent.body),
        r#"{"model":"claude-opus-4-5@20251101","anthropic_version":"vertex-2023-10-16","messages":[]}"#
    );
    assert!(!sent.headers.contains_key("anthropic-beta"));
    assert_eq!(sent.losses.to_string(), "beta context-1m-2025-08-07");
}

#[test]
fn bedrock_messages_has_the_user_profile_in_the_body_and_the_rest_in_headers() {
    let headers = [
        ("anthropic-version", "2026-10-21"),
        ("anthropic-beta", "context-1m-2025-08-07"),
        ("anthropic-user-profile-id", "uprof_1"),
    ];
    for (path, expected) in [
        ("", "/anthropic/v1/messages?beta=true"),
        (
            "/count_tokens",
            "/anthropic/v1/messages/count_tokens?beta=true",
        ),
    ] {
        let uri = format!("{MESSAGES}{path}?beta=true");
        let sent = translate_at(&uri, &headers, BODY, &bedrock_messages()).unwrap();
        assert_eq!(
            sent.uri.authority().unwrap(),
            "bedrock-mantle.us-east-1.api.aws"
        );
        assert_eq!(sent.uri.path_and_query().unwrap(), expected);
        assert_eq!(
            text(&sent.body),
            BODY.replace("claude-opus-5-5", "anthropic.claude-opus-5-5")
                .replace("}]}", r#"}],"user_profile_id":"uprof_1"}"#)
        );
        assert_eq!(sent.headers["anthropic-version"], "2026-10-21");
        assert_eq!(sent.headers["anthropic-beta"], "context-1m-2025-08-07");
        assert!(!sent.headers.contains_key("anthropic-user-profile-id"));
    }
}
