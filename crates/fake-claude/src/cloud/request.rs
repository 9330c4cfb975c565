//! Translation of a platform's request to one of the Claude API, which the judge checks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, request};
use serde_json::value::RawValue;
use tower_claude_wire::Peek;

use crate::cloud::credential::{FakeCredential, Secret};
use crate::cloud::ids::{self, IdError};
use crate::cloud::route::{self, Dialect, Route};
use crate::cloud::sigv4::{Signature, SignatureError, SignedRequest, check_time};
use crate::cloud::{CloudKind, FakeCloud, betas, features};
use crate::log::Endpoint;
use crate::reply::ErrorReply;
use crate::state::Shared;
use crate::validate::{self, ValidCall};

/// The length of the part of a body that decides about its prompt cache.
const HEAD: usize = 1_024;
const OLD_VERSION: &str = "2023-06-01";
const NEW_VERSION: &str = "2026-10-21";

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Reads the facts of a request to a platform into `call`, up to the first error. `body` is `None`
/// if it was too large.
pub(crate) fn check(
    shared: &Shared,
    cloud: &FakeCloud,
    parts: &request::Parts,
    body: Option<&[u8]>,
    call: &mut ValidCall,
) -> Result<(), ErrorReply> {
    call.dialect = route::dialect(cloud, parts.uri.path());
    let route = route::route(call.dialect, &parts.method, &parts.uri);
    let Some(route) = route else {
        return Err(match call.dialect {
            Dialect::Invoke => ErrorReply::front(404, "UnknownOperationException", ""),
            Dialect::Vertex => {
                ErrorReply::front(404, "NOT_FOUND", "Requested entity was not found.")
            }
            _ => ErrorReply::not_found("The requested resource could not be found."),
        });
    };
    call.endpoint = route.endpoint;
    call.streams_by_path = route.streams;
    // The model first, so that a rejected attempt is logged with its model.
    let asked = match (&route.model, body) {
        (Some(model), _) => Some(model.clone()),
        (None, body) => body.and_then(|body| Peek::parse(body)?.model(body).map(str::to_owned)),
    };
    let model = asked
        .as_deref()
        .map(|asked| identify(shared, cloud, asked, call));
    let Some(body) = body else {
        return Err(too_large(call.dialect));
    };
    authorize(shared, cloud, parts, body, call.dialect)?;
    call.authenticated = true;
    if let Some((project, location)) = &route.place
        && (*project != cloud.account || *location != cloud.location)
    {
        let path = parts.uri.path().trim_start_matches("/v1/");
        return Err(ErrorReply::front(
            403,
            "PERMISSION_DENIED",
            format!(
                "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/{path}' (or it may not exist)."
            ),
        ));
    }
    let fields: Fields<'_> = serde_json::from_slice(body)
        .map_err(|_| ErrorReply::invalid("The request body is not valid JSON"))?;
    let model = match model {
        None => return Err(ErrorReply::invalid("model: Field required")),
        Some(Ok(model)) => model,
        Some(Err(error)) => {
            let asked = asked.unwrap_or_default();
            return Err(unknown_model(cloud, call.dialect, &asked, &error));
        }
    };
    let (headers, body) = translate(cloud, parts, body, &route, (fields, &model), call)?;
    let known = validate::identify(&shared.config, &body, call);
    validate::check_body(&shared.config, &headers, &body, known, call)
}

/// Sets the model and its limits, and returns the id of the Claude API without its date.
fn identify(
    shared: &Shared,
    cloud: &FakeCloud,
    asked: &str,
    call: &mut ValidCall,
) -> Result<String, IdError> {
    let id = match call.dialect {
        Dialect::Invoke => ids::invoke(cloud, asked),
        Dialect::Claude | Dialect::Messages => ids::messages(asked),
        Dialect::Vertex => ids::vertex(asked),
    };
    call.model = Arc::from(id.as_deref().unwrap_or(asked));
    let id = id?;
    let model = shared.config.catalog.lookup(&id);
    if !model.known && !shared.config.unknown_models {
        return Err(IdError::Unknown);
    }
    call.group = shared.config.group_of(&model);
    Ok(model.id.to_string())
}

