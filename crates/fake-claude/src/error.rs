//! How an exchange fails without an answer.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::OnceLock;

/// What a caller in process sees where one on a socket would see its connection break. [`Error::source`] is the
/// [`io::Error`] of the same kind, for classifiers that look for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FakeError {
    /// The connection was reset before any byte of the answer.
    Reset,
    /// The connection broke in the middle of the body.
    Cut,
    /// The request's own body failed before its end; the request was never seen whole and is not in the log.
    RequestBody,
}

impl fmt::Display for FakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "connection reset before the response",
            Self::Cut => "connection closed before the end of the response body",
            Self::RequestBody => "the request body failed",
        })
    }
}

impl Error for FakeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        static RESET: OnceLock<io::Error> = OnceLock::new();
        static CUT: OnceLock<io::Error> = OnceLock::new();
        match self {
            Self::Reset => Some(RESET.get_or_init(|| io::ErrorKind::ConnectionReset.into())),
            Self::Cut => Some(CUT.get_or_init(|| io::ErrorKind::UnexpectedEof.into())),
            Self::RequestBody => None,
        }
    }
}
