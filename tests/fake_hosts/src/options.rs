//! What a host is like, and what goes wrong on it: plain data that a test sets.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::journal::Journal;

/// What a host is like from its start on.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The only key that may log in (`ssh-ed25519 AAAA…`); none = any.
    pub client_key: Option<String>,
    /// The only name that may log in; none = any.
    pub user: Option<String>,
    /// Content of the file `/var/run/arvados-instance-secret`; none = there is no such file.
    pub secret: Option<String>,
    /// The runner's program is there already. Otherwise the deployment's script has to bring it.
    pub deployed: bool,
    /// The runner is a crunch-run: plain protocol (spec 50), without the additions of spec 52.
    pub plain_runner: bool,
    pub job: JobPlan,
    /// As `uname -m`.
    pub architecture: String,
    pub cpus: u32,
    /// Bytes.
    pub ram: u64,
    /// Where starts and ends are written down.
    pub journal: Option<Journal>,
    pub faults: Faults,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            client_key: None,
            user: None,
            secret: None,
            deployed: true,
            plain_runner: false,
            job: JobPlan::default(),
            architecture: "x86_64".into(),
            cpus: 4,
            ram: 16 << 30,
            journal: None,
            faults: Faults::default(),
        }
    }
}

/// What a container does on a host, whatever its command is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobPlan {
    /// It ends by itself after this long; none = only when the test says so.
    pub time: Option<Duration>,
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Files brought back as `outputs/NAME`, by name.
    pub outputs: BTreeMap<String, Vec<u8>>,
    /// It ends this long after a signal (0 = at once); beyond a second the kill command says that it is still alive.
    pub kill_time: Duration,
    /// It never ends by a signal.
    pub ignores_kill: bool,
    /// Where it would end by itself, its runner dies instead, for some.
    pub crashes: Option<Crashes>,
}

/// Which attempts crash. The same ones whenever a run is repeated: a matter of seed, command and attempt, not of uuids or time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crashes {
    pub seed: u64,
    pub percent: u64,
}

impl Crashes {
    /// With the words of a command and its attempt's number.
    pub(crate) fn hit(self, command: &[String], attempt: u32) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.seed, command, attempt).hash(&mut hasher);
        hasher.finish() % 100 < self.percent
    }
}

/// What goes wrong; may be changed at any time and holds for what begins after that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub connect: Option<ConnectFault>,
    /// Connections beyond these are accepted and closed at once, as by a server with its MaxStartups reached.
    pub connections_max: Option<usize>,
    /// Present another key than before.
    pub other_host_key: bool,
    pub refuse_auth: bool,
    /// Refuse to open channels, as a server with its MaxSessions reached.
    pub refuse_channels: bool,
    pub exec: Option<ExecFault>,
    /// `exec` concerns only commands whose line contains this text; empty = all.
    pub exec_if: String,
    /// Comes out of standard output before anything else, as from a talkative `.bashrc`.
    pub noise: Vec<u8>,
    /// Each command has its effect at once, and its answer comes this much later.
    pub delay: Duration,
    /// `--detach` fails without starting anything.
    pub refuse_starts: bool,
    /// Nothing moves: connections stay, but nothing is read, written or accepted, as under SIGSTOP.
    pub frozen: bool,
    /// The runner's program is not found (exit status 127).
    pub no_runner: bool,
    /// With its command of this number (counted from the host's start) the host turns bad by itself.
    pub turns: Option<(u64, Turn)>,
}

/// How a host turns bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As when the network is lost: sets [`Faults::frozen`].
    Silent,
    /// As when its server ends: connections are cut, new ones refused.
    Refusing,
    /// It reports itself broken.
    Broken,
}

/// What becomes of a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectFault {
    /// Nobody listens.
    Refuse,
    /// Accepted, and closed at once.
    Close,
    /// Accepted, and never a word.
    Silent,
    /// The banner comes after this long, and then all goes well.
    SlowBanner(Duration),
    CloseAfterBanner,
    /// The banner, and never a word after it.
    HangInHandshake,
    /// Something that is not SSH.
    NoSsh,
}

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecFault {
    /// Never run, never answered.
    Hang,
    /// The request is refused.
    Refuse,
    /// Run; reported as killed by this signal (`KILL`, `SEGV` …) instead of a status.
    Signal(String),
    /// Run; the channel closes without exit status.
    NoStatus,
    /// Run; exit status and end of output come, the channel's close never does.
    NeverClose,
    /// This many bytes of standard output before the command's own.
    FloodStdout(u64),
    /// This many bytes of standard error before the command's own output.
    FloodStderr(u64),
    /// Never run; data come on a stream that is neither standard output nor standard error, and nothing else.
    OtherStream,
    /// Run; the connection ends once this many bytes (on the wire) of the answer are sent: in the middle of a packet, for the
    /// client as if the other process had died. At the end of a shorter answer, without its status, by a disconnect message.
    Cut(u64),
}

/// Fixed answer to a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: u8,
}
