//! Hosts in directories of this machine: commands run for real, each host with its own runner, locks, owner file and secret; only the
//! network between is played. A hook sees every command before and after it ran, and may cut it off.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use muster::core::ids::InstanceId;
use muster::core::time::Moment;
use muster::remote::identity::{HostKey, Verdict};
use muster::remote::local::LocalExecutor;
use muster::remote::runner::RunnerPlaces;
use muster::remote::{Command, Connector, Consume, ExecuteError, Executor, HostAccess, Lane, Output, Program};
use parking_lot::{Mutex, RwLock};

/// A hang is a failure; a slow machine is not.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

pub(crate) const KEYS: [&str; 2] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP7wl7ph/6MNRgATP0w+uDH49iBd43LFbVSi2z5sDBGT",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIMnD7vfIQv+UUlVoM1yvtFj6hvr6SdBe9zei5VargEh",
];

pub(crate) fn key(number: usize) -> HostKey {
    HostKey::parse(KEYS[number]).expect("a key")
}

/// Real time and as much more as a test wants.
#[derive(Clone, Default)]
pub(crate) struct TestClock(Arc<AtomicU64>);

/// Of every test's wall clock.
const TODAY: Duration = Duration::from_secs(1_800_000_000);

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).expect("small"), Ordering::SeqCst);
    }

    /// The wall clock at the moment 0 of the next [`TestClock::function`].
    pub(crate) fn began(&self) -> i64 {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        let real = TODAY + FIRST.get_or_init(Instant::now).elapsed();
        i64::try_from(real.as_millis()).expect("small")
    }

    pub(crate) fn function(&self) -> muster::cloud::static_hosts::Clock {
        let (began, more) = (Instant::now(), self.0.clone());
        Arc::new(move || Moment::since_start(began.elapsed() + Duration::from_millis(more.load(Ordering::SeqCst))))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

/// Called around every command with its arguments (scripts shortened); an error takes the place of the result.
pub(crate) type Hook = Arc<dyn Fn(&FakeHost, When, &str) -> Result<(), ExecuteError> + Send + Sync>;

pub(crate) struct FakeHost {
    pub(crate) folder: PathBuf,
    pub(crate) key: Mutex<HostKey>,
    pub(crate) reachable: AtomicBool,
    /// Refuses our login.
    pub(crate) closed: AtomicBool,
    pub(crate) commands: Mutex<Vec<String>>,
    /// Connections that were tried while it could not be reached.
    pub(crate) in_vain: AtomicUsize,
    /// Commands that run now.
    pub(crate) running: AtomicUsize,
}

impl FakeHost {
    fn new(folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).expect("made");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711)).expect("set");
        Self {
            folder,
            key: Mutex::new(key(0)),
            reachable: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            commands: Mutex::default(),
            in_vain: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
        }
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::SeqCst);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn owner_file(&self) -> PathBuf {
        self.path("state/owner")
    }

    /// The set that has it.
    pub(crate) fn owner(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.owner_file()).ok()?;
        Some(text.lines().next().unwrap_or_default().to_owned())
    }

    /// As another dispatcher would.
    pub(crate) fn set_owner(&self, set: &str) {
        std::fs::create_dir_all(self.path("state")).expect("made");
        std::fs::write(self.owner_file(), format!("{set}\n")).expect("written");
    }

    /// Where jobs may write, who run as another user.
    pub(crate) fn open_folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("set");
        path
    }

    fn places(&self) -> RunnerPlaces {
        RunnerPlaces {
            directory: Some(self.path("bin").to_string_lossy().into_owned()),
            lock_dir: Some(self.path("lock")),
            state_dir: Some(self.path("state")),
            ..RunnerPlaces::default()
        }
    }

    /// What a real host has at a fixed place, this one has in its directory.
    fn localize(&self, program: &Program) -> Program {
        match program {
            Program::Arguments(words) => {
                let secret = self.path("secret").to_string_lossy().into_owned();
                let local = |word: &String| match word.as_str() {
                    "/var/run/arvados-instance-secret" => secret.clone(),
                    _ => word.clone(),
                };
                Program::Arguments(words.iter().map(local).collect())
            }
            Program::Shell(line) => Program::Shell(line.clone()),
        }
    }
}

/// All hosts, by address.
#[derive(Default)]
pub(crate) struct Network {
    pub(crate) hosts: RwLock<BTreeMap<String, Arc<FakeHost>>>,
    hook: RwLock<Option<Hook>>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Network")
    }
}

impl Network {
    pub(crate) fn add(&self, folder: &Path, name: &str) -> Arc<FakeHost> {
        let host = Arc::new(FakeHost::new(folder.join(name)));
        self.hosts.write().insert(format!("{name}:22"), host.clone());
        host
    }

    /// Another name and address of a host.
    pub(crate) fn alias(&self, name: &str, alias: &str) {
        let host = self.host(name);
        self.hosts.write().insert(format!("{alias}:22"), host);
    }

    pub(crate) fn host(&self, name: &str) -> Arc<FakeHost> {
        self.hosts.read()[&format!("{name}:22")].clone()
    }

