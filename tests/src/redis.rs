//! Redis servers for tests: one server, a cluster, a master with sentinels, and a proxy that
//! stalls.
//!
//! A server listens on a free port of the loopback interface and on a Unix socket, in a folder of
//! its own. It ends when it is dropped.
#![expect(
    clippy::disallowed_methods,
    reason = "a test waits for another process"
)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// Attempts of 10 ms until a server is up.
const ATTEMPTS: usize = 1_000;

/// A running `redis-server`.
pub struct RedisServer {
    process: Child,
    folder: Folder,
    port: u16,
    options: Vec<String>,
}

/// A running `redis-server` with TLS on a port of its own, and without it on the Unix socket.
pub struct RedisTls {
    /// The server.
    pub server: RedisServer,
    folder: Folder,
    port: u16,
}

impl RedisTls {
    /// Starts a server with a certificate that it has signed itself.
    ///
    /// # Panics
    ///
    /// As [`RedisServer::start`], and without the program `openssl`.
    #[must_use]
    pub fn start() -> Option<Self> {
        let folder = Folder::new();
        let made = Command::new("openssl")
            .args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split(' '))
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(&folder.0)
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
        if !is_installed() {
            return None;
        }
        let path = |name| folder.0.join(name).display().to_string();
        let options = |port: u16| {
            [
                "--tls-port",
                &port.to_string(),
                "--tls-cert-file",
                &path("cert.pem"),
                "--tls-key-file",
                &path("key.pem"),
                "--tls-auth-clients",
                "no",
            ]
            .map(str::to_owned)
        };
        // Another process may take a free port first.
        let (server, port) = (0..5)
            .find_map(|_| {
                let port = free_port();
                let server = RedisServer::try_start(Folder::new(), free_port(), &options(port));
                server.map(|server| (server, port))
            })
            .expect("redis-server starts");
        Some(Self {
            server,
            folder,
            port,
        })
    }

    /// Returns the URL of the port with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }

    /// Returns the path of the certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.0.join("cert.pem")
    }

    /// Returns the path of the key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.folder.0.join("key.pem")
    }
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tcr-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name); // short, because a socket's path is
        std::fs::create_dir_all(&path).expect("a folder for the server");
        Self(path)
    }
}

