//! The gateway as a whole: start, reload and end.

use std::{
    convert::Infallible,
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, body::Body};
use http::{Request, Response};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::Instant,
};
use tower_claude::event_log::EventLogObserver;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    client_service::ClientService,
    config::{Config, KeyConfig},
    config_error::ConfigErrors,
    dashboard::{Dashboard, Incidents},
    keys::KeyTable,
    log::Log,
    plan::{Plans, RenderPlan},
    router::{self, Routes, Shared},
    server,
    telemetry::{Recorder, UpstreamObserver},
    upstream::{OnSend, Upstream, UpstreamError},
};

/// A gateway whose addresses are open.
pub struct Gateway {
    shared: Arc<Shared>,
    listener: TcpListener,
    addr: SocketAddr,
    admin_listener: TcpListener,
    admin_addr: SocketAddr,
    clients: ClientService,
    admin_routes: Router,
    log: Option<Log>,
}

/// A handle of a running gateway. Clones refer to the same gateway.
#[derive(Clone)]
pub struct GatewayHandle {
    shared: Arc<Shared>,
    log: Option<EventLogObserver>,
}

/// The error of a gateway that cannot start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is not valid.
    Config(ConfigErrors),
    /// An address cannot be opened.
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The error of the socket.
        error: io::Error,
    },
    /// An upstream cannot be used.
    Upstream {
        /// The name of the upstream.
        name: String,
        /// The reason.
        reason: String,
    },
    /// TLS cannot be used for the webhook of alerts.
    Webhook {
        /// The reason.
        reason: String,
    },
    /// The file of the event log cannot be opened.
    Log {
        /// The path of the file.
        path: PathBuf,
        /// The error of the file.
        error: io::Error,
    },
    /// The metrics cannot be recorded.
    Metrics {
        /// The reason.
        reason: String,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => errors.fmt(f),
            Self::Bind { addr, error } => write!(f, "{addr} cannot be opened: {error}"),
            Self::Upstream { name, reason } => write!(f, "upstream {name:?}: {reason}"),
            Self::Webhook { reason } => write!(f, "the webhook cannot be used: {reason}"),
            Self::Log { path, error } => {
                write!(
                    f,
                    "the event log {} cannot be opened: {error}",
                    path.display()
                )
            }
            Self::Metrics { reason } => write!(f, "the metrics cannot be recorded: {reason}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(errors) => Some(errors),
            Self::Bind { error, .. } | Self::Log { error, .. } => Some(error),
            Self::Upstream { .. } | Self::Webhook { .. } | Self::Metrics { .. } => None,
        }
    }
}

fn upstream_error(name: &str, error: &UpstreamError) -> StartError {
    StartError::Upstream {
        name: name.to_owned(),
        reason: match error {
            UpstreamError::Config(reason) => (*reason).to_owned(),
            UpstreamError::Tls(error) => error.to_string(),
        },
    }
}

