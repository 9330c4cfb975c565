//! Single rules of translation.

use bytes::Bytes;
use tower_claude_cloud::Translator;
use tower_claude_wire::cloud::{Betas, Profile, Target};

use super::{
    MESSAGES, bedrock_messages, clouds, headers, invoke_model, text, translate_at, vertex,
};

fn body(members: &str) -> String {
    format!(r#"{{"model":"claude-opus-5-5",{members}}}"#)
}

#[test]
fn invalid_body_is_unportable_to_a_cloud_and_stays_for_the_claude_api() {
    for body in [
        "",
        "null",
        "[]",
        "{",
        r#"{"model":"claude-opus-5-5""#,
        "\u{1f}\u{8b}",
    ] {
        for target in clouds() {
            let reason = translate_at(MESSAGES, &[], body, &target).unwrap_err();
            assert_eq!(reason.path, "body", "{body} on {target}");
        }
        let sent = translate_at(MESSAGES, &[], body, &Target::claude_api()).unwrap();
        assert_eq!(text(&sent.body), body);
    }
}

#[test]
fn request_without_a_usable_model_is_unportable() {
    for body in [
        r#"{"messages":[]}"#,
        r#"{"model":5}"#,
        r#"{"model":""}"#,
        r#"{"model":null}"#,
        r#"{"model":"gpt-5"}"#,
        r#"{"model":"../x"}"#,
    ] {
        for target in clouds() {
            let reason = translate_at(MESSAGES, &[], body, &target).unwrap_err();
            assert_eq!(reason.path, "model", "{body} on {target}");
        }
    }
}

#[test]
fn last_of_duplicate_keys_is_the_model() {
    let body = r#"{"model":"claude-haiku-5-5","messages":[],"mod\u0065l":"claude-opus-5-5"}"#;
    let sent = translate_at(MESSAGES, &[], body, &invoke_model()).unwrap();
    assert_eq!(
        sent.uri.path(),
        "/model/us.anthropic.claude-opus-5-5/invoke"
    );
    assert!(!text(&sent.body).contains("mod"));
}

#[test]
fn empty_values_of_what_a_cloud_lacks_are_no_loss() {
    let body = body(
        r#""container":null,"mcp_servers":[],"thread":null,"fallbacks":[],"diagnostics":null,"inference_geo":null,"speed":"standard","compaction":null"#,
    );
    for target in clouds() {
        let sent = translate_at(MESSAGES, &[], body.clone(), &target).unwrap();
        assert!(sent.losses.is_empty(), "{}", sent.losses);
        for name in [
            "container",
            "mcp_servers",
            "thread",
            "speed",
            "inference_geo",
        ] {
            assert!(!text(&sent.body).contains(name), "{name} on {target}");
        }
    }
}

#[test]
fn image_by_url_is_found_in_every_place() {
    let image = r#"{"type":"image","source":{"type":"url","url":"https://h/i"}}"#;
    for content in [
        image.to_owned(),
        format!(r#"{{"type":"tool_result","tool_use_id":"t","content":[{image}]}}"#),
        format!(r#"{{"type":"document","source":{{"type":"content","content":[{image}]}}}}"#),
    ] {
        let body = body(&format!(
            r#""messages":[{{"role":"user","content":[{content}]}}]"#
        ));
        for target in clouds() {
            let reason = translate_at(MESSAGES, &[], body.clone(), &target).unwrap_err();
            assert_eq!(reason.path, "messages[].content[].source", "{content}");
        }
    }
}

#[test]
fn geography_is_kept_by_the_profile_and_not_by_the_region() {
    let us = body(r#""inference_geo":"us""#);
    let global = Target::bedrock("us-east-1")
        .unwrap()
        .with_profile(Profile::Global)
        .unwrap();
    let regional = Target::bedrock("us-east-1").unwrap();
    let gov = Target::bedrock("us-gov-west-1")
        .unwrap()
        .with_profile(Profile::UsGov)
        .unwrap();
    let multi = Target::vertex("p", "us").unwrap();
    let everywhere = Target::vertex("p", "global").unwrap();
    let mexico = Target::bedrock("usx-1").unwrap();
    for (target, ok) in [
        (global, false),
        (regional, true),
        (gov, true),
        (multi, true),
        (everywhere, false),
        (mexico, false),
    ] {
        let sent = translate_at(MESSAGES, &[], us.clone(), &target);
        assert_eq!(sent.is_ok(), ok, "{target}");
    }
}

#[test]
fn automatic_cache_becomes_a_breakpoint_for_older_models_on_invoke_model() {
    let automatic = r#""cache_control":{"type":"ephemeral","ttl":"1h"}"#;
    let request = |content: &str| {
        format!(
            r#"{{"model":"claude-opus-4-6",{automatic},"messages":[{{"role":"user","content":{content}}}]}}"#
        )
    };
    let sent = |content: &str| {
        let sent = translate_at(MESSAGES, &[], request(content), &invoke_model()).unwrap();
        assert_eq!(
            sent.losses.to_string(),
            "cache_control=breakpoint at the last block"
        );
        text(&sent.body).to_owned()
    };
    assert!(sent(r#""hi""#).contains(&format!(
        r#""content":[{{"type":"text","text":"hi",{automatic}}}]"#
    )));
    // A breakpoint that is there already stays alone.
    let marked = r#"{"type":"text","text":"t","cache_control":{"type":"ephemeral"}}"#;
    assert!(!sent(&format!("[{marked}]")).contains("1h"));
    // So do four of them.
    let four = format!(r#"[{marked},{marked},{marked},{marked},{{"type":"text","text":"u"}}]"#);
    assert!(!sent(&four).contains("1h"));
}

#[test]
fn early_streaming_of_a_tool_becomes_a_beta_of_invoke_model() {
    let members = r#""tools":[{"name":"a","eager_input_streaming":true,"input_schema":{"x": 1.0}},{"name":"b","eager_input_streaming":false}]"#;
    let sent = translate_at(MESSAGES, &[], body(members), &invoke_model()).unwrap();
    assert_eq!(
        text(&sent.body),
        r#"{"tools":[{"name":"a","input_schema":{"x": 1.0}},{"name":"b"}],"anthropic_version":"bedrock-2023-05-31","anthropic_beta":["fine-grained-tool-streaming-2025-05-14"]}"#
    );
    assert_eq!(sent.losses.len(), 1);
}

#[test]
fn scope_and_ttl_of_one_breakpoint_are_both_removed() {
    let mark = r#"{"type":"ephemeral","scope":"global","ttl":"1h"}"#;
    let text_block = format!(r#"{{"type":"text","text":"t","cache_control":{mark}}}"#);
    let body = format!(r#"{{"model":"claude-opus-4-1","system":[{text_block}]}}"#);
    let sent = translate_at(MESSAGES, &[], body, &invoke_model()).unwrap();
    let system = r#""system":[{"type":"text","text":"t","cache_control":{"type":"ephemeral"}}]"#;
    assert!(text(&sent.body).contains(system), "{}", text(&sent.body));
    assert_eq!(
        sent.losses.to_string(),
        "cache_control.scope, cache_control.ttl=5m"
    );
}

#[test]
fn renamed_beta_is_sent_once() {
    let list = [(
        "anthropic-beta",
        "advanced-tool-use-2025-11-20,tool-search-tool-2025-10-19",
    )];
    let sent = translate_at(MESSAGES, &list, body(r#""messages":[]"#), &vertex()).unwrap();
    assert_eq!(
        sent.headers["anthropic-beta"],
        "tool-search-tool-2025-10-19"
    );
    assert!(sent.losses.is_empty());
}

#[test]
fn beta_of_the_users_own_table_is_sent_with_its_field() {
    let target = bedrock_messages();
    let beta = "task-budgets-2026-03-13";
    let betas = Betas::builtin().clone().with_accepted(beta, &target);
    let uri = MESSAGES.parse().unwrap();
    let body = Bytes::from(body(r#""output_config":{"task_budget":{"total":5}}"#));
    let list = headers(&[("anthropic-beta", beta)]);
    let translator = Translator::new().with_betas(betas);
    let sent = translator.translate(&uri, &list, &body, &target).unwrap();
    assert!(sent.losses.is_empty(), "{}", sent.losses);
    assert!(text(&sent.body).contains(r#""task_budget":{"total":5}"#));
    assert_eq!(sent.headers["anthropic-beta"], beta);
}

#[test]
fn request_for_one_cloud_is_translated_for_another() {
    let list = [
        ("anthropic-beta", "context-1m-2025-08-07"),
        ("anthropic-version", "2026-10-21"),
    ];
    let first = body(r#""stream":true,"max_tokens":5,"messages":[]"#);
    let uri = |target: &Target| target.messages_path("x", false);
    assert_eq!(uri(&Target::claude_api()), "/v1/messages");
    for from in clouds() {
        let there = translate_at(MESSAGES, &list, first.clone(), &from).unwrap();
        for to in clouds() {
            let translator = Translator::new();
            let sent = translator
                .translate(&there.uri, &there.headers, &there.body, &to)
                .unwrap();
            let direct = translate_at(MESSAGES, &list, first.clone(), &to).unwrap();
            assert!(sent.stream, "{from} to {to}");
            if from.platform() != to.platform() || from.dialect() != to.dialect() {
                // The version has no place in the headers of Vertex, so it came from the body.
                let same = |body: &Bytes| {
                    let value: serde_json::Value = serde_json::from_slice(body).unwrap();
                    value
                };
                assert_eq!(same(&sent.body), same(&direct.body), "{from} to {to}");
            }
            assert_eq!(sent.uri, direct.uri, "{from} to {to}");
        }
        let translator = Translator::new();
        let api = Target::claude_api();
        if from.dialect() == tower_claude_wire::cloud::Dialect::Messages {
            continue;
        }
        let back = translator
            .translate(&there.uri, &there.headers, &there.body, &api)
            .unwrap();
        assert_eq!(back.uri, MESSAGES, "{from}");
        let value: serde_json::Value = serde_json::from_slice(&back.body).unwrap();
        let original: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert_eq!(value, original, "{from}");
        assert_eq!(back.headers["anthropic-version"], "2026-10-21");
        assert_eq!(back.headers["anthropic-beta"], "context-1m-2025-08-07");
    }
}

#[test]
fn headers_of_the_caller_never_reach_a_cloud() {
    let list = [
        ("host", "gateway.example"),
        ("content-length", "7"),
        ("cookie", "c"),
        ("x-api-key", "secret"),
        ("authorization", "Bearer secret"),
        ("api-key", "secret"),
        ("x-goog-api-key", "secret"),
        ("proxy-authorization", "secret"),
        ("x-amz-security-token", "secret"),
        ("accept-encoding", "gzip"),
        ("connection", "close"),
        ("content-type", "text/plain"),
    ];
    for target in clouds() {
        let sent = translate_at(MESSAGES, &list, body(r#""messages":[]"#), &target).unwrap();
        let names: Vec<_> = sent.headers.keys().map(http::HeaderName::as_str).collect();
        let allowed = ["content-type", "accept", "anthropic-version"];
        assert!(names.iter().all(|name| allowed.contains(name)), "{names:?}");
        assert_eq!(sent.headers["content-type"], "application/json");
        assert!(sent.losses.is_empty(), "{}", sent.losses);
    }
}

#[test]
fn stream_of_invoke_model_accepts_an_event_stream() {
    let accept = |members: &str| {
        let list = [("accept", "text/event-stream")];
        let sent = translate_at(MESSAGES, &list, body(members), &invoke_model()).unwrap();
        sent.headers["accept"].clone()
    };
    assert_eq!(
        accept(r#""stream":true"#),
        "application/vnd.amazon.eventstream"
    );
    assert_eq!(accept(r#""stream":false"#), "application/json");
}

#[test]
fn target_of_a_test_server_has_its_scheme_and_port() {
    let target = invoke_model().with_host("http://127.0.0.1:8080").unwrap();
    let sent = translate_at(MESSAGES, &[], body(r#""messages":[]"#), &target).unwrap();
    assert_eq!(
        sent.uri,
        "http://127.0.0.1:8080/model/us.anthropic.claude-opus-5-5/invoke"
    );
}

#[test]
fn tool_id_of_another_vendor_is_replaced_in_call_and_result_alike() {
    let content = r#"{"type":"tool_use","id":"call.1|2","name":"n","input":{ "a":1.0 }},{"type":"tool_use","id":"toolu_1","name":"n","input":{}},{"type":"tool_result","tool_use_id":"call.1|2","content":"c"}"#;
    let members = format!(r#""messages":[{{"role":"user","content":[{content}]}}]"#);
    let source = Bytes::from(body(&members));
    let translator = Translator::new().with_replaced_tool_ids();
    let uri = MESSAGES.parse().unwrap();
    let sent = translator
        .translate(&uri, &headers(&[]), &source, &vertex())
        .unwrap();
    let ids: Vec<_> = text(&sent.body)
        .match_indices("toolu_")
        .map(|(at, _)| at)
        .collect();
    let id = |at: usize| &text(&sent.body)[at..at + "toolu_".len() + 16];
    assert_eq!(id(ids[0]), id(ids[2]));
    assert_ne!(id(ids[0]), id(ids[1]));
    assert_eq!(text(&sent.body).matches(id(ids[0])).count(), 2);
    assert!(text(&sent.body).contains(r#""input":{ "a":1.0 }"#));
    assert_eq!(
        sent.losses.to_string(),
        "messages[].content[].id=id of the API"
    );
    let again = translator
        .translate(&sent.uri, &sent.headers, &sent.body, &vertex())
        .unwrap();
    assert_eq!(again.body, sent.body);
}
