//! Targets: addresses, model ids in both directions, paths, quotas, betas and errors.

use http::{HeaderMap, HeaderValue, StatusCode};
use proptest::prelude::*;
use tower_claude_wire::cloud::{
    BetaSupport, Betas, CREDENTIAL_EXPIRED, Dialect, INFERENCE_PROFILE_MISSING, Loss, Losses,
    MODEL_NOT_ENABLED, Profile, Target, USE_CASE_FORM_MISSING, Unportable, aws_error_type,
    claude_error, model_segment,
};
use tower_claude_wire::{ApiError, ModelCatalog, Platform};

fn catalog() -> &'static ModelCatalog {
    ModelCatalog::builtin()
}

fn targets() -> Vec<Target> {
    let bedrock = || Target::bedrock("us-west-2").unwrap();
    let mut all = vec![
        Target::claude_api(),
        Target::bedrock_messages("us-east-1").unwrap(),
        bedrock(),
        Target::vertex("project-1", "global").unwrap(),
        Target::vertex("project-1", "us").unwrap(),
        Target::vertex("example.com:project", "us-east5").unwrap(),
    ];
    all.extend(Profile::ALL.map(|profile| bedrock().with_profile(profile).unwrap()));
    all
}

#[test]
fn target_has_the_address_of_the_official_sdks() {
    let vertex = |location| Target::vertex("p", location).unwrap();
    for (target, host, platform, dialect) in [
        (
            Target::claude_api(),
            "api.anthropic.com",
            Platform::ClaudeApi,
            Dialect::Messages,
        ),
        (
            Target::bedrock_messages("us-east-1").unwrap(),
            "bedrock-mantle.us-east-1.api.aws",
            Platform::Bedrock,
            Dialect::Messages,
        ),
        (
            Target::bedrock("us-east-1").unwrap(),
            "bedrock-runtime.us-east-1.amazonaws.com",
            Platform::Bedrock,
            Dialect::InvokeModel,
        ),
        (
            vertex("global"),
            "aiplatform.googleapis.com",
            Platform::Vertex,
            Dialect::RawPredict,
        ),
        (
            vertex("us"),
            "aiplatform.us.rep.googleapis.com",
            Platform::Vertex,
            Dialect::RawPredict,
        ),
        (
            vertex("eu"),
            "aiplatform.eu.rep.googleapis.com",
            Platform::Vertex,
            Dialect::RawPredict,
        ),
        (
            vertex("asia-southeast1"),
            "asia-southeast1-aiplatform.googleapis.com",
            Platform::Vertex,
            Dialect::RawPredict,
        ),
    ] {
        assert_eq!(target.host(), host);
        assert_eq!(target.scheme(), "https", "{target}");
        assert_eq!(
            (target.platform(), target.dialect()),
            (platform, dialect),
            "{target}"
        );
        let path = target.messages_path("claude-opus-5-5", false);
        assert_eq!(Platform::of(host, &path), platform, "{host}{path}");
    }
}

#[test]
fn targets_have_unique_names() {
    let names: std::collections::HashSet<_> = targets()
        .iter()
        .map(|target| target.name().to_owned())
        .collect();
    assert_eq!(names.len(), targets().len());
}

#[test]
fn name_of_a_target_follows_its_profile_unless_it_is_set() {
    let target = Target::bedrock("us-west-2").unwrap();
    assert_eq!(target.name(), "bedrock/us-west-2");
    let profiled = target.clone().with_profile(Profile::Us).unwrap();
    assert_eq!(profiled.name(), "bedrock/us-west-2/us");
    let named = target.with_name("account-2").unwrap();
    assert_eq!(named.with_profile(Profile::Eu).unwrap().name(), "account-2");
}

