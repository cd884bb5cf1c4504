//! `known_hosts` files, as OpenSSH writes them: which keys a host may show.
//!
//! libssh2 matches the names (plain or hashed, with `[host]:port`), capital letters are small ones. Lines are split here, since it knows no markers, reads no further
//! than the first bad line, and does not tell which kinds of keys a host has. Not understood: patterns (`*.lab`, `!name`) and
//! certificates (`@cert-authority`). A key in a `@revoked` line is refused whatever host shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::address::HostAddress;
use super::identity::{HostKey, Verdict};

/// Bytes of a file: some 30,000 lines.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The port that OpenSSH leaves out of names.
const PORT: u16 = 22;

/// A line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFault {
    /// From 1.
    pub line: usize,
    pub message: String,
    /// It says that a key is revoked: it is not known which.
    pub revokes: bool,
}

/// One file, as it was when it was read.
pub struct KnownHosts {
    path: PathBuf,
    /// By kind of key, so that it can be told which kinds a host has.
    entries: BTreeMap<String, ssh2::KnownHosts>,
    revoked: Vec<HostKey>,
    faults: Vec<LineFault>,
}

impl fmt::Debug for KnownHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownHosts").field("path", &self.path).finish_non_exhaustive()
    }
}

impl KnownHosts {
    /// A line that cannot be used does not keep the others from being read: see [`KnownHosts::faults`].
    ///
    /// # Errors
    /// The file cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: &dyn fmt::Display| {
            let home = path.components().any(|part| part.as_os_str() == "~");
            let hint = if home { " (~ means nothing here: write the whole path)" } else { "" };
            format!("cannot read {}: {error}{hint}", path.display())
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(failed(&"it is not a file"));
        }
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| failed(&error))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(failed(&format!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        let session = ssh2::Session::new().map_err(|error| failed(&error))?;
        let mut known =
            Self { path: path.to_owned(), entries: BTreeMap::new(), revoked: Vec::new(), faults: Vec::new() };
        for (index, line) in text.lines().enumerate() {
            if let Err(message) = known.line(line.trim(), &session) {
                let revokes = line.trim_start().starts_with("@revoked");
                known.faults.push(LineFault { line: index + 1, message, revokes });
            }
        }
        Ok(known)
    }

    fn line(&mut self, line: &str, session: &ssh2::Session) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (first, rest) = line.split_once([' ', '\t']).ok_or("it has a name and no key")?;
        match first {
            "@revoked" => {
                let (_, key) = rest.trim_start().split_once([' ', '\t']).ok_or("it has a name and no key")?;
                self.revoked.push(HostKey::parse(key)?);
                Ok(())
            }
            "@cert-authority" => Ok(()),
            _ if first.starts_with('@') => Err(format!("the marker {first} is not known")),
            names => {
                let key = HostKey::parse(rest)?;
                let kind = key.algorithm().to_owned();
                if !self.entries.contains_key(&kind) {
                    let empty = session.known_hosts().map_err(|error| error.to_string())?;
                    self.entries.insert(kind.clone(), empty);
                }
                let entries = self.entries.get_mut(&kind).ok_or("it was just put there")?;
                // As OpenSSH compares them; hashed names are those of lower-case ones.
                let names = if names.starts_with('|') { names.to_owned() } else { names.to_ascii_lowercase() };
                let line = format!("{names} {}\n", key.openssh());
                entries.read_str(&line, ssh2::KnownHostFileKind::OpenSSH).map_err(|error| error.to_string())
            }
        }
    }

    pub fn faults(&self) -> &[LineFault] {
        &self.faults
    }

    /// Kinds of keys that the file has for a host, like `ssh-ed25519`; empty: it does not know the host.
    pub fn algorithms(&self, address: &HostAddress) -> Vec<String> {
        let names = names(address);
        // As OpenSSH does, the name without a port counts only if there is no entry with the port.
        for name in &names {
            let kinds = self.entries.iter().filter(|(_, entries)| {
                // Any key: what is asked is whether there is an entry.
                !matches!(entries.check(name, b"any"), ssh2::CheckResult::NotFound)
            });
            let kinds: BTreeSet<&String> = kinds.map(|(kind, _)| kind).collect();
            if !kinds.is_empty() {
                return kinds.into_iter().cloned().collect();
            }
        }
        Vec::new()
    }

    /// Never [`Verdict::Unknown`].
    pub fn judge(&self, key: &HostKey, address: &HostAddress) -> Verdict {
        let file = self.path.display();
        let shown = format!("it shows {} {}", key.algorithm(), key.fingerprint());
        if let Some(fault) = self.faults.iter().find(|fault| fault.revokes) {
            let LineFault { line, message, .. } = fault;
            return Verdict::Refused(format!(
                "{shown}, and line {line} of {file} revokes a key that cannot be read ({message}), which may be this one: correct \
                 that line"
            ));
        }
        if self.revoked.contains(key) {
            return Verdict::Refused(format!("{shown}, which {file} says is revoked"));
        }
        for name in names(address) {
            let mut known = false;
            for entries in self.entries.values() {
                match entries.check(&name, key.blob()) {
                    ssh2::CheckResult::Match => return Verdict::Trusted,
                    ssh2::CheckResult::NotFound => {}
                    ssh2::CheckResult::Mismatch | ssh2::CheckResult::Failure => known = true,
                }
            }
            if known {
                let expected: Vec<String> = self.fingerprints(&name);
                return Verdict::Refused(format!(
                    "{shown}, but {file} has {} for {name}; if the host was installed anew, correct the file \
                     (ssh-keygen -f {file} -R {name}), otherwise somebody is in between",
                    if expected.is_empty() { "another key".to_owned() } else { expected.join(", ") },
                ));
            }
        }
        Verdict::Refused(format!("{shown}, and {}", self.no_entry(address)))
    }

    /// What to say when the file does not know a host.
    pub fn no_entry(&self, address: &HostAddress) -> String {
        format!(
            "{} has no entry for {} (patterns and @cert-authority lines are not used): add the host's key, for instance \
             with ssh-keyscan, after you have checked it",
            self.path.display(),
            names(address).join(" or ")
        )
    }

    /// Of the keys under a name that is written in plain; hashed names do not tell.
    fn fingerprints(&self, name: &str) -> Vec<String> {
        let hosts = self.entries.iter().filter_map(|(kind, entries)| Some((kind, entries.hosts().ok()?)));
        let keys = hosts.flat_map(|(kind, hosts)| {
            let named = hosts.into_iter().filter(|host| host.name() == Some(name));
            named.filter_map(|host| HostKey::parse(&format!("{kind} {}", host.key())).ok()).collect::<Vec<_>>()
        });
        keys.map(|key| format!("{} {}", key.algorithm(), key.fingerprint())).collect()
    }
}

/// The names under which a host can stand in the file, the first that is there counts.
fn names(address: &HostAddress) -> [String; 2] {
    let HostAddress { host, port } = address;
    let host = host.to_ascii_lowercase();
    let with_port = format!("[{host}]:{port}");
    if *port == PORT { [host, with_port] } else { [with_port, host] }
}

#[cfg(test)]
mod tests;
