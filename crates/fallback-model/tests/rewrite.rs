//! Single rewrites, compared byte by byte, and invalid requests.

use bytes::Bytes;
use http::HeaderMap;
use proptest::prelude::*;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use tower_claude_fallback_model::{RewriteOptions, Rewritten, Unportable, Why, rewrite};
use tower_claude_wire::{Model, ModelCatalog, Platform};

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
        ("1e999", "64000"),
        ("64001.0", "64000"),
        ("1.28e5", "64000"),
        ("64000.0", "64000.0"),
        ("6.4e4", "6.4e4"),
        ("64000.5", "64000.5"),
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
    // An estimate does not overrule a model with the same window.
    swap(&long, "claude-sonnet-4-5", "claude-haiku-4-5");
    // The data of an image costs few tokens, and the text beside an image as many as without.
    let image = |data: &str| {
        let source = format!(r#"{{"type":"base64","media_type":"image/png","data":"{data}"}}"#);
        format!(r#"[{{"type":"text","text":"TEXT"}},{{"type":"image","source":{source}}}]"#)
    };
    let text = format!("\"{}\"", "x".repeat(900_000));
    let beside = |data: &str, words: &str| {
        let content = image(data).replace("TEXT", words);
        long.replace(&text, &content)
    };
    let words = "quartz meadow ".repeat(65_000);
    let document = image(&"JVBERi0x".repeat(40_000)).replace("image/png", "application/pdf");
    for fits in [
        beside(&"iVBORw0K".repeat(100_000), "hi"),
        long.replace(&text, &document),
    ] {
        swap(&fits, "claude-sonnet-4-6", "claude-haiku-4-5");
    }
    for data in ["iVBORw0KGgo=".to_owned(), "iVBORw0K".repeat(100_000)] {
        let field = unportable(&beside(&data, &words), "claude-haiku-4-5").0;
        assert_eq!(field, "messages");
    }
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
            r#""thread":{"type":"continue","previous_message_id":"msg_1"}"#,
            "claude-opus-5",
            "claude-opus-5-5",
            "thread: continues a thread of another model",
        ),
        (
            r#""messages":[{"role":"user","output_config":{"effort":"low"}}],"thinking":{"type":"disabled"}"#,
            "m",
            "claude-opus-5",
            "messages: an effort of its own for one turn is rejected",
        ),
        (
            r#""tools":[{"type":"web_search_20260209","name":"web_search"}]"#,
            "claude-opus-5-5",
            "claude-haiku-4-5",
            "tools: a tool that is called from code, which is rejected",
        ),
        (
            r#""tools":[{"name":"q","allowed_callers":["direct","code_execution_20260120"]}]"#,
            "claude-opus-5-5",
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "tools: a tool that is called from code, which is rejected",
        ),
        (
            r#""tools":[{"type":"computer_toolset_20260801"}]"#,
            "claude-opus-5-5",
            "claude-opus-4-7",
            "tools: a tool of a type that is rejected",
        ),
        (
            r#""tools":[{"type":"advisor_20260301","name":"advisor","model":"claude-opus-5"}]"#,
            "claude-haiku-4-5",
            "claude-fable-5-2",
            "tools: an advisor that this model may not call",
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

const KEYS: &str = "(model|mod\\\\u0065l|max_tokens|thinking|output_config|tool_choice|temperature|top_p|top_k|speed|inference_geo|fallbacks|context_management|compaction|thread|messages|system|tools|a|b|c)";

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

/// Edits of the context that the target rejects, and the beta of the field.
#[test]
fn context_edit_without_thinking_is_removed_with_its_beta() {
    let forced = r#"{"model":"M","max_tokens":8000,"thinking":{"type":"adaptive"},"tool_choice":{"type":"any"},"tools":[{"name":"t","input_schema":{"type":"object"}}],"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},"messages":[{"role":"user","content":"hi"}]}"#;
    let sampled = r#"{"model":"M","max_tokens":4096,"temperature":1,"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},"messages":[{"role":"user","content":"hi"}]}"#;
    let beta = "context-management-2025-06-27";
    let with = |body: &str, from: &str, to: &str| {
        let mut headers = headers();
        headers.insert("anthropic-beta", beta.parse().unwrap());
        let body = Bytes::from(body.replace("\"M\"", &format!("\"{from}\"")));
        rewrite(&headers, &body, from, to, ModelCatalog::builtin()).unwrap()
    };
    for (body, from, to) in [
        (forced, "claude-opus-4-8", "claude-haiku-4-5"),
        (forced, "claude-opus-4-8", "claude-opus-4-5"),
        (forced, "claude-opus-4-8", "claude-sonnet-4-5"),
        (sampled, "claude-opus-5-5", "claude-haiku-4-5"),
        (sampled, "claude-opus-5-5", "claude-opus-4-5"),
        (sampled, "claude-opus-5-5", "claude-opus-4-8"),
        (sampled, "claude-opus-5-5", "claude-sonnet-4-5"),
        (sampled, "claude-opus-5-5", "claude-sonnet-4-6"),
    ] {
        let new = with(body, from, to);
        let text = String::from_utf8(new.body.to_vec()).unwrap();
        assert!(
            !text.contains("context_management"),
            "{from} -> {to}: {text}"
        );
        assert!(
            !new.headers.contains_key("anthropic-beta"),
            "{from} -> {to}"
        );
        let lost: Vec<_> = new.losses.iter().map(|loss| loss.field).collect();
        assert!(
            lost.contains(&"context_management") && lost.contains(&"anthropic-beta"),
            "{lost:?}"
        );
    }
    // The edit stays where the model thinks, and others stay beside it.
    let new = with(sampled, "claude-opus-5-5", "claude-sonnet-5-5");
    assert_eq!(new.headers["anthropic-beta"], beta);
    let two = sampled.replace(
        "\"all\"}",
        "\"all\"}, {\"type\":\"clear_tool_uses_20250919\"}",
    );
    let new = with(&two, "claude-opus-5-5", "claude-opus-4-8");
    let text = String::from_utf8(new.body.to_vec()).unwrap();
    assert!(
        text.contains(r#""context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}"#),
        "{text}"
    );
    assert_eq!(new.headers["anthropic-beta"], beta);
}

#[test]
fn continuation_after_a_pause_is_portable() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"text","text":"a"},{"type":"server_tool_use","id":"s","name":"web_search","input":{}}]}]}"#;
    swap(body, "claude-opus-5-5", "claude-sonnet-5-5");
    let prefill = body.replace("server_tool_use", "tool_use");
    assert_eq!(unportable(&prefill, "claude-sonnet-5-5").0, "messages");
}

