//! Who retries a call: the outermost layer that can, and no other.

use std::{sync::Arc, time::Duration};

use http::Extensions;
use tokio::time::Instant;
use tower_claude_core::CallContext;

use crate::timeouts::after;

/// The context of the call, and whose it is.
pub(crate) enum Claim {
    /// Ours: added to each copy, so that the request we keep stays cheap to copy.
    Own(Arc<CallContext>),
    /// An outer layer's, in the request's extensions already.
    Outer(Arc<CallContext>),
    /// Another layer outside retries already: this one stands aside.
    Nested,
}

impl Claim {
    /// Claims the retrying of the call to which these extensions belong.
    pub(crate) fn of(extensions: &Extensions, total: Option<Duration>) -> Self {
        match extensions.get::<Arc<CallContext>>() {
            Some(context) if context.claim_retries() => Self::Outer(context.clone()),
            Some(_) => Self::Nested,
            None => {
                let now = Instant::now();
                let context = CallContext::new(extensions, now).with_deadline(after(now, total));
                context.claim_retries();
                Self::Own(Arc::new(context))
            }
        }
    }

    /// The context, when it is ours, so that the request came without it.
    pub(crate) const fn own(&self) -> Option<&Arc<CallContext>> {
        match self {
            Self::Own(context) => Some(context),
            _ => None,
        }
    }

    /// Puts the context where inner layers find it.
    pub(crate) fn mark(&self, extensions: &mut Extensions) {
        if let Some(context) = self.get() {
            extensions.insert(context.clone());
        }
    }

    /// The context, when the claim was granted.
    pub(crate) const fn get(&self) -> Option<&Arc<CallContext>> {
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
