//! Types that share a quota are not tried one after the other when it is used up (spec 42 §10), also types that came with a reload.

use muster_ec2_cloud::{Fault, Rule};
use rustix::process::Signal;

use crate::fixture::Cluster;

const MORE: &str = "  same: {ProviderType: c5.large, VCPUs: 1, RAM: 1GiB, IncludedScratch: 10GB, Price: 0.021}
  other: {ProviderType: x1.16xlarge, VCPUs: 1, RAM: 1GiB, IncludedScratch: 10GB, Price: 0.022}
";

#[test]
fn a_quota_of_a_group() {
    let cloud = "    TimeoutIdle: 1s\n";
    let mut cluster = Cluster::new(cloud, "");
    let used_up =
        Fault::error("VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit of 0 allows.");
    for name in ["t3.small", "c5.large"] {
        cluster.ec2.proxy.rule(Rule::on("RunInstances", used_up.clone()).with("InstanceType", name));
    }
    cluster.site.start();
    cluster.configure(cloud, MORE);
    cluster.site.signal(Signal::HUP);
    cluster
        .site
        .wait_until("the types are known", |site| site.has_logged(&["configuration changed", "InstanceTypes.other"]));
    cluster.site.wait_until("they are in force", |site| site.ok(&["instance-type", "list"]).contains("other"));
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&job[0], "Complete");
    cluster.site.assert_once(&job);
    let types: Vec<String> = cluster.creates().into_iter().map(|(name, _)| name).collect();
    assert_eq!(types, ["t3.small", "x1.16xlarge"], "{}", cluster.site.log());
    cluster.wait_until_nothing_is_left();
    cluster.site.stop();
}