#[test]
fn invalid_part_of_a_target_is_refused() {
    for text in ["", "a/b", "a b", "..", "-a", "a-", "a.b", "A", "é", "a\n"] {
        assert_eq!(
            Target::bedrock(text).unwrap_err().part,
            "location",
            "{text:?}"
        );
        assert!(Target::bedrock_messages(text).is_err(), "{text:?}");
        assert!(Target::vertex("p", text).is_err(), "{text:?}");
    }
    for text in ["", "a/b", "a b", ".", "..", "é", "a?b", "a#b", "a%2Fb"] {
        assert_eq!(
            Target::vertex(text, "global").unwrap_err().part,
            "project",
            "{text:?}"
        );
    }
    let target = Target::claude_api;
    for host in [
        "",
        "a b",
        "ftp://a",
        "https://",
        "https://a/b",
        "user@host",
        "a/b",
        ":80",
        "://a",
    ] {
        assert_eq!(
            target().with_host(host).unwrap_err().part,
            "host",
            "{host:?}"
        );
    }
    for name in ["", "a b", "a\n", "é", "...", &"n".repeat(101)] {
        assert!(target().with_name(name).is_err(), "{name:?}");
        assert!(target().with_account(name).is_err(), "{name:?}");
    }
    for id in ["", "a b", "é", "..", "a\n"] {
        assert!(
            target().with_model("claude-opus-5-5", id).is_err(),
            "{id:?}"
        );
        assert!(target().with_model(id, "x").is_err(), "{id:?}");
    }
    for target in [target(), Target::bedrock_messages("us-east-1").unwrap()] {
        assert_eq!(
            target.with_profile(Profile::Us).unwrap_err().part,
            "profile"
        );
    }
}

#[test]
fn host_of_a_target_may_have_a_scheme_and_a_port() {
    let at = |host| Target::claude_api().with_host(host).unwrap();
    let local = at("http://127.0.0.1:8080");
    assert_eq!(local.scheme(), "http");
    assert_eq!(
        (local.authority().as_str(), local.host()),
        ("127.0.0.1:8080", "127.0.0.1")
    );
    assert_eq!(at("proxy.example").scheme(), "https");
    assert_eq!(at("https://[::1]:1").host(), "[::1]");
}

#[test]
fn service_of_a_signature_follows_the_host() {
    let mantle = Target::bedrock_messages("us-east-1").unwrap();
    assert_eq!(mantle.aws_service(), Some("bedrock-mantle"));
    let runtime = mantle
        .with_host("bedrock-runtime.us-east-1.amazonaws.com")
        .unwrap();
    assert_eq!(runtime.aws_service(), Some("bedrock"));
    assert_eq!(
        Target::bedrock("us-east-1").unwrap().aws_service(),
        Some("bedrock")
    );
    assert_eq!(Target::claude_api().aws_service(), None);
}

const ARN: &str =
    "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/jf2sje1c0jnb";