#[test]
fn thinking_is_not_turned_on_while_a_tool_result_is_answered() {
    let body = r#"{"model":"m","max_tokens":20000,"thinking":{"type":"adaptive"},"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t"}]}]}"#;
    let (sent, losses) = swap(body, "claude-opus-5-5", "claude-haiku-4-5");
    assert!(!sent.contains("thinking"), "{sent}");
    assert_eq!(losses, [("thinking", Why::Unsupported)]);
    let (sent, _) = swap(
        &body.replace("tool_result", "text"),
        "claude-opus-5-5",
        "claude-haiku-4-5",
    );
    assert!(sent.contains("\"enabled\""), "{sent}");
}

#[test]
fn fast_mode_depends_on_the_platform_and_the_day() {
    let body = Bytes::from_static(br#"{"model":"m","speed":"fast"}"#);
    let day = |date: &str| {
        let json = format!(r#"{{"as_of":"{date}","models":{{}}}}"#);
        ModelCatalog::from_json(&json).unwrap().as_of_time()
    };
    let beta = "fast-mode-2026-02-01";
    for (to, platform, date, expected) in [
        (
            "claude-opus-5",
            Platform::ClaudeApi,
            "2026-11-29",
            Some(Some(beta)),
        ),
        (
            "claude-opus-5",
            Platform::GoogleAnthropic,
            "2026-11-29",
            None,
        ),
        (
            "claude-opus-5-5",
            Platform::ClaudeApi,
            "2026-11-29",
            Some(None),
        ),
        (
            "claude-opus-5-5",
            Platform::GoogleAnthropic,
            "2026-11-29",
            Some(None),
        ),
        (
            "anthropic.claude-opus-5-5",
            Platform::Bedrock,
            "2026-11-29",
            None,
        ),
        (
            "claude-fable-5-2",
            Platform::ClaudeApi,
            "2026-11-29",
            Some(None),
        ),
        ("claude-fable-5-1", Platform::ClaudeApi, "2026-11-29", None),
        (
            "claude-opus-4-8",
            Platform::ClaudeApi,
            "2026-11-29",
            Some(Some(beta)),
        ),
        ("claude-opus-4-8", Platform::ClaudeApi, "2026-11-30", None),
    ] {
        let options = RewriteOptions::new()
            .with_platform(platform)
            .with_now(day(date));
        let new = options.rewrite(
            &headers(),
            &body,
            "claude-fable-5-2",
            to,
            ModelCatalog::builtin(),
        );
        let new = new.unwrap();
        let sent = std::str::from_utf8(&new.body).unwrap().contains("fast");
        let header = new
            .headers
            .get("anthropic-beta")
            .map(|line| line.to_str().unwrap());
        assert_eq!(
            sent.then_some(header),
            expected,
            "{to} on {platform:?}, {date}"
        );
        assert!(sent || header.is_none());
    }
    // The tools and the end of a model depend on both as well.
    let computer = Bytes::from_static(br#"{"model":"m","tools":[{"type":"computer_20251124"}]}"#);
    for (to, platform, date, field) in [
        (
            "claude-fable-5-2",
            Platform::ClaudeApi,
            "2026-11-29",
            Some("tools"),
        ),
        (
            "anthropic.claude-fable-5-2",
            Platform::Bedrock,
            "2026-11-29",
            None,
        ),
        (
            "claude-haiku-5-5",
            Platform::Vertex,
            "2026-11-29",
            Some("tools"),
        ),
        ("claude-haiku-5-5", Platform::Foundry, "2026-11-29", None),
        ("claude-opus-4-5", Platform::ClaudeApi, "2027-01-21", None),
        (
            "claude-opus-4-5",
            Platform::ClaudeApi,
            "2027-01-22",
            Some("model"),
        ),
        (
            "anthropic.claude-opus-4-5",
            Platform::Bedrock,
            "2027-01-22",
            None,
        ),
        (
            "claude-opus-4-5",
            Platform::Bedrock,
            "2027-01-22",
            Some("model"),
        ),
    ] {
        let options = RewriteOptions::new()
            .with_platform(platform)
            .with_now(day(date));
        let new = options.rewrite(
            &headers(),
            &computer,
            "claude-opus-5",
            to,
            ModelCatalog::builtin(),
        );
        let found = new.err().map(|unportable| unportable.field.into_owned());
        assert_eq!(found.as_deref(), field, "{to} on {platform:?}, {date}");
    }
    let forced = Bytes::from_static(br#"{"model":"m","tool_choice":{"type":"any"}}"#);
    for (platform, is_portable) in [(Platform::ClaudeApi, true), (Platform::Bedrock, false)] {
        let options = RewriteOptions::new().with_platform(platform);
        let new = options.rewrite(
            &headers(),
            &forced,
            "claude-opus-5",
            "anthropic.claude-sonnet-5",
            ModelCatalog::builtin(),
        );
        assert_eq!(new.is_ok(), is_portable, "{platform:?}");
    }
}
