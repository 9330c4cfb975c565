//! The model catalog.

mod common;

use common::text;
use proptest::prelude::*;
use std::time::{Duration, SystemTime};
use tower_claude_wire::{
    Effort, Lifecycle, Model, ModelCatalog, Platform, Support, Tier, TierLimits, Tokenizer,
    estimate_tokens,
};

const TIERS: [Tier; 3] = [Tier::Start, Tier::Build, Tier::Scale];

#[test]
fn builtin_catalog_agrees_with_the_model_matrix() {
    let matrix: serde_json::Value = serde_json::from_str(&text("model_matrix.json")).unwrap();
    let catalog = ModelCatalog::builtin();
    let bare = |v: &serde_json::Value| v.as_str().unwrap().trim_end_matches('?').to_owned();
    for (id, row) in matrix["models"].as_object().unwrap() {
        let model = catalog.lookup(id);
        assert!(model.known, "{id}");
        assert_eq!(&*model.id, id);
        assert_eq!(Some(model.context), row["context"].as_u64(), "{id}");
        assert_eq!(Some(model.max_output), row["max_output"].as_u64(), "{id}");
        assert_eq!(*model.rate_group, *bare(&row["rate_group"]), "{id}");
        let new = row["tokenizer"] == "new";
        assert_eq!(model.tokenizer == Tokenizer::New, new, "{id}");
        let can = &model.capabilities;
        assert_eq!(
            can.thinks_by_default,
            Some(row["thinking_default"] == "adaptive"),
            "{id}"
        );
        assert_eq!(
            can.min_cache_tokens,
            row["min_cache_tokens"].as_u64(),
            "{id}"
        );
        let efforts: Vec<_> = can.efforts.iter().flatten().map(|e| e.as_str()).collect();
        let expected: Vec<_> = row["effort"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e.as_str().unwrap())
            .collect();
        assert_eq!(efforts, expected, "{id}");
        assert_eq!(
            can.default_effort.map(|e| e.as_str().to_owned()),
            row["effort_default"]
                .as_str()
                .map(|_| bare(&row["effort_default"])),
            "{id}"
        );
        for (ours, theirs) in [
            (can.thinking_adaptive, &row["thinking"]["adaptive"]),
            (can.thinking_enabled, &row["thinking"]["enabled"]),
            (
                can.thinking_between_tools,
                &row["thinking"]["between_tools"],
            ),
            (can.thinking_disabled, &row["thinking"]["disabled"]),
            (can.forced_tool_choice, &row["forced_tool_choice"]),
            (can.prefill, &row["prefill"]),
            (can.sampling, &row["sampling"]),
            (can.system_messages, &row["system_messages"]),
            (can.per_message_effort, &row["per_message_effort"]),
            (can.inference_geo, &row["inference_geo"]),
            (
                model.fast_on(Platform::ClaudeApi, day("2026-11-30")),
                &row["fast"],
            ),
        ] {
            let expected = match bare(theirs).as_str() {
                "yes" => Support::Yes,
                "no" | "error" => Support::No,
                "deprecated" => Support::Deprecated,
                "<=high" => Support::UpToHighEffort,
                "not_with_enabled" => Support::NotWithEnabledThinking,
                "thinking_off" | "not_with_thinking" => Support::ThinkingOff,
                "ignored" => Support::Ignored,
                "not_with_between_tools" | "not_with_disabled" => Support::ThinkingOn,
                other => panic!("{id}: {other}"),
            };
            assert_eq!(ours, expected, "{id}: {theirs}");
        }
        assert_eq!(
            can.fast_beta.as_deref(),
            row["fast_header"].as_str(),
            "{id}"
        );
        assert_eq!(
            can.fast_ends.as_deref(),
            row["fast_removed_on"].as_str(),
            "{id}"
        );
        let about = &model.about;
        assert_eq!(
            about.retires_on.as_deref(),
            row["retires_on"].as_str(),
            "{id}"
        );
        let not_before = row["retires_not_before"].as_str();
        assert_eq!(about.retires_not_before.as_deref(), not_before, "{id}");
        let lifecycle = Lifecycle::parse(row["lifecycle"].as_str().unwrap()).unwrap();
        assert_eq!(model.lifecycle, lifecycle, "{id}");
        let bound = row["thinking_bound_to_account"].as_bool().unwrap();
        assert_eq!(can.binds_thinking_to_account == Some(true), bound, "{id}");
        let checked = row["prefix_check"] != "no";
        assert_eq!(can.binds_thinking, Some(checked), "{id}");
        let priority = match row["priority_tier"].as_str().unwrap() {
            "contract" => Support::Yes,
            _ => Support::No,
        };
        assert_eq!(can.priority_tier, priority, "{id}");
        let retention = row["needs_30_day_retention"].as_bool().unwrap();
        assert_eq!(can.needs_retention == Some(true), retention, "{id}");
        for (name, platform) in PLATFORMS {
            let rejected = &row["tools_rejected"];
            let list = rejected.get(name).or_else(|| rejected.get("*"));
            for tool in list.and_then(|list| list.as_array()).into_iter().flatten() {
                let tool = tool.as_str().unwrap();
                assert!(can.rejects_tool(tool, platform), "{id} on {name}: {tool}");
            }
            for tool in ["computer_20250124", "computer_20251124"] {
                let listed = list.is_some_and(|list| list.to_string().contains(tool));
                let is_old = ["claude-sonnet-4-5", "claude-haiku-4-5"].contains(&&**id);
                let expected = listed || is_old && tool == "computer_20251124";
                assert_eq!(
                    can.rejects_tool(tool, platform),
                    expected,
                    "{id} on {name}: {tool}"
                );
            }
        }
    }
}

