//! Taking a result's tar stream apart (spec 70 §4). Archives from a worker are not trusted: only regular files and directories,
//! beneath a fresh directory, with limits; nothing is followed, owned or executable by the worker's choice.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::core::settings::LOG_BYTES_MAX;

/// Entries of one result: a runner sends up to 100,000 of outputs, and a few of its own.
const ENTRIES_MAX: usize = 100_016;
/// With more files than this they are synced together at the end: one by one would take minutes.
const SYNCED_ALONE_MAX: usize = 64;
/// Room for headers, result.json and the marks of cut streams, beside the configured limits.
const ALLOWANCE: u64 = 16 * 1024 * 1024;
/// Read and written at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// Of headers between two files: long names and the like, which the crate reads whole before it shows an entry.
const BETWEEN_BYTES_MAX: u64 = 1024 * 1024;
/// Of a whole path here, as the kernel has it: looked at before the first of its directories is made.
const PATH_BYTES_MAX: usize = 4095;
/// Deeper than a runner sends, and little enough for what removes such a tree with a descriptor for each level.
const DEPTH_MAX: usize = 128;
/// Names of directories are remembered, and one entry may name hundreds: their number has the limit of entries, and all of their bytes
/// this one. A runner sends half of that.
const DIRECTORY_NAMES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of what was left out so many names are told, and so much of each.
const LEFT_OUT_MAX: usize = 100;
const TOLD_CHARACTERS_MAX: usize = 200;

/// An archive whose bytes are counted: there are never more than what was agreed to.
struct Metered<'a, R> {
    archive: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other("more than 1 MiB between two files"));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.archive.read(&mut buffer[..most])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

/// Limits of one result, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct UnpackLimits {
    /// Each of `stdout` and `stderr`.
    pub log_bytes: u64,
    /// All of `outputs/` together.
    pub output_bytes: u64,
}

/// Why a result was not stored.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is cut, damaged or hostile: the worker's fault.
    #[error("the result's archive is not acceptable: {0}")]
    Archive(String),
    /// Our own storage failed.
    #[error("cannot store {path}")]
    Storage {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What has become of an archive.
#[derive(Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Names that were not stored, sorted: at most 100 and a line that says how many more.
    pub left_out: Vec<String>,
    /// `outputs/` is above its limit: none of it is here, and the rest of the archive was not read.
    pub outputs_too_large: bool,
}

fn refuse(text: impl std::fmt::Display) -> UnpackError {
    UnpackError::Archive(text.to_string())
}

/// As much of a name as people are told.
fn told(name: &Path) -> String {
    let bytes = name.as_os_str().as_bytes();
    // Enough for the characters that are kept, whatever they are.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TOLD_CHARACTERS_MAX * 4)]);
    match text.char_indices().nth(TOLD_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// The names of entries that were not stored, in bounded memory.
#[derive(Debug, Default)]
struct LeftOut {
    names: BTreeSet<String>,
    more: usize,
}

impl LeftOut {
    fn add(&mut self, name: &Path) {
        if self.names.len() >= LEFT_OUT_MAX {
            self.more += 1;
            return;
        }
        self.names.insert(told(name));
    }

    fn into_names(self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.names.into_iter().chain(more).collect()
    }
}

/// The directories of a result that were made here, in bounded memory.
#[derive(Debug, Default)]
struct Made {
    /// Relative to the result's.
    paths: BTreeSet<PathBuf>,
    bytes: usize,
}

impl Made {
    fn add(&mut self, path: &Path) -> Result<(), UnpackError> {
        self.bytes += path.as_os_str().len();
        self.paths.insert(path.to_owned());
        if self.paths.len() > ENTRIES_MAX || self.bytes > DIRECTORY_NAMES_BYTES_MAX {
            return Err(refuse(format!(
                "more than {ENTRIES_MAX} directories, or {DIRECTORY_NAMES_BYTES_MAX} bytes of their names"
            )));
        }
        Ok(())
    }
}

/// Unpacks `archive` into `directory`, which must be new and empty, and syncs every file and directory.
/// Links, devices, sparse files and whatever else is no plain file or directory, names that came before, and names that are too long or
/// too deep for our file system, are left out; their names are returned. Nothing is decompressed.
///
/// Of `stdout` and `stderr` above their limit the beginning and the end are kept, with a mark between them. Outputs above theirs are
/// left out as a whole, if `result.json` came before them: the limits may have been lowered since the job began, and its result counts.
///
/// # Errors
/// See [`UnpackError`]; what was written so far stays, for the caller to remove.
pub fn unpack(archive: impl Read, directory: &Path, limits: UnpackLimits) -> Result<Unpacked, UnpackError> {
    let left = Cell::new(BETWEEN_BYTES_MAX);
    let mut archive = tar::Archive::new(Metered { archive, left: &left });
    let entries = archive.entries().map_err(refuse)?;
    let mut unpacking = Unpacking {
        directory,
        limits,
        output_bytes: 0,
        other_bytes: 0,
        files: 0,
        made: Made::default(),
        left_out: LeftOut::default(),
    };
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(refuse)?;
        if count >= ENTRIES_MAX {
            return Err(refuse(format!("more than {ENTRIES_MAX} entries")));
        }
        left.set(BETWEEN_BYTES_MAX);
        if unpacking.entry(&mut entry, &left)? == Next::Stop {
            unpacking.drop_outputs()?;
            return Ok(Unpacked { left_out: unpacking.sync()?, outputs_too_large: true });
        }
    }
    Ok(Unpacked { left_out: unpacking.sync()?, outputs_too_large: false })
}

/// What follows an entry.
#[derive(PartialEq, Eq)]
enum Next {
    More,
    /// Nothing that is wanted.
    Stop,
}

struct Unpacking<'a> {
    directory: &'a Path,
    limits: UnpackLimits,
    output_bytes: u64,
    other_bytes: u64,
    files: usize,
    made: Made,
    left_out: LeftOut,
}

