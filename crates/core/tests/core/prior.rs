//! The estimate of a first request, before any usage is known.

use http::Request;
use proptest::prelude::*;
use tower_claude_core::{EstimateCost, HeuristicCost, RequestBody};

const RATIOS: &str = include_str!("../fixtures/token_ratios.csv");

/// Returns a text of a kind.
fn text(kind: &str) -> &'static str {
    match kind {
        "prose" => {
            "The committee met again on Tuesday and, after some debate, put off its decision. \
             Nobody had expected the chairman to agree with the minority, but he did: \"It is \
             late,\" he said, and that was that. Outside, the rain had stopped.\n\nIn the morning \
             the papers wrote of a defeat, which it was not, or not yet.\n"
        }
        "code" => {
            "/// Returns the sum of all prices.\npub fn total(items: &[Item]) -> u64 {\n    let mut \
             sum = 0;\n    for item in items {\n        if item.kind == \"book\" {\n            sum \
             += item.price * 2;\n        }\n    }\n    println!(\"{sum}\\n\");\n    sum\n}\n\n"
        }
        "json" => {
            "{\"id\": 42, \"tags\": [\"a\", \"north\"], \"ok\": true, \"name\": \"J. Doe\", \
             \"at\": \"2026-11-29T10:00:00Z\", \"price\": {\"value\": 19.9, \"unit\": \"EUR\"}}\n"
        }
        "markdown" => {
            "## Title\n\n* **item** <b>one</b> [link](https://a.example/c)\n* `code` and *more*\n\n\
             | a | b |\n|---|---|\n| 1 | <i>2</i> |\n\nA paragraph with a few words of text.\n"
        }
        "world" => {
            "東京の天気を教えてください。 Привет, мир! Καλημέρα κόσμε. 안녕하세요, 세계. مرحبا \
             بالعالم. 今天的会议推迟到星期二。 A word.\n"
        }
        "combining" => "e\u{301}a\u{300}o\u{302}n\u{303}u\u{308} ",
        "emoji" => "🎉 go 🚀 ok 😀👍 ",
        other => panic!("no text of the kind {other}"),
    }
}

fn estimate(body: &serde_json::Value) -> u64 {
    let request = Request::new(RequestBody::from(body.to_string()));
    HeuristicCost::default().estimate(&request).input_tokens
}

fn message(model: &str, content: &str) -> serde_json::Value {
    serde_json::json!({
        "model": model, "max_tokens": 9, "messages": [{"role": "user", "content": content}],
    })
}

/// Returns the estimate of a text of a kind divided by its recorded tokens.
fn ratio(kind: &str, per_token: f64, repeats: usize) -> f64 {
    let content = text(kind).repeat(repeats);
    let tokens = content.chars().count() as f64 / per_token;
    estimate(&message("claude-opus-5", &content)) as f64 / tokens
}

fn rows() -> Vec<(&'static str, f64)> {
    let rows = RATIOS.lines().skip(1).map(|row| {
        let (kind, ratio) = row.split_once(',').expect("two columns");
        (kind, ratio.parse().expect("a number"))
    });
    rows.collect()
}

#[test]
fn first_estimate_is_near_each_recorded_kind_of_text() {
    let rows = rows();
    assert_eq!(rows.len(), 7);
    let mut sum = 0.0;
    for (kind, per_token) in rows {
        // From two kilobytes on, and long.
        for bytes in [2_000, 8_000, 200_000] {
            let ratio = ratio(kind, per_token, bytes / text(kind).len() + 1);
            println!("{kind} of {bytes}: {ratio:.2}");
            assert!((0.65..=1.35).contains(&ratio), "{kind} {bytes}: {ratio}");
            if matches!(kind, "code" | "json") {
                assert!(ratio >= 0.88, "{kind} {bytes}: {ratio}");
            }
            sum += (ratio - 1.0).abs();
        }
    }
    assert!(sum / 21.0 < 0.15, "on average: {}", sum / 21.0);
}

#[test]
fn tools_and_tool_results_are_estimated_as_json() {
    let schema: serde_json::Value = serde_json::json!({
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The path of the file."},
            "lines": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["path"],
    });
    let tools: Vec<_> = (0..40)
        .map(|number| serde_json::json!({"name": format!("tool_{number}"), "input_schema": schema}))
        .collect();
    let mut body = message("claude-opus-5", "Hi");
    body["tools"] = tools.into();
    let text = body["tools"].to_string().chars().count() as f64;
    let tokens = (estimate(&body) - 286) as f64;
    assert!((2.15..2.35).contains(&(text / tokens)), "{}", text / tokens);
    // The same as content, where each quote is escaped.
    let quoted = estimate(&message("claude-opus-5", &body["tools"].to_string())) as f64;
    assert!((quoted / tokens - 1.0).abs() < 0.03, "{quoted} {tokens}");
}

#[test]
fn older_tokenizer_has_fewer_tokens_of_the_same_text() {
    for (kind, _) in rows() {
        let content = text(kind).repeat(500);
        let [new, old] = ["claude-opus-5", "claude-sonnet-4-6"]
            .map(|model| estimate(&message(model, &content)) as f64);
        assert!((1.37..1.43).contains(&(new / old)), "{kind}: {new} {old}");
    }
}

#[test]
fn escaped_emoji_is_estimated_like_a_plain_one() {
    let plain = message("claude-opus-5", &text("emoji").repeat(200));
    let escape = |c: char| match c.is_ascii() {
        true => c.to_string(),
        false => c
            .encode_utf16(&mut [0; 2])
            .iter()
            .map(|unit| format!("\\u{unit:04x}"))
            .collect(),
    };
    let escaped: String = plain.to_string().chars().map(escape).collect();
    let request = Request::new(RequestBody::from(escaped));
    let escaped = HeuristicCost::default().estimate(&request).input_tokens as f64;
    let plain = estimate(&plain) as f64;
    // The characters of a body are sampled, and escapes are counted.
    assert!((escaped / plain - 1.0).abs() < 0.05, "{escaped} {plain}");
}

proptest! {
    #[test]
    fn longer_prompt_has_no_smaller_estimate(
        kind in 0..4_usize,
        next in 0..4_usize,
        repeats in 0..200_usize,
        more in 0..200_usize,
    ) {
        let kinds = ["prose", "code", "json", "markdown"];
        let short = text(kinds[kind]).repeat(repeats);
        let long = short.clone() + &text(kinds[next]).repeat(more);
        let [short, long] = [short, long].map(|content| estimate(&message("claude-opus-5", &content)));
        prop_assert!(short <= long, "{short} {long}");
    }

    #[test]
    fn prompt_is_never_estimated_at_zero(content in ".{1,300}") {
        for model in ["claude-opus-5", "claude-sonnet-4-6"] {
            prop_assert!(estimate(&message(model, &content)) > 0);
        }
    }
}
