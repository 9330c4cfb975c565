//! Validation of a request like the Claude API does it, up to the first error.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::str::FromStr;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, request};
use tower_claude_wire::{Model, Peek};

use crate::batches::call::{self, BatchCall};
use crate::batches::rules::item_problem;
use crate::check::{Body, IMAGE_TOKENS, Media};
use crate::cloud::route::Dialect;
use crate::config::{BATCHES, COUNT_TOKENS, Config, FAST_SUFFIX, Platform};
use crate::log::Endpoint;
use crate::model::CacheTokens;
use crate::prompt::{self, CachedPrompt, PromptFacts};
use crate::reply::ErrorReply;
use crate::rules::{self, RuleSet, Speed};
use crate::script::ReceivedRequest;
use crate::thinking;

/// The API's own limit on request bodies.
pub(crate) const MAX_BODY: usize = 32 * 1024 * 1024;

/// The tokens of the shortest prompt that is cached, for a model that is not listed.
const LEAST_CACHED: u64 = 1_024;

/// Facts of a request.
#[derive(Default)]
pub(crate) struct ValidCall {
    pub(crate) endpoint: Endpoint,
    /// The part of the path after `/v1/models/`.
    pub(crate) model_path: Option<String>,
    /// The call of a batch endpoint.
    pub(crate) batch: Option<BatchCall>,
    /// True for a request in a batch.
    pub(crate) in_batch: bool,
    pub(crate) tag: Option<Arc<str>>,
    pub(crate) retry_count: Option<u32>,
    pub(crate) model: Arc<str>,
    /// The id of the model in the catalog.
    pub(crate) model_id: Arc<str>,
    pub(crate) group: Arc<str>,
    pub(crate) stream: bool,
    pub(crate) fast: bool,
    pub(crate) max_tokens: u64,
    /// Estimated tokens of the prompt, by its bytes.
    pub(crate) estimate: u64,
    /// Actual tokens of the prompt.
    pub(crate) input: u64,
    /// Parts of `input` that the headers set.
    pub(crate) scripted_cache: Option<CacheTokens>,
    /// The prompt, if it has markers and `scripted_cache` is not set.
    pub(crate) cached: Option<CachedPrompt>,
    /// Tokens of the response without the limit of `max_tokens`.
    pub(crate) output: u64,
    pub(crate) authenticated: bool,
    pub(crate) request: Arc<ReceivedRequest>,
    /// The shape of the request and of its response.
    pub(crate) dialect: Dialect,
    /// True if the path asks for a stream.
    pub(crate) streams_by_path: bool,
    /// The prompt cache of the location that the request uses.
    pub(crate) cache_store: u64,
    /// The blocks of thinking that are dropped because another account has made them.
    pub(crate) dropped_thinking: usize,
    /// The `input_transformations` of the response as JSON, if it has them.
    pub(crate) transformations: Option<String>,
}

/// Reads the facts of a request to the Claude API into `call`, up to the first error. `body` is
/// `None` if it was too large.
pub(crate) fn check(
    config: &Config,
    parts: &request::Parts,
    body: Option<&[u8]>,
    call: &mut ValidCall,
) -> Result<(), ErrorReply> {
    let Some(body) = body else {
        // The CDN in front of the API sends this error, so nothing else is checked.
        let message = "Request exceeds the maximum allowed number of bytes.";
        return Err(ErrorReply {
            rate_headers: false,
            ..ErrorReply::new(413, "request_too_large", message)
        });
    };
    // The model first, so that a rejected attempt is logged with its model.
    let known = if parts.method == Method::POST {
        identify(config, body, call)
    } else {
        None
    };
    route(parts, call)?;
    authenticate(config, &parts.headers)?;
    call.authenticated = true;
    if !parts.headers.contains_key("anthropic-version") {
        return Err(ErrorReply::invalid("anthropic-version: header is required"));
    }
    if matches!(call.endpoint, Endpoint::Models | Endpoint::Batches) {
        return Ok(());
    }
    check_body(config, &parts.headers, body, known, call)
}

