//! The routes, and the way of a request to its upstream.

use std::{
    convert::Infallible,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
    routing::get,
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri, Version,
    header::{ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, MissedTickBehavior},
};
use tower::{Layer, ServiceExt, service_fn, util::option_layer};
use tower_claude::{
    RequestBody,
    core::{
        alert::INTERVAL,
        toolkit::{error_text, host, requests_stream},
    },
    wire::{is_compressed, is_event_stream, is_json},
};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, Any, CorsLayer};
use tower_service::Service;

use crate::{
    config::Config,
    dashboard::{self, Dashboard},
    early_head,
    gateway_error::GatewayError,
    headers::{self, REQUEST_ID, SHOULD_RETRY},
    key_text::KEY_PREFIX,
    keys::{GatewayKey, KeyTable},
    plan::Plans,
    request_body, results_url,
    sse::EventStream,
    upstream::Upstream,
    user_message,
};

/// The header that keeps proxies from buffering a stream.
const ACCEL_BUFFERING: &str = "x-accel-buffering";

/// The header by which a proxy in front reports the scheme of the client.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The greatest size of the JSON of a batch, or of a page of them, in which URLs are rewritten.
const BATCH_BYTES: usize = 8 << 20;

/// The state of a gateway.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) routes: RwLock<Arc<Routes>>,
    /// Counts the bytes of request bodies in memory.
    pub(crate) memory: Arc<Semaphore>,
    pub(crate) is_ready: AtomicBool,
    /// Becomes true when open streams must end.
    pub(crate) cut: watch::Sender<bool>,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) dashboard: Dashboard,
    /// Present with an event log and a renderer of plans.
    pub(crate) plans: OnceLock<Arc<Plans>>,
}

/// The part of the state that a reload replaces.
pub(crate) struct Routes {
    pub(crate) config: Config,
    pub(crate) keys: KeyTable,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
}

/// The caller of a request.
struct Caller {
    upstream: Arc<Upstream>,
    /// `None` for a caller without a gateway key.
    key: Option<Arc<GatewayKey>>,
    /// True if the key of the upstream replaces all credentials of the caller.
    is_mapped: bool,
}

impl Routes {
    /// Finds the upstream and the rights of a caller.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, GatewayError> {
        let given: Vec<&[u8]> = headers::credentials(headers).collect();
        let text = given
            .iter()
            .find(|key| key.starts_with(KEY_PREFIX.as_bytes()));
        if let Some(text) = text {
            let key = self.keys.find(text);
            let key =
                key.ok_or_else(|| GatewayError::unauthorized("this gateway key is not valid"))?;
            let upstream = self.upstreams.get(key.upstream).cloned();
            return Ok(Caller {
                upstream: upstream.ok_or_else(no_upstream)?,
                key: Some(key),
                is_mapped: true,
            });
        }
        let upstream = self.upstreams.first().cloned().ok_or_else(no_upstream)?;
        let uses_own = self.config.accepts_client_keys() && !given.is_empty();
        // The configuration allows this on a loopback address only.
        let is_mapped = self.keys.is_empty() && upstream.has_credential() && !uses_own;
        if !is_mapped && !self.config.accepts_client_keys() {
            return Err(GatewayError::unauthorized(
                "this gateway needs a gateway key, as a bearer token or in x-api-key",
            ));
        }
        if !is_mapped && given.iter().any(|key| !upstream.may_receive(key)) {
            return Err(GatewayError::new(
                StatusCode::FORBIDDEN,
                "permission_error",
                "a key of Anthropic is not sent to the upstream of this gateway",
            ));
        }
        Ok(Caller {
            upstream,
            key: None,
            is_mapped,
        })
    }
}

fn no_upstream() -> GatewayError {
    let message = "the gateway has no upstream";
    GatewayError::new(StatusCode::INTERNAL_SERVER_ERROR, "api_error", message)
}

