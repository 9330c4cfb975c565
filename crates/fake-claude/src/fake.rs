//! The fake server and its builder.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tower_claude_wire::ModelCatalog;

use crate::admin::AdminApi;
use crate::batches::call::QUEUE;
use crate::batches::outcome::{BatchOutcome, LostCreation};
use crate::cloud::FakeCloud;
use crate::config::{BATCHES, COUNT_TOKENS, Config, HeaderFamily, HeaderSnapshot, Platform};
use crate::fault::{Fault, Incident};
use crate::log::Attempt;
use crate::model::{Accounting, GaugeSet, GroupLimits};
use crate::rules::TODAY;
use crate::script::{ReceivedRequest, Reply};
use crate::server::FakeServer;
use crate::state::{Shared, State};

/// A fake Claude API in this process. Clones share limits, faults and log.
///
/// It is a [`tower_service::Service`] of HTTP requests that is always ready. [`serve`](Self::serve)
/// opens a port.
#[derive(Clone)]
pub struct FakeClaude {
    pub(crate) shared: Arc<Shared>,
}

impl FakeClaude {
    /// Returns a builder with the default settings.
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
            replies: Default::default(),
            batch_outcomes: Default::default(),
            lost_creations: Default::default(),
            batches: Default::default(),
            cache: Default::default(),
            cache_writes: Default::default(),
            oldest_request: 0,
            request_bytes: 0,
            rng,
            expired: Default::default(),
        };
        Self {
            shared: Arc::new(Shared::new(config, state)),
        }
    }

    /// Applies `fault` to the next request. A fault that applies to admitted requests waits for the
    /// next admitted Messages request. Faults injected earlier come first.
    pub fn inject(&self, fault: Fault) {
        self.inject_times(fault, 1);
    }

    /// Applies `fault` to the next `times` requests.
    pub fn inject_times(&self, fault: Fault, times: u64) {
        if times > 0 {
            self.shared.lock().injected.push_back((fault, times));
        }
    }

    /// Answers the next admitted Messages request with this content. Replies set earlier come
    /// first.
    ///
    /// A fault applies to a scripted reply as to any other.
    pub fn reply(&self, reply: Reply) {
        self.shared.lock().replies.push_back(reply);
    }

    /// Sets the result of requests with this `custom_id`, in each batch that is created later.
    ///
    /// Without it, a valid request succeeds and an invalid one is errored.
    pub fn batch_outcome(&self, custom_id: impl Into<String>, outcome: BatchOutcome) {
        let mut state = self.shared.lock();
        state.batch_outcomes.insert(custom_id.into(), outcome);
    }

    /// Removes all entries of the prompt cache, as if the server had lost them.
    pub fn clear_prompt_cache(&self) {
        self.shared.lock().cache.clear();
    }

    /// Ends the validity of a credential of a cloud, given by its token or by the id of its access
    /// key. A response that has begun goes on.
    pub fn expire_credential(&self, name: impl Into<String>) {
        self.shared.lock().expired.insert(name.into());
    }

    /// Returns the host of the platform that this server stands for: `api.anthropic.com`, or
    /// [`FakeCloud::host`].
    #[must_use]
    pub fn host(&self) -> String {
        let cloud = self.shared.config.cloud.as_ref();
        cloud.map_or_else(|| "api.anthropic.com".to_owned(), FakeCloud::host)
    }

    /// Executes the next creation of a batch, and then ends it in this way. The client does not
    /// know that the batch exists. Ends set earlier come first.
    pub fn lose_creation(&self, end: LostCreation) {
        self.shared.lock().lost_creations.push_back(end);
    }

    /// Removes all faults, replies and lost creations that have not been used, and all outcomes of
    /// batches.
    pub fn clear_injected(&self) {
        let mut state = self.shared.lock();
        state.injected.clear();
        state.replies.clear();
        state.batch_outcomes.clear();
        state.lost_creations.clear();
    }

    /// Returns a copy of the log: every attempt, in order of arrival. The log grows as long as the
    /// server lives. [`with_log`](Self::with_log) avoids the copy.
    #[must_use]
    pub fn log(&self) -> Vec<Attempt> {
        self.shared.lock().log.clone()
    }

    /// Returns the number of attempts so far.
    #[must_use]
    pub fn log_len(&self) -> usize {
        self.shared.lock().log.len()
    }

    /// Calls `look` with the log, without a copy. The server is locked meanwhile, so `look` must
    /// not call it.
    pub fn with_log<T>(&self, look: impl FnOnce(&[Attempt]) -> T) -> T {
        look(&self.shared.lock().log)
    }

    /// Returns the current levels of a rate group.
    #[must_use]
    pub fn gauges(&self, group: &str) -> GaugeSet {
        let now = self.shared.now().nanos;
        self.shared.lock().accounting.gauges(now, group)
    }

    /// Returns the number of admitted requests whose responses have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.lock().accounting.in_flight()
    }

    /// Returns the time since the server was built, by tokio's clock. [`Attempt::at`] and
    /// [`Incident`] use the same time.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.shared.now().since_start()
    }

    /// Returns true if any incident includes this time.
    #[must_use]
    pub fn in_incident_at(&self, at: Duration) -> bool {
        self.shared
            .config
            .incidents
            .iter()
            .any(|incident| incident.covers(at))
    }

    /// Waits until the log meets `condition`, which is checked after every change of the log.
    pub async fn wait_for(&self, mut condition: impl FnMut(&[Attempt]) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // Registered before the check, so that no change in between is missed.
            changed.as_mut().enable();
            if self.with_log(&mut condition) {
                return;
            }
            changed.await;
        }
    }

    /// Opens a free port of 127.0.0.1. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// Returns the error of the socket if it cannot be bound.
    pub async fn serve(&self) -> io::Result<FakeServer> {
        self.serve_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
    }

    /// Opens `addr`. One server may have several ports at once.
    ///
    /// # Errors
    /// Returns the error of the socket if it cannot be bound.
    pub async fn serve_on(&self, addr: SocketAddr) -> io::Result<FakeServer> {
        FakeServer::bind(self.clone(), addr).await
    }
}