async fn open(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Bind { addr, error };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl Gateway {
    /// Opens the addresses of a configuration. Requests are answered once [`run`](Self::run) is
    /// polled. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// Returns an error if the configuration is not valid, or if an address, an upstream, the
    /// webhook, the event log or the metrics cannot be used.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_with(config, None).await
    }

    /// Opens the addresses as [`bind`](Self::bind) does. `on_send` gets the headers of each request
    /// to an upstream, just before it is sent and in the span of its attempt, for example to set
    /// `traceparent`.
    ///
    /// # Errors
    /// Returns an error if the configuration is not valid, or if an address, an upstream, the
    /// webhook, the event log or the metrics cannot be used.
    pub async fn bind_with(config: Config, on_send: Option<OnSend>) -> Result<Self, StartError> {
        config.validate().map_err(StartError::Config)?;
        let idle = config.stream.idle_timeout;
        let recorder = Recorder::new().map_err(|error| StartError::Metrics {
            reason: error.to_string(),
        })?;
        let incidents = Incidents::default();
        let webhook = config.alerts.start().map_err(|error| StartError::Webhook {
            reason: error.to_string(),
        })?;
        let log = config.log.start().map_err(|error| StartError::Log {
            path: config.log.path.clone().unwrap_or_default(),
            error,
        })?;
        let observer = log.as_ref().map(|log| &log.observer);
        if let Some(observer) = observer {
            name_workloads(observer, &config.keys);
        }
        let mut upstreams = Vec::with_capacity(config.upstreams.len());
        for upstream in &config.upstreams {
            // The scopes of a single upstream need no name.
            let name = (config.upstreams.len() > 1).then_some(&*upstream.name);
            let webhook = webhook.as_ref();
            let observer = UpstreamObserver::new(&recorder, &incidents, webhook, observer, name);
            let made = Upstream::new(upstream, idle, observer, on_send.clone());
            let made = made.map_err(|error| upstream_error(&upstream.name, &error))?;
            upstreams.push(Arc::new(made));
        }
        let (listener, addr) = open(config.listen).await?;
        let (admin_listener, admin_addr) = open(config.admin_listen).await?;
        let routes = Routes {
            keys: KeyTable::new(&config, None, Instant::now()),
            config: config.clone(),
            upstreams,
        };
        let shared = Arc::new(Shared {
            routes: RwLock::new(Arc::new(routes)),
            memory: Arc::new(Semaphore::new(config.server.buffered_bytes)),
            is_ready: AtomicBool::new(true),
            cut: watch::Sender::new(false),
            metrics: recorder.handle(),
            dashboard: Dashboard::new(incidents),
            plans: OnceLock::new(),
            config,
        });
        Ok(Self {
            clients: ClientService::new(router::clients(shared.clone())),
            admin_routes: router::admin_routes(shared.clone()),
            shared,
            listener,
            addr,
            admin_listener,
            admin_addr,
            log,
        })
    }

    /// Returns the address for clients.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address of the admin routes.
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Adds routes to the admin address. They must not repeat its own: `/healthz`, `/readyz`,
    /// `/metrics`, `/dashboard`, `/dashboard/events` and `/plan`.
    #[must_use]
    pub fn with_admin_routes(mut self, routes: Router) -> Self {
        self.admin_routes = self.admin_routes.merge(routes);
        self
    }

    /// Sets the function that makes the plan of the last 24 hours of the event log, for the page
    /// `/plan` of the admin address. Without it, or without an event log, there is no such page.
    ///
    /// It runs in a thread for blocking work, at most once at a time, and its result is shown for a
    /// minute.
    #[must_use]
    pub fn with_plan(self, render: RenderPlan) -> Self {
        if let Some(log) = self.shared.config.log.settings() {
            let _ = self.shared.plans.set(Arc::new(Plans::new(log, render)));
        }
        self
    }

    /// Adds a layer around the service for clients. It sees all requests first and all responses
    /// last.
    #[must_use]
    pub fn with_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<ClientService>,
        L::Service: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
    {
        self.clients = ClientService::new(layer.layer(self.clients));
        self
    }

    /// Returns a handle for changes while the gateway runs.
    #[must_use]
    pub fn handle(&self) -> GatewayHandle {
        GatewayHandle {
            shared: self.shared.clone(),
            log: self.log.as_ref().map(|log| log.observer.clone()),
        }
    }

    /// Serves requests until `shutdown` completes, and then until the open requests have ended.
    ///
    /// After `shutdown`, no connection is accepted, `/readyz` answers with 503 at the admin
    /// address, and each connection closes after its current response. When `drain_timeout` has
    /// passed, streams end with an `error` event and all other connections are closed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let draining = watch::Sender::new(false);
        let end_of_admin = watch::Sender::new(false);
        let config = &self.shared.config.server;
        let clients = server::accept(
            self.listener,
            self.clients,
            config.clone(),
            draining.subscribe(),
        );
        let admin = server::accept(
            self.admin_listener,
            self.admin_routes,
            config.clone(),
            end_of_admin.subscribe(),
        );
        let clients = async {
            let connections = clients.await;
            server::drain(connections, config.drain_timeout, &self.shared.cut).await;
            end_of_admin.send_replace(true);
        };
        let signal = async {
            shutdown.await;
            tracing::info!("drain begins");
            self.shared.is_ready.store(false, Ordering::Relaxed);
            draining.send_replace(true);
        };
        tokio::select! {
            _ = async { tokio::join!(clients, admin, signal) } => {}
            () = self.shared.keep_telemetry() => {}
        }
        if let Some(log) = self.log {
            log.end().await;
        }
        tracing::info!("drain ended");
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("addr", &self.addr)
            .field("admin_addr", &self.admin_addr)
            .finish_non_exhaustive()
    }
}

impl GatewayHandle {
    /// Takes over the keys and limits of another configuration: `keys`, `client_keys`, and of each
    /// upstream `key`, `limits`, `max_wait` and `targets`. Open requests go on unchanged.
    ///
    /// A key with the same hash keeps the state of its quota. An upstream whose limits or targets
    /// change starts to learn anew.
    ///
    /// Returns true if other fields differ as well, which needs a restart.
    ///
    /// # Errors
    /// Returns the errors of the new keys, limits and targets. The old ones then stay.
    pub fn reload(&self, new: &Config) -> Result<bool, StartError> {
        let old = self.shared.routes();
        let mut config = old.config.clone();
        config.keys.clone_from(&new.keys);
        config.client_keys = new.client_keys;
        for upstream in &mut config.upstreams {
            let found = new
                .upstreams
                .iter()
                .find(|entry| entry.name == upstream.name);
            if let Some(found) = found {
                upstream.key.clone_from(&found.key);
                upstream.limits.clone_from(&found.limits);
                upstream.max_wait = found.max_wait;
                upstream.targets.clone_from(&found.targets);
            }
        }
        config.validate().map_err(StartError::Config)?;
        let idle = config.stream.idle_timeout;
        let mut upstreams = Vec::with_capacity(config.upstreams.len());
        for (upstream, running) in config.upstreams.iter().zip(&old.upstreams) {
            let made = running.reloaded(upstream, idle);
            let made = made.map_err(|error| upstream_error(&upstream.name, &error))?;
            upstreams.push(Arc::new(made));
        }
        if let Some(log) = &self.log {
            name_workloads(log, &config.keys);
        }
        let needs_restart = config.to_toml() != new.to_toml();
        let routes = Routes {
            keys: KeyTable::new(&config, Some(&old.keys), Instant::now()),
            config,
            upstreams,
        };
        let mut current = self
            .shared
            .routes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(routes);
        Ok(needs_restart)
    }
}

impl fmt::Debug for GatewayHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayHandle").finish_non_exhaustive()
    }
}

/// Registers the names of the workloads of keys.
fn name_workloads(log: &EventLogObserver, keys: &[KeyConfig]) {
    for name in keys.iter().filter_map(|key| key.workload.as_deref()) {
        log.name_workload(name);
    }
}
