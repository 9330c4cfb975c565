//! The plan and the markers of a prompt beside the pass over its body that every layer shares.

use std::hint::black_box;

use tokio::time::Instant;
use tower_claude::{
    prompt_cache::{CacheRules, CacheUsage, Outline, Planner, PlannerOptions},
    wire::{ModelCatalog, Peek},
};

use crate::{harness::Case, texts};

/// The turns of the conversation. Each adds a question, a call of a tool and its result.
const TURNS: usize = 24;

/// Returns the body of a turn of an agent, of 100 KiB: tools, a system prompt and a conversation.
fn body() -> Vec<u8> {
    let text = |at: usize, length: usize| {
        let prose = String::from_utf8(texts::prose(length + 4_096)).expect("text");
        let start = prose.find("content").map_or(0, |at| at + 12);
        let words = &prose[start..start + length];
        format!("{at} {}", words.replace(['"', '\\'], " "))
    };
    let tools = (0..10).map(|at| {
        let text = text(at, 700);
        format!(
            r#"{{"name":"tool_{at}","description":"{text}","input_schema":{{"type":"object","properties":{{"path":{{"type":"string"}}}}}}}}"#
        )
    });
    let messages = (0..TURNS).map(|at| {
        let (question, result) = (text(at, 900), text(at, 2_200));
        format!(
            r#"{{"role":"user","content":[{{"type":"text","text":"{question}"}}]}},{{"role":"assistant","content":[{{"type":"tool_use","id":"toolu_{at}","name":"tool_1","input":{{"path":"a"}}}}]}},{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"toolu_{at}","content":"{result}"}}]}},{{"role":"assistant","content":[{{"type":"text","text":"Done."}}]}}"#
        )
    });
    let (tools, messages): (Vec<_>, Vec<_>) = (tools.collect(), messages.collect());
    format!(
        r#"{{"model":"claude-sonnet-5-5","max_tokens":1024,"stream":true,"tools":[{}],"system":"{}","messages":[{},{{"role":"user","content":"Go on."}}]}}"#,
        tools.join(","),
        text(0, 12_000),
        messages.join(","),
    )
    .into_bytes()
}

/// Returns a function that plans and marks the request, after calls that have shown its reuse.
fn planned(body: &'static [u8]) -> impl FnMut() -> Option<usize> {
    let model = ModelCatalog::builtin().get("claude-sonnet-5-5");
    let model = model.expect("a listed model");
    let rules = CacheRules::of(model).expect("known prices");
    let mut planner = Planner::new(PlannerOptions::default());
    let now = Instant::now();
    let usage = CacheUsage {
        read: 40_000,
        plain: 100,
        ..CacheUsage::default()
    };
    let mut call = move || {
        let mut outline = Outline::of(black_box(body), model, 1, true).expect("a prompt");
        let started = planner.start(&mut outline, &rules, now);
        let marked = started.plan.apply(&outline, body);
        let id = started.id.expect("a long prompt");
        planner.on_first_content(id, now);
        planner.on_usage(id, &usage, now);
        marked.map(|marked| marked.len())
    };
    for _ in 0..8 {
        call();
    }
    assert!(call().is_some_and(|length| length > body.len()), "marked");
    call
}

/// The pass over the body, a copy of it, and the outline with plan, markers and usage.
pub(crate) fn cases() -> [Case; 3] {
    let body: &'static [u8] = body().leak();
    let kib = body.len() >> 10;
    [
        Case::of(
            format!("peek of an agent's request, {kib} KiB"),
            move || Peek::parse(black_box(body)),
        ),
        Case::of(
            format!("copy of an agent's request, {kib} KiB"),
            move || black_box(body).to_vec(),
        ),
        Case::new(
            format!("prompt cache: plan and markers, {kib} KiB"),
            move || {
                let mut call = planned(body);
                Box::new(move |calls| {
                    for _ in 0..calls {
                        black_box(call());
                    }
                })
            },
        ),
    ]
    .map(|case| case.with_probe(40))
}
