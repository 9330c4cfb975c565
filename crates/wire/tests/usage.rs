//! Usage and stop reason of whole messages.

use proptest::prelude::*;
use serde_json::json;
use tower_claude_wire::{ServiceTier, Speed, Usage, counted_tokens, stop_reason};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name)).as_slice()
    };
}

fn of(json: &serde_json::Value) -> Usage {
    Usage::from_usage_object(json.to_string().as_bytes()).expect("an object")
}

#[test]
fn counts_of_a_message_are_read() {
    let body = fixture!("200_message.json");
    let usage = Usage::from_message(body).expect("usage");
    assert_eq!(usage.input_tokens, Some(50));
    assert_eq!(usage.cache_creation_input_tokens, Some(248));
    assert_eq!(usage.cache_read_input_tokens, Some(1800));
    assert_eq!(usage.output_tokens, Some(503));
    assert_eq!(usage.thinking_tokens, Some(320));
    assert_eq!(
        (usage.iterations_input, usage.iterations_output),
        (None, None)
    );
    assert_eq!(usage.limited_input(), Some(298));
    assert_eq!(usage.limited_output(), Some(503));
    assert_eq!(stop_reason(body).as_deref(), Some("end_turn"));
}

#[test]
fn counts_of_a_refusal_are_read() {
    let body = fixture!("200_refusal.json");
    let usage = Usage::from_message(body).expect("usage");
    assert_eq!(
        (usage.limited_input(), usage.limited_output()),
        (Some(412), Some(0))
    );
    assert_eq!(usage.cache_creation_input_tokens, None);
    assert_eq!(stop_reason(body).as_deref(), Some("refusal"));
}

#[test]
fn usage_of_server_side_fallback_includes_iterations() {
    let usage = Usage::from_message(fixture!("200_server_fallback.json")).expect("usage");
    assert_eq!(
        (usage.input_tokens, usage.output_tokens),
        (Some(412), Some(264))
    );
    assert_eq!(
        (usage.limited_input(), usage.limited_output()),
        (Some(947), Some(264))
    );
}

#[test]
fn facts_that_change_the_price_are_read() {
    let usage = of(&json!({
        "input_tokens": 12, "cache_creation_input_tokens": 300, "output_tokens": 8,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 9},
        "service_tier": "batch", "speed": "fast", "inference_geo": "us",
    }));
    assert_eq!(usage.cache_creation_input_tokens, Some(300));
    assert_eq!(usage.cache_creation_1h_input_tokens, Some(200));
    assert_eq!(usage.web_search_requests, Some(3));
    assert_eq!(usage.service_tier, Some(ServiceTier::Batch));
    assert_eq!(usage.speed, Some(Speed::Fast));
    assert_eq!(usage.us_inference, Some(true));
    // The usual values are skipped as text, so they must mean the same.
    let usual = Usage::from_message(fixture!("200_message.json")).expect("usage");
    let spaced = Usage::from_usage_object(br#"{"service_tier" : "standard"}"#).expect("an object");
    assert_eq!(usual.service_tier, Some(ServiceTier::Standard));
    assert_eq!(spaced.service_tier, Some(ServiceTier::Standard));
    let whole = r#"{"speed":"standard","inference_geo":"global","server_tool_use":{"web_search_requests":0,"web_fetch_requests":0}}"#;
    for text in [whole.to_owned(), whole.replace(':', ": ")] {
        let usage = Usage::from_usage_object(text.as_bytes()).expect("an object");
        assert_eq!(
            (usage.speed, usage.us_inference),
            (Some(Speed::Standard), Some(false))
        );
        assert_eq!(usage.web_search_requests, Some(0), "{text}");
    }
}

#[test]
fn usual_members_mean_the_same_tight_and_spaced() {
    let members = [
        r#""input_tokens":5"#,
        r#""cache_creation_input_tokens":0"#,
        r#""cache_read_input_tokens":7"#,
        r#""cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}"#,
        r#""output_tokens":9"#,
        r#""output_tokens_details":{"thinking_tokens":3}"#,
        r#""service_tier":"standard""#,
        r#""inference_geo":"global""#,
        r#""server_tool_use":{"web_search_requests":0,"web_fetch_requests":0}"#,
        r#""speed":"standard""#,
    ];
    let read = |text: &str| Usage::from_usage_object(text.as_bytes()).expect("an object");
    for subset in 0..1_u32 << members.len() {
        let is_in = |(index, _): &(usize, &&str)| subset >> index & 1 == 1;
        let mut chosen: Vec<&str> = members
            .iter()
            .enumerate()
            .filter(is_in)
            .map(|(_, member)| *member)
            .collect();
        for _ in 0..2 {
            let tight = format!("{{{}}}", chosen.join(","));
            let spaced = tight.replace(':', ": ").replace(',', " , ");
            assert_eq!(read(&tight), read(&spaced), "{tight}");
            chosen.reverse();
        }
    }
    // A split alone determines the sum.
    assert_eq!(
        read(&format!("{{{}}}", members[3])).cache_creation_input_tokens,
        Some(0)
    );
}

