//! Upstreams: the layers and the client for the requests to one API endpoint.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header::AUTHORIZATION};
use hyper_util::client::legacy;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, layer::util::Identity, util::BoxCloneSyncService};
use tower_claude::{
    CacheLayer, LocalLimiter, RequestBody, RetryLayer, SpreadLayer, TokenBucketLayer,
    cloud::CloudLayer, limiter::ScopeSnapshot, recommended, retry::Timeouts, spread::Residency,
    wire::cloud::Target,
};

use crate::{
    base_url::base_url,
    config::{Auth, UpstreamConfig},
    connector::{Client, client, roots},
    credentials,
    headers::API_KEY,
    key_text,
    target_config::PlatformName,
    telemetry::UpstreamObserver,
};

/// The header by which a caller marks a request whose response may be kept.
const CACHEABLE: HeaderName = HeaderName::from_static("x-tower-claude-cache");

/// The layers around a client. They have a long type.
type Stack = BoxCloneSyncService<Request<RequestBody>, Response<Body>, legacy::Error>;

/// A function that gets the headers of each request to an upstream, just before it is sent.
pub type OnSend = Arc<dyn Fn(&mut HeaderMap) + Send + Sync>;

/// An API endpoint.
pub(crate) struct Upstream {
    config: UpstreamConfig,
    url: Uri,
    credential: Option<(HeaderName, HeaderValue)>,
    client: Client,
    on_send: Option<OnSend>,
    layers: Layers,
    /// See [`own_targets`](Self::own_targets).
    own_targets: Option<Residency>,
}

/// The layers around the client, and their state.
#[derive(Clone)]
struct Layers {
    stack: Stack,
    limiter: LocalLimiter,
    observer: UpstreamObserver,
}

/// The error of an upstream that cannot be made.
#[derive(Debug)]
pub(crate) enum UpstreamError {
    /// The URL or the key is not valid, which the check of the configuration finds first.
    Config(&'static str),
    Tls(rustls::Error),
}

impl Upstream {
    /// Creates an upstream. `idle` is the longest silence within a response.
    pub(crate) fn new(
        config: &UpstreamConfig,
        idle: Duration,
        observer: UpstreamObserver,
        on_send: Option<OnSend>,
    ) -> Result<Self, UpstreamError> {
        let roots = roots(config.ca_file.as_deref());
        let roots = roots.map_err(|_| UpstreamError::Config("the ca_file is not valid"))?;
        let client = client(config.proxy, roots).map_err(UpstreamError::Tls)?;
        let layers = layers(config, idle, client.clone(), on_send.clone(), observer)
            .map_err(UpstreamError::Config)?;
        Self::with(config, client, on_send, layers).map_err(UpstreamError::Config)
    }

    /// Creates the upstream with another key and other limits. The connections are kept, and with
    /// the same limits also what the layers have learned.
    pub(crate) fn reloaded(
        &self,
        config: &UpstreamConfig,
        idle: Duration,
    ) -> Result<Self, UpstreamError> {
        let (client, on_send) = (self.client.clone(), self.on_send.clone());
        let is_same = self.config.limits == config.limits
            && self.config.max_wait == config.max_wait
            && self.config.targets == config.targets;
        let layers = if is_same {
            self.layers.clone()
        } else {
            let observer = self.layers.observer.clone();
            layers(config, idle, client.clone(), on_send.clone(), observer)
                .map_err(UpstreamError::Config)?
        };
        Self::with(config, client, on_send, layers).map_err(UpstreamError::Config)
    }

    fn with(
        config: &UpstreamConfig,
        client: Client,
        on_send: Option<OnSend>,
        layers: Layers,
    ) -> Result<Self, &'static str> {
        let credential = config.key.as_ref().map(|key| match config.auth {
            Auth::XApiKey => (API_KEY, key.expose().to_owned()),
            Auth::Bearer => (AUTHORIZATION, format!("Bearer {}", key.expose())),
        });
        let credential = match credential {
            None => None,
            Some((name, value)) => {
                let value = HeaderValue::from_str(&value);
                let mut value = value.map_err(|_| "the key is not a valid value of a header")?;
                value.set_sensitive(true);
                Some((name, value))
            }
        };
        Ok(Self {
            config: config.clone(),
            url: base_url(&config.url)?,
            credential,
            client,
            on_send,
            layers,
            own_targets: own_targets(config)?,
        })
    }

    /// Records the state of the layers as metrics.
    pub(crate) fn record_metrics(&self) {
        self.layers.observer.record(&self.layers.limiter);
    }

    /// Returns the scopes of the limiter with their label.
    pub(crate) fn scopes(&self) -> Vec<(Arc<str>, ScopeSnapshot)> {
        self.layers.observer.scopes(&self.layers.limiter)
    }

