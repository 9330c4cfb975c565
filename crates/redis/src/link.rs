//! A connection to Redis that repairs itself.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, ProtocolVersion, PushInfo,
    PushKind, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    config::{RedisConfig, Topology, with_address},
    error::{ErrorContext, RedisError},
};

/// Time for a connect with its login and its check.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses between two connects. The longest is short, so that all processes are back together.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];
/// Timeouts in a row after which the connection is replaced.
const MAX_TIMEOUTS: u32 = 5;
/// Age from which a lost connection is replaced at once.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// A Lua script, sent by its hash once the server has it.
pub(crate) struct Script {
    source: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    /// Creates a script. All its keys must be in `KEYS`.
    pub(crate) const fn new(source: &'static str) -> Self {
        Self {
            source,
            hash: OnceLock::new(),
        }
    }

    fn hash(&self) -> &str {
        self.hash
            .get_or_init(|| redis::Script::new(self.source).get_hash().to_owned())
    }
}

/// An item of a script's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Nil,
    Int(i64),
    Text(Vec<u8>),
}

/// A connection to Redis that repairs itself. Clones share it.
///
/// Every call ends within the deadline of the configuration. A call waits for the first connect and
/// for the first one after a loss. While further connects fail, calls fail at once.
#[derive(Clone)]
pub(crate) struct Link(Arc<Inner>);

struct Inner {
    config: RedisConfig,
    state: watch::Receiver<State>,
    /// Connections to replace, by number, with the reason.
    losses: mpsc::Sender<(u64, RedisError)>,
    timeouts: Arc<Timeouts>,
}

/// The timeouts in a row.
///
/// Calls that wait for the same answer time out together. They count as one, so that a short stall
/// of a busy server costs no connection.
#[derive(Default)]
struct Timeouts(Mutex<(u32, Option<Instant>)>);

impl Timeouts {
    fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = 0;
    }

    /// Counts the timeout of a call that began at this time. Returns true if there are too many.
    fn count(&self, began: Instant) -> bool {
        let mut timeouts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, last) = &mut *timeouts;
        if last.is_none_or(|last| began >= last) {
            *last = Some(Instant::now());
            *count += 1;
        }
        *count >= MAX_TIMEOUTS
    }
}

/// The future that connects, and connects again. It ends after the last [`Link`] is dropped. Once
/// it is dropped, all calls fail.
#[must_use = "without the driver there is no connection"]
pub(crate) struct LinkDriver {
    config: RedisConfig,
    check: &'static Script,
    state: watch::Sender<State>,
    lost: mpsc::Receiver<(u64, RedisError)>,
    reporter: mpsc::WeakSender<(u64, RedisError)>,
    timeouts: Arc<Timeouts>,
    number: u64,
}

#[derive(Clone)]
enum State {
    /// A connect is under way, and calls wait for it.
    Connecting,
    /// The connection, with its number.
    Open(Connection, u64),
    /// No connection, because of this error.
    Down(RedisError),
}

#[derive(Clone)]
struct Connection {
    peer: Arc<Peer>,
    kind: ConnectionKind,
}

#[derive(Clone)]
enum ConnectionKind {
    Node(MultiplexedConnection),
    #[cfg(feature = "cluster")]
    Cluster(redis::cluster_async::ClusterConnection),
}

/// The server and the user of a connection, for errors.
struct Peer {
    server: String,
    user: Option<String>,
}

impl Connection {
    async fn query(&mut self, command: &Cmd) -> RedisResult<Value> {
        let value = match &mut self.kind {
            ConnectionKind::Node(connection) => connection.send_packed_command(command).await,
            #[cfg(feature = "cluster")]
            ConnectionKind::Cluster(connection) => {
                redis::aio::ConnectionLike::req_packed_command(connection, command).await
            }
        };
        value?.extract_error()
    }
}

