//! The runner that workers get (spec 20 §7): read once into memory with its checksum, and again at a reload.
//!
//! What a worker was given stays what it has: a file that changes is a new version under a new name, for workers that boot later.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use crate::core::runner_file::{Format, HEAD_BYTES, canonical};

/// Largest runner binary that is read; ours has about a megabyte.
const BINARY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A runner that is copied to workers.
#[derive(Clone)]
pub struct RunnerBinary {
    pub bytes: Arc<[u8]>,
    /// Lower-case hexadecimal SHA-256 of `bytes`.
    pub sha256: String,
    pub format: Format,
}

impl std::fmt::Debug for RunnerBinary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunnerBinary").field("bytes", &self.bytes.len()).field("sha256", &self.sha256).finish()
    }
}

impl RunnerBinary {
    /// # Errors
    /// It cannot be read, is no file, is empty, or is larger than 256 MiB.
    pub fn load(path: &Path) -> io::Result<Self> {
        // Looked at before it is opened: that of a named pipe would wait for a writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(BINARY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.is_empty() || bytes.len() as u64 > BINARY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a program: its size is out of range"));
        }
        Ok(Self::new(bytes))
    }

    pub fn new(bytes: Vec<u8>) -> Self {
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let format = Format::of(&bytes[..bytes.len().min(HEAD_BYTES)]);
        Self { bytes: bytes.into(), sha256, format }
    }
}

/// Where the runner comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerFiles {
    /// Nothing is copied: this program is on the workers.
    PreInstalled(String),
    /// This file, whatever the worker is.
    One(PathBuf),
    /// By the worker's architecture; not empty.
    ByArchitecture(BTreeMap<String, PathBuf>),
}

/// Why there is no runner for workers.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "error loading runner binary {path}: install muster-runner there, or set DeployRunnerBinary or \
         Muster.Runner.Binaries to where it is"
    )]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("error loading runner binary {path}: {why}; set Muster.Runner.Binaries.{architecture} to another file")]
    Unfit { path: PathBuf, architecture: String, why: String },
}

/// What was loaded.
#[derive(Clone, Debug)]
pub enum RunnerKit {
    PreInstalled(Arc<str>),
    One(Arc<RunnerBinary>),
    ByArchitecture(BTreeMap<String, Arc<RunnerBinary>>),
}

impl RunnerFiles {
    /// # Errors
    /// A file cannot be read, or is not for the architecture it is configured for.
    pub fn load(&self) -> Result<RunnerKit, LoadError> {
        match self {
            Self::PreInstalled(program) => Ok(RunnerKit::PreInstalled(program.as_str().into())),
            Self::One(path) => Ok(RunnerKit::One(read(path)?)),
            Self::ByArchitecture(paths) => {
                let load = |(architecture, path): (&String, &PathBuf)| {
                    let binary = read(path)?;
                    match binary.format.contradicts(architecture) {
                        None => Ok((architecture.clone(), binary)),
                        Some(why) => {
                            Err(LoadError::Unfit { path: path.clone(), architecture: architecture.clone(), why })
                        }
                    }
                };
                paths.iter().map(load).collect::<Result<_, _>>().map(RunnerKit::ByArchitecture)
            }
        }
    }
}

fn read(path: &Path) -> Result<Arc<RunnerBinary>, LoadError> {
    RunnerBinary::load(path).map(Arc::new).map_err(|source| LoadError::Read { path: path.to_owned(), source })
}

impl RunnerKit {
    /// Which one a worker gets depends on what it is.
    pub fn depends_on_architecture(&self) -> bool {
        matches!(self, Self::ByArchitecture(binaries) if binaries.len() > 1)
    }

    /// The binary for a worker; `None` if there is none for it, or nothing is copied.
    pub fn binary(&self, architecture: &str) -> Option<&Arc<RunnerBinary>> {
        match self {
            Self::PreInstalled(_) => None,
            Self::One(binary) => Some(binary),
            Self::ByArchitecture(binaries) if binaries.len() == 1 => binaries.values().next(),
            Self::ByArchitecture(binaries) => binaries.get(architecture).or_else(|| {
                let same = |name: &str| canonical(name) == canonical(architecture);
                binaries.iter().find(|(name, _)| same(name)).map(|(_, binary)| binary)
            }),
        }
    }

    /// The architectures there are binaries for, in the order of their names.
    pub fn architectures(&self) -> Vec<&str> {
        match self {
            Self::ByArchitecture(binaries) => binaries.keys().map(String::as_str).collect(),
            Self::PreInstalled(_) | Self::One(_) => Vec::new(),
        }
    }

