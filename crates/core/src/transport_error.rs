//! The classification of the errors of HTTP clients.

use std::{any::Any, error::Error, io};

use http::StatusCode;

use crate::{
    BoxError,
    class::{Class, Kind},
    text::{escaped, without_url_secrets},
};

/// Returns the class of the first error in the chain of sources that is recognised, or `None`.
///
/// `by_status` returns the class of a response with this status, for errors that a client makes of
/// a response.
///
/// | error | class |
/// |---|---|
/// | the client cannot send the request: its URI, version or a header is not valid there | [`Kind::BadRequest`], local |
/// | the body of the request failed | [`Kind::BadRequest`], local |
/// | the server did not take the request: `REFUSED_STREAM`, a stream beyond `GOAWAY`, a connection that closed before the request was written | [`Class::NOT_TAKEN`] |
/// | no connection: refused, DNS, TLS, timeout of the connector | [`Kind::Transport`], unprocessed |
/// | the same, and another attempt fails as well: unknown host, invalid certificate, no TLS server | the same, with `should_retry` false |
/// | a timer of tokio, of `std::io`, of tower's `timeout` layer, or of reqwest | [`Kind::Timeout`] |
/// | any other error of hyper, h2 or reqwest | [`Kind::Transport`] |
///
/// The errors of hyper, hyper-util and h2 are recognised with the feature `hyper`, which is on by
/// default. The adaptors of reqwest enable the features for its errors.
#[must_use]
pub fn classify_client_error(
    error: &(dyn Error + 'static),
    by_status: &dyn Fn(StatusCode) -> Class,
) -> Option<Class> {
    // An error that is known to be of a client. One of its sources may reveal more.
    let mut known = None;
    let mut next = Some(error);
    while let Some(error) = next {
        match found(error, by_status) {
            Found::Class(class) => return Some(class),
            Found::AtLeast(class) => known = known.or(Some(class)),
            Found::Nothing => {}
        }
        next = source(error);
    }
    known
}

/// Returns the source of an error.
fn source<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    #[cfg(feature = "reqwest-middleware")]
    if let Some(error) = error.downcast_ref() {
        // This error is transparent: its `source` skips the error inside of it.
        return Some(match error {
            reqwest_middleware::Error::Reqwest(inner) => inner,
            reqwest_middleware::Error::Middleware(inner) => inner.as_ref(),
        });
    }
    error.source()
}

/// Returns the texts of an error and of all its sources in one line, for a log.
///
/// The line has at most 300 bytes, and no line break or terminal code. The user, the query and the
/// fragment of URLs are left out, because they may be secret.
///
/// ```
/// use std::io;
/// use tower_claude_core::toolkit::error_text;
///
/// let inner = io::Error::other("certificate expired");
/// let error = io::Error::new(io::ErrorKind::Other, Outer(inner));
/// assert_eq!(
///     error_text(&error),
///     "GET https://host/v1: certificate expired",
/// );
/// # #[derive(Debug)]
/// # struct Outer(io::Error);
/// # impl std::fmt::Display for Outer {
/// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
/// #         f.write_str("GET https://user:secret@host/v1?key=secret")
/// #     }
/// # }
/// # impl std::error::Error for Outer {
/// #     fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
/// #         Some(&self.0)
/// #     }
/// # }
/// ```
#[must_use]
pub fn error_text(error: &(dyn Error + 'static)) -> String {
    /// A chain that is longer than this is not read further.
    const MOST_SOURCES: usize = 16;
    let mut text = String::new();
    for error in std::iter::successors(Some(error), |&error| source(error)).take(MOST_SOURCES) {
        let one = error.to_string();
        let one = without_url_secrets(&one);
        // Many errors repeat the text of their source.
        if one.is_empty() || text.contains(&*one) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&one);
    }
    escaped(&text).into_owned()
}

/// Returns the value as an error, if its type is that of an error of a known client.
pub(crate) fn as_error<E: 'static>(error: &E) -> Option<&(dyn Error + 'static)> {
    fn cast<T: Error + 'static>(error: &dyn Any) -> Option<&(dyn Error + 'static)> {
        error.downcast_ref::<T>().map(|error| error as _)
    }
    let any: &dyn Any = error;
    let boxed = any.downcast_ref::<BoxError>();
    let found = boxed.map(|error| error.as_ref() as _);
    let found = found
        .or_else(|| cast::<io::Error>(any))
        .or_else(|| cast::<tokio::time::error::Elapsed>(any));
    #[cfg(feature = "hyper")]
    let found = found
        .or_else(|| cast::<hyper_util::client::legacy::Error>(any))
        .or_else(|| cast::<hyper::Error>(any));
    #[cfg(feature = "reqwest")]
    let found = found.or_else(|| cast::<reqwest::Error>(any));
    #[cfg(feature = "reqwest-middleware")]
    let found = found.or_else(|| cast::<reqwest_middleware::Error>(any));
    found
}

/// The meaning of one error of a chain.
enum Found {
    /// The class, whatever the sources of the error are.
    Class(Class),
    /// The class unless a source reveals more.
    #[cfg_attr(
        not(feature = "hyper"),
        expect(dead_code, reason = "no client is recognised")
    )]
    AtLeast(Class),
    Nothing,
}

