//! The choice of the target, and the requests that cannot be sent.

use http::{Method, header::CONTENT_LENGTH};
use tower_claude_cloud::{CloudLayer, LOSSES};
use tower_claude_core::{Kind, RejectReason};
use tower_claude_tests::{FrameBody, Piece, Reply, Script, paused, post, prompt_with};
use tower_claude_wire::cloud::{Losses, Target};

use super::{OPUS, bearer, bedrock_messages, invoke_model, marked, request, send, vertex};

#[test]
fn request_without_a_target_passes_unchanged() {
    paused(async {
        let layer = CloudLayer::new().with_target(vertex(), bearer("token"));
        let script = Script::always(Reply::message());
        let got = send(&layer, &script, request(false)).await;
        let seen = &script.seen()[0];
        assert_eq!(seen.uri.path(), "/v1/messages");
        assert_eq!(seen.headers["x-api-key"], "key-a");
        assert!(!seen.headers.contains_key("authorization"));
        assert_eq!(got.header("x-tower-claude-target"), "");
        assert!(got.extensions.get::<Target>().is_none());
    });
}

#[test]
fn request_goes_to_the_target_in_its_extensions_or_else_to_the_default() {
    paused(async {
        let layer = CloudLayer::new()
            .with_default_target(vertex(), bearer("google"))
            .with_target(bedrock_messages(), bearer("amazon"));
        let script = Script::always(Reply::message());
        let first = send(&layer, &script, request(false)).await;
        let second = send(&layer, &script, marked(&bedrock_messages(), false)).await;
        let seen = script.seen();
        assert_eq!(
            seen[0].uri.host(),
            Some("us-east5-aiplatform.googleapis.com")
        );
        assert_eq!(seen[0].headers["authorization"], "Bearer google");
        assert_eq!(first.header("x-tower-claude-target"), "vertex/us-east5");
        assert_eq!(seen[1].uri.host(), Some("bedrock-mantle.us-east-1.api.aws"));
        assert_eq!(seen[1].headers["authorization"], "Bearer amazon");
        assert_eq!(
            second.header("x-tower-claude-target"),
            "bedrock-messages/us-east-1"
        );
        assert_eq!(second.extensions.get(), Some(&bedrock_messages()));
        for seen in &seen {
            assert!(
                !seen.headers.contains_key("x-api-key"),
                "the caller's key went abroad"
            );
            assert_eq!(seen.headers[CONTENT_LENGTH], seen.body.len().to_string());
            assert_eq!(seen.method, Method::POST);
        }
    });
}

#[test]
fn target_with_another_host_never_gets_the_credential() {
    paused(async {
        let layer = CloudLayer::new().with_target(bedrock_messages(), bearer("amazon"));
        let script = Script::always(Reply::message());
        for host in ["evil.example", "http://bedrock-mantle.us-east-1.api.aws"] {
            let elsewhere = bedrock_messages().with_host(host).unwrap();
            let got = send(&layer, &script, marked(&elsewhere, false)).await;
            assert_eq!(got.status, 400, "{host}");
            assert!(
                got.is_rejected() && got.contains("another host"),
                "{}",
                got.text()
            );
        }
        assert_eq!(script.calls(), 0);
    });
}

#[test]
fn target_that_is_not_set_up_is_rejected() {
    paused(async {
        let layer = CloudLayer::new().with_target(vertex(), bearer("token"));
        let script = Script::always(Reply::message());
        let got = send(&layer, &script, marked(&invoke_model(), false)).await;
        assert_eq!((got.status, script.calls()), (400, 0));
        assert!(
            got.contains("target: not set up in this layer"),
            "{}",
            got.text()
        );
    });
}

#[test]
fn claude_api_gets_the_credential_of_the_caller_unless_the_layer_has_one() {
    paused(async {
        let api = Target::claude_api();
        let script = Script::always(Reply::message());
        send(&CloudLayer::new(), &script, marked(&api, false)).await;
        let own = CloudLayer::new().with_target(api.clone(), bearer("own"));
        send(&own, &script, marked(&api, false)).await;
        let seen = script.seen();
        assert_eq!(seen[0].headers["x-api-key"], "key-a");
        assert!(!seen[1].headers.contains_key("x-api-key"));
        assert_eq!(seen[1].headers["authorization"], "Bearer own");
        assert_eq!(seen[0].body, seen[1].body);
    });
}

#[test]
fn stream_over_the_limit_goes_to_the_claude_api_only() {
    paused(async {
        let pieces = || {
            let chunk = || Piece::Data(vec![b' '; 17 << 20].into());
            FrameBody::new([chunk(), chunk()])
        };
        let script = Script::always(Reply::message());
        let layer = CloudLayer::new().with_open_default_target(vertex());
        let got = send(&layer, &script, post(tower_claude_tests::BASE, pieces())).await;
        assert_eq!((got.status, script.calls()), (400, 0));
        assert!(
            got.contains("body: too long to be translated"),
            "{}",
            got.text()
        );
        let api = CloudLayer::new().with_default_target(Target::claude_api(), bearer("own"));
        let got = send(&api, &script, post(tower_claude_tests::BASE, pieces())).await;
        assert_eq!(got.status, 200);
        assert_eq!(script.seen()[0].body.len(), 34 << 20);
        assert_eq!(script.seen()[0].headers["authorization"], "Bearer own");
    });
}