const PLATFORMS: [(&str, Platform); 6] = [
    ("claude_api", Platform::ClaudeApi),
    ("aws_platform", Platform::AwsPlatform),
    ("bedrock", Platform::Bedrock),
    ("vertex", Platform::Vertex),
    ("google_anthropic", Platform::GoogleAnthropic),
    ("foundry", Platform::Foundry),
];

/// Returns the begin of a day.
fn day(date: &str) -> SystemTime {
    let json = format!(r#"{{"as_of":"{date}","models":{{}}}}"#);
    ModelCatalog::from_json(&json).unwrap().as_of_time()
}

#[test]
fn retirement_depends_on_the_day_and_the_platform() {
    let catalog = ModelCatalog::builtin();
    let retired =
        |model: &str, platform, date: &str| catalog.lookup(model).is_retired(platform, day(date));
    use Platform::*;
    for (model, platform, date, expected) in [
        ("claude-sonnet-4-5", ClaudeApi, "2026-11-29", false),
        ("claude-sonnet-4-5", ClaudeApi, "2026-11-30", true),
        ("claude-sonnet-4-5-20250929", Foundry, "2027-01-01", true),
        ("claude-sonnet-4-5@20250929", Vertex, "2026-11-30", true),
        (
            "anthropic.claude-sonnet-4-5-20250929-v1:0",
            Bedrock,
            "2027-01-01",
            false,
        ),
        ("claude-opus-4-5", AwsPlatform, "2027-01-21", false),
        ("claude-opus-4-5", GoogleAnthropic, "2027-01-22", true),
        ("claude-opus-5-5", ClaudeApi, "2029-01-01", false),
        ("claude-mythos-preview", ClaudeApi, "2026-12-01", false),
        ("claude-opus-4-1-20250805", ClaudeApi, "2026-11-29", true),
        ("claude-opus-4-1-20250805", Bedrock, "2026-11-29", false),
        ("claude-3-5-haiku@20241022", Vertex, "2026-11-29", false),
        ("claude-3-5-haiku-20241022", ClaudeApi, "2026-11-29", true),
    ] {
        assert_eq!(
            retired(model, platform, date),
            expected,
            "{model} on {platform:?}, {date}"
        );
    }
    let fast =
        |model: &str, platform, date: &str| catalog.lookup(model).fast_on(platform, day(date));
    for (model, platform, date, expected) in [
        ("claude-opus-4-8", ClaudeApi, "2026-11-29", Support::Yes),
        ("claude-opus-4-8", ClaudeApi, "2026-11-30", Support::No),
        ("claude-opus-4-8", Bedrock, "2026-11-29", Support::No),
        ("claude-opus-5-5", ClaudeApi, "2026-11-30", Support::Yes),
        (
            "claude-opus-5-5",
            GoogleAnthropic,
            "2026-11-30",
            Support::Yes,
        ),
        ("claude-opus-5-5", Foundry, "2026-11-30", Support::No),
        ("claude-opus-5", GoogleAnthropic, "2026-11-30", Support::No),
        ("claude-fable-5-2", ClaudeApi, "2026-11-30", Support::Yes),
        ("claude-fable-5-1", ClaudeApi, "2026-11-30", Support::No),
        ("claude-opus-4-6", ClaudeApi, "2026-11-30", Support::Ignored),
        (
            "claude-opus-4-6",
            GoogleAnthropic,
            "2026-11-30",
            Support::No,
        ),
        ("claude-opus-9", Bedrock, "2026-11-30", Support::Unknown),
    ] {
        assert_eq!(
            fast(model, platform, date),
            expected,
            "{model} on {platform:?}, {date}"
        );
    }
    assert_eq!(
        catalog.age(day("2026-12-09")),
        Some(Duration::from_secs(864_000))
    );
    assert_eq!(catalog.age(day("2026-01-01")), Some(Duration::ZERO));
    assert_eq!(
        catalog
            .lookup("claude-sonnet-5")
            .capabilities
            .forced_tool_choice(Bedrock),
        Support::ThinkingOff
    );
}

#[test]
fn platform_is_found_by_host_and_path() {
    for (host, expected) in [
        ("api.anthropic.com", Platform::ClaudeApi),
        ("gateway.example.com:8443", Platform::ClaudeApi),
        ("localhost", Platform::ClaudeApi),
        ("", Platform::ClaudeApi),
        ("bedrock-mantle.us-east-1.api.aws", Platform::Bedrock),
        ("bedrock-runtime.eu-west-1.amazonaws.com", Platform::Bedrock),
        (
            "bedrock-runtime.cn-north-1.amazonaws.com.cn",
            Platform::Bedrock,
        ),
        (
            "aws-external-anthropic.us-west-2.api.aws",
            Platform::AwsPlatform,
        ),
        ("aiplatform.googleapis.com", Platform::Vertex),
        ("us-east5-aiplatform.googleapis.com:443", Platform::Vertex),
        ("aiplatform.eu.rep.googleapis.com", Platform::Vertex),
        ("claude.googleapis.com", Platform::GoogleAnthropic),
        ("My-Resource.services.ai.azure.com", Platform::Foundry),
        ("notazure.com", Platform::ClaudeApi),
    ] {
        assert_eq!(Platform::of(host, "/v1/messages"), expected, "{host}");
    }
    for (path, expected) in [
        ("/model/anthropic.claude-opus-5-5/invoke", Platform::Bedrock),
        (
            "/v1/projects/p/locations/l/publishers/anthropic/models/claude-opus-5-5:rawPredict",
            Platform::Vertex,
        ),
        (
            "/v1/projects/p/locations/global/workspaces/w/invoke/v1/messages",
            Platform::GoogleAnthropic,
        ),
        ("/anthropic/v1/messages", Platform::ClaudeApi),
        ("/v1/models/claude-opus-5-5", Platform::ClaudeApi),
    ] {
        assert_eq!(
            Platform::of("gateway.example.com", path),
            expected,
            "{path}"
        );
    }
}

#[test]
fn served_model_is_compared_without_the_dress_of_its_name() {
    let catalog = ModelCatalog::builtin();
    for (asked, served, expected) in [
        ("anthropic.claude-opus-5-5", "claude-opus-5-5", true),
        (
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "claude-haiku-4-5-20251001",
            true,
        ),
        ("claude-opus-5-5[1m]", "claude-opus-5-5", true),
        ("claude-haiku-4-5-latest", "claude-haiku-4-5-20251001", true),
        (
            "claude-haiku-4-5@20251001",
            "claude-haiku-4-5-20251001",
            true,
        ),
        ("claude-sonnet-4-0", "claude-sonnet-4-20250514", true),
        (
            "claude-3-7-sonnet-latest",
            "claude-3-7-sonnet-20250219",
            true,
        ),
        ("anthropic/claude-opus-4.8", "claude-opus-4-8", true),
        ("my-foundry-deployment", "claude-opus-5-5", true),
        (
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/a1b2",
            "claude-opus-5-5",
            true,
        ),
        ("claude-opus-9", "claude-opus-9-20300101", true),
        ("claude-opus-5-5", "claude-opus-5", false),
        ("claude-fable-5", "claude-fable-5-2", false),
        ("claude-opus-9", "claude-opus-5-5", false),
        (
            "claude-haiku-4-5-20251001",
            "claude-haiku-4-5-20260101",
            false,
        ),
        ("claude-opus-5-5", "", false),
        ("", "claude-opus-5-5", false),
        ("", "", false),
    ] {
        assert_eq!(
            catalog.is_answer(asked, served),
            expected,
            "{asked}: {served}"
        );
    }
}

/// Facts that the matrix has not: from the same tables, by hand.
#[test]
fn features_of_some_models_agree_with_the_documentation() {
    let catalog = ModelCatalog::builtin();
    let with = |is: &dyn Fn(&Model) -> bool| {
        let mut ids: Vec<_> = catalog
            .models()
            .filter(|m| is(m))
            .map(|m| &m.id[7..])
            .collect();
        ids.sort_unstable();
        ids.join(" ")
    };
    let no = |support| support == Support::No;
    assert_eq!(
        with(&|m| no(m.capabilities.inference_geo)),
        "haiku-4-5 opus-4-5 sonnet-4-5"
    );
    assert_eq!(
        with(&|m| m.capabilities.system_messages == Support::Yes),
        "fable-5 fable-5-1 fable-5-2 haiku-5-5 mythos-5 mythos-5-1 mythos-5-2 opus-4-8 opus-5 opus-5-5 sonnet-5-5"
    );
    assert_eq!(
        with(&|m| m.capabilities.per_message_effort == Support::Yes),
        "fable-5-1 fable-5-2 mythos-5-1 mythos-5-2 opus-5 opus-5-5"
    );
    let binding = "fable-5-1 fable-5-2 haiku-5-5 mythos-5-1 mythos-5-2 opus-5-5 sonnet-5-5";
    assert_eq!(
        with(&|m| m.capabilities.binds_thinking == Some(true)),
        binding
    );
    let account = |m: &Model| m.capabilities.binds_thinking_to_account == Some(true);
    assert_eq!(with(&account), "fable-5-2 haiku-5-5 mythos-5-2 sonnet-5-5");
    assert_eq!(
        with(&|m| no(m.capabilities.compaction)),
        "haiku-4-5 opus-4-5 sonnet-4-5"
    );
    assert_eq!(
        with(&|m| no(m.capabilities.task_budget)),
        "haiku-4-5 opus-4-5 opus-4-6 sonnet-4-5 sonnet-4-6 sonnet-5"
    );
    assert_eq!(
        with(&|m| no(m.capabilities.programmatic_tools)),
        "haiku-4-5"
    );
    let no_toolset = |m: &Model| {
        let can = &m.capabilities;
        can.rejects_tool("computer_toolset_20260801", Platform::ClaudeApi)
    };
    assert_eq!(
        with(&no_toolset),
        "haiku-4-5 opus-4-5 opus-4-6 opus-4-7 sonnet-4-5 sonnet-4-6"
    );
    let top_p = |m: &Model| m.capabilities.sampling_defaults.top_p == Some(990);
    assert_eq!(with(&top_p), "haiku-5-5");
    assert_eq!(
        with(&|m| m.capabilities.sampling_defaults.temperature != Some(1_000)),
        ""
    );
    assert_eq!(
        with(&|m| m.lifecycle == Lifecycle::Deprecated),
        "mythos-preview opus-4-5 sonnet-4-5"
    );
    assert_eq!(with(&|m| m.lifecycle == Lifecycle::Retired), "");
    assert_eq!(
        with(&|m| m.about.snapshot.is_some()),
        "haiku-4-5 opus-4-5 sonnet-4-5"
    );
    for model in catalog.models() {
        if let Some(snapshot) = &model.about.snapshot {
            assert_eq!(catalog.lookup(snapshot).id, model.id);
        }
    }
    let old = catalog.lookup("claude-opus-4-1-20250805");
    assert_eq!((old.known, old.lifecycle), (false, Lifecycle::Retired));
    assert_eq!(
        catalog.lookup("claude-opus-6").lifecycle,
        Lifecycle::Unknown
    );
}

#[test]
fn id_with_cloud_prefix_date_or_version_is_found() {
    let catalog = ModelCatalog::builtin();
    for (dressed, plain) in [
        ("claude-opus-5-5", "claude-opus-5-5"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("anthropic.claude-opus-5-5", "claude-opus-5-5"),
        (
            "us.anthropic.claude-opus-4-5-20251101-v1:0",
            "claude-opus-4-5",
        ),
        ("global.anthropic.claude-sonnet-4-6-v1", "claude-sonnet-4-6"),
        (
            "anthropic.claude-sonnet-4-5-20250929-v1:0:200k",
            "claude-sonnet-4-5",
        ),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-opus-4-8-v1:0",
            "claude-opus-4-8",
        ),
        (
            "projects/p/locations/us/publishers/anthropic/models/claude-haiku-4-5@20251001",
            "claude-haiku-4-5",
        ),
        ("anthropic/claude-sonnet-5", "claude-sonnet-5"),
        ("claude-opus-4-6[1m]", "claude-opus-4-6"),
        ("claude-haiku-4-5-latest", "claude-haiku-4-5"),
        (" claude-opus-5 ", "claude-opus-5"),
        ("claude-opus-4.8", "claude-opus-4-8"),
        ("anthropic/claude-opus-4.8:thinking", "claude-opus-4-8"),
        (
            "openrouter/anthropic/claude-sonnet-5.5",
            "claude-sonnet-5-5",
        ),
        ("anthropic/claude-4.5-sonnet", "claude-sonnet-4-5"),
        ("Claude-Opus-5-5", "claude-opus-5-5"),
        ("claude-opus-5-5-fast", "claude-opus-5-5"),
        ("vertex_ai/claude-opus-4-5@20251101", "claude-opus-4-5"),
        ("anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
        ("us.anthropic.claude-fable-5-2", "claude-fable-5-2"),
        ("claude-fable-5-2", "claude-fable-5-2"),
        ("claude-opus-5 [1m]", "claude-opus-5"),
    ] {
        let model = catalog.lookup(dressed);
        assert!(model.known, "{dressed}");
        assert_eq!(&*model.id, plain, "{dressed}");
    }
}

#[test]
fn models_of_one_rate_group_share_its_name() {
    let catalog = ModelCatalog::builtin();
    let group = |id: &str| catalog.lookup(id).rate_group;
    for shared in [
        &[
            "claude-opus-4-8",
            "claude-opus-4-7",
            "claude-opus-4-6",
            "claude-opus-4-5",
        ][..],
        &["claude-sonnet-4-6", "claude-sonnet-4-5"],
        &["claude-fable-5-1", "claude-fable-5"],
        &["claude-mythos-5-2", "claude-mythos-5-1", "claude-mythos-5"],
    ] {
        for id in shared {
            assert!(catalog.lookup(id).known, "{id}");
            assert_eq!(group(id), group(shared[0]), "{id}");
        }
    }
    let apart = [
        "claude-fable-5-2",
        "claude-fable-5",
        "claude-mythos-5",
        "claude-opus-5-5",
        "claude-opus-5",
        "claude-opus-4-8",
        "claude-sonnet-5-5",
        "claude-sonnet-5",
        "claude-sonnet-4-6",
        "claude-haiku-5-5",
        "claude-haiku-4-5",
    ];
    let groups: std::collections::HashSet<_> = apart.iter().map(|id| group(id)).collect();
    assert_eq!(groups.len(), apart.len());
}

#[test]
fn tier_limits_are_as_published() {
    let catalog = ModelCatalog::builtin();
    let limits = |tier, group| {
        let l = catalog.tier_limits(tier, group).unwrap();
        (
            l.requests_per_minute,
            l.input_tokens_per_minute,
            l.output_tokens_per_minute,
        )
    };
    assert_eq!(limits(Tier::Start, "fable-5.x"), (1_000, 500_000, 100_000));
    assert_eq!(
        limits(Tier::Build, "opus-4.x"),
        (5_000, 5_000_000, 1_000_000)
    );
    assert_eq!(
        limits(Tier::Scale, "haiku-5.5"),
        (10_000, 10_000_000, 2_000_000)
    );
    assert_eq!(catalog.tier_limits(Tier::Start, "nowhere"), None);
    for model in catalog.models() {
        for tier in TIERS {
            // There are no published limits for Mythos and for Fable 5.2.
            let published =
                !model.rate_group.starts_with("mythos") && *model.rate_group != *"fable-5.2";
            let found = catalog.tier_limits(tier, &model.rate_group).is_some();
            assert_eq!(found, published, "{}", model.id);
        }
    }
    assert_eq!(catalog.as_of(), "2026-11-29");
}

#[test]
fn unknown_model_gets_the_defaults_of_its_family() {
    let catalog = ModelCatalog::builtin();
    let next = catalog.lookup("us.anthropic.claude-opus-6-20270101-v1:0");
    assert!(!next.known);
    assert_eq!(
        (&*next.id, &*next.rate_group),
        ("claude-opus-6", "claude-opus-6")
    );
    assert_eq!((next.context, next.max_output), (1_000_000, 128_000));
    assert_eq!(next.tokenizer, Tokenizer::New);
    assert_eq!(next.capabilities.fast, Support::Unknown);

    for other in [
        "claude-quill-1",
        "claude-",
        "gpt-x",
        "",
        "my-deployment",
        "@",
        "/",
        "-v1",
    ] {
        let model = catalog.lookup(other);
        assert!(!model.known, "{other}");
        assert_eq!(
            (model.context, model.max_output),
            (200_000, 64_000),
            "{other}"
        );
    }
    // The families are today's: a retired generation must not inherit their sizes.
    let old = catalog.lookup("claude-3-opus-20240229");
    assert!(!old.known);
    assert_eq!((&*old.id, old.context), ("claude-3-opus", 200_000));
}

#[test]
fn added_model_replaces_the_listed_one() {
    let mut mine = Model::new("prod-chat");
    mine.rate_group = "opus-5.5".into();
    mine.context = 7;
    let catalog = ModelCatalog::builtin()
        .clone()
        .with_model("prod-chat", mine.clone());
    assert_eq!(catalog.lookup("prod-chat"), mine);
    assert!(!ModelCatalog::builtin().lookup("prod-chat").known);
}

#[test]
fn models_response_updates_only_stated_facts() {
    let mut info: serde_json::Value = serde_json::from_str(&text("model_info.json")).unwrap();
    info["max_tokens"] = 96_000.into();
    info["capabilities"]["effort"]["max"]["supported"] = false.into();
    let catalog = ModelCatalog::builtin()
        .clone()
        .merge_models_response(&info.to_string())
        .unwrap();
    let haiku = catalog.lookup("claude-haiku-5-5");
    assert_eq!(haiku.max_output, 96_000);
    assert_eq!(&*haiku.rate_group, "haiku-5.5");
    let can = &haiku.capabilities;
    assert_eq!(can.efforts.as_ref().unwrap().last(), Some(&Effort::XHigh));
    assert_eq!(
        can.thinking_disabled,
        Support::UpToHighEffort,
        "finer than yes"
    );
    assert_eq!(can.thinking_enabled, Support::No);
    assert_eq!(can.forced_tool_choice, Support::Yes, "not in the response");

    let gone =
        r#"{"id":"claude-opus-5","lifecycle":"retired","retires_at":"2027-01-01T00:00:00Z"}"#;
    let catalog = catalog.merge_models_response(gone).unwrap();
    let opus = catalog.lookup("claude-opus-5");
    assert_eq!(opus.lifecycle, Lifecycle::Retired);
    assert_eq!(
        opus.about.retires_on.as_deref(),
        Some("2027-01-01T00:00:00Z")
    );

    let page = serde_json::json!({"data": [
        {"id": "claude-opus-6", "max_input_tokens": 5, "max_tokens": null,
         "capabilities": {"thinking": {"types": {"adaptive": {"supported": true}}}}},
        {"id": "claude-opus-5-5-20270101"},
    ], "has_more": false});
    let catalog = catalog.merge_models_response(&page.to_string()).unwrap();
    let next = catalog.lookup("claude-opus-6");
    assert!(next.known);
    assert_eq!((next.context, next.max_output), (5, 128_000));
    assert_eq!(next.capabilities.thinking_adaptive, Support::Yes);
    assert_eq!(next.capabilities.prefill, Support::Unknown);
    assert_eq!(
        &*catalog.lookup("claude-opus-5-5-20270101").rate_group,
        "opus-5.5"
    );
}

/// The API lists models of the 4.5 generation by their dated names only.
#[test]
fn models_response_with_dated_name_updates_the_plain_name() {
    let page = r#"{"data": [
        {"id": "claude-sonnet-4-5-20250929", "lifecycle": "retired"},
        {"id": "claude-opus-4-5-20250101", "lifecycle": "retired"},
        {"id": "claude-haiku-6-20270101", "lifecycle": "active", "max_tokens": 5}
    ]}"#;
    let catalog = ModelCatalog::builtin().clone();
    let catalog = catalog.merge_models_response(page).unwrap();
    for name in [
        "claude-sonnet-4-5-20250929",
        "claude-sonnet-4-5",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ] {
        let sonnet = catalog.lookup(name);
        assert_eq!(sonnet.lifecycle, Lifecycle::Retired, "{name}");
        assert_eq!(&*sonnet.id, "claude-sonnet-4-5");
    }
    // Another date than the plain name stands for.
    let opus = catalog.lookup("claude-opus-4-5");
    assert_eq!(opus.lifecycle, Lifecycle::Deprecated);
    let new = catalog.lookup("anthropic.claude-haiku-6");
    assert!(new.known && new.max_output == 5);
}

