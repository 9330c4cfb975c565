//! A log of all attempts as lines of JSON, for `tower-claude plan` and `diagnose`. Needs the
//! feature `event-log`.
//!
//! [`EventLog::open`] returns an [`Observer`] for the layers, and a writer for a thread:
//!
//! ```
//! use std::thread;
//! use tower_claude_core::event_log::EventLog;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = std::env::temp_dir().join(format!("tower-claude-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! let (log, writer) = EventLog::new(folder.join("events.jsonl")).open()?;
//! let thread = thread::spawn(move || writer.run());
//! // Give `log.clone()` to the layers by their `with_observer`. At the end of the program:
//! log.close();
//! thread.join().map_err(|_| "the writer panicked")?;
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Rows
//!
//! - One row for each attempt, when the body of its response has ended or was dropped.
//! - One row for each call whose last request was not sent, because a layer rejected it
//!   (`refused_by`), or because its caller dropped it in a queue (`because` is `never_sent`).
//! - One row for rows that were lost: `because` is `not_logged`, and `requests` is their number.
//!
//! A row has the times, the pool of limits, model, tokens, status, class, wait, limits and
//! `request-id`, in the form that `docs/planning.md` describes. It has no prompt, no answer, no
//! text of an error, and no key. `key` is the [`credential_tag`](crate::event::credential_tag) of
//! the credential, which differs in every process unless a
//! [common key](crate::toolkit::set_credential_key) is set. Names that a caller or a server has
//! chosen are escaped and cut after 300 bytes. On Unix only the user can read the files.
//!
//! A response from a cache or a batch is no attempt and has no row. An input without a reported
//! usage is an estimate, and is marked as one.
//!
//! # Files
//!
//! Rows are appended to the file. When it is full it is renamed to `events.jsonl.1`, that one to
//! `events.jsonl.2`, and so on, and the oldest is removed. [`EventLog::files`] returns all. Several
//! processes can write the same files, and a file that another program has moved or removed is
//! replaced by a new one, so no signal is needed for a rotation by `logrotate`.
//!
//! # Failures
//!
//! A call never waits for the disk. Rows wait in a bounded buffer, and rows that find it full are
//! lost, counted, and reported by a row and by one line of the log of the program (target
//! `tower_claude::event_log`). While the disk is full or the directory is lost, the writer tries
//! again every second, with one line at the beginning and one at the end. A crash loses the rows of
//! the buffer and can cut the last line. The next writer then begins a new line.

mod file;
mod queue;
mod row;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use self::{
    file::LogFile,
    queue::{Pushed, Queue},
    row::Names,
};
use crate::{
    event::{Event, Observer},
    workload::Workload,
};

const TARGET: &str = "tower_claude::event_log";

const MAX_SIZE: NonZeroU64 = NonZeroU64::new(64 << 20).unwrap();
const MAX_FILES: NonZeroU32 = NonZeroU32::new(8).unwrap();
const BUFFER: NonZeroUsize = NonZeroUsize::new(4 << 20).unwrap();

/// The pause after a failed write.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The capacity of the writer's buffer that is kept after a peak.
const KEPT_CAPACITY: usize = 256 << 10;

/// The settings of an event log.
#[derive(Clone, Debug)]
#[must_use = "an event log writes nothing until it is opened"]
pub struct EventLog {
    path: PathBuf,
    max_size: NonZeroU64,
    max_files: NonZeroU32,
    buffer: NonZeroUsize,
    process: Option<Box<str>>,
    workloads: HashMap<Workload, Box<str>>,
}

impl EventLog {
    /// Creates a log in the file at this path. Its directory must exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_size: MAX_SIZE,
            max_files: MAX_FILES,
            buffer: BUFFER,
            process: None,
            workloads: HashMap::new(),
        }
    }

    /// Sets the greatest size of a file in bytes. 64 MiB by default, which is about 100,000 rows. A
    /// row that is larger has a file of its own.
    pub const fn with_max_size(mut self, bytes: NonZeroU64) -> Self {
        self.max_size = bytes;
        self
    }

    /// Sets the greatest number of files, the current one included. 8 by default. With 1, a full
    /// file is removed.
    pub const fn with_max_files(mut self, files: NonZeroU32) -> Self {
        self.max_files = files;
        self
    }

    /// Sets the most bytes of rows that wait for the writer. 4 MiB by default. Further rows are
    /// lost. The writer itself may hold as many.
    pub const fn with_buffer(mut self, bytes: NonZeroUsize) -> Self {
        self.buffer = bytes;
        self
    }

    /// Sets the name of the process in rows, such as a host name. Random by default.
    pub fn with_process(mut self, name: &str) -> Self {
        self.process = Some(name.into());
        self
    }

    /// Adds a name of a [`Workload`], for the field `tag`. Events have only the hash of the name,
    /// which is the tag of other workloads.
    pub fn with_workload(mut self, name: &str) -> Self {
        self.workloads.insert(Workload::named(name), name.into());
        self
    }

    /// Returns the files of the log that exist, the oldest first.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        file::files(&self.path)
    }

    /// Opens the file. Returns an observer that queues rows, and their writer.
    ///
    /// This blocks. Call it before the runtime is busy.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or is not a regular file.
    pub fn open(self) -> io::Result<(EventLogObserver, EventLogWriter)> {
        let file = LogFile::open(&self.path, self.max_size, self.max_files)?;
        let process = self.process.unwrap_or_else(|| {
            let random = RandomState::new().hash_one("process") >> 32;
            format!("{random:08x}").into()
        });
        let names = Names {
            process,
            workloads: RwLock::new(self.workloads),
        };
        let log = Arc::new(Shared {
            queue: Queue::new(self.buffer.get()),
            names,
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
        });
        let writer = EventLogWriter {
            log: log.clone(),
            file,
            retry_pause: RETRY_PAUSE,
        };
        let observer = EventLogObserver(Arc::new(Producer(log)));
        Ok((observer, writer))
    }
}

