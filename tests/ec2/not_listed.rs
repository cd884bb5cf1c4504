//! Before the cloud has listed its instances nothing starts: whoever looks is told why, and it goes on when the reason is gone.

use muster_ec2_cloud::{Fault, Rule};

use crate::fixture::Cluster;

#[test]
fn credentials_that_ec2_refuses() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", "");
    let summary = cluster.site.ok(&["check"]);
    let region = format!("region           us-east-1 ({})\n", cluster.ec2.subnets.join(", "));
    assert!(summary.contains(&region), "{summary}");
    let refused = "AWS was not able to validate the provided access credentials";
    let rule = cluster.ec2.proxy.rule(Rule::on("DescribeInstances", Fault::error("AuthFailure", refused)));
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_until("a list was refused", |_| rule.hits() > 0);
    let said = |site: &crate::harness::Site, arguments: &[&str], parts: &[&str]| {
        let text = site.ok(arguments);
        text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    };
    let why = ["AuthFailure", refused];
    let waits = "Waiting until the cloud has listed its instances.";
    cluster.site.wait_until("status says why", |site| {
        said(site, &["status"], &[&["TROUBLE", "cannot be listed"], &why[..]].concat())
    });
    cluster
        .site
        .wait_until("the job says why", |site| said(site, &["list"], &[&[job[0].as_str(), waits], &why[..]].concat()));
    rule.remove();
    cluster.site.wait_state(&job[0], "Complete");
    assert!(!said(&cluster.site, &["status"], &["TROUBLE"]));
    cluster.wait_until_nothing_is_left();
    cluster.site.stop();
}
