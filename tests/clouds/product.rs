//! The product with the driver `exec` and the example program `local-processes`: a daemon that is killed, and `muster cloudtest`.

use std::path::PathBuf;

use muster_ssh_hosts::{ClientKey, caller_is_root, client_key};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::Site;
use crate::rigs::{example, processes_of};

/// A daemon's site, and a cloud below it with room for two instances.
struct Product {
    site: Site,
    /// Its file is read whenever a daemon starts.
    _key: ClientKey,
}

impl Product {
    fn new() -> Self {
        let key = client_key().expect("made");
        let site = Site::new();
        let text = format!(
            "Containers:\n  DispatchPrivateKey: file://{}\n  CloudVMs:\n    Driver: exec\n    SyncInterval: 500ms\n    ProbeInterval: 100ms\n    \
             TimeoutIdle: 1s\n    DriverParameters: {{Program: {}, Timeout: 1m, Parameters: {{directory: {}, max: 2}}}}\n\
             InstanceTypes:\n  small: {{VCPUs: 1, RAM: 1GiB, IncludedScratch: 1GiB, Price: 0.1}}\n",
            key.path().display(),
            example("local-processes").display(),
            site.folder().join("cloud").display(),
        );
        site.configure(&text);
        Self { site, _key: key }
    }

    fn instances(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.site.folder().join("cloud/instances")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

impl Drop for Product {
    /// A test that fails leaves no machines either.
    fn drop(&mut self) {
        for instance in self.instances() {
            let pid = std::fs::read_to_string(instance.join("pid")).ok().and_then(|text| text.trim().parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Five jobs run once each to their ends though the daemon is killed while some of them run; then no instance is left. Without root
/// instances have none either, and Muster puts its runner on machines over SSH as root only.
#[test]
fn a_daemon_that_is_killed() {
    if !caller_is_root() {
        return;
    }
    let mut product = Product::new();
    product.site.start();
    let go = product.site.folder().join("go");
    let script = format!("until test -e {}; do sleep 0.05; done", go.display());
    let uuids: Vec<String> = (0..5).flat_map(|_| product.site.submit_counted(&[], &script)).collect();
    product.site.wait_until("two of them run", |site| uuids.iter().filter(|uuid| site.runs_of(uuid) > 0).count() == 2);
    product.site.kill_9();
    assert_eq!(product.instances().len(), 2);
    std::fs::write(&go, "").expect("written");
    product.site.start();
    for uuid in &uuids {
        product.site.wait_state(uuid, "Complete");
    }
    product.site.assert_once(&uuids);
    let folder = product.site.folder().join("cloud/instances");
    product.site.wait_until("no instance is left", |_| {
        std::fs::read_dir(&folder).expect("there").count() == 0 && processes_of(&folder).is_empty()
    });
    product.site.stop();
    let log = product.site.log();
    assert!(log.contains("asking the driver program") && log.contains("created local-"), "{log}");
}

#[test]
fn cloudtest() {
    let product = Product::new();
    let output = product.site.run(&["cloudtest", "--command", "hostname"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
    for part in ["asking the driver program", "created instance", "stdout=\"local-", "instance is gone", "all is well"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(product.instances(), [""; 0].map(PathBuf::from));
}