impl Shared {
    pub(crate) fn routes(&self) -> Arc<Routes> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.clone()
    }

    /// Updates the dashboard, and evaluates alerts. Never ends.
    pub(crate) async fn keep_telemetry(&self) {
        let mut ticks = tokio::time::interval(dashboard::INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut evaluated: Option<Instant> = None;
        loop {
            let now = ticks.tick().await;
            let routes = self.routes();
            let scopes = routes
                .upstreams
                .iter()
                .flat_map(|upstream| upstream.scopes());
            let draining = !self.is_ready.load(Ordering::Relaxed);
            let metrics = self.render_metrics();
            let has_plan = self.plans.get().is_some();
            self.dashboard
                .update(&metrics, scopes.collect(), draining, has_plan);
            if evaluated.is_none_or(|at| now.saturating_duration_since(at) >= INTERVAL) {
                evaluated = Some(now);
                for upstream in &routes.upstreams {
                    upstream.evaluate_alerts(now);
                }
            }
        }
    }

    /// Writes all metrics in the text format of Prometheus. This also removes the samples of
    /// histograms, which would pile up without a scrape.
    fn render_metrics(&self) -> String {
        for upstream in &self.routes().upstreams {
            upstream.record_metrics();
        }
        self.metrics.render()
    }

    /// Returns the path at the API, or a hint on what is wrong with the path.
    ///
    /// Paths are not normalized: another reading of the same path than that of the upstream could
    /// lead past a check.
    fn api_path<'a>(&self, path: &'a str) -> Result<&'a str, GatewayError> {
        let prefix = &*self.config.path_prefix;
        let Some(api) = path.strip_prefix(prefix).filter(|api| api.starts_with('/')) else {
            let message = format!("the base URL of this gateway ends in {prefix}");
            return Err(GatewayError::not_found(message));
        };
        let hint = if has_unusual_segment(api) {
            "empty and dot segments in a path are not supported, remove a slash from the end of \
             the base URL"
        } else if api.starts_with("/v1/v1/") {
            "the path begins with /v1 twice, remove it from the base URL"
        } else if is_without_version(api) {
            "the path must begin with /v1, which is missing before this one"
        } else if !api.starts_with("/v1/") && api.contains("/v1/") {
            "the path must begin with /v1, remove the prefix or set path_prefix"
        } else {
            return Ok(api);
        };
        Err(GatewayError::not_found(hint.to_owned()))
    }

    /// Answers a request for the API.
    async fn answer(&self, request: Request) -> Result<Response, GatewayError> {
        let (mut parts, body) = request.into_parts();
        let path = self.api_path(parts.uri.path())?;
        let is_messages = path == "/v1/messages";
        let is_layered =
            parts.method == Method::POST && (is_messages || path == "/v1/messages/count_tokens");
        let is_batch = path.starts_with("/v1/messages/batches") && !path.ends_with("/results");
        let routes = self.routes();
        let caller = routes.caller(&parts.headers)?;
        if let Some(key) = &caller.key
            && let Err(wait) = key.count(Instant::now())
        {
            tracing::info!(key = %key.name, "quota of a gateway key used up");
            let message = "the requests per minute of this gateway key are used up";
            let error =
                GatewayError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
            return Err(error.with_retry_after(wait));
        }
        let base = is_batch.then(|| self.public_base(&parts.uri, &parts.headers));
        let target = caller.upstream.url_of(path, parts.uri.query());
        parts.uri = target.map_err(|_| {
            let message = "the path cannot be sent to the upstream".to_owned();
            GatewayError::not_found(message)
        })?;
        headers::prepare_request(&mut parts.headers);
        if caller.is_mapped {
            headers::remove_credentials(&mut parts.headers);
            caller.upstream.authorize(&mut parts.headers);
        }
        parts.version = Version::HTTP_11;
        parts.extensions = http::Extensions::new();
        if let Some(key) = &caller.key {
            parts.extensions.insert(key.tenant.clone());
            parts.extensions.insert(key.priority);
            parts.extensions.insert(key.workload);
        }
        if !caller.is_mapped
            && let Some(residency) = caller.upstream.own_targets()
        {
            parts.extensions.insert(residency.clone());
        }
        if !is_layered && !caller.upstream.has_claude_api() {
            let message = "none of the clouds behind this gateway serves this path".to_owned();
            return Err(GatewayError::not_found(message));
        }
        let mut response = if is_layered {
            let body = request_body::read(body, &self.config.server, &self.memory).await?;
            let request = Request::from_parts(parts, RequestBody::from(body.bytes));
            let early = self.config.stream.early_head;
            let early = early.filter(|_| is_messages && requests_stream(&request));
            let upstream = caller.upstream.clone();
            let call = async move {
                let called = upstream.call(request).await;
                // The layers keep the body until the first content, in order to send it again.
                drop(body.share);
                called.map_err(|error| no_answer(&upstream, &error))
            };
            match early {
                Some(time) => early_head::answer(call, time, new_request_id()).await?,
                None => call.await?,
            }
        } else {
            let body = request_body::stream(body, &self.config.server);
            let called = caller.upstream.pass(Request::from_parts(parts, body)).await;
            called.map_err(|error| no_answer(&caller.upstream, &error))?
        };
        headers::remove_hop_by_hop(response.headers_mut());
        if is_layered && is_retried(response.status()) {
            let headers = response.headers_mut();
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if is_event_stream(response.headers()) && !is_compressed(response.headers()) {
            return Ok(self.stream(response));
        }
        if let Some(base) = base
            && is_json(response.headers())
        {
            return rewrite_batch(response, caller.upstream.base_path(), &base).await;
        }
        Ok(response)
    }

    /// Returns the URL by which a caller reaches this gateway, without a slash at its end.
    fn public_base(&self, uri: &Uri, headers: &HeaderMap) -> String {
        let prefix = &self.config.path_prefix;
        if let Some(url) = &self.config.public_url {
            return format!("{}{prefix}", url.trim_end_matches('/'));
        }
        // HTTP/2 has the host in the URI.
        let host = host(uri, headers);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        let is_https = headers
            .get(FORWARDED_PROTO)
            .is_some_and(|scheme| scheme == "https");
        let scheme = if is_https { "https" } else { "http" };
        if host.is_empty() || !host.bytes().all(is_plain) {
            return format!("{scheme}://{}{prefix}", self.config.listen);
        }
        format!("{scheme}://{host}{prefix}")
    }

    /// Returns a stream with heartbeats, and with headers that keep proxies from holding it back.
    fn stream(&self, response: Response) -> Response {
        let (mut parts, body) = response.into_parts();
        let no_cache = HeaderValue::from_static("no-cache, no-transform");
        parts.headers.insert(CACHE_CONTROL, no_cache);
        parts
            .headers
            .insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        parts.headers.remove(CONTENT_LENGTH);
        let body = EventStream::new(body, &self.config.stream, self.cut.subscribe());
        Response::from_parts(parts, Body::new(body))
    }
}