#[test]
fn facts_that_change_the_price_survive_a_merge() {
    let mut usage = of(&json!({
        "input_tokens": 5, "service_tier": "standard", "inference_geo": "us", "speed": "fast",
        "cache_creation": {"ephemeral_1h_input_tokens": 7}, "output_tokens": 1,
    }));
    let last = json!({"output_tokens": 9, "service_tier": "batch", "fallback_credit": {},
        "iterations": [{"model": "claude-opus-5", "output_tokens": 9}]});
    usage.merge(&of(&last));
    usage.merge(&of(&json!({"output_tokens": 9})));
    assert_eq!(usage.service_tier, Some(ServiceTier::Batch));
    assert_eq!(
        (usage.speed, usage.us_inference),
        (Some(Speed::Fast), Some(true))
    );
    assert_eq!(usage.cache_creation_1h_input_tokens, Some(7));
    assert!(usage.has_fallback_credit);
    let iterations = usage.iterations.expect("they are kept");
    assert_eq!(iterations[0].model.as_deref(), Some("claude-opus-5"));
}

#[test]
fn usage_of_a_compaction_is_read_from_iterations() {
    let usage = of(&json!({
        "input_tokens": 23_000, "cache_creation_input_tokens": 7, "output_tokens": 1_000,
        "iterations": [
            {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500},
            {"type": "message", "input_tokens": 23_000, "cache_creation_input_tokens": 7,
             "cache_read_input_tokens": null, "output_tokens": 1_000},
            {"type": "unheard_of"}, null, 5,
        ],
    }));
    assert_eq!(usage.limited_input(), Some(203_007));
    assert_eq!(usage.limited_output(), Some(4_500));
    assert_eq!(usage.output_tokens, Some(1_000));
}

#[test]
fn empty_or_null_iterations_are_ignored() {
    for iterations in [json!([]), json!(null), json!("x")] {
        let usage = of(&json!({"input_tokens": 5, "output_tokens": 6, "iterations": iterations}));
        assert_eq!(
            (usage.iterations_input, usage.iterations_output),
            (None, None)
        );
        assert_eq!(
            (usage.limited_input(), usage.limited_output()),
            (Some(5), Some(6))
        );
    }
}

#[test]
fn nested_iterations_are_ignored() {
    let usage =
        of(&json!({"iterations": [{"input_tokens": 1, "iterations": [{"input_tokens": 100}]}]}));
    assert_eq!(usage.limited_input(), Some(1));
    // However deep: each level would be a call.
    let deep = format!(
        "{}1{}",
        r#"{"iterations":["#.repeat(100_000),
        "]}".repeat(100_000)
    );
    let usage = Usage::from_usage_object(deep.as_bytes()).expect("an object");
    assert!(usage.is_empty());
}

#[test]
fn malformed_counts_are_unknown() {
    let usage = of(&json!({
        "input_tokens": null, "cache_creation_input_tokens": -1, "cache_read_input_tokens": "3",
        "output_tokens": 1.5, "output_tokens_details": null, "service_tier": "standard",
    }));
    assert!(usage.is_empty());
    assert_eq!(
        (usage.limited_input(), usage.limited_output()),
        (None, None)
    );
}

#[test]
fn unknown_details_are_ignored() {
    let usage = br#"{"output_tokens_details":{"thinking_tokens":5,"other":6},"cache_creation":{"ephemeral_1h_input_tokens":7,"other":8},"output_tokens":9}"#;
    let usage = Usage::from_usage_object(usage).expect("an object");
    assert_eq!(usage.thinking_tokens, Some(5));
    assert_eq!(usage.cache_creation_1h_input_tokens, Some(7));
    assert_eq!(usage.output_tokens, Some(9));
}

