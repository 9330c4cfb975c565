//! The reasons why Redis cannot be used.

use std::{error::Error, fmt, time::Duration};

use redis::{ErrorKind, ServerErrorKind};

/// The reason why Redis cannot be used.
///
/// Its text names the setting or the server, and what is missing. It never contains a password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisError {
    /// A URL is not of a known form, or needs a cargo feature that is off.
    InvalidUrl {
        /// The URL, without login and query.
        url: String,
        /// The part that is wrong, and what is expected.
        reason: String,
    },
    /// No connection could be made, or the connection broke.
    Unreachable {
        /// The server, as `host:port` or as a path.
        server: String,
        /// The error of the system, or the answer of the sentinels.
        reason: String,
    },
    /// The server rejected the user or the password, or requires a login that the URL lacks.
    WrongPassword {
        /// The server, as `host:port` or as a path.
        server: String,
        /// The name of the user, `default` if the URL has none.
        user: String,
    },
    /// The user lacks a right.
    MissingRight {
        /// The command, or the keys, that the user may not use.
        right: String,
    },
    /// A key contains a value of another type, written by another program.
    WrongType {
        /// The first key of the command.
        key: String,
    },
    /// The server is a replica, so that it accepts no writes.
    ReadOnly,
    /// The server is loading its data, or has lost its master.
    Loading,
    /// A foreign script is blocking the server.
    Busy,
    /// The server has reached its `maxmemory` and may not evict.
    OutOfMemory,
    /// No answer arrived within the deadline. The command may have been executed.
    Timeout {
        /// The deadline.
        after: Duration,
    },
    /// A script failed in the server.
    ScriptFailed {
        /// The error of the server.
        message: String,
    },
    /// The server is part of a cluster, or is not, unlike the configuration expects.
    WrongTopology {
        /// The constructor of [`RedisConfig`](crate::RedisConfig) to use.
        expected: &'static str,
    },
    /// This process has hashed credentials before the limiter was made, so that their scopes differ
    /// from those of other processes. Make the limiter before the first request.
    MadeTooLate,
    /// The driver of the connection was dropped, or its task has ended.
    DriverGone,
    /// Any other error of the server.
    Other {
        /// The error of the server.
        message: String,
    },
}

/// The names that the text of an error may need: the server, the user, the command and the key.
#[derive(Clone, Copy)]
pub(crate) struct ErrorContext<'a> {
    pub(crate) server: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) command: &'a str,
    pub(crate) key: &'a [u8],
    pub(crate) deadline: Duration,
}