/// The message of the error of tower's `timeout` layer.
///
/// This crate does not depend on tower, so the message is compared instead of the type. The
/// difference matters: after a timeout the server may still be working on the request.
const TOWER_TIMEOUT: &str = "request timed out";

/// The class of a request that the client cannot send, or that the caller did not finish.
const fn own_side() -> Class {
    Class::new(Kind::BadRequest).into_local()
}

#[cfg_attr(not(feature = "reqwest"), expect(unused_variables))]
fn found(error: &(dyn Error + 'static), by_status: &dyn Fn(StatusCode) -> Class) -> Found {
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return by_reqwest(error, by_status);
    }
    #[cfg(feature = "hyper")]
    if let Some(found) = by_hyper(error) {
        return found;
    }
    if error.is::<tokio::time::error::Elapsed>()
        || error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        || error.to_string() == TOWER_TIMEOUT
    {
        return Found::Class(Class::new(Kind::Timeout));
    }
    let is_invalid = error.is::<http::Error>()
        || error.is::<http::uri::InvalidUri>()
        || error.is::<http::header::InvalidHeaderName>()
        || error.is::<http::header::InvalidHeaderValue>();
    if is_invalid {
        return Found::Class(own_side());
    }
    Found::Nothing
}

#[cfg(feature = "reqwest")]
fn by_reqwest(error: &reqwest::Error, by_status: &dyn Fn(StatusCode) -> Class) -> Found {
    if error.is_builder() {
        return Found::Class(own_side());
    }
    if let Some(status) = error.status() {
        return Found::Class(by_status(status));
    }
    if error.is_redirect() {
        return Found::Class(Class::new(Kind::BadRequest));
    }
    // The error of a request body may be a timer of the caller, so the sources come first.
    Found::AtLeast(Class::new(if error.is_timeout() && !error.is_connect() {
        Kind::Timeout
    } else {
        Kind::Transport
    }))
}

/// Returns the meaning of an error of hyper-util's client, of hyper or of h2.
#[cfg(feature = "hyper")]
fn by_hyper(error: &(dyn Error + 'static)) -> Option<Found> {
    let transport = Class::new(Kind::Transport);
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        if error.is_connect() {
            let class = if is_invalid_target(error) {
                own_side()
            } else {
                let advice = is_permanent(error).then_some(false);
                transport.into_unprocessed().with_should_retry(advice)
            };
            return Some(Found::Class(class));
        }
        // The other kinds are private, and visible only in the text.
        return Some(match error.to_string().as_str() {
            "client error (UserUnsupportedRequestMethod)"
            | "client error (UserUnsupportedVersion)"
            | "client error (UserAbsoluteUriRequired)" => Found::Class(own_side()),
            "client error (Canceled)" | "client error (ChannelClosed)" => {
                Found::Class(Class::NOT_TAKEN)
            }
            _ => Found::AtLeast(transport),
        });
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return Some(if error.is_canceled() || error.is_closed() {
            Found::Class(Class::NOT_TAKEN)
        } else if error.is_user() && !error.to_string().starts_with("dispatch task is gone") {
            Found::Class(own_side())
        } else if error.is_timeout() {
            // The connection does not answer pings. That is no answer that takes too long.
            Found::Class(transport)
        } else {
            Found::AtLeast(transport)
        });
    }
    let error = error.downcast_ref::<h2::Error>()?;
    let is = |reason| error.reason() == Some(reason);
    Some(if error.is_go_away() && error.is_remote() {
        // Streams up to the last that the server processed do not fail by this frame.
        Found::Class(if is(h2::Reason::NO_ERROR) {
            Class::NOT_TAKEN
        } else {
            transport.into_unprocessed()
        })
    } else if error.is_reset() && error.is_remote() && is(h2::Reason::REFUSED_STREAM) {
        Found::Class(Class::NOT_TAKEN)
    } else if error.is_reset() && !error.is_remote() && !error.is_library()
        || error.to_string() == "user error: malformed headers"
    {
        // The client resets a stream if the body of the request fails.
        Found::Class(own_side())
    } else {
        Found::AtLeast(transport)
    })
}

/// Returns true if the connector does not support the scheme, or the URI has no host.
#[cfg(feature = "hyper")]
fn is_invalid_target(error: &(dyn Error + 'static)) -> bool {
    // The connectors of hyper-util and hyper-rustls. Their types are private.
    any_text(error, |text| {
        text.starts_with("invalid URL, ") || text.starts_with("unsupported scheme ")
    })
}

/// Returns true if no further attempt can make a connection: the name does not exist, the
/// certificate is not valid, or the port does not speak TLS.
#[cfg(feature = "hyper")]
fn is_permanent(error: &(dyn Error + 'static)) -> bool {
    /// The texts of the resolvers (glibc, musl, BSD and macOS, Windows), of rustls and of OpenSSL.
    const TEXTS: [&str; 8] = [
        "Name or service not known",
        "Name does not resolve",
        "nodename nor servname provided",
        "No such host is known",
        "invalid peer certificate",
        "certificate verify failed",
        "received corrupt message of type InvalidContentType",
        "wrong version number",
    ];
    any_text(error, |text| TEXTS.iter().any(|part| text.contains(part)))
}

/// Returns true for the text of an error in the chain of sources.
#[cfg(feature = "hyper")]
fn any_text(error: &(dyn Error + 'static), is_meant: impl Fn(&str) -> bool) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .any(|error| is_meant(&error.to_string()))
}
