//! What a host is to be like.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::host::SshHost;
use crate::keys::KeyKind;
use crate::network::Network;

/// Whether the caller is root, so that hosts can be whole.
#[must_use]
pub fn caller_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Which program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    OpenSsh,
    Dropbear,
}

/// Who logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// `root`; needs a caller who is root.
    Root,
    /// `worker`, uid 2001, home `/home/worker`, known inside the host only; needs a caller who is root.
    Worker,
    /// The user who runs this, with a home directory that is the host's.
    Caller,
}

/// What `sudo` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sudo {
    /// Everything without a password, with `secure_path` as distributions set it.
    Passwordless,
    /// It asks `worker` for a password that nobody has.
    Refused,
    /// There is no such program, whoever logs in.
    Missing,
}

/// The login shell, and what there is to be called from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    Bash,
    /// `/bin/sh`, which is dash on Debian.
    Sh,
    /// `busybox sh`; and every directory for programs has busybox's applets and the server only.
    Busybox,
}

/// Options of a host; [`HostOptions::start`] makes it.
#[derive(Clone, Debug)]
pub struct HostOptions {
    pub(crate) server: Server,
    pub(crate) login: Login,
    pub(crate) sudo: Sudo,
    pub(crate) shell: Shell,
    pub(crate) client_keys: Vec<String>,
    pub(crate) host_keys: Vec<KeyKind>,
    pub(crate) config: Vec<String>,
    pub(crate) sudoers: Vec<String>,
    pub(crate) banner: Option<String>,
    pub(crate) noisy: bool,
    pub(crate) private_tmp: bool,
    pub(crate) runtime_dir: bool,
    pub(crate) name: Option<String>,
    pub(crate) network: Option<Network>,
    pub(crate) listen: Option<SocketAddrV4>,
    pub(crate) small_disk: Option<u32>,
    pub(crate) applets: Option<&'static [&'static str]>,
}

impl HostOptions {
    /// An OpenSSH host with bash and an ed25519 host key. Who logs in is root when the caller is, else the caller.
    /// `client_public` is a line of `authorized_keys`.
    #[must_use]
    pub fn new(client_public: &str) -> Self {
        Self {
            server: Server::OpenSsh,
            login: if caller_is_root() { Login::Root } else { Login::Caller },
            sudo: Sudo::Passwordless,
            shell: Shell::Bash,
            client_keys: vec![client_public.to_owned()],
            host_keys: vec![KeyKind::Ed25519],
            config: Vec::new(),
            sudoers: Vec::new(),
            banner: None,
            noisy: false,
            private_tmp: false,
            runtime_dir: true,
            name: None,
            network: None,
            listen: None,
            small_disk: None,
            applets: None,
        }
    }

    /// Which program serves (default OpenSSH).
    #[must_use]
    pub fn server(mut self, server: Server) -> Self {
        self.server = server;
        self
    }

    /// Who logs in.
    #[must_use]
    pub fn login(mut self, login: Login) -> Self {
        self.login = login;
        self
    }

    /// What `sudo` does (default: everything).
    #[must_use]
    pub fn sudo(mut self, sudo: Sudo) -> Self {
        self.sudo = sudo;
        self
    }

    /// The login shell (default bash).
    #[must_use]
    pub fn shell(mut self, shell: Shell) -> Self {
        self.shell = shell;
        self
    }