impl Peer {
    fn of(info: &ConnectionInfo) -> Arc<Self> {
        Arc::new(Self {
            server: info.addr().to_string(),
            user: info.redis_settings().username().map(str::to_owned),
        })
    }

    /// Returns the context of an error while connecting.
    fn error_context<'a>(&'a self, command: &'a str, key: &'a [u8]) -> ErrorContext<'a> {
        ErrorContext {
            server: &self.server,
            user: self.user.as_deref(),
            command,
            key,
            deadline: CONNECT_TIMEOUT,
        }
    }

    fn unreachable(&self, reason: impl Into<String>) -> RedisError {
        RedisError::Unreachable {
            server: self.server.clone(),
            reason: reason.into(),
        }
    }
}

impl Link {
    /// Connects, and runs the check: a script that returns pairs of a command and its error for
    /// each command that the user may not use.
    ///
    /// # Errors
    ///
    /// The reason why the server cannot be used.
    pub(crate) async fn open(
        config: &RedisConfig,
        check: &'static Script,
    ) -> Result<(Self, LinkDriver), RedisError> {
        let (link, mut driver) = Self::lazy(config, check);
        driver.connect().await?;
        Ok((link, driver))
    }

    /// Returns a link whose driver connects.
    pub(crate) fn lazy(config: &RedisConfig, check: &'static Script) -> (Self, LinkDriver) {
        let (states, state) = watch::channel(State::Connecting);
        let (losses, lost) = mpsc::channel(4);
        let timeouts = Arc::<Timeouts>::default();
        let driver = LinkDriver {
            config: config.clone(),
            check,
            state: states,
            lost,
            reporter: losses.downgrade(),
            timeouts: timeouts.clone(),
            number: 0,
        };
        let link = Self(Arc::new(Inner {
            config: config.clone(),
            state,
            losses,
            timeouts,
        }));
        (link, driver)
    }

    /// Returns the configuration.
    pub(crate) fn config(&self) -> &RedisConfig {
        &self.0.config
    }

    /// Runs a script. All keys must have one hash tag.
    ///
    /// # Errors
    ///
    /// The reason of the failure. After [`RedisError::Timeout`] the script may have run, or may run
    /// later.
    pub(crate) async fn eval(
        &self,
        script: &'static Script,
        keys: &[impl AsRef<[u8]>],
        args: &[impl AsRef<[u8]>],
    ) -> Result<Vec<Item>, RedisError> {
        let key = keys.first().map(AsRef::as_ref).unwrap_or_default();
        let command = |name, body: &str| {
            let mut command = redis::cmd(name);
            command.arg(body).arg(keys.len());
            for part in keys
                .iter()
                .map(AsRef::as_ref)
                .chain(args.iter().map(AsRef::as_ref))
            {
                command.arg(part);
            }
            command
        };
        let short = command("EVALSHA", script.hash());
        let long = || command("EVAL", script.source);
        items(self.call("EVALSHA", key, &short, Some(long)).await?)
    }

    /// Sends a command, and another one if the server does not have the script of the first.
    async fn call(
        &self,
        name: &str,
        key: &[u8],
        command: &Cmd,
        without_script: Option<impl FnOnce() -> Cmd>,
    ) -> Result<Value, RedisError> {
        let deadline = self.0.config.deadline;
        let began = Instant::now();
        let mut number = None;
        let work = async {
            let (mut connection, its_number) = self.connection().await?;
            number = Some(its_number);
            let mut result = connection.query(command).await;
            if let Err(error) = &result
                && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
                && let Some(long) = without_script
            {
                result = connection.query(&long()).await;
            }
            result.map_err(|error| {
                let context = connection.peer.error_context(name, key);
                RedisError::of(
                    &error,
                    ErrorContext {
                        deadline,
                        ..context
                    },
                )
            })
        };
        let result = timeout(deadline, work).await;
        let result = result.unwrap_or(Err(RedisError::Timeout { after: deadline }));
        let Some(number) = number else {
            return result; // no connection, which the driver has noticed
        };
        let timeouts = &self.0.timeouts;
        let is_lost = match &result {
            Err(RedisError::Timeout { .. }) => timeouts.count(began),
            other => {
                timeouts.reset();
                other.as_ref().is_err_and(RedisError::needs_reconnect)
            }
        };
        if is_lost && let Err(error) = &result {
            // If the channel is full, the next failure is reported.
            let _ = self.0.losses.try_send((number, error.clone()));
        }
        result
    }