impl RedisServer {
    /// Starts a server. Returns `None` if there is no program `redis-server`, after a message.
    ///
    /// # Panics
    ///
    /// If there is no program and the environment has `CI`, or if the server does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with options, such as `["--maxmemory", "3mb"]`.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(options: &[&str]) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        // Another process may take a free port first.
        let server = (0..5).find_map(|_| Self::try_start(Folder::new(), free_port(), &options));
        Some(server.expect("redis-server starts"))
    }

    fn try_start(folder: Folder, port: u16, options: &[String]) -> Option<Self> {
        let process = spawn("redis-server", &folder.0, port, options);
        let mut server = Self {
            process,
            folder,
            port,
            options: options.to_vec(),
        };
        server.is_up().then_some(server)
    }

    /// Waits until the server answers. Returns false if it has ended.
    fn is_up(&mut self) -> bool {
        for _ in 0..ATTEMPTS {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return false;
            }
            if answers(&self.socket()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Returns the path of the Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.0.join("s")
    }

    /// Returns the TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of the Unix socket.
    #[must_use]
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Returns the URL of the TCP port.
    #[must_use]
    pub fn tcp_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command and returns the answer as `redis-cli` prints it. Words with spaces stay
    /// whole.
    ///
    /// # Panics
    ///
    /// If `redis-cli` does not start. It is ended after 60 seconds.
    pub fn command(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.socket()).args(words);
        output(&mut command)
    }

    /// Returns the calls of a command that the server has counted.
    #[must_use]
    pub fn calls_of(&self, command: &str) -> u64 {
        let all = self.command(&["INFO", "commandstats"]);
        let prefix = format!("cmdstat_{command}:calls=");
        let line = all.lines().find_map(|line| line.strip_prefix(&prefix));
        let count = line.and_then(|line| line.split(',').next());
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// Stops the process without ending it, by SIGSTOP.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Continues a frozen process.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let mut command = Command::new("kill");
        output(command.arg(name).arg(self.process.id().to_string()));
    }

    /// Ends the process by SIGKILL. The data is lost.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts the process again, on the same port and socket.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        self.process = spawn("redis-server", &self.folder.0, self.port, &self.options);
        assert!(self.is_up(), "redis-server starts again");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster of three masters with a replica each.
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts a cluster. Returns `None` as [`RedisServer::start`].
    ///
    /// # Panics
    ///
    /// As [`RedisServer::start`], or if the nodes do not form a cluster in three attempts.
    #[must_use]
    pub fn start() -> Option<Self> {
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1500",
            "--cluster-replica-validity-factor",
            "0",
        ];
        let mut reports = Vec::new();
        // On a loaded machine a node may miss the time in which it can join.
        for _ in 0..3 {
            let nodes: Vec<_> = (0..6)
                .map_while(|_| RedisServer::start_with(&options))
                .collect();
            if nodes.is_empty() {
                return None;
            }
            let cluster = Self { nodes };
            reports.push(cluster.create());
            for _ in 0..ATTEMPTS {
                if cluster.nodes.iter().all(is_complete) {
                    return Some(cluster);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("no cluster: {reports:#?}");
    }

    /// Joins the nodes, and returns what `redis-cli` printed.
    fn create(&self) -> String {
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        for node in &self.nodes {
            create.arg(format!("127.0.0.1:{}", node.port));
        }
        output(create.args(["--cluster-replicas", "1", "--cluster-yes"]))
    }

    /// Returns the URLs of all nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::tcp_url).collect()
    }

    /// Returns the nodes.
    #[must_use]
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// Returns the node that is the master of a key's slot.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn master_of(&mut self, key: &str) -> &mut RedisServer {
        let slot: u32 = self.nodes[0]
            .command(&["CLUSTER", "KEYSLOT", key])
            .trim()
            .parse()
            .expect("a slot");
        let owns = |node: &RedisServer| {
            let nodes = node.command(&["CLUSTER", "NODES"]);
            let line = nodes.lines().find(|line| line.contains("myself,master"));
            line.is_some_and(|line| {
                line.split(' ').skip(8).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let in_range = |(first, last): (u32, u32)| (first..=last).contains(&slot);
                    (first.parse().ok())
                        .zip(last.parse().ok())
                        .is_some_and(in_range)
                })
            })
        };
        self.nodes
            .iter_mut()
            .find(|node| owns(node))
            .expect("a master")
    }

    /// Makes the replica of a master the master, without a loss. Returns when both nodes report
    /// their new roles, so that [`master_of`](Self::master_of) finds one master of each slot.
    ///
    /// # Panics
    ///
    /// If it has no replica, or if the two do not change their roles.
    pub fn fail_over(&self, master_port: u16) {
        let nodes = self.nodes[0].command(&["CLUSTER", "NODES"]);
        let address = format!("127.0.0.1:{master_port}@");
        let line = nodes
            .lines()
            .find(|line| line.contains(&address))
            .expect("the master");
        let id = line.split(' ').next().expect("an id");
        let replica = nodes
            .lines()
            .find(|line| line.contains("slave") && line.contains(id));
        let replica = replica
            .and_then(|line| line.split(['@', ':']).nth(1))
            .expect("a replica");
        let port = replica.parse().unwrap_or(0);
        let node_at = |port| {
            let mut nodes = self.nodes.iter();
            nodes.find(|node| node.port == port).expect("a node")
        };
        let (node, old) = (node_at(port), node_at(master_port));
        let has_role = |node: &RedisServer, role| node.command(&["ROLE"]).starts_with(role);
        // A failover that is not complete after 5 s is abandoned by the server.
        for _ in 0..5 {
            let answer = node.command(&["CLUSTER", "FAILOVER"]);
            for _ in 0..600 {
                if has_role(node, "master") && has_role(old, "slave") {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            eprintln!("another failover: {}", answer.trim());
        }
        panic!("the master and its replica do not change their roles");
    }
}

/// A master with one replica, and three sentinels that watch them.
pub struct RedisSentinels {
    servers: Vec<RedisServer>,
    sentinels: Vec<(Child, u16, Folder)>,
}

impl RedisSentinels {
    /// The name of the master.
    pub const MASTER: &str = "main";

    /// Starts the servers. Returns `None` as [`RedisServer::start`]. A master counts as down after
    /// 500 ms.
    ///
    /// # Panics
    ///
    /// As [`RedisServer::start`], or if the sentinels do not find each other.
    #[must_use]
    pub fn start() -> Option<Self> {
        let master = RedisServer::start()?;
        let port = master.port.to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port])?;
        let mut all = Self {
            servers: vec![master, replica],
            sentinels: Vec::new(),
        };
        // Another process may take a free port first.
        for _ in 0..3 {
            all.end_sentinels();
            all.sentinels = (0..3).map(|_| sentinel(&port)).collect();
            for _ in 0..ATTEMPTS {
                if all.sentinels.iter().all(|(_, port, _)| is_watching(*port)) {
                    return Some(all);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("the sentinels do not find each other");
    }

    /// Returns the URLs of the sentinels.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let ports = self.sentinels.iter().map(|(_, port, _)| port);
        ports
            .map(|port| format!("redis://127.0.0.1:{port}"))
            .collect()
    }

    /// Returns the port of the master that the first sentinel names.
    #[must_use]
    pub fn master_port(&self) -> Option<u16> {
        let port = self.sentinels[0].1.to_string();
        let mut command = Command::new("redis-cli");
        command.args([
            "-p",
            &port,
            "SENTINEL",
            "GET-MASTER-ADDR-BY-NAME",
            Self::MASTER,
        ]);
        output(&mut command).lines().nth(1)?.trim().parse().ok()
    }

    /// Returns the servers: the first master, and its replica.
    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }
}

