//! Error of an exchange without a complete response.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{LazyLock, OnceLock};

/// Error that a caller in process gets where a caller on a socket would get a connection error.
/// [`Error::source`] is the [`io::Error`] of the same kind, for classifiers that search for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FakeError {
    /// The connection was reset before the first byte of the response.
    Reset,
    /// The connection broke in the middle of the body.
    Cut,
    /// The HTTP/2 stream was reset with this error code.
    StreamReset(u32),
    /// The request body failed before its end. The request was not complete, so it is not in the
    /// log.
    RequestBody,
    /// No server has the host of the request ([`FakeHosts`](crate::FakeHosts)).
    UnknownHost,
}

impl fmt::Display for FakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "connection reset before the response",
            Self::Cut => "connection closed before the end of the response body",
            Self::StreamReset(_) => "stream reset",
            Self::RequestBody => "the request body failed",
            Self::UnknownHost => "no server has this host",
        })
    }
}

/// An error for each reason of `RST_STREAM`.
static REASONS: LazyLock<[h2::Error; 14]> =
    LazyLock::new(|| std::array::from_fn(|code| h2::Reason::from(code as u32).into()));

impl Error for FakeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        static RESET: OnceLock<io::Error> = OnceLock::new();
        static NO_HOST: OnceLock<io::Error> = OnceLock::new();
        static CUT: OnceLock<io::Error> = OnceLock::new();
        match self {
            Self::Reset => Some(RESET.get_or_init(|| io::ErrorKind::ConnectionReset.into())),
            Self::Cut => Some(CUT.get_or_init(|| io::ErrorKind::UnexpectedEof.into())),
            // Hyper sends the reason that it finds here.
            Self::StreamReset(code) => Some(&REASONS[*code as usize % REASONS.len()]),
            Self::RequestBody => None,
            Self::UnknownHost => {
                Some(NO_HOST.get_or_init(|| io::ErrorKind::HostUnreachable.into()))
            }
        }
    }
}
