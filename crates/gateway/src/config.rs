//! The configuration: its fields, how it is read, and what makes it invalid.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    time::Duration,
};

use http::{HeaderValue, Uri};
use serde::{Deserialize, Serialize};
use tower_claude::{Limits, Priority, wire::Tier};

use crate::{
    base_url::base_url,
    config_error::{ConfigError, ConfigErrors},
    config_text::{bytes, duration, optional_duration},
    connector,
    key_text::{self, KEY_PREFIX},
    log::LogConfig,
    secret::Secret,
    target_config::{self, PlatformName, TargetConfig},
    toml_reader::Document,
    user_message::UserMessageConfig,
    webhook::AlertsConfig,
};

/// The configuration of a gateway, as in a TOML file.
///
/// Unknown fields are errors. Durations are texts such as `"500ms"`, `"15s"`, `"10m"` or `"1h"`,
/// and sizes are texts such as `"64KiB"` or `"32MiB"`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Config {
    /// The address for clients. Default `127.0.0.1:8787`. Port 0 takes a free port.
    pub listen: SocketAddr,
    /// The address of the admin routes, such as `/healthz`. Default `127.0.0.1:8788`.
    pub admin_listen: SocketAddr,
    /// The base URL that clients use, for the `results_url` of batches. Default: the `host` header
    /// of each request, with the scheme in `x-forwarded-proto` or else `http`.
    pub public_url: Option<String>,
    /// The path before `/v1` that clients use, for example `/anthropic`. Default: none.
    pub path_prefix: String,
    /// If true, callers may use an API key of their own, which goes to the first upstream.
    /// Default: true if no upstream has a key.
    pub client_keys: Option<bool>,
    /// The origins whose pages may use this gateway from a browser, such as
    /// `https://app.example.com`, or `*` for all. Default: none, and requests with `OPTIONS` go
    /// upstream as any other.
    pub cors_origins: Vec<String>,
    /// The limits of connections and requests.
    pub server: ServerConfig,
    /// The settings of streams.
    pub stream: StreamConfig,
    /// The API endpoints. Default: one, `https://api.anthropic.com`, without a key.
    pub upstreams: Vec<UpstreamConfig>,
    /// The keys that this gateway accepts from its callers. Default: none.
    pub keys: Vec<KeyConfig>,
    /// Messages for end users in responses with errors. Default: none, and errors pass unchanged.
    pub user_messages: Vec<UserMessageConfig>,
    /// The receiver of alerts. Default: none, so that they are in the log only.
    pub alerts: AlertsConfig,
    /// The event log. Default: none.
    pub log: LogConfig,
}

/// The limits of connections and requests.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The greatest number of open connections of clients. Default 10,000. Further connections wait
    /// until one closes.
    pub max_connections: NonZeroU32,
    /// The time in which the headers of a request must arrive, from the start of the connection or
    /// the end of the previous request. Default 15 s. The connection is then closed.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// The greatest size of the headers of a request. Default 32 KiB, at least 8 KiB. A larger
    /// request is answered with 431.
    #[serde(with = "bytes")]
    pub header_bytes: usize,
    /// The greatest number of headers of a request. Default 100. More are answered with 431.
    pub header_count: NonZeroU32,
    /// The greatest size of a request body for Messages and token counting. Default 32 MiB. A
    /// larger request is answered with 413. Other bodies are streamed and have no limit.
    #[serde(with = "bytes")]
    pub body_bytes: usize,
    /// The greatest size of all request bodies in memory. Default 1 GiB, at least `body_bytes`. A
    /// request beyond it is answered with 529.
    #[serde(with = "bytes")]
    pub buffered_bytes: usize,
    /// The longest pause of the client within a request body. Default 30 s. The request is then
    /// answered with 408.
    #[serde(with = "duration")]
    pub body_timeout: Duration,
    /// The time that open requests have to end after SIGTERM. Default 10 min. Streams then end with
    /// an `error` event.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
}

