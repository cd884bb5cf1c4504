//! OpenSSH's container for private keys (PROTOCOL.key of OpenSSH): magic, cipher, KDF, number of keys, public part, private part.

use openssl::bn::{BigNum, BigNumRef};

use super::material::{self, CURVES, RsaNumbers};
use super::{KeyError, PrivateKey, one_line};

const MAGIC: &[u8] = b"openssh-key-v1\0";
/// Of the private part, when it is not encrypted.
const BLOCK_BYTES: usize = 8;
const LINE_LETTERS: usize = 70;
const LABEL: &str = "OPENSSH PRIVATE KEY";

/// SSH's encoding of fields (RFC 4251 §5), read from the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string()?).ok()
    }

    /// Not negative: no number of a key is.
    fn number(&mut self) -> Option<BigNum> {
        let bytes = self.string()?;
        let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
        if negative { None } else { BigNum::from_slice(bytes).ok() }
    }
}

/// The same, written.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// At most 64 KiB, as everything here.
    pub(super) fn string(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn number(&mut self, number: &BigNumRef) -> &mut Self {
        let mut bytes = number.to_vec();
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            bytes.insert(0, 0);
        }
        self.string(&bytes)
    }
}

/// From the lines between BEGIN and END, without line breaks.
pub(super) fn read(body: &str) -> Result<PrivateKey, KeyError> {
    let bytes = openssl::base64::decode_block(body).map_err(|_| KeyError::Damaged("it is not base64"))?;
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err(KeyError::Damaged("it does not begin as an OpenSSH key does"));
    };
    let (public, private) = outer(&mut Reader(rest))?;
    let mut reader = Reader(private);
    let key = inner(&mut reader)?;
    let padding = reader.0.iter().zip(1_u8..).all(|(byte, count)| *byte == count) && reader.0.len() < 256;
    if !padding {
        return Err(KeyError::Damaged("there is something behind its private part"));
    }
    if key.public != public {
        return Err(KeyError::Damaged("its private and public parts do not belong together"));
    }
    Ok(key)
}

const CUT_OFF: KeyError = KeyError::Damaged("a part is missing");

/// Public and private part of a container with one unencrypted key.
fn outer<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), KeyError> {
    let (cipher, kdf) = (reader.string().ok_or(CUT_OFF)?, reader.string().ok_or(CUT_OFF)?);
    if cipher != b"none" || kdf != b"none" {
        return Err(KeyError::Encrypted);
    }
    reader.string().ok_or(CUT_OFF)?;
    if reader.u32().ok_or(CUT_OFF)? != 1 {
        return Err(KeyError::Damaged("it must hold one key"));
    }
    let parts = (reader.string().ok_or(CUT_OFF)?, reader.string().ok_or(CUT_OFF)?);
    if reader.0.is_empty() { Ok(parts) } else { Err(KeyError::Damaged("there is something behind its end")) }
}

/// The private part up to its padding.
fn inner(reader: &mut Reader<'_>) -> Result<PrivateKey, KeyError> {
    if reader.u32().ok_or(CUT_OFF)? != reader.u32().ok_or(CUT_OFF)? {
        return Err(KeyError::Damaged("its check numbers differ"));
    }
    let algorithm = reader.text().ok_or(CUT_OFF)?;
    let fields = fields(algorithm, reader)?;
    let comment = one_line(reader.string().ok_or(CUT_OFF)?);
    match fields {
        Fields::Ed25519 { seed } => material::ed25519(seed, &comment),
        Fields::Rsa(numbers) => material::rsa(&numbers, &comment),
        Fields::Ecdsa { curve, secret } => material::ecdsa(curve, &secret, &comment),
    }
}

enum Fields<'a> {
    Ed25519 { seed: &'a [u8] },
    Rsa(RsaNumbers),
    Ecdsa { curve: &'static str, secret: BigNum },
}

/// What is between the algorithm's name and the comment. Public parts in it are not used: they follow from the private ones, and
/// the result is compared with the container's public part.
fn fields<'a>(algorithm: &str, reader: &mut Reader<'a>) -> Result<Fields<'a>, KeyError> {
    let found = match algorithm {
        "ssh-ed25519" => {
            reader.string().ok_or(CUT_OFF)?;
            reader.string().and_then(|pair| pair.get(..32)).map(|seed| Fields::Ed25519 { seed })
        }
        "ssh-rsa" => rsa_fields(reader).map(Fields::Rsa),
        _ => {
            let curve = CURVES.iter().find(|(name, _)| algorithm.strip_prefix("ecdsa-sha2-") == Some(name));
            let Some((curve, _)) = curve else {
                return Err(unknown(algorithm));
            };
            // The curve again, and the point.
            let _ = (reader.string().ok_or(CUT_OFF)?, reader.string().ok_or(CUT_OFF)?);
            reader.number().map(|secret| Fields::Ecdsa { curve, secret })
        }
    };
    found.ok_or(CUT_OFF)
}

fn rsa_fields(reader: &mut Reader<'_>) -> Option<RsaNumbers> {
    let (modulus, exponent, secret) = (reader.number()?, reader.number()?, reader.number()?);
    // The inverse of q: follows from the primes.
    reader.number()?;
    Some(RsaNumbers { modulus, exponent, secret, primes: (reader.number()?, reader.number()?) })
}

/// Only what looks like a name is repeated: in a damaged key it could be anything.
fn unknown(algorithm: &str) -> KeyError {
    let known = ["ssh-dss", "sk-", "ssh-", "ecdsa-"].iter().any(|start| algorithm.starts_with(start));
    let plain = algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-@.".contains(&byte));
    if known && plain && algorithm.len() <= 64 {
        KeyError::UnknownType(algorithm.to_owned())
    } else {
        KeyError::Damaged("the name of its type is none")
    }
}

/// The whole text of a key; `secret`: the algorithm's name and its fields.
pub(super) fn container(public: &[u8], secret: Writer, comment: &str) -> String {
    let mut private = Writer::default();
    // The check numbers only tell whether a decryption succeeded. Equal keys give equal texts.
    private.u32(0).u32(0);
    private.0.extend_from_slice(&secret.0);
    private.string(comment.as_bytes());
    private.0.extend((1_u8..).take(private.0.len().next_multiple_of(BLOCK_BYTES) - private.0.len()));
    let mut whole = Writer(MAGIC.to_vec());
    whole.string(b"none").string(b"none").string(b"").u32(1).string(public).string(&private.0);
    let letters = openssl::base64::encode_block(&whole.0);
    let mut text = format!("-----BEGIN {LABEL}-----\n");
    for (index, letter) in letters.chars().enumerate() {
        if index > 0 && index % LINE_LETTERS == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str(&format!("\n-----END {LABEL}-----\n"));
    text
}
