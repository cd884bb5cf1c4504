//! The suite over the drivers that need nothing but this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster::cloud::boot::Boot;
use muster::cloud::exec::{ExecCloud, ExecOptions};
use muster::cloud::loopback::Loopback;
use muster::cloud::static_hosts::{HostSpec, StaticHosts, StaticOptions};
use muster::cloud::{CloudError, InstanceSet};
use muster::core::ids::{InstanceId, TypeName};
use muster::core::pool::limits::CapacityScope;
use muster::core::time::Moment;
use muster::remote::address::HostAddress;
use muster::remote::identity::{HostKey, HostTrust};
use muster::remote::runner::RunnerPlaces;
use muster::remote::supply::{RunnerBinary, RunnerSupply};
use muster_ssh_hosts::{ClientKey, HostOptions, SshHost, caller_is_root, client_key};

use crate::contract;
use crate::rig::{Reach, Rig};
use crate::support::{SET, access, instance_type, log, wait_until};

fn at_quota(error: &CloudError) -> bool {
    matches!(error, CloudError::Quota { .. })
}

#[test]
fn loopback() {
    log();
    let folder = tempfile::tempdir().expect("a folder");
    let state_dir = folder.path().join("state");
    std::fs::create_dir(&state_dir).expect("made");
    let open = move || -> Arc<dyn InstanceSet> {
        let mark = ("ArvadosInstanceSetID", SET);
        Arc::new(Loopback::open(&state_dir, "/".to_owned(), mark).expect("opens"))
    };
    contract::check(&Rig {
        name: "loopback",
        open: Box::new(open),
        shared: false,
        instance_type: instance_type("local"),
        boot: Boot::default(),
        full: Some((1, at_quota)),
        reach: Reach::Commands,
        prices: false,
        unknown_id: "elsewhere",
        faulty: false,
        leftovers: Box::new(Vec::new),
        errors: Default::default(),
    });
}

fn spec(name: &str, host: &SshHost) -> HostSpec {
    HostSpec {
        id: InstanceId::new(name),
        address: HostAddress::parse(&host.address(), 22).expect("an address"),
        user: host.user().to_owned(),
        sudo: caller_is_root(),
        type_name: TypeName::new("big"),
        provider_type: "big-provider".to_owned(),
        trust: HostTrust::Keys(vec![HostKey::parse(&host.host_key_openssh()).expect("a key")]),
    }
}

fn static_hosts(state_file: PathBuf, key: &ClientKey, hosts: &[HostSpec]) -> std::io::Result<StaticHosts> {
    let (events, _) = crossbeam_channel::bounded(100);
    let beside = Path::new(env!("CARGO_BIN_EXE_muster")).with_file_name("muster-runner");
    let binary = RunnerBinary::load(&beside).expect("built with the workspace");
    let began = std::time::Instant::now();
    StaticHosts::open(StaticOptions {
        hosts: hosts.to_vec(),
        state_file,
        set: SET.to_owned(),
        supply: Arc::new(RunnerSupply::of_binary(binary, None)),
        tag_prefix: "Arvados".to_owned(),
        init_command: String::new(),
        places: Arc::new(|_| RunnerPlaces::default()),
        connector: access(key).connector,
        events,
        spawn: Arc::new(muster::shell::threads::spawn),
        clock: Arc::new(move || Moment::since_start(began.elapsed())),
        began: 0,
        reached: |_| {},
    })
}

/// Real SSH servers, each like a machine of its own.
#[test]
fn static_on_real_hosts() {
    log();
    let key = client_key().expect("made");
    let hosts: Vec<SshHost> = (0..2).map(|_| HostOptions::new(key.public()).start().expect("starts")).collect();
    let specs: Vec<HostSpec> = hosts.iter().zip(["one", "two"]).map(|(host, name)| spec(name, host)).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let state_file = folder.path().join("static-hosts.json");
    let open = move || -> Arc<dyn InstanceSet> {
        // Threads of the one before may still have the file.
        let mut opened = None;
        wait_until("the state file is free", || {
            opened = match static_hosts(state_file.clone(), &key, &specs) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => None,
                other => Some(other.expect("opens")),
            };
            opened.is_some()
        });
        Arc::new(opened.expect("it is there"))
    };
    let owners = move || -> Vec<String> {
        let left = hosts.iter().map(|host| host.path("/var/lib/muster-runner/owner"));
        left.filter(|path| path.exists()).map(|path| path.display().to_string()).collect()
    };
    contract::check(&Rig {
        name: "static",
        open: Box::new(open),
        shared: false,
        instance_type: instance_type("big"),
        boot: Boot::default(),
        full: Some((2, |error| matches!(error, CloudError::Capacity { scope: CapacityScope::Type, .. }))),
        reach: Reach::Commands,
        prices: false,
        unknown_id: "three",
        faulty: false,
        leftovers: Box::new(owners),
        errors: Default::default(),
    });
}

/// The example program, in the source tree.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/examples/exec-cloud").join(name)
}

/// The driver `exec` with a program of Python's, on a cloud that is below a folder.
pub(crate) fn exec_driver(program: &Path, parameters: &serde_json::Value, key: &ClientKey) -> ExecCloud {
    let options = ExecOptions {
        program: program.to_path_buf(),
        // A hang is a failure; a slow machine is not.
        timeout: Duration::from_secs(120),
        parameters: parameters.as_object().cloned().expect("a map"),
        set: SET.to_owned(),
        home: "/".to_owned(),
        access: access(key),
        type_names: Default::default(),
    };
    ExecCloud::open(options).unwrap_or_else(|error| panic!("{program:?} needs python3: {error:?}"))
}

fn local_processes(host_keys: bool) {
    log();
    let key = client_key().expect("made");
    // Jobs pass through it as any user.
    let folder = tempfile::Builder::new().prefix("muster-local-").tempdir().expect("a folder");
    let directory = folder.path().to_path_buf();
    let parameters = serde_json::json!({"directory": directory, "max": 3, "host_keys": host_keys});
    let boot = Boot {
        public_key: Some(key.public().to_owned()),
        init_command: "echo done >/run/boot-was-here || :".to_owned(),
        ..Boot::default()
    };
    let left_in = directory.clone();
    let leftovers = move || -> Vec<String> {
        let entries = std::fs::read_dir(left_in.join("instances")).expect("there");
        let files = entries.map(|entry| entry.expect("readable").path().display().to_string());
        files.chain(processes_of(&left_in)).collect()
    };
    contract::check(&Rig {
        name: "exec with local-processes",
        open: Box::new(move || Arc::new(exec_driver(&example("local-processes"), &parameters, &key))),
        shared: true,
        instance_type: instance_type("small"),
        boot,
        full: Some((3, at_quota)),
        // Nobody but root can read the secret's file, or write it.
        reach: if host_keys || !caller_is_root() { Reach::Commands } else { Reach::BySecret },
        prices: true,
        unknown_id: "local-0123456789abcdef",
        faulty: false,
        leftovers: Box::new(leftovers),
        errors: Default::default(),
    });
}

/// Command lines of processes that name this folder.
pub(crate) fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.to_string_lossy().into_owned();
    let numbers = std::fs::read_dir("/proc").expect("there").filter_map(Result::ok);
    let lines = numbers.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&name)).collect()
}

#[test]
fn exec_whose_program_tells_host_keys() {
    local_processes(true);
}

/// Without root nothing can be reached then: nobody could write the secret's file.
#[test]
fn exec_where_the_secret_decides() {
    if caller_is_root() {
        local_processes(false);
    }
}
