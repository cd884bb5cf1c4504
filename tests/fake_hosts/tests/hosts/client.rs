//! A blocking client, and what the tests of this binary share.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use muster_fake_hosts::{ClientKey, Fleet, Host, HostOptions};
use ssh2::{Channel, Session};

/// For whatever must happen at last; a busy machine may need long.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
const LIMIT_MS: u32 = 120_000;

pub(crate) const U: &str = "local-dz642-00000000000000a";
pub(crate) const V: &str = "local-dz642-00000000000000b";

/// What a command came back with. `code` is none if no status came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

pub(crate) struct Client {
    pub(crate) session: Session,
}

impl Client {
    /// The connection after its key exchange.
    pub(crate) fn handshake(host: &Host) -> Result<Session, ssh2::Error> {
        let stream = TcpStream::connect(host.address()).map_err(|error| {
            let text = if error.kind() == std::io::ErrorKind::ConnectionRefused { "refused" } else { "no connection" };
            ssh2::Error::new(ssh2::ErrorCode::Session(-1), text)
        })?;
        stream.set_nodelay(true).expect("a socket of ours");
        let mut session = Session::new().expect("memory is left");
        session.set_timeout(LIMIT_MS);
        session.set_tcp_stream(stream);
        session.handshake()?;
        Ok(session)
    }

    pub(crate) fn connect(host: &Host, key: &ClientKey) -> Result<Self, ssh2::Error> {
        let session = Self::handshake(host)?;
        session.userauth_pubkey_memory("someone", Some(&key.public), &key.private, None)?;
        Ok(Self { session })
    }

    /// A command that runs.
    pub(crate) fn begin(&self, line: &str) -> Result<Channel, ssh2::Error> {
        let mut channel = self.session.channel_session()?;
        channel.exec(line)?;
        Ok(channel)
    }

    pub(crate) fn run_with(&self, line: &str, stdin: &[u8]) -> Done {
        let mut channel = self.begin(line).expect("the command is accepted");
        channel.write_all(stdin).expect("standard input is taken");
        channel.send_eof().expect("its end too");
        end(channel)
    }

    pub(crate) fn run(&self, line: &str) -> Done {
        self.run_with(line, b"")
    }

    /// Standard output of a command that succeeds.
    pub(crate) fn ok(&self, line: &str) -> String {
        let done = self.run(line);
        assert_eq!((done.stderr.as_str(), done.code), ("", 0), "{line}");
        done.stdout
    }
}

/// Reads what is left of a command.
pub(crate) fn end(mut channel: Channel) -> Done {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    channel.read_to_string(&mut stdout).expect("text");
    channel.stderr().read_to_string(&mut stderr).expect("text");
    channel.wait_close().expect("the channel is closed");
    Done { stdout, stderr, code: channel.exit_status().expect("a status") }
}

pub(crate) fn host() -> (Fleet, Host, Client) {
    host_with(HostOptions::default())
}

pub(crate) fn host_with(options: HostOptions) -> (Fleet, Host, Client) {
    let key = ClientKey::generate();
    let fleet = Fleet::start(1, options);
    let host = fleet.host(0).clone();
    let client = Client::connect(&host, &key).expect("it lets us in");
    (fleet, host, client)
}

/// Standard input of a start.
pub(crate) fn config(uuid: &str, attempt: u32) -> String {
    format!(r#"{{"Env":{{}},"Container":{{"uuid":"{uuid}","attempt":{attempt},"command":["true"]}}}}"#)
}

pub(crate) fn start(client: &Client, uuid: &str, attempt: u32) -> Done {
    let line = format!("'muster-runner' '--detach' '--stdin-config' '--set' 's' '--attempt' '{attempt}' '{uuid}'");
    client.run_with(&line, config(uuid, attempt).as_bytes())
}
