//! The handle a test holds.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::builder::{Config, FakeClaudeBuilder};
use crate::fault::Fault;
use crate::log::Attempt;
use crate::model::{Accounting, Gauges};
use crate::server::FakeServer;
use crate::state::{Shared, State};

/// A Claude API in this process. Clones share limits, faults and log.
///
/// It is a [`tower_service::Service`] of HTTP requests, always ready; [`serve`](Self::serve) puts it on a port.
#[derive(Clone)]
pub struct FakeClaude {
    pub(crate) shared: Arc<Shared>,
}

impl FakeClaude {
    /// Describes a server.
    pub fn builder() -> FakeClaudeBuilder {
        FakeClaudeBuilder::new()
    }

    pub(crate) fn new(
        config: Config,
        accounting: Accounting,
        priority: Option<Accounting>,
        rng: fastrand::Rng,
    ) -> Self {
        let state = State {
            accounting,
            priority,
            log: Vec::new(),
            injected: Default::default(),
            rng,
        };
        Self {
            shared: Arc::new(Shared::new(config, state)),
        }
    }

    /// The next request meets `fault`; a fault of the kind that befalls admitted requests waits for the next Messages
    /// request that is admitted. Faults injected earlier come first.
    pub fn inject(&self, fault: Fault) {
        self.inject_times(fault, 1);
    }

    /// The next `times` requests meet `fault`.
    pub fn inject_times(&self, fault: Fault, times: u64) {
        if times > 0 {
            self.shared.lock().injected.push_back((fault, times));
        }
    }

    /// Forgets injected faults that nobody met yet.
    pub fn clear_injected(&self) {
        self.shared.lock().injected.clear();
    }

    /// A copy of the log: every attempt, in order of arrival. It grows as long as the server lives; see
    /// [`with_log`](Self::with_log) for a look without a copy.
    #[must_use]
    pub fn log(&self) -> Vec<Attempt> {
        self.shared.lock().log.clone()
    }

    /// Number of attempts so far.
    #[must_use]
    pub fn log_len(&self) -> usize {
        self.shared.lock().log.len()
    }

    /// Looks at the log without copying it. The server stands still meanwhile, and `look` must not call it.
    pub fn with_log<T>(&self, look: impl FnOnce(&[Attempt]) -> T) -> T {
        look(&self.shared.lock().log)
    }

    /// The levels of a rate group now.
    #[must_use]
    pub fn gauges(&self, group: &str) -> Gauges {
        let now = self.shared.now().nanos;
        self.shared.lock().accounting.gauges(now, group)
    }

    /// Requests admitted whose answers have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.lock().accounting.in_flight()
    }

    /// Time since the server was made, by tokio's clock: what [`Attempt::at`] and [`Incident`](crate::Incident) count.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.shared.now().since_start()
    }

    /// Whether any scripted incident covers this instant.
    #[must_use]
    pub fn in_incident_at(&self, at: Duration) -> bool {
        self.shared
            .config
            .incidents
            .iter()
            .any(|incident| incident.covers(at))
    }

    /// Waits until the log fulfils `condition`, woken by the log's changes and never by the clock.
    pub async fn wait_for(&self, mut condition: impl FnMut(&[Attempt]) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // Listening before looking: no change falls between the two.
            changed.as_mut().enable();
            if self.with_log(&mut condition) {
                return;
            }
            changed.await;
        }
    }

    /// Serves on a free port of 127.0.0.1. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn serve(&self) -> io::Result<FakeServer> {
        self.serve_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
    }

    /// Serves on `addr`; one server may be on several ports at once.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn serve_on(&self, addr: SocketAddr) -> io::Result<FakeServer> {
        FakeServer::bind(self.clone(), addr).await
    }
}

/// A server with all defaults.
impl Default for FakeClaude {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl fmt::Debug for FakeClaude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("FakeClaude")
            .field("attempts", &state.log.len())
            .field("in_flight", &state.accounting.in_flight())
            .finish_non_exhaustive()
    }
}