/// The API lists the newest first.
#[test]
fn models_response_with_two_dates_uses_the_newest_for_the_plain_name() {
    let page = r#"{"data": [
        {"id": "claude-haiku-6-20270601", "lifecycle": "active", "max_tokens": 9},
        {"id": "claude-haiku-6-20270101", "lifecycle": "deprecated", "max_tokens": 5}
    ]}"#;
    let catalog = ModelCatalog::builtin().clone();
    let catalog = catalog.merge_models_response(page).unwrap();
    let of = |name| {
        let model = catalog.lookup(name);
        (model.lifecycle, model.max_output)
    };
    assert_eq!(of("claude-haiku-6"), (Lifecycle::Active, 9));
    assert_eq!(of("claude-haiku-6-20270601"), (Lifecycle::Active, 9));
    assert_eq!(of("claude-haiku-6-20270101"), (Lifecycle::Deprecated, 5));
    let later = r#"{"id": "claude-haiku-6-20270601", "lifecycle": "retired"}"#;
    let later = catalog.clone().merge_models_response(later).unwrap();
    let plain = later.lookup("claude-haiku-6");
    assert_eq!(plain.lifecycle, Lifecycle::Retired, "told once more");
    let page = r#"{"data": [
        {"id": "claude-haiku-7", "lifecycle": "active"},
        {"id": "claude-haiku-7-20280101", "lifecycle": "deprecated"}
    ]}"#;
    let catalog = catalog.merge_models_response(page).unwrap();
    assert_eq!(
        catalog.lookup("claude-haiku-7").lifecycle,
        Lifecycle::Active
    );
}

