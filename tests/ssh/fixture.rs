//! A host, and an executor for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster::core::ids::InstanceSecret;
use muster::remote::identity::{HostCheck, HostKey, Verdict};
use muster::remote::ssh::key::PrivateKey;
use muster::remote::ssh::{SshClient, SshExecutor};
use muster::remote::wake::Wake;
use muster::remote::{Command, ExecuteError, Executor, HostAccess, Lane, Output, Program};
use muster_ssh_hosts::{ClientKey, HostOptions, Server, SshHost, caller_is_root, client_key};

/// A hang is a failure; a slow machine is not.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
pub(crate) const SERVERS: [Server; 2] = [Server::OpenSsh, Server::Dropbear];

/// Trusts one key.
#[derive(Debug)]
pub(crate) struct Pinned(pub(crate) HostKey);

impl HostCheck for Pinned {
    fn check(&self, key: &HostKey, _address: &str) -> Verdict {
        if *key == self.0 { Verdict::Trusted } else { Verdict::Refused(format!("expected {}", self.0.fingerprint())) }
    }

    fn algorithms(&self, _address: &str) -> Vec<String> {
        vec![self.0.algorithm().to_owned()]
    }
}

pub(crate) fn client(key: &ClientKey) -> Arc<SshClient> {
    client_of(key.private())
}

pub(crate) fn client_of(private: &str) -> Arc<SshClient> {
    let key = PrivateKey::parse(private).expect("a key");
    Arc::new(SshClient::new(key, 22, Arc::new(muster::shell::threads::spawn)))
}

pub(crate) fn pin(host: &SshHost) -> HostAccess {
    let key = HostKey::parse(&host.host_key_openssh()).expect("a key");
    HostAccess { check: Arc::new(Pinned(key)), secret: None, sudo: caller_is_root() }
}

pub(crate) fn secret_only(secret: Option<&str>) -> HostAccess {
    let secret = secret.map(InstanceSecret::new);
    HostAccess { check: Arc::new(muster::remote::identity::SecretOnly), secret, sudo: caller_is_root() }
}

pub(crate) struct Remote {
    pub(crate) key: ClientKey,
    pub(crate) host: SshHost,
    pub(crate) executor: Arc<SshExecutor>,
}

impl Remote {
    pub(crate) fn new(options: impl FnOnce(HostOptions) -> HostOptions) -> Self {
        Self::with(options, pin)
    }

    pub(crate) fn with(
        options: impl FnOnce(HostOptions) -> HostOptions,
        access: impl FnOnce(&SshHost) -> HostAccess,
    ) -> Self {
        let key = client_key().expect("made");
        let host = options(HostOptions::new(key.public())).start().expect("starts");
        let executor = Arc::new(SshExecutor::new(client(&key), access(&host)).expect("a descriptor"));
        executor.set_target(&host.address(), host.user());
        Self { key, host, executor }
    }

    pub(crate) fn on(server: Server) -> Self {
        Self::new(|options| options.server(server))
    }

    pub(crate) fn another(&self, access: HostAccess) -> SshExecutor {
        let executor = SshExecutor::new(client(&self.key), access).expect("a descriptor");
        executor.set_target(&self.host.address(), self.host.user());
        executor
    }

    pub(crate) fn sh(&self, lane: Lane, script: &str) -> Result<Output, ExecuteError> {
        self.executor.execute(lane, &sh(script, b""))
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn output(&self, script: &str) -> String {
        text(self.sh(Lane::Action, script))
    }

    /// How often somebody has logged in.
    pub(crate) fn logins(&self) -> usize {
        let said = |line: &&str| line.contains("Accepted publickey") || line.contains("Pubkey auth succeeded");
        self.host.log().lines().filter(said).count()
    }

    /// Connections that the server serves now.
    pub(crate) fn sessions(&self) -> usize {
        let processes = self.host.processes().expect("readable");
        let server = |name: &str| name.starts_with("sshd") || name.starts_with("dropbear");
        let listener = i32::try_from(self.host.pid()).expect("small");
        processes.iter().filter(|process| server(&process.name) && process.pid != listener).count()
    }
}

pub(crate) fn text(result: Result<Output, ExecuteError>) -> String {
    let output = result.expect("runs");
    assert!(output.succeeded(), "{}: {}", output.ending(), output.stderr_text());
    String::from_utf8(output.stdout).expect("text")
}

pub(crate) fn words(words: &[&str]) -> Program {
    Program::Arguments(words.iter().map(|word| (*word).to_owned()).collect())
}

pub(crate) fn sh<'a>(script: &str, stdin: &'a [u8]) -> Command<'a> {
    within(LIMIT, script, stdin, None)
}

pub(crate) fn within<'a>(limit: Duration, script: &str, stdin: &'a [u8], open_until: Option<&'a Wake>) -> Command<'a> {
    Command { program: words(&["sh", "-c", script]), stdin, open_until, deadline: Instant::now() + limit }
}

/// Looks again and again, but not for ever.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
