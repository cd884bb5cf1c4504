//! One connection: TCP, handshake, the host's identity, authentication (spec 45 §3–4, 20 §8).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, connect, shutdown, socket_with, socketpair, sockopt,
};
use ssh2::{ErrorCode, MethodType, Session};
use subtle::ConstantTimeEq;

use super::SshClient;
use super::banner::Words;
use super::command_line::line;
use super::exec::{ExecFault, Input, run};
use super::wait::{Interrupt, Waiter, is_hang_up, text_of};
use crate::core::effect::{Level, Note};
use crate::log::write_note;
use crate::remote::address::HostAddress;
use crate::remote::identity::{HostKey, Verdict};
use crate::remote::resolve::resolve;
use crate::remote::{ExecuteError, HostAccess, Program};

/// From the name to a session that can be used (spec 10 §4).
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// For one address to accept, while there are others: it covers two repetitions by the kernel. A name's first address may be one that
/// nothing answers.
const TCP_LIMIT: Duration = Duration::from_secs(5);
/// For the last one: three repetitions.
const TCP_LIMIT_LAST: Duration = Duration::from_secs(10);
/// What the kernel keeps of an upload to a host that does not take it; left to itself it would be up to 4 MiB per connection.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// A peer that acknowledges nothing for so long is gone. A stopped one still acknowledges: deadlines find it.
const DEAD_LINK_MS: u32 = 30_000;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Written at an instance's boot (spec 20 §1, §8).
const SECRET_FILE: &str = "/var/run/arvados-instance-secret";
const NO_SECRET: &str = "nothing is known of it, and the instance has no secret tag";
/// What libssh2 negotiates without preferences, strongest types first.
const HOST_KEY_ALGORITHMS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

