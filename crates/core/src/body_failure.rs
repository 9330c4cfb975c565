//! The failure of a request body.

use std::{error::Error, io};

use crate::{
    BoxError,
    class::{Class, Kind},
};

/// The failure of a request body while it was read. The caller is at fault and not the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyFailure {
    /// The body ended with an error, for example because the caller's connection broke.
    Broken,
    /// The body is longer than a limit outside of the layers.
    TooLong,
    /// The body did not arrive in time.
    TimedOut,
}

/// The messages of the errors of the body limit of `http-body-util`, and of the body timeout of
/// `tower-http`. This crate depends on neither, so the messages are compared instead of the types.
const LENGTH_LIMIT: &str = "length limit exceeded";
const BODY_TIMEOUT: &str = "data was not received within the designated timeout";

impl BodyFailure {
    /// Returns the failure that this error of a body stands for.
    pub(crate) fn of(error: &BoxError) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = Some(error.as_ref());
        while let Some(error) = next {
            let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if error.is::<tokio::time::error::Elapsed>() || io == Some(io::ErrorKind::TimedOut) {
                return Self::TimedOut;
            }
            match error.to_string().as_str() {
                LENGTH_LIMIT => return Self::TooLong,
                BODY_TIMEOUT => return Self::TimedOut,
                _ => next = error.source(),
            }
        }
        Self::Broken
    }

    /// Returns the class of a call that failed in this way. It is local, so that no layer counts it
    /// as a failure of the server or charges it.
    #[must_use]
    pub const fn class(self) -> Class {
        Class::new(match self {
            Self::Broken => Kind::BadRequest,
            Self::TooLong => Kind::TooLarge,
            Self::TimedOut => Kind::Timeout,
        })
        .into_local()
    }

    /// Returns the description of the failure.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Broken => "the request body could not be read to its end",
            Self::TooLong => "the request body is longer than its limit",
            Self::TimedOut => "the request body did not arrive in time",
        }
    }
}