#[test]
fn model_has_the_id_of_each_platform() {
    let api = Target::claude_api();
    let messages = Target::bedrock_messages("us-east-1").unwrap();
    let bedrock = Target::bedrock("us-west-2").unwrap();
    let us = bedrock.clone().with_profile(Profile::Us).unwrap();
    let gov = bedrock.clone().with_profile(Profile::UsGov).unwrap();
    let vertex = Target::vertex("p", "global").unwrap();
    for (target, id, expected) in [
        (&api, "claude-opus-5-5", "claude-opus-5-5"),
        (&api, "my-gateway-model", "my-gateway-model"),
        (&api, "us.anthropic.claude-opus-5-5", "claude-opus-5-5"),
        (&api, "claude-opus-4-5@20251101", "claude-opus-4-5-20251101"),
        (&messages, "claude-opus-5-5", "anthropic.claude-opus-5-5"),
        // A profile is a 404 there.
        (
            &messages,
            "us.anthropic.claude-opus-5-5",
            "anthropic.claude-opus-5-5",
        ),
        (
            &messages,
            "claude-haiku-4-5-20251001",
            "anthropic.claude-haiku-4-5",
        ),
        (&bedrock, "claude-opus-5-5", "anthropic.claude-opus-5-5"),
        (&us, "claude-opus-5-5", "us.anthropic.claude-opus-5-5"),
        (&gov, "claude-opus-5-5", "us-gov.anthropic.claude-opus-5-5"),
        // The caller's own profile stays.
        (
            &us,
            "global.anthropic.claude-opus-5-5",
            "global.anthropic.claude-opus-5-5",
        ),
        (
            &us,
            "claude-opus-4-5",
            "us.anthropic.claude-opus-4-5-20251101-v1:0",
        ),
        (
            &us,
            "claude-opus-4-5-20251101",
            "us.anthropic.claude-opus-4-5-20251101-v1:0",
        ),
        (
            &us,
            "claude-opus-4-5@20251101",
            "us.anthropic.claude-opus-4-5-20251101-v1:0",
        ),
        (&us, "claude-opus-4-6", "us.anthropic.claude-opus-4-6-v1"),
        (&us, "claude-sonnet-4-6", "us.anthropic.claude-sonnet-4-6"),
        (
            &us,
            "claude-of-the-future",
            "us.anthropic.claude-of-the-future",
        ),
        (&us, ARN, ARN),
        (&vertex, "claude-opus-5-5", "claude-opus-5-5"),
        (&vertex, "claude-opus-4-5", "claude-opus-4-5@20251101"),
        (
            &vertex,
            "claude-opus-4-5-20251101",
            "claude-opus-4-5@20251101",
        ),
        (
            &vertex,
            "anthropic.claude-opus-4-5-20251101-v1:0",
            "claude-opus-4-5@20251101",
        ),
        (&vertex, "claude-opus-4-7@default", "claude-opus-4-7"),
    ] {
        let found = target
            .model_id(id, catalog())
            .map(std::borrow::Cow::into_owned);
        assert_eq!(found.as_deref(), Ok(expected), "{id} on {target}");
    }
    for (target, id) in [
        (&messages, "gpt-5"),
        (&us, "gpt-5"),
        (&vertex, "gpt-5"),
        (&us, ""),
        (&us, "claude-a b"),
        (&us, ".."),
        (&vertex, ARN),
        (&messages, ARN),
        // Another region.
        (
            &us,
            "arn:aws:bedrock:eu-west-1:1:application-inference-profile/x",
        ),
        (
            &us,
            "arn:aws:bedrock:us-west-2:1:application-inference-profile/é",
        ),
    ] {
        let error = target.model_id(id, catalog()).unwrap_err();
        assert_eq!(error.path, "model", "{id} on {target}");
    }
}

#[test]
fn id_of_a_cloud_leads_back_to_the_claude_id() {
    let bedrock = Target::bedrock("us-east-1").unwrap();
    for (id, expected) in [
        ("claude-opus-5-5", "claude-opus-5-5"),
        (
            "anthropic.claude-3-5-sonnet-20241022-v2:0",
            "claude-3-5-sonnet-20241022",
        ),
        (
            "apac.anthropic.claude-haiku-4-5-20251001-v1:0",
            "claude-haiku-4-5-20251001",
        ),
        (
            "anthropic.claude-3-haiku-20240307-v1:0:200k",
            "claude-3-haiku-20240307",
        ),
        ("eu.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-opus-4-5-20251101-v1:0",
            "claude-opus-4-5-20251101",
        ),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-opus-5",
            "claude-opus-5",
        ),
        // It names no model.
        (ARN, ARN),
        ("other.anthropic.claude-x", "other.anthropic.claude-x"),
        ("claude-x-v", "claude-x-v"),
        ("", ""),
    ] {
        assert_eq!(bedrock.claude_id(id), expected, "{id}");
    }
}

