//! `tower-claude serve`.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;
use tower_claude_gateway::{Config, GatewayHandle};

use crate::{CommandError, demo::Demo, failed, otlp::Traces, planner, print_line};

/// The options of `tower-claude serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration in TOML. Without it, callers use their own keys for api.anthropic.com.
    #[arg(long, value_name = "FILE", conflicts_with = "demo")]
    config: Option<PathBuf>,
    /// Serves an embedded fake API with some load and an incident. Needs neither a key nor a file.
    #[arg(long, conflicts_with = "check")]
    demo: bool,
    /// Prints the effective configuration with secrets masked, or all of its errors, and ends.
    #[arg(long)]
    check: bool,
    /// The address for clients, in place of the configured one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The address of the admin routes, in place of the configured one.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

impl Serve {
    /// Serves until the process gets a signal to end.
    ///
    /// # Errors
    /// Returns an error if the configuration is not valid or an address cannot be opened.
    pub(crate) async fn run(self, traces: Traces) -> Result<(), CommandError> {
        let demo = match self.demo {
            true => Some(Demo::start().await?),
            false => None,
        };
        let config = match &demo {
            Some(demo) => self.with_address(demo.config()?),
            None => self.read()?,
        };
        if self.check {
            config.validate().map_err(failed)?;
            print_line(config.to_toml().trim_end());
            return Ok(());
        }
        let has_log = config.log.path.is_some();
        let gateway = traces.bind(config).await.map_err(failed)?;
        let gateway = gateway.with_plan(Arc::new(planner::render));
        print_line(format_args!("listening on http://{}", gateway.addr()));
        let admin = gateway.admin_addr();
        print_line(format_args!(
            "dashboard at http://{admin}/dashboard, metrics at http://{admin}/metrics"
        ));
        if has_log {
            print_line(format_args!(
                "plan of the last 24 h of the event log at http://{admin}/plan"
            ));
        }
        if let Some(demo) = demo {
            demo.print_usage(gateway.addr());
            demo.spawn_load(gateway.addr());
        }
        let reloading = tokio::spawn(reload_on_hangup(gateway.handle(), self));
        notify(State::Ready);
        let stopped = async {
            until_stopped().await;
            notify(State::Stopping);
        };
        gateway.run(stopped).await;
        reloading.abort();
        traces.end().await;
        Ok(())
    }

    fn read(&self) -> Result<Config, CommandError> {
        let config = match &self.config {
            Some(path) => read_file(path)?,
            None => Config::default(),
        };
        Ok(self.with_address(config))
    }

    fn with_address(&self, mut config: Config) -> Config {
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(listen) = self.admin_listen {
            config.admin_listen = listen;
        }
        config
    }
}

fn read_file(path: &PathBuf) -> Result<Config, CommandError> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| failed(format!("{name}: {error}")))?;
    Config::from_toml(&text).map_err(|errors| failed(format!("{name}:\n{errors}")))
}

/// A state of the process, for its service manager.
#[derive(Clone, Copy)]
enum State {
    Ready,
    Stopping,
}

/// Notifies the service manager, if the process has one that waits for it (`Type=notify`).
#[cfg(unix)]
fn notify(state: State) {
    let state = match state {
        State::Ready => sd_notify::NotifyState::Ready,
        State::Stopping => sd_notify::NotifyState::Stopping,
    };
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager was not notified");
    }
}

#[cfg(not(unix))]
fn notify(_: State) {}

/// Reads keys and limits anew after each SIGHUP. A file with errors changes nothing.
#[cfg(unix)]
async fn reload_on_hangup(gateway: GatewayHandle, options: Serve) {
    use tokio::signal::unix::{SignalKind, signal};

    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return tracing::error!(%error, "SIGHUP is not handled"),
    };
    while hangups.recv().await.is_some() {
        if options.config.is_none() {
            tracing::warn!("SIGHUP ignored: there is no configuration file");
            continue;
        }
        let new = options.read();
        let reloaded = new.and_then(|new| gateway.reload(&new).map_err(failed));
        match reloaded {
            Ok(false) => tracing::info!("keys and limits reloaded"),
            Ok(true) => tracing::warn!("keys and limits reloaded, other changes need a restart"),
            Err(error) => tracing::error!(%error, "nothing reloaded"),
        }
    }
}

#[cfg(not(unix))]
async fn reload_on_hangup(_: GatewayHandle, _: Serve) {}

/// Completes at SIGTERM and at Ctrl-C.
#[cfg(unix)]
async fn until_stopped() {
    use tokio::signal::unix::{SignalKind, signal};

    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            tracing::error!(%error, "SIGTERM is not handled");
            wait_for_interrupt().await;
        }
    }
}

#[cfg(not(unix))]
async fn until_stopped() {
    wait_for_interrupt().await;
}

async fn wait_for_interrupt() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::error!(%error, "Ctrl-C is not handled");
        std::future::pending::<()>().await;
    }
}
