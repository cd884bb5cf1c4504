//! Keys, made by the programs of OpenSSH and Dropbear.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::layout::{private_folder, program, run};

/// What algorithm a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Ed25519,
    /// 2048 bits.
    Rsa,
    /// On the curve P-256.
    Ecdsa,
}

impl KeyKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Rsa => "rsa",
            Self::Ecdsa => "ecdsa",
        }
    }
}

/// How a private key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// `BEGIN OPENSSH PRIVATE KEY`.
    OpenSsh,
    /// `BEGIN RSA PRIVATE KEY`, `BEGIN EC PRIVATE KEY`; there is none for ed25519.
    Pem,
}

/// A client's key pair, in a private directory that goes when this is dropped.
#[derive(Debug)]
pub struct ClientKey {
    folder: tempfile::TempDir,
    private: String,
    public: String,
}

/// A new ed25519 key pair.
///
/// # Errors
/// `ssh-keygen` is not installed or fails.
pub fn client_key() -> io::Result<ClientKey> {
    ClientKey::generate(KeyKind::Ed25519, KeyForm::OpenSsh, "")
}

impl ClientKey {
    /// A new key pair; an empty passphrase is none.
    ///
    /// # Errors
    /// `ssh-keygen` is not installed or fails.
    pub fn generate(kind: KeyKind, form: KeyForm, passphrase: &str) -> io::Result<Self> {
        let folder = private_folder("muster-ssh-key-")?;
        let path = folder.path().join("key");
        keygen(kind, &path, passphrase, form)?;
        let private = std::fs::read_to_string(&path)?;
        let public = std::fs::read_to_string(path.with_extension("pub"))?.trim().to_owned();
        Ok(Self { folder, private, public })
    }

    /// The private key's text.
    #[must_use]
    pub fn private(&self) -> &str {
        &self.private
    }

    /// The public key as a line of `authorized_keys`, without a comment.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The private key's file, mode 0600.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("key")
    }
}

fn keygen(kind: KeyKind, path: &Path, passphrase: &str, form: KeyForm) -> io::Result<()> {
    let mut command = Command::new(program("ssh-keygen", "openssh-client")?);
    command.args(["-q", "-t", kind.name(), "-N", passphrase, "-C", "", "-f"]).arg(path);
    match kind {
        KeyKind::Ed25519 => {}
        KeyKind::Rsa => drop(command.args(["-b", "2048"])),
        KeyKind::Ecdsa => drop(command.args(["-b", "256"])),
    }
    if form == KeyForm::Pem {
        command.args(["-m", "PEM"]);
    }
    run(&mut command).map(drop)
}

/// A new host key in OpenSSH's form at `path`; gives "TYPE BASE64".
pub(crate) fn openssh_host_key(kind: KeyKind, path: &Path) -> io::Result<String> {
    keygen(kind, path, "", KeyForm::OpenSsh)?;
    let public = std::fs::read_to_string(path.with_extension("pub"))?;
    public_line(&public, path)
}

/// A new host key in Dropbear's form at `path`; gives "TYPE BASE64".
pub(crate) fn dropbear_host_key(kind: KeyKind, path: &Path) -> io::Result<String> {
    let mut command = Command::new(program("dropbearkey", "dropbear-bin")?);
    let printed = run(command.args(["-t", kind.name(), "-f"]).arg(path))?;
    public_line(&printed, path)
}

/// The first line that is a public key, without its comment.
fn public_line(text: &str, path: &Path) -> io::Result<String> {
    let line = text.lines().find(|line| line.starts_with("ssh-") || line.starts_with("ecdsa-"));
    let mut words = line.unwrap_or_default().split_whitespace();
    match (words.next(), words.next()) {
        (Some(kind), Some(key)) => Ok(format!("{kind} {key}")),
        _ => Err(io::Error::other(format!("no public key was printed for {}", path.display()))),
    }
}
