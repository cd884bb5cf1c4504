//! Taking a result's tar stream apart (spec 70 §4). Archives from a worker are not trusted: only regular files and directories,
//! beneath a fresh directory, with limits; nothing is followed, owned or executable by the worker's choice.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// Entries of one result: a runner sends up to 100,000 of outputs, and a few of its own.
const ENTRIES_MAX: usize = 100_016;
/// With more files than this they are synced together at the end: one by one would take minutes.
const SYNCED_ALONE_MAX: usize = 64;
/// Room for headers, result.json and the marks of cut streams, beside the configured limits.
const ALLOWANCE: u64 = 16 * 1024 * 1024;

/// Of headers between two files: long names and the like, which the crate reads whole before it shows an entry.
const BETWEEN_BYTES_MAX: u64 = 1024 * 1024;

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

fn refuse(text: impl std::fmt::Display) -> UnpackError {
    UnpackError::Archive(text.to_string())
}

/// Unpacks `archive` into `directory`, which must be new and empty, and syncs every file and directory.
/// Links, devices and whatever else is no file or directory, and names that are too long for our file system, are left out; their names
/// are returned, sorted.
///
/// # Errors
/// See [`UnpackError`]; what was written so far stays, for the caller to remove.
pub fn unpack(archive: impl Read, directory: &Path, limits: UnpackLimits) -> Result<Vec<String>, UnpackError> {
    let mut left_out = BTreeSet::new();
    let mut output_bytes = 0;
    let left = Cell::new(BETWEEN_BYTES_MAX);
    let mut archive = tar::Archive::new(Metered { archive, left: &left });
    let entries = archive.entries().map_err(refuse)?;
    let mut made = BTreeSet::new();
    let mut files = 0;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(refuse)?;
        if count >= ENTRIES_MAX {
            return Err(refuse(format!("more than {ENTRIES_MAX} entries")));
        }
        let name = entry.path().map_err(refuse)?.into_owned();
        let relative = safe_path(&name)?;
        let target = directory.join(&relative);
        left.set(BETWEEN_BYTES_MAX);
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                if !make_directories(directory, &relative, &mut made)? {
                    left_out.insert(name.to_string_lossy().into_owned());
                }
            }
            tar::EntryType::Regular => {
                let size = entry.size();
                check_size(&relative, size, &mut output_bytes, limits)?;
                left.set(size.saturating_add(BETWEEN_BYTES_MAX));
                let parent = relative.parent().unwrap_or(Path::new(""));
                files += 1;
                if !make_directories(directory, parent, &mut made)?
                    || !write_file(&mut entry, &target, size, files <= SYNCED_ALONE_MAX)?
                {
                    left_out.insert(name.to_string_lossy().into_owned());
                }
            }
            _ => {
                left_out.insert(name.to_string_lossy().into_owned());
            }
        }
    }
    if files > SYNCED_ALONE_MAX {
        let synced = File::open(directory).and_then(|opened| Ok(rustix::fs::syncfs(&opened)?));
        synced.map_err(storage(directory))?;
    }
    for path in made.iter().rev().chain([&directory.to_path_buf()]) {
        sync_directory(path)?;
    }
    Ok(left_out.into_iter().collect())
}

/// Only names: no root, no `..`.
fn safe_path(name: &Path) -> Result<PathBuf, UnpackError> {
    let mut safe = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => safe.push(part),
            Component::CurDir => {}
            _ => return Err(refuse(format!("the name {:?} leads out of it", name.to_string_lossy()))),
        }
    }
    Ok(safe)
}

fn check_size(relative: &Path, size: u64, output_bytes: &mut u64, limits: UnpackLimits) -> Result<(), UnpackError> {
    let in_outputs = relative.starts_with("outputs");
    if in_outputs {
        *output_bytes = output_bytes.saturating_add(size);
    }
    let (is, may) = match in_outputs {
        true => (*output_bytes, limits.output_bytes),
        false => (size, limits.log_bytes.saturating_add(ALLOWANCE)),
    };
    if is > may {
        return Err(refuse(format!("{} needs {is} bytes, {may} are allowed", relative.display())));
    }
    Ok(())
}

