//! Keys of requests: equal keys mean equal requests.

use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher},
};

use http::{
    HeaderMap, HeaderName, Request,
    header::{
        ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HOST, ORIGIN, PROXY_AUTHORIZATION,
    },
};
use serde::Deserialize;
use tower_claude_core::{Endpoint, Tenant, Tolerance, toolkit::Credential};

use crate::request::canonical::Field;

/// Version of the hashed text. A change of the text needs a new number.
const SCHEMA: &[u8] = b"tower-claude-cache 4";
const BETA: &str = "anthropic-beta";
/// Headers that a response may depend on, beside the credential: other marks of the caller, the
/// host, the page that sends the request, the format of the body. And the headers for batches: a
/// caller that cannot wait must not share the call of one that can.
const CONTEXT: [HeaderName; 8] = [
    PROXY_AUTHORIZATION,
    COOKIE,
    HOST,
    ORIGIN,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    HeaderName::from_static("x-tower-claude-tolerance"),
    HeaderName::from_static("x-tower-claude-batch-key"),
];
/// Fields that the model does not see. A request whose value of them the API would reject gets no
/// stored response.
const UNKEYED: [&str; 2] = ["metadata", "service_tier"];
/// The values of `service_tier`.
const TIERS: [&[u8]; 2] = [b"\"auto\"", b"\"standard_only\""];
/// The most characters of a `user_id`.
const MAX_USER_ID: usize = 256;
/// The prefix of tokens that the API accepts in `authorization` only.
const TOKEN_PREFIX: &[u8] = b"sk-ant-oat";

/// The content of `metadata`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    #[serde(default)]
    user_id: Option<String>,
}

/// A key of a request: a hash of 256 bits, keyed by the layer's secret.
///
/// The probability that two different requests have the same key is about 2⁻¹²⁸ per pair, even if
/// an attacker searches for such a pair, and the search needs the secret. Stored responses are
/// therefore compared by key only. A key reveals nothing about tenant, credential or prompt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// Returns the key as bytes, for stores outside the process.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Key {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl Hash for Key {
    /// Writes the first eight bytes, which are as random as the whole key.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(")?;
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…)")
    }
}

/// Hashes of the fields that are no part of the key, but may still be the reason of an error, or of
/// the coding of an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnkeyedFields {
    pub(crate) metadata: Option<Key>,
    pub(crate) service_tier: Option<Key>,
    pub(crate) accept_encoding: Option<Key>,
    /// The API would reject the request because of a part that the key leaves out, so that the
    /// response to another request does not answer it.
    pub(crate) is_rejected: bool,
}

/// A hasher that uses a [`Key`] as its own hash.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl BuildHasher for IdentityHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

/// The secret that keys are made with.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

impl Secret {
    /// Returns a random secret, from 128 bits of the randomness that the standard library gets from
    /// the system.
    pub(crate) fn random() -> Self {
        let state = std::hash::RandomState::new();
        let seed = [state.hash_one(0), state.hash_one(1)].map(u64::to_le_bytes);
        Self(blake3::derive_key(
            "tower-claude-cache secret",
            &seed.concat(),
        ))
    }

