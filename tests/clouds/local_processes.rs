//! The example program `local-processes`, killed at any step, run many times at once, and with its instances killed.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use muster::cloud::boot::Boot;
use muster::cloud::exec::ExecCloud;
use muster::cloud::{CloudInstance, InstanceSet};
use muster::core::effect::{Ending, Tags};
use muster::core::errors::chain;
use muster::core::ids::InstanceId;
use muster::remote::{Command as Remote, Lane, Program};
use muster_ssh_hosts::{ClientKey, caller_is_root, client_key};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::rigs::{example, exec_driver, processes_of};
use crate::support::{LIMIT, instance_type, log, new_secret, order, run_unheard, wait_until};

struct Cloud {
    folder: tempfile::TempDir,
    key: ClientKey,
}

impl Cloud {
    fn new() -> Self {
        log();
        let folder = tempfile::Builder::new().prefix("muster-local-").tempdir().expect("a folder");
        Self { folder, key: client_key().expect("made") }
    }

    fn parameters(&self) -> Value {
        json!({"directory": self.folder.path(), "max": 100})
    }

    fn driver(&self) -> ExecCloud {
        exec_driver(&example("local-processes"), &self.parameters(), &self.key)
    }

    fn boot(&self, init_command: &str) -> Boot {
        let public_key = Some(self.key.public().to_owned());
        Boot { public_key, init_command: init_command.to_owned(), ..Boot::default() }
    }

    /// Names of what is in the directory of instances; some begin with a dot.
    fn entries(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join("instances"));
        let names = entries.into_iter().flatten().filter_map(Result::ok);
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The program, as the driver would run it, with its input written.
    fn run(&self, verb: &str, input: &Value) -> Child {
        let mut child = Command::new(example("local-processes"))
            .arg(verb)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        child.stdin.take().expect("a pipe").write_all(input.to_string().as_bytes()).expect("read");
        child
    }

    fn create_input(&self) -> Value {
        json!({"instance_set_id": crate::support::SET, "image_id": "", "tags": {"a": "b"}, "init_command": "",
            "instance_type": {"Name": "t", "ProviderType": "t", "Price": 0.5}, "public_key": self.key.public(),
            "parameters": self.parameters()})
    }

    fn nothing_is_left(&self) {
        assert_eq!(self.entries(), [""; 0]);
        // A signal has been sent to the last of them; the end may take a moment.
        wait_until("no process is left", || processes_of(self.folder.path()).is_empty());
    }
}

/// As a Timeout does.
fn kill(mut child: Child) {
    let group = Pid::from_child(&child);
    // It may have ended.
    let _ = kill_process_group(group, Signal::KILL);
    child.wait().expect("ended");
}

fn listed(driver: &ExecCloud) -> Vec<CloudInstance> {
    driver.list(&Tags::new()).expect("a list")
}

/// The instance once it has an address.
fn booted(driver: &ExecCloud, id: &str) -> CloudInstance {
    let mut found = None;
    wait_until("it has an address", || {
        found = listed(driver).into_iter().find(|one| one.id.as_str() == id && !one.address.is_empty());
        found.is_some()
    });
    found.expect("it is there")
}

