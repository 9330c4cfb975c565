//! The check of a request before a target is chosen.

use std::sync::LazyLock;

use http::Request;
use tower_claude_core::RequestBody;
use tower_claude_wire::{
    Platform,
    cloud::{Target, Unportable},
};

use crate::translate::Translator;

/// A body that is not in memory cannot be translated.
const NOT_IN_MEMORY: Unportable = Unportable::new("body", "it is too large to be translated");

/// Checks that a target can serve a request, with the built-in catalog and table of betas. For a
/// layer that chooses among targets.
///
/// ```
/// use http::Request;
/// use tower_claude_core::RequestBody;
/// use tower_claude_wire::cloud::Target;
///
/// let body = r#"{"model":"claude-opus-5-5","max_tokens":9,"messages":[],"inference_geo":"us"}"#;
/// let request = Request::post("https://api.anthropic.com/v1/messages").body(RequestBody::from(body))?;
/// assert!(tower_claude_cloud::check(&request, &Target::claude_api()).is_ok());
/// let vertex = Target::vertex("my-project", "global")?;
/// let refused = tower_claude_cloud::check(&request, &vertex).unwrap_err();
/// assert!(refused.to_string().contains("inference_geo"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Names the field or the header that the target cannot serve.
pub fn check(request: &Request<RequestBody>, target: &Target) -> Result<(), Unportable> {
    static TRANSLATOR: LazyLock<Translator> = LazyLock::new(Translator::new);

    match request.body().bytes() {
        Some(body) => TRANSLATOR.check(request.uri(), request.headers(), body, target),
        None if target.platform() == Platform::ClaudeApi => Ok(()),
        None => Err(NOT_IN_MEMORY),
    }
}
