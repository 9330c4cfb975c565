//! The files of a log: appending, and rotation by size.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    num::{NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
};

use fs4::TryLockError;

/// The current file of a log, and the rotated ones beside it.
///
/// Only whole lines are appended. After a write that was cut, the next one begins with a line
/// break, so that the damage is one line.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    max_size: NonZeroU64,
    max_files: NonZeroU32,
    current: Option<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// The last line has no line break.
    is_cut: bool,
}

impl OpenFile {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        private(&mut options);
        let mut file = options.read(true).append(true).create(true).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            let message = "the log is not a regular file";
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
        let mut last = [b'\n'];
        if metadata.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self {
            file,
            is_cut: last != *b"\n",
        })
    }

    /// Appends lines, as [`write_lines`] does.
    fn append(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        write_lines(&mut self.file, &mut self.is_cut, lines, written)
    }
}

/// Writes lines, and adds the length of those that were written as a whole to `written`. `is_cut`
/// is true while the last line has no line break.
fn write_lines(
    out: &mut impl Write,
    is_cut: &mut bool,
    lines: &[u8],
    written: &mut usize,
) -> io::Result<()> {
    if *is_cut {
        out.write_all(b"\n")?;
        *is_cut = false;
    }
    let mut at = 0;
    while at < lines.len() {
        let error = match out.write(&lines[at..]) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(length) => {
                at += length;
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        let whole = whole_lines(&lines[..at]);
        *is_cut = at > whole;
        *written += whole;
        return Err(error);
    }
    *written += at;
    Ok(())
}

/// Returns the length of the whole lines at the start of a text.
fn whole_lines(text: &[u8]) -> usize {
    let last = text.iter().rposition(|byte| *byte == b'\n');
    last.map_or(0, |last| last + 1)
}

/// Returns the length of the first line.
fn first_line(text: &[u8]) -> usize {
    let end = text.iter().position(|byte| *byte == b'\n');
    end.map_or(text.len(), |end| end + 1)
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn private(_: &mut OpenOptions) {}

#[cfg(unix)]
fn is_same(file: &File, at_path: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let opened = file.metadata();
    opened.is_ok_and(|opened| (opened.dev(), opened.ino()) == (at_path.dev(), at_path.ino()))
}

#[cfg(not(unix))]
fn is_same(_: &File, _: &Metadata) -> bool {
    true
}

/// Returns the path of a rotated file. Number 1 is the newest.
fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Returns the files of a log that exist, the oldest first.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let numbers = 1..=u32::MAX;
    let rotated = numbers.map(|number| rotated(path, number));
    let mut files: Vec<_> = rotated.take_while(|path| path.exists()).collect();
    files.reverse();
    files.extend(path.exists().then(|| path.to_owned()));
    files
}

/// Treats a file that is not there as done.
fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

impl LogFile {
    /// Opens the file of a log, and creates it if there is none.
    pub(super) fn open(
        path: &Path,
        max_size: NonZeroU64,
        max_files: NonZeroU32,
    ) -> io::Result<Self> {
        // The program may change its directory.
        let path = std::path::absolute(path)?;
        let current = OpenFile::open(&path)?;
        Ok(Self {
            path,
            max_size,
            max_files,
            current: Some(current),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends lines, as [`write_lines`] does. A file that was moved or removed
    /// is replaced by a new one.
    pub(super) fn append(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        let (start, max_size) = (*written, self.max_size.get());
        while *written - start < lines.len() {
            let rest = &lines[*written - start..];
            let (file, size) = self.current()?;
            let room = max_size.saturating_sub(size);
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let fitting = match rest.len() <= room {
                true => rest.len(),
                false => whole_lines(&rest[..room]),
            };
            if fitting > 0 {
                file.append(&rest[..fitting], written)?;
            } else if size == 0 {
                // A line that no file has room for has a file of its own.
                file.append(&rest[..first_line(rest)], written)?;
            } else if !self.rotate()? {
                // Another process is about to do so. Until then the file is larger.
                let (file, _) = self.current()?;
                file.append(&rest[..first_line(rest)], written)?;
            }
        }
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.current
            .as_ref()
            .map_or(Ok(()), |open| open.file.sync_data())
    }

    /// Returns the file at the path, with its size. Another process may have rotated it.
    fn current(&mut self) -> io::Result<(&mut OpenFile, u64)> {
        let size = match fs::metadata(&self.path) {
            Ok(found) => {
                let current = self.current.as_ref();
                let is_ours = current.is_some_and(|open| is_same(&open.file, &found));
                is_ours.then_some(found.len())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let open = match (self.current.take(), size) {
            (Some(open), Some(_)) => open,
            _ => OpenFile::open(&self.path)?,
        };
        let size = match size {
            Some(size) => size,
            None => open.file.metadata()?.len(),
        };
        Ok((self.current.insert(open), size))
    }

    /// Renames the current file, and those before it. The oldest is removed. Returns false if
    /// another process does so at this moment.
    fn rotate(&mut self) -> io::Result<bool> {
        let Some(open) = self.current.take() else {
            return Ok(true);
        };
        // Released when the file is closed. Without it, two processes could rename one file to the
        // name of another.
        match fs4::FileExt::try_lock(&open.file) {
            Err(TryLockError::WouldBlock) => {
                self.current = Some(open);
                return Ok(false);
            }
            // Some file systems have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let is_ours = fs::metadata(&self.path).is_ok_and(|found| is_same(&open.file, &found));
        if !is_ours {
            return Ok(true);
        }
        let last = self.max_files.get() - 1;
        // There are more of them after the number was decreased.
        for number in (last.max(1)..).take_while(|number| rotated(&self.path, *number).exists()) {
            fs::remove_file(rotated(&self.path, number))?;
        }
        for number in (1..last).rev() {
            let (from, to) = (rotated(&self.path, number), rotated(&self.path, number + 1));
            if_there(fs::rename(from, to))?;
        }
        if_there(match last {
            0 => fs::remove_file(&self.path),
            _ => fs::rename(&self.path, rotated(&self.path, 1)),
        })?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for some bytes.
    struct Disk {
        content: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let length = bytes.len().min(self.room - self.content.len());
            if length == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.content.extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn full_disk_keeps_whole_lines_and_gets_the_cut_one_again() {
        for room in 0..12 {
            let mut disk = Disk {
                content: Vec::new(),
                room,
            };
            let (lines, mut is_cut, mut written) = (b"one\ntwo\nend\n", false, 0);
            let result = write_lines(&mut disk, &mut is_cut, lines, &mut written);
            assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
            assert_eq!(written, room / 4 * 4, "room for {room}");
            assert_eq!(is_cut, room % 4 > 0);
            disk.room = 100;
            let rest = &lines[written..];
            write_lines(&mut disk, &mut is_cut, rest, &mut written).unwrap();
            assert_eq!(written, lines.len());
            let text = String::from_utf8(disk.content).unwrap();
            let whole = text.lines().filter(|line| line.len() == 3);
            // A line of which only the break is missing is complete.
            let expected = if room % 4 == 3 { 4 } else { 3 };
            assert_eq!(whole.count(), expected, "{text:?}");
        }
    }
}
