//! EC2 refuses, or answers late, in part or with nonsense: work goes on when it can, and nothing is lost.

use std::time::Duration;

use muster_ec2_cloud::{BootOptions, Call, Fault, Gate, Rule};

use crate::fixture::Cluster;

const THROTTLED: &str = "suspending remote calls due to rate-limit error";

fn throttle() -> Fault {
    Fault::error("RequestLimitExceeded", "Request limit exceeded.")
}

/// From each call that was refused to the next one of its kind.
fn pauses(calls: &[Call], refused: usize) -> Vec<Duration> {
    calls.windows(2).take(refused).map(|pair| pair[1].at - pair[0].at).collect()
}

/// Three lists are refused: each time none is made before the time is over, and that is said once.
#[test]
fn throttled_lists() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", "");
    cluster.site.start();
    let warm = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&warm[0], "Complete");
    let rule = cluster.ec2.proxy.rule(Rule::on("DescribeInstances", throttle()).times(3));
    let job = cluster.site.submit_counted(&["--vcpus", "2"], "true");
    cluster.site.wait_until("the third is refused", |_| rule.hits() == 3);
    cluster.site.wait_state(&job[0], "Complete");
    cluster.wait_until_nothing_is_left();
    let calls = cluster.ec2.proxy.calls("DescribeInstances");
    let first = calls.iter().position(|call| call.status == Some(503)).expect("refused");
    let refused = calls.iter().filter(|call| call.status == Some(503)).count();
    assert_eq!(
        (refused, calls[first + 2].status, calls[first + 3].status),
        (3, Some(503), Some(200)),
        "one after the other"
    );
    let found = pauses(&calls[first..], 3);
    for (found, expected) in found.iter().zip([1000, 2500, 4750]) {
        assert!(*found >= Duration::from_millis(expected), "{found:?}: earlier than the time that was given");
    }
    assert_eq!(cluster.lines(&[THROTTLED, "CallType=List", "ResumeTime="]).len(), 3, "{}", cluster.site.log());
    cluster.site.assert_once(&[warm, job].concat());
    cluster.site.stop();
}

/// The same of creates, of which several are under way at once.
#[test]
fn throttled_creates() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", "");
    let rule = cluster.ec2.proxy.rule(Rule::on("RunInstances", throttle()).times(2));
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&job[0], "Complete");
    assert_eq!(rule.hits(), 2);
    let found = pauses(&cluster.ec2.proxy.calls("RunInstances"), 2);
    assert!(found[0] >= Duration::from_secs(1) && found[1] >= Duration::from_millis(2500), "{found:?}");
    assert_eq!(cluster.lines(&[THROTTLED, "CallType=Create", "ResumeTime="]).len(), 2, "{}", cluster.site.log());
    cluster.wait_until_nothing_is_left();
    assert_eq!(cluster.ec2.moto.instances().len(), 1);
    cluster.site.stop();
}

const TWINS: &str = "  twin: {ProviderType: t3.medium, VCPUs: 1, RAM: 2GiB, IncludedScratch: 10GB, Price: 0.025}\n";

/// None of the cheapest type anywhere: the next one that fits, without trying the first again.
#[test]
fn capacity_on_a_type() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", TWINS);
    let none = Fault::error("InsufficientInstanceCapacity", "We currently do not have sufficient t3.small capacity.");
    cluster.ec2.proxy.rule(Rule::on("RunInstances", none).with("InstanceType", "t3.small"));
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&job[0], "Complete");
    let creates = cluster.creates();
    let types: Vec<&str> = creates.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(types, ["t3.small", "t3.small", "t3.medium"], "once in each subnet, then the next type");
    cluster.wait_until_nothing_is_left();
    assert_eq!(cluster.ec2.moto.instances().len(), 1);
    cluster.site.stop();
}

/// A subnet is full: the other one is taken, and is the first to be tried from then on.
#[test]
fn capacity_on_a_subnet() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n    MaxInstances: 2\n", "");
    let [full, other] = [cluster.ec2.subnets[0].clone(), cluster.ec2.subnets[1].clone()];
    let no_address = Fault::error("InsufficientFreeAddressesInSubnet", "There are not enough free addresses.");
    cluster.ec2.proxy.rule(Rule::on("RunInstances", no_address).with("SubnetId", &full));
    cluster.site.start();
    let one = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&one[0], "Complete");
    let two = cluster.site.submit_counted(&["--vcpus", "2"], "true");
    cluster.site.wait_state(&two[0], "Complete");
    let subnets: Vec<String> = cluster.creates().into_iter().map(|(_, subnet)| subnet).collect();
    assert_eq!(subnets, [full.clone(), other.clone(), other.clone()]);
    assert!(cluster.ec2.moto.instances().iter().all(|instance| instance.subnet.as_ref() == Some(&other)));
    assert_eq!(cluster.lines(&["RunInstances failed, trying next subnet", &full]).len(), 1, "{}", cluster.site.log());
    cluster.wait_until_nothing_is_left();
    cluster.site.stop();
}