/// A session and its socket.
pub(super) struct Link {
    // Before the socket: freeing a session writes to it.
    session: Session,
    socket: OwnedFd,
    /// The other end of what took the socket's place.
    sink: Option<OwnedFd>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Drop for Link {
    /// Freeing a session must not wait for the other side: in non-blocking mode it would give up, and leak.
    fn drop(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// The number of a socket that the session uses and [`Link`] owns.
struct Borrowed(RawFd);

impl AsRawFd for Borrowed {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Link {
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn drive<T>(
        &self,
        waiter: &Waiter<'_>,
        call: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<T, Interrupt> {
        waiter.drive(&self.session, &self.socket, call)
    }

    /// The session's last error.
    pub(super) fn last_error(&self) -> Option<ErrorCode> {
        ssh2::Error::last_session_error(&self.session).map(|error| error.code())
    }

    /// Ends the connection, and puts something harmless in its socket's place: what libssh2 still wants to send goes nowhere, and
    /// it reads the end of the stream. It insists on sending the rest of a packet, and leaks the session when that fails.
    pub(super) fn cut(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // Without a descriptor for it the leak is the smaller evil.
        if let Ok((ours, theirs)) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None) {
            let _ = shutdown(&theirs, Shutdown::Write);
            let _ = rustix::io::dup2(&ours, &mut self.socket);
            self.sink = Some(theirs);
        }
    }
}

/// A verified and authenticated connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) link: Link,
    /// The key that the host has shown.
    pub(super) key: HostKey,
}

/// Where to, as whom, and who that must be.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) client: &'a SshClient,
    pub(super) access: &'a HostAccess,
    pub(super) address: &'a str,
    pub(super) user: &'a str,
    /// The key that was verified at this address before.
    pub(super) verified: Option<HostKey>,
    /// For log lines.
    pub(super) sudo: bool,
}

impl Request<'_> {
    /// Connects, within [`CONNECT_LIMIT`].
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub(super) fn connect(&self, waiter: Waiter<'_>) -> Result<Connection, ExecuteError> {
        let limited = waiter.until(Instant::now() + CONNECT_LIMIT);
        self.connect_within(limited).map_err(|error| match error {
            // The limit of connecting is an end of its own: the command's deadline is later.
            ExecuteError::Deadline if Instant::now() < waiter.deadline => {
                self.no_connection(io::Error::new(io::ErrorKind::TimedOut, "no SSH session within 30 s"))
            }
            other => other,
        })
    }

    fn no_connection(&self, source: io::Error) -> ExecuteError {
        ExecuteError::Connect { address: self.address.to_owned(), source }
    }

    fn connect_within(&self, waiter: Waiter<'_>) -> Result<Connection, ExecuteError> {
        if self.address.is_empty() {
            return Err(ExecuteError::NoAddress);
        }
        let socket = self.tcp(&waiter)?;
        let (mut link, key) = self.handshake(socket, &waiter)?;
        let known = self.judge(&key)?;
        self.authenticate(&link, &waiter)?;
        if !known {
            self.compare_secret(&mut link, waiter)?;
        }
        Ok(Connection { link, key })
    }

    fn tcp(&self, waiter: &Waiter<'_>) -> Result<OwnedFd, ExecuteError> {
        let failed = |interrupt| match interrupt {
            Interrupt::Io(error) => self.no_connection(error),
            other => other.into(),
        };
        let to = HostAddress::parse(self.address, self.client.default_port)
            .map_err(|why| self.no_connection(io::Error::new(io::ErrorKind::NotFound, why)))?;
        let found = resolve(&to.host, to.port, &self.client.spawn, waiter).map_err(failed)?;
        let mut last = None;
        let count = found.len();
        for (number, one) in found.into_iter().enumerate() {
            let limit = if number + 1 < count { TCP_LIMIT } else { TCP_LIMIT_LAST };
            match open_tcp(one, &waiter.until(Instant::now() + limit)) {
                Err(Interrupt::Io(error)) => last = Some(error),
                // Of this address; the next one may answer.
                Err(Interrupt::Deadline) if Instant::now() < waiter.deadline => {
                    last = Some(io::ErrorKind::TimedOut.into());
                }
                other => return other.map_err(failed),
            }
        }
        Err(self.no_connection(last.unwrap_or_else(|| io::ErrorKind::NotFound.into())))
    }

    fn handshake(&self, socket: OwnedFd, waiter: &Waiter<'_>) -> Result<(Link, HostKey), ExecuteError> {
        let failed = |error: ssh2::Error| self.handshake_failed(&error);
        let mut session = Session::new().map_err(failed)?;
        session.set_blocking(false);
        session.set_tcp_stream(Borrowed(socket.as_raw_fd()));
        let link = Link { session: session.clone(), socket, sink: None };
        session.method_pref(MethodType::HostKey, &self.preferred_algorithms()).map_err(failed)?;
        // It sends our words first; whatever it comes back with, the next call says again.
        let introduce = || drop(session.clone().handshake());
        if let Some(said) = Words::wait(&link.socket, introduce, waiter)?.foreign() {
            return Err(self.no_handshake(format!("it is no SSH server: it says \"{said}\"")));
        }
        link.drive(waiter, || session.handshake()).map_err(|interrupt| match interrupt {
            Interrupt::Ssh(error) => failed(error),
            other => other.into(),
        })?;
        let key = link
            .session
            .host_key()
            .and_then(|(blob, _)| HostKey::new(blob))
            .ok_or_else(|| self.no_handshake("the host has shown no key that is understood".to_owned()))?;
        Ok((link, key))
    }

    fn no_handshake(&self, reason: String) -> ExecuteError {
        ExecuteError::Handshake { address: self.address.to_owned(), reason }
    }

    /// A peer that hangs up instead of shaking hands takes no more connections, or is still booting.
    fn handshake_failed(&self, error: &ssh2::Error) -> ExecuteError {
        const BANNER_RECV: ErrorCode = ErrorCode::Session(-2);
        if is_hang_up(error.code()) || error.code() == BANNER_RECV {
            let text = format!("the host has hung up: {}", text_of(error));
            return self.no_connection(io::Error::new(io::ErrorKind::ConnectionReset, text));
        }
        self.no_handshake(text_of(error))
    }

    /// The types that are known of the host come first, so that it shows the key that can be compared.
    fn preferred_algorithms(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        let verified = self.verified.as_ref().map(|key| key.algorithm().to_owned());
        let known = verified.into_iter().chain(self.access.check.algorithms(self.address));
        let signatures = known.flat_map(|algorithm| match algorithm.as_str() {
            // One key type, several ways to sign; the one with SHA-1 is not accepted.
            "ssh-rsa" => vec!["rsa-sha2-512".to_owned(), "rsa-sha2-256".to_owned()],
            _ => vec![algorithm],
        });
        for name in signatures.chain(HOST_KEY_ALGORITHMS.map(str::to_owned)) {
            if HOST_KEY_ALGORITHMS.contains(&name.as_str()) && !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(",")
    }

    /// True if the key is known to be the host's; false if only the secret can tell.
    fn judge(&self, key: &HostKey) -> Result<bool, ExecuteError> {
        if let Some(before) = self.verified.as_ref().filter(|before| *before != key) {
            let note = Note::new(Level::Warn, "ssh", "host key has changed; verifying the host again");
            let note = note.with("Address", self.address).with("Old", before.fingerprint());
            write_note(&note.with("New", key.fingerprint()));
        }
        match self.access.check.check(key, self.address) {
            Verdict::Trusted => Ok(true),
            Verdict::Refused(reason) => Err(self.rejected(&reason)),
            // Its secret was compared over a connection that showed this key.
            Verdict::Unknown if self.verified.as_ref() == Some(key) => Ok(true),
            Verdict::Unknown if self.access.secret.is_some() => Ok(false),
            Verdict::Unknown => Err(self.rejected(NO_SECRET)),
        }
    }

    fn rejected(&self, reason: &str) -> ExecuteError {
        ExecuteError::HostKey { address: self.address.to_owned(), reason: reason.to_owned() }
    }

    fn authenticate(&self, link: &Link, waiter: &Waiter<'_>) -> Result<(), ExecuteError> {
        let (user, key) = (self.user, self.client.key.text());
        let login = || link.session.userauth_pubkey_memory(user, None, key, None);
        link.drive(waiter, login).map_err(|interrupt| match interrupt {
            // As in a handshake.
            Interrupt::Ssh(error) if is_hang_up(error.code()) => self.handshake_failed(&error),
            // libssh2 gives this the same number as a refusal, which it is not: no answer has come.
            Interrupt::Ssh(error) if error.message().starts_with("Waiting for ") => {
                let text = format!("the host has hung up: {}", text_of(&error));
                self.no_connection(io::Error::new(io::ErrorKind::ConnectionReset, text))
            }
            Interrupt::Ssh(error) => ExecuteError::Authentication {
                address: self.address.to_owned(),
                user: user.to_owned(),
                reason: text_of(&error),
            },
            other => other.into(),
        })
    }

    /// Over this very connection, before any command is trusted.
    fn compare_secret(&self, link: &mut Link, waiter: Waiter<'_>) -> Result<(), ExecuteError> {
        let Some(secret) = &self.access.secret else {
            return Err(self.rejected(NO_SECRET));
        };
        let program = Program::Arguments(vec!["cat".to_owned(), SECRET_FILE.to_owned()]);
        let line = line(&program, self.sudo);
        let input = Input { line: &line, stdin: b"", open_until: None };
        let output = run(link, input, waiter, None).map(|ended| ended.output).map_err(|fault| match fault {
            ExecFault::NotSent(error) => self.no_connection(error),
            ExecFault::Failed(error) => error,
        })?;
        let equal: bool = output.stdout.ct_eq(secret.reveal().as_bytes()).into();
        if output.succeeded() && equal {
            return Ok(());
        }
        let reason = match output.succeeded() {
            true => "bad instance secret".to_owned(),
            false => format!(
                "bad instance secret: cannot read {SECRET_FILE} ({}): {}",
                output.ending(),
                output.stderr_text()
            ),
        };
        Err(self.rejected(&reason))
    }
}

fn open_tcp(to: SocketAddr, waiter: &Waiter<'_>) -> Result<OwnedFd, Interrupt> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(|error| Interrupt::Io(error.into()))?;
    match connect(&socket, &to) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => {
            waiter.poll(&socket, PollFlags::OUT, None)?;
            match sockopt::socket_error(&socket).map_err(|error| Interrupt::Io(error.into()))? {
                Ok(()) => {}
                Err(error) => return Err(Interrupt::Io(error.into())),
            }
        }
        Err(error) => return Err(Interrupt::Io(error.into())),
    }
    set_options(&socket).map_err(Interrupt::Io)?;
    Ok(socket)
}

/// Without TCP_NODELAY a command takes 44 ms instead of 2 (measured, spec 45 §3).
fn set_options(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER_BYTES)?;
    sockopt::set_tcp_user_timeout(socket, DEAD_LINK_MS)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::remote::ssh::wait::Closing;

    #[test]
    fn sockets_do_not_delay_and_notice_dead_links() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let closing = Closing::new().expect("a descriptor");
        let waiter = Waiter { closing: &closing, deadline: Instant::now() + Duration::from_secs(60) };
        let socket = open_tcp(listener.local_addr().expect("bound"), &waiter).expect("connects");
        assert!(sockopt::tcp_nodelay(&socket).expect("readable"));
        assert!(sockopt::socket_keepalive(&socket).expect("readable"));
        assert_eq!(sockopt::tcp_user_timeout(&socket).expect("readable"), DEAD_LINK_MS);
        closing.close();
        let cancelled = waiter.pause(waiter.deadline);
        assert!(matches!(cancelled, Err(Interrupt::Cancelled)), "{cancelled:?}");
    }
}