/// The settings of streams of server-sent events.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct StreamConfig {
    /// The silence after which the gateway sends a `ping` event, between two events only. Default
    /// 15 s, because clients report a silence of 20 s. Zero sends none.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// The size of an SSE comment that each of these pings is padded with, for proxies that buffer
    /// short writes. Default 0.
    #[serde(with = "bytes")]
    pub heartbeat_padding: usize,
    /// The silence of the upstream after which a stream ends with an `error` event. Default 300 s.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// The time after which a request for a stream gets the head of a stream and `ping` events,
    /// while it waits for a limit or for the upstream. A later failure is an `error` event, which
    /// SDKs do not retry. Default: none. For clients and proxies that give up waiting for a head.
    #[serde(with = "optional_duration")]
    pub early_head: Option<Duration>,
}

/// An API endpoint, with the layers for its requests.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct UpstreamConfig {
    /// The name, for `keys` and logs. Default `anthropic`. Names are unique.
    pub name: String,
    /// The base URL, without `/v1`. Default `https://api.anthropic.com`.
    pub url: String,
    /// The key for requests of callers with a gateway key. Default: none, so that callers use their
    /// own. Written as a text, as `"${NAME}"`, as `{ env = "NAME" }` or as `{ file = "PATH" }`.
    pub key: Option<Secret>,
    /// The header that carries the key. Default `x-api-key`.
    pub auth: Auth,
    /// True to use the proxy in `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY`, unless `NO_PROXY` or a
    /// loopback address excludes the host. Default true.
    pub proxy: bool,
    /// A file with certificates in PEM that are trusted besides Mozilla's list, for a proxy that
    /// opens TLS connections, or an upstream with a certificate of a company. Default: none.
    pub ca_file: Option<PathBuf>,
    /// The models to ask, in this order, while the requested model is down. Default: none.
    pub fallback: Vec<String>,
    /// The time for which responses to requests with the header `x-tower-claude-cache: true` are
    /// kept. Default: none, which switches the cache off.
    #[serde(with = "optional_duration")]
    pub cache: Option<Duration>,
    /// True to mark prompts for the prompt cache of the API where that pays. Bodies with
    /// breakpoints of the client stay as they are. Default false.
    pub prompt_cache: bool,
    /// The longest wait for a rate limit. Default 30 s. A request that would wait longer is
    /// answered with 429.
    #[serde(with = "duration")]
    pub max_wait: Duration,
    /// The time for a whole call with all its attempts. Default: none.
    #[serde(with = "optional_duration")]
    pub deadline: Option<Duration>,
    /// The greatest number of attempts for a request. Default 5.
    pub max_attempts: NonZeroU32,
    /// The limits that are known before the first response. Default: none, so that the limits are
    /// learned from the headers of responses.
    pub limits: LimitsConfig,
    /// The clouds, regions and accounts that serve the models. Each request for Messages or token
    /// counting goes to one of them, by price, prompt cache and waiting time. Other paths need the
    /// target `claude-api`. Default: none, so that all requests go to `url`.
    pub targets: Vec<TargetConfig>,
}

/// The header that carries an upstream key.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Auth {
    /// `x-api-key: KEY`.
    #[default]
    XApiKey,
    /// `authorization: Bearer KEY`.
    Bearer,
}

/// The rate limits of each group of models at an upstream. Each is absent by default.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// The usage tier: `start`, `build` or `scale`.
    pub tier: Option<TierName>,
    /// Requests per minute.
    pub requests_per_minute: Option<NonZeroU64>,
    /// Input tokens per minute.
    pub input_tokens_per_minute: Option<NonZeroU64>,
    /// Output tokens per minute.
    pub output_tokens_per_minute: Option<NonZeroU64>,
    /// Requests in flight.
    pub concurrency: Option<NonZeroU32>,
}

/// The name of a usage tier.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TierName {
    /// The tier Start.
    Start,
    /// The tier Build.
    Build,
    /// The tier Scale.
    Scale,
}