/// Returns the facts of a Messages request in a batch, or its error. `headers` are those of the
/// batch.
pub(crate) fn item(
    config: &Config,
    headers: &HeaderMap,
    params: &[u8],
) -> Result<ValidCall, ErrorReply> {
    let mut call = ValidCall {
        endpoint: Endpoint::Messages,
        in_batch: true,
        ..ValidCall::default()
    };
    let known = identify(config, params, &mut call);
    check_body(config, headers, params, known, &mut call)?;
    Ok(call)
}

/// Reads the body as far as its model, and sets the model and its rate group.
pub(crate) fn identify(
    config: &Config,
    body: &[u8],
    call: &mut ValidCall,
) -> Option<(Peek, Option<Model>)> {
    let peek = Peek::parse(body)?;
    let model = peek.model(body).map(|name| {
        let model = config.catalog.lookup(name);
        call.model = Arc::from(name);
        call.model_id = Arc::clone(&model.id);
        call.group = config.group_of(&model);
        model
    });
    Some((peek, model))
}

/// Checks the body of a call that names a model, and drops the thinking of other accounts.
pub(crate) fn check_body(
    config: &Config,
    headers: &HeaderMap,
    bytes: &[u8],
    known: Option<(Peek, Option<Model>)>,
    call: &mut ValidCall,
) -> Result<(), ErrorReply> {
    check_fields(config, headers, bytes, known, call)?;
    let is_signed = || std::str::from_utf8(bytes).is_ok_and(|text| text.contains("\"signature\""));
    let may_differ = headers.contains_key("anthropic-beta") || is_signed();
    if call.endpoint != Endpoint::Messages || !may_differ {
        return Ok(());
    }
    let Some(body) = Body::read(headers, bytes) else {
        return Ok(());
    };
    let messages = body.fields.get("messages").map_or("", |raw| raw.get());
    let foreign = thinking::foreign(config.account(), messages).unwrap_or_default();
    let is_dropped = !foreign.paths.is_empty();
    if is_dropped && config.rejects_foreign_thinking {
        return Err(thinking::rejection(&foreign.paths));
    }
    if body.has_beta(&["thinking-binding-controls-"]) {
        call.transformations = Some(thinking::transformations(&foreign.paths));
    }
    if is_dropped {
        call.dropped_thinking = foreign.paths.len();
        call.cached = None;
        let bytes = body.with_messages(&foreign.messages);
        let known = identify(config, &bytes, call);
        // The request was valid with the blocks, and only its sizes change without them.
        let _ = check_fields(config, headers, &bytes, known, call);
    }
    Ok(())
}

/// Checks the fields of a body, and reads the sizes of the prompt.
fn check_fields(
    config: &Config,
    headers: &HeaderMap,
    bytes: &[u8],
    known: Option<(Peek, Option<Model>)>,
    call: &mut ValidCall,
) -> Result<(), ErrorReply> {
    let (Some((peek, model)), Some(body)) = (known, Body::read(headers, bytes)) else {
        return Err(ErrorReply::invalid("The request body is not valid JSON"));
    };
    let rules = model.as_ref().and_then(|model| rules::of(&model.id));
    let counted = sizes(config, headers, &peek, body.media(rules), call);
    if call.endpoint == Endpoint::Messages {
        call.max_tokens = peek.max_tokens().ok_or_else(|| {
            ErrorReply::invalid(if body.fields.contains_key("max_tokens") {
                "max_tokens: Input should be a valid integer, at least 0"
            } else {
                "max_tokens: Field required"
            })
        })?;
    }
    if peek.messages_bytes() == 0 {
        return Err(ErrorReply::invalid("messages: Field required"));
    }
    let Some(model) = model else {
        return Err(ErrorReply::invalid("model: Field required"));
    };
    if rules::is_retired(&model.id, &config.today) || !model.known && !config.unknown_models {
        return Err(ErrorReply::not_found(format!("model: {}", call.model)));
    }
    if call.endpoint == Endpoint::CountTokens {
        call.group = Arc::from(COUNT_TOKENS);
        body.countable()?;
        return rules.map_or(Ok(()), |rules| body.tool_choice(rules));
    }
    if call.in_batch
        && let Some(problem) = item_problem(&body, call.stream, call.max_tokens)
    {
        return Err(problem);
    }
    call.fast &= rules.is_none_or(|rules| rules.speed != Speed::Ignored);
    if call.fast {
        call.group = Arc::from(format!("{}{FAST_SUFFIX}", model.rate_group));
    }
    accepts(config, &model, &body, call)?;
    if peek.mentions_cache_control() {
        let scope = cache_scope(config, headers, &model.id, call);
        let facts = facts(config, &model, rules, call, (scope, counted));
        let cached = prompt::read(&body, bytes, &facts)?;
        if !cached.markers.is_empty() && call.scripted_cache.is_none() {
            call.cached = Some(cached);
        }
    }
    Ok(())
}

