//! The identity of the credential of a request.

use std::{
    borrow::Cow,
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
};

use foldhash::{SharedSeed, quality::SeedableRandomState};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Request, Uri,
    header::{AUTHORIZATION, HOST},
};
use siphasher::sip::SipHasher13;

use crate::{
    host::{host, host_or},
    percent,
};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");
const X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");
const CF_AIG_AUTHORIZATION: HeaderName = HeaderName::from_static("cf-aig-authorization");
const WORKSPACE: HeaderName = HeaderName::from_static("anthropic-workspace-id");

/// The headers that hold a credential. Of several, the first counts, so a key wins over a token.
static HEADERS: [HeaderName; 5] = [
    X_API_KEY,
    API_KEY,
    X_GOOG_API_KEY,
    AUTHORIZATION,
    CF_AIG_AUTHORIZATION,
];

/// The key of the hash.
enum HashKey {
    /// Of this process, so that a hash identifies nothing outside of it.
    Random(SeedableRandomState),
    /// Of several processes, so that they agree on scopes.
    Common([u8; 32]),
}

static HASH_KEY: OnceLock<HashKey> = OnceLock::new();

impl HashKey {
    #[cold]
    fn random() -> Self {
        let seed = std::hash::RandomState::new().hash_one("credential");
        let shared = SharedSeed::global_random();
        Self::Random(SeedableRandomState::with_seed(seed, shared))
    }
}

#[inline]
fn hash_of(value: impl Hash) -> u64 {
    match HASH_KEY.get_or_init(HashKey::random) {
        HashKey::Random(state) => state.hash_one(value),
        HashKey::Common(key) => common_hash(key, value),
    }
}

#[inline(never)]
fn common_hash(key: &[u8; 32], value: impl Hash) -> u64 {
    let mut hasher = CommonHasher(SipHasher13::new());
    hasher.write(key);
    value.hash(&mut hasher);
    hasher.finish()
}

/// A hasher with the same result on every target: numbers have one length and byte order.
struct CommonHasher(SipHasher13);

impl Hasher for CommonHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0.write(&number.to_le_bytes());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Sets the key of the hashes of credentials, so that all processes with this key have the same
/// scopes. Without it, each process has a random key.
///
/// Returns false if this process has already hashed a credential with another key.
#[must_use]
pub fn set_credential_key(key: [u8; 32]) -> bool {
    match HASH_KEY.get_or_init(|| HashKey::Common(key)) {
        HashKey::Common(common) => *common == key,
        HashKey::Random(_) => false,
    }
}

/// The name of the credential of a request, for credentials that change by themselves.
///
/// Insert it into the extensions of a request whose credential cannot be recognized: a token that
/// is renewed (OAuth, Entra, temporary keys of AWS), or a header that only a gateway knows. Limits,
/// circuits, fallbacks and cache entries then belong to this name, and the credential in the
/// request is not read. Insert it outside of the outermost layer.
///
/// All requests with one name share their cached responses, so give two callers with different
/// rights different names. The name is hashed and never logged.
///
/// ```
/// use http::Request;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_claude_core::{CredentialId, Scope};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new()
///     .map_request(|mut request: Request<()>| {
///         request.extensions_mut().insert(CredentialId::new("project-7"));
///         request
///     })
///     .service(service_fn(|request: Request<()>| async move {
///         Ok::<_, std::convert::Infallible>(Scope::credential_of(&request))
///     }));
/// let with = |token: &str| Request::get("/").header("authorization", token).body(()).unwrap();
/// let first = service.clone().oneshot(with("Bearer token-1")).await;
/// assert_eq!(first, service.oneshot(with("Bearer token-2")).await);
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CredentialId(Arc<str>);

impl CredentialId {
    /// Creates the identity of this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }
}

impl fmt::Debug for CredentialId {
    /// Leaves the name out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialId")
    }
}

