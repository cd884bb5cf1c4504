//! Outputs of a job: found beneath its working directory, following no links, regular files and directories only (spec 52 §2,
//! 70 §4). The same walk measures them when the job ends and sends them when they are collected.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

const LIMITS: Limits = Limits { entries: 100_000, names_bytes: 32 << 20, looked_at: 1_000_000, depth: 64 };
const SKIPPED_MAX: usize = 100;
const SKIPPED_CHARACTERS_MAX: usize = 400;
const OPEN: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Of all outputs together.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Files and directories that are sent.
    entries: usize,
    /// Bytes of their paths: the dispatcher remembers those of directories.
    names_bytes: usize,
    /// Names in directories, links and the like among them: a job may make more than anybody waits for.
    looked_at: usize,
    /// Levels below an output.
    depth: usize,
}

/// What was found of the requested outputs.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of the request.
    pub(crate) found: Vec<String>,
    pub(crate) skipped: Vec<String>,
    pub(crate) bytes: u64,
    pub(crate) too_large: bool,
}

/// Looks at the outputs that `requested` names beneath `work`.
pub(crate) fn examine(work: &Path, requested: &[String], bytes_max: u64) -> Found {
    examine_within(LIMITS, work, requested, bytes_max)
}

fn examine_within(limits: Limits, work: &Path, requested: &[String], bytes_max: u64) -> Found {
    let mut result = Found::default();
    if requested.is_empty() {
        return result;
    }
    let mut skipped = Skipped::default();
    let mut bytes = 0_u64;
    let mut walk = Walk::new(work, |entry: &Entry<'_>| {
        bytes = bytes.saturating_add(entry.bytes());
        Ok(())
    });
    walk.limits = limits;
    for path in requested {
        match walk.output(path, &mut skipped) {
            Ok(true) => result.found.push(path.clone()),
            Ok(false) => {}
            Err(e) => skipped.add(path, &e.to_string()),
        }
    }
    drop(walk);
    result.bytes = bytes;
    result.too_large = bytes > bytes_max;
    if result.too_large {
        for path in std::mem::take(&mut result.found) {
            skipped.add(&path, "all outputs together are above the limit");
        }
    }
    result.skipped = skipped.finish();
    result
}

/// What is left out, as text for people.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    lines: Vec<String>,
    more: usize,
}

impl Skipped {
    fn add(&mut self, path: &str, why: &str) {
        if self.lines.len() < SKIPPED_MAX {
            self.lines.push(format!("{}: {why}", printable(path)));
        } else {
            self.more += 1;
        }
    }

    /// What people must see, however much else there is.
    fn first(&mut self, path: &Path, why: &str) {
        self.lines.insert(0, format!("{}: {why}", printable(&path.to_string_lossy())));
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}

/// A path as it may be shown on a terminal, where line ends and escape sequences would be obeyed; of a very long one the beginning.
fn printable(path: &str) -> String {
    let mut text = String::new();
    for (number, character) in path.chars().enumerate() {
        if number == SKIPPED_CHARACTERS_MAX {
            text.push('…');
            break;
        }
        if character.is_control() { text.extend(character.escape_default()) } else { text.push(character) }
    }
    text
}

/// One file or directory of an output.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Relative to the working directory; no `.`, no `..`.
    pub(crate) path: &'a Path,
    /// `None` for a directory.
    pub(crate) file: Option<&'a File>,
    pub(crate) metadata: &'a std::fs::Metadata,
}

impl Entry<'_> {
    /// A file's length, not what it takes on the disk: the archive has its holes as zeros, and so has what becomes of it, since nobody
    /// who unpacks it could tell a large claim from a hostile one. So a sparse giant is above the limit, as if it were full.
    fn bytes(&self) -> u64 {
        if self.file.is_some() { self.metadata.size() } else { 0 }
    }
}

/// Visits outputs, parents before children.
pub(crate) struct Walk<F> {
    work: io::Result<(OwnedFd, Option<u32>)>,
    visit: F,
    limits: Limits,
    entries: usize,
    names_bytes: usize,
    looked_at: usize,
    /// Said once: nothing more is sent.
    full: bool,
}