#[test]
fn rate_limits_response_changes_groups_and_limits() {
    let builtin = ModelCatalog::builtin();
    let catalog = builtin
        .clone()
        .merge_rate_limits_response(&text("admin_rate_limits.json"))
        .unwrap();
    let group = catalog.lookup("claude-opus-4-8").rate_group;
    assert_eq!(&*group, "rlg_01Fixture");
    for dressed in [
        "claude-opus-4-5-20251101",
        "us.anthropic.claude-opus-4-5-20251101-v1:0",
    ] {
        assert_eq!(catalog.lookup(dressed).rate_group, group, "{dressed}");
        assert_eq!(&*catalog.lookup(dressed).id, "claude-opus-4-5");
    }
    assert_eq!(
        catalog.limits(&group),
        Some(TierLimits {
            requests_per_minute: 1000,
            input_tokens_per_minute: 2_000_000,
            output_tokens_per_minute: 400_000,
        })
    );
    for tier in TIERS {
        assert_eq!(
            catalog.tier_limits(tier, &group),
            builtin.tier_limits(tier, "opus-4.x")
        );
    }
    assert_eq!(
        catalog.limits("rlg_02Fixture"),
        None,
        "batches are not models"
    );
    assert_eq!(&*catalog.lookup("claude-opus-5").rate_group, "opus-5");
    assert_eq!(builtin.limits("opus-4.x"), None);
    // Of two input limits the tighter one, whichever counts cache reads; what has none is not
    // limited.
    for (plain, aware) in [(5, 9), (9, 5)] {
        let page = serde_json::json!({"data": [{"group": {"type": "model_group", "id": "g"}, "limits": [
            {"type": "input_tokens_per_minute", "value": plain},
            {"type": "input_tokens_per_minute_cache_aware", "value": aware},
            {"type": "tool_uses_per_second", "value": 1},
            {"type": "output_tokens_per_minute", "value": null},
        ]}]});
        let catalog = builtin
            .clone()
            .merge_rate_limits_response(&page.to_string());
        let limits = catalog.unwrap().limits("g").unwrap();
        assert_eq!(limits.input_tokens_per_minute, 5);
        assert_eq!(limits.output_tokens_per_minute, u64::MAX);
    }
}

