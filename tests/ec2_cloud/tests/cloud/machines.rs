//! Machines of instances, with real logins.

use std::process::Command;

use muster_ec2_cloud::{BootOptions, Ec2Site, Gate, Machine, SiteOptions};
use muster_ssh_hosts::{ClientKey, Login, caller_is_root, client_key};

/// A site with a key pair, and creates as a program would make them.
struct Cloud {
    site: Ec2Site,
    key: ClientKey,
}

impl Cloud {
    fn with(boot: BootOptions) -> Self {
        let site = Ec2Site::with(SiteOptions { boot, ..SiteOptions::default() }).expect("starts");
        let key = client_key().expect("made");
        site.moto.import_key_pair("pair", key.public());
        Self { site, key }
    }

    fn run(&self, user_data: &str) -> String {
        // Base64 is made by a program of its own.
        let mut command = Command::new("base64");
        command.arg("-w0").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let mut pipe = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut pipe, user_data.as_bytes()).expect("written");
        drop(pipe);
        let encoded = child.wait_with_output().expect("ends").stdout;
        let encoded = String::from_utf8(encoded).expect("text");
        let parameters = [
            ("ImageId", self.site.image.as_str()),
            ("MinCount", "1"),
            ("MaxCount", "1"),
            ("InstanceType", "t3.small"),
            ("KeyName", "pair"),
            ("UserData", &encoded),
            ("NetworkInterface.1.DeviceIndex", "0"),
            ("NetworkInterface.1.SubnetId", &self.site.subnets[0]),
        ];
        let root = self.site.proxy.call("RunInstances", &parameters).expect("made");
        root.list("instancesSet")[0].at("instanceId").expect("an id").to_owned()
    }

    /// A login at the address and port that EC2 and the site tell; what it printed, or why it failed.
    fn ssh(&self, machine: &Machine, command: &str) -> Result<String, String> {
        let address = self.site.moto.instance(machine.id()).address.expect("has one");
        assert_eq!((address, self.site.ssh_port), machine.address());
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]);
        ssh.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"]).arg(self.key.path());
        ssh.args(["-p", &self.site.ssh_port.to_string(), &format!("{}@{address}", self.site.user), "--", command]);
        let output = ssh.stdin(std::process::Stdio::null()).output().expect("starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// As a dispatcher's user data does; each instance has a secret of its own.
const SECRET: &str = "#!/bin/sh\numask 077\necho $$-secret >/var/run/arvados-instance-secret\nid -u\n";

#[test]
fn an_instance_boots_runs_its_user_data_and_lets_the_key_in() {
    let cloud = Cloud::with(BootOptions::default());
    let ids = [cloud.run(SECRET), cloud.run(SECRET)];
    let read = if caller_is_root() { "sudo -n cat" } else { "cat" };
    let mut secrets = Vec::new();
    for id in &ids {
        let machine = cloud.site.machines.machine(id);
        let printed = machine.wait_until_booted();
        if caller_is_root() {
            assert_eq!(printed, "0\n", "it runs as root");
        }
        let secret = cloud.ssh(&machine, &format!("{read} /var/run/arvados-instance-secret")).expect("logged in");
        assert!(secret.ends_with("-secret\n"), "{secret}");
        assert_eq!(
            machine
                .with_host(|host| std::fs::read_to_string(host.path("/run/arvados-instance-secret")).expect("there")),
            secret
        );
        if caller_is_root() {
            assert!(cloud.ssh(&machine, "cat /var/run/arvados-instance-secret").is_err(), "not for everybody");
        }
        assert_eq!(cloud.ssh(&machine, "id -un").expect("logged in").trim(), cloud.site.user);
        secrets.push(secret);
    }
    assert_ne!(secrets[0], secrets[1], "each has files of its own");
    assert!(!std::path::Path::new("/run/arvados-instance-secret").exists(), "nothing of it is here");
}

#[test]
fn only_the_key_of_the_pair_may_log_in() {
    let mut cloud = Cloud::with(BootOptions::default());
    let id = cloud.run("");
    let machine = cloud.site.machines.machine(&id);
    machine.wait_until_up();
    assert!(cloud.ssh(&machine, "true").is_ok());
    cloud.key = client_key().expect("made");
    let refused = cloud.ssh(&machine, "true").expect_err("refused");
    assert!(refused.contains("Permission denied"), "{refused}");
}

#[test]
fn termination_ends_a_machine_and_all_that_runs_in_it() {
    let cloud = Cloud::with(BootOptions::default());
    let background = "#!/bin/sh\nsleep 100000 >/dev/null 2>&1 </dev/null &\necho $!\n";
    let (by_call, by_interruption) = (cloud.run(background), cloud.run(background));
    let machines = cloud.site.machines.wait_for(2);
    let pids: Vec<String> = machines.iter().map(|machine| machine.wait_until_booted().trim().to_owned()).collect();
    // One that has ended but that nobody has asked about has no program any more.
    let runs = |pid: &String| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    assert!(pids.iter().all(runs), "{pids:?}");
    cloud.site.proxy.call("TerminateInstances", &[("InstanceId.1", &by_call)]).expect("terminated");
    machines[0].wait_until_gone();
    assert!(!runs(&pids[0]) && runs(&pids[1]) && machines[1].is_up());
    assert!(cloud.ssh(&machines[0], "true").expect_err("gone").contains("refused"));
    cloud.site.moto.terminate(&by_interruption);
    machines[1].wait_until_gone();
    assert!(!runs(&pids[1]));
}

#[test]
fn the_server_answers_before_the_user_data_has_been_run() {
    let gate = Gate::closed();
    let cloud = Cloud::with(BootOptions { user_data_at: Some(gate.clone()), ..BootOptions::default() });
    let machine = cloud.site.machines.machine(&cloud.run(SECRET));
    machine.wait_until_up();
    assert!(
        cloud.ssh(&machine, "cat /var/run/arvados-instance-secret").expect_err("not there").contains("No such file")
    );
    gate.open();
    let _ = machine.wait_until_booted();
    assert!(cloud.ssh(&machine, "ls /var/run/arvados-instance-secret").is_ok());
}

#[test]
fn machines_boot_late_or_never_as_they_are_told() {
    let gate = Gate::closed();
    let cloud = Cloud::with(BootOptions { never: true, ..BootOptions::default() });
    let dead = cloud.site.machines.machine(&cloud.run(SECRET));
    let late = gate.clone();
    cloud.site.machines.boot_with(move |number, instance| {
        assert_eq!((number, instance.instance_type.as_str()), (1, "t3.small"));
        BootOptions { server_at: Some(late.clone()), ..BootOptions::default() }
    });
    let machine = cloud.site.machines.machine(&cloud.run(SECRET));
    assert!(cloud.ssh(&machine, "true").expect_err("not up").contains("refused"));
    gate.open();
    machine.wait_until_up();
    assert!(cloud.ssh(&machine, "true").is_ok());
    assert!(!dead.is_up() && dead.fault().is_none());
    cloud.site.moto.terminate(dead.id());
    dead.wait_until_gone();
}

/// Terminated while it waits to boot, while it boots, and while its user data is run: it ends all the same.
#[test]
fn a_machine_can_end_at_any_point_of_its_boot() {
    let gate = Gate::closed();
    let cloud = Cloud::with(BootOptions { server_at: Some(gate.clone()), ..BootOptions::default() });
    let waiting = cloud.site.machines.machine(&cloud.run(SECRET));
    cloud.site.moto.terminate(waiting.id());
    waiting.wait_until_gone();
    gate.open();
    let starting = cloud.site.machines.machine(&cloud.run(SECRET));
    cloud.site.moto.terminate(starting.id());
    starting.wait_until_gone();
    let running = cloud.site.machines.machine(&cloud.run("#!/bin/sh\necho >/var/lib/begun\nexec sleep 100000\n"));
    running.wait_until_up();
    let begun = running.with_host(|host| host.path("/var/lib/begun"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(240);
    while !begun.exists() {
        assert!(std::time::Instant::now() < deadline, "the user data is not run");
        std::thread::yield_now();
    }
    cloud.site.moto.terminate(running.id());
    running.wait_until_gone();
    assert_eq!(cloud.site.machines.all().iter().filter_map(Machine::fault).count(), 0);
    assert!(!begun.exists(), "its files are gone");
}

#[test]
fn root_logs_in_where_the_image_has_it_so() {
    let login = if caller_is_root() { Login::Root } else { Login::Caller };
    let cloud = Cloud::with(BootOptions { login, ..BootOptions::default() });
    let machine = cloud.site.machines.machine(&cloud.run(SECRET));
    let _ = machine.wait_until_booted();
    let secret = cloud.ssh(&machine, "cat /var/run/arvados-instance-secret").expect("logged in");
    assert!(secret.ends_with("-secret\n"));
}

#[test]
fn a_sites_configuration_names_its_places() {
    let cloud = Cloud::with(BootOptions::default());
    let text = cloud.site.config(&cloud.key.path(), "    TimeoutIdle: 10s\n", "");
    let site = &cloud.site;
    for wanted in [&site.proxy.url(), &site.image, &site.subnets[1], &site.security_group, &site.user] {
        assert!(text.contains(wanted.as_str()), "{wanted} in {text}");
    }
    assert!(
        text.contains(&format!("\n    SSHPort: {}\n    TimeoutIdle: 10s\n    DriverParameters: {{", site.ssh_port)),
        "{text}"
    );
}