/// A subtraction below zero on the server, in 64 and in 32 bits.
#[test]
fn absurd_counts_are_unknown() {
    for absurd in [u64::MAX, u64::from(u32::MAX), 1 << 26] {
        let counts = json!({"input_tokens": absurd, "output_tokens": absurd});
        assert!(of(&counts).is_empty(), "{absurd}");
        let usage = of(&json!({"iterations": [counts, {"input_tokens": 3, "output_tokens": 4}]}));
        assert_eq!(
            (usage.limited_input(), usage.limited_output()),
            (Some(3), Some(4))
        );
        let body = format!(r#"{{"content":[],"usage":{counts}}}"#);
        assert_eq!(
            Usage::from_message(body.as_bytes()),
            Some(Usage::default()),
            "{absurd}"
        );
    }
    assert_eq!(
        of(&json!({"input_tokens": (1 << 26) - 1})).input_tokens,
        Some((1 << 26) - 1)
    );
}

#[test]
fn whole_numbers_in_any_notation_are_read() {
    for number in ["2700", "2700.0", "2.7e3", "27E2"] {
        let body = format!(r#"{{"usage":{{"input_tokens":{number},"output_tokens":1.0}}}}"#);
        let usage = Usage::from_message(body.as_bytes()).expect("usage");
        assert_eq!(
            (usage.input_tokens, usage.output_tokens),
            (Some(2_700), Some(1)),
            "{number}"
        );
        let count = format!(r#"{{"input_tokens":{number}}}"#);
        assert_eq!(counted_tokens(count.as_bytes()), Some(2_700), "{number}");
    }
}

#[test]
fn message_without_usage_is_none() {
    for body in [
        "",
        "[]",
        "{}",
        r#"{"usage":null}"#,
        r#"{"usage":{"input_tokens":1}"#,
        r#"{"content":[{"usage":{}}]}"#,
    ] {
        assert_eq!(Usage::from_message(body.as_bytes()), None, "{body}");
    }
    assert_eq!(
        Usage::from_message(br#"{"usage":{}}"#),
        Some(Usage::default())
    );
    for body in [
        "",
        "{}",
        r#"{"stop_reason":null}"#,
        r#"{"a":{"stop_reason":"refusal"}}"#,
        r#"{"stop_reason":"x""#,
    ] {
        assert_eq!(stop_reason(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn merge_keeps_counts_absent_in_the_later_usage() {
    let mut usage =
        of(&json!({"input_tokens": 25, "cache_read_input_tokens": 1000, "output_tokens": 1}));
    usage.merge(&of(&json!({"output_tokens": 15})));
    usage.merge(&of(
        &json!({"output_tokens": 40, "output_tokens_details": {"thinking_tokens": 9}}),
    ));
    assert_eq!(usage.input_tokens, Some(25));
    assert_eq!(usage.cache_read_input_tokens, Some(1000));
    assert_eq!(usage.output_tokens, Some(40));
    assert_eq!(usage.thinking_tokens, Some(9));
    usage.merge(&Usage::default());
    assert_eq!(usage.output_tokens, Some(40));
    // Counts are cumulative, so a smaller one is no news.
    usage.merge(&of(
        &json!({"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0}),
    ));
    assert_eq!(
        (usage.input_tokens, usage.cache_read_input_tokens),
        (Some(25), Some(1000))
    );
    assert_eq!(usage.output_tokens, Some(40));
}

#[test]
fn merged_usage_takes_the_maximum_of_top_level_and_iterations() {
    let mut usage =
        of(&json!({"output_tokens": 1, "iterations": [{"type": "message", "output_tokens": 1}]}));
    usage.merge(&of(&json!({"output_tokens": 900})));
    assert_eq!(usage.limited_output(), Some(900));
    let mut usage = of(&json!({"input_tokens": 1, "iterations": [{"input_tokens": 1}]}));
    usage.merge(&of(&json!({"input_tokens": 900})));
    assert_eq!(usage.limited_input(), Some(900));
}

/// The value of `usage`, as a general parser finds it.
fn by_value(body: &str) -> Option<Usage> {
    let message: serde_json::Value = serde_json::from_str(body).expect("valid JSON");
    Usage::from_usage_object(message.get("usage")?.to_string().as_bytes())
}

#[test]
fn usage_agrees_with_serde_json() {
    for body in [
        r#"{"usage":{}}"#,
        r#" { "usage" : { "input_tokens" : 1 } , "b" : 2 } "#,
        r#"{"usage":{"input_tokens":1},"usage":{"output_tokens":2}}"#,
        r#"{"usage":{"input_tokens":1},"usage":null}"#,
        r#"{"usage":null,"usage":{"input_tokens":1}}"#,
        r#"{"usage":[{"input_tokens":1}]}"#,
        r#"{"us\u0061ge":{"input_tokens":1}}"#,
        r#"{"usage":{"input_tokens":1,"x":{"input_tokens":5}},"x":{"usage":{"input_tokens":9}}}"#,
        r#"{"usage":{"input\u005ftokens":3,"iterations":[{"output_tokens":4}]}}"#,
    ] {
        assert_eq!(
            Usage::from_message(body.as_bytes()),
            by_value(body),
            "{body}"
        );
    }
    for damaged in [
        r#"{"usage":{"input_tokens":1}"#,
        r#"{"usage":{"input_tokens":1}}}"#,
        r#"{"usage":{"input_tokens":1]}"#,
        r#"{"usage":{"input_tokens" 1}}"#,
        r#"{"usage":{"input_tokens":1} "b":2}"#,
        r#"{"usage":{"input_tokens":1}},"#,
    ] {
        assert_eq!(Usage::from_message(damaged.as_bytes()), None, "{damaged}");
    }
    // Only the last one of duplicates is read.
    let first_damaged = br#"{"usage":{"input_tokens" 1},"usage":{"input_tokens":2}}"#;
    let usage = Usage::from_message(first_damaged).expect("the second");
    assert_eq!(usage.input_tokens, Some(2));
}

/// Members of messages whose `usage` is easy to confuse with another part.
fn members() -> impl Strategy<Value = Vec<String>> {
    let count = prop_oneof![
        any::<u64>().prop_map(|count| count.to_string()),
        prop::sample::select(vec![
            "null",
            "0",
            "-1",
            "1.5",
            "\"3\"",
            "18446744073709551616",
            "{}"
        ])
        .prop_map(str::to_owned),
    ];
    let key = prop::sample::select(vec![
        "input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
        "input\\u005ftokens",
        "other",
    ]);
    let counts = prop::collection::vec((key, count), 0..5).prop_map(|counts| {
        let counts: Vec<_> = counts
            .iter()
            .map(|(key, count)| format!("\"{key}\":{count}"))
            .collect();
        format!("{{{}}}", counts.join(","))
    });
    let usage = prop_oneof![
        3 => counts.clone(),
        1 => counts.clone().prop_map(|counts| format!("{{\"iterations\":[{counts},{counts}]}}")),
        1 => counts.clone().prop_map(|counts| {
            format!("{{\"output_tokens_details\":{{\"thinking_tokens\":5}},\"x\":{counts},\"output_tokens\":2}}")
        }),
        1 => counts.clone().prop_map(|counts| counts.replace(',', " ,\n ")),
        1 => prop::sample::select(vec!["null", "[]", "{}", " {} "]).prop_map(str::to_owned),
    ];
    let member = prop_oneof![
        3 => usage.clone().prop_map(|usage| format!("\"usage\":{usage}")),
        1 => usage.clone().prop_map(|usage| format!("\"us\\u0061ge\": {usage}")),
        2 => usage.clone().prop_map(|usage| format!("\"content\":[{{\"usage\":{usage}}}]")),
        1 => usage.prop_map(|usage| format!("\"a\":{{\"b\":1,\"usage\":{usage},\"c\":2}}")),
        1 => Just(r#""text":"{,\"usage\":{\"input_tokens\":7}}""#.to_owned()),
        1 => (0..1_500_usize).prop_map(|length| format!("\"long\":\"{}\"", "x".repeat(length))),
    ];
    prop::collection::vec(member, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_048))]

    #[test]
    fn usage_of_any_message_agrees_with_serde_json(
        members in members(),
        space in prop::sample::select(vec!["", " ", "\n  "]),
    ) {
        let body = format!("{{{}}}", members.join(&format!("{space},{space}")));
        prop_assert_eq!(Usage::from_message(body.as_bytes()), by_value(&body), "{}", body);
    }

    #[test]
    fn any_bytes_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Usage::from_message(&body);
        let _ = Usage::from_usage_object(&body);
        let _ = stop_reason(&body);
    }

    #[test]
    fn damaged_message_does_not_panic(at in 0usize..2000, byte in any::<u8>(), cut in 0usize..2000) {
        for fixture in [fixture!("200_message.json"), fixture!("200_server_fallback.json")] {
            let mut body = fixture.to_vec();
            let at = at % body.len();
            body[at] = byte;
            let _ = Usage::from_message(&body);
            let _ = Usage::from_message(&body[..cut.min(body.len())]);
            let _ = stop_reason(&body);
        }
    }
}