    pub(crate) fn evaluate_alerts(&self, now: Instant) {
        self.layers.observer.evaluate_alerts(now);
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns true if requests can be sent with credentials of the upstream.
    pub(crate) fn has_credential(&self) -> bool {
        self.config.has_credential()
    }

    /// Returns true if the Claude API itself is a target.
    pub(crate) fn has_claude_api(&self) -> bool {
        self.config.has_claude_api()
    }

    /// Returns the targets for a caller with a credential of its own: the Claude API. `None` if the
    /// upstream has no targets.
    pub(crate) const fn own_targets(&self) -> Option<&Residency> {
        self.own_targets.as_ref()
    }

    /// Adds the key of the upstream.
    pub(crate) fn authorize(&self, headers: &mut HeaderMap) {
        if let Some((name, value)) = &self.credential {
            headers.insert(name, value.clone());
        }
    }

    /// Returns true if a caller's own credential may be sent to this upstream.
    pub(crate) fn may_receive(&self, credential: &[u8]) -> bool {
        !key_text::is_anthropic_key(credential) || key_text::may_receive_anthropic_key(&self.url)
    }

    /// Returns the path of the base URL, without a slash at its end.
    pub(crate) fn base_path(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }

    /// Returns the URL of a path with its query.
    pub(crate) fn url_of(&self, path: &str, query: Option<&str>) -> Result<Uri, http::Error> {
        let (mark, query) = query.map_or(("", ""), |query| ("?", query));
        let target = [self.base_path(), path, mark, query].concat();
        let mut parts = self.url.clone().into_parts();
        parts.path_and_query = Some(target.try_into()?);
        Ok(Uri::from_parts(parts)?)
    }

    /// Sends a request through the layers.
    pub(crate) async fn call(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Body>, legacy::Error> {
        self.layers.stack.clone().oneshot(request).await
    }

    /// Sends a request past the layers, which neither read nor count it.
    pub(crate) async fn pass(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Body>, legacy::Error> {
        if let Some(on_send) = &self.on_send {
            on_send(request.headers_mut());
        }
        Ok(self.client.request(request).await?.map(Body::new))
    }
}

/// Creates the layers around a client. Their state lives as long as the upstream.
fn layers(
    config: &UpstreamConfig,
    idle: Duration,
    client: Client,
    on_send: Option<OnSend>,
    observer: UpstreamObserver,
) -> Result<Layers, &'static str> {
    let client = client.map_request(move |mut request: Request<RequestBody>| {
        if let Some(on_send) = &on_send {
            on_send(request.headers_mut());
        }
        request
    });
    let (spread, cloud) = targets(config)?;
    let limits = config.limits.limits();
    let timeouts = Timeouts::new().with_idle(Some(idle));
    let retry = RetryLayer::new()
        .with_max_attempts(config.max_attempts)
        .with_timeouts(timeouts);
    let mut layers = recommended()
        .with_bucket(TokenBucketLayer::new(limits).with_max_wait(config.max_wait))
        .with_retry(retry)
        .with_fallback(&config.fallback);
    if let Some(deadline) = config.deadline {
        layers = layers.with_deadline(deadline);
    }
    if let Some(time) = config.cache {
        layers = layers.with_cache(CacheLayer::new(time).with_header(CACHEABLE));
    }
    if config.prompt_cache {
        layers = layers.with_prompt_cache();
    }
    if let Some(spread) = spread {
        layers = layers.with_spread(spread);
    }
    // The observer comes after the layers that it observes.
    let layers = layers.with_observer(observer.clone());
    let limiter = layers.bucket().limiter();
    let is_cloud = !config.targets.is_empty();
    let stack = match (config.cache, is_cloud) {
        (Some(_), false) => boxed(layers.layer(client)),
        (Some(_), true) => boxed(layers.layer(cloud.layer(client))),
        (None, false) => boxed(layers.with_cache(Identity::new()).layer(client)),
        (None, true) => boxed(
            layers
                .with_cache(Identity::new())
                .layer(cloud.layer(client)),
        ),
    };
    Ok(Layers {
        stack,
        limiter,
        observer,
    })
}

/// Returns the targets for a caller with a credential of its own.
fn own_targets(config: &UpstreamConfig) -> Result<Option<Residency>, &'static str> {
    let mut names = Vec::new();
    for entry in &config.targets {
        if entry.platform == PlatformName::ClaudeApi {
            let target = entry.target(&config.url);
            let target = target.map_err(|_| "a target is not valid")?;
            names.push(target.name().to_owned());
        }
    }
    Ok((!config.targets.is_empty()).then(|| Residency::new(names)))
}

/// Creates the layers for the targets of an upstream.
fn targets(config: &UpstreamConfig) -> Result<(Option<SpreadLayer>, CloudLayer), &'static str> {
    let mut cloud = CloudLayer::new();
    let mut all = Vec::new();
    for entry in &config.targets {
        let target = entry.target(&config.url);
        let target = target.map_err(|_| "a target is not valid")?;
        cloud = match credentials::authorize(entry, &target)? {
            Some(credentials) => cloud.with_target(target.clone(), credentials),
            None => cloud.with_open_target(target.clone()),
        };
        all.push(entry.spread_target(target));
    }
    let checks = cloud.clone();
    let check =
        move |request: &Request<RequestBody>, target: &Target| checks.check(request, target);
    let spread = SpreadLayer::new(all).with_check(check);
    let spread = (!config.targets.is_empty()).then_some(spread);
    Ok((spread, cloud))
}

fn boxed<S, B>(service: S) -> Stack
where
    S: tower::Service<Request<RequestBody>, Response = Response<B>, Error = legacy::Error>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    BoxCloneSyncService::new(service.map_response(|response| response.map(Body::new)))
}