/// Returns a hash of what separates prompt caches. The API has one for each workspace, so a
/// credential stands for a workspace here. Messages and batches do not share entries.
///
/// A cloud has one for each account, of which a server has only one.
fn cache_scope(config: &Config, headers: &HeaderMap, model: &str, call: &ValidCall) -> u64 {
    let mut hasher = DefaultHasher::new();
    if config.cloud.is_none() {
        let workspace = headers.get("anthropic-workspace-id");
        (credential(headers), workspace).hash(&mut hasher);
    }
    (model, call.in_batch, call.cache_store).hash(&mut hasher);
    hasher.finish()
}

/// Returns the facts for the prompt cache. `scope` is that of the cache, and `counted` the tokens
/// that the bytes of the prompt give.
fn facts<'a>(
    config: &Config,
    model: &'a Model,
    rules: Option<&'static RuleSet>,
    call: &ValidCall,
    (scope, counted): (u64, u64),
) -> PromptFacts<'a> {
    let listed = model.capabilities.min_cache_tokens;
    PromptFacts {
        scope,
        fast: call.fast,
        default_effort: rules.and_then(|rules| rules.default_effort),
        strips_thinking: rules.is_some_and(|rules| rules.strips_thinking),
        least: rules.map_or(listed.unwrap_or(LEAST_CACHED), |rules| rules.least_cached),
        image_tokens: rules.map_or(IMAGE_TOKENS, |rules| rules.image_tokens),
        bytes_per_1000_tokens: config.bytes_per_1000_tokens,
        input: call.input,
        counted,
        joins_runs: config.platform == Platform::Claude,
    }
}

fn route(parts: &request::Parts, call: &mut ValidCall) -> Result<(), ErrorReply> {
    // Clouds and gateways put a prefix before the path, which may contain `/v1/` as well.
    let path = parts.uri.path().trim_end_matches('/');
    let (prefix, path) = path.split_at(path.rfind("/v1/").unwrap_or(0));
    // The API does not accept a base URL that has the version as well.
    let path = if prefix == "/v1" { "" } else { path };
    if let Some(rest) = path.strip_prefix(call::PATH)
        && (rest.is_empty() || rest.starts_with('/'))
    {
        let batch = BatchCall::of(&parts.method, rest).map_err(wrong_method)?;
        call.batch = Some(batch.ok_or_else(no_resource)?);
        call.endpoint = Endpoint::Batches;
        call.group = Arc::from(BATCHES);
        return Ok(());
    }
    let (endpoint, method) = match path {
        "/v1/messages" => (Endpoint::Messages, "POST"),
        "/v1/messages/count_tokens" => (Endpoint::CountTokens, "POST"),
        "/v1/models" => (Endpoint::Models, "GET"),
        _ => match path.strip_prefix("/v1/models/") {
            Some(id) if !id.is_empty() => {
                call.model_path = Some(id.to_owned());
                (Endpoint::Models, "GET")
            }
            _ => return Err(no_resource()),
        },
    };
    if parts.method != method {
        return Err(wrong_method(method));
    }
    call.endpoint = endpoint;
    Ok(())
}

fn no_resource() -> ErrorReply {
    ErrorReply {
        rate_headers: false,
        ..ErrorReply::not_found("The requested resource could not be found.")
    }
}

