//! The requests that can wait: their tolerance, and what makes them eligible for a batch.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING,
        CONTENT_LENGTH, CONTENT_TYPE, DATE, EXPECT, FORWARDED, HOST, ORIGIN, REFERER, TE,
        TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA,
    },
};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tower_claude_core::{
    Call, Deadline, Endpoint, Priority, RejectReason, Rejection, RequestBody, Tenant, Tolerance,
    toolkit::{ApiPath, Credential, Prefixes, host},
};
use tower_claude_wire::{ApiError, ModelCatalog, Platform, estimate_tokens};

use crate::{
    id::{Key, PoolId},
    scheduler::SharedPrefix,
};

/// The name of the layer in events and headers.
pub(crate) const LAYER: &str = "batch";

const TOLERANCE_NAME: &str = "x-tower-claude-tolerance";

/// The request header with the time that a call can wait, in whole seconds. The layer removes it.
pub const TOLERANCE: HeaderName = HeaderName::from_static(TOLERANCE_NAME);

/// The request header that distinguishes different questions with equal bodies. The layer removes
/// it.
pub const BATCH_KEY: HeaderName = HeaderName::from_static("x-tower-claude-batch-key");

/// The longest tolerance that counts. The API expires batches after a day, and a call may go
/// through several.
pub(crate) const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// Fields of a Messages request that a batch does not take.
const REFUSED: [&str; 7] = [
    "cache_hint",
    "context_hint",
    "fallbacks",
    "research_preview",
    "speed",
    "store",
    "thread",
];

/// Headers that differ from call to call and do not matter to the answer. All others divide the
/// calls into pools, so that no call is sent with the headers of another one.
const IGNORED: [HeaderName; 17] = [
    ACCEPT,
    ACCEPT_ENCODING,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    DATE,
    EXPECT,
    FORWARDED,
    ORIGIN,
    REFERER,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    USER_AGENT,
    VIA,
    HOST,
];

/// Further names of such headers.
const IGNORED_NAMES: [&str; 11] = [
    "baggage",
    "b3",
    "idempotency-key",
    "keep-alive",
    "priority",
    "prefer",
    "traceparent",
    "tracestate",
    "x-correlation-id",
    "x-real-ip",
    "x-request-id",
];

/// The beginnings of the names of such headers.
const IGNORED_PREFIXES: [&str; 5] = [
    "x-b3-",
    "x-forwarded-",
    "x-stainless-",
    "x-tower-claude-",
    "sec-",
];

/// Returns true if a header does not divide calls into pools.
fn is_ignored(name: &HeaderName, also: &[HeaderName]) -> bool {
    let text = name.as_str();
    IGNORED.contains(name)
        || IGNORED_NAMES.contains(&text)
        || IGNORED_PREFIXES.iter().any(|start| text.starts_with(start))
        || also.contains(name)
}

/// The marks of the layer in a request.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub(crate) tolerance: Option<Duration>,
    pub(crate) key: Option<HeaderValue>,
}

/// Takes the marks of the layer out of a request.
///
/// # Errors
/// Returns the response to a request whose header is not valid.
pub(crate) fn take_marks(
    request: &mut Request<RequestBody>,
) -> Result<Marks, Box<Response<Bytes>>> {
    // A look-up by name takes as long as a dozen headers.
    let is_marked = |name: &HeaderName| *name == TOLERANCE || *name == BATCH_KEY;
    let mut marks = Marks::default();
    if request.headers().keys().any(is_marked) {
        let headers = request.headers_mut();
        marks.key = headers.remove(BATCH_KEY);
        let values: Vec<HeaderValue> = headers.get_all(TOLERANCE).iter().cloned().collect();
        headers.remove(TOLERANCE);
        for value in values {
            let seconds = seconds(&value).ok_or_else(|| invalid(&value))?;
            let given = Duration::from_secs(seconds);
            let least = marks.tolerance.map_or(given, |least| least.min(given));
            marks.tolerance = Some(least);
        }
    }
    if let Some(extension) = request.extensions_mut().remove::<Tolerance>() {
        marks.tolerance = Some(extension.0);
    }
    Ok(marks)
}