    /// Returns the connection and its number.
    async fn connection(&self) -> Result<(Connection, u64), RedisError> {
        let current = |state: &State| match state {
            State::Connecting => None,
            State::Open(connection, number) => Some(Ok((connection.clone(), *number))),
            State::Down(error) => Some(Err(error.clone())),
        };
        if let Some(found) = current(&self.0.state.borrow()) {
            return found;
        }
        let mut state = self.0.state.clone();
        let state = state
            .wait_for(|state| !matches!(state, State::Connecting))
            .await;
        let state = state.map_err(|_| RedisError::DriverGone)?;
        current(&state).unwrap_or(Err(RedisError::DriverGone))
    }
}

/// The commands of the cache store.
#[cfg_attr(not(feature = "cache"), allow(dead_code))]
impl Link {
    /// Returns the value of a key.
    ///
    /// # Errors
    ///
    /// The reason of the failure.
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RedisError> {
        let mut command = redis::cmd("GET");
        command.arg(key);
        match self.call("GET", key, &command, None::<fn() -> Cmd>).await? {
            Value::BulkString(bytes) => Ok(Some(bytes)),
            Value::Nil => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets the value of a key, for a time of at least 1 ms.
    ///
    /// # Errors
    ///
    /// The reason of the failure.
    pub(crate) async fn set_px(
        &self,
        key: &[u8],
        value: &[u8],
        time: Duration,
    ) -> Result<(), RedisError> {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut command = redis::cmd("SET");
        command
            .arg(key)
            .arg(value)
            .arg("PX")
            .arg(time.clamp(1, 1 << 50));
        self.call("SET", key, &command, None::<fn() -> Cmd>)
            .await
            .map(drop)
    }

    /// Removes a key.
    ///
    /// # Errors
    ///
    /// The reason of the failure.
    pub(crate) async fn del(&self, key: &[u8]) -> Result<(), RedisError> {
        let mut command = redis::cmd("DEL");
        command.arg(key);
        self.call("DEL", key, &command, None::<fn() -> Cmd>)
            .await
            .map(drop)
    }
}

impl LinkDriver {
    /// Connects whenever there is no connection. Ends after the last [`Link`] is dropped.
    pub(crate) async fn run(mut self) {
        let mut failures: u32 = 0;
        let mut opened_at = None;
        loop {
            if !matches!(&*self.state.borrow(), State::Open(..))
                && let Err(error) = self.connect().await
            {
                self.state.send_replace(State::Down(error));
                if !self.pause(&mut failures).await {
                    return;
                }
                continue;
            }
            let opened = *opened_at.get_or_insert_with(Instant::now);
            let Some((number, error)) = self.lost.recv().await else {
                return;
            };
            if number != self.number {
                continue; // of an earlier connection
            }
            opened_at = None;
            if opened.elapsed() >= STABLE_AFTER {
                failures = 0;
            }
            if failures == 0 {
                failures = 1;
                self.state.send_replace(State::Connecting);
            } else {
                self.state.send_replace(State::Down(error));
                if !self.pause(&mut failures).await {
                    return;
                }
            }
        }
    }

    /// Waits before the next connect. Returns false if all links are dropped.
    async fn pause(&mut self, failures: &mut u32) -> bool {
        let [first, last] = PAUSES;
        let full = first.saturating_mul(1 << (*failures).min(8)).min(last);
        *failures += 1;
        let wait = full.mul_f64(0.5 + fastrand::f64() / 2.0);
        let until = sleep(wait);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return true,
                lost = self.lost.recv() => if lost.is_none() {
                    return false;
                },
            }
        }
    }

