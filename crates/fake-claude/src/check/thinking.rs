//! `thinking`, and what its types may hold.

use serde_json::Value;

use super::{Verdict, invalid};
use crate::rules::{Off, Rules};

/// Whether the model takes it.
pub(super) fn accepted(rules: &Rules, thinking: &Value, max_tokens: u64) -> Verdict {
    let not_here = |kind: &str, advice: &str| {
        invalid(format!(
            "\"thinking.type.{kind}\" is not supported for this model.{advice}"
        ))
    };
    let allowed: &[&str] = match thinking["type"].as_str() {
        None => return Ok(()),
        Some("adaptive") if !rules.adaptive => {
            return invalid("adaptive thinking is not supported on this model".to_owned());
        }
        Some("adaptive") => &["type", "display", "block_binding"],
        Some("enabled") if !rules.enabled => {
            let advice = " Use \"thinking.type.adaptive\" and \"output_config.effort\" to control thinking behavior.";
            return not_here("enabled", advice);
        }
        Some("enabled") => {
            enabled(thinking, max_tokens)?;
            &["type", "display", "budget_tokens", "block_binding"]
        }
        Some("disabled") if rules.disabled == Off::Never => {
            let advice = if rules.between_tools == Off::Never {
                ""
            } else {
                " To turn thinking off on this model, send \"thinking\": {\"type\": \"between_tools\"} instead of {\"type\": \"disabled\"}."
            };
            return not_here("disabled", advice);
        }
        Some("between_tools") if rules.between_tools == Off::Never => {
            return not_here("between_tools", "");
        }
        Some("disabled" | "between_tools") => &["type"],
        Some(other) => {
            return invalid(format!(
                "thinking: Input tag '{other}' found using 'type' does not match any of the expected tags"
            ));
        }
    };
    for key in thinking
        .as_object()
        .into_iter()
        .flat_map(|object| object.keys())
    {
        if !allowed.contains(&key.as_str()) {
            return invalid(format!("thinking.{key}: Extra inputs are not permitted"));
        }
    }
    Ok(())
}

fn enabled(thinking: &Value, max_tokens: u64) -> Verdict {
    let Some(budget) = thinking["budget_tokens"].as_u64() else {
        return invalid("thinking.enabled.budget_tokens: Field required".to_owned());
    };
    if budget < 1_024 {
        let message =
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024";
        return invalid(message.to_owned());
    }
    if budget >= max_tokens {
        return invalid("`max_tokens` must be greater than `thinking.budget_tokens`.".to_owned());
    }
    Ok(())
}
