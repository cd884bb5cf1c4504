//! The daemon dies, or the answer does, while EC2 makes an instance.

use muster_ec2_cloud::{BootOptions, Fault, Gate, Rule};

use crate::fixture::Cluster;

/// A job's instance has been made, and the answer that says so comes when the gate is opened.
fn create_without_answer() -> (Cluster, Gate, Vec<String>) {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", "");
    let gate = Gate::closed();
    // A list may show the instance before that: nobody can log in, so that nothing is started there yet.
    let held = gate.clone();
    cluster.ec2.machines.boot_with(move |_, _| BootOptions { server_at: Some(held.clone()), ..BootOptions::default() });
    cluster.ec2.proxy.rule(Rule::on("RunInstances", Fault::HoldAnswer(gate.clone())).times(1));
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    let _ = cluster.ec2.proxy.wait_for_forwarded("RunInstances", 1);
    (cluster, gate, job)
}

/// Between RunInstances and its answer: the instance is found by its tag and used; no second one is made.
#[test]
fn killed_before_the_answer_to_a_create() {
    let (mut cluster, gate, job) = create_without_answer();
    cluster.site.kill_9();
    gate.open();
    let made = cluster.live().remove(0);
    cluster.site.start();
    cluster.site.wait_state(&job[0], "Complete");
    cluster.site.assert_once(&job);
    assert_eq!(cluster.site.show(&job[0])["attempts"][0]["instance"], made.id.as_str());
    cluster.wait_until_nothing_is_left();
    assert_eq!((cluster.creates().len(), cluster.ec2.moto.instances().len()), (1, 1));
    cluster.assert_decent();
    cluster.site.stop();
}

/// The same when nothing waits any more: the instance is destroyed after its time.
#[test]
fn killed_and_the_job_cancelled_meanwhile() {
    let (mut cluster, gate, job) = create_without_answer();
    cluster.site.ok(&["cancel", &job[0]]);
    cluster.site.kill_9();
    gate.open();
    cluster.site.start();
    cluster.site.wait_until("it is found", |site| site.has_logged(&["instance appeared in cloud"]));
    cluster.wait_until_nothing_is_left();
    assert_eq!((cluster.creates().len(), cluster.site.runs_of(&job[0])), (1, 0));
    cluster.site.stop();
}

/// The connection breaks after the instance was made: it is recognised when it is listed. Another one may have been asked for by then,
/// which is used or destroyed as well.
#[test]
fn the_answer_to_a_create_is_lost() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", "");
    cluster.ec2.proxy.rule(Rule::on("RunInstances", Fault::CutAfter(0)).times(1));
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&job[0], "Complete");
    cluster.site.assert_once(&job);
    cluster.wait_until_nothing_is_left();
    let made = cluster.ec2.moto.instances();
    assert_eq!(cluster.creates().len(), made.len(), "one for each create");
    let first = cluster.lines(&["instance appeared in cloud", &made[0].id]).remove(0);
    assert!(first.contains("State=booting"), "it is known as ours: {first}");
    cluster.assert_decent();
    cluster.site.stop();
}

/// Whatever the moment: all jobs run once, and nothing is left.
#[test]
fn killed_again_and_again() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", "");
    cluster.site.start();
    let jobs = cluster.site.submit_counted(&["--array", "1-12"], "sleep 0.3");
    for calls in 1..=4 {
        // At another call each time: the list, the creates, the list after them.
        let _ = cluster.ec2.proxy.wait_for_calls("*", calls * 3);
        cluster.site.kill_9();
        cluster.site.start();
    }
    for job in &jobs {
        cluster.site.wait_state(job, "Complete");
    }
    cluster.site.assert_once(&jobs);
    cluster.wait_until_nothing_is_left();
    cluster.assert_decent();
    cluster.site.stop();
}