/// Returns the headers and the body of the same request to the Claude API.
fn translate(
    cloud: &FakeCloud,
    parts: &request::Parts,
    body: &[u8],
    route: &Route,
    (mut fields, model): (Fields<'_>, &str),
    call: &mut ValidCall,
) -> Result<(HeaderMap, Vec<u8>), ErrorReply> {
    let dialect = call.dialect;
    call.cache_store = store(cloud, body);
    let mut headers = parts.headers.clone();
    let version = version(dialect, route.endpoint, &headers, model, &mut fields)?;
    headers.insert("anthropic-version", HeaderValue::from_static(version));
    let betas = named_betas(dialect, &headers, &mut fields)?;
    let rejected = match route.endpoint {
        // Google takes no betas for counting.
        Endpoint::CountTokens if dialect == Dialect::Vertex => {
            betas.iter().map(String::as_str).collect()
        }
        _ => betas::rejected(cloud, dialect, &betas),
    };
    if !rejected.is_empty() {
        return Err(ErrorReply::invalid(match dialect {
            Dialect::Invoke => "invalid beta flag".to_owned(),
            _ => format!(
                "Unexpected value(s) {} for the `anthropic-beta` header. Please consult our documentation at docs.anthropic.com or try again without the header.",
                rejected
                    .iter()
                    .map(|beta| format!("`{beta}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }));
    }
    headers.remove("anthropic-beta");
    if let Ok(value) = HeaderValue::from_str(&betas.join(","))
        && !betas.is_empty()
    {
        headers.insert("anthropic-beta", value);
    }
    if cloud.is_aws() {
        fields.remove("user_profile_id");
    }
    let extra = match dialect {
        Dialect::Invoke => &["model", "stream"][..],
        Dialect::Vertex if route.endpoint == Endpoint::Messages => &["model"],
        _ => &[],
    };
    if let Some(name) = extra.iter().find(|name| fields.contains_key(**name)) {
        let message = format!("{name}: Extra inputs are not permitted");
        return Err(ErrorReply::invalid(message));
    }
    features::check(dialect, model, &fields)?;
    fields.remove("model");
    let mut json = String::with_capacity(body.len() + 64);
    json.push_str("{\"model\":");
    json.push_str(&serde_json::Value::from(&*call.model).to_string());
    if dialect == Dialect::Invoke {
        let _ = write!(json, ",\"stream\":{}", route.streams);
    }
    for (name, value) in &fields {
        let _ = write!(json, ",{}:{value}", serde_json::Value::from(name.as_str()));
    }
    json.push('}');
    Ok((headers, json.into_bytes()))
}

/// Returns the API version of a request in the values of the Claude API.
fn version(
    dialect: Dialect,
    endpoint: Endpoint,
    headers: &HeaderMap,
    model: &str,
    fields: &mut Fields<'_>,
) -> Result<&'static str, ErrorReply> {
    let is_new = ids::takes_new_version(model);
    let (old, takes_new) = match dialect {
        Dialect::Claude | Dialect::Messages => {
            let version = headers.get("anthropic-version").map(HeaderValue::as_bytes);
            return match version {
                None => Err(ErrorReply::invalid("anthropic-version: header is required")),
                Some(version) if version < NEW_VERSION.as_bytes() => Ok(OLD_VERSION),
                Some(_) if is_new => Ok(NEW_VERSION),
                Some(_) => Err(ErrorReply::invalid(format!(
                    "anthropic-version: {NEW_VERSION} is not supported for this model."
                ))),
            };
        }
        Dialect::Invoke => ("bedrock-2023-05-31", is_new),
        Dialect::Vertex => ("vertex-2023-10-16", true),
    };
    let value = fields.remove("anthropic_version").map(RawValue::get);
    let value = value.map(|value| serde_json::from_str::<String>(value).unwrap_or_default());
    match value.as_deref() {
        None if endpoint == Endpoint::CountTokens => Ok(OLD_VERSION),
        None => Err(ErrorReply::invalid("anthropic_version: Field required")),
        Some(value) if value == old => Ok(OLD_VERSION),
        Some(NEW_VERSION) if takes_new => Ok(NEW_VERSION),
        Some(_) if takes_new => Err(ErrorReply::invalid(format!(
            "anthropic_version: Input should be '{old}' or '{NEW_VERSION}'"
        ))),
        Some(_) => Err(ErrorReply::invalid(format!(
            "anthropic_version: Input should be '{old}'"
        ))),
    }
}

/// Returns the betas of a request. InvokeModel reads them from the body, and not from the header.
fn named_betas(
    dialect: Dialect,
    headers: &HeaderMap,
    fields: &mut Fields<'_>,
) -> Result<Vec<String>, ErrorReply> {
    if dialect == Dialect::Invoke {
        let list = fields.remove("anthropic_beta").map(RawValue::get);
        return serde_json::from_str(list.unwrap_or("[]"))
            .map_err(|_| ErrorReply::invalid("anthropic_beta: Input should be a valid list"));
    }
    let lines = headers.get_all("anthropic-beta").iter();
    let betas = lines
        .flat_map(|line| line.to_str())
        .flat_map(|line| line.split(','));
    let betas = betas.map(str::trim).filter(|beta| !beta.is_empty());
    Ok(betas.map(str::to_owned).collect())
}

/// Returns the prompt cache that a body uses.
fn store(cloud: &FakeCloud, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body[..body.len().min(HEAD)].hash(&mut hasher);
    hasher.finish() % cloud.stores
}

fn too_large(dialect: Dialect) -> ErrorReply {
    let message = "Request exceeds the maximum allowed number of bytes.";
    match dialect {
        Dialect::Invoke => ErrorReply::front(
            400,
            "ValidationException",
            "1 validation error detected: Value at 'body' failed to satisfy constraint: Member must have length less than or equal to 20971520",
        ),
        Dialect::Vertex => ErrorReply::front(
            413,
            "INVALID_ARGUMENT",
            "Request payload size exceeds the limit: 31457280 bytes.",
        ),
        _ => ErrorReply::new(413, "request_too_large", message),
    }
}

fn unknown_model(cloud: &FakeCloud, dialect: Dialect, asked: &str, error: &IdError) -> ErrorReply {
    match (dialect, error) {
        (Dialect::Invoke, IdError::OnDemand) => ErrorReply::front(
            400,
            "ValidationException",
            format!(
                "Invocation of model ID {asked} with on-demand throughput isn\u{2019}t supported. Retry your request with the ID or ARN of an inference profile that contains this model."
            ),
        ),
        (Dialect::Invoke, IdError::Unknown) => ErrorReply::front(
            400,
            "ValidationException",
            "The provided model identifier is invalid.",
        ),
        (Dialect::Vertex, _) => ErrorReply::front(
            404,
            "NOT_FOUND",
            format!(
                "Publisher Model `projects/{}/locations/{}/publishers/anthropic/models/{asked}` was not found or your project does not have access to it. Please ensure you are using a valid model version. For more information, see: https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions",
                cloud.account, cloud.location
            ),
        ),
        _ => ErrorReply::not_found(format!("model: {asked}")),
    }
}

/// Checks the credential of a request.
fn authorize(
    shared: &Shared,
    cloud: &FakeCloud,
    parts: &request::Parts,
    body: &[u8],
    dialect: Dialect,
) -> Result<(), ErrorReply> {
    let headers = &parts.headers;
    let authorization = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let bearer = authorization.and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme
            .eq_ignore_ascii_case(b"Bearer ")
            .then(|| token.trim_ascii())
    });
    // Amazon documents it for its endpoints of the Claude API.
    let key = || {
        let key = headers.get("x-api-key").map(HeaderValue::as_bytes);
        key.filter(|_| dialect == Dialect::Messages && authorization.is_none())
    };
    if let Some(token) = bearer.or_else(key) {
        let is = |known: &FakeCredential| match &known.secret {
            Secret::Bearer(known) => known.as_bytes() == token,
            Secret::AccessKey { .. } => false,
        };
        let is_any = cloud.credentials.is_empty() && !token.is_empty();
        return match shared.find_credential(cloud, is) {
            _ if is_any => Ok(()),
            None => Err(bad_token(cloud, false)),
            Some((_, true)) => Err(bad_token(cloud, true)),
            Some((_, false)) => Ok(()),
        };
    }
    if !cloud.is_aws() {
        let message = "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.";
        return Err(ErrorReply::front(401, "UNAUTHENTICATED", message));
    }
    verify(shared, cloud, parts, body)
}

fn bad_token(cloud: &FakeCloud, has_expired: bool) -> ErrorReply {
    if !cloud.is_aws() {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.";
        return ErrorReply::front(401, "UNAUTHENTICATED", message);
    }
    match has_expired {
        true => ErrorReply::front(403, "ExpiredTokenException", "Bearer Token has expired"),
        false => ErrorReply::front(
            403,
            "AccessDeniedException",
            "Authentication failed: Please make sure your API Key is valid.",
        ),
    }
}

/// Verifies a signature of AWS.
fn verify(
    shared: &Shared,
    cloud: &FakeCloud,
    parts: &request::Parts,
    body: &[u8],
) -> Result<(), ErrorReply> {
    let invalid = |message: String| ErrorReply::front(403, "InvalidSignatureException", message);
    let of = |error: SignatureError| match error {
        SignatureError::Missing => ErrorReply::front(
            403,
            "MissingAuthenticationTokenException",
            "Missing Authentication Token",
        ),
        SignatureError::Incomplete(message) => {
            ErrorReply::front(403, "IncompleteSignatureException", message)
        }
        SignatureError::Unsigned(name) => invalid(format!(
            "'{name}' must be a 'SignedHeader' in the AWS Authorization."
        )),
        SignatureError::Expired(message) | SignatureError::Scope(message) => invalid(message),
        SignatureError::Mismatch { canonical, to_sign } => invalid(format!(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.\n\nThe Canonical String for this request should have been\n'{canonical}'\n\nThe String-to-Sign should have been\n'{to_sign}'\n"
        )),
    };
    let signature = Signature::parse(&parts.headers).map_err(of)?;
    let service = match cloud.kind {
        CloudKind::Mantle => "bedrock-mantle",
        _ => "bedrock",
    };
    if signature.region != cloud.location {
        return Err(invalid(format!(
            "Credential should be scoped to a valid region, not '{}'. ",
            signature.region
        )));
    }
    if signature.service != service {
        return Err(invalid(format!(
            "Credential should be scoped to correct service: '{service}'. "
        )));
    }
    if cloud.credentials.is_empty() {
        return Ok(());
    }
    let is = |known: &FakeCredential| match &known.secret {
        Secret::AccessKey { id, .. } => id == signature.access_key,
        Secret::Bearer(_) => false,
    };
    let unknown = || {
        let message = "The security token included in the request is invalid.";
        ErrorReply::front(403, "UnrecognizedClientException", message)
    };
    let (known, has_expired) = shared.find_credential(cloud, is).ok_or_else(unknown)?;
    let Secret::AccessKey {
        secret, session, ..
    } = &known.secret
    else {
        return Err(unknown());
    };
    let token = parts
        .headers
        .get("x-amz-security-token")
        .map(HeaderValue::as_bytes);
    if token != session.as_deref().map(str::as_bytes) {
        return Err(unknown());
    }
    // The time of the server follows a paused clock, and the clocks of signers may not.
    check_time(&parts.headers, SystemTime::now())
        .or_else(|_| check_time(&parts.headers, shared.now().wall))
        .map_err(of)?;
    let request = SignedRequest {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        authority: parts.uri.authority().map(http::uri::Authority::as_str),
        body,
    };
    signature.verify(&request, secret).map_err(of)?;
    if has_expired {
        let message = "The security token included in the request is expired";
        return Err(ErrorReply::front(403, "ExpiredTokenException", message));
    }
    Ok(())
}