    pub(crate) fn set_hook(&self, hook: Option<Hook>) {
        *self.hook.write() = hook;
    }

    pub(crate) fn places(self: &Arc<Self>) -> muster::cloud::static_hosts::Places {
        let network = self.clone();
        Arc::new(move |id: &InstanceId| network.host(id.as_str()).places())
    }
}

/// What the driver gets.
#[derive(Debug)]
pub(crate) struct FakeConnector(pub(crate) Arc<Network>);

impl Connector for FakeConnector {
    fn executor(&self, access: HostAccess) -> io::Result<Arc<dyn Executor>> {
        Ok(Arc::new(FakeExecutor {
            network: self.0.clone(),
            access,
            target: Mutex::default(),
            verified: Mutex::default(),
            closed: AtomicBool::new(false),
            local: Mutex::default(),
        }))
    }
}

#[derive(Debug)]
struct FakeExecutor {
    network: Arc<Network>,
    access: HostAccess,
    target: Mutex<(String, String)>,
    verified: Mutex<Option<HostKey>>,
    closed: AtomicBool,
    local: Mutex<Option<Arc<LocalExecutor>>>,
}

impl FakeExecutor {
    /// The host, if it can be reached, is the right one, and lets us in.
    fn connect(&self) -> Result<Arc<FakeHost>, ExecuteError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(ExecuteError::Cancelled);
        }
        let (address, user) = self.target.lock().clone();
        let host = self.network.hosts.read().get(&address).cloned();
        let reachable = |host: &Arc<FakeHost>| {
            let reachable = host.reachable.load(Ordering::SeqCst);
            host.in_vain.fetch_add(usize::from(!reachable), Ordering::SeqCst);
            reachable
        };
        let Some(host) = host.filter(reachable) else {
            return Err(ExecuteError::Connect { address, source: io::ErrorKind::ConnectionRefused.into() });
        };
        let key = host.key.lock().clone();
        let mut verified = self.verified.lock();
        if verified.as_ref() != Some(&key) {
            match self.access.check.check(&key, &address) {
                Verdict::Trusted => *verified = Some(key),
                Verdict::Refused(reason) => return Err(ExecuteError::HostKey { address, reason }),
                Verdict::Unknown => {
                    return Err(ExecuteError::HostKey { address, reason: "nobody knows the key".to_owned() });
                }
            }
        }
        if host.closed.load(Ordering::SeqCst) {
            return Err(ExecuteError::Authentication { address, user, reason: "no such key".to_owned() });
        }
        Ok(host)
    }

    fn local(&self, host: &FakeHost) -> Result<Arc<LocalExecutor>, ExecuteError> {
        let mut local = self.local.lock();
        if local.is_none() {
            let home = host.folder.to_string_lossy().into_owned();
            *local = Some(Arc::new(LocalExecutor::new(home).map_err(ExecuteError::Channel)?));
        }
        local.clone().ok_or(ExecuteError::NoAddress)
    }
}

/// Scripts are shortened to the words that tell them apart.
fn shown(program: &Program) -> String {
    let words = match program {
        Program::Arguments(words) => words.clone(),
        Program::Shell(line) => vec![line.clone()],
    };
    let short = |word: &String| match word {
        word if word.contains("echo claimed") => "CLAIM".to_owned(),
        word if word.contains("echo released") => "GIVE-BACK".to_owned(),
        word if word.contains("has_sum()") => "DEPLOY".to_owned(),
        word => word.rsplit('/').next().unwrap_or_default().to_owned(),
    };
    words.iter().map(short).collect::<Vec<_>>().join(" ")
}

impl Executor for FakeExecutor {
    fn execute(&self, lane: Lane, command: &Command<'_>) -> Result<Output, ExecuteError> {
        let host = self.connect()?;
        let text = shown(&command.program);
        host.commands.lock().push(text.clone());
        let hook = self.network.hook.read().clone();
        let call = |when| hook.as_ref().map_or(Ok(()), |hook| hook(&host, when, &text));
        host.running.fetch_add(1, Ordering::SeqCst);
        let result = call(When::Before).and_then(|()| {
            let command = Command {
                program: host.localize(&command.program),
                stdin: command.stdin,
                open_until: command.open_until,
                deadline: command.deadline,
            };
            self.local(&host)?.execute(lane, &command)
        });
        host.running.fetch_sub(1, Ordering::SeqCst);
        let output = result?;
        call(When::After)?;
        Ok(output)
    }

    fn stream(&self, lane: Lane, command: &Command<'_>, consume: &mut Consume<'_>) -> Result<Output, ExecuteError> {
        let host = self.connect()?;
        self.local(&host)?.stream(lane, command, consume)
    }

    fn width(&self, _lane: Lane) -> usize {
        1
    }

    fn set_target(&self, address: &str, remote_user: &str) {
        *self.target.lock() = (address.to_owned(), remote_user.to_owned());
    }

    fn has_connected(&self) -> bool {
        self.verified.lock().is_some()
    }

    fn runs_as_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(local) = &*self.local.lock() {
            local.close();
        }
    }
}