#[test]
fn invalid_catalog_error_names_field_and_value() {
    let message = |json: &str| ModelCatalog::from_json(json).unwrap_err().to_string();
    let model = |fields: &str| format!(r#"{{"as_of":"x","models":{{"m":{{{fields}}}}}}}"#);
    assert_eq!(message("{}"), "as_of: expected a string, found nothing");
    assert_eq!(
        message(r#"{"as_of":"x","models":7}"#),
        "models: expected an object, found 7"
    );
    assert_eq!(
        message(&model(r#""context":-1"#)),
        "models.m.context: expected a whole number, found -1"
    );
    assert_eq!(
        message(&model(r#""context":1,"max_output":1,"tokenizer":"odd""#)),
        r#"models.m.tokenizer: expected "old" or "new", found "odd""#
    );
    assert_eq!(
        message(&model(
            r#""context":1,"max_output":1,"tokenizer":"new","efforts":["low","huge"]"#
        )),
        r#"models.m.efforts[1]: expected an effort, found "huge""#
    );
    assert!(message("{").starts_with("catalog: expected JSON, found EOF"));

    let builtin = || ModelCatalog::builtin().clone();
    let error = builtin()
        .merge_models_response(r#"{"data":[{"id":5}]}"#)
        .unwrap_err();
    assert_eq!(
        (error.field.as_str(), error.value.as_str()),
        ("data[0].id", "5")
    );
    let error = builtin().merge_rate_limits_response("[]").unwrap_err();
    assert_eq!(
        (error.field.as_str(), error.value.as_str()),
        ("data", "nothing")
    );
}

#[test]
fn estimate_depends_on_the_tokenizer() {
    assert_eq!(estimate_tokens(0, Tokenizer::New), 0);
    assert_eq!(estimate_tokens(1, Tokenizer::New), 1);
    assert_eq!(estimate_tokens(5, Tokenizer::New), 2);
    assert_eq!(estimate_tokens(6, Tokenizer::New), 3);
    assert_eq!(estimate_tokens(7, Tokenizer::Old), 2);
    assert_eq!(estimate_tokens(8, Tokenizer::Old), 3);
}

proptest! {
    #[test]
    fn estimate_is_rounded_up(bytes in any::<u64>()) {
        let wide = u128::from(bytes);
        prop_assert_eq!(u128::from(estimate_tokens(bytes, Tokenizer::New)), (wide * 2).div_ceil(5));
        prop_assert_eq!(u128::from(estimate_tokens(bytes, Tokenizer::Old)), (wide * 2).div_ceil(7));
    }

    #[test]
    fn any_id_does_not_panic(id in any::<String>(), odd in "(us\\.anthropic\\.|/|@|:|\\[|-v|-[0-9]{8}|claude-|é){0,8}") {
        for id in [id, odd] {
            let model = ModelCatalog::builtin().lookup(&id);
            prop_assert!(model.context > 0);
        }
    }

    #[test]
    fn any_catalog_text_does_not_panic(json in any::<String>(), at in any::<proptest::sample::Index>(), junk in "[\\[\\]{}:,\"0-9a-z]{0,3}") {
        let _ = ModelCatalog::from_json(&json);
        let mut page = text("admin_rate_limits.json");
        page.insert_str(at.index(page.len()), &junk);
        let _ = ModelCatalog::builtin().clone().merge_rate_limits_response(&page);
        let mut info = text("model_info.json");
        info.insert_str(at.index(info.len()), &junk);
        let _ = ModelCatalog::builtin().clone().merge_models_response(&info);
    }
}