    /// Connects once, and publishes the connection.
    async fn connect(&mut self) -> Result<(), RedisError> {
        let number = self.number + 1;
        let connection = timeout(CONNECT_TIMEOUT, self.checked_connection(number)).await;
        let connection = connection.unwrap_or_else(|_| {
            let peer = Peer::of(self.config.topology.main());
            Err(peer.unreachable(format!("no answer within {CONNECT_TIMEOUT:?}")))
        })?;
        self.number = number;
        self.timeouts.reset();
        self.state.send_replace(State::Open(connection, number));
        Ok(())
    }

    async fn checked_connection(&self, number: u64) -> Result<Connection, RedisError> {
        let mut connection = match &self.config.topology {
            Topology::Single(info) => self.node(info, number).await?,
            Topology::Sentinel {
                sentinels,
                master_name,
                master,
            } => {
                let (host, port) = self.master(sentinels, master_name).await?;
                self.node(&with_address(master, host, port), number).await?
            }
            #[cfg(feature = "cluster")]
            Topology::Cluster(nodes) => self.cluster(nodes).await?,
        };
        let key = self.config.key(b"", "check");
        let mut command = redis::cmd("EVAL");
        command.arg(self.check.source).arg(1).arg(&key);
        let peer = connection.peer.clone();
        let context = peer.error_context("EVAL", &key);
        let answer = connection.query(&command).await;
        let failed = items(answer.map_err(|error| RedisError::of(&error, context))?)?;
        if let [Item::Text(name), Item::Text(error), ..] = &failed[..] {
            let name = String::from_utf8_lossy(name);
            return Err(RedisError::of_check(
                &name,
                &String::from_utf8_lossy(error),
                context,
            ));
        }
        Ok(connection)
    }

    /// Connects to one server, with the older protocol if it does not have the newer one.
    async fn node(&self, info: &ConnectionInfo, number: u64) -> Result<Connection, RedisError> {
        let peer = Peer::of(info);
        let mut connection = self.multiplexed(info, number).await;
        if connection.as_ref().is_err_and(lacks_hello) {
            let settings = info.redis_settings().clone();
            let settings = settings.set_protocol(ProtocolVersion::RESP2);
            connection = self
                .multiplexed(&info.clone().set_redis_settings(settings), number)
                .await;
        }
        let kind = connection.map_err(|error| {
            let error = RedisError::of(&error, peer.error_context("HELLO", b""));
            match error {
                RedisError::Timeout { after } => {
                    peer.unreachable(format!("no answer within {after:?}"))
                }
                other => other,
            }
        });
        let kind = ConnectionKind::Node(kind?);
        Ok(Connection { peer, kind })
    }