/// Builds a server with the default settings.
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

/// A builder for [`FakeClaude`]. By default it has the limits of the Start tier, instant responses
/// and no incidents.
#[must_use]
pub struct FakeClaudeBuilder {
    config: Config,
    limits: Option<GroupLimits>,
    groups: Vec<(String, GroupLimits)>,
    priority: Option<GroupLimits>,
    rejected_costs_request: bool,
    seed: u64,
}

impl FakeClaudeBuilder {
    pub(crate) fn new() -> Self {
        Self {
            config: Config {
                time_to_first_token: Duration::ZERO,
                tokens_per_second: None,
                tokens_per_event: 4,
                output_tokens: 16,
                api_key: None,
                admin: None,
                snapshot: HeaderSnapshot::default(),
                family: HeaderFamily::default(),
                platform: Platform::default(),
                incidents: Vec::new(),
                bytes_per_1000_tokens: 3_500,
                admission_noise: 0.0,
                catalog: ModelCatalog::builtin().clone(),
                unknown_models: false,
                kept_requests: 1_000,
                batch_time: Duration::from_millis(100),
                batch_queue: QUEUE,
                batch_hidden: Duration::ZERO,
                select_outcome: None,
                select_reply: None,
                today: TODAY.to_owned(),
                cloud: None,
                rejects_foreign_thinking: false,
            },
            limits: None,
            groups: vec![
                (COUNT_TOKENS.to_owned(), GroupLimits::requests_only(2_000)),
                (BATCHES.to_owned(), GroupLimits::requests_only(1_000)),
            ],
            priority: None,
            rejected_costs_request: false,
            seed: 0,
        }
    }

    /// Adds the Admin API. By default its paths are not found.
    pub fn admin(mut self, admin: AdminApi) -> Self {
        self.config.admin = Some(admin);
        self
    }

