//! One stream of a job on disk, within its limit: the first half is written straight to the file, the last half goes round in
//! a second file of bounded size and is appended at the end, after a line that says how much is missing between them.
//!
//! So what a reader of the file has seen never changes. While the job runs nothing beyond the first half is shown.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Stream {
    head: File,
    head_left: u64,
    tail: Option<File>,
    tail_path: PathBuf,
    tail_max: u64,
    /// Bytes that went to the tail, also those overwritten since.
    tail_bytes: u64,
    /// Bytes the job wrote.
    total_bytes: u64,
    /// A write failed: what comes is counted and thrown away.
    failed: bool,
}

impl Stream {
    /// Creates the file; it must not exist.
    pub(crate) fn create(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let head_left = bytes_max.div_ceil(2);
        Ok(Self {
            head: OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?,
            head_left,
            tail: None,
            tail_path: path.with_extension("tail"),
            tail_max: bytes_max - head_left,
            tail_bytes: 0,
            total_bytes: 0,
            failed: false,
        })
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Takes what the job wrote. After an error everything is thrown away and no more errors come.
    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.total_bytes += data.len() as u64;
        if self.failed {
            return Ok(());
        }
        let outcome = self.store(data);
        self.failed = outcome.is_err();
        outcome
    }

    fn store(&mut self, data: &[u8]) -> io::Result<()> {
        let cut = usize::try_from(self.head_left).map_or(data.len(), |left| left.min(data.len()));
        let (head, mut rest) = data.split_at(cut);
        self.head.write_all(head)?;
        self.head_left -= cut as u64;
        while !rest.is_empty() && self.tail_max > 0 {
            let position = self.tail_bytes % self.tail_max;
            let room = usize::try_from(self.tail_max - position).map_or(rest.len(), |room| room.min(rest.len()));
            let (now, later) = rest.split_at(room);
            self.tail()?.write_all_at(now, position)?;
            self.tail_bytes += room as u64;
            rest = later;
        }
        if self.tail_max == 0 {
            self.tail_bytes += rest.len() as u64;
        }
        Ok(())
    }

    fn tail(&mut self) -> io::Result<&mut File> {
        if self.tail.is_none() {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&self.tail_path)?;
            self.tail = Some(file);
        }
        self.tail.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Appends the tail, and has all of it on disk: the result, which says that it is whole, follows. Call once, at the end.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let outcome = self.append_tail();
        let outcome =
            outcome.and_then(|()| if self.total_bytes > 0 && !self.failed { self.head.sync_data() } else { Ok(()) });
        if self.tail.take().is_some() {
            let _ = fs::remove_file(&self.tail_path);
        }
        outcome
    }

    fn append_tail(&mut self) -> io::Result<()> {
        if self.failed || self.tail_bytes == 0 {
            return Ok(());
        }
        let lost = self.tail_bytes.saturating_sub(self.tail_max);
        if lost > 0 {
            write!(self.head, "\n[muster: {lost} bytes left out]\n")?;
        }
        let Some(tail) = self.tail.as_mut() else {
            return Ok(());
        };
        // The oldest byte is where the next one would have gone.
        let oldest = if lost > 0 { self.tail_bytes % self.tail_max } else { 0 };
        tail.seek(SeekFrom::Start(oldest))?;
        io::copy(tail, &mut self.head)?;
        tail.seek(SeekFrom::Start(0))?;
        io::copy(&mut tail.take(oldest), &mut self.head)?;
        Ok(())
    }

    /// Gives disk space back so that the result of a job that filled the disk can be written.
    pub(crate) fn make_room(&mut self) {
        self.failed = true;
        let _ = self.finish();
        if let Ok(metadata) = self.head.metadata() {
            let _ = self.head.set_len(metadata.len().saturating_sub(64 << 10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to cut, in pieces of several sizes, against the plain rule.
    #[test]
    fn first_and_last_half_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (b'a'..=b'z').collect();
        for bytes_max in 0..30_usize {
            for piece in [1, 3, 7, 26] {
                let path = dir.path().join("stdout");
                let mut stream = Stream::create(&path, bytes_max as u64).unwrap();
                for piece in data.chunks(piece) {
                    stream.write(piece).unwrap();
                }
                stream.finish().unwrap();
                let mut expected = data.clone();
                if bytes_max < data.len() {
                    let (head, tail) = (bytes_max.div_ceil(2), bytes_max / 2);
                    let mark = format!("\n[muster: {} bytes left out]\n", data.len() - bytes_max);
                    expected = [&data[..head], mark.as_bytes(), &data[data.len() - tail..]].concat();
                }
                assert_eq!(fs::read(&path).unwrap(), expected, "limit {bytes_max}, pieces of {piece}");
                assert_eq!(stream.total_bytes(), 26);
                assert!(!dir.path().join("stdout.tail").exists());
                fs::remove_file(path).unwrap();
            }
        }
    }
    /// The device is always full: the nearest to a full disk that needs no disk.
    #[test]
    fn a_full_disk_is_told_once_and_what_comes_is_only_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut stream = Stream::create(&dir.path().join("stdout"), 1000).unwrap();
        stream.head = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = stream.write(b"more").unwrap_err();
        assert!(crate::run::is_full(&error), "{error}");
        stream.write(b"and more").unwrap();
        stream.finish().unwrap();
        assert_eq!(stream.total_bytes(), 12);
    }
}