/// The stable part of a credential.
///
/// Equal values are one credential, wherever it stands in a request. It has no `Debug`, because it
/// is the secret itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential<'a> {
    /// The name in a [`CredentialId`].
    Named(&'a str),
    /// A key or token without its scheme.
    Key(Cow<'a, [u8]>),
    /// An AWS signature.
    Signature {
        /// The access key id.
        key_id: Cow<'a, [u8]>,
        /// The part after the date: region and service.
        area: Cow<'a, [u8]>,
    },
    /// The project, location and workspace in the path, in place of a Google OAuth token.
    Google(&'a str),
}

impl<'a> Credential<'a> {
    /// Returns all credentials of a request without duplicates, the one that counts first.
    #[must_use]
    pub fn all<B>(request: &'a Request<B>) -> Vec<Self> {
        if let Some(name) = request.extensions().get::<CredentialId>() {
            return vec![Self::Named(&name.0)];
        }
        let mut all = Vec::with_capacity(1);
        for credential in Self::in_headers(request.headers()) {
            if !all.contains(&credential) {
                all.push(credential);
            }
        }
        all.extend(Self::in_query(request.uri()).filter(|found| !all.contains(found)));
        all
    }

    /// Reads all headers that may hold a credential, the one that counts first.
    fn in_headers(headers: &'a HeaderMap) -> impl Iterator<Item = Self> {
        let values = HEADERS.iter().flat_map(|name| headers.get_all(name));
        values.filter_map(|value| Self::read(value.as_bytes()))
    }

    /// Reads the value of a header.
    // Always inlined, because its result is large.
    #[inline(always)]
    fn read(value: &'a [u8]) -> Option<Self> {
        let value = value.trim_ascii();
        // Most values are keys. Only these two letters begin anything else.
        match value.first()? {
            b'A' | b'a' if has_prefix(value, b"AWS4-") => {
                if let Some(signature) = Self::in_signature(value) {
                    return Some(signature);
                }
            }
            b'B' | b'b' if has_prefix(value, b"bearer") => match &value[6..] {
                [b' ' | b'\t', key @ ..] => return Self::key(key.trim_ascii()),
                [] => return None,
                _ => {}
            },
            _ => {}
        }
        Self::key(value)
    }

    /// Returns this key, unless it is empty.
    fn key(key: &'a [u8]) -> Option<Self> {
        (!key.is_empty()).then_some(Self::Key(Cow::Borrowed(key)))
    }

    /// Reads `Credential=AKID/date/region/service/aws4_request` in the header of a signature.
    fn in_signature(value: &'a [u8]) -> Option<Self> {
        const NAME: &[u8] = b"Credential=";
        let at = value.windows(NAME.len()).position(|part| part == NAME)?;
        let value = &value[at + NAME.len()..];
        let is_end = |byte: &u8| *byte == b',' || byte.is_ascii_whitespace();
        let value = value.split(is_end).next()?;
        let mut parts = value.splitn(3, |byte| *byte == b'/');
        let (key_id, _date, area) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self::Signature {
            key_id: key_id.into(),
            area: area.into(),
        })
    }

    /// Reads the query: the signature of a presigned URL, or a Google API key.
    fn in_query(uri: &'a Uri) -> Option<Self> {
        let query = uri.query()?;
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(key, value)| *key == name && !value.is_empty())?;
            percent::decode(value)
        };
        if let Some(signed) = value("X-Amz-Credential") {
            let mut parts = signed.splitn(3, '/');
            let (key_id, _date, area) = (parts.next()?, parts.next()?, parts.next()?);
            return Some(Self::Signature {
                key_id: key_id.as_bytes().to_vec().into(),
                area: area.as_bytes().to_vec().into(),
            });
        }
        Some(Self::Key(match value("key")? {
            Cow::Borrowed(key) => key.as_bytes().into(),
            Cow::Owned(key) => key.into_bytes().into(),
        }))
    }

    /// Returns true if this is a Google OAuth token, which is renewed each hour.
    #[inline]
    fn is_google_token(&self) -> bool {
        matches!(self, Self::Key(token) if token.starts_with(b"ya29."))
    }
}

/// Returns the project, location and workspace of a path of Google Cloud.
fn google_project(path: &str) -> Option<&str> {
    let project = path.rfind("/projects/")?;
    let rest = &path[project + 1..];
    let mut end = 0;
    for name in ["projects/", "locations/", "workspaces/"] {
        let Some(value) = rest[end..].strip_prefix(name) else {
            break;
        };
        let length = value.find('/').map_or(value.len(), |slash| slash + 1);
        end += name.len() + length;
    }
    Some(&rest[..end])
}