fn seconds(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?.trim();
    // `parse` takes a sign as well.
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Returns the response to a request with this value of the header.
fn invalid(value: &HeaderValue) -> Box<Response<Bytes>> {
    const SHOWN: usize = 100;
    let shown: String = value
        .as_bytes()
        .escape_ascii()
        .take(SHOWN)
        .map(char::from)
        .collect();
    let reason = RejectReason::InvalidHeader {
        name: TOLERANCE_NAME,
    };
    let message =
        format!("{LAYER}: the header {TOLERANCE_NAME} must have whole seconds, not \"{shown}\"");
    let body = Bytes::from(ApiError::body("invalid_request_error", &message, None));
    let length = HeaderValue::from(body.len());
    let response = Rejection::new(LAYER, reason).into_response::<RequestBody>();
    let mut response = response.map(|_| body);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    Box::new(response)
}

/// The parts of a request that a batch needs.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) pool: PoolId,
    pub(crate) key: Key,
    pub(crate) model: Arc<str>,
    pub(crate) body: Bytes,
    pub(crate) prefix: Option<SharedPrefix>,
}

impl Question {
    /// Reads a request.
    ///
    /// # Errors
    /// Returns the reason in one word if a batch does not take it.
    pub(crate) fn of(
        request: &Request<RequestBody>,
        key: Option<&HeaderValue>,
        secret: &[u8; 32],
        ignored: &[HeaderName],
    ) -> Result<Self, &'static str> {
        let (uri, headers) = (request.uri(), request.headers());
        let path = ApiPath::parse(uri.path());
        if request.method() != Method::POST || path.endpoint != Endpoint::Messages {
            return Err("endpoint");
        }
        let host = host(uri, headers);
        let has_batches = matches!(
            Platform::of(&host, uri.path()),
            Platform::ClaudeApi | Platform::AwsPlatform | Platform::GoogleAnthropic
        );
        if path.form.is_some() || !has_batches {
            return Err("platform");
        }
        let body = request.body().bytes().ok_or("body")?;
        if headers.contains_key(CONTENT_ENCODING) {
            return Err("body");
        }
        if is_signed(uri, headers) {
            return Err("signature");
        }
        check(body)?;
        let mut pool = pool_text(request, &host, ignored);
        let pool_hash = blake3::keyed_hash(secret, &pool);
        pool.clear();
        part(&mut pool, pool_hash.as_bytes());
        part(&mut pool, key.map_or(b"", |key| key.as_bytes()));
        part(&mut pool, &[u8::from(key.is_some())]);
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(&pool);
        hasher.update(body);
        let model = request.body().model().unwrap_or_default();
        Ok(Self {
            pool: PoolId(short(&pool_hash)),
            key: Key(short(&hasher.finalize())),
            model: named(model),
            prefix: shared_prefix(body, model),
            body: body.clone(),
        })
    }
}

/// Returns the name under which a model's latencies are known.
fn named(model: &str) -> Arc<str> {
    match ModelCatalog::builtin().get(model) {
        Some(listed) => listed.id.clone(),
        None => Arc::from("other"),
    }
}

fn short(hash: &blake3::Hash) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

/// Checks that a body is a whole JSON object that a batch takes. One damaged body would make the
/// creation fail for all calls.
fn check(body: &Bytes) -> Result<(), &'static str> {
    let fields: Vec<(Cow<'_, str>, &RawValue)> = fields(body).ok_or("body")?;
    for (name, value) in fields {
        let value = value.get();
        let is_given = value != "null";
        match &*name {
            "stream" if is_given && value != "false" => return Err("stream"),
            "max_tokens" if value.parse::<f64>().is_ok_and(|tokens| tokens < 1.0) => {
                return Err("max_tokens");
            }
            "billing_policy" if is_given => return Err("field"),
            name if is_given && REFUSED.contains(&name) => return Err("field"),
            _ => {}
        }
    }
    match has_lone_surrogate(body) {
        true => Err("body"),
        false => Ok(()),
    }
}

