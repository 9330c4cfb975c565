//! The fields of a request body beside the prompt.

use std::borrow::Cow;

use tower_claude_wire::{
    Model, Platform, Support,
    cloud::{Loss, Losses, Target, Unportable},
    json_text,
};

use super::{
    edit::{Fate, edit_object, find, is_empty},
    target_kind::TargetKind,
};

/// The fate of a field on a cloud. `None` if this module has no rule for it.
pub(super) fn fate(
    name: &str,
    value: &[u8],
    target: &Target,
    accepts: &dyn Fn(&str) -> bool,
    model: &Model,
    losses: &mut Losses,
) -> Result<Option<Fate>, Unportable> {
    let empty = is_empty(Some(value));
    let mut lose = |path: &'static str| {
        if !empty {
            losses.push(Loss::Field(path));
        }
        Ok(Some(Fate::Drop))
    };
    let refuse = |path: &'static str, why: &'static str| {
        if empty {
            return Ok(Some(Fate::Drop));
        }
        Err(Unportable::new(path, why))
    };
    match name {
        "container" => refuse("container", "the target has no containers"),
        "mcp_servers" => refuse("mcp_servers", "the target has no MCP connector"),
        "billing_policy" => refuse("billing_policy", "the target bills its own account"),
        "thread" => {
            let kind = find(value, "type").and_then(json_text);
            if kind.as_deref() == Some("create") {
                // The request has the whole conversation.
                return lose("thread");
            }
            refuse("thread", "the target does not have the thread")
        }
        "inference_geo" => inference_geo(value, target, losses).map(Some),
        "fallbacks" => lose("fallbacks"),
        "fallback_credit_token" => lose("fallback_credit_token"),
        "diagnostics" => lose("diagnostics"),
        "service_tier" if TargetKind::of(target) != TargetKind::BedrockMessages => {
            lose("service_tier")
        }
        "speed" => {
            let is_fast = json_text(value).is_some_and(|speed| speed == "fast");
            // The date on which fast mode ends is that of the Claude API.
            let now = std::time::SystemTime::UNIX_EPOCH;
            let never = TargetKind::of(target).is_bedrock();
            if is_fast && !never && model.fast_on(target.platform(), now) != Support::No {
                return Ok(None);
            }
            if is_fast {
                return lose("speed");
            }
            Ok(Some(Fate::Drop))
        }
        "context_management" if !accepts("context-management-2025-06-27") => {
            lose("context_management")
        }
        "compaction" if !accepts("compact-2026-09-04") => {
            refuse("compaction", "the target does not compact the context")
        }
        "output_format" if !accepts("structured-outputs-2025-11-13") => refuse(
            "output_format",
            "the target takes output_config.format instead",
        ),
        "output_config" => {
            let has_budget = accepts("task-budgets-2026-03-13");
            let edited = edit_object_or_keep(value, |name, value| match name {
                "task_budget" if !has_budget => {
                    if value != b"null" {
                        losses.push(Loss::Field("output_config.task_budget"));
                    }
                    Fate::Drop
                }
                _ => Fate::Keep,
            })?;
            Ok(Some(edited))
        }
        "thinking" => {
            let has_binding = accepts("thinking-binding-controls-2026-08-01");
            let edited = edit_object_or_keep(value, |name, value| match name {
                "block_binding" if !has_binding => {
                    if value != b"null" {
                        losses.push(Loss::Field("thinking.block_binding"));
                    }
                    Fate::Drop
                }
                _ => Fate::Keep,
            })?;
            Ok(Some(edited))
        }
        _ => Ok(None),
    }
}

fn edit_object_or_keep(
    value: &[u8],
    mut edit: impl FnMut(&str, &[u8]) -> Fate,
) -> Result<Fate, Unportable> {
    if value.first() != Some(&b'{') {
        return Ok(Fate::Keep);
    }
    edit_object(value, |name, value| Ok(edit(name, value))).map(Fate::from)
}

/// Drops a geography that the location of the target ensures. Any other is a promise to the user
/// that must not be broken silently.
fn inference_geo(value: &[u8], target: &Target, losses: &mut Losses) -> Result<Fate, Unportable> {
    let Some(geo) = json_text(value) else {
        return Ok(Fate::Drop);
    };
    if geo == "global" {
        return Ok(Fate::Drop);
    }
    // A target with a profile may use any region of it, and one without stays in its own.
    let area = target
        .profile()
        .map_or(target.location(), |profile| profile.as_str());
    let is_within = |area: &str| {
        area.strip_prefix(&*geo)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if !geo.is_empty() && is_within(area) {
        losses.push(Loss::Changed {
            path: "inference_geo",
            to: "location of the target",
        });
        return Ok(Fate::Drop);
    }
    Err(Unportable::new(
        "inference_geo",
        "the location of the target does not ensure it",
    ))
}

/// Checks a forced choice of a tool, which some models reject on some platforms only.
pub(super) fn check_tool_choice(
    choice: Option<&[u8]>,
    thinking: Option<&[u8]>,
    model: &Model,
    platform: Platform,
) -> Result<(), Unportable> {
    let is_forced = matches!(kind_of(choice).as_deref(), Some("any" | "tool"));
    let can = &model.capabilities;
    let here = can.forced_tool_choice(platform);
    if !is_forced || here == can.forced_tool_choice {
        return Ok(());
    }
    let is_off = kind_of(thinking).as_deref() == Some("disabled");
    match here {
        Support::No => {}
        Support::ThinkingOff if !is_off => {}
        _ => return Ok(()),
    }
    Err(Unportable::new(
        "tool_choice",
        "the target does not take a forced tool for this model",
    ))
}

fn kind_of(value: Option<&[u8]>) -> Option<Cow<'_, str>> {
    find(value?, "type").and_then(json_text)
}
