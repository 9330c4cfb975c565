//! The configuration: its errors, its effective form, and the reload.

use crate::common::*;
use tower_claude_gateway::{Config, ConfigErrors, Gateway, GatewayHandle, new_key};

fn errors(toml: &str) -> Vec<String> {
    let ConfigErrors(errors) = Config::from_toml(toml).expect_err("is not valid");
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn every_error_is_reported_with_line_and_field() {
    let toml = r#"listen = "here"
listne = "127.0.0.1:1"
[server]
header_timeout = "15"
body_bytes = 5
header_bytes = "1KiB"
max_connections = 0
[[upstreams]]
name = "main"
url = "ftp://host"
colour = "red"
fallback = ["a", 1]
limits = { tier = "gold" }
[[upstreams]]
name = "main"
key = { env = "NO_SUCH_VARIABLE_IS_SET" }
[[keys]]
name = "a"
hash = "abc"
upstream = "other"
priority = "high"
"#;
    let expected = [
        (
            "line 1: listen: ",
            "invalid socket address syntax, not \"here\"",
        ),
        ("line 2: listne: ", "unknown field `listne`"),
        (
            "line 4: server.header_timeout: ",
            "\"15\" is not a duration",
        ),
        ("line 5: server.body_bytes: ", "invalid type: integer `5`"),
        (
            "line 6: server.header_bytes: ",
            "1024 bytes are less than 8KiB",
        ),
        ("line 7: server.max_connections: ", "nonzero"),
        (
            "line 10: upstreams[0].url: ",
            "\"ftp://host\" does not begin with http",
        ),
        ("line 11: upstreams[0].colour: ", "unknown field `colour`"),
        (
            "line 12: upstreams[0].fallback[1]: ",
            "invalid type: integer `1`",
        ),
        (
            "line 13: upstreams[0].limits.tier: ",
            "unknown variant `gold`",
        ),
        (
            "line 15: upstreams[1].name: ",
            "\"main\" is empty or not unique",
        ),
        (
            "line 16: upstreams[1].key: ",
            "\"NO_SUCH_VARIABLE_IS_SET\" is not set",
        ),
        ("line 19: keys[0].hash: ", "64 hexadecimal digits"),
        (
            "line 20: keys[0].upstream: ",
            "no upstream is named \"other\"",
        ),
        ("line 21: keys[0].priority: ", "unknown variant `high`"),
    ];
    let errors = errors(toml);
    for (index, (start, part)) in expected.iter().enumerate() {
        let error = errors.get(index).map_or("", |error| error);
        assert!(
            error.starts_with(start) && error.contains(part),
            "{start}{part}: {errors:#?}"
        );
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
}

#[test]
fn text_that_is_not_toml_is_reported_with_its_line() {
    let errors = errors("listen = \"127.0.0.1:1\"\nupstreams = [\n");
    assert!(errors[0].starts_with("line "), "{errors:?}");
}

#[test]
fn upstream_keys_are_not_served_to_everybody_25() {
    let key = "[[upstreams]]\nkey = \"sk-ant-1\"";
    for (listen, is_allowed) in [
        ("127.0.0.1:1", true),
        ("[::1]:1", true),
        ("0.0.0.0:1", false),
        ("[::]:1", false),
        ("10.0.0.1:1", false),
    ] {
        let toml = format!("listen = \"{listen}\"\n{key}");
        assert_eq!(Config::from_toml(&toml).is_ok(), is_allowed, "{listen}");
        let without_key = format!("listen = \"{listen}\"");
        assert!(Config::from_toml(&without_key).is_ok());
        let hash = new_key().unwrap().1;
        let with_keys = format!("{toml}\n[[keys]]\nname = \"a\"\nhash = \"{hash}\"");
        assert!(Config::from_toml(&with_keys).is_ok());
    }
}

#[tokio::test]
async fn upstream_keys_are_not_served_to_everybody_by_code_either_25() {
    let mut config = config("[[upstreams]]\nkey = \"sk-ant-1\"");
    config.listen = "0.0.0.0:0".parse().unwrap();
    let error = Gateway::bind(config).await.expect_err("is not valid");
    assert!(error.to_string().contains("listen"), "{error}");
}

#[test]
fn keys_that_would_go_to_the_wrong_place_are_errors_24() {
    for (toml, part) in [
        (
            "url = \"https://other.example\"\nkey = \"sk-ant-1\"",
            "Anthropic's hosts",
        ),
        (
            "url = \"http://api.anthropic.com\"\nkey = \"sk-ant-1\"",
            "Anthropic's hosts",
        ),
        ("key = \"tcg-1\"", "never goes upstream"),
        ("key = \"a\\nb\"", "not a valid value"),
        ("url = \"https://user:password@host\"", "user"),
        ("url = \"https://host/v1\"", "/v1"),
    ] {
        let errors = errors(&format!("[[upstreams]]\n{toml}"));
        assert!(
            errors.len() == 1 && errors[0].contains(part),
            "{toml}: {errors:?}"
        );
    }
}

#[test]
fn effective_configuration_is_complete_and_masks_secrets() {
    // cargo sets this variable for tests.
    let toml =
        "[[upstreams]]\nkey = \"${CARGO_PKG_NAME}\"\n[[upstreams]]\nname = \"b\"\nkey = \"canary\"";
    let config = Config::from_toml(toml).unwrap();
    let shown = format!("{}{config:?}", config.to_toml());
    assert!(shown.contains("*** (env CARGO_PKG_NAME)"), "{shown}");
    assert!(
        !shown.contains("canary") && !shown.contains("tower-claude-gateway"),
        "{shown}"
    );
    assert!(shown.contains("heartbeat = \"15s\"") && shown.contains("body_bytes = \"32MiB\""));
    // It can be read again, apart from the secrets.
    let again = Config::from_toml(&Config::default().to_toml()).unwrap();
    assert_eq!(again.to_toml(), Config::default().to_toml());
}

#[test]
fn value_of_a_secret_is_in_no_error() {
    for value in [
        "[\"canary\"]",
        "{ text = \"canary\" }",
        "\"canary\\n\"",
        "\"tcg-canary\"",
    ] {
        let errors = errors(&format!("[[upstreams]]\nkey = {value}"));
        assert!(
            errors[0].starts_with("line 2: upstreams[0].key"),
            "{errors:?}"
        );
        assert!(!errors[0].contains("canary"), "{errors:?}");
    }
}

#[tokio::test]
async fn secret_in_a_file_is_its_first_line() {
    let path = std::env::temp_dir().join(format!("tower-claude-secret-{}", std::process::id()));
    let upstream = Upstream::with_message().await;
    std::fs::write(&path, "of-file\n").unwrap();
    let config = config_for(&upstream, "", &format!("key = {{ file = {path:?} }}"));
    std::fs::remove_file(&path).unwrap();
    let gateway = TestGateway::new(config).await;
    send(gateway.request("POST", "/v1/messages"), REQUEST).await;
    assert_eq!(upstream.last().headers["x-api-key"], "of-file");
    let errors = errors(&format!("[[upstreams]]\nkey = {{ file = {path:?} }}"));
    assert!(
        errors[0].starts_with("line 2: upstreams[0].key: the file "),
        "{errors:?}"
    );
}

fn reload(handle: &GatewayHandle, upstream: &Upstream, after: &str) -> Result<bool, String> {
    let new = config_for(upstream, "", after);
    handle.reload(&new).map_err(|error| error.to_string())
}

#[tokio::test]
async fn reload_changes_keys_and_limits_and_drops_no_stream() {
    let (upstream, mut senders) = stream_upstream().await;
    let ((old, old_hash), (new, new_hash)) = (new_key().unwrap(), new_key().unwrap());
    let toml = |key: &str, hash: &str, quota: u32| {
        format!(
            "key = \"{key}\"\n[[keys]]\nname = \"a\"\nhash = \"{hash}\"\nrequests_per_minute = {quota}"
        )
    };
    let gateway = TestGateway::new(config_for(&upstream, "", &toml("one", &old_hash, 2))).await;
    let count = async |key: &str| {
        let sent = gateway.request("POST", "/v1/messages/count_tokens");
        send(sent.header("x-api-key", key), REQUEST).await.status
    };
    let sent = gateway
        .request("POST", "/v1/messages")
        .header("x-api-key", &old);
    let answering = tokio::spawn(Live::new(sent, STREAM_REQUEST));
    let sender = within(senders.recv()).await.unwrap();
    sender.send(START).unwrap();
    let mut live = within(answering).await.unwrap();

    // The quota of a key that stays is not renewed by a reload.
    assert_eq!(
        reload(&gateway.handle, &upstream, &toml("two", &old_hash, 2)),
        Ok(false)
    );
    assert_eq!((count(&old).await, count(&old).await), (200, 429));
    assert_eq!(upstream.last().headers["x-api-key"], "two");

    assert_eq!(
        reload(&gateway.handle, &upstream, &toml("two", &new_hash, 2)),
        Ok(false)
    );
    assert_eq!((count(&old).await, count(&new).await), (401, 200));

    let limited = toml(
        "two\"\nmax_wait = \"0ms\"\nlimits.requests_per_minute = 1\n# \"",
        &new_hash,
        9,
    );
    assert_eq!(reload(&gateway.handle, &upstream, &limited), Ok(false));
    let message = || {
        let sent = gateway
            .request("POST", "/v1/messages")
            .header("x-api-key", &new);
        tokio::spawn(Live::new(sent, STREAM_REQUEST))
    };
    let first = message();
    within(senders.recv()).await.unwrap().send(START).unwrap();
    assert_eq!(within(first).await.unwrap().status, 200);
    assert_eq!(within(message()).await.unwrap().status, 429);

    // Other changes wait for a restart.
    let other = config_for(&upstream, "stream.heartbeat = \"1s\"", &limited);
    assert!(gateway.handle.reload(&other).unwrap());
    sender.send(END).unwrap();
    drop(sender);
    assert!(live.read_all().await);
    assert_eq!(live.text, [START, END].concat());
}

#[tokio::test]
async fn reload_with_errors_changes_nothing() {
    let upstream = Upstream::with_message().await;
    let (key, hash) = new_key().unwrap();
    let toml = format!("key = \"one\"\n[[keys]]\nname = \"a\"\nhash = \"{hash}\"");
    let gateway = TestGateway::new(config_for(&upstream, "", &toml)).await;
    let mut broken = config_for(&upstream, "", &toml);
    broken.keys[0].hash = "abc".into();
    let error = gateway.handle.reload(&broken).expect_err("is not valid");
    assert!(error.to_string().starts_with("keys[0].hash: "), "{error}");
    let sent = gateway
        .request("POST", "/v1/messages")
        .header("x-api-key", key);
    assert_eq!(send(sent, REQUEST).await.status, 200);
}