#[test]
fn model_named_by_the_user_has_its_own_id_in_both_directions() {
    let target = Target::bedrock("us-west-2").unwrap();
    let target = target.with_model("claude-opus-4-5", ARN).unwrap();
    for id in [
        "claude-opus-4-5",
        "claude-opus-4-5-20251101",
        "claude-opus-4-5@20251101",
        ARN,
    ] {
        assert_eq!(target.model_id(id, catalog()).unwrap(), ARN, "{id}");
    }
    assert_eq!(target.claude_id(ARN), "claude-opus-4-5");
    assert_eq!(
        target.model_id("claude-opus-4-6", catalog()).unwrap(),
        "anthropic.claude-opus-4-6-v1"
    );
    // A second name replaces the first one.
    let target = target.with_model("claude-opus-4-5", "x").unwrap();
    assert_eq!(target.model_id("claude-opus-4-5", catalog()).unwrap(), "x");
}

/// Ids of models that are served.
fn ids() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "claude-fable-5-2",
        "claude-opus-5-5",
        "claude-opus-4-8",
        "claude-opus-4-6",
        "claude-opus-4-5",
        "claude-sonnet-5-5",
        "claude-sonnet-4-5",
        "claude-haiku-4-5",
        "claude-haiku-4-5-20251001",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn id_of_a_target_is_that_of_the_same_model_and_stays_as_it_is(
        id in ids(),
        first in 0..13_usize,
        second in 0..13_usize,
    ) {
        let (first, second) = (&targets()[first], &targets()[second]);
        let there = first.model_id(id, catalog()).unwrap();
        prop_assert_eq!(&first.model_id(&there, catalog()).unwrap(), &there);
        let back = first.claude_id(&there);
        prop_assert_eq!(&catalog().lookup(&back).id, &catalog().lookup(id).id);
        // On another target the id is that of the model again, but for the caller's own profile.
        let direct = second.model_id(&back, catalog()).unwrap();
        let crossed = second.model_id(&there, catalog()).unwrap();
        prop_assert_eq!(second.claude_id(&direct), second.claude_id(&crossed));
    }

    #[test]
    fn any_text_as_an_id_has_no_panic(id in "[ -~é]{0,40}", prefix in "(us\\.|anthropic\\.|arn:aws:bedrock:us-west-2:1:|claude-|@|-v1:0|/){0,3}") {
        let id = format!("{prefix}{id}");
        for target in targets() {
            if let Ok(there) = target.model_id(&id, catalog()) {
                prop_assert_eq!(target.model_id(&there, catalog()).unwrap(), there.clone());
                let path = target.messages_path(&there, true);
                prop_assert!(path.parse::<http::Uri>().is_ok(), "{}", path);
            }
            let _ = target.claude_id(&id);
        }
    }

    #[test]
    fn segment_of_any_id_leads_back_to_it(id in "\\PC{0,24}") {
        for dialect in [Dialect::InvokeModel, Dialect::RawPredict] {
            let segment = model_segment(dialect, &id);
            prop_assert!(segment.is_ascii() && !segment.contains(['/', '?', '#', ' ']));
            let decoded = decode(&segment);
            prop_assert_eq!(decoded, id.as_bytes());
        }
    }

    #[test]
    fn any_error_body_is_read_without_panic(
        status in 400..600_u16,
        exception in "[ -~]{0,30}",
        body in "\\PC{0,60}",
    ) {
        let mut headers = HeaderMap::new();
        headers.insert("x-amzn-errortype", HeaderValue::from_str(&exception).unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        for body in [body.clone(), format!("{{\"message\":{body}}}"), format!("{{\"message\":\"{body}\"}}")] {
            if let Some(error) = claude_error(status, &headers, body.as_bytes()) {
                prop_assert!(ApiError::parse(error.to_body().as_bytes()).is_some());
                prop_assert!(!error.message.is_empty());
            }
        }
    }
}