fn storage(path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    move |source| UnpackError::Storage { path: path.to_owned(), source }
}

/// The name is none for our file system: too long where it is to be, or with a byte of zero. A job may make such names; it is no fault
/// of our storage, which would be tried again for ever.
fn is_bad_name(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput)
}

/// Makes each missing directory itself, so that none of them is a link that the archive made. False for a name that cannot be.
fn make_directories(base: &Path, relative: &Path, made: &mut BTreeSet<PathBuf>) -> Result<bool, UnpackError> {
    let mut path = base.to_owned();
    for part in relative.components() {
        path.push(part);
        if made.contains(&path) {
            continue;
        }
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => {
                made.insert(path.clone());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(refuse(format!("{} is a file and a directory", path.display())));
            }
            Err(error) if is_bad_name(&error) => return Ok(false),
            Err(error) => return Err(storage(&path)(error)),
        }
    }
    Ok(true)
}

/// False for a name that came before (outputs may overlap): what is there stays; and for one that cannot be.
fn write_file(entry: &mut impl Read, target: &Path, size: u64, sync: bool) -> Result<bool, UnpackError> {
    // create_new: nothing that exists is followed or written over.
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o644).open(target) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists || is_bad_name(&error) => return Ok(false),
        Err(error) => return Err(storage(target)(error)),
    };
    let mut left = size;
    let mut buffer = vec![0; 256 * 1024];
    while left > 0 {
        let count = entry.read(&mut buffer).map_err(refuse)?;
        if count == 0 {
            return Err(refuse("it ends in the middle of a file"));
        }
        file.write_all(&buffer[..count]).map_err(storage(target))?;
        left = left.saturating_sub(count as u64);
    }
    if sync {
        file.sync_data().map_err(storage(target))?;
    }
    Ok(true)
}