impl LimitsConfig {
    /// Returns the limits for the limiter.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = match self.tier {
            None => Limits::new(),
            Some(TierName::Start) => Limits::tier(Tier::Start),
            Some(TierName::Build) => Limits::tier(Tier::Build),
            Some(TierName::Scale) => Limits::tier(Tier::Scale),
        };
        if let Some(limit) = self.requests_per_minute {
            limits = limits.with_requests_per_minute(limit);
        }
        if let Some(limit) = self.input_tokens_per_minute {
            limits = limits.with_input_tokens_per_minute(limit);
        }
        if let Some(limit) = self.output_tokens_per_minute {
            limits = limits.with_output_tokens_per_minute(limit);
        }
        if let Some(limit) = self.concurrency {
            limits = limits.with_concurrency(limit);
        }
        limits
    }
}

/// A key that this gateway accepts from its callers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct KeyConfig {
    /// The name, for logs. Names are unique.
    pub name: String,
    /// The BLAKE3 hash of the key, in 64 hexadecimal digits. `tower-claude key` makes both.
    pub hash: String,
    /// The name of the upstream. Default: the first.
    pub upstream: Option<String>,
    /// The tenant, among which the limiter shares fairly. Default: the name.
    pub tenant: Option<String>,
    /// The priority of all requests: `interactive`, `normal` or `batch`. Default `normal`.
    pub priority: PriorityName,
    /// The name of the kind of work, such as `nightly`. Limiters estimate the tokens of each
    /// workload separately, and the event log has it as `tag`. Default: none.
    pub workload: Option<String>,
    /// The requests per minute of this key, on all paths. Default: no limit. A request beyond it is
    /// answered with 429.
    pub requests_per_minute: Option<NonZeroU32>,
}

/// The name of a priority.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PriorityName {
    /// Work that a person waits for.
    Interactive,
    /// Any other work.
    #[default]
    Normal,
    /// Background work.
    Batch,
}

impl From<PriorityName> for Priority {
    fn from(name: PriorityName) -> Self {
        match name {
            PriorityName::Interactive => Self::Interactive,
            PriorityName::Normal => Self::Normal,
            PriorityName::Batch => Self::Batch,
        }
    }
}

const fn non_zero(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8787).into(),
            admin_listen: (Ipv4Addr::LOCALHOST, 8788).into(),
            public_url: None,
            path_prefix: String::new(),
            client_keys: None,
            cors_origins: Vec::new(),
            server: ServerConfig::default(),
            stream: StreamConfig::default(),
            upstreams: vec![UpstreamConfig::default()],
            keys: Vec::new(),
            user_messages: Vec::new(),
            alerts: AlertsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_connections: non_zero(10_000),
            header_timeout: Duration::from_secs(15),
            header_bytes: 32 << 10,
            header_count: non_zero(100),
            body_bytes: 32 << 20,
            buffered_bytes: 1 << 30,
            body_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(600),
        }
    }
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            heartbeat_padding: 0,
            idle_timeout: Duration::from_secs(300),
            early_head: None,
        }
    }
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            name: "anthropic".to_owned(),
            url: "https://api.anthropic.com".to_owned(),
            key: None,
            auth: Auth::default(),
            proxy: true,
            ca_file: None,
            fallback: Vec::new(),
            cache: None,
            prompt_cache: false,
            max_wait: Duration::from_secs(30),
            deadline: None,
            max_attempts: non_zero(5),
            limits: LimitsConfig::default(),
            targets: Vec::new(),
        }
    }
}