    fn sums(&self) -> Vec<&str> {
        match self {
            Self::PreInstalled(_) => Vec::new(),
            Self::One(binary) => vec![&binary.sha256],
            Self::ByArchitecture(binaries) => binaries.values().map(|binary| binary.sha256.as_str()).collect(),
        }
    }
}

/// The runner of all workers, and where it is put (spec 62 §3). Shared; its lock is held for moments only.
#[derive(Debug)]
pub struct RunnerSupply {
    files: RunnerFiles,
    directory: Option<String>,
    current: RwLock<Result<RunnerKit, Arc<str>>>,
}

impl RunnerSupply {
    /// Loads it. `directory`: DeployRunnerDirectory, if it is set. That it could not be loaded is for [`RunnerSupply::fault`] to say.
    pub fn new(files: RunnerFiles, directory: Option<String>) -> Self {
        let current = RwLock::new(load(&files));
        Self { files, directory, current }
    }

    /// A runner that is in memory already.
    pub fn of_binary(binary: RunnerBinary, directory: Option<String>) -> Self {
        let kit = RunnerKit::One(Arc::new(binary));
        Self { files: RunnerFiles::One(PathBuf::new()), directory, current: RwLock::new(Ok(kit)) }
    }

    /// Reads the files again. True if there is something new. What cannot be read leaves nothing: the next worker would get a version
    /// that nobody wants any more.
    pub fn reload(&self) -> bool {
        let new = load(&self.files);
        let mut current = self.current.write();
        let same = match (&*current, &new) {
            (Ok(old), Ok(new)) => old.sums() == new.sums(),
            (Err(old), Err(new)) => old == new,
            _ => false,
        };
        if !same {
            *current = new;
        }
        !same
    }

    /// Why there is none, if so: then no instance is created, and no worker boots (spec 20 §7).
    pub fn fault(&self) -> Option<String> {
        self.current.read().as_ref().err().map(ToString::to_string)
    }

    /// # Errors
    /// As [`RunnerSupply::fault`].
    pub fn kit(&self) -> Result<RunnerKit, String> {
        self.current.read().clone().map_err(|fault| fault.to_string())
    }

    pub fn directory(&self) -> Option<&str> {
        self.directory.as_deref()
    }
}

fn load(files: &RunnerFiles) -> Result<RunnerKit, Arc<str>> {
    files.load().map_err(|error| crate::core::errors::chain(&error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }

    fn elf(machine: u8) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend([machine, 0, 7]);
        bytes
    }

    #[test]
    fn binaries_by_architecture() {
        let folder = tempfile::tempdir().expect("a folder");
        let (x86, arm) = (file(folder.path(), "x86", &elf(62)), file(folder.path(), "arm", &elf(183)));
        let files = |pairs: &[(&str, &PathBuf)]| {
            RunnerFiles::ByArchitecture(
                pairs.iter().map(|(name, path)| ((*name).to_owned(), (*path).clone())).collect(),
            )
        };
        let kit = files(&[("x86_64", &x86), ("arm64", &arm)]).load().expect("both fit");
        assert!(kit.depends_on_architecture());
        let found = |architecture: &str| kit.binary(architecture).map(|binary| binary.bytes[18]);
        assert_eq!((found("x86_64"), found("aarch64"), found("arm64")), (Some(62), Some(183), Some(183)));
        assert_eq!((found("riscv64"), kit.architectures()), (None, vec!["arm64", "x86_64"]));

        let one = files(&[("x86_64", &x86)]).load().expect("fits");
        assert!(!one.depends_on_architecture() && one.binary("whatever").is_some(), "nobody is asked");
        let error = files(&[("x86_64", &arm)]).load().expect_err("does not fit").to_string();
        assert!(error.contains("a program for aarch64, not for x86_64") && error.contains("arm:"), "{error}");
    }

    #[test]
    fn reloads_and_faults() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runner");
        let supply = RunnerSupply::new(RunnerFiles::One(path.clone()), None);
        let fault = supply.fault().expect("it is not there");
        assert!(fault.starts_with("error loading runner binary ") && fault.contains("DeployRunnerBinary"), "{fault}");
        assert!(!supply.reload(), "still not there");
        file(folder.path(), "runner", b"#!one");
        assert!(supply.reload() && supply.fault().is_none());
        assert!(!supply.reload(), "the same");
        let kit = supply.kit().expect("loaded");
        file(folder.path(), "runner", b"#!two");
        assert!(supply.reload());
        assert_eq!(&*kit.binary("").expect("one").bytes, b"#!one", "who has it keeps it");
        file(folder.path(), "runner", b"");
        assert!(supply.reload() && supply.kit().is_err(), "an empty file is no program");
        let installed = RunnerSupply::new(RunnerFiles::PreInstalled("muster-runner".to_owned()), None);
        assert!(installed.fault().is_none() && !installed.reload());
    }
}