    /// Returns the key of a request with these credentials and fields. `also` names headers that
    /// are keyed beside the usual ones.
    pub(crate) fn key<B>(
        &self,
        request: &Request<B>,
        credentials: &[Credential<'_>],
        fields: &[Field<'_>],
        also: &[HeaderName],
    ) -> Key {
        self.hash(&key_text(request, credentials, fields, also))
    }

    /// Returns the hashes of the fields that are no part of the key.
    pub(crate) fn unkeyed_fields<B>(
        &self,
        request: &Request<B>,
        fields: &[Field<'_>],
    ) -> UnkeyedFields {
        let headers = request.headers();
        let [metadata, service_tier] = UNKEYED.map(|name| {
            let field = fields.iter().find(|field| field.name == name)?;
            Some(self.hash(&field.value))
        });
        let accept_encoding = headers.contains_key(ACCEPT_ENCODING).then(|| {
            let mut text = Vec::new();
            values(&mut text, headers, &ACCEPT_ENCODING);
            self.hash(&text)
        });
        UnkeyedFields {
            metadata,
            service_tier,
            accept_encoding,
            is_rejected: !accepts_unkeyed(request, fields),
        }
    }

    fn hash(&self, text: &[u8]) -> Key {
        Key(*blake3::keyed_hash(&self.0, text).as_bytes())
    }
}

/// Returns all that distinguishes two requests, each part behind its length, each list behind its
/// count.
pub(crate) fn key_text<B>(
    request: &Request<B>,
    credentials: &[Credential<'_>],
    fields: &[Field<'_>],
    also: &[HeaderName],
) -> Vec<u8> {
    let (uri, headers) = (request.uri(), request.headers());
    let long = fields.iter().map(|f| f.name.len() + f.value.len() + 16);
    let mut out = Vec::with_capacity(long.sum::<usize>() + 512);
    part(&mut out, SCHEMA);
    let tenant = request.extensions().get::<Tenant>();
    list(
        &mut out,
        tenant.map(|tenant| tenant.0.as_bytes()).as_slice(),
    );
    let tolerance = request.extensions().get::<Tolerance>();
    let tolerance = tolerance.map(|time| time.0.as_nanos().to_le_bytes());
    list(&mut out, tolerance.as_ref().map(|it| &it[..]).as_slice());
    count(&mut out, credentials.len());
    for credential in credentials {
        credential_text(&mut out, credential);
    }
    for name in CONTEXT.iter().chain(also) {
        // With the name, so that layers that share a store may have different key headers.
        part(&mut out, name.as_str().as_bytes());
        values(&mut out, headers, name);
    }
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    for text in [scheme, authority, uri.path()] {
        part(&mut out, text.as_bytes());
    }
    // The signature of a presigned URL is a credential, and another one for each request.
    let query: Vec<_> = uri
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .collect();
    let query = query.iter().filter(|pair| !pair.starts_with("X-Amz-"));
    list(
        &mut out,
        &query.map(|pair| pair.as_bytes()).collect::<Vec<_>>(),
    );
    anthropic(&mut out, headers);
    for field in fields.iter().filter(|field| !is_unkeyed(field)) {
        part(&mut out, field.name.as_bytes());
        part(&mut out, &field.value);
    }
    out
}

/// Appends a credential, with its kind.
fn credential_text(out: &mut Vec<u8>, credential: &Credential<'_>) {
    match credential {
        Credential::Named(name) => list(out, &[b"name", name.as_bytes()]),
        Credential::Key(key) => list(out, &[b"key", key]),
        Credential::Signature { key_id, area } => list(out, &[b"signature", key_id, area]),
        Credential::Google(project) => list(out, &[b"google", project.as_bytes()]),
    }
}

fn is_unkeyed(field: &Field<'_>) -> bool {
    UNKEYED.contains(&&*field.name)
}

/// Returns true if the API accepts what the key of a request leaves out: the unkeyed fields, which
/// a count does not have, and the header of a token.
fn accepts_unkeyed<B>(request: &Request<B>, fields: &[Field<'_>]) -> bool {
    let is_message = Endpoint::of(request.uri().path()) == Endpoint::Messages;
    let accepts = |field: &Field<'_>| match &*field.name {
        // An array may hold the members of a structure as well.
        "metadata" if field.value.starts_with(b"{") => {
            let metadata = serde_json::from_slice::<Metadata>(&field.value);
            metadata.is_ok_and(|metadata| {
                let user = metadata.user_id.unwrap_or_default();
                user.chars().count() <= MAX_USER_ID
            })
        }
        "metadata" => false,
        _ => TIERS.contains(&&*field.value),
    };
    let mut unkeyed = fields.iter().filter(|field| is_unkeyed(field));
    let mut keys = request.headers().get_all("x-api-key").iter();
    unkeyed.all(|field| is_message && accepts(field))
        && !keys.any(|key| key.as_bytes().trim_ascii().starts_with(TOKEN_PREFIX))
}

/// Appends the betas in order, the version, and all other `anthropic-` headers.
fn anthropic(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut betas: Vec<&[u8]> = headers
        .get_all(BETA)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|beta| !beta.is_empty())
        .collect();
    betas.sort_unstable();
    betas.dedup();
    list(out, &betas);
    let mut names: Vec<&HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("anthropic-") && *name != BETA)
        .collect();
    names.sort_unstable_by_key(|name| name.as_str());
    count(out, names.len());
    for name in names {
        part(out, name.as_str().as_bytes());
        values(out, headers, name);
    }
}

fn count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u64).to_le_bytes());
}

fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn list(out: &mut Vec<u8>, items: &[&[u8]]) {
    count(out, items.len());
    items.iter().for_each(|item| part(out, item));
}

fn values(out: &mut Vec<u8>, headers: &HeaderMap, name: &HeaderName) {
    let at = out.len();
    count(out, 0);
    let mut found = 0u64;
    for value in headers.get_all(name) {
        part(out, value.as_bytes());
        found += 1;
    }
    out[at..at + 8].copy_from_slice(&found.to_le_bytes());
}
