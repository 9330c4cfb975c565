//! A classifier of reqwest's errors.

use std::error::Error;

use http::{HeaderMap, StatusCode};
use tower_claude_core::{
    BoxError, Class, Classify, ClassifyResponse, ClaudeClassify, Kind,
    toolkit::{classify_client_error, error_text},
};
use tower_claude_wire::ApiError;

/// A classifier of the errors of reqwest and reqwest-middleware. Responses are left to another
/// classifier.
///
/// [`ClaudeClassify`], the default of every layer, classifies these errors in the same way, by
/// [`classify_client_error`]. Use this type to combine them with [`over`](Self::over) another
/// classifier of responses.
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
    fn of_chain(&self, error: &(dyn Error + 'static)) -> Option<Class> {
        classify_client_error(error, &|status| {
            let none = HeaderMap::new();
            let class = self.responses.head(status, &none);
            class.unwrap_or_else(|| self.responses.body(status, &none, &[]))
        })
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

    fn expects_claude(&self) -> bool {
        self.responses.expects_claude()
    }
}

impl<C: ClassifyResponse> Classify<reqwest::Error> for ReqwestClassify<C> {
    fn error(&self, error: &reqwest::Error) -> Class {
        let class = self.of_chain(error);
        class.unwrap_or(Class::new(Kind::Transport))
    }

    fn cause(&self, error: &reqwest::Error) -> Option<String> {
        Some(error_text(error))
    }
}

/// For stacks that contain one of tower's own layers.
impl<C: Classify<BoxError>> Classify<BoxError> for ReqwestClassify<C> {
    fn error(&self, error: &BoxError) -> Class {
        let class = self.of_chain(error.as_ref());
        class.unwrap_or_else(|| self.responses.error(error))
    }

    fn cause(&self, error: &BoxError) -> Option<String> {
        Some(error_text(error.as_ref()))
    }
}

#[cfg(feature = "middleware")]
impl<C: Classify<reqwest_middleware::Error>> Classify<reqwest_middleware::Error>
    for ReqwestClassify<C>
{
    fn error(&self, error: &reqwest_middleware::Error) -> Class {
        let class = self.of_chain(error);
        class.unwrap_or_else(|| self.responses.error(error))
    }

    fn cause(&self, error: &reqwest_middleware::Error) -> Option<String> {
        Some(error_text(error))
    }
}
