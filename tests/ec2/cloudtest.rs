//! `muster cloudtest` with EC2.

use std::process::Stdio;

use muster_ec2_cloud::{BootOptions, Fault, Gate, Rule, SiteOptions};
use rustix::process::Signal;

use crate::fixture::Cluster;
use crate::running::{Running, assert_ordered};

fn start(cluster: &Cluster, arguments: &[&str]) -> Running {
    Running::start(&cluster.site.command(&[&["cloudtest"], arguments].concat()), Stdio::null())
}

/// To its end. No secret is in its log.
fn cloudtest(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String) {
    let (status, log) = start(cluster, arguments).end();
    for instance in cluster.ec2.moto.instances() {
        let secret = instance.tags.get("ArvadosInstanceSecret").map_or("none", String::as_str);
        assert!(!log.contains(secret), "{log}");
    }
    (status.code(), log)
}

/// With one subnet; `cloud` as for a cluster.
fn small(cloud: &str) -> Cluster {
    Cluster::with(
        SiteOptions { subnets: 1, ..SiteOptions::default() },
        &format!("    ProbeInterval: 100ms\n{cloud}"),
        "",
    )
}

/// In each subnet one instance, which is gone afterwards; a dispatcher's is left alone.
#[test]
fn each_subnet_is_tried() {
    let mut cluster = Cluster::new("    ProbeInterval: 100ms\n    TimeoutIdle: 1h\n", "");
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&job[0], "Complete");
    let id = cluster.live()[0].id.clone();
    let (code, log) = cloudtest(&cluster, &["-command", "whoami; sudo wc -c /var/run/arvados-instance-secret"]);
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("msg=\"key to log in with\"") && log.contains("Source=Containers.DispatchPrivateKey"),
        "{log}"
    );
    assert!(log.contains("one after the other\" Subnets=2"), "{log}");
    for (index, subnet) in cluster.ec2.subnets.iter().enumerate() {
        let line = format!("msg=\"running tests using SubnetID\" Key=SubnetID[{index}] SubnetID={subnet}");
        assert!(log.contains(&line), "{line}: {log}");
    }
    assert_eq!(log.matches("msg=\"instance has booted\"").count(), 2, "{log}");
    let login = format!("msg=\"to log in\" Command=\"ssh -p{} {}@127.", cluster.ec2.ssh_port, cluster.ec2.user);
    assert_eq!(log.matches(&login).count(), 2, "once for each: {log}");
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

/// The order is what flags and configuration say.
#[test]
fn what_is_ordered() {
    let cluster = small("    InstanceInitCommand: echo ran > /var/run/mark\n");
    let image = cluster.ec2.moto.create_image("another");
    let look = "for i in $(seq 3000); do [ -s /var/run/mark ] && exec cat /var/run/mark; sleep 0.02; done; exit 1";
    let flags = ["-image-id", &image, "-instance-type", "large", "-command", look, "-pause-before-destroy"];
    let (code, log) = cloudtest(&cluster, &flags);
    assert_eq!(code, Some(0), "{log}");
    let line = format!("InstanceType=large ProviderType=m5.xlarge ImageID={image} ");
    assert!(log.contains(&line) && log.contains("\\necho ran > /var/run/mark\" DeployPublicKey=true"), "{log}");
    assert!(log.contains("stdout=\"ran\\n\""), "{log}");
    let login = "msg=\"to log in\"";
    assert_ordered(&log, &[login, "msg=\"instance has booted\"", login, "Press Enter", "msg=\"destroying instance\""]);
    // The cheapest, and without a key: nobody can log in.
    cluster.configure("    ProbeInterval: 100ms\n    TimeoutBooting: 1s\n    DeployPublicKey: false\n", "");
    let (code, log) = cloudtest(&cluster, &[]);
    assert!(code == Some(1) && log.contains("DeployPublicKey=false") && log.contains("msg=\"timed out\""), "{log}");
    let calls = cluster.ec2.proxy.calls("RunInstances");
    let ordered = |index: usize, name: &str| calls[index].parameter(name).map(str::to_owned);
    assert_eq!((ordered(0, "ImageId"), ordered(0, "InstanceType")), (Some(image), Some("m5.xlarge".to_owned())));
    let default = (Some(cluster.ec2.image.clone()), Some("t3.small".to_owned()));
    assert_eq!((ordered(1, "ImageId"), ordered(1, "InstanceType")), default);
    assert_eq!((ordered(0, "KeyName").is_some(), ordered(1, "KeyName")), (true, None));
    assert!(cluster.live().is_empty());
}

