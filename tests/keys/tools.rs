//! Keys made by ssh-keygen and openssl, in a directory of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `ssh-keygen -t … -b …` makes: name, arguments.
pub(crate) const TYPES: [(&str, &[&str]); 6] = [
    ("ed25519", &["-t", "ed25519"]),
    ("rsa2048", &["-t", "rsa", "-b", "2048"]),
    ("rsa3072", &["-t", "rsa", "-b", "3072"]),
    ("p256", &["-t", "ecdsa", "-b", "256"]),
    ("p384", &["-t", "ecdsa", "-b", "384"]),
    ("p521", &["-t", "ecdsa", "-b", "521"]),
];

pub(crate) struct Workshop(tempfile::TempDir);

/// A private key file and, as OpenSSH itself says it, its public part.
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) public: String,
    pub(crate) fingerprint: String,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("muster-keys-").tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("text")
    }

    /// Mode 0600, as ssh-keygen insists on.
    pub(crate) fn write(&self, name: &str, text: &str) {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(self.path(name));
        file.expect("opened").write_all(text.as_bytes()).expect("written");
    }

    /// Standard output of a program that must succeed; it is run in the directory.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).current_dir(self.0.path()).stdin(Stdio::null()).output();
        let output = output.expect("starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// In OpenSSH form, encrypted if there is a passphrase.
    pub(crate) fn keygen(&self, name: &str, arguments: &[&str], passphrase: &str) {
        let rest = ["-C", "a comment", "-N", passphrase, "-f", name];
        self.run("ssh-keygen", &[&["-q"], arguments, &rest].concat());
    }

    /// A copy of a key in another form (`PEM`, `PKCS8`), with a passphrase if it is not empty.
    pub(crate) fn converted(&self, from: &str, form: &str, passphrase: &str) -> String {
        let to = format!("{from}.{form}{passphrase}");
        self.write(&to, &self.read(from));
        self.run("ssh-keygen", &["-q", "-p", "-P", "", "-N", passphrase, "-m", form, "-f", &to]);
        to
    }

    /// Every type in every form.
    pub(crate) fn all(&self) -> Vec<Made> {
        let mut made = Vec::new();
        for (name, arguments) in TYPES {
            self.keygen(name, arguments, "");
            made.push(self.made(name, name));
            if name != "ed25519" {
                for form in ["PEM", "PKCS8"] {
                    made.push(self.made(&self.converted(name, form, ""), name));
                }
            }
        }
        made.push(self.ed25519_in_pkcs8());
        for (name, curve) in [("sec1", "prime256v1"), ("sec1-384", "secp384r1")] {
            // With the section EC PARAMETERS before the key.
            self.run("openssl", &["ecparam", "-genkey", "-name", curve, "-out", name]);
            self.write(name, &self.read(name));
            made.push(self.made(name, name));
        }
        made
    }

    /// `name` with the public part of `original`, which is the same key.
    fn made(&self, name: &str, original: &str) -> Made {
        let public = self.run("ssh-keygen", &["-y", "-f", original]);
        self.with_public(name, public.trim())
    }

    fn with_public(&self, name: &str, public: &str) -> Made {
        self.write("made.pub", public);
        let listed = self.run("ssh-keygen", &["-l", "-f", "made.pub"]);
        let fingerprint = listed.split(' ').nth(1).expect("a fingerprint").to_owned();
        Made { name: name.to_owned(), text: self.read(name), public: public.to_owned(), fingerprint }
    }

    /// ssh-keygen of OpenSSH 9.2 does not read this form: its public part comes from openssl, whose last 32 bytes are the point.
    fn ed25519_in_pkcs8(&self) -> Made {
        let name = "ed25519.PKCS8";
        self.run("openssl", &["genpkey", "-algorithm", "ed25519", "-out", name]);
        self.write(name, &self.read(name));
        self.run("openssl", &["pkey", "-in", name, "-pubout", "-outform", "DER", "-out", "point"]);
        let der = std::fs::read(self.path("point")).expect("DER");
        let blob = [&b"\0\0\0\x0bssh-ed25519\0\0\0\x20"[..], &der[der.len() - 32..]].concat();
        self.with_public(name, &format!("ssh-ed25519 {}", openssl::base64::encode_block(&blob)))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }
}