/// Returns true if a text in a JSON document has one half of a surrogate pair. Parsers differ in
/// that, and the API rejects the whole creation.
fn has_lone_surrogate(json: &[u8]) -> bool {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(next) = memchr::memchr(b'\\', &json[at..]) {
        at += next;
        at += match unit(at) {
            Some(0xd800..=0xdbff) => match unit(at + 6) {
                Some(0xdc00..=0xdfff) => 12,
                _ => return true,
            },
            Some(0xdc00..=0xdfff) => return true,
            Some(_) => 6,
            // Another escape, of two characters.
            None => 2,
        };
        if at >= json.len() {
            break;
        }
    }
    false
}

/// Returns true if a request has an AWS signature. It does not hold for the requests about batches.
fn is_signed(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    values.any(|value| value.as_bytes().trim_ascii().starts_with(b"AWS4-"))
        || uri
            .query()
            .is_some_and(|query| query.contains("X-Amz-Signature="))
}

/// Returns the members of a JSON object, with duplicates. `None` if it is no valid object.
fn fields(body: &[u8]) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((Name(name), value)) = map.next_entry()? {
                members.push((name, value));
            }
            Ok(members)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let members = serde::Deserializer::deserialize_map(&mut reader, Members).ok()?;
    reader.end().ok()?;
    // A nested text is not read, and JSON text is UTF-8.
    std::str::from_utf8(body).ok()?;
    Some(members)
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Returns the longest marked prefix, if it is long enough to be worth a thought.
fn shared_prefix(body: &[u8], model: &str) -> Option<SharedPrefix> {
    let listed = ModelCatalog::builtin().get(model)?;
    let minimum = listed.capabilities.min_cache_tokens?;
    let prefixes = Prefixes::of(body, model, 0)?;
    let prefix = prefixes
        .as_slice()
        .iter()
        .rev()
        .find(|prefix| prefix.keep.is_some())?;
    let tokens = estimate_tokens(prefix.bytes, listed.tokenizer);
    let lasts_an_hour = prefix.keep >= Some(Duration::from_secs(3_600));
    (tokens >= 2 * minimum).then(|| SharedPrefix::new(prefix.hash, tokens, lasts_an_hour))
}

/// Returns what the calls of a pool have in common, each part behind its length.
fn pool_text(request: &Request<RequestBody>, host: &str, ignored: &[HeaderName]) -> Vec<u8> {
    let (uri, headers) = (request.uri(), request.headers());
    let mut out = Vec::with_capacity(512);
    part(&mut out, b"tower-claude-batch 1");
    let tenant = request.extensions().get::<Tenant>();
    let tenant = tenant.or_else(|| Call::of(request)?.tenant());
    part(&mut out, tenant.map_or(b"", |tenant| tenant.0.as_bytes()));
    let credentials = Credential::all(request);
    out.extend_from_slice(&(credentials.len() as u64).to_le_bytes());
    for credential in &credentials {
        match credential {
            Credential::Named(name) => parts(&mut out, &[b"name", name.as_bytes()]),
            Credential::Key(key) => parts(&mut out, &[b"key", key]),
            Credential::Signature { key_id, area } => {
                parts(&mut out, &[b"signature", key_id, area]);
            }
            Credential::Google(project) => parts(&mut out, &[b"google", project.as_bytes()]),
        }
    }
    let is_named = matches!(credentials.first(), Some(Credential::Named(_)));
    parts(
        &mut out,
        &[
            uri.scheme_str().unwrap_or_default().as_bytes(),
            host.as_bytes(),
            uri.path().as_bytes(),
            uri.query().unwrap_or_default().as_bytes(),
        ],
    );
    let mut betas: Vec<&[u8]> = headers
        .get_all("anthropic-beta")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|beta| !beta.is_empty())
        .collect();
    betas.sort_unstable();
    betas.dedup();
    out.extend_from_slice(&(betas.len() as u64).to_le_bytes());
    parts(&mut out, &betas);
    let is_renewed = |name: &HeaderName| {
        // Of a credential with a name, the value changes by itself.
        is_named && is_credential(name)
    };
    let mut names: Vec<&HeaderName> = headers
        .keys()
        .filter(|name| *name != "anthropic-beta" && !is_ignored(name, ignored) && !is_renewed(name))
        .collect();
    names.sort_unstable_by_key(|name| name.as_str());
    for name in names {
        part(&mut out, name.as_str().as_bytes());
        for value in headers.get_all(name) {
            part(&mut out, value.as_bytes());
        }
    }
    out
}

