//! The journal of batches that are paid for.

pub(crate) mod file;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use crate::id::{BatchNumber, ItemId, PoolId, random_bytes};

/// An entry of a journal. It contains neither prompts nor credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// A batch is about to be created.
    Planned {
        /// The number of the batch.
        batch: BatchNumber,
        /// The pool of calls.
        pool: PoolId,
        /// The time.
        at: SystemTime,
        /// The calls of the batch.
        items: Vec<ItemId>,
    },
    /// The API has created a batch.
    Created {
        /// The number of the batch.
        batch: BatchNumber,
        /// The id of the batch at the API.
        id: String,
    },
    /// Callers have received their answers.
    Delivered {
        /// The number of the batch.
        batch: BatchNumber,
        /// The time.
        at: SystemTime,
        /// The calls.
        items: Vec<ItemId>,
    },
    /// A batch was not created, or nothing of it is needed any more.
    Closed {
        /// The number of the batch.
        batch: BatchNumber,
    },
}

/// A journal of the batches that exist, so that a program that starts again uses their answers.
///
/// It is used by one driver. A persistent journal is only called where blocking is allowed.
pub trait Journal: Send + 'static {
    /// Returns the secret that names calls and pools. It must be the same after a restart, and is
    /// as confidential as the journal.
    fn secret(&self) -> [u8; 32];

    /// Returns all records in the order in which they were appended. Called once, at the start.
    fn replay(&mut self) -> Vec<Record>;

    /// Appends records. If `durable` is true, they must survive a crash of the machine when this
    /// function returns.
    ///
    /// # Errors
    /// Returns the error of the store. The records may be lost then.
    fn append(&mut self, records: &[Record], durable: bool) -> Result<(), JournalError>;

    /// Replaces all records by these, which have the same effect.
    ///
    /// # Errors
    /// Returns the error of the store. The old records must be there then.
    fn compact(&mut self, records: &[Record]) -> Result<(), JournalError>;

    /// Returns true if the records are there after a restart of the program. The driver then calls
    /// [`append`](Self::append) and [`compact`](Self::compact) in tokio's pool for blocking calls,
    /// and keeps batches whose callers have gone away.
    fn is_persistent(&self) -> bool;
}

/// An error of a journal.
#[derive(Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// The store failed.
    Io {
        /// The action that failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Another journal of this or another process has opened the file.
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a journal.
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is a journal of another version.
    Version {
        /// The file.
        path: PathBuf,
        /// The version.
        version: String,
    },
    /// The journal has panicked.
    Gone,
    /// A line before the last one is damaged.
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl JournalError {
    /// Returns the cause in one word, for logs and metrics.
    #[must_use]
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Locked { .. } => "locked",
            Self::Foreign { .. } => "foreign",
            Self::Version { .. } => "version",
            Self::Gone => "gone",
            Self::Damaged { .. } => "damaged",
        }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                action,
                path,
                source,
            } => write!(f, "cannot {action} {}: {source}", path.display()),
            Self::Gone => f.write_str("the journal has panicked"),
            Self::Locked { path } => write!(f, "{} is in use by another journal", path.display()),
            Self::Foreign { path } => write!(f, "{} is not a journal of batches", path.display()),
            Self::Version { path, version } => write!(
                f,
                "{} has the format {version}, which this version does not read",
                path.display()
            ),
            Self::Damaged { path, line } => {
                write!(f, "{} is damaged at line {line}", path.display())
            }
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A journal in memory, which ends with the program. Clones share their records, so that another
/// layer can take over the batches of one that was dropped.
#[derive(Clone)]
pub struct MemoryJournal {
    secret: [u8; 32],
    records: Arc<Mutex<Vec<Record>>>,
}

impl MemoryJournal {
    /// Creates an empty journal.
    #[must_use]
    pub fn new() -> Self {
        Self {
            secret: random_bytes(),
            records: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryJournal {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryJournal")
            .field("records", &self.lock().len())
            .finish_non_exhaustive()
    }
}

impl Journal for MemoryJournal {
    fn secret(&self) -> [u8; 32] {
        self.secret
    }

    fn replay(&mut self) -> Vec<Record> {
        self.lock().clone()
    }

    fn append(&mut self, records: &[Record], _: bool) -> Result<(), JournalError> {
        self.lock().extend_from_slice(records);
        Ok(())
    }

    fn compact(&mut self, records: &[Record]) -> Result<(), JournalError> {
        *self.lock() = records.to_vec();
        Ok(())
    }

    fn is_persistent(&self) -> bool {
        false
    }
}
