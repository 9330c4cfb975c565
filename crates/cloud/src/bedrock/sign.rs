//! Signature Version 4 of AWS.

use std::{fmt, sync::Arc, time::SystemTime};

use aws_sigv4::{
    http_request::{self, SignableBody, SignableRequest, SigningSettings},
    sign::v4::SigningParams,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{AUTHORIZATION, CONNECTION, HOST},
    request::Parts,
};

use super::credentials::Credentials;

/// Headers of another signature or credential, which a signature replaces.
const REPLACED: [&str; 5] = [
    "authorization",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
    "x-api-key",
];

/// Headers that clients or proxies add, change or remove on the way to AWS. The prefixes of
/// [`CHANGING_PREFIXES`] are more of them.
const CHANGING: [&str; 22] = [
    "accept-encoding",
    "baggage",
    "cache-control",
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "from",
    "keep-alive",
    "max-forwards",
    "pragma",
    "referer",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-amzn-trace-id",
    "x-request-id",
];

const CHANGING_PREFIXES: [&str; 4] = ["proxy-", "sec-", "x-forwarded-", "x-envoy-"];

/// The reason that a request cannot be signed. It names no value of a header and no credential.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignError {
    /// The request has no host.
    NoHost,
    /// The credentials are empty, or have a character that a header must not have.
    InvalidCredentials,
    /// The service or the region is empty, or has another character than letters, digits and `-`.
    InvalidScope,
    /// A header whose name begins with `x-amz` has a value that is not visible ASCII.
    InvalidHeader(HeaderName),
    /// The library that signs rejects the request for another reason.
    Rejected(String),
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => f.write_str("the request has no host to be signed for"),
            Self::InvalidCredentials => f.write_str(
                "the AWS credentials are empty or have a character that a header must not have",
            ),
            Self::InvalidScope => {
                f.write_str("the name of the AWS service or of its region is not valid")
            }
            Self::InvalidHeader(name) => write!(f, "the header {name} is not visible ASCII"),
            Self::Rejected(reason) => write!(f, "the request cannot be signed: {reason}"),
        }
    }
}

impl std::error::Error for SignError {}

/// A service of AWS and its region, for which a signature is valid. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    service: Arc<str>,
    region: Arc<str>,
}

impl Scope {
    pub(super) fn new(service: &str, region: &str) -> Self {
        Self {
            service: service.into(),
            region: region.into(),
        }
    }

    /// Checks the names, which are written into a header.
    fn check(&self) -> Result<(), SignError> {
        let is_label = |text: &str| {
            let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            !text.is_empty() && text.bytes().all(is_part)
        };
        let is_valid = is_label(&self.service) && is_label(&self.region);
        is_valid.then_some(()).ok_or(SignError::InvalidScope)
    }
}

/// Signs a request for a service of AWS at this time.
///
/// The signature covers the method, the path as it is sent, the query, the hash of the body, and
/// all headers but those that clients and proxies add, change or remove. It expires after five
/// minutes, so each attempt is signed again, and nothing may change the request afterwards.
///
/// `authorization`, `x-amz-date` and, for temporary credentials, `x-amz-security-token` are set.
/// Values of another signature are removed, and so is `x-api-key`. A `host` header is set to the
/// host of the URI. The client adds this header if it is absent.
///
/// # Errors
///
/// Returns an error if the request or the credentials cannot be written as a signed request. The
/// request is then unchanged, except that credentials of another kind may be gone.
pub(super) fn sign(
    parts: &mut Parts,
    body: &[u8],
    credentials: &Credentials,
    scope: &Scope,
    time: SystemTime,
) -> Result<(), SignError> {
    let host = host(&parts.uri).ok_or(SignError::NoHost)?;
    for name in REPLACED {
        parts.headers.remove(name);
    }
    if parts.headers.contains_key(HOST) {
        let value = HeaderValue::from_str(&host).map_err(|_| SignError::NoHost)?;
        parts.headers.insert(HOST, value);
    }
    scope.check()?;
    check(credentials)?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let uri = format!("https://{host}{path}");
    let mut signed = signed_headers(&parts.headers)?;
    // The library would leave out the default port of the wrong scheme.
    signed.push(("host", &host));
    let request = SignableRequest::new(
        parts.method.as_str(),
        uri,
        signed.into_iter(),
        SignableBody::Bytes(body),
    )
    .map_err(rejected)?;
    let identity = credentials.inner().clone().into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(&scope.region)
        .name(&scope.service)
        .time(time)
        // The default encodes the path once more, as all services but S3 expect it.
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| SignError::Rejected(error.to_string()))?
        .into();
    let (instructions, _) = http_request::sign(request, &params)
        .map_err(rejected)?
        .into_parts();
    let (headers, _) = instructions.into_parts();
    for header in headers {
        let mut value =
            HeaderValue::from_str(header.value()).map_err(|_| SignError::InvalidCredentials)?;
        let name = HeaderName::from_static(header.name());
        value.set_sensitive(header.sensitive() || name == AUTHORIZATION);
        parts.headers.insert(name, value);
    }
    Ok(())
}

fn rejected(error: impl std::error::Error) -> SignError {
    // The sources are errors of parsers, which name no value.
    SignError::Rejected(error.to_string())
}

/// Returns the value of the `host` header: without the user, and without the default port.
fn host(uri: &Uri) -> Option<String> {
    let host = uri.host().filter(|host| !host.is_empty())?;
    let default = match uri.scheme_str() {
        Some("http") => 80,
        _ => 443,
    };
    Some(match uri.port_u16().filter(|port| *port != default) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// Checks the parts of the credentials that are written into headers.
fn check(credentials: &Credentials) -> Result<(), SignError> {
    let inner = credentials.inner();
    let is_visible = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let is_valid = is_visible(inner.access_key_id())
        && !inner.secret_access_key().is_empty()
        && inner.session_token().is_none_or(is_visible);
    is_valid.then_some(()).ok_or(SignError::InvalidCredentials)
}

/// Returns the headers that are signed, without `host`.
fn signed_headers(headers: &HeaderMap) -> Result<Vec<(&str, &str)>, SignError> {
    let mut signed = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let text = name.as_str();
        if name == HOST || is_changing(text) || is_of_connection(headers, text) {
            continue;
        }
        match value.to_str() {
            Ok(value) => signed.push((text, value)),
            // AWS demands a signature of its own headers only.
            Err(_) if text.starts_with("x-amz") => {
                return Err(SignError::InvalidHeader(name.clone()));
            }
            Err(_) => {}
        }
    }
    Ok(signed)
}

fn is_changing(name: &str) -> bool {
    CHANGING.binary_search(&name).is_ok()
        || CHANGING_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Returns true if `connection` names this header, which the next proxy then removes.
fn is_of_connection(headers: &HeaderMap, name: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case(name))
}