fn is_credential(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "x-api-key" | "api-key" | "x-goog-api-key" | "authorization" | "cf-aig-authorization"
    )
}

fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn parts(out: &mut Vec<u8>, all: &[&[u8]]) {
    all.iter().for_each(|bytes| part(out, bytes));
}

/// The head of the requests about the batches of a pool. It holds a credential, so it has no
/// `Debug`.
pub(crate) struct Template {
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
}

impl Template {
    /// Takes the head of a request whose calls share a pool.
    pub(crate) fn of(request: &Request<RequestBody>) -> Self {
        let mut headers = request.headers().clone();
        // They belong to one call only.
        let of_call =
            |name: &&HeaderName| **name != HOST && **name != USER_AGENT && is_ignored(name, &[]);
        for name in request.headers().keys().filter(of_call) {
            headers.remove(name);
        }
        let mut extensions = request.extensions().clone();
        extensions.remove::<Arc<Call>>();
        extensions.remove::<Deadline>();
        extensions.insert(Priority::Batch);
        Self {
            uri: request.uri().clone(),
            version: request.version(),
            headers,
            extensions,
        }
    }

    /// Returns the platform of the requests.
    pub(crate) fn platform(&self) -> Platform {
        Platform::of(&host(&self.uri, &self.headers), self.uri.path())
    }

    /// Returns a request to the endpoint of batches. `path` follows its path, `query` is added to
    /// the query.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        query: &str,
        body: Option<Bytes>,
        deadline: Instant,
    ) -> Request<RequestBody> {
        let base = self.uri.path().trim_end_matches('/');
        let mut target = format!("{base}/batches{path}");
        let queries = [self.uri.query().unwrap_or_default(), query];
        let mut separator = '?';
        for query in queries.into_iter().filter(|query| !query.is_empty()) {
            target.push(separator);
            target.push_str(query);
            separator = '&';
        }
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = target.parse().ok();
        let mut request = Request::new(RequestBody::default());
        *request.method_mut() = method;
        // The parts were those of a URI, and the path has checked ids only.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_else(|_| self.uri.clone());
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = self.extensions.clone();
        request.extensions_mut().insert(Deadline(deadline));
        if let Some(body) = body {
            let headers = request.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            *request.body_mut() = RequestBody::from(body);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_surrogate_pair_makes_a_body_unfit() {
        let check = |text: &str| {
            let body = format!(r#"{{"messages":[{{"content":"{text}"}}]}}"#);
            check(&Bytes::from(body))
        };
        for text in [
            "",
            r"\n\\ud83d",
            r"\ud83d\ude00",
            r"\uD83D\uDE00\u0041",
            "\u{1f600}",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            r"\ud83d",
            r"\ude00",
            r"\ud83d\n",
            r"\ud83d \ude00",
            r"\ud83d\ud83d\ude00",
            r"\\\ud83d",
        ] {
            assert_eq!(check(text), Err("body"), "{text}");
        }
    }
}