/// The account has room for one instance: the jobs take turns on it, and nobody asks for another again and again.
#[test]
fn quota() {
    // However slow this machine is, the instance does not end between two jobs.
    let mut cluster = Cluster::new("    TimeoutIdle: 1h\n", "");
    let no_more = Fault::error(
        "InstanceLimitExceeded",
        "You have requested more instances (2) than your current limit of 1 allows.",
    );
    let rule = cluster.ec2.proxy.rule(Rule::on("RunInstances", no_more).after(1));
    cluster.site.start();
    let jobs = cluster.site.submit_counted(&["--array", "1-6", "--ram", "900MiB"], "sleep 0.2");
    for job in &jobs {
        cluster.site.wait_state(job, "Complete");
    }
    cluster.site.assert_once(&jobs);
    let id = cluster.live()[0].id.clone();
    cluster.site.ok(&["instance", "drain", &id]);
    cluster.wait_until_nothing_is_left();
    assert_eq!(cluster.ec2.moto.instances().len(), 1);
    // Those that were under way together with the first, at most.
    assert!(rule.hits() <= 9, "{}", rule.hits());
    assert!(!cluster.lines(&["at quota until fewer instances remain"]).is_empty(), "{}", cluster.site.log());
    cluster.site.stop();
}

/// Nonsense in every form that has been seen between here and EC2; each is said, and nothing disappears because of it.
#[test]
fn answers_that_are_none() {
    let mut cluster = Cluster::new("    TimeoutIdle: 5s\n", "");
    cluster.site.start();
    let gate = cluster.site.folder().join("runs/gate");
    let job = cluster.site.submit_counted(&[], &format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display()));
    cluster.site.wait_state(&job[0], "Running");
    let cut = "<DescribeInstancesResponse><reservationSet><item><instancesSet>";
    for fault in [
        Fault::xml(cut),
        Fault::xml("<Other/>"),
        Fault::xml(""),
        Fault::html(200),
        Fault::html(502),
        Fault::CutAfter(300),
        Fault::CutAfter(0),
        Fault::Drop,
        Fault::error("InternalError", "An internal error has occurred"),
    ] {
        let said = cluster.lines(&["cannot list instances"]).len();
        let rule = cluster.ec2.proxy.rule(Rule::on("DescribeInstances", fault.clone()).times(1));
        let proxy = &cluster.ec2.proxy;
        cluster.site.wait_until("a list fails", |_| rule.hits() == 1);
        let next = proxy.calls("DescribeInstances").len() + 1;
        let _ = proxy.wait_for_finished("DescribeInstances", next);
        assert!(cluster.lines(&["cannot list instances"]).len() > said, "{fault:?}: {}", cluster.site.log());
        assert_eq!(cluster.site.state(&job[0]), "Running", "{fault:?}");
    }
    std::fs::write(&gate, b"").expect("written");
    cluster.site.wait_state(&job[0], "Complete");
    cluster.site.assert_once(&job);
    cluster.wait_until_nothing_is_left();
    cluster.site.stop();
}

/// EC2 shows a new instance late, and one that is gone for a while; lists come in pages, and the last token is empty.
#[test]
fn lists_that_lag_and_come_in_pages() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", "");
    cluster.ec2.proxy.appear_after(2);
    cluster.ec2.proxy.linger_for(3);
    cluster.ec2.proxy.page_size(Some(1));
    cluster.ec2.proxy.empty_last_token(true);
    cluster.site.start();
    let jobs = cluster.site.submit_counted(&["--array", "1-8", "--ram", "900MiB"], "sleep 0.2");
    for job in &jobs {
        cluster.site.wait_state(job, "Complete");
    }
    cluster.site.assert_once(&jobs);
    cluster.wait_until_nothing_is_left();
    cluster.assert_decent();
    cluster.site.stop();
}

/// Destroys are repeated until they work.
#[test]
fn destroys_that_fail() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n    TimeoutShutdown: 1s\n", "");
    let rule = cluster
        .ec2
        .proxy
        .rule(Rule::on("TerminateInstances", Fault::error("InternalError", "An internal error has occurred")).times(2));
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&job[0], "Complete");
    cluster.wait_until_nothing_is_left();
    assert_eq!(rule.hits(), 2);
    cluster.site.stop();
}

/// A machine that does not boot is replaced, and terminated. None boots before the first one is given up, and then they have all the
/// time that they need.
#[test]
fn machines_that_do_not_boot() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n    TimeoutBooting: 1s\n", "");
    let gate = Gate::closed();
    let held = gate.clone();
    cluster.ec2.machines.boot_with(move |_, _| BootOptions { server_at: Some(held.clone()), ..BootOptions::default() });
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    let Cluster { site, ec2, .. } = &mut cluster;
    site.wait_until("one is given up", |_| ec2.moto.instances().iter().any(|instance| instance.state.is_gone()));
    cluster.configure("    TimeoutIdle: 1s\n    TimeoutBooting: 10m\n", "");
    cluster.site.signal(rustix::process::Signal::HUP);
    cluster.site.wait_until("the file is read", |site| site.has_logged(&["TimeoutBooting", "10m"]));
    gate.open();
    cluster.site.wait_state(&job[0], "Complete");
    cluster.site.assert_once(&job);
    cluster.wait_until_nothing_is_left();
    assert!(cluster.ec2.moto.instances().len() >= 2);
    cluster.site.stop();
}