impl Unpacking<'_> {
    /// `left`: what may be read until the next entry.
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, left: &Cell<u64>) -> Result<Next, UnpackError> {
        let name = entry.path().map_err(refuse)?.into_owned();
        let relative = safe_path(&name)?;
        let stored = match entry.header().entry_type() {
            tar::EntryType::Directory => self.make_directories(&relative)?,
            tar::EntryType::Regular if is_plain(entry)? => {
                if relative == Path::new("outputs") {
                    return Err(refuse("its outputs are a file"));
                }
                let size = entry.size();
                let Some(kept) = self.kept(&relative, size)? else {
                    return Ok(Next::Stop);
                };
                left.set(size.saturating_add(BETWEEN_BYTES_MAX));
                self.files += 1;
                // What a job made executable stays so, and nothing else of its mode (spec 70 §4).
                let is_program = relative.starts_with("outputs") && entry.header().mode().map_err(refuse)? & 0o111 != 0;
                let mode = if is_program { 0o755 } else { 0o644 };
                self.make_directories(relative.parent().unwrap_or(Path::new("")))?
                    && self.can_be_file(&relative)
                    && write_file(
                        entry,
                        &self.directory.join(&relative),
                        (size, kept, mode),
                        self.files <= SYNCED_ALONE_MAX,
                    )?
            }
            _ => false,
        };
        if !stored {
            self.left_out.add(&name);
        }
        Ok(Next::More)
    }

    /// How much is stored of a file of this size. `None`: it is one output too many.
    fn kept(&mut self, relative: &Path, size: u64) -> Result<Option<u64>, UnpackError> {
        let UnpackLimits { log_bytes, output_bytes } = self.limits;
        if relative.starts_with("outputs") {
            self.output_bytes = self.output_bytes.saturating_add(size);
            return match self.output_bytes <= output_bytes {
                true => Ok(Some(size)),
                false if self.directory.join("result.json").is_file() => Ok(None),
                false => {
                    let (name, bytes) = (told(relative), self.output_bytes);
                    Err(refuse(format!("{name} needs {bytes} bytes, {output_bytes} are allowed")))
                }
            };
        }
        let most = log_bytes.saturating_add(ALLOWANCE);
        let is_stream = relative == Path::new("stdout") || relative == Path::new("stderr");
        let kept = if is_stream && size > most && size <= LOG_BYTES_MAX + ALLOWANCE { log_bytes } else { size };
        if kept > most {
            return Err(refuse(format!("{} needs {size} bytes, {most} are allowed", told(relative))));
        }
        // Two streams and the result itself: however many files there are.
        self.other_bytes = self.other_bytes.saturating_add(kept);
        let most = log_bytes.saturating_mul(2).saturating_add(3 * ALLOWANCE);
        if self.other_bytes > most {
            let bytes = self.other_bytes;
            return Err(refuse(format!("all but its outputs needs {bytes} bytes and more, {most} are allowed")));
        }
        Ok(Some(kept))
    }

    fn drop_outputs(&mut self) -> Result<(), UnpackError> {
        let outputs = self.directory.join("outputs");
        match std::fs::remove_dir_all(&outputs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(storage(&outputs)(error)),
            _ => {}
        }
        self.made.paths.retain(|path| !path.starts_with("outputs"));
        Ok(())
    }

    /// A name that a file can have here: of something in the directory, and neither too long nor too deep for what will be done with it.
    fn can_be_file(&self, relative: &Path) -> bool {
        relative.file_name().is_some() && self.fits(relative)
    }

    fn fits(&self, relative: &Path) -> bool {
        self.directory.as_os_str().len() + 1 + relative.as_os_str().len() <= PATH_BYTES_MAX
            && relative.components().count() <= DEPTH_MAX
    }

    /// Makes each missing directory itself, so that none of them is a link that the archive made. False for a name that cannot be.
    fn make_directories(&mut self, relative: &Path) -> Result<bool, UnpackError> {
        if !self.fits(relative) {
            return Ok(false);
        }
        let mut path = PathBuf::new();
        for part in relative.components() {
            path.push(part);
            if self.made.paths.contains(&path) {
                continue;
            }
            let target = self.directory.join(&path);
            match DirBuilder::new().mode(0o755).create(&target) {
                Ok(()) => self.made.add(&path)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(refuse(format!("{} is a file and a directory", target.display())));
                }
                Err(error) if is_bad_name(&error) => return Ok(false),
                Err(error) => return Err(storage(&target)(error)),
            }
        }
        Ok(true)
    }

    /// Everything is durable when this returns; what was left out.
    fn sync(self) -> Result<Vec<String>, UnpackError> {
        if self.files > SYNCED_ALONE_MAX {
            let synced = File::open(self.directory).and_then(|opened| Ok(rustix::fs::syncfs(&opened)?));
            synced.map_err(storage(self.directory))?;
        }
        for path in self.made.paths.iter().rev() {
            sync_directory(&self.directory.join(path))?;
        }
        sync_directory(self.directory)?;
        Ok(self.left_out.into_names())
    }
}