impl Config {
    /// Reads a configuration from the text of a TOML file. Secrets are read from the environment
    /// and from files.
    ///
    /// # Errors
    /// Returns every error with its line and field: TOML that cannot be parsed, an unknown field, a
    /// value of another type or out of range, a secret that is not there, and fields that exclude
    /// each other.
    pub fn from_toml(text: &str) -> Result<Self, ConfigErrors> {
        let (mut document, mut errors) = match Document::parse(text) {
            Ok(document) => (document, Vec::new()),
            Err(error) => return Err(ConfigErrors(vec![error])),
        };
        let config: Option<Self> = document.read(&mut errors);
        if let Some(config) = &config {
            config.check(&mut |field, message| {
                // A field that could not be read was replaced by its default.
                if !errors.iter().any(|error| error.field == field) {
                    let line = document.line_of(&field);
                    errors.push(ConfigError {
                        line,
                        field,
                        message,
                    });
                }
            });
        }
        errors.sort_by_key(|error| error.line.unwrap_or(usize::MAX));
        match config {
            Some(config) if errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(errors)),
        }
    }

    /// Checks a configuration that was made in code.
    ///
    /// # Errors
    /// Returns every error that [`from_toml`](Self::from_toml) would, without lines.
    pub fn validate(&self) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        self.check(&mut |field, message| {
            errors.push(ConfigError {
                line: None,
                field,
                message,
            });
        });
        if errors.is_empty() {
            return Ok(());
        }
        Err(ConfigErrors(errors))
    }

    /// Returns the effective configuration as TOML, with all defaults and with secrets masked.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // Every field has a form in TOML, so that the text of an error is never seen.
        toml::to_string(self).unwrap_or_else(|error| format!("# {error}\n"))
    }

    /// Returns true if callers may use an API key of their own.
    pub(crate) fn accepts_client_keys(&self) -> bool {
        let has_key = self.upstreams.iter().any(UpstreamConfig::has_credential);
        self.client_keys.unwrap_or(!has_key)
    }

    fn check(&self, report: &mut dyn FnMut(String, String)) {
        if self.upstreams.is_empty() {
            report("upstreams".into(), "at least one is required".into());
        }
        if !self.path_prefix.is_empty()
            && (!self.path_prefix.starts_with('/') || self.path_prefix.ends_with('/'))
        {
            let message = format!(
                "{:?} must begin with a slash and not end with one",
                self.path_prefix
            );
            report("path_prefix".into(), message);
        }
        if let Some(url) = &self.public_url
            && let Err(reason) = base_url(url)
        {
            report("public_url".into(), format!("{url:?} {reason}"));
        }
        for (index, origin) in self.cors_origins.iter().enumerate() {
            let uri = origin.parse::<Uri>().ok();
            let is_origin = uri.is_some_and(|uri| {
                uri.scheme().is_some() && uri.path() == "/" && !origin.ends_with('/')
            });
            if !is_origin && origin != "*" {
                let message = format!("{origin:?} is not an origin such as https://example.com");
                report(format!("cors_origins[{index}]"), message);
            }
        }
        self.server.check(report);
        if self.stream.idle_timeout.is_zero() {
            report("stream.idle_timeout".into(), "must not be zero".into());
        }
        let mut names = HashSet::new();
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let field = |name: &str| format!("upstreams[{index}].{name}");
            if upstream.name.is_empty() || !names.insert(&upstream.name) {
                let message = format!("{:?} is empty or not unique", upstream.name);
                report(field("name"), message);
            }
            upstream.check(&field, report);
        }
        self.check_keys(report);
        let mut languages = HashSet::new();
        for (index, message) in self.user_messages.iter().enumerate() {
            let mut of = |name: &str, reason| {
                report(format!("user_messages[{index}].{name}"), reason);
            };
            message.check(&mut of);
            if !languages.insert(message.language.to_ascii_lowercase()) {
                of("language", format!("{:?} is not unique", message.language));
            }
        }
        self.alerts.check(report);
        self.log.check(report);
        let upstream_has_key = self.upstreams.iter().any(UpstreamConfig::has_credential);
        if upstream_has_key && self.keys.is_empty() && !self.listen.ip().is_loopback() {
            let message = format!(
                "{} is not a loopback address, and without `keys` everybody who reaches it could \
                 use the keys of the upstreams",
                self.listen
            );
            report("listen".into(), message);
        }
    }

    fn check_keys(&self, report: &mut dyn FnMut(String, String)) {
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        for (index, key) in self.keys.iter().enumerate() {
            let field = |name: &str| format!("keys[{index}].{name}");
            if key.name.is_empty() || !names.insert(&key.name) {
                report(
                    field("name"),
                    format!("{:?} is empty or not unique", key.name),
                );
            }
            match key_text::parse_hash(&key.hash) {
                None => report(
                    field("hash"),
                    "must be the BLAKE3 hash of a key in 64 hexadecimal digits".into(),
                ),
                Some(hash) if !hashes.insert(hash) => {
                    report(field("hash"), "another key has the same hash".into());
                }
                Some(_) => {}
            }
            let wanted = key.upstream.as_ref();
            let found = match wanted {
                None => self.upstreams.first(),
                Some(name) => self.upstreams.iter().find(|entry| entry.name == *name),
            };
            match (found, wanted) {
                (None, Some(name)) => {
                    report(field("upstream"), format!("no upstream is named {name:?}"));
                }
                (Some(upstream), _) if !upstream.has_credential() => {
                    let message = format!(
                        "the upstream {:?} has no key, and a gateway key never goes upstream",
                        upstream.name
                    );
                    report(field("upstream"), message);
                }
                _ => {}
            }
        }
    }
}

