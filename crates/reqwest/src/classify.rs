//! A classifier of reqwest's errors.

use std::{error::Error, io};

use http::{HeaderMap, StatusCode};
use tower_claude_core::{BoxError, Class, Classify, ClassifyResponse, ClaudeClassify, Kind};
use tower_claude_wire::ApiError;

/// A classifier of the errors of reqwest and reqwest-middleware. Responses are left to another
/// classifier.
///
/// | error | class |
/// |---|---|
/// | no connection (refused, DNS, TLS, connect timeout) | [`Kind::Transport`], nothing was sent |
/// | timeout after connecting | [`Kind::Timeout`], the server may still work on the request and charge it |
/// | builder (for example an invalid URL) | [`Kind::BadRequest`], local, nothing was sent and a retry does not help |
/// | too many or circular redirects | [`Kind::BadRequest`] |
/// | a status, from `error_for_status` | the class of the status |
/// | broken request or response, or decoding error | [`Kind::Transport`] |
///
/// An error of another middleware or layer is searched for one of these errors, and for an elapsed
/// tokio timer. If its sources contain none, the inner classifier decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReqwestClassify<C = ClaudeClassify> {
    responses: C,
}

impl ReqwestClassify {
    /// Returns a classifier that leaves responses to [`ClaudeClassify`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<C> ReqwestClassify<C> {
    /// Returns a classifier that leaves responses to `responses`.
    #[must_use]
    pub const fn over(responses: C) -> Self {
        Self { responses }
    }
}

impl<C: ClassifyResponse> ReqwestClassify<C> {
    fn of_reqwest(&self, error: &reqwest::Error) -> Class {
        if error.is_builder() {
            return Class::new(Kind::BadRequest).into_local();
        }
        if let Some(status) = error.status() {
            let none = HeaderMap::new();
            let class = self.responses.head(status, &none);
            return class.unwrap_or_else(|| self.responses.body(status, &none, &[]));
        }
        Class::new(if error.is_redirect() {
            Kind::BadRequest
        } else if error.is_timeout() && !error.is_connect() {
            Kind::Timeout
        } else {
            Kind::Transport
        })
    }

    /// Returns the class of the first error in the chain of sources that is reqwest's or a timer's.
    fn of_chain(&self, error: &(dyn Error + 'static)) -> Option<Class> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<reqwest::Error>() {
                return Some(self.of_reqwest(error));
            }
            #[cfg(feature = "middleware")]
            if let Some(reqwest_middleware::Error::Reqwest(error)) = error.downcast_ref() {
                // This error is transparent: its `source` skips reqwest's error.
                return Some(self.of_reqwest(error));
            }
            // The errors of other middleware that has its own timers.
            if error.is::<tokio::time::error::Elapsed>()
                || error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
            {
                return Some(Class::new(Kind::Timeout));
            }
            next = error.source();
        }
        None
    }
}

impl<C: ClassifyResponse> ClassifyResponse for ReqwestClassify<C> {
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Option<Class> {
        self.responses.head(status, headers)
    }

    fn body(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Class {
        self.responses.body(status, headers, body)
    }

    fn stream_error(&self, error: &ApiError) -> Class {
        self.responses.stream_error(error)
    }
}

impl<C: ClassifyResponse> Classify<reqwest::Error> for ReqwestClassify<C> {
    fn error(&self, error: &reqwest::Error) -> Class {
        self.of_reqwest(error)
    }
}

/// For stacks that contain one of tower's own layers.
impl<C: Classify<BoxError>> Classify<BoxError> for ReqwestClassify<C> {
    fn error(&self, error: &BoxError) -> Class {
        let class = self.of_chain(error.as_ref());
        class.unwrap_or_else(|| self.responses.error(error))
    }
}

#[cfg(feature = "middleware")]
impl<C: Classify<reqwest_middleware::Error>> Classify<reqwest_middleware::Error>
    for ReqwestClassify<C>
{
    fn error(&self, error: &reqwest_middleware::Error) -> Class {
        use reqwest_middleware::Error::{Middleware, Reqwest};
        let class = match error {
            Reqwest(error) => Some(self.of_reqwest(error)),
            Middleware(error) => self.of_chain(error.as_ref()),
        };
        class.unwrap_or_else(|| self.responses.error(error))
    }
}
