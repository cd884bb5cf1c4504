//! The temporary directory of a part, and the proof that nothing is left of it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::daemon::Failure;

/// Removed when it is dropped, too; [`Folder::remove`] also looks for what is left.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn make() -> Result<Self, Failure> {
        // Where the hosts of part 2 see the same.
        let folder = muster_ssh_hosts::private_folder("muster-demo-")?;
        // Jobs run as another user if this is root: they must be able to reach their own directories below it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
        println!("   All that it makes is below {} and is removed at the end.", folder.path().display());
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Nothing may be left: no directory, no process that works in it or was started for it.
    pub(crate) fn remove(self) -> Result<(), Failure> {
        let path = self.path().to_owned();
        self.0.close()?;
        if path.exists() {
            return Err(Failure::Wrong(format!("{} is still there", path.display())));
        }
        match users_of(&path)?.first() {
            Some(process) => Err(Failure::Wrong(format!("a process is left: {process}"))),
            None => Ok(()),
        }
    }
}

/// Number and command line of each process that names a path or works below it.
fn users_of(path: &Path) -> Result<Vec<String>, Failure> {
    let text = path.to_string_lossy();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        // One that has ended meanwhile, or is somebody else's, is none of ours.
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let works_in = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if arguments.contains(&*text) || works_in.starts_with(path) {
            found.push(format!("{pid} {arguments}"));
        }
    }
    Ok(found)
}
