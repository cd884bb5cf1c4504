//! The machine of one instance: from the moment EC2 has it until it is terminated.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;

use muster_ssh_hosts::{HostOptions, Login, SshHost, Sudo, caller_is_root};

use crate::account::Instance;
use crate::gate::{Gate, Watched};

/// Where a first boot puts the user data, as the machine sees it.
const SCRIPT: &str = "/var/lib/cloud/instance/scripts/part-001";
/// What it prints, in the folder of the host.
const SCRIPT_LOG: &str = "user-data.log";

/// How a machine boots.
#[derive(Clone, Debug)]
pub struct BootOptions {
    /// Who logs in with the key pair: `AdminUsername` is [`BootOptions::user`].
    pub login: Login,
    /// What `sudo` does for them.
    pub sudo: Sudo,
    /// It never comes up.
    pub never: bool,
    /// Its SSH server starts when this is opened.
    pub server_at: Option<Gate>,
    /// Its user data is run when this is opened; its SSH server answers before.
    pub user_data_at: Option<Gate>,
    /// Whatever else the host is to be like.
    pub host: fn(HostOptions) -> HostOptions,
}

impl Default for BootOptions {
    /// At once; for a caller who is root with the user `worker`, who has sudo, else with the caller and without.
    fn default() -> Self {
        Self {
            login: if caller_is_root() { Login::Worker } else { Login::Caller },
            sudo: Sudo::Passwordless,
            never: false,
            server_at: None,
            user_data_at: None,
            host: |options| options,
        }
    }
}

impl BootOptions {
    /// The name that logs in, for `AdminUsername`.
    #[must_use]
    pub fn user(&self) -> String {
        match self.login {
            Login::Root => "root".to_owned(),
            Login::Worker => "worker".to_owned(),
            Login::Caller => {
                let output = std::process::Command::new("id").arg("-un").output();
                output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
            }
        }
    }

    pub(crate) fn open_gates(&self) {
        self.server_at.iter().chain(&self.user_data_at).for_each(Gate::open);
    }
}

#[derive(Debug, Default)]
struct State {
    host: Option<SshHost>,
    /// Somebody asked for its end.
    stopped: bool,
    /// Its SSH server has been up.
    was_up: bool,
    /// How its user data has ended: status and output.
    user_data: Option<(bool, String)>,
    fault: Option<String>,
}

/// A machine; its host is there while it runs. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Machine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    instance: Instance,
    address: Ipv4Addr,
    port: u16,
    options: BootOptions,
    state: Watched<State>,
}

impl Machine {
    pub(crate) fn new(instance: Instance, address: Ipv4Addr, port: u16, options: BootOptions) -> Self {
        Self { inner: Arc::new(Inner { instance, address, port, options, state: Watched::default() }) }
    }

