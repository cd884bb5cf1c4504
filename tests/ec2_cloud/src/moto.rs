//! moto's server as a child of the test.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use crate::api::{self, ApiError};
use crate::gate::Watched;
use crate::xml::Element;

/// Where everything is.
pub(crate) const REGION: &str = "us-east-1";
/// What a pod or a job of CI shows to STS, to get credentials of a role: the contents of `AWS_WEB_IDENTITY_TOKEN_FILE`.
pub const WEB_IDENTITY_TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtdXN0ZXIifQ.test";
const LAUNCHER: &str = include_str!("launcher.py");
const PACKAGES: &str = include_str!("../requirements.txt");

/// What a program signs its requests with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `AccessKeyID`.
    pub id: &'static str,
    /// `SecretAccessKey`.
    pub secret: &'static str,
    /// The session's token, which only temporary credentials have.
    pub token: Option<&'static str>,
}

impl Credentials {
    /// A user's, as they stand in a configuration.
    pub const STATIC: Self =
        Self { id: "AKIAMUSTERTEST000001", secret: "muster/test+secret/0123456789abcdefABCDEF", token: None };
    /// A role's, as an instance gets them.
    pub const ROLE: Self = Self {
        id: "ASIAMUSTERTEST000002",
        secret: "role/test+secret/0123456789abcdefABCDEF==",
        token: Some("IQoJb3JpZ2luX2VjE+test/token=="),
    };
    /// A role's after they were renewed.
    pub const RENEWED: Self = Self {
        id: "ASIAMUSTERTEST000003",
        secret: "renewed/test+secret/0123456789abcdefABCD",
        token: Some("IQoJb3JpZ2luX2VjF+test/token=="),
    };
}

/// A server that answers as EC2 does, with an account of its own that begins empty. Dropped, it ends; so it does when the test
/// process does, however that ends. All methods may be called from any thread.
#[derive(Debug)]
pub struct Moto {
    child: Child,
    /// It ends when this does.
    leash: Option<ChildStdin>,
    port: u16,
    folder: tempfile::TempDir,
    /// Counts calls that may have changed something.
    pub(crate) changes: Arc<Watched<u64>>,
}

impl Moto {
    /// Starts it on a free port of 127.0.0.1; returns when it answers.
    ///
    /// # Errors
    /// Its environment is not there, or not of this version's packages: with the command that makes it. Else what it said.
    pub fn start() -> io::Result<Self> {
        let python = python(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/moto-venv"))?;
        let folder = tempfile::Builder::new().prefix("muster-moto-").tempdir()?;
        let log = File::create(folder.path().join("log"))?;
        let known = [Credentials::STATIC, Credentials::ROLE, Credentials::RENEWED];
        let known = known.map(|one| (one.id.to_owned(), serde_json::json!({"secret": one.secret, "token": one.token})));
        let known = serde_json::Value::Object(known.into_iter().collect());
        let mut command = Command::new(python);
        // Neither the user's variables nor packages of theirs; and no credentials that could be found by anything in it.
        command
            .args(["-I", "-c", LAUNCHER, &known.to_string()])
            .arg(folder.path())
            .arg(WEB_IDENTITY_TOKEN)
            .env_clear()
            .current_dir(folder.path());
        command.env("HOME", folder.path()).env("TMPDIR", folder.path()).env("AWS_EC2_METADATA_DISABLED", "true");
        // What ends a test's whole group (Ctrl-C, a time limit) must not end this before it has removed its folder: the leash does.
        command.process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let leash = child.stdin.take();
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let port = line.strip_prefix("ready ").and_then(|port| port.trim().parse().ok());
        let mut moto = Self { child, leash, port: port.unwrap_or(0), folder, changes: Arc::default() };
        if port.is_none() {
            drop(moto.leash.take());
            let status = moto.child.wait()?;
            return Err(io::Error::other(format!("moto did not start: {status}: {}", moto.log())));
        }
        // It listens already, but the first call of a service loads its modules: better here than within a test's time.
        moto.call("DescribeInstances", &[]).map_err(io::Error::other)?;
        Ok(moto)
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where everything in it is.
    #[must_use]
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A call of EC2's API with these parameters; gives the root of the answer.
    ///
    /// # Errors
    /// It is refused, or moto does not answer.
    pub fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Result<Element, ApiError> {
        let answer = api::call(self.port, "ec2", "2016-11-15", action, parameters);
        if !action.starts_with("Describe") {
            self.changes.with(|changes| *changes += 1);
        }
        answer
    }

    /// A call that must succeed.
    ///
    /// # Panics
    /// It does not; moto's log is shown.
    pub fn ok(&self, action: &str, parameters: &[(&str, &str)]) -> Element {
        self.call(action, parameters).unwrap_or_else(|error| panic!("{action}: {error}\n{}", self.tail()))
    }

    /// The same for a call of IAM.
    pub(crate) fn iam(&self, action: &str, parameters: &[(&str, &str)]) -> Element {
        let answer = api::call(self.port, "iam", "2010-05-08", action, parameters);
        answer.unwrap_or_else(|error| panic!("{action}: {error}\n{}", self.tail()))
    }

    /// The end of the log, where a failure is.
    pub(crate) fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // With the test's other output, which is shown as it has failed.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("moto's log ends with:\n{}\n", self.tail()));
        }
        drop(self.leash.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Python in the environment, which is whole and of this version.
fn python(environment: &Path) -> io::Result<PathBuf> {
    let made_of = std::fs::read_to_string(environment.join("made-of")).unwrap_or_default();
    if made_of != PACKAGES {
        let text = format!("{} is missing or of another version; please run `make moto`", environment.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(environment.join("bin/python"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_that_is_not_whole_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let fault = || python(folder.path()).expect_err("not usable").to_string();
        assert!(fault().contains("`make moto`"), "{}", fault());
        std::fs::write(folder.path().join("made-of"), PACKAGES.replacen("moto==", "moto==0", 1)).expect("written");
        assert!(fault().contains("`make moto`"), "{}", fault());
        std::fs::write(folder.path().join("made-of"), PACKAGES).expect("written");
        assert_eq!(python(folder.path()).expect("usable"), folder.path().join("bin/python"));
    }
}