/// Returns the error of a request that got no response.
fn no_answer(upstream: &Upstream, error: &legacy::Error) -> GatewayError {
    if request_body::is_stalled(error) {
        return request_body::too_slow();
    }
    let upstream = upstream.name();
    tracing::warn!(upstream, error = %error_text(error), "upstream did not answer");
    let message = "the upstream of this gateway did not answer";
    GatewayError::new(StatusCode::BAD_GATEWAY, "api_error", message)
}

/// Returns true for statuses that the layers retry. What they still return was given up, so that
/// the retries of an SDK would only repeat theirs.
const fn is_retried(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 409 | 429 | 500..)
}

/// Returns true for an empty segment before the last, and for a dot segment in any encoding.
fn has_unusual_segment(path: &str) -> bool {
    path.contains("//")
        || path.split('/').any(|segment| {
            let rest = after_dot(segment);
            rest.is_some_and(|rest| rest.is_empty() || after_dot(rest) == Some(""))
        })
}

/// Returns the rest of a text that begins with a dot in any encoding.
fn after_dot(text: &str) -> Option<&str> {
    let dots = [".", "%2e", "%2E"];
    dots.iter().find_map(|dot| text.strip_prefix(dot))
}

/// Returns true for a path of the API that lacks `/v1`.
fn is_without_version(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    ["messages", "models", "files"].contains(&first)
}

