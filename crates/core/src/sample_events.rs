//! Events for the tests of observers.

use std::time::Duration;

use http::StatusCode;
use tower_claude_wire::{Billing, ModelCatalog, Usage};

use crate::{
    class::Class,
    endpoint::Endpoint,
    event::{AttemptEnd, Ending},
    scope::Scope,
    workload::Workload,
};

pub(crate) const MODEL: &str = "claude-sonnet-5-5";

/// Returns the scope of Messages requests to [`MODEL`].
pub(crate) fn scope() -> Scope {
    Scope {
        credential: 7,
        host: "api.anthropic.com".into(),
        endpoint: Endpoint::Messages,
        group: "sonnet-5.5".into(),
        fast: false,
    }
}

/// Returns the end of an attempt that was answered.
pub(crate) fn answered<'a>(
    model: &'a str,
    scope: Option<&'a Scope>,
    usage: &'a Usage,
) -> AttemptEnd<'a> {
    AttemptEnd {
        layer: "retry",
        call: 1,
        attempt: 1,
        ending: Ending::Answered,
        class: Class::SUCCESS,
        endpoint: Endpoint::Messages,
        model: Some(model),
        scope,
        credential: 7,
        tenant: None,
        workload: Workload::NONE,
        status: Some(StatusCode::OK),
        request: None,
        response: None,
        wait: Duration::ZERO,
        first_content: Some(Duration::from_millis(400)),
        duration: Duration::from_secs(2),
        usage,
        billing: Some(Billing::default()),
        bill: ModelCatalog::builtin().bill(model, usage, Billing::default()),
        request_id: Some("req_1"),
        cause: None,
    }
}
