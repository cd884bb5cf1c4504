//! The fingerprints under which EC2 may know an SSH key (spec 42 §3). They are not those that `ssh-keygen -l` prints of RSA keys. Pure.

use openssl::base64;
use openssl::bn::BigNum;
use openssl::error::ErrorStack;
use openssl::hash::{MessageDigest, hash};
use openssl::rsa::Rsa;

use super::sigv4::hex;

/// Why a text has no fingerprint.
#[derive(Debug, thiserror::Error)]
pub enum FingerprintError {
    #[error("the public key is not of the form ALGORITHM BASE64 [comment]")]
    NotAKey,
    #[error("the public key is not what its first word says ({0})")]
    WrongAlgorithm(String),
    #[error("the public key is cut or has more than belongs to it")]
    WrongLength,
    #[error("OpenSSL does not take the public key")]
    OpenSsl(#[from] ErrorStack),
}

/// Both forms that AWS may show for a key in the form of `authorized_keys`; the first is also what names the key.
///
/// RSA: MD5, which is shown of imported keys, then SHA-1, which is shown of keys that AWS made; both of the PKIX DER form. Others:
/// SHA-256 of the key as SSH has it, with padding and without, for AWS is not consistent about that.
///
/// # Errors
/// It is not a public key.
pub fn fingerprints(public_key: &str) -> Result<[String; 2], FingerprintError> {
    let mut words = public_key.split_whitespace();
    let (Some(algorithm), Some(encoded)) = (words.next(), words.next()) else {
        return Err(FingerprintError::NotAKey);
    };
    let blob = base64::decode_block(encoded).map_err(|_| FingerprintError::NotAKey)?;
    let mut rest = blob.as_slice();
    if take_string(&mut rest)? != algorithm.as_bytes() {
        return Err(FingerprintError::WrongAlgorithm(algorithm.to_owned()));
    }
    if algorithm == "ssh-rsa" {
        let der = rsa_der(rest)?;
        return Ok([hex_pairs(&hash(MessageDigest::md5(), &der)?), hex_pairs(&hash(MessageDigest::sha1(), &der)?)]);
    }
    let padded = format!("SHA256:{}", base64::encode_block(&hash(MessageDigest::sha256(), &blob)?));
    let bare = padded.trim_end_matches('=').to_owned();
    Ok([padded, bare])
}

/// SubjectPublicKeyInfo of the exponent and modulus that SSH has.
fn rsa_der(mut numbers: &[u8]) -> Result<Vec<u8>, FingerprintError> {
    let exponent = BigNum::from_slice(take_string(&mut numbers)?)?;
    let modulus = BigNum::from_slice(take_string(&mut numbers)?)?;
    if !numbers.is_empty() {
        return Err(FingerprintError::WrongLength);
    }
    Ok(Rsa::from_public_components(modulus, exponent)?.public_key_to_der()?)
}

/// Takes a string of RFC 4251 off the front: four bytes of length, then as many bytes.
fn take_string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FingerprintError> {
    let (length, after) = rest.split_first_chunk().ok_or(FingerprintError::WrongLength)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| FingerprintError::WrongLength)?;
    let (string, after) = after.split_at_checked(length).ok_or(FingerprintError::WrongLength)?;
    *rest = after;
    Ok(string)
}

fn hex_pairs(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| hex(&[*byte])).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCOuYDJ6SrJV4bn/JBob8HREnXoT5yw2BU7IqjKR1W4mYfFGqxr8jl/DCbxHOW1vC8tF37kPFc4h4AK2OThGNxifciO6HIAv/7sWGcqsI2XNvohYV/hrci1Uq6A7EMd56v0R0HJa+UTKlIpf0unpjrNMhBmbffwbVesohCvCnTwH1DPefghM7uxFMU/Flmq36tZ4rvEzG2JayWVxn9laQYR3D6hY1lwy2WsIK8zZkdoXTGSoyk9I70RxTd6NkZyklcS2PzbR5cYUMHZnYs8CechuTDzBiteI3s3oHWFSwoYZXevlqxkkYovqy+VLRNyW3APNYwy3GtaEGAR2REDTYqZ";
    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMdBef1Rc/polsg+6SDJIekiTc1YQS6reyuMFZtq9NS4";

    #[test]
    fn the_vectors_of_the_specification() {
        let rsa = fingerprints(&format!("{RSA} somebody@somewhere")).expect("a key");
        assert_eq!(rsa[0], "b5:62:f1:95:71:b6:d9:a6:71:0c:b7:34:29:e7:8c:b5");
        assert_eq!(rsa[1], "d5:44:7f:40:39:26:e3:01:55:eb:08:9d:1c:06:03:e3:5b:ad:5d:89");
        let other = fingerprints(ED25519).expect("a key");
        assert_eq!(other[0], "SHA256:X+ArmE6o+Lzy9Lk8Tsfdn4XtoyNNwoQt393Z3+XBejw=");
        assert_eq!(other[1], "SHA256:X+ArmE6o+Lzy9Lk8Tsfdn4XtoyNNwoQt393Z3+XBejw");
    }

    fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        child.stdin.take().expect("a pipe").write_all(input).expect("read");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{program} {arguments:?}");
        output.stdout
    }

    /// A fresh key goes the way an operator would check it: `ssh-keygen` to PEM, `openssl` to DER and to the two sums.
    #[test]
    fn the_openssl_command_gets_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        let path = key.to_str().expect("a name");
        piped("ssh-keygen", &["-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "a comment", "-f", path], b"");
        let pem = piped("ssh-keygen", &["-e", "-m", "PKCS8", "-f", path], b"");
        let der = piped("openssl", &["pkey", "-pubin", "-outform", "DER"], &pem);
        let sum = |kind: &str| {
            let output = String::from_utf8(piped("openssl", &["dgst", kind, "-c"], &der)).expect("text");
            output.rsplit("= ").next().expect("a sum").trim().to_owned()
        };
        let public = std::fs::read_to_string(folder.path().join("key.pub")).expect("written");
        assert_eq!(fingerprints(&public).expect("a key"), [sum("-md5"), sum("-sha1")]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let cut = |text: &str, bytes: usize| {
            let (algorithm, encoded) = text.split_once(' ').expect("two words");
            let mut blob = base64::decode_block(encoded).expect("base64");
            blob.truncate(bytes);
            format!("{algorithm} {}", base64::encode_block(&blob))
        };
        let longer = {
            let mut blob = base64::decode_block(RSA.split_once(' ').expect("two words").1).expect("base64");
            blob.push(0);
            format!("ssh-rsa {}", base64::encode_block(&blob))
        };
        let exchanged = ED25519.replace("ssh-ed25519", "ssh-rsa");
        for text in ["", "ssh-rsa", "ssh-rsa !!!", &cut(RSA, 3), &cut(RSA, 12), &cut(RSA, 100), &longer, &exchanged] {
            let error = fingerprints(text).expect_err(text);
            assert!(!error.to_string().is_empty(), "{text}");
        }
    }
}
