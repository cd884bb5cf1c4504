//! One host: its server's life, and what can be done to it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;

use crate::keys::ClientKey;
use crate::layout::{Layout, named, private_folder, write_file};
use crate::namespace::Namespace;
use crate::network::{Link, Network};
use crate::options::HostOptions;
use crate::processes::{self, HostProcess};
use crate::server;

/// A machine with an SSH server, on loopback or in a network of its own. All methods may be called from any thread. Dropped, everything that runs in it
/// is killed, its jobs too, and its files go.
#[derive(Debug)]
pub struct SshHost {
    options: HostOptions,
    layout: Layout,
    name: String,
    port: u16,
    link: Option<Link>,
    state: Mutex<State>,
    // Fields are dropped in this order: whatever is in the namespaces ends before their folder goes.
    namespace: Namespace,
    _folder: tempfile::TempDir,
}

#[derive(Debug)]
struct State {
    /// The listener, also one that was killed.
    listener: Child,
    host_keys: Vec<String>,
}

impl SshHost {
    pub(crate) fn start(options: &HostOptions) -> io::Result<Self> {
        let folder = private_folder("muster-ssh-host-")?;
        let name = options.name.clone().unwrap_or_else(|| default_name(folder.path()));
        let mut layout = Layout::make(folder.path(), options, &name)?;
        let host_keys = server::make_host_keys(&layout, options)?;
        let network = options.network.as_ref();
        let namespace = Namespace::enter(&layout, &name, network)?;
        let link = network.map(|network| network.connect(namespace.holder)).transpose()?;
        if let Some(link) = &link {
            layout.address = link.address();
        } else if let Some(place) = &options.listen {
            layout.address = *place.ip();
        }
        server::write_config(&layout, options)?;
        let (listener, port) = server::start_anywhere(&namespace, &layout, options)?;
        let state = Mutex::new(State { listener, host_keys });
        Ok(Self { options: options.clone(), layout, name, port, link, state, namespace, _folder: folder })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `127.0.0.1:PORT`, or where it was told to listen, or where it is in its network; the same after every restart.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.layout.address, self.port)
    }

    /// The link to the host's network, if it has one.
    #[must_use]
    pub fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whom the keys of the options let in.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.layout.user.name
    }

    /// The login's home directory, as the host names it.
    #[must_use]
    pub fn home(&self) -> &str {
        &self.layout.user.home
    }

    /// The host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first host key as "TYPE BASE64".
    #[must_use]
    pub fn host_key_openssh(&self) -> String {
        self.host_keys().into_iter().next().unwrap_or_default()
    }

    /// All host keys as "TYPE BASE64", in the order of the options.
    #[must_use]
    pub fn host_keys(&self) -> Vec<String> {
        self.state().host_keys.clone()
    }

    /// A line for each host key, without the last newline.
    #[must_use]
    pub fn known_hosts_line(&self) -> String {
        let (address, port) = (self.layout.address, self.port);
        let lines: Vec<String> = self.host_keys().iter().map(|key| format!("[{address}]:{port} {key}")).collect();
        lines.join("\n")
    }

    /// The listener's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.state().listener.id()
    }

    /// What the server has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = std::fs::File::open(server::log_path(&self.layout)) {
            drop(file.read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The directory with this host's own files, as the caller sees it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.layout.folder
    }

    /// Where the caller finds a file of the host: below `/run`, `/home`, `/root`, `/var/lib`, `/etc/ssh` (and `/tmp`, where
    /// that is the host's own) in [`SshHost::root`]; anything else is the caller's own file of that name. What is on a small
    /// disk lasts as long as the host.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        if self.layout.disk.as_ref().is_some_and(|disk| Path::new(inside).starts_with(disk)) {
            return PathBuf::from(format!("/proc/{}/root{inside}", self.namespace.holder));
        }
        self.layout.outside(inside).unwrap_or_else(|| PathBuf::from(inside))
    }

    /// A command in the host, not through its server: as the host's root, or as the caller where that is not root.
    #[must_use]
    pub fn command_inside(&self, program: &str) -> Command {
        self.namespace.command(&self.layout, program)
    }

    /// Fills the host's small disk to the last byte ([`crate::HostOptions::small_disk`]).
    ///
    /// # Errors
    /// There is none, or it could not be filled.
    pub fn fill_disk(&self) -> io::Result<()> {
        // Blocks first, then what is left of the last one.
        self.on_disk("cat /dev/zero >filler 2>/dev/null; while echo >>filler; do :; done 2>/dev/null; test -s filler")
    }

    /// Takes away what [`SshHost::fill_disk`] has put there.
    ///
    /// # Errors
    /// There is none.
    pub fn empty_disk(&self) -> io::Result<()> {
        self.on_disk("rm -f filler")
    }

    fn on_disk(&self, script: &str) -> io::Result<()> {
        let Some(disk) = &self.layout.disk else { return Err(io::Error::other("the host has no small disk")) };
        let script = format!("cd '{disk}' && {{ {script}; }}");
        crate::layout::run(self.command_inside("sh").args(["-c", &script])).map(drop)
    }

    /// The `ssh` program, set up to log in here and run `command`: it asks nothing, reads no files of the user and knows this
    /// host's keys. It runs in the host's network.
    ///
    /// # Errors
    /// The file with the host keys cannot be written.
    pub fn ssh(&self, key: &ClientKey, command: &str) -> io::Result<Command> {
        let known = key.path().with_file_name(format!("known_hosts-{}", self.port));
        write_file(&known, &(self.known_hosts_line() + "\n"), 0o600)?;
        let network = self.options.network.as_ref();
        let mut ssh = network.map_or_else(|| Command::new("ssh"), |network: &Network| network.command("ssh"));
        ssh.args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]);
        ssh.args(["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=/dev/null", "-o"]);
        ssh.arg(format!("UserKnownHostsFile={}", known.display())).arg("-i").arg(key.path());
        ssh.args(["-p", &self.port.to_string(), &format!("{}@{}", self.user(), self.layout.address), "--", command]);
        Ok(ssh)
    }

    /// What runs in the host, without the process that holds its namespaces.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn processes(&self) -> io::Result<Vec<HostProcess>> {
        let mut all = processes::in_namespace(self.namespace.id)?;
        all.retain(|process| process.pid != self.namespace.holder);
        Ok(all)
    }

    /// What runs in the host but its server and sessions: jobs, runners, the shells of sessions.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn jobs(&self) -> io::Result<Vec<HostProcess>> {
        let mut all = self.processes()?;
        all.retain(|process| !process.is_server());
        Ok(all)
    }

    fn signal(&self, signal: Signal, chosen: impl Fn(&HostProcess) -> bool) -> io::Result<usize> {
        processes::signal_all(self.namespace.id, signal, chosen)
    }

    fn is_listener(&self) -> impl Fn(&HostProcess) -> bool + use<> {
        let pid = self.pid();
        move |process| u32::try_from(process.pid) == Ok(pid)
    }

    /// Stops (SIGSTOP) listener and sessions: connections stay and nothing answers. Commands go on, but for one that a session was
    /// just making of itself: what was seen as a session may be the command by the time the signal arrives.
    ///
    /// # Errors
    /// A process could not be signalled. So for all that follow.
    pub fn stop_server(&self) -> io::Result<()> {
        // First the listener: it starts no session then that the rest would miss.
        self.stop_listener()?;
        self.signal(Signal::STOP, HostProcess::is_server).map(drop)
    }

    /// Stops the listener only: what is connected works; who connects waits for a banner.
    pub fn stop_listener(&self) -> io::Result<()> {
        self.signal(Signal::STOP, self.is_listener()).map(drop)
    }

    /// Lets go on what was stopped, whatever its name is by now.
    pub fn continue_server(&self) -> io::Result<()> {
        self.signal(Signal::CONT, |_| true).map(drop)
    }

    /// Kills listener and sessions: connections break, new ones are refused. Detached jobs live.
    pub fn kill_server(&self) -> io::Result<()> {
        self.kill_listener()?;
        self.cut_connections().map(drop)
    }

    /// Kills the listener only: what is connected works.
    pub fn kill_listener(&self) -> io::Result<()> {
        let mut state = self.state();
        drop(state.listener.kill());
        state.listener.wait().map(drop)
    }

    /// Kills the sessions only; gives how many processes they were. New connections are served.
    pub fn cut_connections(&self) -> io::Result<usize> {
        let listener = self.is_listener();
        self.signal(Signal::KILL, |process| process.is_server() && !listener(process))
    }

    /// Kills the server and starts it again on the same port with the same keys. Detached jobs live.
    pub fn restart(&self) -> io::Result<()> {
        self.kill_server()?;
        self.state().listener = server::start_on(&self.namespace, &self.layout, &self.options, self.port)?;
        Ok(())
    }

    /// The same with new host keys, as if another machine had got this address.
    pub fn restart_with_new_keys(&self) -> io::Result<()> {
        self.kill_server()?;
        self.state().host_keys = server::make_host_keys(&self.layout, &self.options)?;
        self.restart()
    }

    /// As the machine was switched off and on: everything in it is killed, `/run` is emptied, the server starts again.
    pub fn reboot(&self) -> io::Result<()> {
        self.kill_server()?;
        let holder = self.namespace.holder;
        self.signal(Signal::KILL, |process| process.pid != holder)?;
        self.layout.empty_run().map_err(|error| named(&self.path("/run"), &error))?;
        self.restart()
    }
}

impl Drop for SshHost {
    fn drop(&mut self) {
        // The rest of the machine ends with its namespaces.
        drop(self.kill_listener());
    }
}

fn default_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    format!("host-{}", name.rsplit('-').next().unwrap_or_default())
}
