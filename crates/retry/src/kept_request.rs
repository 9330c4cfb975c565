//! The request that is kept for the next attempt.

use std::{ops::Deref, sync::Arc};

use http::Request;
use tower_claude_core::{RequestBody, driver::CallStart, toolkit::SavedRequest};

/// A request that is kept for the next attempt.
pub(crate) enum KeptRequest {
    // Not boxed, because that is an allocation for each call.
    Own(SavedRequest),
    /// An outer policy keeps it as well.
    Shared(Arc<SavedRequest>),
}

impl KeptRequest {
    /// Saves the request of a call. Returns `None` if it cannot be sent again.
    #[inline]
    pub(crate) fn of(start: &mut CallStart<'_>) -> Option<Self> {
        match start.saved.take() {
            Some(saved) => Some(Self::Shared(saved)),
            None => SavedRequest::of(start.request).map(Self::Own),
        }
    }

    /// Returns the request for its last attempt.
    pub(crate) fn into_request(self) -> Request<RequestBody> {
        match self {
            Self::Own(saved) => saved.into_request(),
            Self::Shared(saved) => {
                Arc::try_unwrap(saved).map_or_else(|saved| saved.copy(), SavedRequest::into_request)
            }
        }
    }
}

impl Deref for KeptRequest {
    type Target = SavedRequest;

    fn deref(&self) -> &SavedRequest {
        match self {
            Self::Own(saved) => saved,
            Self::Shared(saved) => saved,
        }
    }
}
