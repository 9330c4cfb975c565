//! Who retries a call: the outermost layer that can, and no other.

use std::{sync::Arc, time::Duration};

use http::Request;
use tokio::time::Instant;
use tower_claude_core::{Call, RequestBody};

use crate::timeouts::after;

/// The context of the call, and whose it is.
pub(crate) enum Claim {
    /// Ours: added to each copy, so that the request we keep stays cheap to copy.
    Own(Arc<Call>),
    /// An outer layer's, in the request's extensions already.
    Outer(Arc<Call>),
    /// Another layer outside retries already: this one stands aside.
    Nested,
}

impl Claim {
    /// Claims the retrying of the call to which this request belongs.
    pub(crate) fn of(request: &Request<RequestBody>, total: Option<Duration>) -> Self {
        match Call::of(request) {
            Some(context) if context.claim_retries() => Self::Outer(context.clone()),
            Some(_) => Self::Nested,
            None => {
                let now = Instant::now();
                let context = Call::new(request.extensions(), now).with_deadline(after(now, total));
                context.claim_retries();
                Self::Own(Arc::new(context))
            }
        }
    }

    /// The context, when it is ours, so that the request came without it.
    pub(crate) const fn own(&self) -> Option<&Arc<Call>> {
        match self {
            Self::Own(context) => Some(context),
            _ => None,
        }
    }

    /// Puts the context where inner layers find it.
    pub(crate) fn mark(&self, request: &mut Request<RequestBody>) {
        if let Some(context) = self.get() {
            context.attach(request);
        }
    }

    /// The context, when the claim was granted.
    pub(crate) const fn get(&self) -> Option<&Arc<Call>> {
        match self {
            Self::Own(context) | Self::Outer(context) => Some(context),
            Self::Nested => None,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Self::Outer(context) = self {
            context.release_retries();
        }
    }
}
