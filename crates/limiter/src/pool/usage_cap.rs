//! The cap of reported usage, and of the debt that it causes.
//!
//! A server, or a proxy before it, may report any number of tokens. Usage that the request cannot
//! have caused is charged as its bound, and nothing is learned from it.

use tower_claude_core::UsageBound;
use tower_claude_wire::Usage;

/// The bound of plausible token counts. A higher count is an underflow in the server's response,
/// and shows nothing about the usage.
const MAX_PLAUSIBLE: u64 = 1 << 26;

/// The longest time for which usage beyond the estimates takes a level below zero: 5 minutes, as
/// the default of [`max_pause`](crate::LimiterConfig::max_pause). A server would have rejected the
/// requests long before.
pub(crate) const MAX_DEBT: u64 = 300_000_000_000;

/// Returns a reported count of tokens, at most `bound`. `None` if it is implausible.
pub(crate) fn capped(tokens: Option<u64>, bound: u32) -> Option<u64> {
    let tokens = tokens.filter(|tokens| *tokens < MAX_PLAUSIBLE)?;
    Some(tokens.min(u64::from(bound)))
}

/// Returns true if a count that counts against a limit is over its bound.
pub(crate) fn exceeds(usage: &Usage, bound: UsageBound) -> bool {
    exceeds_either(usage.limited_input(), usage.limited_output(), bound)
}

/// Returns true if this input or this output is over its bound.
#[inline]
pub(crate) fn exceeds_either(input: Option<u64>, output: Option<u64>, bound: UsageBound) -> bool {
    let is_over = |tokens: Option<u64>, bound: u32| tokens.is_some_and(|it| it > u64::from(bound));
    is_over(input, bound.input_tokens) || is_over(output, bound.output_tokens)
}
