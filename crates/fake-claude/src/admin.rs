//! The Admin API: its settings, and what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;

/// The Admin API of a fake server. Clones share all state. See
/// [`FakeClaudeBuilder::admin`](crate::FakeClaudeBuilder::admin).
///
/// | Path | Content |
/// |---|---|
/// | `GET /v1/organizations/rate_limits` | the limits of the server, by rate group of its catalog |
/// | `GET /v1/organizations/workspaces/{id}/rate_limits` | the limits of [`set_workspace_limit`](Self::set_workspace_limit) |
/// | `GET /v1/organizations/spend_limits` | the cap of the tier |
/// | `GET /v1/organizations/analytics/usage` | the log of the server, by model |
/// | `GET /v1/organizations/usage_report/messages` | the same in the older form |
///
/// Of the parameters, `limit`, `page`, `model`, `group_type`, `starting_at`, `ending_at` and the
/// width of buckets count. Requests to it are neither logged nor limited.
#[derive(Clone, Debug)]
pub struct AdminApi {
    pub(crate) key: Arc<str>,
    state: Arc<Mutex<AdminState>>,
}

#[derive(Debug)]
pub(crate) struct AdminState {
    pub(crate) failures: VecDeque<(StatusCode, Option<u64>)>,
    /// Limits by workspace, rate group and kind.
    pub(crate) workspaces: BTreeMap<String, BTreeMap<String, BTreeMap<String, u64>>>,
    pub(crate) cap_cents: u64,
    pub(crate) has_analytics: bool,
    pub(crate) requests: Vec<String>,
}

impl AdminApi {
    /// Creates an Admin API for this key, in the Start tier.
    #[must_use]
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        let state = AdminState {
            failures: VecDeque::new(),
            workspaces: BTreeMap::new(),
            cap_cents: 50_000,
            has_analytics: true,
            requests: Vec::new(),
        };
        Self {
            key: key.into(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, AdminState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the next request with this status. Failures set earlier come first.
    pub fn fail_next(&self, status: StatusCode, retry_after: Option<u64>) {
        self.state().failures.push_back((status, retry_after));
    }

    /// Sets a limit of a workspace for a rate group, for example of `requests_per_minute`.
    pub fn set_workspace_limit(&self, workspace: &str, group: &str, kind: &str, value: u64) {
        let mut state = self.state();
        let groups = state.workspaces.entry(workspace.to_owned()).or_default();
        let limits = groups.entry(group.to_owned()).or_default();
        limits.insert(kind.to_owned(), value);
    }

    /// Sets the monthly cap of the usage tier in cents.
    pub fn set_cap_cents(&self, cents: u64) {
        self.state().cap_cents = cents;
    }

    /// Takes the Analytics API away, so that its paths are not found.
    pub fn remove_analytics(&self) {
        self.state().has_analytics = false;
    }

    /// Returns the paths and queries of all requests.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }
}