fn run_there(driver: &ExecCloud, one: &CloudInstance, words: &[&str]) -> Option<String> {
    let access = driver.open(&one.id, None).expect("a descriptor");
    access.executor.set_target(&one.address, &one.remote_user);
    let program = Program::Arguments(words.iter().map(|word| (*word).to_owned()).collect());
    let command = Remote { program, stdin: b"", open_until: None, deadline: Instant::now() + LIMIT };
    let output = access.executor.execute(Lane::Action, &command).ok().filter(|output| output.succeeded())?;
    access.executor.close();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a create or a destroy does is seen in the directory; there it is killed, or somewhat later. What was begun is finished, or undone.
#[test]
fn killed_at_every_step() {
    let cloud = Cloud::new();
    let driver = cloud.driver();
    let is_step = |name: &str, step: &str| name.starts_with(step);
    for (step, file) in [
        (".new-", ""),
        (".new-", "authorized_keys"),
        (".new-", "host_key"),
        ("local-", ""),
        ("local-", "pid"),
        ("local-", "address"),
    ] {
        let child = cloud.run("create", &cloud.create_input());
        let has_come = || {
            let paths = cloud.entries().into_iter().filter(|name| is_step(name, step));
            paths
                .map(|name| cloud.folder.path().join("instances").join(name))
                .any(|path: PathBuf| path.join(file).exists())
        };
        let mut child = Some(child);
        wait_until("the step has come", || {
            let ended = child.as_mut().is_none_or(|child| child.try_wait().expect("known").is_some());
            ended || has_come()
        });
        kill(child.take().expect("it is there"));
        // Nothing, or all of it.
        let all = listed(&driver);
        assert!(cloud.entries().iter().all(|name| is_step(name, "local-")), "{:?}", cloud.entries());
        for one in all {
            assert_eq!(one.tags["a"], "b");
            let one = booted(&driver, one.id.as_str());
            assert!(run_there(&driver, &one, &["true"]).is_some(), "{step}{file}");
            let child = cloud.run("destroy", &json!({"instance": one.id.as_str(), "parameters": cloud.parameters()}));
            wait_until("it is on its way", || cloud.entries().iter().all(|name| !is_step(name, "local-")));
            kill(child);
            wait_until("it is gone on with", || {
                assert!(listed(&driver).is_empty());
                cloud.entries().is_empty()
            });
        }
        cloud.nothing_is_left();
    }
}

/// An instance whose processes are killed is booted again, as the one that it was.
#[test]
fn instances_that_die() {
    let cloud = Cloud::new();
    let driver = cloud.driver();
    // A boot that is repeated would write another line.
    let new = order(&cloud.boot("echo line >>/var/lib/booted"), &instance_type("small"), &new_secret());
    let id = driver.create(&new).expect("made").id;
    let one = booted(&driver, id.as_str());
    wait_until("it is initialised", || path_of(&cloud, &id, "initialised").exists());
    let name = run_there(&driver, &one, &["cat", "/proc/sys/kernel/hostname"]).expect("runs");
    assert_eq!(name.trim(), id.as_str());
    let job = ["sh", "-c", "sleep 1000 >/dev/null 2>&1 </dev/null &"];
    run_there(&driver, &one, &job).expect("runs");
    let pid = std::fs::read_to_string(path_of(&cloud, &id, "pid")).expect("there");
    let status = Command::new("kill").args(["-KILL", pid.trim()]).status().expect("kill runs");
    assert!(status.success());
    let again = || {
        let one = booted(&driver, id.as_str());
        run_there(&driver, &one, &["sh", "-c", "cat /var/lib/booted; cat /proc/[0-9]*/comm"])
    };
    let mut said = None;
    wait_until("it runs again", || {
        said = again();
        said.is_some() && std::fs::read_to_string(path_of(&cloud, &id, "pid")).is_ok_and(|now| now != pid)
    });
    let said = again().expect("runs");
    assert_eq!(said.lines().filter(|line| *line == "line").count(), 1, "{said}");
    assert!(!said.contains("sleep"), "its jobs have ended with it: {said}");
    driver.destroy(&id, None, Ending::Unwanted).expect("destroyed");
    cloud.nothing_is_left();
}

fn path_of(cloud: &Cloud, id: &InstanceId, file: &str) -> PathBuf {
    cloud.folder.path().join("instances").join(id.as_str()).join(file)
}

/// Two instances are two machines: what one has in /run and /var/lib is not the other's.
#[test]
fn instances_do_not_see_each_other() {
    let cloud = Cloud::new();
    let driver = cloud.driver();
    let make = || {
        let new = order(&cloud.boot(""), &instance_type("small"), &new_secret());
        let id = driver.create(&new).expect("made").id;
        booted(&driver, id.as_str())
    };
    let (one, two) = (make(), make());
    for place in ["/run/lock/mark", "/var/lib/mark"] {
        assert!(run_there(&driver, &one, &["touch", place]).is_some(), "{place}");
        assert!(run_there(&driver, &one, &["test", "-e", place]).is_some(), "{place}");
        assert!(run_there(&driver, &two, &["test", "!", "-e", place]).is_some(), "{place}");
        assert!(!Path::new(place).exists(), "{place}");
    }
    for one in [one, two] {
        driver.destroy(&one.id, None, Ending::Unwanted).expect("destroyed");
    }
    cloud.nothing_is_left();
}

/// The daemon is gone, and nobody reads what the program says: the instance is made all the same.
#[test]
fn made_though_nobody_listens() {
    let cloud = Cloud::new();
    run_unheard(&example("local-processes"), "create", &cloud.create_input());
    let driver = cloud.driver();
    let id = listed(&driver)[0].id.clone();
    let one = booted(&driver, id.as_str());
    assert!(run_there(&driver, &one, &["true"]).is_some());
    // Jobs run on this machine, as anybody.
    for file in [path_of(&cloud, &id, "alive"), path_of(&cloud, &id, "log"), cloud.folder.path().join("lock")] {
        let mode = std::fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    driver.destroy(&id, None, Ending::Unwanted).expect("destroyed");
    cloud.nothing_is_left();
}

/// An instance whose processes do not end is in nobody's way, not even while its destroy waits for them.
#[test]
fn processes_that_do_not_end() {
    let cloud = Cloud::new();
    let driver = cloud.driver();
    assert!(listed(&driver).is_empty());
    let id = InstanceId::new("local-0123456789abcdef");
    std::fs::create_dir(path_of(&cloud, &id, "")).expect("made");
    let alive = std::fs::File::create(path_of(&cloud, &id, "alive")).expect("made");
    rustix::fs::flock(&alive, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    std::thread::scope(|scope| {
        let destroy = scope.spawn(|| driver.destroy(&id, None, Ending::Unwanted));
        wait_until("it is on its way", || cloud.entries() == [format!(".gone-{id}")]);
        assert!(listed(&driver).is_empty());
        assert_eq!(cloud.entries(), [format!(".gone-{id}")]);
        drop(alive);
        // On a machine that is so busy, it may have given up.
        if let Err(error) = destroy.join().expect("no panic") {
            assert!(chain(&error).contains("do not end"), "{error:?}");
            assert!(listed(&driver).is_empty());
        }
    });
    cloud.nothing_is_left();
}

/// What is in the directory is trusted, so it must be ours alone; and instances must see it.
#[test]
fn directories_that_are_refused() {
    let cloud = Cloud::new();
    let path = |name: &str| cloud.folder.path().join(name);
    for name in ["open", "aim", "foreign"] {
        std::fs::create_dir(path(name)).expect("made");
    }
    std::fs::set_permissions(path("open"), std::fs::Permissions::from_mode(0o777)).expect("set");
    std::os::unix::fs::symlink(path("aim"), path("link")).expect("made");
    let mut all = vec![
        path("open"),
        path("link"),
        path("link/"),
        PathBuf::from("/var/lib/muster-test-cloud"),
        PathBuf::from("/run/x"),
    ];
    if caller_is_root() {
        std::os::unix::fs::chown(path("foreign"), Some(12345), None).expect("root may");
        all.push(path("foreign"));
    }
    for directory in all {
        let driver = exec_driver(&example("local-processes"), &json!({ "directory": directory }), &cloud.key);
        let text = chain(&driver.list(&Tags::new()).expect_err("refused"));
        assert!(text.contains("must be a directory of ours") || text.contains("must not be below"), "{text}");
    }
    assert!(!Path::new("/var/lib/muster-test-cloud").exists());
}
