//! Who a host is (spec 20 §8, 45 §4, 46 §1): its key, and who judges it.
//!
//! The judge is asked after the handshake and before authentication, so that nothing is sent to a wrong host. Where it cannot tell,
//! the instance's secret decides right after authentication.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Longest public key that is taken: an RSA key of 16,384 bits has 2 KiB.
const BLOB_BYTES_MAX: usize = 16 * 1024;

/// A host's public key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HostKey {
    blob: Arc<[u8]>,
}

impl HostKey {
    /// From the form that SSH sends.
    pub fn new(blob: &[u8]) -> Option<Self> {
        let key = Self { blob: blob.into() };
        (blob.len() <= BLOB_BYTES_MAX && !key.algorithm().is_empty()).then_some(key)
    }

    /// From `ALGORITHM BASE64 [comment]`, as in `authorized_keys` and in a host's `.pub` files.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace();
        let (Some(algorithm), Some(encoded)) = (words.next(), words.next()) else {
            return Err("must be a public key: ALGORITHM BASE64, as in /etc/ssh/ssh_host_ed25519_key.pub".to_owned());
        };
        if encoded.len() > BLOB_BYTES_MAX * 2 {
            return Err("is too long for a public key".to_owned());
        }
        let blob =
            openssl::base64::decode_block(encoded).map_err(|_| "is not base64 after the algorithm".to_owned())?;
        match Self::new(&blob) {
            Some(key) if key.algorithm() == algorithm => Ok(key),
            _ => Err(format!("does not contain a key of the type {algorithm}")),
        }
    }

    /// The name that the key carries, like `ssh-ed25519`; empty if it carries none.
    pub fn algorithm(&self) -> &str {
        let length = self.blob.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let name = usize::try_from(length).ok().and_then(|length| self.blob.get(4..4_usize.checked_add(length)?));
        name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }

    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// `ALGORITHM BASE64`.
    pub fn openssh(&self) -> String {
        format!("{} {}", self.algorithm(), openssl::base64::encode_block(&self.blob))
    }

    /// As `ssh-keygen -l` shows it: `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        let digest = openssl::base64::encode_block(&Sha256::digest(&self.blob));
        format!("SHA256:{}", digest.trim_end_matches('='))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({} {})", self.algorithm(), self.fingerprint())
    }
}

/// How a host that was there before us is recognised (spec 46 §1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostTrust {
    /// It shows one of these; there is at least one.
    Keys(Vec<HostKey>),
    /// By what this `known_hosts` file says at the time of the connection.
    KnownHosts(PathBuf),
    /// It shows the key that it showed first.
    FirstUse,
}

/// What is known of a host's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Trusted,
    /// With the reason: which key was expected, and what to do.
    Refused(String),
    /// There is no way to tell: the instance's secret decides, and without one the host is not trusted.
    Unknown,
}

/// Judges host keys. Called on the thread that connects, at every connection; may take as long as reading a file.
pub trait HostCheck: Send + Sync + fmt::Debug {
    /// `address` is what was connected to.
    fn check(&self, key: &HostKey, address: &str) -> Verdict;

    /// The types of the keys that are known of the host (`ssh-ed25519`, `ssh-rsa` …): a host that has several shows one of these.
    fn algorithms(&self, _address: &str) -> Vec<String> {
        Vec::new()
    }
}

/// For instances whose keys nobody knows beforehand: the secret alone decides.
#[derive(Clone, Copy, Debug)]
pub struct SecretOnly;

impl HostCheck for SecretOnly {
    fn check(&self, _key: &HostKey, _address: &str) -> Verdict {
        Verdict::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn keys_as_text() {
        let key = HostKey::parse(&format!("{LINE} root@host")).expect("a key");
        assert_eq!((key.algorithm(), key.openssh().as_str()), ("ssh-ed25519", LINE));
        assert_eq!(key.fingerprint(), "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 !!!!",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
        ] {
            assert!(HostKey::parse(bad).is_err(), "{bad}");
        }
        assert!(HostKey::new(&[0xff; 40]).is_none());
        assert!(HostKey::new(&[]).is_none());
    }
}
