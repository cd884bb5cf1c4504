//! `muster cloudtest` with EC2.

use std::process::Output;

use muster_ec2_cloud::{BootOptions, Fault, Gate, Rule};

use crate::fixture::Cluster;

fn cloudtest(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = cluster.site.run(&[&["cloudtest"], arguments].concat());
    assert!(stdout.is_empty());
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// In each subnet one instance, which is gone afterwards; a dispatcher's is left alone.
#[test]
fn each_subnet_is_tried() {
    let mut cluster = Cluster::new("    ProbeInterval: 100ms\n    TimeoutIdle: 1h\n", "");
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&job[0], "Complete");
    let id = cluster.live()[0].id.clone();
    let (code, log) = cloudtest(&cluster, &["-command", "whoami; sudo cat /var/run/arvados-instance-secret"]);
    assert_eq!(code, Some(0), "{log}");
    for (index, subnet) in cluster.ec2.subnets.iter().enumerate() {
        let line = format!("msg=\"running tests using SubnetID\" Key=SubnetID[{index}] SubnetID={subnet}");
        assert!(log.contains(&line), "{line}: {log}");
    }
    assert_eq!(log.matches("msg=\"instance has booted\"").count(), 2, "{log}");
    assert!(log.contains(&format!("Command=\"ssh -p{} {}@127.", cluster.ec2.ssh_port, cluster.ec2.user)), "{log}");
    let instances = cluster.ec2.moto.instances();
    assert_eq!(instances.len(), 3);
    for instance in instances.iter().filter(|instance| instance.id != id) {
        assert!(instance.state.is_gone() && instance.tags.contains_key("ArvadosCloudTestPID"));
        assert_eq!(instance.tags["ArvadosInstanceSetID"], "zzzzz-zzzzz-zzzzzzcloudtest");
        assert_eq!(instance.tags["site"], "lab");
    }
    assert_eq!(cluster.live().iter().map(|instance| &instance.id).collect::<Vec<_>>(), [&id]);
    cluster.site.ok(&["instance", "drain", &id]);
    cluster.wait_until_nothing_is_left();
    cluster.site.stop();
}

/// One subnet fails, the other is tried all the same; nothing is left.
#[test]
fn what_is_wrong_is_said() {
    let cluster = Cluster::new("    ProbeInterval: 100ms\n    TimeoutBooting: 2s\n", "");
    let wrong = Fault::error("InvalidSubnetID.NotFound", "The subnet ID does not exist");
    let rule = cluster.ec2.proxy.rule(Rule::on("RunInstances", wrong).with("SubnetId", &cluster.ec2.subnets[0]));
    let (code, log) = cloudtest(&cluster, &[]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("InvalidSubnetID.NotFound") && log.contains("msg=\"failed tests using SubnetID\""), "{log}");
    assert_eq!((log.matches("instance has booted").count(), rule.hits()), (1, 1), "{log}");
    rule.remove();

    // A machine whose server never comes up.
    cluster.ec2.machines.boot_with(|_, _| BootOptions { never: true, ..BootOptions::default() });
    let (code, log) = cloudtest(&cluster, &[]);
    assert_eq!((code, log.matches("msg=\"timed out\"").count()), (Some(1), 2), "{log}");
    assert!(cluster.live().is_empty(), "{log}");
}

/// A test that is killed leaves its instance; the next one says so, and removes it if it may.
#[test]
fn leftovers() {
    let cluster = Cluster::new("    ProbeInterval: 100ms\n", "");
    let gate = Gate::closed();
    let held = gate.clone();
    cluster.ec2.machines.boot_with(move |_, _| BootOptions { server_at: Some(held.clone()), ..BootOptions::default() });
    let mut child = cluster.site.command(&["cloudtest"]).stderr(std::process::Stdio::null()).spawn().expect("starts");
    let _ = cluster.ec2.proxy.wait_for_finished("RunInstances", 1);
    child.kill().expect("it runs");
    child.wait().expect("a child");
    gate.open();
    let left = cluster.live().remove(0);
    let (code, log) = cloudtest(&cluster, &[]);
    assert!(code == Some(1) && log.contains(&left.id) && log.contains("-destroy-existing"), "{log}");
    assert_eq!(cluster.live().len(), 1, "nothing was touched");
    let (code, log) = cloudtest(&cluster, &["-destroy-existing"]);
    assert_eq!(code, Some(0), "{log}");
    assert!(cluster.live().is_empty(), "{log}");
}