    /// Sets the limits of every rate group that has no limits of its own. Default: the Start tier,
    /// and on Amazon Bedrock the published limits of a new account.
    pub fn limits(mut self, limits: GroupLimits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Sets the limits of one rate group, by its name in the model catalog (`sonnet-5.5`,
    /// `opus-4.x`, …), by that name with `+fast` for the limits of `speed: "fast"`, or
    /// `count_tokens` or `batches`.
    ///
    /// On Amazon Bedrock a group is a model, by its id at the Claude API (`claude-opus-5-5`). On
    /// Google it is the lineage where the location has one (`anthropic-claude-opus`), else the base
    /// model (`anthropic-claude-opus-4-6`).
    pub fn group_limits(mut self, group: &str, limits: GroupLimits) -> Self {
        self.groups.push((group.to_owned(), limits));
        self
    }

    /// Sets the time from admission to the first content of a response. Zero by default, at most a
    /// day.
    pub fn time_to_first_token(mut self, time: Duration) -> Self {
        self.config.time_to_first_token = time.min(Duration::from_secs(86_400));
        self
    }

    /// Sets the output tokens per second of one response. Any value that is not a positive number
    /// means all at once, the default.
    pub fn tokens_per_second(mut self, rate: f64) -> Self {
        self.config.tokens_per_second = (rate.is_finite() && rate > 0.0).then_some(rate);
        self
    }

    /// Sets the output tokens in one stream event. 4 by default, at least 1.
    pub fn tokens_per_event(mut self, tokens: u64) -> Self {
        self.config.tokens_per_event = tokens.max(1);
        self
    }

    /// Sets the output tokens of a response if the request has no `x-fake-output-tokens`. 16 by
    /// default.
    pub fn output_tokens(mut self, tokens: u64) -> Self {
        self.config.output_tokens = tokens;
        self
    }

    /// Sets the only accepted key. By default any key is accepted.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.config.api_key = Some(key.into());
        self
    }

    /// Sets the time at which the levels for the headers are read.
    pub fn header_snapshot(mut self, snapshot: HeaderSnapshot) -> Self {
        self.config.snapshot = snapshot;
        self
    }

    /// Sets the rate-limit headers of all responses.
    pub fn header_family(mut self, family: HeaderFamily) -> Self {
        self.config.family = family;
        self
    }

    /// Makes the server a location of a cloud platform, with its endpoints, credentials, errors and
    /// limits. It then has no rate-limit headers, batches or Models API.
    pub fn cloud(mut self, cloud: FakeCloud) -> Self {
        self.config.platform = match cloud.is_aws() {
            true => Platform::Bedrock,
            false => Platform::Vertex,
        };
        self.config.family = HeaderFamily::None;
        self.config.cloud = Some(cloud);
        self
    }

    /// If true, a request with thinking that another account made is rejected with 400. By default
    /// the thinking is dropped ([`Attempt::dropped_thinking`]), as the API documents it.
    ///
    /// Both apply to the models whose thinking is bound to an account: Fable 5.2, Mythos 5.2,
    /// Sonnet 5.5 and Haiku 5.5. Only thinking that a server of this crate has signed is
    /// recognized.
    pub fn reject_foreign_thinking(mut self, reject: bool) -> Self {
        self.config.rejects_foreign_thinking = reject;
        self
    }

    /// Sets the platform that serves the API.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.config.platform = platform;
        self
    }

    /// If true, a rejected request counts against the requests per minute. The API does not
    /// document it. Off by default.
    pub fn rejected_costs_request(mut self, costs: bool) -> Self {
        self.rejected_costs_request = costs;
        self
    }

    /// Adds an incident.
    pub fn incident(mut self, incident: Incident) -> Self {
        self.config.incidents.push(incident);
        self
    }

    /// Sets the seed of all random decisions (incidents, noise). The same seed and order of
    /// requests give the same decisions.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the bytes of prompt per input token in the server's own estimate. 3.5 by default,
    /// clamped to 0.1 to 100. NaN is ignored.
    pub fn bytes_per_token(mut self, bytes: f64) -> Self {
        if !bytes.is_nan() {
            self.config.bytes_per_1000_tokens = (bytes.clamp(0.1, 100.0) * 1_000.0) as u64;
        }
        self
    }

