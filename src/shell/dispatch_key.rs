//! The key that the dispatcher logs in to workers with: the configured one, else a pair in `StateDir/ssh` that the first start
//! makes (spec 80 §2). What is there is never replaced: workers were told to accept it.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::state_dir::{StateDir, StateDirError, failed, write_once};
use crate::config::{Config, Secret};
use crate::core::errors::chain;
use crate::remote::ssh::key::{KEY_BYTES_MAX, KeyError, PrivateKey};

/// Why there is no key. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DispatchKeyError {
    #[error("error parsing configured Containers.DispatchPrivateKey")]
    Configured(#[source] KeyError),
    #[error(transparent)]
    Io(#[from] StateDirError),
    #[error(
        "{path} is open to others (mode {mode:o}), who could log in to the workers with it: `chmod 600 {path}`, or move the pair away to have a new one made"
    )]
    TooOpen { path: PathBuf, mode: u32 },
    #[error(
        "{path} is no key to log in with; put the right one there, or move it and its .pub away to have a new pair made, which workers must then accept"
    )]
    Damaged {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error(
        "{path} is there without its private key {private}: put that back, or move the .pub away to have a new pair made"
    )]
    Lost { path: PathBuf, private: PathBuf },
    #[error("{path} is not the public part of {private}: remove it to have it written again")]
    Mismatch { path: PathBuf, private: PathBuf },
    #[error("cannot make a key pair in {path}")]
    Generate {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
}

/// Where the pair is.
struct Place {
    directory: PathBuf,
    private: PathBuf,
    public: PathBuf,
}

impl Place {
    fn below(state_dir: &Path) -> Self {
        let directory = state_dir.join("ssh");
        Self { private: directory.join("id_ed25519"), public: directory.join("id_ed25519.pub"), directory }
    }

    /// The pair if it is there and good; changes nothing. `None`: nothing is there.
    fn read(&self) -> Result<Option<PrivateKey>, DispatchKeyError> {
        let public = read_small(&self.public)?;
        let Some((text, mode)) = read_small(&self.private)? else {
            return match public {
                None => Ok(None),
                Some(_) => Err(DispatchKeyError::Lost { path: self.public.clone(), private: self.private.clone() }),
            };
        };
        if mode & 0o077 != 0 {
            return Err(DispatchKeyError::TooOpen { path: self.private.clone(), mode });
        }
        let key = PrivateKey::parse(&text)
            .map_err(|source| DispatchKeyError::Damaged { path: self.private.clone(), source })?;
        // Without its comment, which may be changed.
        let belongs = |line: &str| line.split_whitespace().take(2).eq(key.public_openssh().split(' ').take(2));
        if public.is_some_and(|(line, _)| !belongs(&line)) {
            return Err(DispatchKeyError::Mismatch { path: self.public.clone(), private: self.private.clone() });
        }
        Ok(Some(key))
    }

    /// The private key first: a public one without it is never left behind.
    fn write(&self, state_dir: &Path, key: &PrivateKey) -> Result<(), StateDirError> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make", &self.directory)(error));
            }
            _ => {}
        }
        let mode = Permissions::from_mode(0o700);
        std::fs::set_permissions(&self.directory, mode).map_err(failed("protect", &self.directory))?;
        write_once(&self.private, key.text().trim_end())?;
        self.write_public(key)?;
        // The directory itself must be there after a power failure, too.
        File::open(state_dir).and_then(|directory| directory.sync_all()).map_err(failed("sync", state_dir))
    }

    fn write_public(&self, key: &PrivateKey) -> Result<(), StateDirError> {
        write_once(&self.public, &key.public_openssh())
    }
}

/// Text and permission bits of a regular file, if there is one. Whatever is not text has no key in it.
fn read_small(path: &Path) -> Result<Option<(String, u32)>, DispatchKeyError> {
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(failed("look at", path))?,
    };
    if !metadata.is_file() {
        return Err(DispatchKeyError::Damaged { path: path.to_owned(), source: KeyError::NotAKey });
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(KEY_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(failed("read", path))?;
    Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), metadata.permissions().mode() & 0o7777)))
}

impl StateDir {
    /// The key to log in with: the configured one, or if that is empty the pair in `ssh/`, made if nothing is there. For drivers that
    /// use SSH only.
    ///
    /// # Errors
    /// By variant; nothing that was there is changed.
    pub fn dispatch_key(&self, configured: &Secret) -> Result<PrivateKey, DispatchKeyError> {
        if !configured.is_empty() {
            return PrivateKey::parse(configured.reveal()).map_err(DispatchKeyError::Configured);
        }
        let place = Place::below(self.path());
        if let Some(key) = place.read()? {
            if !place.public.exists() {
                place.write_public(&key)?;
            }
            return Ok(key);
        }
        let key = PrivateKey::generate()
            .map_err(|source| DispatchKeyError::Generate { path: place.directory.clone(), source })?;
        place.write(self.path(), &key)?;
        Ok(key)
    }
}

/// The key that the daemon of this configuration logs in with, whether it runs or not; a pair is made if nothing is there.
///
/// # Errors
/// By variant.
pub fn find_key(config: &Config) -> Result<PrivateKey, DispatchKeyError> {
    let configured = &config.containers.dispatch_private_key;
    if !configured.is_empty() {
        return PrivateKey::parse(configured.reveal()).map_err(DispatchKeyError::Configured);
    }
    match Place::below(&config.state_dir).read()? {
        Some(key) => Ok(key),
        // Nobody has started it yet: the directory is free.
        None => StateDir::open(&config.state_dir)?.dispatch_key(configured),
    }
}

/// Where the private key of [`find_key`] is; `None`: in the configuration.
pub fn key_file(config: &Config) -> Option<PathBuf> {
    let is_configured = !config.containers.dispatch_private_key.is_empty();
    (!is_configured).then(|| Place::below(&config.state_dir).private)
}

/// What is wrong with a text that was configured as the key: for the loader, which reports it with its place.
pub fn private_key_fault(text: &str) -> Option<String> {
    PrivateKey::parse(text).err().map(|error| chain(&error))
}

/// The public key that workers must accept, for `muster check`: makes nothing. `None`: the driver uses no SSH.
///
/// # Errors
/// A daemon could not start with what is in the state directory.
pub fn public_key(config: &Config) -> Result<Option<String>, DispatchKeyError> {
    if !config.cloud.driver.uses_ssh() {
        return Ok(None);
    }
    let configured = &config.containers.dispatch_private_key;
    if !configured.is_empty() {
        let key = PrivateKey::parse(configured.reveal()).map_err(DispatchKeyError::Configured)?;
        return Ok(Some(key.public_openssh()));
    }
    let place = Place::below(&config.state_dir);
    let directory = place.directory.display();
    match place.read() {
        Ok(Some(key)) => Ok(Some(key.public_openssh())),
        Ok(None) => Ok(Some(format!("made at the first start of the daemon in {directory}; this shows it then"))),
        // Whoever checks need not be whom the daemon runs as.
        Err(DispatchKeyError::Io(StateDirError::Io { source, .. }))
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Ok(Some(format!("in {directory}, which only its owner can read")))
        }
        Err(error) => Err(error),
    }
}
