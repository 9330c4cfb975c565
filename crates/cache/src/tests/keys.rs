use std::collections::HashMap;

use http::{HeaderName, HeaderValue, Request, request::Parts};
use tower_claude_core::{CredentialId, Tenant, toolkit::Credential};

use crate::{
    Key,
    request::canonical::fields,
    request::key::{Secret, key_text},
};

const BODY: &str =
    r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"Hi"}],"stream":true}"#;

fn head() -> Parts {
    let request = Request::post("https://api.anthropic.com/v1/messages?beta=true")
        .header("x-api-key", "key")
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "b,a")
        .header("user-agent", "test");
    request.body(()).expect("a request").into_parts().0
}

fn with(name: &'static str, value: &'static str) -> Parts {
    let mut head = head();
    head.headers.insert(
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    );
    head
}

fn bare(head: Parts) -> Request<()> {
    Request::from_parts(head, ())
}

fn key(head: &Parts, body: &str) -> Key {
    let request = bare(head.clone());
    let fields = fields(body.as_bytes()).expect("an object");
    Secret([7; 32]).key(&request, &Credential::all(&request), &fields, &[])
}

fn at(uri: &str) -> Parts {
    let mut head = head();
    head.uri = uri.parse().expect("a URI");
    head
}

fn of(tenant: &str) -> Parts {
    let mut head = head();
    head.extensions.insert(Tenant(tenant.into()));
    head
}

#[test]
fn equal_requests_have_the_same_key() {
    let body = BODY.replace(
        "\"stream\"",
        "\"metadata\":{\"user_id\":\"u\"},\"service_tier\":\"auto\",\"stream\"",
    );
    let mut split = with("anthropic-beta", "a");
    split
        .headers
        .append("anthropic-beta", HeaderValue::from_static(" b ,, a"));
    for (head, body) in [
        (head(), BODY),
        (head(), body.as_str()),
        (with("anthropic-beta", "a, b"), BODY),
        (split, BODY),
        (with("user-agent", "other"), BODY),
        (with("x-stainless-retry-count", "1"), BODY),
        (
            head(),
            "{ \"stream\" : true, \"messages\":[ {\"role\":\"user\", \"content\":\"Hi\"} ],\"max_tokens\":5,\"model\":\"m\"}\n",
        ),
    ] {
        assert_eq!(key(&head, body), key(&self::head(), BODY));
    }
}

#[test]
fn different_requests_have_different_keys() {
    let mut seen = HashMap::new();
    let mut add = |name: &str, key: Key| {
        if let Some(other) = seen.insert(key, name.to_owned()) {
            panic!("{name} and {other} have one key");
        }
    };
    add("the request", key(&head(), BODY));
    for (name, value) in [
        ("x-api-key", "other"),
        ("authorization", "key"),
        ("cookie", "key"),
        ("proxy-authorization", "key"),
        ("anthropic-version", "2026-10-21"),
        ("anthropic-beta", "a"),
        ("anthropic-beta", "a,b,c"),
        ("anthropic-workspace-id", "w"),
        ("anthropic-user-profile-id", "w"),
        ("host", "other"),
        ("origin", "https://app.example"),
        ("content-type", "text/plain"),
        ("content-encoding", "gzip"),
    ] {
        add(&format!("{name}: {value}"), key(&with(name, value), BODY));
    }
    for uri in [
        "https://api.anthropic.com/v1/messages",
        "https://other/v1/messages?beta=true",
        "/v1/messages?beta=true",
        "http://api.anthropic.com/v1/messages?beta=true",
    ] {
        add(uri, key(&at(uri), BODY));
    }
    for tenant in ["", "a", "b"] {
        add(&format!("tenant {tenant:?}"), key(&of(tenant), BODY));
    }
    for (from, to) in [
        ("\"m\"", "\"n\""),
        ("Hi", "Hi "),
        ("true", "false"),
        (":5", ":6"),
        ("\"stream\":true", "\"x\":true"),
    ] {
        add(to, key(&head(), &BODY.replace(from, to)));
    }
    let fields = fields(BODY.as_bytes()).expect("an object");
    add(
        "another secret",
        Secret([8; 32]).key(&bare(head()), &Credential::all(&bare(head())), &fields, &[]),
    );
    for more in ["user-agent", "x-user", "x-other-user"] {
        let head = bare(with("user-agent", "other"));
        let also = [HeaderName::from_static(more)];
        let credentials = Credential::all(&head);
        add(
            more,
            Secret([7; 32]).key(&head, &credentials, &fields, &also),
        );
    }
}

#[test]
fn adjacent_key_parts_do_not_merge() {
    let text = |x_api_key: &'static str, authorization: &'static str| {
        let mut head = with("x-api-key", x_api_key);
        head.headers
            .insert("authorization", HeaderValue::from_static(authorization));
        let request = bare(head);
        key_text(&request, &Credential::all(&request), &[], &[])
    };
    assert_ne!(text("ab", "c"), text("a", "bc"));
    assert_ne!(text("a", "b"), text("b", "a"));
}

#[test]
fn random_secret_differs_each_time() {
    assert_ne!(Secret::random().0, Secret::random().0);
    let shown = format!("{:?}", key(&head(), BODY));
    assert_eq!(shown.len(), "Key(01234567…)".len());
}