impl RedisError {
    /// Returns the error of this kind, with what its context adds to it.
    pub(crate) fn of(error: &redis::RedisError, context: ErrorContext<'_>) -> Self {
        let text = || {
            let message = error.to_string();
            message.chars().take(300).collect::<String>()
        };
        let code = error.code().unwrap_or_default();
        let detail = error.detail().unwrap_or_default();
        let wrong_password = || Self::WrongPassword {
            server: context.server.into(),
            user: context.user.unwrap_or("default").into(),
        };
        match (error.kind(), code) {
            (ErrorKind::AuthenticationFailed, _) | (_, "WRONGPASS" | "NOAUTH") => wrong_password(),
            (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => Self::ReadOnly,
            (ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown), _) => {
                Self::Loading
            }
            (_, "BUSY") => Self::Busy,
            (_, "OOM") => Self::OutOfMemory,
            (_, "WRONGTYPE") => Self::WrongType {
                key: String::from_utf8_lossy(context.key).into_owned(),
            },
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => Self::missing_right(detail, context),
            (ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask), _) => {
                Self::WrongTopology {
                    expected: "RedisConfig::cluster",
                }
            }
            _ if detail.contains("cluster support disabled") => Self::WrongTopology {
                expected: "RedisConfig::new",
            },
            (ErrorKind::Io, _) if error.is_timeout() => Self::Timeout {
                after: context.deadline,
            },
            (ErrorKind::Io | ErrorKind::ClusterConnectionNotFound | ErrorKind::Parse, _) => {
                Self::Unreachable {
                    server: context.server.into(),
                    reason: text(),
                }
            }
            _ if matches!(context.command, "EVAL" | "EVALSHA") => Self::in_script(detail, context)
                .unwrap_or_else(|| Self::ScriptFailed { message: text() }),
            _ => Self::Other { message: text() },
        }
    }

    /// Returns the error of a command that the check of a new connection tried.
    pub(crate) fn of_check(command: &str, error: &str, context: ErrorContext<'_>) -> Self {
        let context = ErrorContext { command, ..context };
        Self::in_script(error, context).unwrap_or_else(|| Self::ScriptFailed {
            message: format!("{command}: {error}"),
        })
    }

    /// Returns the error of a command in a script, which servers wrap in several ways.
    fn in_script(detail: &str, context: ErrorContext<'_>) -> Option<Self> {
        let has = |text| detail.contains(text);
        Some(if has("WRONGTYPE") {
            Self::WrongType {
                key: String::from_utf8_lossy(context.key).into_owned(),
            }
        } else if has("OOM ") || has("'maxmemory'") {
            Self::OutOfMemory
        } else if has("NOPERM") || has("ACL failure") || has("user executing the script") {
            Self::missing_right(detail, context)
        } else if has("READONLY") {
            Self::ReadOnly
        } else {
            return None;
        })
    }

    /// Returns the error of a user without a right. Servers quote the name of a command, unless it
    /// is in a script, and never name a key.
    fn missing_right(detail: &str, context: ErrorContext<'_>) -> Self {
        let quoted = detail.split_once("run the '");
        let quoted = quoted.and_then(|(_, rest)| rest.split_once('\''));
        let right = match quoted {
            Some((command, _)) => command.to_uppercase(),
            None if detail.contains("key") => {
                format!(
                    "{} on `{}`",
                    context.command,
                    String::from_utf8_lossy(context.key)
                )
            }
            None => context.command.into(),
        };
        Self::MissingRight { right }
    }

    /// Returns true if the connection must be replaced: it is broken, or its server is no longer
    /// the one to use.
    pub(crate) fn needs_reconnect(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::ReadOnly | Self::Loading | Self::WrongPassword { .. }
        )
    }

    /// Returns the name of the error's cause, for counters and logs.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::InvalidUrl { .. } => "invalid_url",
            Self::Unreachable { .. } => "unreachable",
            Self::WrongPassword { .. } => "wrong_password",
            Self::MissingRight { .. } => "missing_right",
            Self::WrongType { .. } => "wrong_type",
            Self::ReadOnly => "read_only",
            Self::Loading => "loading",
            Self::Busy => "busy",
            Self::OutOfMemory => "out_of_memory",
            Self::Timeout { .. } => "timeout",
            Self::ScriptFailed { .. } => "script_failed",
            Self::WrongTopology { .. } => "wrong_topology",
            Self::MadeTooLate => "made_too_late",
            Self::DriverGone => "driver_gone",
            Self::Other { .. } => "other",
        }
    }
}

impl fmt::Display for RedisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidUrl { url, reason } => {
                write!(f, "the Redis URL `{url}` is invalid: {reason}")
            }
            Self::Unreachable { server, reason } => {
                write!(f, "Redis at `{server}` cannot be reached: {reason}")
            }
            Self::WrongPassword { server, user } => write!(
                f,
                "Redis at `{server}` rejected the login of user `{user}`: the URL needs \
                 `redis://USER:PASSWORD@HOST`"
            ),
            Self::MissingRight { right } => write!(f, "the Redis user has no right to use {right}"),
            Self::WrongType { key } => {
                write!(f, "the Redis key `{key}` has a value of another type")
            }
            Self::ReadOnly => f.write_str("the Redis server is a replica and accepts no writes"),
            Self::Loading => f.write_str("the Redis server is loading or has lost its master"),
            Self::Busy => f.write_str("the Redis server is blocked by a script"),
            Self::OutOfMemory => f.write_str("the Redis server has reached its maxmemory"),
            Self::Timeout { after } => write!(f, "no answer of Redis within {after:?}"),
            Self::ScriptFailed { message } => write!(f, "a script failed in Redis: {message}"),
            Self::WrongTopology { expected } => {
                write!(f, "the Redis server needs `{expected}`")
            }
            Self::MadeTooLate => f.write_str(
                "the limiter must be made before the first request, with the same hash key as others",
            ),
            Self::DriverGone => f.write_str("the driver of the Redis connection is gone"),
            Self::Other { message } => write!(f, "Redis answered with an error: {message}"),
        }
    }
}

impl Error for RedisError {}
