//! Scopes of requests.

use std::sync::Arc;

use http::Request;
use tower_claude_core::{Endpoint, RequestBody, Scope};

const KEY: &str = "sk-ant-api03-secret";

fn request(
    path: &str,
    credential: Option<(&str, &str)>,
    body: RequestBody,
) -> Request<RequestBody> {
    let mut request = Request::post(format!("https://api.anthropic.com{path}"));
    if let Some((name, value)) = credential {
        request = request.header(name, value);
    }
    request.body(body).expect("a request")
}

fn body(model: &str, more: &str) -> RequestBody {
    format!(r#"{{"model":"{model}","max_tokens":1{more},"messages":[]}}"#).into()
}

fn scope(path: &str, key: Option<(&str, &str)>, model: &str, more: &str) -> Scope {
    Scope::of(&request(path, key, body(model, more)))
}

fn messages(model: &str) -> Scope {
    scope("/v1/messages", Some(("x-api-key", KEY)), model, "")
}

#[test]
fn different_credentials_have_different_scopes() {
    let of = |key| scope("/v1/messages", key, "claude-sonnet-5-5", "");
    let a = of(Some(("x-api-key", KEY)));
    assert_eq!(a, of(Some(("x-api-key", KEY))));
    let others = [
        of(Some(("x-api-key", "sk-ant-api03-other"))),
        of(Some(("authorization", "Bearer a"))),
        of(Some(("authorization", "Bearer b"))),
        of(None),
    ];
    for (i, other) in others.iter().enumerate() {
        assert_ne!(a, *other);
        for later in &others[i + 1..] {
            assert_ne!(other, later);
        }
    }
    assert_eq!(of(None).credential, 0);
}

#[test]
fn scope_output_does_not_show_the_credential() {
    let scope = messages("claude-sonnet-5-5");
    for text in [scope.to_string(), format!("{scope:?}")] {
        assert!(!text.contains(KEY) && !text.contains("secret"), "{text}");
    }
    assert!(!scope.to_string().contains(&scope.credential.to_string()));
    assert!(scope.to_string().starts_with("messages/"), "{scope}");
}

#[test]
fn paths_map_to_endpoint_families() {
    for (path, endpoint) in [
        ("/v1/messages", Endpoint::Messages),
        ("/v1/messages/", Endpoint::Messages),
        ("/proxy/claude/v1/messages", Endpoint::Messages),
        ("/v1/messages/count_tokens", Endpoint::CountTokens),
        ("/v1/messages/batches", Endpoint::Batches),
        ("/v1/messages/batches/msgbatch_1/results", Endpoint::Batches),
        ("/v1/models", Endpoint::Models),
        ("/v1/models/claude-sonnet-5-5", Endpoint::Models),
        ("/v1/files", Endpoint::Files),
        ("/v1/files/file_1/content", Endpoint::Files),
        ("/v1/messages_other", Endpoint::Other),
        ("/v1/messages/batchesx", Endpoint::Other),
        ("/v1/modelsx", Endpoint::Other),
        ("/v1/filesystem", Endpoint::Other),
        ("/v1/complete", Endpoint::Other),
        ("/v1", Endpoint::Other),
        ("/", Endpoint::Other),
        ("", Endpoint::Other),
        ("*", Endpoint::Other),
        ("/é/v1/é", Endpoint::Other),
    ] {
        assert_eq!(Endpoint::of(path), endpoint, "{path}");
    }
}

#[test]
fn endpoint_families_have_separate_scopes() {
    let key = Some(("x-api-key", KEY));
    let of = |path| scope(path, key, "claude-sonnet-5-5", r#","speed":"fast""#);
    let paths = [
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/messages/batches",
        "/v1/models",
        "/v1/files",
        "/x",
    ];
    for (i, path) in paths.iter().enumerate() {
        for other in &paths[i + 1..] {
            assert_ne!(of(path), of(other), "{path} {other}");
        }
    }
    // One pool for all models, and no fast pool.
    let count = of("/v1/messages/count_tokens");
    assert!(count.group.is_empty() && !count.fast);
    assert_eq!(
        count,
        scope("/v1/messages/count_tokens", key, "claude-opus-5-5", "")
    );
    // The query is ignored.
    assert_eq!(of("/v1/messages?beta=true"), of("/v1/messages"));
}

#[test]
fn group_follows_the_catalog() {
    let catalog = tower_claude_wire::ModelCatalog::builtin();
    for model in [
        "claude-sonnet-5-5",
        "claude-opus-5-5",
        "claude-haiku-4-5-20251001",
    ] {
        assert_eq!(
            messages(model).group,
            catalog.lookup(model).rate_group,
            "{model}"
        );
    }
    assert_ne!(
        messages("claude-sonnet-5-5"),
        messages("claude-haiku-4-5-20251001")
    );
    assert_eq!(
        messages("claude-haiku-4-5"),
        messages("claude-haiku-4-5-20251001")
    );
    // Without a model or valid JSON, the request is in the pool of the endpoint.
    for text in ["{}", "", "[", r#"{"model":7}"#] {
        let scope = Scope::of(&request("/v1/messages", None, text.into()));
        assert!(scope.group.is_empty() && !scope.fast, "{text}");
        assert_eq!(scope.to_string(), "messages");
    }
}

/// Layers keep scopes, so the memory that a client can make them use is bounded.
#[test]
fn too_long_model_name_is_ignored() {
    for (length, kept) in [(1_024, 1_024), (1_025, 0), (1 << 20, 0)] {
        let name = "m".repeat(length);
        assert_eq!(messages(&name).group.len(), kept);
        let request = request("/v1/messages", None, body(&name, ""));
        assert_eq!(Scope::of_model(&request).group.len(), kept);
    }
}

#[test]
fn fast_request_has_a_separate_scope() {
    let key = Some(("x-api-key", KEY));
    let of = |more| scope("/v1/messages", key, "claude-opus-5-5", more);
    let fast = of(r#","speed":"fast""#);
    assert!(fast.fast);
    assert_ne!(fast, of(""));
    assert_eq!(of(r#","speed":"standard""#), of(""));
    assert!(fast.to_string().ends_with("/fast"), "{fast}");
}

#[test]
fn named_scope_has_only_a_name() {
    let scope = Scope::named("tenant-7");
    assert_eq!(scope.to_string(), "other/tenant-7");
    assert_eq!(scope, Scope::named("tenant-7"));
    assert_ne!(scope, Scope::named("tenant-8"));
    assert_eq!(scope.group, Arc::from("tenant-7"));
}
