//! Removing what a job has left, however it looks: a million names, directories in directories without end, modes that lock out even
//! their owner. Links are removed and never followed.
//!
//! Directories are nested deeper than there are descriptors, or room on the stack, if a job wants that. So a few levels are removed as
//! anybody would; what is below is moved up to the top first, by its name in the directory that is open, and removed from there. (Going
//! back by `..` would need no move, but a process that still lives could have put the directory elsewhere meanwhile.)

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, fchmod, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::error::{Error, Result};

/// Two descriptors for each.
const LEVELS_MAX: usize = 32;
/// Over the top directory: each takes as many levels away. A million levels take a third of that; only somebody who makes directories
/// meanwhile, as fast as they are removed, needs more.
const PASSES_MAX: usize = 100_000;
const ALL: Mode = Mode::RWXU;

/// Removes `dir` and all in it. It may be gone already.
pub(crate) fn tree(dir: &Path) -> Result<()> {
    remove(dir).map_err(|e| Error::io("cannot remove", dir, e))
}

fn remove(dir: &Path) -> std::result::Result<(), Errno> {
    let Some(top) = gone(open(CWD, dir))? else { return Ok(()) };
    let mut removal = Removal { top: &top, moved: 0 };
    for _ in 0..PASSES_MAX {
        if !removal.pass(&top, 0)? {
            return gone(unlinkat(CWD, dir, AtFlags::REMOVEDIR)).map(drop);
        }
    }
    Err(Errno::NOTEMPTY)
}

/// `None` for what is not there (any more).
fn gone<T>(outcome: std::result::Result<T, Errno>) -> std::result::Result<Option<T>, Errno> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A directory to be emptied. Without root its own mode may forbid that; root needs no modes.
fn open<P: rustix::path::Arg + Copy>(at: impl std::os::fd::AsFd, name: P) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match openat(&at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) if !geteuid().is_root() => {
            chmodat(&at, name, ALL, AtFlags::empty())?;
            openat(&at, name, flags, Mode::empty())?
        }
        other => other?,
    };
    if !geteuid().is_root() {
        // Somebody else's, whose files a job was given: then what is tried next says so.
        let _ = fchmod(&opened, ALL);
    }
    Ok(opened)
}

struct Removal<'a> {
    top: &'a OwnedFd,
    moved: usize,
}

impl Removal<'_> {
    /// Removes what is in `dir`, or moves it to the top. True if there was anything.
    fn pass(&mut self, dir: &OwnedFd, level: usize) -> std::result::Result<bool, Errno> {
        let mut any = false;
        let mut fault = None;
        for child in Dir::read_from(dir)? {
            let child = child?;
            let name = child.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            any = true;
            // What cannot be removed does not keep the rest.
            if let Err(e) = self.child(dir, name, child.file_type(), level) {
                fault.get_or_insert(e);
            }
        }
        fault.map_or(Ok(any), Err)
    }

    fn child(&mut self, dir: &OwnedFd, name: &CStr, kind: FileType, level: usize) -> std::result::Result<(), Errno> {
        let is_directory = match kind {
            FileType::Unknown => {
                let stat = gone(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))?;
                stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
            }
            known => known == FileType::Directory,
        };
        if is_directory {
            self.directory(dir, name, level)
        } else {
            gone(unlinkat(dir, name, AtFlags::empty())).map(drop)
        }
    }

    fn directory(&mut self, dir: &OwnedFd, name: &CStr, level: usize) -> std::result::Result<(), Errno> {
        if level < LEVELS_MAX {
            let Some(opened) = gone(open(dir, name))? else { return Ok(()) };
            self.pass(&opened, level + 1)?;
        } else if unlinkat(dir, name, AtFlags::REMOVEDIR).is_err() {
            return self.move_up(dir, name);
        }
        match gone(unlinkat(dir, name, AtFlags::REMOVEDIR)) {
            // Something was made there meanwhile: the next pass sees it.
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            other => other.map(drop),
        }
    }

    fn move_up(&mut self, dir: &OwnedFd, name: &CStr) -> std::result::Result<(), Errno> {
        // Its mode must allow the new `..`.
        drop(gone(open(dir, name))?);
        loop {
            self.moved += 1;
            match renameat(dir, name, self.top, format!("moved-up-{}", self.moved)) {
                // The job has one of that name.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                other => return gone(other).map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Makes a directory in a directory, so many times; no path leads to the last one.
    fn nest(dir: &Path, levels: usize) {
        let mut at = open(CWD, dir).unwrap();
        for _ in 0..levels {
            rustix::fs::mkdirat(&at, "d", ALL).unwrap();
            at = open(&at, "d").unwrap();
        }
        openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }

    #[test]
    fn depth_and_width_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        for levels in [0, 1, LEVELS_MAX - 1, LEVELS_MAX, LEVELS_MAX + 1, 2 * LEVELS_MAX + 1, 4_000] {
            let top = dir.path().join("top");
            fs::create_dir(&top).unwrap();
            nest(&top, levels);
            // Names that moving up would use.
            fs::create_dir_all(top.join("moved-up-1/x")).unwrap();
            fs::write(top.join("moved-up-2"), "").unwrap();
            for n in 0..300 {
                fs::write(top.join(format!("file-{n}")), "").unwrap();
            }
            tree(&top).unwrap();
            assert!(!top.exists(), "{levels} levels");
        }
        tree(&dir.path().join("top")).unwrap();
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::create_dir_all(precious.join("inner")).unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a")).unwrap();
        std::os::unix::fs::symlink(&precious, top.join("a/link")).unwrap();
        tree(&top).unwrap();
        assert!(precious.join("inner").exists() && !top.exists());
        std::os::unix::fs::symlink(&precious, &top).unwrap();
        assert!(tree(&top).is_err(), "that is no directory of ours");
        assert!(precious.join("inner").exists());
    }
}
