//! The private key that the dispatcher logs in with (spec 45 §3): read from OpenSSH and PEM form, or drawn.
//!
//! Every key is taken apart and written again in one form for its type, so what was accepted here does log in, however it was
//! written: ed25519 in OpenSSH form (`ssh -i` reads its PKCS#8 only from 9.6 on), the others in PKCS#8. libssh2 1.11 logs in with all
//! forms of all types (tests/keys tries each), but it prompts for nothing, explains nothing and checks little.
//! Reading order: [`PrivateKey`], [`KeyError`], [`material`] (from numbers to a key), [`openssh`] (the container), [`pem`] (finding
//! the key in a text).
//!
//! The secret is in [`PrivateKey::text`] only: never in `Debug`, in an error or in a log.

mod material;
mod openssh;
mod pem;

use std::fmt;

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use sha2::{Digest, Sha256};

use self::pem::Form;

/// Longest text that is looked at, in bytes. A key of 16384 bits has 13 KB.
pub const KEY_BYTES_MAX: usize = 64 * 1024;
/// Least and most bits of an RSA key. The upper one is OpenSSH's.
pub const RSA_BITS: std::ops::RangeInclusive<i32> = 2048..=16384;
/// Letters of a comment that are kept.
const COMMENT_LETTERS_MAX: usize = 200;
const GENERATED_COMMENT: &str = "muster";

/// Why a text is no key to log in with. The texts fit behind "error parsing KEY: ".
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("it has more than {KEY_BYTES_MAX} bytes, which no key has")]
    TooLarge,
    #[error(
        "it is protected by a passphrase, which nobody is there to type: remove it with `ssh-keygen -p -f FILE` (leave the new passphrase empty), or use a key without one"
    )]
    Encrypted,
    #[error("it is a public key: give the private one (the file without .pub)")]
    PublicKey,
    #[error("it is the path of a file: write file:///PATH, or the key's text")]
    Path,
    #[error("it is in PuTTY's form: convert it with `puttygen FILE -O private-openssh -o NEWFILE`")]
    Putty,
    #[error(
        "its line breaks are lost: in YAML write it as a block (`DispatchPrivateKey: |`, the key's lines indented below), or as file:///PATH"
    )]
    LineBreaks,
    #[error(
        "it is no private key in OpenSSH or PEM form: there is no line such as -----BEGIN OPENSSH PRIVATE KEY-----"
    )]
    NotAKey,
    #[error(
        "keys of type {0} are not supported: use ed25519 (`ssh-keygen -t ed25519` makes one), RSA, or ECDSA on P-256, P-384 or P-521"
    )]
    UnknownType(String),
    #[error(
        "an RSA key of {bits} bits is not accepted: it needs {} to {} (`ssh-keygen -t ed25519` makes a better one)",
        RSA_BITS.start(),
        RSA_BITS.end()
    )]
    RsaBits { bits: i32 },
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Of [`PrivateKey::generate`] only.
    #[error("cannot draw a key")]
    Generate(#[source] ErrorStack),
}

/// A key without passphrase that libssh2 can log in with.
#[derive(Clone)]
pub struct PrivateKey {
    text: String,
    /// The public part in SSH's encoding.
    public: Vec<u8>,
    /// In one line.
    comment: String,
}

impl PrivateKey {
    /// From OpenSSH form, PKCS#1, SEC1 or PKCS#8 in PEM form: ed25519, RSA of [`RSA_BITS`], ECDSA on P-256, P-384 or P-521. What
    /// surrounds the key (other PEM sections, text, indentation) is passed over.
    ///
    /// # Errors
    /// By variant.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLarge);
        }
        match Form::find(text)? {
            Form::OpenSsh(body) => openssh::read(&body),
            Form::Pem(pem) => pem::read(&pem),
        }
    }

    /// A new ed25519 key. Its [`text`](Self::text) is a file that `ssh -i` takes.
    ///
    /// # Errors
    /// [`KeyError::Generate`]: no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = PKey::generate_ed25519().map_err(KeyError::Generate)?;
        let seed = pair.raw_private_key().map_err(KeyError::Generate)?;
        material::ed25519(&seed, GENERATED_COMMENT)
    }

    /// **Secret**: for `userauth_pubkey_memory` and a file of mode 0600, nothing else. Ends with a line feed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Name of the algorithm: `ssh-ed25519`, `ssh-rsa`, `ecdsa-sha2-nistp256` and so on.
    pub fn algorithm(&self) -> &str {
        openssh::Reader(&self.public).string().and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }

    /// A line for `authorized_keys`, without line feed: `ssh-ed25519 AAAA… comment`.
    pub fn public_openssh(&self) -> String {
        let line = format!("{} {} {}", self.algorithm(), openssl::base64::encode_block(&self.public), self.comment);
        line.trim_end().to_owned()
    }

    /// As `ssh-keygen -l` prints it: `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        let digest = openssl::base64::encode_block(&Sha256::digest(&self.public));
        format!("SHA256:{}", digest.trim_end_matches('='))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({} {})", self.algorithm(), self.fingerprint())
    }
}

/// A comment becomes part of a line of `authorized_keys`: it must not be able to begin another.
fn one_line(comment: &[u8]) -> String {
    let text = String::from_utf8_lossy(comment);
    let plain = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    plain.take(COMMENT_LETTERS_MAX).collect::<String>().trim().to_owned()
}
