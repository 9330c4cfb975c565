//! Betas that each platform accepts, as of 2026-11-29: those of the table of `LiteLLM` 1.110.2,
//! with the features by platform of the documentation. The list is independent of that of the
//! layers, so that each checks the other.

use crate::cloud::FakeCloud;
use crate::cloud::route::Dialect;

/// The betas that all platforms accept.
const COMMON: [&str; 12] = [
    "compact-2026-01-12",
    "computer-use-2025-01-24",
    "computer-use-2025-11-24",
    "context-1m-2025-08-07",
    "context-management-2025-06-27",
    "dangerous-tool-use-2026-09-03",
    "effort-2025-11-24",
    "fine-grained-tool-streaming-2025-05-14",
    "mid-conversation-output-config-2026-07-01",
    "thinking-binding-controls-2026-08-01",
    "thinking-display-updates-2026-08-18",
    "tool-search-tool-2025-10-19",
];
/// Those that InvokeModel accepts beside them.
const INVOKE: [&str; 1] = ["compact-2026-09-04"];
/// Those that Google and Amazon Bedrock's endpoints of the Claude API accept beside them.
const MESSAGES: [&str; 9] = [
    "claude-code-20250219",
    "interleaved-thinking-2025-05-14",
    "mid-conversation-tool-changes-2026-07-01",
    "output-128k-2025-02-19",
    "per-turn-control-2026-07-01",
    "structured-outputs-2025-11-13",
    "token-efficient-tools-2025-02-19",
    "tool-examples-2025-10-29",
    "web-search-2025-03-05",
];
/// Those that Google accepts beside both.
const VERTEX: [&str; 10] = [
    "afk-mode-2026-01-31",
    "compact-2026-09-04",
    "inline-tools-2026-09-15",
    "mid-conversation-system-clear-at-2026-08-21",
    "model-context-window-exceeded-2025-08-26",
    "pdfs-2024-09-25",
    "structured-outputs-2025-12-15",
    "task-budgets-2026-03-13",
    "thinking-token-count-2026-05-13",
    "token-counting-2024-11-01",
];

/// Returns the betas that the platform does not accept.
pub(super) fn rejected<'a>(
    cloud: &FakeCloud,
    dialect: Dialect,
    betas: &'a [String],
) -> Vec<&'a str> {
    let [more, most]: [&[&str]; 2] = match dialect {
        Dialect::Claude | Dialect::Messages => [&MESSAGES, &[]],
        Dialect::Invoke => [&INVOKE, &[]],
        Dialect::Vertex => [&MESSAGES, &VERTEX],
    };
    let is_known = |beta: &&str| {
        let is_added = cloud.betas.iter().any(|prefix| beta.starts_with(&**prefix));
        COMMON.contains(beta) || more.contains(beta) || most.contains(beta) || is_added
    };
    let betas = betas.iter().map(String::as_str);
    betas.filter(|beta| !is_known(beta)).collect()
}
