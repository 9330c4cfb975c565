//! Credentials of targets.

use std::{error::Error, fmt, pin::Pin, sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::request::Parts;
use tower_claude_core::BoxError;

/// A source of credentials, which puts one into each request.
///
/// [`Bearer`](crate::Bearer) is one, and with the feature `bedrock`, `SigV4` is another.
/// [`authorize`](Self::authorize) runs last, when head and body are those that are sent. It must
/// not block.
pub trait Authorize: Send + Sync {
    /// Puts the credential into the head of a request, replacing any that is there.
    ///
    /// `now` is the wall clock, for signatures.
    fn authorize(&self, head: &mut Parts, body: &Bytes, now: SystemTime) -> Authorization;

    /// Records that the server rejected the credential with this number as expired. Returns true if
    /// another attempt would have another credential.
    ///
    /// A newer credential must not be dropped: another call may have fetched it already. Returns
    /// false by default, for a credential that never changes.
    fn reject(&self, number: u64) -> bool {
        let _ = number;
        false
    }
}

impl<A: Authorize + ?Sized> Authorize for Arc<A> {
    fn authorize(&self, head: &mut Parts, body: &Bytes, now: SystemTime) -> Authorization {
        A::authorize(self, head, body, now)
    }

    fn reject(&self, number: u64) -> bool {
        A::reject(self, number)
    }
}

/// The result of [`Authorize::authorize`].
pub enum Authorization {
    /// The head carries the credential with this number. A later credential has another number.
    Done(u64),
    /// The credential is being fetched. Authorize again after the future has ended. Dropping the
    /// future must not end the fetch for other calls.
    Wait(Pin<Box<dyn Future<Output = Result<(), AuthorizeError>> + Send>>),
    /// There is no credential.
    Failed(AuthorizeError),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done(_) => "Done",
            Self::Wait(_) => "Wait",
            Self::Failed(_) => "Failed",
        })
    }
}

/// The failure to get a credential. Also an extension of the response that reports it.
///
/// The response does not contain the text of the cause, because it may name secrets.
#[derive(Clone, Debug)]
pub struct AuthorizeError(Arc<BoxError>);

impl AuthorizeError {
    /// Creates an error with this cause.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        Self(Arc::new(cause.into()))
    }
}

impl fmt::Display for AuthorizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no credential for the target")
    }
}

impl Error for AuthorizeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&**self.0)
    }
}