#[test]
fn unportable_request_is_answered_in_the_shape_of_the_api() {
    paused(async {
        let layer = CloudLayer::new().with_open_default_target(vertex());
        let script = Script::always(Reply::message());
        let fields = r#","max_tokens":5,"container":"c""#;
        let body = FrameBody::full(prompt_with(OPUS, fields));
        let got = send(&layer, &script, post(tower_claude_tests::BASE, body)).await;
        assert_eq!((got.status, script.calls()), (400, 0));
        assert_eq!(got.header("x-tower-claude-refused-by"), "cloud");
        assert_eq!(got.header("x-tower-claude-target"), "vertex/us-east5");
        assert!(
            got.contains(r#""type":"invalid_request_error""#),
            "{}",
            got.text()
        );
        let rejection = got.rejected().unwrap();
        assert!(rejection.class().local && rejection.class().kind == Kind::BadRequest);
        let RejectReason::Unportable { reason } = rejection.reason else {
            panic!("{rejection}");
        };
        assert_eq!(reason.path, "container");
    });
}

#[test]
fn losses_are_in_the_header_and_in_the_extensions() {
    paused(async {
        let layer = CloudLayer::new().with_open_default_target(vertex());
        let script = Script::always(Reply::message());
        let fields = r#","max_tokens":5,"fallbacks":"default","diagnostics":{"a":1}"#;
        let body = FrameBody::full(prompt_with(OPUS, fields));
        let mut request = post(tower_claude_tests::BASE, body);
        request
            .headers_mut()
            .insert("anthropic-beta", "b-2027-01-01".parse().unwrap());
        let got = send(&layer, &script, request).await;
        assert_eq!(
            got.header("x-tower-claude-losses"),
            "beta b-2027-01-01, fallbacks, diagnostics"
        );
        assert_eq!(got.extensions.get::<Losses>().unwrap().len(), 3);

        let long: Vec<_> = (0..200).map(|number| format!("beta-{number}")).collect();
        let mut many = super::request(false);
        many.headers_mut()
            .insert("anthropic-beta", long.join(",").parse().unwrap());
        let got = send(&layer, &script, many).await;
        assert_eq!(got.headers[LOSSES].len(), 1_000);
        assert_eq!(got.extensions.get::<Losses>().unwrap().len(), 200);
    });
}

#[cfg(not(feature = "bedrock"))]
#[test]
fn stream_of_invoke_model_without_the_feature_is_rejected() {
    paused(async {
        let layer = CloudLayer::new().with_open_default_target(invoke_model());
        let script = Script::always(Reply::message());
        let got = send(&layer, &script, request(true)).await;
        assert_eq!((got.status, script.calls()), (400, 0));
        assert!(got.contains("feature `bedrock`"), "{}", got.text());
        let got = send(&layer, &script, request(false)).await;
        assert_eq!((got.status, script.calls()), (200, 1));
    });
}

#[test]
fn debug_of_a_layer_shows_the_targets_and_no_credential() {
    let layer = CloudLayer::new().with_default_target(vertex(), bearer("secret-token"));
    let text = format!("{layer:?} {:?}", bearer("secret-token"));
    assert!(
        text.contains("vertex/us-east5") && !text.contains("secret"),
        "{text}"
    );
}

#[test]
fn target_is_replaced_by_one_of_the_same_name() {
    paused(async {
        let layer = CloudLayer::new()
            .with_target(vertex(), bearer("old"))
            .with_target(vertex(), bearer("new"));
        let script = Script::always(Reply::message());
        send(&layer, &script, marked(&vertex(), false)).await;
        assert_eq!(script.seen()[0].headers["authorization"], "Bearer new");
    });
}

#[test]
fn check_of_the_layer_is_what_a_call_does() {
    let layer = CloudLayer::new()
        .with_target(vertex(), bearer("token"))
        .with_target(invoke_model(), bearer("token"));
    let check = |fields: &str, target: &Target| {
        let request = tower_claude_tests::request_with(OPUS, fields);
        layer.check(&request, target).map_err(|reason| reason.path)
    };
    let plain = r#","max_tokens":5"#;
    let container = r#","container":"c""#;
    assert_eq!(check(plain, &vertex()), Ok(()));
    assert_eq!(check(container, &vertex()), Err("container"));
    assert_eq!(check(container, &Target::claude_api()), Ok(()));
    assert_eq!(check(plain, &bedrock_messages()), Err("target"));
    let elsewhere = vertex().with_host("evil.example").unwrap();
    assert_eq!(check(plain, &elsewhere), Err("target"));
    let stream = r#","stream":true"#;
    let expected = if cfg!(feature = "bedrock") {
        Ok(())
    } else {
        Err("stream")
    };
    assert_eq!(check(stream, &invoke_model()), expected);
}
