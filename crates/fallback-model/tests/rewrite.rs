//! Single rewrites, compared byte by byte, and invalid requests.

use bytes::Bytes;
use http::HeaderMap;
use proptest::prelude::*;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use tower_claude_fallback_model::{RewriteOptions, Rewritten, Unportable, Why, rewrite};
use tower_claude_wire::{Model, ModelCatalog};

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("anthropic-version", "2023-06-01".parse().unwrap());
    headers
}

fn try_swap(body: &str, from: &str, to: &str) -> Result<Rewritten, Unportable> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    rewrite(&headers(), &body, from, to, ModelCatalog::builtin())
}

/// Returns the body that is sent, and the fields that differ.
fn swap(body: &str, from: &str, to: &str) -> (String, Vec<(&'static str, Why)>) {
    let new = try_swap(body, from, to).unwrap();
    assert_eq!(new.headers["content-length"], new.body.len().to_string());
    let losses = new
        .losses
        .iter()
        .map(|loss| (loss.field, loss.why))
        .collect();
    (String::from_utf8(new.body.to_vec()).unwrap(), losses)
}

fn unportable(body: &str, to: &str) -> (String, &'static str) {
    let unportable = try_swap(body, "claude-sonnet-4-6", to).unwrap_err();
    (unportable.field.into_owned(), unportable.why)
}

#[test]
fn unchanged_members_keep_their_bytes() {
    let body = "\t{ \"x\\u0041\" : [1.50e+2 , {\"b\":1,\"a\":2}],\n\"mo\\u0064el\"\n:  \"claude-sonnet-4-6\" , \"max_tokens\":1E2,\
                \"temperature\": 0.20 ,\"messages\":[ ],\"tail\":12345678901234567890123 }\n";
    let (sent, losses) = swap(body, "claude-sonnet-4-6", "claude-opus-4-8");
    let expected = body.replace("claude-sonnet-4-6", "claude-opus-4-8");
    assert_eq!(
        sent,
        expected
            .replace(" , \"max", ", \"max")
            .replace(",\"temperature\": 0.20 ", "")
            .replace(", \"max", " , \"max")
            .replace("1E2,\"messages", "1E2 ,\"messages")
    );
    assert_eq!(losses, [("temperature", Why::Unsupported)]);
    // Nothing to change but the model.
    let (sent, losses) = swap(body, "claude-sonnet-4-6", "claude-haiku-4-5");
    assert_eq!(sent, body.replace("sonnet-4-6", "haiku-4-5"));
    assert_eq!(losses, []);
}

#[test]
fn first_and_last_members_can_be_removed() {
    for (body, expected) in [
        (
            r#"{"top_k":1,"model":"m","top_p":0.1}"#,
            r#"{"model":"claude-opus-4-7"}"#,
        ),
        (
            r#"{ "top_k":1 , "top_p":1, "model":"m" , "temperature":0 , "top_p2":3}"#,
            r#"{ "model":"claude-opus-4-7" , "top_p2":3}"#,
        ),
        (
            r#"{"model":"m","output_config":{ "effort":"xhigh" , "format":{} },"top_k":1 } "#,
            r#"{"model":"claude-opus-4-7","output_config":{ "effort":"xhigh" , "format":{} } } "#,
        ),
    ] {
        assert_eq!(swap(body, "claude-opus-4-8", "claude-opus-4-7").0, expected);
    }
    let body = r#"{"model":"m","output_config":{ "effort":"xhigh" , "format":{} },"x":1}"#;
    let (sent, _) = swap(body, "claude-opus-4-8", "claude-haiku-4-5");
    assert_eq!(
        sent,
        r#"{"model":"claude-haiku-4-5","output_config":{ "format":{} },"x":1}"#
    );
    let body = r#"{"output_config":{"effort":"xhigh"},"model":"m","x":1}"#;
    let (sent, losses) = swap(body, "claude-opus-4-8", "claude-haiku-4-5");
    assert_eq!(sent, r#"{"model":"claude-haiku-4-5","x":1}"#);
    assert_eq!(losses, [("output_config.effort", Why::Unsupported)]);
}

#[test]
fn thinking_and_effort_are_translated_for_the_target() {
    let case = |from: &str, to: &str, fields: &str| {
        let body = format!(r#"{{"model":"m","max_tokens":20000{fields}}}"#);
        let (sent, _) = swap(&body, from, to);
        let head = format!(r#"{{"model":"{to}","max_tokens":20000"#);
        sent.strip_prefix(&head)
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap()
            .to_owned()
    };
    let (sonnet, haiku) = ("claude-sonnet-5-5", "claude-haiku-5-5");
    let (old_haiku, opus, fable) = ("claude-haiku-4-5", "claude-opus-5-5", "claude-fable-5-2");
    for (from, to, asked, sent) in [
        // Off.
        (
            "claude-sonnet-5",
            sonnet,
            r#","thinking":{"type":"disabled"},"output_config":{"effort":"max"}"#,
            r#","thinking":{"type":"between_tools"},"output_config":{"effort":"high"}"#,
        ),
        (
            sonnet,
            haiku,
            r#","thinking":{"type":"between_tools"}"#,
            r#","thinking":{"type":"disabled"},"output_config":{"effort":"high"}"#,
        ),
        (
            "claude-opus-4-8",
            haiku,
            r#","output_config":{"effort":"high"}"#,
            r#","output_config":{"effort":"high"},"thinking":{"type":"disabled"}"#,
        ),
        (
            haiku,
            opus,
            r#","thinking":{"type":"disabled"}"#,
            r#","output_config":{"effort":"low"}"#,
        ),
        (
            haiku,
            fable,
            r#","thinking":{"type":"disabled"},"output_config":{"effort":"high"}"#,
            r#","output_config":{"effort":"low"}"#,
        ),
        // A budget for an effort, and back.
        (
            old_haiku,
            sonnet,
            r#","thinking":{"type":"enabled","budget_tokens":4096,"display":"omitted"}"#,
            r#","thinking":{"type":"adaptive","display":"omitted"},"output_config":{"effort":"low"}"#,
        ),
        (
            old_haiku,
            sonnet,
            r#","thinking":{"budget_tokens":16000,"type":"enabled"}"#,
            r#","thinking":{"type":"adaptive"}"#,
        ),
        (
            "claude-opus-4-5",
            "claude-opus-4-8",
            r#","thinking":{"budget_tokens":4096,"type":"enabled"},"output_config":{"effort":"medium"}"#,
            r#","thinking":{"type":"adaptive"},"output_config":{"effort":"medium"}"#,
        ),
        (
            sonnet,
            old_haiku,
            r#","thinking":{"type":"adaptive","display":"omitted"},"output_config":{"effort":"low"}"#,
            r#","thinking":{"type":"enabled","display":"omitted","budget_tokens":4096}"#,
        ),
        (
            sonnet,
            old_haiku,
            r#","thinking":{"type":"adaptive"}"#,
            r#","thinking":{"type":"enabled","budget_tokens":10000}"#,
        ),
        // A forced tool is worth more than the thought before it.
        (
            "claude-sonnet-5",
            old_haiku,
            r#","thinking":{"type":"adaptive"},"tool_choice":{"type":"any"}"#,
            r#","tool_choice":{"type":"any"}"#,
        ),
        // Defaults.
        (old_haiku, haiku, "", r#","thinking":{"type":"disabled"}"#),
        (
            "claude-sonnet-4-6",
            sonnet,
            "",
            r#","thinking":{"type":"between_tools"}"#,
        ),
        ("claude-opus-4-8", opus, "", ""),
        (
            "claude-sonnet-5",
            "claude-sonnet-4-6",
            "",
            r#","thinking":{"type":"adaptive"}"#,
        ),
        (opus, sonnet, "", r#","output_config":{"effort":"medium"}"#),
        (
            sonnet,
            opus,
            r#","output_config":{"format":{}}"#,
            r#","output_config":{"format":{},"effort":"high"}"#,
        ),
        (
            "claude-opus-4-8",
            "claude-opus-5",
            r#","output_config":{"effort":"max"}"#,
            r#","output_config":{"effort":"max"}"#,
        ),
        // Words of tomorrow are the API's to judge.
        (
            sonnet,
            opus,
            r#","thinking":{"type":"dreaming"},"output_config":{"effort":"ultra"}"#,
            r#","thinking":{"type":"dreaming"},"output_config":{"effort":"ultra"}"#,
        ),
    ] {
        assert_eq!(case(from, to, asked), sent, "{from} -> {to}: {asked}");
    }
    let body = Bytes::from_static(br#"{"model":"m","max_tokens":20000}"#);
    let options = RewriteOptions::new().with_defaults_kept(false);
    let new = options
        .rewrite(&headers(), &body, old_haiku, haiku, ModelCatalog::builtin())
        .unwrap();
    assert_eq!(new.losses, []);
}

#[test]
fn thinking_budget_stays_below_a_clamped_max_tokens() {
    let body =
        r#"{"model":"m","max_tokens":128000,"thinking":{"type":"enabled","budget_tokens":96000}}"#;
    let (sent, losses) = swap(body, "claude-opus-4-6", "claude-opus-4-5");
    let expected = r#"{"model":"claude-opus-4-5","max_tokens":64000,"thinking":{"type":"enabled","budget_tokens":48000}}"#;
    assert_eq!(sent, expected);
    assert_eq!(
        losses,
        [("max_tokens", Why::Clamped), ("thinking", Why::Clamped)]
    );
    // At the remaining limit, and for a budget over the original `max_tokens`.
    for (asked, sent) in [(63_999, 63_999), (64_000, 32_000), (500_000, 63_999)] {
        let body = body.replace("96000", &asked.to_string());
        let (new, _) = swap(&body, "claude-opus-4-6", "claude-opus-4-5");
        assert_eq!(new, expected.replace("48000", &sent.to_string()));
    }
}

#[test]
fn unusual_numbers_are_sent_unchanged_or_clamped() {
    for (asked, sent) in [
        ("99999999999999999999999999", "64000"),
        ("64001", "64000"),
        ("64000", "64000"),
        ("0", "0"),
        ("-1", "-1"),
        ("1e999", "1e999"),
        ("64001.0", "64001.0"),
        ("null", "null"),
        ("\"64001\"", "\"64001\""),
        ("[]", "[]"),
    ] {
        let body = format!(r#"{{"model":"m","max_tokens":{asked}}}"#);
        let (new, _) = swap(&body, "claude-opus-4-5", "claude-haiku-4-5");
        assert_eq!(
            new,
            format!(r#"{{"model":"claude-haiku-4-5","max_tokens":{sent}}}"#)
        );
    }
}

#[test]
fn invalid_body_is_unportable() {
    for body in [
        "",
        "[]",
        "null",
        "{",
        r#"{"model":"m""#,
        r#"{"model":"m"} x"#,
        r#"{"model" "m"}"#,
        r#"{"\x":1,"model":"m"}"#,
    ] {
        assert_eq!(unportable(body, "claude-opus-5").0, "", "{body}");
    }
    for body in [
        "{}",
        r#"{"model":null}"#,
        r#"{"model":["m"]}"#,
        r#"{"model":"m","mo\u0064el":"n"}"#,
    ] {
        assert_eq!(unportable(body, "claude-opus-5").0, "model", "{body}");
    }
    for (body, field) in [
        (
            r#"{"model":"m","thinking":{"type":"adaptive","type":"disabled"}}"#,
            "thinking",
        ),
        (
            r#"{"model":"m","max_tokens":1,"max_tokens":2}"#,
            "max_tokens",
        ),
        (
            r#"{"model":"m","output_config":{"effort":"low","\u0065ffort":"max"}}"#,
            "output_config",
        ),
    ] {
        assert_eq!(unportable(body, "claude-opus-5").0, field);
    }
    // Fields that no rule reads may stand there twice.
    swap(
        r#"{"model":"m","x":1,"x":2}"#,
        "claude-opus-5",
        "claude-opus-5-5",
    );
}

#[test]
fn prompt_longer_than_the_window_is_unportable() {
    let long = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}]}}"#,
        "x".repeat(900_000)
    );
    assert_eq!(unportable(&long, "claude-haiku-4-5").0, "messages");
    swap(&long, "claude-sonnet-4-6", "claude-haiku-5-5");
    // A guess does not overrule a model with the same window, nor does it know what an image costs.
    swap(&long, "claude-sonnet-4-5", "claude-haiku-4-5");
    swap(
        &long.replace("xxx\"", "\",\"type\":\"base64\""),
        "claude-sonnet-4-6",
        "claude-haiku-4-5",
    );
    let body = Bytes::from_static(br#"{"model":"m"}"#);
    let with = |tokens| {
        let options = RewriteOptions::new().with_input_tokens(Some(tokens));
        options.rewrite(
            &headers(),
            &body,
            "claude-opus-4-5",
            "claude-haiku-4-5",
            ModelCatalog::builtin(),
        )
    };
    assert!(with(200_000).is_ok());
    assert_eq!(with(200_001).unwrap_err().field, "messages");
}

#[test]
fn headers_match_the_new_body() {
    let mut headers = headers();
    headers.insert("content-length", "7".parse().unwrap());
    headers.insert("transfer-encoding", "chunked".parse().unwrap());
    headers.append(
        "anthropic-beta",
        "a-1, fast-mode-2026-02-01 ,b-2".parse().unwrap(),
    );
    headers.append(
        "anthropic-beta",
        "server-side-fallback-2026-07-01".parse().unwrap(),
    );
    headers.append("anthropic-beta", "c-3 , d-4".parse().unwrap());
    let with = |body: &'static str, to| {
        let body = Bytes::from_static(body.as_bytes());
        let new = rewrite(
            &headers,
            &body,
            "claude-opus-5",
            to,
            ModelCatalog::builtin(),
        )
        .unwrap();
        assert_eq!(new.headers["content-length"], new.body.len().to_string());
        assert!(!new.headers.contains_key("transfer-encoding"));
        let betas = new.headers.get_all("anthropic-beta").iter();
        let betas: Vec<_> = betas
            .map(|line| line.to_str().unwrap().to_owned())
            .collect();
        (betas, new.losses)
    };
    let all = [
        "a-1, fast-mode-2026-02-01 ,b-2",
        "server-side-fallback-2026-07-01",
        "c-3 , d-4",
    ];
    let (betas, losses) = with(r#"{"model":"m"}"#, "claude-fable-5");
    assert_eq!((betas, losses), (all.map(String::from).to_vec(), vec![]));
    let (betas, losses) = with(
        r#"{"model":"m","speed":"fast","fallbacks":"default"}"#,
        "claude-sonnet-5",
    );
    assert_eq!(betas, ["a-1,b-2", "c-3 , d-4"]);
    let fields: Vec<_> = losses.iter().map(|loss| loss.field).collect();
    assert_eq!(fields, ["speed", "fallbacks", "anthropic-beta"]);
    let (betas, _) = with(
        r#"{"model":"m","speed":"fast","fallbacks":[]}"#,
        "claude-opus-4-8",
    );
    assert_eq!(betas, [all[0], all[2]]);
}

#[test]
fn signed_request_is_unportable() {
    let body = Bytes::from_static(br#"{"model":"m"}"#);
    for (credential, is_signature) in [
        (
            "AWS4-HMAC-SHA256 Credential=AKIA/20261122/us-east-1/x",
            true,
        ),
        ("Bearer AWS4-", false),
    ] {
        let mut headers = headers();
        headers.insert("authorization", credential.parse().unwrap());
        let catalog = ModelCatalog::builtin();
        let new = rewrite(
            &headers,
            &body,
            "claude-opus-5",
            "claude-haiku-5-5",
            catalog,
        );
        let field = new.map_err(|unportable| unportable.field.into_owned());
        let expected = is_signature.then_some("authorization");
        assert_eq!(field.err().as_deref(), expected);
    }
}

#[test]
fn field_that_the_target_rejects_is_unportable() {
    let because = |fields: &str, from: &str, to: &str| {
        let body = format!(r#"{{"model":"m",{fields}}}"#);
        try_swap(&body, from, to).unwrap_err().to_string()
    };
    for (fields, from, to, why) in [
        (
            r#""tool_choice":{"type":"any"}"#,
            "claude-sonnet-5",
            "claude-sonnet-5-5",
            "tool_choice: cannot be forced to use a tool",
        ),
        (
            r#""inference_geo":"us""#,
            "claude-sonnet-5",
            "claude-haiku-4-5",
            "inference_geo: cannot be held to a place",
        ),
        (
            r#""messages":[{"role":"assistant"}]"#,
            "claude-haiku-4-5",
            "claude-haiku-5-5",
            "messages: a conversation that ends with the assistant's turn is rejected",
        ),
        (
            r#""messages":[{"r\u006fle":"syst\u0065m"},{"role":"user"}]"#,
            "claude-opus-4-8",
            "claude-opus-4-7",
            "messages: a system message inside the conversation is rejected",
        ),
        (
            r#""messages":[{"role":"user","output_config":{}}]"#,
            "claude-opus-5",
            "claude-opus-4-8",
            "messages: an effort of its own for one turn is rejected",
        ),
        (
            r#""tools":[{"name":"x"},{"type":"computer_20251124"}]"#,
            "claude-opus-5",
            "claude-opus-5-5",
            "tools: a tool of a type that is rejected",
        ),
        (
            r#""x":1"#,
            "claude-opus-5",
            "claude-opus-4-1-20250805",
            "model: retired",
        ),
        (
            r#""x":1"#,
            "claude-opus-5",
            "claude-mythos-preview",
            "model: retired",
        ),
    ] {
        assert_eq!(because(fields, from, to), why);
    }
    assert_eq!(
        try_swap("", "a", "b").unwrap_err().to_string(),
        "body: not a complete JSON object"
    );
    let body = Bytes::from_static(br#"{"model":"m","tool_choice":{"name":"f", "type":"tool" , "disable_parallel_tool_use":true},"inference_geo":"us"}"#);
    let all = RewriteOptions::new()
        .with_forced_tool_choice_lost(true)
        .with_inference_geo_lost(true);
    let swap = |from, to| {
        all.rewrite(&headers(), &body, from, to, ModelCatalog::builtin())
            .unwrap()
            .body
    };
    let auto = br#"{"model":"claude-opus-5-5","tool_choice":{"type":"auto" , "disable_parallel_tool_use":true},"inference_geo":"us","output_config":{"effort":"high"}}"#;
    assert_eq!(swap("claude-opus-5", "claude-opus-5-5"), auto[..]);
    let kept = br#"{"model":"claude-haiku-4-5","tool_choice":{"name":"f", "type":"tool" , "disable_parallel_tool_use":true}}"#;
    assert_eq!(swap("claude-opus-5", "claude-haiku-4-5"), kept[..]);
}

/// Requests that the original model would reject as well.
#[test]
fn request_invalid_for_the_original_is_rewritten_without_panic() {
    let body = r#"{"model":"m","temperature":1,"top_p":0.9,"top_k":3}"#;
    for (version, kept) in [("2026-10-20", 3), ("2026-10-21", 0), ("2027-01-01", 0)] {
        let mut headers = headers();
        headers.insert("anthropic-version", version.parse().unwrap());
        let catalog = ModelCatalog::builtin();
        let body = Bytes::from_static(body.as_bytes());
        let new = rewrite(
            &headers,
            &body,
            "claude-sonnet-4-6",
            "claude-opus-4-6",
            catalog,
        )
        .unwrap();
        assert_eq!(new.losses.len(), 3 - kept, "{version}");
    }
    let body = r#"{"model":"m","max_tokens":9000,"thinking":{"type":"enabled","budget_tokens":2000},"tool_choice":{"type":"any"}}"#;
    assert_eq!(
        try_swap(body, "m", "claude-haiku-4-5").unwrap_err().field,
        "tool_choice"
    );
    let body = r#"{"model":"m","max_tokens":9000,"thinking":{"type":"enabled","budget_tokens":2000},"messages":[{"role":"assistant"}]}"#;
    assert_eq!(
        try_swap(body, "m", "claude-haiku-4-5").unwrap_err().field,
        "messages"
    );
    let body = r#"{"model":"m","thinking":{"type":"enabled","budget_tokens":2000},"temperature":0.5,"top_p":1}"#;
    let lost = [
        ("temperature", Why::Unsupported),
        ("top_p", Why::Unsupported),
    ];
    assert_eq!(swap(body, "m", "claude-haiku-4-5").1, lost);
    let body = r#"{"model":"m","temperature":1,"top_p":0.99}"#;
    assert_eq!(
        swap(body, "m", "claude-haiku-5-5").1,
        [("top_p", Why::Unsupported)]
    );
}

#[test]
fn unknown_models_keep_fields_of_unknown_support() {
    let body = r#"{"model":"m","max_tokens":70000,"temperature":0.1,"thinking":{"type":"enabled","budget_tokens":9},"speed":"fast","tool_choice":{"type":"any"}}"#;
    // An unlisted target: all stays but what is over its family's size, or dear.
    let (sent, losses) = swap(body, "claude-opus-5", "my \"own\"\n");
    let expected = r#"{"model":"my \"own\"\u000a","max_tokens":64000,"temperature":0.1,"thinking":{"type":"enabled","budget_tokens":9},"tool_choice":{"type":"any"}}"#;
    assert_eq!(sent, expected);
    assert_eq!(
        losses,
        [("max_tokens", Why::Clamped), ("speed", Why::Unsupported)]
    );
    assert_eq!(
        swap(body, "claude-opus-5", "claude-opus-9").1,
        [("speed", Why::Unsupported)]
    );
    let standard = r#"{"model":"m","speed":"standard"}"#;
    assert_eq!(swap(standard, "claude-opus-5", "claude-opus-9").1, []);
    // Names as clouds dress them are found, and sent as given.
    let dressed = "us.anthropic.claude-opus-4-8-v1:0";
    let (sent, _) = swap(r#"{"model":"m","temperature":0.1}"#, "m", dressed);
    assert_eq!(sent, format!(r#"{{"model":"{dressed}"}}"#));
    // Facts of one's own.
    let catalog = ModelCatalog::builtin()
        .clone()
        .with_model("claude-opus-4-8", Model::new("mine"));
    let body = Bytes::from_static(br#"{"model":"m","temperature":0.1}"#);
    let new = rewrite(&headers(), &body, "m", "claude-opus-4-8", &catalog).unwrap();
    assert_eq!(new.losses, []);
}

fn json_value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,4})?",
        Just("null".to_owned()),
        Just("true".to_owned()),
        "\"(adaptive|enabled|disabled|between_tools|any|tool|low|xhigh|max|fast|us|m)\"",
        "\"([a-z{}\\[\\]:, é]|\\\\\"|\\\\\\\\|\\\\n|\\\\u00e9){0,6}\"",
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key = "\"(type|ty\\\\u0070e|effort|budget_tokens|display|role|name|output_config|x)\"";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|all| format!("[{}]", all.join(" ,"))),
            prop::collection::vec((key, inner), 0..4).prop_map(|all| {
                let all: Vec<_> = all
                    .iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect();
                format!("{{{}}}", all.join(" ,"))
            }),
        ]
    })
}

const KEYS: &str = "(model|mod\\\\u0065l|max_tokens|thinking|output_config|tool_choice|temperature|top_p|top_k|speed|inference_geo|fallbacks|messages|system|tools|a|b|c)";

fn any_model() -> impl Strategy<Value = String> {
    let mut ids: Vec<String> = ModelCatalog::builtin()
        .models()
        .map(|m| m.id.to_string())
        .collect();
    ids.extend(["m".to_owned(), "claude-opus-9".to_owned()]);
    ids.sort();
    prop::sample::select(ids)
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer(
        body in prop::collection::vec(any::<u8>(), 0..200),
        text in "[{}\\[\\]\",:a-z\\\\0-9 ]{0,60}",
        to in any_model(),
    ) {
        for body in [body, text.into_bytes()] {
            let _ = rewrite(&headers(), &body.into(), "claude-opus-5", &to, ModelCatalog::builtin());
        }
    }

    /// A rewrite of JSON is JSON, and differs only in the fields that it reports.
    #[test]
    fn any_object(
        members in prop::collection::vec((KEYS, json_value(), "[ \n]{0,2}"), 0..12),
        cut in prop::option::weighted(0.1, 0_usize..400),
        from in any_model(),
        to in any_model(),
        lose in any::<bool>(),
    ) {
        let members: Vec<String> = members.iter().map(|(key, value, space)| format!("{space}\"{key}\"{space}:{value}")).collect();
        let mut body = format!(r#"{{"model":"m",{}}}"#, members.join(","));
        if members.is_empty() {
            body = r#"{"model":"m"}"#.to_owned();
        }
        if let Some(cut) = cut {
            let cut = (0..=cut.min(body.len())).rev().find(|at| body.is_char_boundary(*at)).unwrap();
            body.truncate(cut);
        }
        let options = RewriteOptions::new().with_forced_tool_choice_lost(lose).with_inference_geo_lost(lose);
        let body = Bytes::from(body);
        let Ok(new) = options.rewrite(&headers(), &body, &from, &to, ModelCatalog::builtin()) else {
            return Ok(());
        };
        let parse = |body: &Bytes| serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(body);
        let asked = parse(&body);
        let sent = parse(&new.body);
        let Ok(asked) = asked else { return Ok(()) };
        prop_assert!(sent.is_ok(), "{:?}", new.body);
        let sent = sent.unwrap();
        for key in asked.keys().chain(sent.keys()).filter(|key| *key != "model") {
            let raw = |map: &BTreeMap<String, Box<RawValue>>| map.get(key).map(|raw| raw.get().to_owned());
            let told = new.losses.iter().any(|loss| loss.field == key || loss.field.split('.').next() == Some(key));
            prop_assert_eq!(raw(&asked) != raw(&sent), told, "{} in {:?}", key, new.body);
        }
    }
}