impl ServerConfig {
    fn check(&self, report: &mut dyn FnMut(String, String)) {
        for (name, time) in [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
        ] {
            if time.is_zero() {
                report(format!("server.{name}"), "must not be zero".into());
            }
        }
        if self.header_bytes < 8 << 10 {
            let message = format!("{} bytes are less than 8KiB", self.header_bytes);
            report("server.header_bytes".into(), message);
        }
        if self.buffered_bytes < self.body_bytes || self.buffered_bytes > MOST_BUFFERED {
            let message = format!(
                "{} bytes are less than body_bytes ({}) or more than 1TiB",
                self.buffered_bytes, self.body_bytes
            );
            report("server.buffered_bytes".into(), message);
        }
    }
}

/// The greatest value of `buffered_bytes`, within the range of tokio's semaphore.
const MOST_BUFFERED: usize = usize::MAX >> 4;

impl UpstreamConfig {
    /// Returns true if requests can be sent with a credential of this configuration.
    pub(crate) fn has_credential(&self) -> bool {
        self.key.is_some() || !self.targets.is_empty()
    }

    /// Returns true if the Claude API is one of the targets, or all of them.
    pub(crate) fn has_claude_api(&self) -> bool {
        let mut targets = self.targets.iter();
        self.targets.is_empty() || targets.any(|it| it.platform == PlatformName::ClaudeApi)
    }

    fn check(&self, field: &dyn Fn(&str) -> String, report: &mut dyn FnMut(String, String)) {
        let uri = match base_url(&self.url) {
            Ok(uri) => uri,
            Err(reason) => return report(field("url"), format!("{:?} {reason}", self.url)),
        };
        if let Err(reason) = connector::roots(self.ca_file.as_deref()) {
            report(field("ca_file"), reason);
        }
        target_config::check(&self.targets, &self.url, &mut |name, message| {
            report(field(&name), message);
        });
        let Some(key) = &self.key else {
            if !self.targets.is_empty() && self.has_claude_api() {
                report(field("key"), "is required for the target claude-api".into());
            }
            return;
        };
        if HeaderValue::from_str(key.expose()).is_err() || key.expose().is_empty() {
            report(field("key"), "is not a valid value of a header".into());
        }
        if key.expose().starts_with(KEY_PREFIX) {
            let message = format!("a gateway key ({KEY_PREFIX}…) never goes upstream");
            report(field("key"), message);
        }
        if key_text::is_anthropic_key(key.expose().as_bytes())
            && !key_text::may_receive_anthropic_key(&uri)
        {
            let message = format!(
                "a key of Anthropic goes to Anthropic's hosts over https only, and not to {}",
                self.url
            );
            report(field("key"), message);
        }
    }
}