/// A create whose answer is lost: its instance is found and tried, and the test has failed. The other subnet is tried all the same.
#[test]
fn an_answer_that_is_lost() {
    let cluster = Cluster::new("    ProbeInterval: 100ms\n", "");
    let subnet = &cluster.ec2.subnets[0];
    let rule = cluster.ec2.proxy.rule(Rule::on("RunInstances", Fault::CutAfter(0)).with("SubnetId", subnet).times(1));
    let (code, log) = cloudtest(&cluster, &[]);
    assert_eq!((code, rule.hits()), (Some(1), 1), "{log}");
    assert_eq!(log.matches("msg=\"instance has booted\"").count(), 2, "{log}");
    let failed = "msg=\"failed tests using SubnetID\"";
    let parts =
        ["msg=\"error creating test instance\"", "msg=\"all expected tags are present\"", failed, "SubnetID[1]"];
    assert_ordered(&log, &parts);
    assert_eq!(log.matches(failed).count(), 1, "{log}");
    assert!(cluster.live().is_empty(), "{log}");
}

/// An entry that is no text is an error, and the others are tried all the same. Everybody else refuses such a configuration.
#[test]
fn what_is_no_subnet() {
    let cluster = Cluster::new("    ProbeInterval: 100ms\n", "");
    // Places are those of the list as it stands there, for a fault as for who tries them.
    let file = cluster.site.config();
    let text = std::fs::read_to_string(&file).expect("readable");
    let wrong = text.replace("SubnetID: [", "SubnetID: ['', {subnet-1: a}, ");
    assert_ne!(wrong, text);
    std::fs::write(&file, wrong).expect("written");
    let (code, log) = cloudtest(&cluster, &[]);
    assert_eq!(code, Some(1), "{log}");
    let parts = [
        "msg=\"not the id of a subnet\" Key=SubnetID[1]",
        "msg=\"failed tests using SubnetID\" Key=SubnetID[1]",
        "msg=\"running tests using SubnetID\" Key=SubnetID[2]",
        "msg=\"instance has booted\"",
        "msg=\"running tests using SubnetID\" Key=SubnetID[3]",
        "msg=\"instance has booted\"",
    ];
    assert_ordered(&log, &parts);
    assert_eq!(log.matches("msg=\"failed tests").count(), 1, "{log}");
    assert!(cluster.live().is_empty(), "{log}");
    let check = cluster.site.command(&["check"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success() && said.contains("DriverParameters.SubnetID[1]: must be a single value"), "{said}");
}

#[test]
fn what_is_wrong_is_said() {
    // A machine whose server never comes up.
    let cluster = Cluster::new("    ProbeInterval: 100ms\n    TimeoutBooting: 1s\n", "");
    cluster.ec2.machines.boot_with(|_, _| BootOptions { never: true, ..BootOptions::default() });
    let (code, log) = cloudtest(&cluster, &[]);
    assert_eq!((code, log.matches("msg=\"timed out\"").count()), (Some(1), 2), "{log}");
    assert!(cluster.live().is_empty(), "{log}");
    // What was refused is looked for as long as it may yet appear; so long this test does not wait.
    let wrong = Fault::error("InvalidSubnetID.NotFound", "The subnet ID does not exist");
    cluster.ec2.proxy.rule(Rule::on("RunInstances", wrong));
    let mut running = start(&cluster, &[]);
    running.wait_for("msg=\"looking for an instance that was created despite the error\"");
    assert!(running.log().contains("InvalidSubnetID.NotFound"), "{}", running.log());
    drop(running);
}

fn refuse(text: &str) -> Fault {
    match text {
        "unknown" => Fault::error("InvalidInstanceID.NotFound", "The instance ID does not exist"),
        _ => Fault::error("InternalError", "An internal error has occurred"),
    }
}

/// EC2 does not know a new instance everywhere at once: neither a destroy that finds none nor a list without it says that it is gone.
#[test]
fn an_instance_that_is_known_late() {
    let cluster = small("");
    cluster.ec2.proxy.appear_after(2);
    cluster.ec2.proxy.rule(Rule::on("TerminateInstances", refuse("unknown")).times(3));
    // The first list after the create: it ends the test.
    cluster.ec2.proxy.rule(Rule::on("DescribeInstances", refuse("")).after(1).times(1));
    let (code, log) = cloudtest(&cluster, &[]);
    assert_eq!(code, Some(1), "{log}");
    let unseen = "msg=\"instance has not been listed yet;";
    assert_ordered(&log, &["msg=\"created instance\"", unseen, unseen, "is still listed", "msg=\"instance is gone\""]);
    assert_eq!(cluster.ec2.moto.instances().len(), 1);
    assert!(cluster.live().is_empty(), "{log}");
}

/// A test that is killed leaves its instance; the next one says so, and removes it if it may.
#[test]
fn leftovers() {
    let cluster = Cluster::new("    ProbeInterval: 100ms\n", "");
    let gate = Gate::closed();
    let held = gate.clone();
    cluster.ec2.machines.boot_with(move |_, _| BootOptions { server_at: Some(held.clone()), ..BootOptions::default() });
    let running = start(&cluster, &[]);
    let _ = cluster.ec2.proxy.wait_for_finished("RunInstances", 1);
    drop(running);
    gate.open();
    let left = cluster.live().remove(0);
    let (code, log) = cloudtest(&cluster, &[]);
    assert!(code == Some(1) && log.contains(&left.id) && log.contains("-destroy-existing"), "{log}");
    assert_eq!(cluster.live().len(), 1, "nothing was touched");
    let (code, log) = cloudtest(&cluster, &["-destroy-existing"]);
    assert_eq!(code, Some(0), "{log}");
    assert!(cluster.live().is_empty(), "{log}");
}

/// The first signal destroys; the second one ends even that, and what is left is said. So it is by the next test that is stopped.
#[test]
fn signals() {
    let cluster = small("");
    let refusing = cluster.ec2.proxy.rule(Rule::on("TerminateInstances", refuse("")));
    let mut running = start(&cluster, &["-command", "exec sleep 600"]);
    running.wait_for("msg=\"instance has booted\"");
    running.signal(Signal::HUP);
    running.wait_for("msg=\"error destroying instance\"");
    running.signal(Signal::INT);
    let (status, log) = running.end();
    assert!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(2), "{status}: {log}");
    assert_ordered(&log, &["msg=\"ending early;", "msg=\"destroying instance\"", "msg=\"ended by a second signal;"]);
    let left = cluster.live().remove(0).id;

    let mut running = start(&cluster, &["-destroy-existing"]);
    running.wait_for("msg=\"error destroying instance\"");
    running.signal(Signal::TERM);
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(1), "{log}");
    let line = format!("msg=\"instances of an earlier test may still exist\" Instances={left} ");
    assert!(log.contains(&line) && log.contains("ArvadosInstanceSetID=zzzzz-zzzzz-zzzzzzcloudtest"), "{log}");

    refusing.remove();
    let (code, log) = cloudtest(&cluster, &["-destroy-existing"]);
    assert_eq!(code, Some(0), "{log}");
    assert!(cluster.live().is_empty());
}
