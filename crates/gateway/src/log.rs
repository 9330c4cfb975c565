//! The event log of a gateway.

use std::{
    fmt, io,
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, de};
use tokio::{sync::oneshot, time::timeout};
use tower_claude::event_log::{EventLog, EventLogObserver};

use crate::config_text::bytes;

/// The greatest number of files by default.
const MAX_FILES: NonZeroU32 = NonZeroU32::new(8).unwrap();

/// The longest wait for the last rows at the end of the gateway.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings of the event log, which has a row for each attempt and no prompts.
///
/// In TOML it is a table, or the path alone: `log = "events.jsonl"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogConfig {
    /// The path of the file. Default: none, and then there is no log. Its directory must exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The size at which the file is renamed to `PATH.1`, that one to `PATH.2` and so on. Default
    /// 64 MiB, at least 64 KiB.
    #[serde(with = "bytes")]
    pub max_size: usize,
    /// The greatest number of files, the current one included. Default 8. The oldest is removed.
    pub max_files: NonZeroU32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            path: None,
            max_size: 64 << 20,
            max_files: MAX_FILES,
        }
    }
}

/// The table form of a [`LogConfig`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogTable {
    path: Option<PathBuf>,
    #[serde(with = "bytes")]
    max_size: usize,
    max_files: NonZeroU32,
}

impl Default for LogTable {
    fn default() -> Self {
        let LogConfig {
            path,
            max_size,
            max_files,
        } = LogConfig::default();
        Self {
            path,
            max_size,
            max_files,
        }
    }
}

impl<'de> Deserialize<'de> for LogConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(LogVisitor)
    }
}

struct LogVisitor;

impl<'de> de::Visitor<'de> for LogVisitor {
    type Value = LogConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, or a table with a path")
    }

    fn visit_str<E: de::Error>(self, path: &str) -> Result<LogConfig, E> {
        Ok(LogConfig {
            path: Some(path.into()),
            ..LogConfig::default()
        })
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<LogConfig, A::Error> {
        let table = LogTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(LogConfig {
            path: table.path,
            max_size: table.max_size,
            max_files: table.max_files,
        })
    }
}

impl LogConfig {
    pub(crate) fn check(&self, report: &mut dyn FnMut(String, String)) {
        let is_empty = |path: &PathBuf| path.as_os_str().is_empty();
        if self.path.as_ref().is_some_and(is_empty) {
            report("log.path".into(), "must not be empty".into());
        }
        if self.max_size < 64 << 10 {
            let message = format!("{} bytes are less than 64KiB", self.max_size);
            report("log.max_size".into(), message);
        }
    }

    /// Returns the settings of the log, if there is one.
    pub(crate) fn settings(&self) -> Option<EventLog> {
        let size = NonZeroU64::new(self.max_size as u64).unwrap_or(NonZeroU64::MIN);
        let log = EventLog::new(self.path.as_ref()?);
        Some(log.with_max_size(size).with_max_files(self.max_files))
    }

    /// Opens the log, and starts the thread that writes it. `None` without a path.
    pub(crate) fn start(&self) -> io::Result<Option<Log>> {
        let Some(settings) = self.settings() else {
            return Ok(None);
        };
        let (observer, writer) = settings.open()?;
        let (ended, end) = oneshot::channel();
        let thread = thread::Builder::new().name("event-log".to_owned());
        let thread = thread.spawn(move || {
            writer.run();
            // The receiver is gone if the gateway was dropped.
            let _ = ended.send(());
        })?;
        Ok(Some(Log {
            observer,
            thread,
            end,
        }))
    }
}

/// A log that is being written.
pub(crate) struct Log {
    pub(crate) observer: EventLogObserver,
    thread: JoinHandle<()>,
    end: oneshot::Receiver<()>,
}

impl Log {
    /// Ends the log when its rows are written. A disk that does not answer is not waited for.
    pub(crate) async fn end(self) {
        self.observer.close();
        if timeout(END_TIMEOUT, self.end).await.is_err() {
            tracing::error!("the event log is not written to its end");
        } else if self.thread.join().is_err() {
            tracing::error!("the writer of the event log panicked");
        }
    }
}
