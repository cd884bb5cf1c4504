//! Commands over SSH, beside the same done by hand with ssh2 in blocking mode. One real sshd on loopback, one open connection.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster::remote::identity::{HostCheck, HostKey, Verdict};
use muster::remote::ssh::key::PrivateKey;
use muster::remote::ssh::{SshClient, SshExecutor};
use muster::remote::{Command, ExecuteError, Executor, HostAccess, Lane, Program};
use muster_ssh_hosts::{ClientKey, HostOptions, SshHost, client_key};

use crate::daemon::Failure;

const ROUND_TRIPS: u32 = 500;
const TRIES: u32 = 30;
const DEADLINE: Duration = Duration::from_millis(300);
const MEGABYTES_10: usize = 10_000_000;

#[derive(Debug)]
pub(crate) struct Pinned(pub(crate) HostKey);

impl HostCheck for Pinned {
    fn check(&self, key: &HostKey, _address: &str) -> Verdict {
        if *key == self.0 { Verdict::Trusted } else { Verdict::Refused("another key".to_owned()) }
    }
}

struct Bench {
    key: ClientKey,
    host: SshHost,
}

pub(crate) fn run() -> Result<(), Failure> {
    let key = client_key()?;
    let host = HostOptions::new(key.public()).start()?;
    let bench = Bench { key, host };
    println!("commands over SSH (real sshd, loopback)");
    bench.round_trips()?;
    bench.deadlines()?;
    bench.cancels()?;
    bench.megabytes()
}

pub(crate) fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::Wrong(error.to_string())
}

fn command<'a>(words: &[&str], stdin: &'a [u8], limit: Duration) -> Command<'a> {
    let program = Program::Arguments(words.iter().map(|word| (*word).to_owned()).collect());
    Command { program, stdin, open_until: None, deadline: Instant::now() + limit }
}

impl Bench {
    fn executor(&self) -> Result<SshExecutor, Failure> {
        let key = PrivateKey::parse(self.key.private()).map_err(wrong)?;
        let client = Arc::new(SshClient::new(key, 22, Arc::new(muster::shell::threads::spawn)));
        let pinned = HostKey::parse(&self.host.host_key_openssh()).map_err(Failure::Wrong)?;
        let executor =
            SshExecutor::new(client, HostAccess { check: Arc::new(Pinned(pinned)), secret: None, sudo: false })?;
        executor.set_target(&self.host.address(), self.host.user());
        Ok(executor)
    }

    fn by_hand(&self) -> Result<ssh2::Session, Failure> {
        let socket = TcpStream::connect(self.host.address())?;
        socket.set_nodelay(true)?;
        let mut session = ssh2::Session::new().map_err(wrong)?;
        session.set_tcp_stream(socket);
        session.handshake().map_err(wrong)?;
        session.userauth_pubkey_memory(self.host.user(), None, self.key.private(), None).map_err(wrong)?;
        Ok(session)
    }

    /// In turns, so that both meet the same machine.
    fn round_trips(&self) -> Result<(), Failure> {
        let (executor, session) = (self.executor()?, self.by_hand()?);
        let limit = Duration::from_secs(60);
        let (mut ours, mut hand, mut same) = (Vec::new(), Vec::new(), Vec::new());
        // What the executor sends: marks around the command.
        let line = "printf '%s\\n' --muster-begin--; /bin/true && printf '%s\\n' --muster-end-- >&2";
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            executor.execute(Lane::Probe, &command(&["/bin/true"], b"", limit)).map_err(wrong)?;
            ours.push(began.elapsed());
            for (line, times) in [("/bin/true", &mut hand), (line, &mut same)] {
                let began = Instant::now();
                blocking(&session, line).map_err(wrong)?;
                times.push(began.elapsed());
            }
        }
        show("  round trip, ours", &mut ours);
        show("  round trip, ssh2 by hand, same line", &mut same);
        show("  round trip, ssh2 by hand, bare", &mut hand);
        Ok(())
    }

    fn deadlines(&self) -> Result<(), Failure> {
        let executor = self.executor()?;
        let mut late = Vec::new();
        for _ in 0..TRIES {
            executor.execute(Lane::Action, &command(&["true"], b"", Duration::from_secs(60))).map_err(wrong)?;
            let began = Instant::now();
            let result = executor.execute(Lane::Action, &command(&["sleep", "2"], b"", DEADLINE));
            let took = began.elapsed();
            if !matches!(result, Err(ExecuteError::Deadline)) {
                return Err(Failure::Wrong(format!("no deadline but {result:?}")));
            }
            late.push(took.saturating_sub(DEADLINE));
        }
        show("  deadline of 300 ms, late by", &mut late);
        Ok(())
    }

    fn cancels(&self) -> Result<(), Failure> {
        let mut times = Vec::new();
        for _ in 0..TRIES {
            let executor = self.executor()?;
            executor.execute(Lane::Action, &command(&["true"], b"", Duration::from_secs(60))).map_err(wrong)?;
            let took = std::thread::scope(|scope| {
                let flying = scope.spawn(|| {
                    let _ = executor.execute(Lane::Action, &command(&["sleep", "2"], b"", Duration::from_secs(60)));
                    Instant::now()
                });
                std::thread::park_timeout(Duration::from_millis(50));
                let began = Instant::now();
                executor.close();
                flying.join().map(|ended| ended.saturating_duration_since(began))
            });
            times.push(took.map_err(|_| Failure::Wrong("a thread has panicked".to_owned()))?);
        }
        show("  cancel", &mut times);
        Ok(())
    }

    fn megabytes(&self) -> Result<(), Failure> {
        let executor = self.executor()?;
        let bytes = vec![0x5a; MEGABYTES_10];
        let limit = Duration::from_secs(600);
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let mut before = 0;
        for turn in 0..6 {
            let began = Instant::now();
            executor.execute(Lane::Bulk, &command(&["sh", "-c", "cat > /run/big"], &bytes, limit)).map_err(wrong)?;
            up.push(began.elapsed());
            let began = Instant::now();
            let mut count = 0;
            let mut consume = |from: &mut dyn Read| {
                let mut buffer = vec![0; 65_536];
                loop {
                    match from.read(&mut buffer)? {
                        0 => return Ok(()),
                        some => count += some,
                    }
                }
            };
            executor.stream(Lane::Bulk, &command(&["cat", "/run/big"], b"", limit), &mut consume).map_err(wrong)?;
            down.push(began.elapsed());
            if count != MEGABYTES_10 {
                return Err(Failure::Wrong(format!("{count} bytes came back")));
            }
            // The first turn fills buffers that stay.
            if turn == 0 {
                before = resident_kib();
            }
        }
        show("  10 MB up", &mut up);
        show("  10 MB down", &mut down);
        println!("  memory after five more of both       {:+} KiB", resident_kib() - before);
        Ok(())
    }
}

fn blocking(session: &ssh2::Session, line: &str) -> Result<(), ssh2::Error> {
    let mut channel = session.channel_session()?;
    channel.exec(line)?;
    channel.send_eof()?;
    let mut text = String::new();
    let _ = channel.read_to_string(&mut text);
    let _ = channel.stderr().read_to_string(&mut text);
    channel.wait_eof()?;
    channel.close()?;
    channel.wait_close()
}

pub(crate) fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_ascii_whitespace().next()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn show(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default().as_secs_f64() * 1000.0;
    let worst = times.last().copied().unwrap_or_default().as_secs_f64() * 1000.0;
    println!("{name:<38} median {:.2} ms, 95 % {:.2}, worst {worst:.2}", at(50), at(95));
}