fn wrong_method(allowed: &'static str) -> ErrorReply {
    ErrorReply {
        allow: Some(allowed),
        rate_headers: false,
        ..ErrorReply::new(405, "invalid_request_error", "Method Not Allowed")
    }
}

/// Returns the credential, which is the same in each of the headers.
fn credential(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = || {
        let (scheme, key) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
        scheme
            .eq_ignore_ascii_case(b"Bearer ")
            .then(|| key.trim_ascii())
    };
    let names = ["x-api-key", "api-key"].into_iter();
    let mut keys = names.filter_map(|name| headers.get(name));
    keys.next().map(http::HeaderValue::as_bytes).or_else(bearer)
}

fn authenticate(config: &Config, headers: &HeaderMap) -> Result<(), ErrorReply> {
    let message = match (credential(headers), &config.api_key) {
        (None | Some(b""), _) => "x-api-key header is required",
        (Some(key), Some(wanted)) if key != wanted.as_bytes() => "invalid x-api-key",
        _ => return Ok(()),
    };
    Err(ErrorReply {
        rate_headers: false,
        ..ErrorReply::new(401, "authentication_error", message)
    })
}

/// Sets the sizes of prompt and response, from the body and from the headers that override them.
/// Returns the tokens that the bytes of the prompt give.
fn sizes(
    config: &Config,
    headers: &HeaderMap,
    peek: &Peek,
    media: Media,
    call: &mut ValidCall,
) -> u64 {
    call.stream = peek.stream();
    call.fast = peek.fast();
    let bytes = (peek.system_bytes() + peek.tools_bytes() + peek.messages_bytes()) as u64;
    let text = bytes.saturating_sub(media.bytes);
    let text = text
        .saturating_mul(1_000)
        .div_ceil(config.bytes_per_1000_tokens.max(1));
    let counted = text + media.tokens;
    call.estimate = number(headers, "x-fake-estimate-tokens").unwrap_or(counted);
    call.input = number(headers, "x-fake-input-tokens").unwrap_or(counted);
    let read = number(headers, "x-fake-cache-read-tokens");
    let written = number(headers, "x-fake-cache-creation-tokens");
    if read.is_some() || written.is_some() {
        let read = read.unwrap_or(0).min(call.input);
        call.scripted_cache = Some(CacheTokens {
            read,
            written_5m: written.unwrap_or(0).min(call.input - read),
            written_1h: 0,
        });
    }
    call.output = number(headers, "x-fake-output-tokens").unwrap_or(config.output_tokens);
    counted
}

/// Checks the sizes and the features that the body uses.
fn accepts(
    config: &Config,
    model: &Model,
    body: &Body<'_>,
    call: &ValidCall,
) -> Result<(), ErrorReply> {
    let invalid = |message: String| Err(ErrorReply::invalid(message));
    let (name, max_tokens) = (&call.model, call.max_tokens);
    let rules = rules::of(&model.id);
    // The catalog has the sizes of models that the table does not list.
    let (mut max_output, context) = rules.map_or((model.max_output, model.context), |rules| {
        (rules.max_output, rules.context)
    });
    if call.in_batch
        && body.has_beta(&[rules::LONG_OUTPUT_BETA])
        && rules::has_long_batch_output(&model.id, config.platform)
    {
        max_output = rules::LONG_OUTPUT;
    }
    if max_tokens > max_output {
        return invalid(format!(
            "max_tokens: {max_tokens} > {max_output}, which is the maximum allowed number of output tokens for {name}"
        ));
    }
    if call.input > context {
        return invalid(format!(
            "prompt is too long: {} tokens > {context} maximum",
            call.input
        ));
    }
    if max_tokens == 0 && call.stream {
        return invalid("max_tokens: 0 is not supported with stream".to_owned());
    }
    body.fields_known()?;
    match rules {
        Some(rules) => body.accepted(name, rules, max_tokens, config),
        None => Ok(()),
    }
}

/// Returns the number in a header.
pub(crate) fn number<T: FromStr>(headers: &HeaderMap, name: &'static str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}