    /// Its instance as it was when it was noticed.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.inner.instance
    }

    /// The instance's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.instance.id
    }

    /// Where its SSH server listens.
    #[must_use]
    pub fn address(&self) -> (Ipv4Addr, u16) {
        (self.inner.address, self.inner.port)
    }

    /// Whether it has an SSH server now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.inner.state.with(|state| state.host.is_some())
    }

    /// Whether it was told to end: no process of it is left then.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.inner.state.with(|state| state.stopped && state.host.is_none())
    }

    /// What has gone wrong with it that nobody has asked for.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.inner.state.with(|state| state.fault.clone())
    }

    /// The host, for faults and to look into; nothing in `work` may ask this
    /// machine anything or wait for its end, which has to wait for `work`.
    ///
    /// # Panics
    /// It is not up.
    pub fn with_host<R>(&self, work: impl FnOnce(&SshHost) -> R) -> R {
        self.inner.state.with(|state| work(state.host.as_ref().unwrap_or_else(|| panic!("{} is not up", self.id()))))
    }

    /// Until its SSH server listens, or has done so.
    ///
    /// # Panics
    /// It could not be started, or does not come up within minutes.
    pub fn wait_until_up(&self) {
        self.wait_until("is up", |state| state.was_up.then_some(()));
    }

    /// Until its user data has been run to the end; gives what it printed.
    ///
    /// # Panics
    /// It failed, or the machine did.
    #[must_use]
    pub fn wait_until_booted(&self) -> String {
        let (good, output) = self.wait_until("has booted", |state| state.user_data.clone());
        assert!(good, "{}: the user data failed: {output}", self.id());
        output
    }

    /// Until it has ended.
    ///
    /// # Panics
    /// It does not within minutes.
    pub fn wait_until_gone(&self) {
        let found = self.inner.state.wait_for(|state| (state.stopped && state.host.is_none()).then_some(()));
        assert!(found.is_some(), "waited until {} is gone", self.id());
    }

    fn wait_until<R>(&self, what: &str, mut wanted: impl FnMut(&mut State) -> Option<R>) -> R {
        let found = self.inner.state.wait_for(|state| {
            let ended = state.fault.clone().or_else(|| state.stopped.then(|| "it was terminated".to_owned()));
            wanted(state).map(Ok).or_else(|| ended.map(Err))
        });
        match found {
            Some(Ok(found)) => found,
            Some(Err(fault)) => panic!("waited until {} {what}: {fault}", self.id()),
            None => panic!("waited for minutes until {} {what}", self.id()),
        }
    }

    pub(crate) fn open_gates(&self) {
        self.inner.options.open_gates();
    }

    /// Its processes are killed and its files go.
    pub(crate) fn stop(&self) {
        // Killing takes a moment, and while it is under way nobody should think that it is done.
        self.inner.state.with(|state| {
            state.stopped = true;
            drop(state.host.take());
        });
    }

    /// The work of the machine's thread; `key` may log in, `user_data` is run.
    pub(crate) fn boot(&self, key: &str, user_data: Option<&str>) {
        if let Err(error) = self.try_boot(key, user_data) {
            self.fail(&error.to_string());
        }
    }

    /// What fails because the machine is being killed is no fault.
    pub(crate) fn fail(&self, fault: &str) {
        self.inner.state.with(|state| {
            if !state.stopped {
                state.fault = Some(fault.to_owned());
            }
        });
    }

    fn try_boot(&self, key: &str, user_data: Option<&str>) -> io::Result<()> {
        let options = &self.inner.options;
        if options.never || !self.passes(options.server_at.as_ref()) {
            return Ok(());
        }
        let name = format!("ip-{}", self.inner.address.to_string().replace('.', "-"));
        let host = HostOptions::new(key).login(options.login).sudo(options.sudo).private_tmp().name(&name);
        let host = (options.host)(host.listen(self.inner.address, self.inner.port)).start()?;
        self.inner.state.with(|state| {
            state.was_up = true;
            // Terminated while it started: it ends as it is dropped.
            state.host = (!state.stopped).then_some(host);
        });
        if !self.passes(options.user_data_at.as_ref()) {
            return Ok(());
        }
        let ended = match user_data {
            Some(text) => self.run(text)?,
            None => (true, String::new()),
        };
        self.inner.state.with(|state| state.user_data = Some(ended));
        Ok(())
    }

    /// Waits at a gate; whether the machine is still wanted then.
    fn passes(&self, gate: Option<&Gate>) -> bool {
        if let Some(gate) = gate {
            gate.wait();
        }
        self.inner.state.with(|state| !state.stopped)
    }

    /// Runs the user data as root of the machine, if it is a script; anything else is passed over, as on a real one.
    fn run(&self, text: &str) -> io::Result<(bool, String)> {
        if !text.starts_with("#!") {
            return Ok((true, String::new()));
        }
        let child = self.inner.state.with(|state| {
            let host = state.host.as_ref().ok_or_else(|| io::Error::other("terminated"))?;
            let script = host.path(SCRIPT);
            std::fs::create_dir_all(script.parent().unwrap_or(&script))?;
            std::fs::write(&script, text)?;
            let log = File::create(host.root().join(SCRIPT_LOG))?;
            let mut command = host.command_inside("sh");
            command.arg(SCRIPT).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            Ok::<_, io::Error>((command.spawn()?, host.root().to_owned()))
        });
        let (mut child, root) = child?;
        // Whoever terminates the machine kills it.
        let status = child.wait()?;
        let log = std::fs::read(root.join(SCRIPT_LOG))?;
        Ok((status.success(), String::from_utf8_lossy(&log).into_owned()))
    }
}
