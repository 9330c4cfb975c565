//! A journal in a file.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use fs4::TryLockError;

use super::{Journal, JournalError, Record};
use crate::id::{BatchNumber, Hex, ItemId, PoolId, parse_hex, random_bytes};

/// The first word of a journal.
const MAGIC: &str = "tower-claude-batch";
/// The version of the format.
const VERSION: &str = "1";

/// A journal in a file, which survives a crash of the program and of the machine.
///
/// Records are appended as lines, each with its length and a checksum. Before a batch is created
/// its record is synchronized to the disk. A last line that was cut by a crash is removed when the
/// file is opened. On Unix only the user can read the file. A second file with the suffix `.lock`
/// keeps other journals away while this one is open.
///
/// The file has no prompts and no credentials, but a secret: with it and the names of calls it can
/// be tested if a known request was made.
pub struct FileJournal {
    path: PathBuf,
    file: File,
    /// Held until the journal is dropped.
    _lock: File,
    secret: [u8; 32],
    records: Vec<Record>,
    /// The length up to which the file is whole. A failed write is cut off before the next one.
    length: u64,
    is_whole: bool,
}

impl FileJournal {
    /// Opens a journal, and creates it if there is none.
    ///
    /// This blocks. Call it before the runtime is busy.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, is in use, is no journal, or is damaged
    /// before its last line.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let path = path.into();
        let lock = open(&suffixed(&path, "lock"), true)?;
        match fs4::FileExt::try_lock(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        let mut file = open(&path, false)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed("read", &path))?;
        let Some(read) = read(&path, &text)? else {
            // New, or cut before its first line was whole.
            let secret = random_bytes();
            let head = head(&secret);
            file.set_len(0).map_err(failed("write", &path))?;
            file.write_all(head.as_bytes())
                .and_then(|()| file.sync_all())
                .and_then(|()| sync_folder(&path))
                .map_err(failed("write", &path))?;
            let length = head.len() as u64;
            return Ok(Self::new(path, file, lock, secret, Vec::new(), length));
        };
        file.set_len(read.length).map_err(failed("write", &path))?;
        Ok(Self::new(
            path,
            file,
            lock,
            read.secret,
            read.records,
            read.length,
        ))
    }

    fn new(
        path: PathBuf,
        file: File,
        lock: File,
        secret: [u8; 32],
        records: Vec<Record>,
        length: u64,
    ) -> Self {
        Self {
            path,
            file,
            _lock: lock,
            secret,
            records,
            length,
            is_whole: true,
        }
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Journal for FileJournal {
    fn secret(&self) -> [u8; 32] {
        self.secret
    }

    fn replay(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    fn append(&mut self, records: &[Record], durable: bool) -> Result<(), JournalError> {
        let text: String = records.iter().map(|record| line(&encode(record))).collect();
        let length = self.length;
        let mut write = || {
            if !self.is_whole {
                self.file.set_len(length)?;
            }
            self.is_whole = false;
            self.file.write_all(text.as_bytes())?;
            if durable {
                self.file.sync_data()?;
            }
            self.is_whole = true;
            Ok(())
        };
        write().map_err(failed("write", &self.path))?;
        self.length += text.len() as u64;
        Ok(())
    }

    fn compact(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let path = suffixed(&self.path, "new");
        let mut text = head(&self.secret);
        text.extend(records.iter().map(|record| line(&encode(record))));
        let write = || {
            let mut file = OpenOptions::new();
            private(&mut file);
            // Appended to from now on.
            let mut file = file.append(true).create(true).open(&path)?;
            file.set_len(0)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&path, &self.path)?;
            Ok(file)
        };
        // From here on the old file has no name, so that nothing may be appended to it.
        self.file = write().map_err(failed("replace", &self.path))?;
        (self.length, self.is_whole) = (text.len() as u64, true);
        sync_folder(&self.path).map_err(failed("replace", &self.path))
    }

    fn is_persistent(&self) -> bool {
        true
    }
}

impl fmt::Debug for FileJournal {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileJournal")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| JournalError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn private(_: &mut OpenOptions) {}

/// Opens a file to read and append, or the file of a lock.
fn open(path: &Path, is_lock: bool) -> Result<File, JournalError> {
    let mut options = OpenOptions::new();
    private(&mut options);
    if is_lock {
        options.write(true).truncate(false);
    } else {
        options.append(true);
    }
    let file = options.read(true).create(true).open(path);
    file.map_err(failed("open", path))
}

/// Makes the entry of a file in its folder durable.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

fn head(secret: &[u8; 32]) -> String {
    line(&format!("{MAGIC} {VERSION} {}", Hex(secret)))
}

/// Returns a line: the length of the text, its checksum, and the text.
fn line(text: &str) -> String {
    format!("{:x} {} {text}\n", text.len(), checksum(text))
}

fn checksum(text: &str) -> Hex8 {
    let hash = blake3::hash(text.as_bytes());
    let mut short = [0; 8];
    short.copy_from_slice(&hash.as_bytes()[..8]);
    Hex8(short)
}

#[derive(PartialEq)]
struct Hex8([u8; 8]);

impl fmt::Display for Hex8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

/// Returns the text of a line. `None` if the line is damaged.
fn text_of(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let (length, rest) = line.split_once(' ')?;
    let (sum, text) = rest.split_once(' ')?;
    let length = usize::from_str_radix(length, 16).ok()?;
    (text.len() == length && parse_hex(sum).map(Hex8)? == checksum(text)).then_some(text)
}

/// The content of a journal.
#[derive(Debug)]
struct Content {
    secret: [u8; 32],
    records: Vec<Record>,
    /// The length without a last line that is cut.
    length: u64,
}

/// Reads a journal. `None` if it is empty, or was cut before its first line was whole.
fn read(path: &Path, text: &[u8]) -> Result<Option<Content>, JournalError> {
    let foreign = || JournalError::Foreign {
        path: path.to_owned(),
    };
    let mut content: Option<Content> = None;
    let mut at = 0;
    let mut number = 0;
    while at < text.len() {
        number += 1;
        let end = memchr::memchr(b'\n', &text[at..]).map(|end| at + end);
        let is_last = end.is_none_or(|end| end + 1 == text.len());
        let found = end.and_then(|end| text_of(&text[at..end]));
        let next = end.map_or(text.len(), |end| end + 1);
        match (&mut content, found) {
            (None, Some(found)) => content = Some(read_head(path, found, next as u64)?),
            // The beginning of a first line, which a crash has cut.
            (None, None) if is_last && is_part_of_head(&text[at..]) => return Ok(None),
            (None, None) => return Err(foreign()),
            (Some(content), Some(found)) => {
                // A whole line that cannot be read was not written by this version.
                let record = decode(found).ok_or_else(|| JournalError::Damaged {
                    path: path.to_owned(),
                    line: number,
                })?;
                content.records.push(record);
                content.length = next as u64;
            }
            (Some(_), None) if is_last => break,
            (Some(_), None) => {
                return Err(JournalError::Damaged {
                    path: path.to_owned(),
                    line: number,
                });
            }
        }
        at = next;
    }
    Ok(content)
}

fn read_head(path: &Path, text: &str, length: u64) -> Result<Content, JournalError> {
    let path = || path.to_owned();
    let mut words = text.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(JournalError::Foreign { path: path() });
    }
    let version = words.next().unwrap_or_default();
    if version != VERSION {
        let version = version.to_owned();
        return Err(JournalError::Version {
            path: path(),
            version,
        });
    }
    let secret = words.next().and_then(parse_hex);
    let secret = secret.ok_or_else(|| JournalError::Foreign { path: path() })?;
    Ok(Content {
        secret,
        records: Vec::new(),
        length,
    })
}

/// Returns true if a text may be the beginning of a first line.
fn is_part_of_head(text: &[u8]) -> bool {
    let whole = head(&[0; 32]);
    // The length comes first, and is the same for all secrets.
    let length = whole.find(' ').map_or(0, |space| space + 1);
    text.len() < whole.len() && text.starts_with(&whole.as_bytes()[..length.min(text.len())])
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn encode(record: &Record) -> String {
    let list = |items: &[ItemId]| {
        let items: Vec<String> = items.iter().map(ToString::to_string).collect();
        items.join(",")
    };
    match record {
        Record::Planned {
            batch,
            pool,
            at,
            items,
        } => format!(
            "P {:x} {} {} {}",
            batch.0,
            Hex(&pool.0),
            millis(*at),
            list(items)
        ),
        Record::Created { batch, id } => format!("C {:x} {id}", batch.0),
        Record::Delivered { batch, at, items } => {
            format!("D {:x} {} {}", batch.0, millis(*at), list(items))
        }
        Record::Closed { batch } => format!("X {:x}", batch.0),
    }
}

fn decode(text: &str) -> Option<Record> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let batch = BatchNumber(u64::from_str_radix(words.next()?, 16).ok()?);
    let time = |word: Option<&str>| {
        let millis = Duration::from_millis(word?.parse().ok()?);
        SystemTime::UNIX_EPOCH.checked_add(millis)
    };
    let list = |word: Option<&str>| -> Option<Vec<ItemId>> {
        match word? {
            "" => Some(Vec::new()),
            items => items.split(',').map(|item| item.parse().ok()).collect(),
        }
    };
    let record = match kind {
        "P" => Record::Planned {
            batch,
            pool: PoolId(parse_hex(words.next()?)?),
            at: time(words.next())?,
            items: list(words.next())?,
        },
        "C" => Record::Created {
            batch,
            id: words.next()?.to_owned(),
        },
        "D" => Record::Delivered {
            batch,
            at: time(words.next())?,
            items: list(words.next())?,
        },
        "X" => Record::Closed { batch },
        _ => return None,
    };
    words.next().is_none().then_some(record)
}