/// The state that observers and the writer share.
#[derive(Debug)]
struct Shared {
    queue: Queue,
    names: Names,
    written: AtomicU64,
    lost: AtomicU64,
    is_failing: AtomicBool,
}

/// The producing end of a queue, which closes it.
#[derive(Debug)]
struct Producer(Arc<Shared>);

impl Drop for Producer {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

/// An observer that queues a row for each attempt. See [`EventLog::open`].
///
/// Cheap to clone. Clones share the log. Give one to each layer that sends requests, best to all
/// layers. `(log, observer)` is an observer as well, for a program that has another one.
#[derive(Clone, Debug)]
pub struct EventLogObserver(Arc<Producer>);

/// The state of an event log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventLogSnapshot {
    /// The rows that were written.
    pub written: u64,
    /// The rows that were lost.
    pub lost: u64,
    /// True if the last attempt to write has failed.
    pub is_failing: bool,
}

impl EventLogObserver {
    /// Ends the log. The writer writes the rows that wait, and its `run` returns. Rows of later
    /// events are lost.
    ///
    /// The log ends as well when all observers are dropped.
    pub fn close(&self) {
        self.0.0.queue.close();
    }

    /// Adds a name of a [`Workload`], as [`EventLog::with_workload`] does.
    pub fn name_workload(&self, name: &str) {
        self.0.0.names.name_workload(name);
    }

    /// Returns the state of the log.
    #[must_use]
    pub fn snapshot(&self) -> EventLogSnapshot {
        let log = &self.0.0;
        EventLogSnapshot {
            written: log.written.load(Ordering::Relaxed),
            lost: log.lost.load(Ordering::Relaxed),
            is_failing: log.is_failing.load(Ordering::Relaxed),
        }
    }

    fn push(&self, row: &[u8], now: SystemTime) {
        let log = &self.0.0;
        if let Pushed::Lost { is_first } = log.queue.push(row, now) {
            log.lost.fetch_add(1, Ordering::Relaxed);
            if is_first {
                tracing::warn!(target: TARGET, "rows of the event log are lost: it is full or closed");
            }
        }
    }

    fn record(&self, event: &Event<'_>, now: SystemTime) {
        let names = &self.0.0.names;
        let row = match event {
            Event::AttemptEnded(end) => Some(names.attempt(end, now)),
            Event::CallEnded(end) => names.unsent(end, now),
            _ => None,
        };
        if let Some(row) = row {
            self.push(&row, now);
        }
    }
}

impl Observer for EventLogObserver {
    fn on_event(&self, event: &Event<'_>) {
        self.record(event, SystemTime::now());
    }

    fn wants_details(&self) -> bool {
        true
    }
}

/// A writer of the rows of an event log.
#[must_use = "rows are written while `run` runs"]
pub struct EventLogWriter {
    log: Arc<Shared>,
    file: LogFile,
    retry_pause: Duration,
}

impl EventLogWriter {
    /// Returns the path of the current file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Writes rows until the log is closed. This blocks, so call it in a thread of its own.
    ///
    /// After that, a row that cannot be written is lost.
    pub fn run(mut self) {
        let mut rows = Vec::new();
        while let Some(lost) = self.log.queue.take(&mut rows) {
            if let Some(lost) = lost {
                rows.extend(self.log.names.lost(&lost));
            }
            self.write(&rows);
            rows.clear();
            rows.shrink_to(KEPT_CAPACITY);
        }
        if let Err(error) = self.file.sync() {
            tracing::warn!(target: TARGET, %error, "the event log may not be durable");
        }
    }

    /// Writes lines. Tries again until they are written or the log is closed.
    fn write(&mut self, lines: &[u8]) {
        let count = |lines: &[u8]| lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        let (mut written, mut is_last) = (0, false);
        loop {
            let before = written;
            let result = self.file.append(&lines[written..], &mut written);
            let new = count(&lines[before..written]);
            self.log.written.fetch_add(new, Ordering::Relaxed);
            let path = self.file.path().display();
            let Err(error) = result else {
                if self.log.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(target: TARGET, %path, "the event log is written again");
                }
                return;
            };
            if !self.log.is_failing.swap(true, Ordering::Relaxed) {
                tracing::error!(target: TARGET, %path, %error, "the event log cannot be written");
            }
            if is_last {
                let rest = count(&lines[written..]);
                self.log.lost.fetch_add(rest, Ordering::Relaxed);
                tracing::error!(target: TARGET, %path, rows = rest, "rows of the event log are lost");
                return;
            }
            // After the end there is one more attempt.
            is_last = self.log.queue.wait_closed(self.retry_pause);
        }
    }
}

impl fmt::Debug for EventLogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLogWriter")
            .field("path", &self.file.path())
            .finish_non_exhaustive()
    }
}
