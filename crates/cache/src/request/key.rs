//! Which requests are the same.

use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher},
};

use http::{
    HeaderMap, HeaderName, Request,
    header::{
        AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HOST, ORIGIN, PROXY_AUTHORIZATION,
    },
};
use tower_claude_core::Tenant;

use crate::request::canonical::Field;

/// What is hashed is written so; a change of it is a new number.
const SCHEMA: &[u8] = b"tower-claude-cache 2";
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BETA: &str = "anthropic-beta";
/// Every header that says who asks.
const CREDENTIALS: [HeaderName; 4] = [API_KEY, AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];
/// Every other one that an answer may depend on: where it goes, from which page it comes, and what its body is.
const CIRCUMSTANCES: [HeaderName; 4] = [HOST, ORIGIN, CONTENT_TYPE, CONTENT_ENCODING];
/// They say who is to be billed or told, nothing that the model sees.
const LEFT_OUT: [&[u8]; 2] = [b"metadata", b"service_tier"];

/// The key of a request: a hash of 256 bits, keyed by the layer's secret.
///
/// Two different requests have one key with a probability of about 2⁻¹²⁸ per pair even if somebody looks for such a
/// pair, and nobody outside can look without the secret; so stored answers are compared by the whole key and by
/// nothing else. It tells nothing about tenant, credential or prompt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// The key as bytes, for stores outside the process.
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
    /// Eight bytes are as random as all.
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

/// What is no part of the key of a request, and may still be why it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Aside {
    pub(crate) metadata: Option<Key>,
    pub(crate) service_tier: Option<Key>,
}

/// Takes a [`Key`] as the hash that it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
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

impl BuildHasher for AsIs {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

/// What keys are made with.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

impl Secret {
    /// Of the system's randomness (128 bits of it), by way of the standard library's.
    pub(crate) fn random() -> Self {
        let state = std::hash::RandomState::new();
        let seed = [state.hash_one(0), state.hash_one(1)].map(u64::to_le_bytes);
        Self(blake3::derive_key(
            "tower-claude-cache secret",
            &seed.concat(),
        ))
    }

    /// The key of a request with these fields. `also` names headers that belong to it beside the usual ones.
    pub(crate) fn key<B>(
        &self,
        request: &Request<B>,
        fields: &[Field<'_>],
        also: &[HeaderName],
    ) -> Key {
        self.hash(&written(request, fields, also))
    }

    /// What the fields say that are no part of the key.
    pub(crate) fn aside(&self, fields: &[Field<'_>]) -> Aside {
        let [metadata, service_tier] = LEFT_OUT.map(|name| {
            let field = fields.iter().find(|field| *field.name == *name)?;
            Some(self.hash(&field.value))
        });
        Aside {
            metadata,
            service_tier,
        }
    }

    fn hash(&self, text: &[u8]) -> Key {
        Key(*blake3::keyed_hash(&self.0, text).as_bytes())
    }
}

/// Everything that makes two requests different, each part behind its length, each list behind its count.
pub(crate) fn written<B>(
    request: &Request<B>,
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
    for name in CREDENTIALS.iter().chain(&CIRCUMSTANCES).chain(also) {
        // Layers that share a store need not agree on which are here.
        part(&mut out, name.as_str().as_bytes());
        values(&mut out, headers, name);
    }
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    for text in [scheme, authority, path] {
        part(&mut out, text.as_bytes());
    }
    anthropic(&mut out, headers);
    for field in fields.iter().filter(|field| !is_left_out(field)) {
        part(&mut out, &field.name);
        part(&mut out, &field.value);
    }
    out
}

fn is_left_out(field: &Field<'_>) -> bool {
    LEFT_OUT.contains(&&*field.name)
}

/// The version, the betas in order, and whatever else the API reads of headers.
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