/// Its bytes in the archive are its content. Of a sparse file in the PAX form they are a map and parts of it.
fn is_plain(entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, UnpackError> {
    let Some(extensions) = entry.pax_extensions().map_err(refuse)? else { return Ok(true) };
    for extension in extensions {
        if extension.map_err(refuse)?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Only names: no root, no `..`.
fn safe_path(name: &Path) -> Result<PathBuf, UnpackError> {
    let mut safe = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => safe.push(part),
            Component::CurDir => {}
            _ => return Err(refuse(format!("the name {:?} leads out of it", told(name)))),
        }
    }
    Ok(safe)
}

fn storage(path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    move |source| UnpackError::Storage { path: path.to_owned(), source }
}

/// The name is none for our file system: too long where it is to be, or with a byte of zero. A job may make such names; it is no fault
/// of our storage, which would be tried again for ever.
fn is_bad_name(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput)
}

/// False for a name that came before (outputs may overlap): what is there stays; and for one that cannot be. Of a file of `size` bytes
/// only `kept` are stored if that is less: its beginning, a mark, and its end.
fn write_file(
    entry: &mut impl Read,
    target: &Path,
    (size, kept, mode): (u64, u64, u32),
    sync: bool,
) -> Result<bool, UnpackError> {
    // create_new: nothing that exists is followed or written over.
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(target) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists || is_bad_name(&error) => return Ok(false),
        Err(error) => return Err(storage(target)(error)),
    };
    let lost = size.saturating_sub(kept);
    let beginning = if lost == 0 { size } else { kept.div_ceil(2) };
    copy(entry, &mut file, target, beginning)?;
    if lost > 0 {
        copy(entry, &mut io::sink(), target, lost)?;
        // As a runner marks what it left out.
        write!(file, "\n[muster: {lost} bytes left out]\n").map_err(storage(target))?;
        copy(entry, &mut file, target, kept - beginning)?;
    }
    if sync {
        file.sync_data().map_err(storage(target))?;
    }
    Ok(true)
}

fn copy(entry: &mut impl Read, to: &mut impl Write, target: &Path, size: u64) -> Result<(), UnpackError> {
    let mut left = size;
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES)];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let count = entry.read(&mut buffer[..most]).map_err(refuse)?;
        if count == 0 {
            return Err(refuse("it ends in the middle of a file"));
        }
        to.write_all(&buffer[..count]).map_err(storage(target))?;
        left -= count as u64;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), UnpackError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(storage(path))
}

#[cfg(test)]
mod tests;