fn has_prefix(value: &[u8], prefix: &[u8]) -> bool {
    let start = value.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Returns a keyed hash of the host of a request, for state that is kept for each host. It differs
/// in every process.
#[must_use]
#[inline]
pub fn host_hash<B>(request: &Request<B>) -> u64 {
    hash_of(host(request.uri(), request.headers()))
}

/// Returns the same as [`host_hash`] for a request whose `host` header is known.
#[inline]
pub(crate) fn host_hash_or(uri: &Uri, header: Option<&HeaderValue>) -> u64 {
    hash_of(host_or(uri, || header))
}

/// Returns the keyed hash of the credential of a request at its host, or of its host alone.
pub(crate) fn credential_or_host<B>(request: &Request<B>) -> u64 {
    match credential(request) {
        0 => host_hash(request),
        credential => credential,
    }
}

/// The headers of a request that identify its sender, found in one pass. A look-up by name takes
/// as long as a dozen headers.
#[derive(Default)]
struct SenderHeaders<'a> {
    /// The first header in the order of [`HEADERS`], with its position there.
    credential: Option<(usize, &'a HeaderValue)>,
    workspace: Option<&'a HeaderValue>,
    host: Option<&'a HeaderValue>,
}

impl<'a> SenderHeaders<'a> {
    #[inline]
    fn of(headers: &'a HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            // Comparing texts would take longer, because `http` has numbers for the standard names.
            let rank = if *name == X_API_KEY {
                0
            } else if *name == API_KEY {
                1
            } else if *name == X_GOOG_API_KEY {
                2
            } else if *name == AUTHORIZATION {
                3
            } else if *name == CF_AIG_AUTHORIZATION {
                4
            } else {
                if *name == HOST {
                    found.host.get_or_insert(value);
                } else if *name == WORKSPACE {
                    found.workspace.get_or_insert(value);
                }
                continue;
            };
            if found.credential.is_none_or(|(other, _)| rank < other) {
                found.credential = Some((rank, value));
            }
        }
        found
    }
}

/// The sender of a request at its host.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sender<'a> {
    /// The host, as [`host`](crate::toolkit::host) returns it.
    pub host: Cow<'a, str>,
    /// The keyed hash of the credential at this host. 0 if there is none.
    pub credential: u64,
}

impl<'a> Sender<'a> {
    /// Reads the sender of a request.
    pub(crate) fn of(uri: &'a Uri, headers: &'a HeaderMap, extensions: &'a Extensions) -> Self {
        let found = SenderHeaders::of(headers);
        let host = host_or(uri, || found.host);
        let first = found.credential.map(|(_, value)| value.as_bytes());
        let mut credential = match extensions.get::<CredentialId>() {
            Some(name) => Some(Credential::Named(&name.0)),
            None => match first.and_then(Credential::read) {
                None => Self::other_credential(first, uri, headers),
                found => found,
            },
        };
        if credential.as_ref().is_some_and(Credential::is_google_token)
            && let Some(project) = google_project(uri.path())
        {
            credential = Some(Credential::Google(project));
        }
        let workspace = found.workspace.map(HeaderValue::as_bytes);
        let hash = |credential| hash_of((credential, workspace, &host)).max(1);
        let credential = credential.as_ref().map_or(0, hash);
        Self { host, credential }
    }

    /// Reads the credential if `first`, the value of the first header that may hold one, has none.
    /// Such a header does not count, so another one may, or else the query.
    #[cold]
    fn other_credential(
        first: Option<&[u8]>,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> Option<Credential<'a>> {
        let found = first.and_then(|_| Credential::in_headers(headers).next());
        found.or_else(|| Credential::in_query(uri))
    }

    /// Returns a keyed hash of the host.
    #[inline]
    pub(crate) fn host_hash(&self) -> u64 {
        hash_of(&self.host)
    }
}

/// Returns the keyed hash of the credential of a request at its host. Returns 0 if there is none.
pub(crate) fn credential<B>(request: &Request<B>) -> u64 {
    Sender::of(request.uri(), request.headers(), request.extensions()).credential
}

#[cfg(test)]
mod tests {
    use super::{Credential, common_hash};

    #[test]
    fn common_hash_stays_the_same_in_later_versions() {
        let credential = Credential::Key(b"sk-ant-1".as_slice().into());
        let workspace = Some(b"w".as_slice());
        let hash = common_hash(&[7; 32], (credential, workspace, "api.anthropic.com"));
        assert_eq!(hash, 3_342_842_319_746_009_431);
        assert_ne!(hash, common_hash(&[8; 32], ()));
        assert_eq!(common_hash(&[7; 32], 5_usize), common_hash(&[7; 32], 5_u32));
    }
}