fn decode(segment: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let hex = std::str::from_utf8(&tail[..2]).unwrap();
        bytes.push(u8::from_str_radix(hex, 16).unwrap());
        rest = &tail[2..];
    }
    bytes
}

#[test]
fn path_is_that_of_the_official_sdks() {
    let bedrock = Target::bedrock("us-east-1").unwrap();
    let vertex = Target::vertex("project", "region").unwrap();
    let models = "/v1/projects/project/locations/region/publishers/anthropic/models";
    for (target, id, stream, path) in [
        (&Target::claude_api(), "x", true, "/v1/messages".to_owned()),
        (
            &Target::bedrock_messages("us-east-1").unwrap(),
            "x",
            true,
            "/anthropic/v1/messages".to_owned(),
        ),
        (
            &bedrock,
            "anthropic.claude-3-5-sonnet-20241022-v2:0",
            false,
            "/model/anthropic.claude-3-5-sonnet-20241022-v2:0/invoke".to_owned(),
        ),
        (
            &bedrock,
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/jf2sje1c0jnb",
            true,
            "/model/arn:aws:bedrock:us-east-1:123456789012:application-inference-profile%2Fjf2sje1c0jnb/invoke-with-response-stream".to_owned(),
        ),
        (&bedrock, "a;b%c d", false, "/model/a;b%25c%20d/invoke".to_owned()),
        (
            &vertex,
            "claude-3-sonnet@20240229",
            false,
            format!("{models}/claude-3-sonnet@20240229:rawPredict"),
        ),
        (&vertex, "a;b", true, format!("{models}/a%3Bb:streamRawPredict")),
    ] {
        assert_eq!(target.messages_path(id, stream), path);
    }
    let count = |target: &Target| target.count_tokens_path();
    assert_eq!(count(&bedrock), None);
    assert_eq!(
        count(&vertex),
        Some(format!("{models}/count-tokens:rawPredict"))
    );
    assert_eq!(
        count(&Target::claude_api()).as_deref(),
        Some("/v1/messages/count_tokens")
    );
    assert_eq!(
        count(&Target::bedrock_messages("us-east-1").unwrap()).as_deref(),
        Some("/anthropic/v1/messages/count_tokens")
    );
}

