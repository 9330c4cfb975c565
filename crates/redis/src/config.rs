//! The place of Redis and the settings of its connection.

use std::{fmt, time::Duration};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

use crate::error::RedisError;

/// Version of all keys and scripts. Two versions of this crate with different scripts share no key.
const VERSION: char = '1';
const DEADLINES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(250)];

/// The place of Redis, and the settings of the connection to it.
///
/// ```
/// use std::time::Duration;
/// use tower_claude_redis::RedisConfig;
///
/// # fn main() -> Result<(), tower_claude_redis::RedisError> {
/// let config = RedisConfig::new("redis://limiter:password@127.0.0.1:6379/0")?
///     .with_prefix("chat")
///     .with_deadline(Duration::from_millis(20))
///     .with_hash_key("any text that all processes share");
/// # Ok(())
/// # }
/// ```
///
/// | URL | server |
/// |---|---|
/// | `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]` | plain TCP |
/// | `rediss://…` | TLS, with the cargo feature `tls` |
/// | `unix:///path[?db=N&user=USER&pass=PASSWORD]` | Unix socket |
///
/// `valkey`, `valkeys` and `redis+unix` are other names of the same. Special characters of a
/// password are percent-encoded. `?protocol=resp2` is for proxies without RESP3.
#[derive(Clone)]
pub struct RedisConfig {
    pub(crate) topology: Topology,
    /// The prefix with the version, up to the hash tag.
    prefix: Box<str>,
    pub(crate) deadline: Duration,
    hash_key: [u8; 32],
    #[cfg(feature = "tls")]
    certificates: redis::TlsCertificates,
}

/// The servers, and the way to the one that counts.
#[derive(Clone)]
pub(crate) enum Topology {
    Single(ConnectionInfo),
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master_name: Box<str>,
        /// The login, the database and the TLS mode of the master, with an address to replace.
        master: ConnectionInfo,
    },
    #[cfg(feature = "cluster")]
    Cluster(Vec<ConnectionInfo>),
}

impl Topology {
    /// Returns the server that stands for all in errors.
    pub(crate) fn main(&self) -> &ConnectionInfo {
        match self {
            Self::Single(info) => info,
            Self::Sentinel { sentinels, .. } => &sentinels[0],
            #[cfg(feature = "cluster")]
            Self::Cluster(nodes) => &nodes[0],
        }
    }
}

impl RedisConfig {
    /// Creates the configuration of one server.
    ///
    /// # Errors
    ///
    /// [`RedisError::InvalidUrl`].
    pub fn new(url: &str) -> Result<Self, RedisError> {
        Ok(Self::of(Topology::Single(parse(url)?)))
    }