    /// Sets the maximum relative error of the input estimate at admission, in both directions. 0 to
    /// 1, 0 by default.
    pub fn admission_noise(mut self, share: f64) -> Self {
        self.config.admission_noise = if share.is_nan() {
            0.0
        } else {
            share.clamp(0.0, 1.0)
        };
        self
    }

    /// Sets the available models and their rate groups. The built-in catalog by default.
    pub fn catalog(mut self, catalog: ModelCatalog) -> Self {
        self.config.catalog = catalog;
        self
    }

    /// If true, accepts models that the catalog does not list, each as its own rate group, instead
    /// of a 404.
    pub fn accept_unknown_models(mut self, accept: bool) -> Self {
        self.config.unknown_models = accept;
        self
    }

    /// Sets the time in which a batch processes all its requests, at equal intervals. 100 ms by
    /// default. With zero, a batch has ended when it is created. After 24 hours the rest expires.
    ///
    /// A cancelled batch ends after a tenth of this time, at most a second. `x-fake-batch-seconds`
    /// sets the time of one batch.
    pub fn batch_time(mut self, time: Duration) -> Self {
        self.config.batch_time = time;
        self
    }

    /// Sets the number of requests that all batches together may have in processing. 200,000 by
    /// default. A batch that would exceed it is rejected with 429.
    pub fn batch_queue(mut self, requests: usize) -> Self {
        self.config.batch_queue = requests;
        self
    }

    /// Sets the time from its creation for which a batch is answered with 404 and is not listed,
    /// although it is being processed. Zero by default.
    pub fn batch_hidden(mut self, time: Duration) -> Self {
        self.config.batch_hidden = time;
        self
    }

    /// Selects the results of requests in batches by their `custom_id` and the bytes of their
    /// `params`, when the batch is created. `None` stands for the usual result. Outcomes set by
    /// [`FakeClaude::batch_outcome`] come first.
    pub fn batch_outcome_with(
        mut self,
        select: impl Fn(&str, &[u8]) -> Option<BatchOutcome> + Send + Sync + 'static,
    ) -> Self {
        self.config.select_outcome = Some(Arc::new(select));
        self
    }

    /// Selects the content of each response by its request. The body of a request in a batch is its
    /// `params`. `None` stands for the fake's own text, the default. Replies set by
    /// [`FakeClaude::reply`] come first, but not in batches.
    pub fn reply_with(
        mut self,
        select: impl Fn(&ReceivedRequest) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        self.config.select_reply = Some(Arc::new(select));
        self
    }

    /// Sets the number of latest requests that the log keeps with their headers and bodies
    /// ([`Attempt::request`]). 1,000 by default. Their bodies take up to 64 MiB in all.
    pub fn keep_requests(mut self, count: usize) -> Self {
        self.config.kept_requests = count;
        self
    }

    /// Sets the day, e.g. `2026-11-30`. Models and fast modes that have ended by then are rejected.
    /// By default the day of the rules, so that a test does not depend on the date.
    pub fn today(mut self, day: impl Into<String>) -> Self {
        self.config.today = day.into();
        self
    }

    /// Adds Priority Tier with these limits. Admitted requests are also charged to them while they
    /// have room, and the `anthropic-priority-*` headers report them. They never reject a request.
    pub fn priority_limits(mut self, limits: GroupLimits) -> Self {
        self.priority = Some(limits);
        self
    }

    /// Builds the server. Its time starts now.
    #[must_use]
    pub fn build(self) -> FakeClaude {
        let cloud = self.config.cloud.as_ref();
        let default = || cloud.map_or_else(GroupLimits::default, FakeCloud::default_limits);
        let limits = self.limits.unwrap_or_else(default);
        let mut accounting =
            Accounting::new(limits).with_rejected_costs_request(self.rejected_costs_request);
        for (group, limits) in self.groups {
            accounting = accounting.with_group(&group, limits);
        }
        let rng = fastrand::Rng::with_seed(self.seed);
        FakeClaude::new(
            self.config,
            accounting,
            self.priority.map(Accounting::new),
            rng,
        )
    }
}