fn sync_directory(path: &Path) -> Result<(), UnpackError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(storage(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: UnpackLimits = UnpackLimits { log_bytes: 1000, output_bytes: 2000 };

    struct Archive(tar::Builder<Vec<u8>>);

    impl Archive {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn entry(mut self, kind: tar::EntryType, name: &str, claimed: u64, content: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(kind);
            header.set_size(claimed);
            header.set_mode(0o6777);
            if kind == tar::EntryType::Symlink {
                header.set_link_name("/etc").expect("short");
            }
            header.set_cksum();
            self.0.append(&header, content).expect("appended");
            self
        }

        fn file(self, name: &str, content: &[u8]) -> Self {
            self.entry(tar::EntryType::Regular, name, content.len() as u64, content)
        }

        fn bytes(self) -> Vec<u8> {
            self.0.into_inner().expect("complete")
        }
    }

    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<Vec<String>, UnpackError>) {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("result");
        std::fs::create_dir(&target).expect("made");
        let result = unpack(bytes, &target, LIMITS);
        (folder, result)
    }

    #[test]
    fn files_and_directories_are_stored_with_modes_of_ours() {
        use std::os::unix::fs::PermissionsExt;
        let bytes = Archive::new()
            .file("result.json", b"{}")
            .file("stdout", b"hello")
            .entry(tar::EntryType::Directory, "outputs/", 0, b"")
            .file("outputs/a/b.txt", b"deep")
            .bytes();
        let (folder, result) = unpacked(&bytes);
        assert_eq!(result.expect("acceptable"), Vec::<String>::new());
        let file = folder.path().join("result/outputs/a/b.txt");
        assert_eq!(std::fs::read(&file).expect("there"), b"deep");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o7133, 0, "masked");
    }

    #[test]
    fn hostile_archives_are_refused() {
        let entry = |kind, name, claimed, content: &[u8]| Archive::new().entry(kind, name, claimed, content).bytes();
        let regular = tar::EntryType::Regular;
        for (what, bytes, text) in [
            ("parent", entry(regular, "../x", 1, b"x"), "leads out"),
            ("parent inside", entry(regular, "outputs/../../x", 1, b"x"), "leads out"),
            ("root", entry(regular, "/etc/x", 1, b"x"), "leads out"),
            ("large log", entry(regular, "stdout", 1 << 40, b""), "allowed"),
            (
                "large output",
                Archive::new().file("outputs/a", &[0; 1500]).file("outputs/b", &[0; 600]).bytes(),
                "allowed",
            ),
            ("file as directory", Archive::new().file("a", b"1").file("a/b", b"2").bytes(), "file and a directory"),
            ("long name", entry(tar::EntryType::GNULongName, "x", 4 << 20, &[b'a'; 4 << 20]), "between two files"),
            ("long link", entry(tar::EntryType::GNULongLink, "x", 4 << 20, &[b'a'; 4 << 20]), "between two files"),
            ("extensions", entry(tar::EntryType::XHeader, "x", 4 << 20, &[b'a'; 4 << 20]), "between two files"),
            ("large link", entry(tar::EntryType::Symlink, "x", 4 << 20, &[b'a'; 4 << 20]), "between two files"),
            ("garbage", vec![7; 2048], ""),
        ] {
            let (_folder, result) = unpacked(&bytes);
            let error = result.expect_err(what).to_string();
            assert!(error.contains(text), "{what}: {error}");
        }
    }

    #[test]
    fn a_name_that_comes_twice_counts_once_and_many_files_are_stored() {
        let (folder, result) = unpacked(&Archive::new().file("a", b"1").file("a", b"2").bytes());
        assert_eq!(result.expect("acceptable"), ["a"]);
        assert_eq!(std::fs::read(folder.path().join("result/a")).expect("there"), b"1");
        let many = (0..200).fold(Archive::new(), |archive, number| archive.file(&format!("outputs/{number}"), b"x"));
        let (folder, result) = unpacked(&many.bytes());
        assert!(result.expect("acceptable").is_empty());
        assert_eq!(std::fs::read_dir(folder.path().join("result/outputs")).expect("there").count(), 200);
    }

    /// Legal where they come from; too long where they go to.
    #[test]
    fn names_that_cannot_be_are_left_out() {
        let part = "d".repeat(200);
        let (deep, long) =
            (format!("outputs/{}/file", vec![part; 21].join("/")), format!("outputs/{}", "n".repeat(300)));
        let mut archive = Archive::new();
        for name in [&deep, &long] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            archive.0.append_data(&mut header, name, &b"x"[..]).expect("appended");
        }
        let (folder, result) = unpacked(&archive.file("outputs/short", b"kept").bytes());
        let mut left_out = vec![deep, long];
        left_out.sort();
        assert_eq!(result.expect("acceptable"), left_out);
        assert_eq!(std::fs::read(folder.path().join("result/outputs/short")).expect("there"), b"kept");
    }

    #[test]
    fn links_are_left_out_and_never_followed() {
        let bytes =
            Archive::new().entry(tar::EntryType::Symlink, "outputs", 0, b"").file("outputs/passwd", b"x").bytes();
        let (folder, result) = unpacked(&bytes);
        assert_eq!(result.expect("acceptable"), ["outputs"]);
        assert!(folder.path().join("result/outputs/passwd").is_file());
    }

    #[test]
    fn a_cut_archive_is_refused_at_every_length() {
        let bytes = Archive::new().file("result.json", &[b'x'; 700]).bytes();
        for cut in (1..512 + 700).step_by(37) {
            let (_folder, result) = unpacked(&bytes[..cut]);
            assert!(matches!(result, Err(UnpackError::Archive(_))), "cut at {cut}: {result:?}");
        }
    }
}