impl<F: FnMut(&Entry<'_>) -> io::Result<()>> Walk<F> {
    pub(crate) fn new(work: &Path, visit: F) -> Self {
        let open = || -> io::Result<_> {
            let dir = File::from(rustix::fs::open(work, OFlags::RDONLY | OFlags::DIRECTORY | OPEN, Mode::empty())?);
            let owner = dir.metadata()?.uid();
            // A hard link could name a file that its maker may not read.
            let only = (geteuid().is_root() && owner != 0).then_some(owner);
            Ok((dir.into(), only))
        };
        Self { work: open(), visit, limits: LIMITS, entries: 0, names_bytes: 0, looked_at: 0, full: false }
    }

    /// Visits the output at `path`. False if there is none there that may be sent.
    ///
    /// # Errors
    /// Those of `visit`, and of reading directories.
    pub(crate) fn output(&mut self, path: &str, skipped: &mut Skipped) -> io::Result<bool> {
        let Some(relative) = normal(path) else {
            skipped.add(path, "not a path below the working directory");
            return Ok(false);
        };
        let (work, only) = match &self.work {
            Ok((work, only)) => (work.try_clone()?, *only),
            // A job of the runner's own user may have removed it.
            Err(e) => {
                skipped.add(path, &format!("no working directory: {e}"));
                return Ok(false);
            }
        };
        match open_beneath(&work, &relative) {
            Ok(opened) => self.entry(&opened, &relative, only, 0, skipped),
            Err(Errno::NOENT) => {
                skipped.add(path, "missing");
                Ok(false)
            }
            Err(Errno::LOOP | Errno::XDEV) => {
                skipped.add(path, "a link, or behind one");
                Ok(false)
            }
            Err(e) => {
                skipped.add(path, &io::Error::from(e).to_string());
                Ok(false)
            }
        }
    }

    fn entry(
        &mut self,
        opened: &OwnedFd,
        path: &Path,
        only: Option<u32>,
        depth: usize,
        skipped: &mut Skipped,
    ) -> io::Result<bool> {
        let file = File::from(opened.try_clone()?);
        let metadata = file.metadata()?;
        let refused = match () {
            () if only.is_some_and(|owner| owner != metadata.uid()) => Some("belongs to another user"),
            () if !metadata.is_dir() && !metadata.is_file() => Some("neither a file nor a directory"),
            () if depth > self.limits.depth => Some("too deep"),
            () => None,
        };
        if let Some(why) = refused {
            skipped.add(&path.display().to_string(), why);
            return Ok(false);
        }
        if self.is_full(path, skipped) {
            return Ok(false);
        }
        self.entries += 1;
        self.names_bytes += path.as_os_str().len();
        let directory = metadata.is_dir();
        (self.visit)(&Entry { path, file: (!directory).then_some(&file), metadata: &metadata })?;
        if directory {
            self.children(opened, path, only, depth, skipped)?;
        }
        Ok(true)
    }

    /// Whether there is no room for one more; says so where that is found out.
    fn is_full(&mut self, path: &Path, skipped: &mut Skipped) -> bool {
        let Limits { entries, names_bytes, looked_at, .. } = self.limits;
        let full = match () {
            () if self.entries >= entries => format!("more than {entries} files and directories"),
            () if self.names_bytes >= names_bytes => format!("more than {names_bytes} bytes of paths"),
            () if self.looked_at >= looked_at => format!("more than {looked_at} names"),
            () => return false,
        };
        if !std::mem::replace(&mut self.full, true) {
            skipped.first(path, &format!("{full}: it and all that follows is left out"));
        }
        true
    }

    fn children(
        &mut self,
        dir: &OwnedFd,
        path: &Path,
        only: Option<u32>,
        depth: usize,
        skipped: &mut Skipped,
    ) -> io::Result<()> {
        let children = match Dir::read_from(dir) {
            Ok(children) => children,
            // Without root: a directory that may be listed and not entered, or the other way round. Others are not lost for it.
            Err(e) => {
                skipped.add(&path.display().to_string(), &io::Error::from(e).to_string());
                return Ok(());
            }
        };
        for child in children {
            let child = child?;
            let name = child.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            if self.is_full(&path, skipped) {
                break;
            }
            self.looked_at += 1;
            // Looked at before it is opened: opening a device may do something.
            let kind = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
            match kind {
                Ok(FileType::RegularFile | FileType::Directory) => {}
                Ok(FileType::Symlink) => {
                    skipped.add(&path.display().to_string(), "a link (links are skipped)");
                    continue;
                }
                Ok(_) => {
                    skipped.add(&path.display().to_string(), "neither a file nor a directory");
                    continue;
                }
                Err(_) => continue,
            }
            match openat(dir, name, OFlags::RDONLY | OPEN, Mode::empty()) {
                Ok(opened) => self.entry(&opened, &path, only, depth + 1, skipped).map(drop)?,
                Err(e) => skipped.add(&path.display().to_string(), &io::Error::from(e).to_string()),
            }
        }
        Ok(())
    }
}

/// `path` without `.` and doubled slashes; `None` if it is empty, absolute, or has `..` or a NUL.
fn normal(path: &str) -> Option<PathBuf> {
    if path.is_empty() || path.contains('\0') {
        return None;
    }
    let mut normal = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => normal.push(name),
            _ => return None,
        }
    }
    Some(normal)
}

fn open_beneath(work: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    refuse_special(work, path)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(work, path, OFlags::RDONLY | OPEN, Mode::empty(), resolve) {
            // The kernel lost a race with a rename and asks for another try.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Before Linux 5.6, or forbidden by a filter that does not know it.
            Err(Errno::NOSYS | Errno::PERM) => return open_stepwise(work, path),
            other => return other,
        }
    }
}

