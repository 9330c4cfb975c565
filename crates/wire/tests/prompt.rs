//! Blocks of a prompt, and the bodies of `count_tokens`.

use std::{
    hash::{DefaultHasher, Hasher},
    time::Duration,
};

use proptest::prelude::*;
use tower_claude_wire::{
    BlockKind, Peek, Prompt, PromptPart, count_tokens_body, counted_tokens, tool_call_id,
};

/// Part, role and JSON of every block, and the seconds of its breakpoint.
fn blocks(body: &str) -> Vec<(PromptPart, String, String, Option<u64>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut seen = Vec::new();
    Prompt::parse(body.as_bytes())
        .expect("an object")
        .blocks(|block| {
            let seconds = block.breakpoint.map(|keep| keep.as_secs());
            seen.push((block.part, text(block.role), text(block.json), seconds));
        });
    seen
}

#[test]
fn blocks_are_in_the_order_of_the_cache() {
    let body = r#"{
        "messages": [
            {"content": [{"type":"text","text":"a"}, {"x":1,"cache_control":{"type":"ephemeral"}}], "role": "user"},
            {"role": "assistant", "content": "b"}
        ],
        "system": [{"text":"s","cache_control":{"ttl":"1h","type":"ephemeral"}}],
        "tools": [{"name":"t","cache_control":null}]
    }"#;
    let seen = blocks(body);
    let parts: Vec<_> = seen
        .iter()
        .map(|block| (block.0, block.1.as_str(), block.3))
        .collect();
    let expected = [
        (PromptPart::Tools, "", None),
        (PromptPart::System, "", Some(3_600)),
        (PromptPart::Messages, r#""user""#, None),
        (PromptPart::Messages, r#""user""#, Some(300)),
        (PromptPart::Messages, r#""assistant""#, None),
    ];
    assert_eq!(parts, expected);
    assert_eq!(seen[4].2, r#""b""#);
}

#[test]
fn automatic_caching_is_read_from_the_top_level() {
    let automatic = |body: &str| {
        Prompt::parse(body.as_bytes())
            .expect("an object")
            .automatic()
    };
    let hour = r#"{"cache_control":{"type":"ephemeral","ttl":"1h"}}"#;
    assert_eq!(automatic(hour), Some(Duration::from_secs(3_600)));
    assert_eq!(automatic(r#"{"cache_control":null}"#), None);
    assert_eq!(automatic(r#"{"system":[{"cache_control":{}}]}"#), None);
    let mentions = |body: &str| {
        Peek::parse(body.as_bytes())
            .unwrap()
            .mentions_cache_control()
    };
    assert!(mentions(hour));
    assert!(!mentions(r#"{"cache":1}"#));
}

#[test]
fn count_tokens_body_has_only_accepted_fields() {
    let body = br#"{"max_tokens":9,"model":"m","metadata":{},"system":"s","stream":true,"me\u0073sages":[ 1 ],"tools":[],"x":{}}"#;
    let counted = count_tokens_body(body).expect("an object");
    assert_eq!(
        counted,
        br#"{"model":"m","system":"s","me\u0073sages":[ 1 ],"tools":[]}"#
    );
    assert_eq!(count_tokens_body(b"{}").as_deref(), Some(&b"{}"[..]));
    assert_eq!(count_tokens_body(b"[]"), None);
    let beta = br#"{"context_management":{"edits":[]},"output_format":{},"mcp_servers":[],"thread":null,"messages":[]}"#;
    let sent = br#"{"context_management":{"edits":[]},"output_format":{},"messages":[]}"#;
    assert_eq!(count_tokens_body(beta).as_deref(), Some(&sent[..]));
    for rejected in [
        r#"{"tools":[{"name":"f"},{"ty\u0070e":"web_search_20250305"}]}"#,
        r#"{"tools":[{"type":"mcp_toolset","mcp_server_name":"crm"}],"messages":[]}"#,
        r#"{"mcp_servers":[{"name":"crm"}]}"#,
        r#"{"thread":{"type":"create"}}"#,
        r#"{"messages":[{"content":[{"type":"image", "source" : { "url":"u", "type":"url" } }]}]}"#,
    ] {
        assert_eq!(count_tokens_body(rejected.as_bytes()), None, "{rejected}");
    }
    assert_eq!(counted_tokens(br#"{"a":0,"input_tokens":7}"#), Some(7));
    assert_eq!(counted_tokens(br#"{"input_tokens":null}"#), None);
}

/// Returns the hashes of all blocks and of the settings.
fn hashes(body: &str) -> Vec<u64> {
    let prompt = Prompt::parse(body.as_bytes()).expect("an object");
    let mut settings = DefaultHasher::new();
    prompt.hash_settings_into(Some("high"), &mut settings);
    let mut hashes = vec![settings.finish()];
    prompt.blocks(|block| {
        let mut hasher = DefaultHasher::new();
        block.hash_into(&mut hasher);
        hashes.push(hasher.finish());
    });
    hashes
}

/// Returns a body whose only message has this content.
fn content(content: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#)
}

fn result(members: &str) -> String {
    content(&format!(
        r#"[{{"type":"tool_result","tool_use_id":"t"{members}}}]"#
    ))
}

#[test]
fn prompts_that_the_api_reads_as_equal_have_equal_hashes() {
    let text = |text: &str| content(&format!(r#"[{{"type":"text","text":{text}}}]"#));
    let system = |system: &str| format!(r#"{{"system":{system},"messages":[]}}"#);
    let tool = |tool: &str| format!(r#"{{"tools":[{tool}]}}"#);
    let with = |setting: &str| format!(r#"{{{setting}"messages":[]}}"#);
    let billed = |nonce: &str| {
        system(&format!(
            r#"[{{"type":"text","text":"x-anthropic-billing-header: cc_version=2.1.3; cch={nonce};"}}]"#
        ))
    };
    for (one, other) in [
        (content(r#""a b""#), text(r#""a b""#)),
        (system(r#""s""#), system(r#"[{"type":"text","text":"s"}]"#)),
        (system("null"), system("[]")),
        (
            result(r#","content":"c""#),
            result(r#","content":[{"type":"text","text":"c"}]"#),
        ),
        (result(r#","content":[]"#), result(r#","content":null"#)),
        (
            result(r#","content":"c""#),
            result(r#","is_error":false,"content":"c""#),
        ),
        (
            text(r#""a""#),
            content(r#"[{"text":"a","cache_control":{"type":"ephemeral"},"type":"text"}]"#),
        ),
        (
            text(r#""a""#),
            content(r#"[ {"type" : "text",  "citations": null, "text":"a" } ]"#),
        ),
        (text(r#""é / \n""#), text(r#""\u00E9 \/ \u000a""#)),
        (text(r#""😀""#), text(r#""\ud83d\ude00""#)),
        (
            text(r#""a""#),
            content(r#"[{"typ\u0065":"text","text":"\u0061"}]"#),
        ),
        (
            content(r#"[{"type":"image","source":{"type":"url","url":"u"}}]"#),
            content(r#"[{"source":{"url":"u","type":"url"},"type":"image"}]"#),
        ),
        (
            content(r#"[{"type":"document","title":"d"}]"#),
            content(
                r#"[{"type":"document","title":"d","citations": {"enabled" :false},"context":null}]"#,
            ),
        ),
        (
            content(r#"[{"type":"tool_use","id":"t","name":"n","input":{"a":[1,2]}}]"#),
            content(r#"[{"id":"t","input":{ "\u0061": [1, 2] },"name":"n","type":"tool_use"}]"#),
        ),
        (
            tool(r#"{"name":"n","input_schema":{"type":"object"}}"#),
            tool(
                r#"{"type":"custom","strict":false,"input_schema":{"type": "object"},"name":"n","description":null}"#,
            ),
        ),
        (with(""), with(r#""thinking":null,"#)),
        (
            with(""),
            with(r#""output_config":{},"tool_choice":{"type": "auto"},"#),
        ),
        (
            with(""),
            with(r#""output_config":{"effort":"high","format":null},"#),
        ),
        (
            with(r#""thinking":{"type":"enabled","budget_tokens":9},"#),
            with(r#""thinking":{"budget_tokens":9, "type":"enabled"},"#),
        ),
        (billed("a1b2c"), billed("00000")),
    ] {
        assert_eq!(hashes(&one), hashes(&other), "{one} {other}");
    }
}

#[test]
fn prompts_that_the_model_reads_as_different_have_different_hashes() {
    let used = |input: &str| content(&format!(r#"[{{"type":"tool_use","input":{input}}}]"#));
    let schema = |schema: &str| format!(r#"{{"tools":[{{"input_schema":{schema}}}]}}"#);
    let system = |text: &str| format!(r#"{{"system":"{text}"}}"#);
    let with = |setting: &str| format!(r#"{{{setting}"messages":[]}}"#);
    for (one, other) in [
        (content(r#""a b""#), content(r#""a  b""#)),
        (content(r#""a""#), content(r#""A""#)),
        (content(r#""1""#), content("1")),
        (used(r#"{"a":1,"b":2}"#), used(r#"{"b":2,"a":1}"#)),
        (used(r#"{"a":null}"#), used("{}")),
        (used(r#"{"is_error":false}"#), used("{}")),
        (used(r#"{"a":"1"}"#), used(r#"{"a":1}"#)),
        (used(r#"["a","b"]"#), used(r#"["a,b"]"#)),
        (used(r#"["ab","c"]"#), used(r#"["a","bc"]"#)),
        (used(r#"[[1],2]"#), used(r#"[1,[2]]"#)),
        (used("[1, 2]"), used("[12]")),
        (schema(r#"{"a":1,"b":2}"#), schema(r#"{"b":2,"a":1}"#)),
        (result(r#","is_error":true"#), result("")),
        (
            result(r#","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#),
            result(r#","content":[{"type":"text","text":"b"},{"type":"text","text":"a"}]"#),
        ),
        (result(r#","content":"a""#), content(r#""a""#)),
        (
            system("x-anthropic-billing-header: cc_version=1; cch=a;"),
            system("x-anthropic-billing-header: cc_version=2; cch=a;"),
        ),
        (system("cch=a;"), system("cch=b;")),
        (with(""), with(r#""tool_choice":{"type":"any"},"#)),
        (
            with(""),
            with(r#""tool_choice":{"type":"auto","disable_parallel_tool_use":true},"#),
        ),
        (with(""), with(r#""output_config":{"effort":"low"},"#)),
        (with(""), with(r#""thinking":{"type":"disabled"},"#)),
        (
            content(r#""a""#),
            content(r#""a""#).replace("user", "assistant"),
        ),
    ] {
        assert_ne!(hashes(&one), hashes(&other), "{one} {other}");
    }
}

#[test]
fn marker_in_the_content_of_a_tool_result_is_a_breakpoint() {
    let text = |text: &str, marked: bool| {
        let mark = r#","cache_control":{"type":"ephemeral"}"#;
        format!(
            r#"{{"type":"text","text":"{text}"{}}}"#,
            if marked { mark } else { "" }
        )
    };
    let body = |one, two| {
        let content = [text("a", one), text("b", two)].join(",");
        result(&format!(r#","content":[{content}],"is_error":false"#))
    };
    let kept = |body: &str| {
        blocks(body)
            .into_iter()
            .map(|block| block.3)
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(&body(false, false)), [None]);
    assert_eq!(kept(&body(false, true)), [Some(300)]);
    assert_eq!(kept(&body(true, false)), [Some(300), None]);
    assert_eq!(kept(&body(true, true)), [Some(300), Some(300)]);
    // The prefix up to the first text is a prompt of its own, and the whole has one hash.
    let [plain, last, both] =
        [(false, false), (false, true), (true, true)].map(|(one, two)| hashes(&body(one, two)));
    assert_eq!(plain, last);
    assert_eq!((both[0], both[2]), (plain[0], plain[1]));
    let first = hashes(&result(r#","content":"a""#));
    assert_eq!(both[1], first[1]);
}

#[test]
fn server_tool_is_recognized_by_its_type() {
    let has = |tools: &str| {
        let body = format!(r#"{{"tools":{tools}}}"#);
        Prompt::parse(body.as_bytes())
            .expect("an object")
            .has_server_tools()
    };
    assert!(has(
        r#"[{"name":"a"},{"type":"web_search_20260209","name":"web_search"}]"#
    ));
    assert!(!has(
        r#"[{"name":"a"},{"type":"custom"},{"type":"bash_20250124"}]"#
    ));
    assert!(!has("null"));
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = count_tokens_body(&body);
        let _ = counted_tokens(&body);
        if let Some(prompt) = Prompt::parse(&body) {
            let mut hasher = DefaultHasher::new();
            prompt.blocks(|block| block.hash_into(&mut hasher));
            prompt.hash_settings_into(None, &mut hasher);
        }
    }

    /// Arbitrary depth is hashed without recursion.
    #[test]
    fn damaged_and_nested_blocks_do_not_panic(
        depth in 0_usize..5_000,
        text in r#"[\[{}\]",:a0\\ ]{0,40}"#,
        object in any::<bool>(),
    ) {
        let open = if object { r#"{"a":"# } else { "[" };
        let damaged = content(&format!("[{}{text}", open.repeat(depth)));
        if Prompt::parse(damaged.as_bytes()).is_some() {
            hashes(&damaged);
        }
        let body = content(&format!(r#"[{{"content":{}1{}}}]"#, "[".repeat(depth), "]".repeat(depth)));
        hashes(&body);
    }

    #[test]
    fn count_tokens_body_has_unchanged_values(max in any::<u32>(), text in ".*", tools in any::<bool>()) {
        let mut body = serde_json::json!({
            "max_tokens": max, "messages": [{"role": "user", "content": text}], "model": text,
        });
        if tools {
            body["tools"] = serde_json::json!([{"name": text}]);
        }
        let counted = count_tokens_body(body.to_string().as_bytes()).expect("an object");
        let counted: serde_json::Value = serde_json::from_slice(&counted).expect("JSON");
        body.as_object_mut().expect("an object").remove("max_tokens");
        prop_assert_eq!(counted, body);
    }
}

#[test]
fn image_is_found_at_any_level_and_not_in_a_text() {
    let has_images = |content: &str| {
        let body = format!(
            r#"{{"system":"\"image\"","messages":[{{"role":"user","content":{content}}}]}}"#
        );
        Prompt::parse(body.as_bytes())
            .expect("an object")
            .has_images()
    };
    let image = r#"[{"type":"image","source":{}}]"#;
    assert!(has_images(image));
    assert!(has_images(&format!(
        r#"[{{"type":"tool_result","content":{image}}}]"#
    )));
    assert!(!has_images(r#"[{"type":"text","text":"an \"image\""}]"#));
}

/// A prompt with blocks of all kinds, in an unusual order of members.
const MIXED: &str = r#" { "messages" : [
    {"content":[{"text":"a \"b\" [c] {d}","type":"text"},{"type":"text","text":""}],"role":"user"},
    {"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":"s"},
        {"type":"tool_use","id":"1","name":"n","input":{"a":[{"type":"text"}]}},
        {"type":"tool_use","id":"2","name":"n","input":{},"caller":{"type":"code"}},
        {"type":"tool_use","id":"3","name":"n","input":{},"caller":{"type":"direct"}}]},
    {"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"r"}]},
        {"type":"image","source":{"type":"base64","data":"aGk="}},
        {"type":"document","source":{"type":"text","data":"d"}}, {"type":"t\u0065xt","text":"e"},
        {"type":"text","text":"soon gone","clear_at":"end_turn"},{"type":"text","text":" \\n"}]},
    {"role":"system","content":"s"}, {"content":"no role"}, {"role":"user"}, {"role":"user","content":""}, {"role":"user","content":"  "},
    {"role":"user","content":"last"} ],
    "system" : [ {"type":"text","text":"one"} , {"type":"text","text":"two"} ], "model":"m",
    "tools":[{"name":"a","input_schema":{"type":"object"}},{"name":"b","defer_loading":true},
        {"type":"web_search_20250305","name":"web_search"}, {} ] } "#;

#[test]
fn plain_blocks_are_those_of_the_general_walk() {
    for body in [
        MIXED,
        r#"{"system":"text","messages":[]}"#,
        r#"{"messages":{"role":"user"},"system":7,"tools":"t"}"#,
        r#"{"messages":["a",null,{"role":"user","content":[3,null,{"type":"text","text":"y"}]}]}"#,
    ] {
        let prompt = Prompt::parse(body.as_bytes()).expect("an object");
        let mut general = Vec::new();
        prompt.blocks(|block| {
            let range = block.range_in(body.as_bytes());
            let takes = block.takes_breakpoint();
            general.push((
                block.part,
                block.message,
                block.role,
                block.kind(),
                range,
                takes,
            ));
        });
        let mut plain = Vec::new();
        prompt.plain_blocks(|block| {
            let range = block.range_in(body.as_bytes());
            let takes = block.takes_breakpoint;
            plain.push((
                block.part,
                block.message,
                block.role,
                block.kind,
                range,
                takes,
            ));
        });
        assert_eq!(plain, general, "{body}");
    }
}

#[test]
fn cut_prompt_is_walked_without_a_panic() {
    for end in 0..MIXED.len() {
        let cut = &MIXED.as_bytes()[..end];
        // A prompt of which only the messages are cut is one that was taken from a longer text.
        let messages = [br#"{"messages":"#, cut, b"}"].concat();
        for body in [cut, &messages] {
            if let Some(prompt) = Prompt::parse(body) {
                prompt.plain_blocks(|block| assert!(block.range_in(body).is_some()));
            }
        }
    }
}

#[test]
fn text_of_white_space_takes_no_breakpoint() {
    let takes = |content: &str| {
        let body = format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
        let mut takes = Vec::new();
        let prompt = Prompt::parse(body.as_bytes()).expect("an object");
        prompt.blocks(|block| takes.push(block.takes_breakpoint()));
        takes
    };
    for (text, expected) in [
        ("", false),
        (r" \n\t\r ", false),
        (r"\na", true),
        (r"\\", true),
    ] {
        let block = format!(r#"[{{"type":"text","text":"{text}"}}]"#);
        assert_eq!(takes(&block), [expected], "{text}");
        let plain = format!("\"{text}\"");
        let seen = takes(&plain);
        assert_eq!(
            seen,
            if text.is_empty() {
                vec![]
            } else {
                vec![expected]
            },
            "{text}"
        );
    }
}

#[test]
fn call_and_result_share_their_id() {
    let call = br#"{"type":"tool_use","id":"a"}"#;
    let result = br#"{"type":"tool_result","tool_use_id":"a"}"#;
    assert_eq!(tool_call_id(BlockKind::ToolUse, call).as_deref(), Some("a"));
    assert_eq!(
        tool_call_id(BlockKind::ToolResult, result).as_deref(),
        Some("a")
    );
    assert_eq!(tool_call_id(BlockKind::ToolResult, call), None);
    assert_eq!(tool_call_id(BlockKind::Text, call), None);
}