    /// Of busybox's applets these only, and `sh` ([`Shell::Busybox`]; default: all).
    #[must_use]
    pub fn only_applets(mut self, applets: &'static [&'static str]) -> Self {
        self.applets = Some(applets);
        self
    }

    /// One more key that may log in.
    #[must_use]
    pub fn client_key(mut self, client_public: &str) -> Self {
        self.client_keys.push(client_public.to_owned());
        self
    }

    /// The host keys, first the one that [`SshHost::host_key_openssh`] gives (default: one ed25519 key).
    #[must_use]
    pub fn host_keys(mut self, kinds: &[KeyKind]) -> Self {
        self.host_keys = kinds.to_vec();
        self
    }

    /// One more line of `sshd_config`; it comes before ours, so it wins. OpenSSH only.
    #[must_use]
    pub fn config_line(mut self, line: &str) -> Self {
        self.config.push(line.to_owned());
        self
    }

    /// `MaxStartups`: unauthenticated connections at once, the rest is refused. OpenSSH only.
    #[must_use]
    pub fn max_startups(self, max: u32) -> Self {
        self.config_line(&format!("MaxStartups {max}"))
    }

    /// `MaxSessions`: channels with a command at once in one connection. OpenSSH only.
    #[must_use]
    pub fn max_sessions(self, max: u32) -> Self {
        self.config_line(&format!("MaxSessions {max}"))
    }

    /// `MaxAuthTries`. OpenSSH only.
    #[must_use]
    pub fn max_auth_tries(self, max: u32) -> Self {
        self.config_line(&format!("MaxAuthTries {max}"))
    }

    /// A text that is shown before authentication.
    #[must_use]
    pub fn banner(mut self, text: &str) -> Self {
        self.banner = Some(text.to_owned());
        self
    }

    /// One more line of `/etc/sudoers`, after ours.
    #[must_use]
    pub fn sudoers_line(mut self, line: &str) -> Self {
        self.sudoers.push(line.to_owned());
        self
    }

    /// Start files that print lines on both streams also where nobody reads them, and lines that look like answers: `~/.bashrc`, other
    /// shells' too, and `~/.ssh/rc` with OpenSSH (bash, OpenSSH and Dropbear).
    #[must_use]
    pub fn noisy_bashrc(mut self) -> Self {
        self.noisy = true;
        self
    }

    /// A `/tmp` of its own (default: the caller's).
    #[must_use]
    pub fn private_tmp(mut self) -> Self {
        self.private_tmp = true;
        self
    }

    /// No `XDG_RUNTIME_DIR` (default: `/run/user/UID` for a login other than root, as systemd's machines have it). What a
    /// user keeps below `/tmp` is shared between hosts, a runner's locks without root among it, unless `/tmp` is private.
    #[must_use]
    pub fn without_runtime_dir(mut self) -> Self {
        self.runtime_dir = false;
        self
    }

    /// The host name, letters, digits and `-` (default: `host-` and a few letters).
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// A network namespace of its own, connected to this network by a link with faults ([`SshHost::link`]). The host is reached
    /// only from there.
    #[must_use]
    pub fn network(mut self, network: &Network) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// The server listens at this address of the loopback interface, all of 127.0.0.0/8, and at this port and no other (default: at
    /// 127.0.0.1 and a free port).
    #[must_use]
    pub fn listen(mut self, address: Ipv4Addr, port: u16) -> Self {
        self.listen = Some(SocketAddrV4::new(address, port));
        self
    }

    /// Attempts and results of runners are on a disk of so many MiB ([`SshHost::fill_disk`]): `/var/lib`, or `~/.local` of a
    /// caller who is not root.
    #[must_use]
    pub fn small_disk(mut self, mebibytes: u32) -> Self {
        self.small_disk = Some(mebibytes);
        self
    }

    /// Makes the host and starts its server; returns when the server listens.
    ///
    /// # Errors
    /// `Unsupported` for what only root can have; `InvalidInput` for options that exclude each other; `NotFound` for a
    /// program that is not installed; else what failed, with the server's or the tools' own words.
    pub fn start(&self) -> io::Result<SshHost> {
        self.check()?;
        SshHost::start(self)
    }

    fn check(&self) -> io::Result<()> {
        let invalid = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text.to_owned()));
        if !caller_is_root() && self.login != Login::Caller {
            let text = format!("{:?} can log in only when this runs as root; use Login::Caller", self.login);
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        if self.server == Server::Dropbear && !self.config.is_empty() {
            return invalid("sshd_config lines are for OpenSSH; Dropbear reads none");
        }
        if self.login != Login::Worker && self.sudo == Sudo::Refused {
            return invalid("sudo asks the user worker only for a password");
        }
        if self.applets.is_some() && self.shell != Shell::Busybox {
            return invalid("applets are busybox's");
        }
        if self.noisy && self.shell != Shell::Bash {
            return invalid("a noisy ~/.bashrc needs bash as login shell");
        }
        if self.listen.is_some() && self.network.is_some() {
            return invalid("in a network of its own a host has the address that it gets there");
        }
        if !self.listen.is_none_or(|place| place.ip().is_loopback() && place.port() != 0) {
            return invalid("a host listens on the loopback interface and at a port");
        }
        if self.host_keys.is_empty() {
            return invalid("a host needs a host key");
        }
        let twice = |kind: &KeyKind| self.host_keys.iter().filter(|other| *other == kind).count() > 1;
        if self.host_keys.iter().any(twice) {
            return invalid("a host has one key of each kind");
        }
        let good = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !self.name.as_ref().is_none_or(|name| good(name) && (1..=60).contains(&name.len())) {
            return invalid("a host name has 1 to 60 letters, digits and -");
        }
        Ok(())
    }
}