/// Opening a device may do something. (The job has ended: nobody exchanges the file afterwards.)
fn refuse_special(work: &OwnedFd, path: &Path) -> Result<(), Errno> {
    match FileType::from_raw_mode(statat(work, path, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) {
        FileType::RegularFile | FileType::Directory => Ok(()),
        FileType::Symlink => Err(Errno::LOOP),
        _ => Err(Errno::NXIO),
    }
}

/// One component after the other, none of them a link.
fn open_stepwise(work: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mut at = work.try_clone().map_err(|_| Errno::MFILE)?;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let last = components.peek().is_none();
        let kind = if last { OFlags::empty() } else { OFlags::DIRECTORY };
        at = openat(at.as_fd(), component.as_os_str(), OFlags::RDONLY | OPEN | kind, Mode::empty()).map_err(|e| {
            // A link where a directory must be.
            if e == Errno::NOTDIR { Errno::LOOP } else { e }
        })?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn furnished() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        fs::create_dir_all(work.join("a/b")).unwrap();
        fs::write(work.join("a/b/file"), "12345").unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        symlink("../secret", work.join("link")).unwrap();
        symlink("..", work.join("up")).unwrap();
        symlink("file", work.join("a/b/inner")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, work.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        dir
    }

    /// Both ways of opening refuse the same.
    #[test]
    fn nothing_outside_is_found() {
        let dir = furnished();
        let work = dir.path().join("work");
        for (path, found) in [
            ("a", true),
            ("a/b/file", true),
            ("./a//b/", true),
            (".", true),
            ("missing", false),
            ("link", false),
            ("up/secret", false),
            ("../secret", false),
            ("a/../../secret", false),
            ("/etc/passwd", false),
            ("fifo", false),
            ("", false),
        ] {
            let result = examine(&work, &[path.to_owned()], 100);
            assert_eq!(!result.found.is_empty(), found, "{path}: {result:?}");
            assert!(found || result.skipped.len() == 1, "{path}: {result:?}");
            if let Some(path) = normal(path).filter(|path| !path.as_os_str().is_empty()) {
                let work: OwnedFd = File::open(&work).unwrap().into();
                let stepwise = open_stepwise(&work, &path).ok().map(File::from);
                let regular = stepwise.is_some_and(|f| f.metadata().is_ok_and(|m| m.is_file() || m.is_dir()));
                assert_eq!(regular, found, "{} stepwise", path.display());
            }
        }
    }

    #[test]
    fn links_inside_a_directory_are_left_out_and_named() {
        let dir = furnished();
        let result = examine(&dir.path().join("work"), &["a".to_owned()], 5);
        assert_eq!((result.bytes, result.too_large), (5, false));
        assert_eq!(result.skipped, ["a/b/inner: a link (links are skipped)"]);
    }

    /// Whichever limit it is: what is beyond is said, before all else, and once.
    #[test]
    fn what_has_no_room_any_more_is_said() {
        let dir = furnished();
        let work = dir.path().join("work");
        fs::create_dir(work.join("many")).unwrap();
        for n in 0..20 {
            fs::write(work.join(format!("many/{n:02}")), "1").unwrap();
            symlink("..", work.join(format!("many/link{n:02}"))).unwrap();
        }
        let requested = ["a", "many", "a/b"].map(str::to_owned);
        for (limits, part, found) in [
            (Limits { entries: 12, ..LIMITS }, "more than 12 files and directories", 2),
            (Limits { entries: 3, ..LIMITS }, "more than 3 files and directories", 1),
            (Limits { entries: 0, ..LIMITS }, "more than 0 files and directories", 0),
            (Limits { names_bytes: 50, ..LIMITS }, "more than 50 bytes of paths", 2),
            (Limits { looked_at: 30, ..LIMITS }, "more than 30 names", 2),
        ] {
            let result = examine_within(limits, &work, &requested, 1000);
            assert_eq!(result.found.len(), found, "{result:?}");
            assert!(result.skipped[0].contains(part) && result.skipped[0].contains("all that follows"), "{result:?}");
            assert!(result.skipped[0].starts_with(if found == 2 { "many" } else { "" }), "{result:?}");
            assert_eq!(result.skipped.iter().filter(|line| line.contains("all that follows")).count(), 1);
        }
        let result = examine_within(Limits { entries: 26, ..LIMITS }, &work, &requested, 1000);
        assert_eq!((result.found.len(), result.bytes), (3, 30), "just enough: {result:?}");
    }

    #[test]
    fn names_are_told_as_they_may_be_shown() {
        assert_eq!(printable("a\u{1b}[2J\nb\u{7f}é "), "a\\u{1b}[2J\\nb\\u{7f}é ");
        assert_eq!(printable(&"é".repeat(5000)), "é".repeat(400) + "…");
    }

    #[test]
    fn above_the_limit_nothing_is_sent() {
        let dir = furnished();
        let result = examine(&dir.path().join("work"), &["a".to_owned()], 4);
        assert!(result.too_large && result.found.is_empty(), "{result:?}");
    }
}
