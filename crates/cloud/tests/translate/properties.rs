//! Properties of every translation.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower_claude_cloud::Translator;
use tower_claude_core::RequestBody;
use tower_claude_wire::{Fields, cloud::Target};

use super::{MESSAGES, clouds, headers, text};

fn targets() -> Vec<Target> {
    clouds().into_iter().chain([Target::claude_api()]).collect()
}

/// Returns a member of the body as it is written.
fn raw(body: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut fields = Fields::open(body)?.map(|field| field.expect("valid"));
    let field = fields.find(|field| field.name == name)?;
    Some(field.value_in(body).to_vec())
}

fn block() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>().prop_map(|text| json!({"type": "text", "text": text})),
        any::<String>().prop_map(
            |text| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": "1h"}})
        ),
        Just(json!({"type": "thinking", "thinking": "t", "signature": "s"})),
        Just(json!({"type": "tool_use", "id": "toolu_1", "name": "n", "input": {"type": "image", "source": {"type": "url"}}})),
        Just(json!({"type": "tool_result", "tool_use_id": "toolu_1", "content": "c"})),
        Just(json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}})),
        Just(json!({"type": "something_new", "x": [1.5, null]})),
    ]
}

/// Returns the members of a body that every target can serve.
fn members() -> impl Strategy<Value = Vec<(String, String)>> {
    let messages = prop::collection::vec(prop::collection::vec(block(), 0..4), 0..4);
    let messages = messages.prop_map(|all| {
        let all: Vec<_> = all
            .into_iter()
            .map(|content| json!({"role": "user", "content": content}))
            .collect();
        serde_json::to_string_pretty(&all).expect("valid")
    });
    let system = prop::collection::vec(block(), 0..3)
        .prop_map(|blocks| serde_json::to_string(&blocks).expect("valid"));
    let tools = Just(r#"[ {"name":"n","input_schema":{"type":"object", "x":2.50}} ]"#.to_owned());
    let optional = prop::sample::subsequence(
        vec![
            ("max_tokens", "64"),
            ("stream", "true"),
            ("thinking", r#"{ "type":"adaptive" }"#),
            ("fallbacks", r#""default""#),
            ("diagnostics", r#"{"previous_message_id":"m"}"#),
            ("service_tier", r#""auto""#),
            ("x_new", r#"{"\u0061":[ 1e3 ]}"#),
            ("output_config", r#"{"effort":"low","task_budget":{"a":1}}"#),
        ],
        0..8,
    );
    (messages, system, tools, optional).prop_flat_map(|(messages, system, tools, optional)| {
        let mut all = vec![
            ("model".to_owned(), r#""claude-opus-5-5""#.to_owned()),
            ("messages".to_owned(), messages),
            ("system".to_owned(), system),
            ("tools".to_owned(), tools),
        ];
        all.extend(
            optional
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        Just(all).prop_shuffle()
    })
}

fn body(members: &[(String, String)]) -> Bytes {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!(r#""{name}": {value}"#))
        .collect();
    format!("{{ {} }}", members.join(" ,\n")).into()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prompt_stays_byte_for_byte_and_a_translation_stays_as_it_is(
        members in members(),
        version in prop::sample::select(vec!["2023-06-01", "2026-10-21"]),
    ) {
        let source = body(&members);
        let uri = MESSAGES.parse().unwrap();
        let list = headers(&[("anthropic-version", version), ("anthropic-beta", "context-1m-2025-08-07,x-2027-01-01")]);
        let translator = Translator::new();
        for target in targets() {
            let sent = translator.translate(&uri, &list, &source, &target).unwrap();
            for name in ["messages", "system", "tools", "x_new", "max_tokens", "thinking"] {
                prop_assert_eq!(raw(&sent.body, name), raw(&source, name), "{} on {}", name, target);
            }
            let valid: Result<Value, _> = serde_json::from_slice(&sent.body);
            prop_assert!(valid.is_ok(), "{}", text(&sent.body));
            let again = translator.translate(&sent.uri, &sent.headers, &sent.body, &target).unwrap();
            prop_assert_eq!(&again.body, &sent.body);
            prop_assert_eq!(&again.uri, &sent.uri);
            prop_assert_eq!(&again.headers, &sent.headers);
            prop_assert!(again.losses.is_empty());
            let mut request = http::Request::post(MESSAGES).body(RequestBody::from(source.clone())).unwrap();
            *request.headers_mut() = list.clone();
            prop_assert_eq!(translator.check(&request, &target), Ok(()));
        }
    }

    #[test]
    fn any_body_is_refused_or_translated_to_valid_json(
        text in r#"(\{|\}|\[|\]|"|,|:|model|messages|content|type|claude-opus-5-5|tools|cache_control|ttl|source|null|1|\\u0041| ){0,30}"#,
        wrapped in any::<bool>(),
    ) {
        let text = if wrapped {
            format!(r#"{{"model":"claude-opus-5-5","messages":[{{"content":[{text}]}}]}}"#)
        } else {
            text
        };
        let source = Bytes::from(text);
        let uri = MESSAGES.parse().unwrap();
        let was_valid = serde_json::from_slice::<Value>(&source).is_ok();
        for target in targets() {
            if let Ok(sent) = Translator::new().translate(&uri, &headers(&[]), &source, &target)
                && was_valid
            {
                prop_assert!(serde_json::from_slice::<Value>(&sent.body).is_ok());
            }
        }
    }

    #[test]
    fn body_that_is_cut_anywhere_is_no_panic(members in members(), at in 0.0..1.0_f64) {
        let source = body(&members);
        let cut = source.slice(..(source.len() as f64 * at) as usize);
        let uri = MESSAGES.parse().unwrap();
        for target in clouds() {
            let refused = Translator::new().translate(&uri, &headers(&[]), &cut, &target);
            prop_assert!(refused.is_err());
        }
    }
}