    /// Creates the configuration of a master that sentinels name. The URLs are of the sentinels.
    ///
    /// Login, database and TLS of the first URL are those of the master too, unless
    /// [`with_login`](Self::with_login) gives it another login.
    ///
    /// # Errors
    ///
    /// [`RedisError::InvalidUrl`], also if there is no URL.
    pub fn sentinel<'a>(
        urls: impl IntoIterator<Item = &'a str>,
        master_name: &str,
    ) -> Result<Self, RedisError> {
        let mut sentinels = parse_all(urls)?;
        let master = sentinels[0].clone();
        for sentinel in &mut sentinels {
            // A sentinel has no databases.
            let settings = sentinel.redis_settings().clone().set_db(0);
            *sentinel = sentinel.clone().set_redis_settings(settings);
        }
        Ok(Self::of(Topology::Sentinel {
            sentinels,
            master_name: master_name.into(),
            master,
        }))
    }

    /// Creates the configuration of a cluster. The URLs are of any of its nodes, which name the
    /// others. All nodes have the login of the first URL.
    ///
    /// # Errors
    ///
    /// [`RedisError::InvalidUrl`], also if there is no URL.
    #[cfg(feature = "cluster")]
    pub fn cluster<'a>(urls: impl IntoIterator<Item = &'a str>) -> Result<Self, RedisError> {
        Ok(Self::of(Topology::Cluster(parse_all(urls)?)))
    }

    fn of(topology: Topology) -> Self {
        Self {
            topology,
            prefix: format!("tc{VERSION}:").into(),
            deadline: Duration::from_millis(25),
            hash_key: blake3::derive_key("tower-claude-redis keys", b""),
            #[cfg(feature = "tls")]
            certificates: redis::TlsCertificates {
                client_tls: None,
                root_cert: None,
            },
        }
    }

    /// Sets the prefix of all keys, without the version. Default: `tc`. Braces are left out,
    /// because Redis Cluster reads them as a hash tag.
    ///
    /// All processes that share a limit or a cache need the same prefix.
    #[must_use]
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        let prefix: String = prefix.chars().filter(|c| !matches!(c, '{' | '}')).collect();
        self.prefix = format!("{prefix}{VERSION}:").into();
        self
    }

    /// Sets the time within which Redis must answer a command. Default: 25 ms. Range: 5 to 250 ms,
    /// other values are moved into it.
    ///
    /// A later answer counts as none, and the process goes on without Redis for a while.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.clamp(DEADLINES[0], DEADLINES[1]);
        self
    }

    /// Sets the key of the hashes in the names of keys. Default: a constant, so that all processes
    /// agree.
    ///
    /// Names contain only hashes of credentials and tenants. With a key of your own, a reader of
    /// the names cannot check a guess, and a program that can write to Redis cannot forge a cached
    /// response. All processes that share a limit or a cache need the same key.
    #[must_use]
    pub fn with_hash_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.hash_key = blake3::derive_key("tower-claude-redis keys", key.as_ref());
        self
    }

    /// Sets the login of the servers that store the data, in place of that in the URL. An empty
    /// user is the default user. It does not apply to sentinels.
    #[must_use]
    pub fn with_login(mut self, user: &str, password: &str) -> Self {
        let log_in = |info: &mut ConnectionInfo| {
            let mut settings = info.redis_settings().clone().set_password(password);
            if !user.is_empty() {
                settings = settings.set_username(user);
            }
            *info = info.clone().set_redis_settings(settings);
        };
        match &mut self.topology {
            Topology::Single(info) | Topology::Sentinel { master: info, .. } => log_in(info),
            #[cfg(feature = "cluster")]
            Topology::Cluster(nodes) => nodes.iter_mut().for_each(log_in),
        }
        self
    }

    /// Sets the certificates in PEM that servers are trusted by, in place of the public ones.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.root_cert = Some(pem.into());
        self
    }

    /// Sets the certificates and the key, both in PEM, that a server requires of its clients.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_client_certificate(
        mut self,
        certificates: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.certificates.client_tls = Some(redis::ClientTlsConfig {
            client_cert: certificates.into(),
            client_key: key.into(),
        });
        self
    }

    /// Returns the certificates, after a provider of cryptography is installed for the process, if
    /// there is none. Without one rustls panics if the program contains two.
    #[cfg(feature = "tls")]
    pub(crate) fn certificates(&self) -> redis::TlsCertificates {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have been faster.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        self.certificates.clone()
    }

    /// Returns the hash of these parts, keyed by the user's key. Parts of other lengths have other
    /// hashes.
    pub(crate) fn hash(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.hash_key);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        hash
    }

    /// Returns the key of the hashes of credentials.
    pub(crate) fn credential_key(&self) -> [u8; 32] {
        blake3::derive_key("tower-claude-redis credentials", &self.hash_key)
    }

    /// Returns the name of a key: prefix, version, hash tag, kind. Keys with one tag are in one
    /// slot of a cluster.
    pub(crate) fn key(&self, tag: &[u8], kind: &str) -> Vec<u8> {
        let mut key = String::with_capacity(self.prefix.len() + 2 * tag.len() + kind.len() + 3);
        key.push_str(&self.prefix);
        key.push('{');
        for byte in tag {
            key.extend(
                [byte >> 4, byte & 15]
                    .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])),
            );
        }
        key.push_str("}:");
        key.push_str(kind);
        key.into_bytes()
    }
}

impl fmt::Debug for RedisConfig {
    /// Formats without logins and the hash key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |info: &ConnectionInfo| info.addr().to_string();
        let (kind, servers): (_, Vec<_>) = match &self.topology {
            Topology::Single(info) => ("single", vec![address(info)]),
            Topology::Sentinel { sentinels, .. } => {
                ("sentinel", sentinels.iter().map(address).collect())
            }
            #[cfg(feature = "cluster")]
            Topology::Cluster(nodes) => ("cluster", nodes.iter().map(address).collect()),
        };
        f.debug_struct("RedisConfig")
            .field(kind, &servers)
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

fn parse_all<'a>(
    urls: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ConnectionInfo>, RedisError> {
    let infos = urls.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if infos.is_empty() {
        return Err(RedisError::InvalidUrl {
            url: String::new(),
            reason: "at least one URL is needed".into(),
        });
    }
    Ok(infos)
}

/// Parses a URL. Unlike redis-rs, it uses RESP3 and sends small packets at once by default.
fn parse(url: &str) -> Result<ConnectionInfo, RedisError> {
    let url = url.trim();
    let invalid = |reason: String| RedisError::InvalidUrl {
        url: redacted(url),
        reason,
    };
    let Some(parsed) = redis::parse_redis_url(url) else {
        return Err(invalid(
            "expected `redis://`, `rediss://` or `unix://` with a valid address".into(),
        ));
    };
    let has_protocol = parsed.query_pairs().any(|(name, _)| name == "protocol");
    let info = parsed.into_connection_info();
    let info = info.map_err(|error| {
        let hint = if cfg!(not(feature = "tls")) && error.to_string().contains("TLS") {
            ": switch on the cargo feature `tls`"
        } else {
            ""
        };
        invalid(format!("{error}{hint}"))
    })?;
    let mut settings = info.redis_settings().clone();
    if !has_protocol {
        settings = settings.set_protocol(ProtocolVersion::RESP3);
    }
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Ok(info.set_redis_settings(settings).set_tcp_settings(tcp))
}

/// Returns a URL without login and query, which may contain a password.
fn redacted(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    if scheme.is_empty() {
        rest.into()
    } else {
        format!("{scheme}://{rest}")
    }
}

/// Returns the host of an address that TLS can be used with.
pub(crate) fn with_address(info: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure,
            tls_params,
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.clone().set_addr(addr)
}