/// Returns the response to a call for batches, with the `results_url` of this gateway.
async fn rewrite_batch(response: Response, from: &str, to: &str) -> Result<Response, GatewayError> {
    let (mut parts, body) = response.into_parts();
    let body = Limited::new(body, BATCH_BYTES).collect().await;
    let body = body.map_err(|_| {
        let message = "the response of the upstream broke off or was too long";
        GatewayError::new(StatusCode::BAD_GATEWAY, "api_error", message)
    })?;
    let body = body.to_bytes();
    let body = match results_url::rewrite(&body, from, to) {
        Some(new) => {
            parts.headers.insert(CONTENT_LENGTH, new.len().into());
            new
        }
        None => body,
    };
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// Answers any request that has no route of its own.
async fn forward(shared: &Shared, request: Request) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let languages = request.headers().get(ACCEPT_LANGUAGE).cloned();
    let mut response = match shared.answer(request).await {
        Ok(response) => response,
        Err(error) => error.into_response(&new_request_id()),
    };
    if !response.headers().contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&new_request_id())
    {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let messages = &shared.config.user_messages;
    if !messages.is_empty() && is_retried(response.status()) {
        response = user_message::add(messages, languages.as_ref(), response).await;
    }
    let (status, took) = (response.status().as_u16(), started.elapsed());
    tracing::debug!(%method, status, head_ms = millis(took), "request answered");
    response
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns an id for a request that the upstream has not named.
fn new_request_id() -> String {
    format!("req_tcg_{:016x}", fastrand::u64(..))
}

fn json(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Answers the probe of a client with the name and version of the gateway.
async fn root() -> Response {
    let text = concat!(
        "{\"name\":\"tower-claude\",\"version\":\"",
        env!("CARGO_PKG_VERSION"),
        "\"}"
    );
    json(StatusCode::OK, text)
}

/// Reports that the process runs.
async fn healthz() -> Response {
    json(StatusCode::OK, "{\"status\":\"ok\"}")
}

/// Reports whether the gateway takes new requests.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    if shared.is_ready.load(Ordering::Relaxed) {
        json(StatusCode::OK, "{\"status\":\"ready\"}")
    } else {
        json(StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"draining\"}")
    }
}

/// Returns the service for clients.
///
/// A request for the API skips the router, which would cost more than all else that the gateway
/// does with its head.
pub(crate) fn clients(
    shared: Arc<Shared>,
) -> impl Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone {
    let cors_origins = shared.config.cors_origins.clone();
    let own = health_routes().route("/", get(root));
    let own: Router = own.with_state(shared.clone());
    let service = service_fn(move |request: Request| {
        let (shared, own) = (shared.clone(), own.clone());
        // It is put into a box, because hyper keeps its place for the whole connection.
        async move {
            match request.uri().path() {
                "/" | "/healthz" | "/readyz" => own.oneshot(request).await,
                _ => Ok(forward(&shared, request).await),
            }
        }
    });
    option_layer(cors(&cors_origins)).layer(service)
}

/// Returns the layer that allows pages of these origins to use the gateway.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<_> = origins
        .iter()
        .filter_map(|origin| origin.parse().ok())
        .collect();
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().cloned())
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(Any)
        .max_age(Duration::from_secs(600));
    (!origins.is_empty()).then_some(layer)
}

/// Returns the routes of the admin address. Others can be merged into them.
pub(crate) fn admin_routes(shared: Arc<Shared>) -> Router {
    health_routes()
        .route("/metrics", get(metrics))
        .route("/dashboard", get(async || Dashboard::page()))
        .route("/dashboard/events", get(dashboard_events))
        .route("/plan", get(plan))
        .with_state(shared)
}

async fn dashboard_events(State(shared): State<Arc<Shared>>) -> Response {
    shared.dashboard.stream()
}

async fn plan(State(shared): State<Arc<Shared>>) -> Response {
    match shared.plans.get() {
        Some(plans) => plans.clone().answer().await,
        None => json(
            StatusCode::NOT_FOUND,
            "{\"status\":\"there is no event log\"}",
        ),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut response = Response::new(Body::from(shared.render_metrics()));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

fn health_routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
}