    /// Connects. With the newer protocol the loss of the connection is reported at once, even if no
    /// call is under way.
    async fn multiplexed(
        &self,
        info: &ConnectionInfo,
        number: u64,
    ) -> RedisResult<MultiplexedConnection> {
        let mut settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        if info.redis_settings().protocol() != ProtocolVersion::RESP2 {
            let losses = self.reporter.clone();
            let peer = Peer::of(info);
            settings = settings.set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection
                    && let Some(losses) = losses.upgrade()
                {
                    let error = peer.unreachable("the connection was closed");
                    // If the channel is full, the next call fails and reports it.
                    let _ = losses.try_send((number, error));
                }
                Ok::<_, std::convert::Infallible>(())
            });
        }
        let client = self.client(info)?;
        client
            .get_multiplexed_async_connection_with_config(&settings)
            .await
    }

    fn client(&self, info: &ConnectionInfo) -> RedisResult<Client> {
        #[cfg(feature = "tls")]
        if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            return Client::build_with_tls(info.clone(), self.config.certificates());
        }
        Client::open(info.clone())
    }

    /// Returns the address of the master that the first reachable sentinel names.
    async fn master(
        &self,
        sentinels: &[ConnectionInfo],
        name: &str,
    ) -> Result<(String, u16), RedisError> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let mut first_error = None;
        let part = CONNECT_TIMEOUT / u32::try_from(sentinels.len() + 1).unwrap_or(u32::MAX);
        for sentinel in sentinels {
            let peer = Peer::of(sentinel);
            let address = timeout(part, async {
                let mut connection = self.node(sentinel, 0).await?;
                let answer = connection.query(&command).await;
                let answer = answer
                    .map_err(|error| RedisError::of(&error, peer.error_context("SENTINEL", b"")));
                match &items(answer?)?[..] {
                    [Item::Text(host), Item::Text(port)] => {
                        let host = String::from_utf8_lossy(host).into_owned();
                        let port = str::from_utf8(port).ok().and_then(|port| port.parse().ok());
                        port.map(|port| (host, port))
                            .ok_or_else(|| peer.unreachable("the sentinel named an invalid port"))
                    }
                    _ => Err(peer.unreachable(format!("the sentinel knows no master `{name}`"))),
                }
            });
            let error = match address.await {
                Ok(Ok(address)) => return Ok(address),
                Ok(Err(error)) => error,
                Err(_) => peer.unreachable(format!("no answer of the sentinel within {part:?}")),
            };
            first_error.get_or_insert(error);
        }
        Err(first_error.unwrap_or(RedisError::DriverGone))
    }

    #[cfg(feature = "cluster")]
    async fn cluster(&self, nodes: &[ConnectionInfo]) -> Result<Connection, RedisError> {
        let settings = nodes[0].redis_settings();
        let peer = Peer::of(&nodes[0]);
        #[cfg_attr(not(feature = "tls"), allow(unused_mut))]
        let mut builder = redis::cluster::ClusterClient::builder(nodes.iter().cloned())
            .use_protocol(settings.protocol())
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(CONNECT_TIMEOUT)
            .retries(1);
        #[cfg(feature = "tls")]
        if matches!(nodes[0].addr(), redis::ConnectionAddr::TcpTls { .. }) {
            builder = builder.certs(self.config.certificates());
        }
        let connection = match builder.build() {
            Ok(client) => client.get_async_connection().await,
            Err(error) => Err(error),
        };
        let kind =
            connection.map_err(|error| RedisError::of(&error, peer.error_context("CLUSTER", b"")));
        let kind = ConnectionKind::Cluster(kind?);
        Ok(Connection { peer, kind })
    }
}

impl Drop for LinkDriver {
    /// Drops the connection.
    fn drop(&mut self) {
        self.state.send_replace(State::Down(RedisError::DriverGone));
    }
}

/// Returns true if the server or a proxy does not have the command of the newer protocol, or the
/// user may not use it.
fn lacks_hello(error: &redis::RedisError) -> bool {
    let detail = error.detail().unwrap_or_default().to_ascii_lowercase();
    error.kind() == ErrorKind::RESP3NotSupported
        || detail.contains("hello") && (detail.contains("unknown") || detail.contains("permission"))
}

/// Returns the items of an answer. A single value is one item.
fn items(value: Value) -> Result<Vec<Item>, RedisError> {
    let item = |value| {
        Ok(match value {
            Value::Nil => Item::Nil,
            Value::Int(number) => Item::Int(number),
            Value::BulkString(text) => Item::Text(text),
            Value::SimpleString(text) => Item::Text(text.into_bytes()),
            Value::Okay => Item::Text(b"OK".to_vec()),
            other => return Err(unexpected(&other)),
        })
    };
    match value {
        Value::Array(values) => values.into_iter().map(item).collect(),
        value => Ok(vec![item(value)?]),
    }
}

fn unexpected(value: &Value) -> RedisError {
    let text: String = format!("unexpected answer {value:?}")
        .chars()
        .take(100)
        .collect();
    RedisError::Other { message: text }
}
