//! Where in a text a private key is, in which form, and the keys in PEM form, which OpenSSL reads.

use std::cell::Cell;

use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, PKeyRef, Private};

use super::material::{self, CURVES, RsaNumbers};
use super::{KeyError, PrivateKey};

/// A private key's section of a text.
pub(super) enum Form {
    /// What is between its first and last line, without line breaks.
    OpenSsh(String),
    /// The section, with nothing around it.
    Pem(String),
}

impl Form {
    /// The first section that is a private key: others come before it, such as the EC parameters of `openssl ecparam -genkey`.
    pub(super) fn find(text: &str) -> Result<Self, KeyError> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let label_of = |line: &&str| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----").map(str::to_owned);
        let mut begins = lines.iter().enumerate().filter_map(|(index, line)| Some((index, label_of(line)?)));
        let of_a_key = |label: &str| label.ends_with("PRIVATE KEY") && !label.contains("-----");
        let Some((first, label)) = begins.find(|(_, label)| of_a_key(label)) else {
            return Err(what_else(text));
        };
        let section = &lines[first + 1..];
        let Some(last) = section.iter().position(|line| *line == format!("-----END {label}-----")) else {
            return Err(KeyError::Damaged("its last line, -----END …-----, is missing"));
        };
        let body = &section[..last];
        match label.as_str() {
            "OPENSSH PRIVATE KEY" => Ok(Self::OpenSsh(body.concat())),
            "ENCRYPTED PRIVATE KEY" => Err(KeyError::Encrypted),
            _ if body.iter().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED")) => {
                Err(KeyError::Encrypted)
            }
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => {
                Ok(Self::Pem(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", body.join("\n"))))
            }
            "DSA PRIVATE KEY" => Err(KeyError::UnknownType("DSA".to_owned())),
            _ => Err(KeyError::NotAKey),
        }
    }
}

/// What a text without a private key is instead.
fn what_else(text: &str) -> KeyError {
    let text = text.trim();
    let first_line = text.lines().next().unwrap_or_default();
    let public = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| first_line.starts_with(start));
    if public || (text.contains("BEGIN ") && text.contains("PUBLIC KEY")) {
        KeyError::PublicKey
    } else if text.starts_with("PuTTY-User-Key-File-") {
        KeyError::Putty
    } else if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
        KeyError::LineBreaks
    } else if first_line == text && ["/", "~", "./"].iter().any(|start| text.starts_with(start)) {
        KeyError::Path
    } else {
        KeyError::NotAKey
    }
}

/// From one section.
pub(super) fn read(pem: &str) -> Result<PrivateKey, KeyError> {
    // Without this OpenSSL would ask at the terminal.
    let asked = Cell::new(false);
    let passphrase = |_: &mut [u8]| {
        asked.set(true);
        Ok(0)
    };
    let key = PKey::private_key_from_pem_callback(pem.as_bytes(), passphrase).map_err(|_| {
        if asked.get() {
            KeyError::Encrypted
        } else {
            KeyError::Damaged("what is between its first and last line is no key")
        }
    })?;
    match key.id() {
        Id::ED25519 => {
            let seed = key.raw_private_key().map_err(|_| KeyError::Damaged("its number is missing"))?;
            material::ed25519(&seed, "")
        }
        Id::RSA => material::rsa(&rsa_numbers(&key).ok_or(KeyError::Damaged("a number is missing"))?, ""),
        Id::EC => {
            let key = key.ec_key().map_err(|_| KeyError::Damaged("a number is missing"))?;
            let nid = key.group().curve_name().unwrap_or(Nid::UNDEF);
            let name = CURVES.iter().find(|(_, known)| *known == nid).map(|(name, _)| *name);
            material::ecdsa(name.unwrap_or_else(|| nid.short_name().unwrap_or("(unnamed)")), key.private_key(), "")
        }
        other => Err(KeyError::UnknownType(name_of(other))),
    }
}

fn name_of(id: Id) -> String {
    Nid::from_raw(id.as_raw()).short_name().unwrap_or("(unknown)").to_owned()
}

fn rsa_numbers(key: &PKeyRef<Private>) -> Option<RsaNumbers> {
    let key = key.rsa().ok()?;
    let owned = |number: &openssl::bn::BigNumRef| if number.is_negative() { None } else { number.to_owned().ok() };
    Some(RsaNumbers {
        modulus: owned(key.n())?,
        exponent: owned(key.e())?,
        secret: owned(key.d())?,
        primes: (owned(key.p()?)?, owned(key.q()?)?),
    })
}