#[test]
fn newer_models_of_vertex_share_the_quota_of_their_lineage() {
    let global = Target::vertex("p", "global").unwrap();
    let region = Target::vertex("p", "us-east5").unwrap();
    let bedrock = Target::bedrock("us-east-1").unwrap();
    let api = Target::claude_api();
    for (id, lineage) in [
        ("claude-opus-5-5", "lineage-opus"),
        ("claude-opus-4-8", "lineage-opus"),
        ("claude-opus-4-7", "claude-opus-4-7"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-fable-5", "lineage-fable"),
        ("claude-sonnet-5", "lineage-sonnet"),
        ("claude-sonnet-4-6", "claude-sonnet-4-6"),
        ("claude-haiku-5-5", "lineage-haiku"),
        ("claude-haiku-4-5", "claude-haiku-4-5"),
        ("claude-mythos-5-2", "claude-mythos-5-2"),
        ("claude-opus-7", "lineage-opus"),
        ("claude-opus-x", "claude-opus-x"),
        ("claude-3-opus", "claude-3-opus"),
    ] {
        let model = catalog().lookup(id);
        assert_eq!(global.quota_group(&model), lineage, "{id}");
        assert_eq!(region.quota_group(&model), &*model.id, "{id}");
        assert_eq!(bedrock.quota_group(&model), &*model.id, "{id}");
        assert_eq!(api.quota_group(&model), &*model.rate_group, "{id}");
    }
}

#[test]
fn unknown_beta_is_rejected_by_clouds_and_accepted_by_the_claude_api() {
    let betas = Betas::builtin();
    let invoke = Target::bedrock("us-east-1").unwrap();
    let messages = Target::bedrock_messages("us-east-1").unwrap();
    let vertex = Target::vertex("p", "global").unwrap();
    let unknown = "something-2027-01-01";
    for target in [&invoke, &messages, &vertex] {
        assert_eq!(
            betas.support(unknown, target),
            BetaSupport::Rejected,
            "{target}"
        );
        let accepted = betas.clone().with_accepted(unknown, target);
        assert_eq!(accepted.support(unknown, target), BetaSupport::Accepted);
        let rejected = accepted.with_rejected(unknown, target);
        assert_eq!(rejected.support(unknown, target), BetaSupport::Rejected);
        let known = "context-1m-2025-08-07";
        assert_eq!(betas.support(known, target), BetaSupport::Accepted);
        let rejected = betas.clone().with_rejected(known, target);
        assert_eq!(rejected.support(known, target), BetaSupport::Rejected);
        let renamed = betas.support("advanced-tool-use-2025-11-20", target);
        let new = "tool-search-tool-2025-10-19";
        assert_eq!(renamed, BetaSupport::Renamed(new.into()));
        let caching = betas.support("prompt-caching-2024-07-31", target);
        assert_eq!(caching, BetaSupport::Unneeded);
    }
    assert_eq!(
        betas.support(unknown, &Target::claude_api()),
        BetaSupport::Accepted
    );
    let interleaved = "interleaved-thinking-2025-05-14";
    assert_eq!(betas.support(interleaved, &invoke), BetaSupport::Rejected);
    assert_eq!(betas.support(interleaved, &messages), BetaSupport::Accepted);
    assert_eq!(Betas::as_of().len(), "2026-11-29".len());
}

fn error(status: u16, exception: &str, body: &str) -> Option<ApiError> {
    let mut headers = HeaderMap::new();
    if !exception.is_empty() {
        headers.insert("x-amzn-errortype", exception.parse().unwrap());
    }
    claude_error(
        StatusCode::from_u16(status).unwrap(),
        &headers,
        body.as_bytes(),
    )
}

#[test]
fn error_of_a_cloud_has_the_type_of_the_claude_api() {
    let amazon = "http://internal.amazon.com/coral/com.amazon.bedrock/";
    for (status, exception, kind) in [
        (429, "ThrottlingException", "rate_limit_error"),
        (503, "ServiceUnavailableException", "overloaded_error"),
        (429, "ModelNotReadyException", "overloaded_error"),
        (408, "ModelTimeoutException", "timeout_error"),
        (424, "ModelErrorException", "api_error"),
        (424, "ModelStreamErrorException", "api_error"),
        (500, "InternalServerException", "api_error"),
        (400, "ValidationException", "invalid_request_error"),
        (403, "AccessDeniedException", "permission_error"),
        (404, "ResourceNotFoundException", "not_found_error"),
        (403, "UnrecognizedClientException", "authentication_error"),
        (418, "SomethingNew", "invalid_request_error"),
        (507, "SomethingNew", "api_error"),
        (413, "", "request_too_large"),
        (401, "", "authentication_error"),
    ] {
        for name in [exception.to_owned(), format!("{exception}:{amazon}")] {
            let name = if exception.is_empty() { "" } else { &name };
            let error = error(status, name, r#"{"message":"said"}"#).unwrap();
            assert_eq!((&*error.kind, &*error.message), (kind, "said"), "{name}");
            assert_eq!(error.error_code, None);
        }
    }
    for (status, google, kind) in [
        (429, "RESOURCE_EXHAUSTED", "rate_limit_error"),
        (503, "UNAVAILABLE", "overloaded_error"),
        (504, "DEADLINE_EXCEEDED", "timeout_error"),
        (500, "INTERNAL", "api_error"),
        (400, "INVALID_ARGUMENT", "invalid_request_error"),
        (400, "FAILED_PRECONDITION", "invalid_request_error"),
        (401, "UNAUTHENTICATED", "authentication_error"),
        (403, "PERMISSION_DENIED", "permission_error"),
        (404, "NOT_FOUND", "not_found_error"),
    ] {
        let body = format!(r#"{{"error":{{"code":{status},"message":"m","status":"{google}"}}}}"#);
        for body in [format!("[{body}]"), body] {
            let error = error(status, "", &body).unwrap();
            assert_eq!((&*error.kind, &*error.message), (kind, "m"), "{body}");
        }
    }
    assert_eq!(
        aws_error_type("com.amazon#throttlingException:x"),
        "rate_limit_error"
    );
}

#[test]
fn error_of_the_claude_api_stays_as_it_is() {
    let body = r#"{"type":"error","error":{"type":"rate_limit_error","message":"m"},"request_id":"req_vrtx_1"}"#;
    assert_eq!(error(429, "", body), None);
}

#[test]
fn page_of_a_proxy_is_an_error_by_its_status() {
    let error = error(502, "", "<html>Bad Gateway</html>").unwrap();
    assert_eq!(
        (&*error.kind, &*error.message),
        ("api_error", "Bad Gateway")
    );
}

#[test]
fn errors_of_setup_have_codes_and_plain_messages() {
    for (status, exception, message, code) in [
        (
            403,
            "AccessDeniedException",
            "You don't have access to the model with the specified model ID.",
            MODEL_NOT_ENABLED,
        ),
        (
            404,
            "",
            "Publisher Model `x` was not found or your project does not have access to it.",
            MODEL_NOT_ENABLED,
        ),
        (404, "FTUFormNotFilled", "", USE_CASE_FORM_MISSING),
        (
            400,
            "ValidationException",
            "Invocation of model ID anthropic.claude-opus-5-5 with on-demand throughput isn\u{2019}t supported.",
            INFERENCE_PROFILE_MISSING,
        ),
        (
            403,
            "ExpiredTokenException",
            "The security token included in the request is expired",
            CREDENTIAL_EXPIRED,
        ),
    ] {
        let body = format!(r#"{{"message":"{message}"}}"#);
        let error = error(status, exception, &body).unwrap();
        assert_eq!(error.error_code.as_deref(), Some(code), "{message}");
        // The cloud's own words stay.
        assert!(error.message.ends_with(message) && error.message.len() > message.len());
    }
    // The same words about another status are no refusal.
    let busy = error(429, "", r#"{"message":"access to this model"}"#).unwrap();
    assert_eq!(busy.error_code, None);
}

#[test]
fn losses_are_a_header_value_and_each_is_there_once() {
    let mut losses = Losses::default();
    assert!(losses.is_empty());
    losses.push(Loss::Beta("a-2026-01-01".into()));
    losses.push(Loss::Field("inference_geo"));
    losses.push(Loss::Field("inference_geo"));
    losses.push(Loss::Header("x\u{e9}\n".into()));
    losses.push(Loss::Changed {
        path: "anthropic-version",
        to: "2023-06-01",
    });
    assert_eq!(losses.len(), 4);
    let text = losses.to_string();
    assert_eq!(
        text,
        "beta a-2026-01-01, inference_geo, header x??, anthropic-version=2023-06-01"
    );
    assert!(HeaderValue::from_str(&text).is_ok());
    let subjects: Vec<_> = losses.iter().map(Loss::subject).collect();
    assert_eq!(subjects[0], "a-2026-01-01");
    assert_eq!(subjects[3], "anthropic-version");
    assert_eq!(
        Unportable::new("thread", "no threads").to_string(),
        "thread: no threads"
    );
}

#[test]
fn clone_of_a_target_is_equal_and_another_name_is_not() {
    let target = Target::claude_api();
    assert_eq!(target, target.clone());
    assert_eq!(target, Target::claude_api());
    assert_ne!(target, Target::bedrock("us-east-1").unwrap());
    assert_eq!(format!("{target:?}").matches("claude-api").count(), 1);
}
