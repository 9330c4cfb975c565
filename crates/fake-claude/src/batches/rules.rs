//! Rules for the requests in a batch that do not hold for other requests.

use crate::check::Body;
use crate::reply::ErrorReply;

/// Fields of a Messages request that a batch does not take.
const REFUSED_FIELDS: [&str; 7] = [
    "cache_hint",
    "context_hint",
    "fallbacks",
    "research_preview",
    "speed",
    "store",
    "thread",
];

/// Returns the error for a Messages request that a batch does not take.
pub(crate) fn item_problem(body: &Body<'_>, stream: bool, max_tokens: u64) -> Option<ErrorReply> {
    let has = |name: &&&str| !body.value(name).is_null();
    let problem = if stream {
        "stream: streaming is not supported in a batch".to_owned()
    } else if max_tokens == 0 {
        "max_tokens: 0 is not supported in a batch".to_owned()
    } else if body.value("billing_policy")["bill_to"] == "user_profile" {
        "billing_policy.bill_to: user_profile is not supported in a batch".to_owned()
    } else {
        let name = REFUSED_FIELDS.iter().find(has)?;
        format!("{name}: not supported in a batch")
    };
    Some(ErrorReply::invalid(problem))
}
