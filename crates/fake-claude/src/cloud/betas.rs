//! Betas that each platform accepts, as of 2026-11-29. The list is independent of that of the
//! layers, so that each checks the other.

use crate::cloud::FakeCloud;
use crate::cloud::route::Dialect;

/// Prefixes of the betas that all platforms accept.
const COMMON: [&str; 10] = [
    "compact-2026-01-12",
    "computer-use-2025-01-24",
    "computer-use-2025-11-24",
    "context-1m-",
    "context-management-",
    "effort-2025-11-24",
    "fine-grained-tool-streaming-",
    "thinking-binding-controls-",
    "thinking-display-updates-",
    "tool-search-tool-2025-10-19",
];
/// Those that Google and Amazon Bedrock's endpoints of the Claude API accept beside them.
const MESSAGES: [&str; 6] = [
    "interleaved-thinking-",
    "mid-conversation-",
    "output-128k-",
    "structured-outputs-2025-11-13",
    "token-efficient-tools-",
    "web-search-2025-03-05",
];
/// Those that Google accepts beside both.
const VERTEX: [&str; 4] = [
    "clear-at-",
    "inline-tools-",
    "model-context-window-exceeded-",
    "task-budgets-",
];
/// Accepted on InvokeModel. Changes of the tools are not, although they have the same beginning.
const INVOKE: [&str; 1] = ["mid-conversation-output-config-"];

/// Returns the betas that the platform does not accept.
pub(super) fn rejected<'a>(
    cloud: &FakeCloud,
    dialect: Dialect,
    betas: &'a [String],
) -> Vec<&'a str> {
    let more: [&[&str]; 2] = match dialect {
        Dialect::Claude | Dialect::Messages => [&MESSAGES, &[]],
        Dialect::Invoke => [&INVOKE, &[]],
        Dialect::Vertex => [&MESSAGES, &VERTEX],
    };
    let known = COMMON.iter().chain(more[0]).chain(more[1]).copied();
    let known: Vec<&str> = known
        .chain(cloud.betas.iter().map(String::as_str))
        .collect();
    let is_known = |beta: &str| known.iter().any(|prefix| beta.starts_with(prefix));
    let betas = betas.iter().map(String::as_str);
    betas.filter(|beta| !is_known(beta)).collect()
}