impl RedisSentinels {
    fn end_sentinels(&mut self) {
        for (process, ..) in &mut self.sentinels {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for RedisSentinels {
    fn drop(&mut self) {
        self.end_sentinels();
    }
}

fn sentinel(master: &str) -> (Child, u16, Folder) {
    let (folder, port) = (Folder::new(), free_port());
    let name = RedisSentinels::MASTER;
    let config = folder.0.join("sentinel.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {name} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n",
        folder.0.display()
    );
    std::fs::write(&config, text).expect("a configuration");
    let mut command = Command::new("redis-server");
    command.arg(&config).arg("--sentinel");
    (quiet(&mut command), port, folder)
}

fn is_watching(port: u16) -> bool {
    let mut command = Command::new("redis-cli");
    command.args([
        "-p",
        &port.to_string(),
        "SENTINEL",
        "MASTER",
        RedisSentinels::MASTER,
    ]);
    let text = output(&mut command);
    let mut lines = text.lines().map(str::trim);
    let mut value = |name| {
        lines.find(|line| *line == name)?;
        lines.next()
    };
    // Both stand in the answer in this order.
    value("num-slaves") == Some("1") && value("num-other-sentinels") == Some("2")
}

fn is_complete(node: &RedisServer) -> bool {
    let info = node.command(&["CLUSTER", "INFO"]);
    let nodes = node.command(&["CLUSTER", "NODES"]);
    let replicas = nodes.lines().filter(|line| line.contains("slave"));
    info.contains("cluster_state:ok") && replicas.count() == 3
}

fn is_installed() -> bool {
    let mut command = Command::new("redis-server");
    let version = command.arg("--version").stdout(Stdio::null()).status();
    if version.is_ok() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "redis-server is missing: install it with `apt-get install redis-server`"
    );
    eprintln!("skipped, because redis-server is not installed");
    false
}

/// Returns a free port. The bus of a cluster has the port 10,000 above it.
fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        if port < 55_000 {
            return port;
        }
    }
}

fn spawn(program: &str, folder: &Path, port: u16, options: &[String]) -> Child {
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command
        .args(["--enable-debug-command", "yes", "--dir"])
        .arg(folder);
    command.arg("--unixsocket").arg(folder.join("s"));
    if !options.iter().any(|option| option == "--port") {
        command.arg("--port").arg(port.to_string());
    }
    quiet(command.args(options))
}

fn quiet(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("redis-server starts")
}

/// Runs a program whose output is short, and returns the output. Ends it after 60 seconds:
/// `redis-cli` waits without an end for nodes that do not join.
fn output(command: &mut Command) -> String {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut left = 60_000;
    while left > 0 && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(1));
        left -= 1;
    }
    let _ = child.kill(); // does nothing after the end
    let output = child.wait_with_output().expect("the output");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    let mut answer = [0; 5];
    stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && (answer == *b"+PONG" || answer == *b"-NOAU")
}

/// A TCP proxy before a server. Each direction can be stalled, as on a half-open connection.
pub struct Proxy {
    address: SocketAddr,
    gates: [watch::Sender<bool>; 2],
    accepted: Arc<AtomicUsize>,
    task: AbortHandle,
}

/// A direction through a [`Proxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Responses,
}

impl Proxy {
    /// Starts a proxy for a port of the loopback interface, on the current runtime.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub async fn start(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let gates = [watch::Sender::new(true), watch::Sender::new(true)];
        let [requests, responses] = [gates[0].subscribe(), gates[1].subscribe()];
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = accepted.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let gates = (requests.clone(), responses.clone());
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = copy(from_client, to_server, gates.0) => {}
                        () = copy(from_server, to_client, gates.1) => {}
                    }
                });
            }
        });
        Self {
            address,
            gates,
            accepted,
            task: task.abort_handle(),
        }
    }

    /// Returns the URL of the proxy.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Returns the number of connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Holds back all bytes of a direction. No connection is closed.
    pub fn stall(&self, direction: Direction) {
        self.gates[direction as usize].send_replace(false);
    }

    /// Lets all bytes pass again.
    pub fn resume(&self) {
        for gate in &self.gates {
            gate.send_replace(true);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn copy(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut gate: watch::Receiver<bool>,
) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if gate.wait_for(|open| *open).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
