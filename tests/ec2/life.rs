//! From an empty account to an empty account.

use std::collections::{BTreeMap, BTreeSet};

use muster_ec2_cloud::{Instance, Spot};

use crate::fixture::{Cluster, MARK};

const SMALL: f64 = 0.02;
const LARGE: f64 = 0.2;

/// 30 jobs of mixed sizes: tags are right at each stage, each job runs once, costs are as computed, and nothing is left.
#[test]
fn thirty_containers_of_mixed_sizes() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n    MaxInstances: 5\n", "");
    let foreign = run_foreign(&cluster);
    cluster.site.start();
    let script = "hostname; sleep 0.$(($MUSTER_ARRAY_INDEX % 5))";
    let small = cluster.site.submit_counted(&["--array", "1-15", "--ram", "100MiB"], script);
    let pair = cluster.site.submit_counted(&["--array", "1-10", "--ram", "900MiB"], script);
    let large = cluster.site.submit_counted(&["--array", "1-5", "--vcpus", "2", "--ram", "2GiB"], script);
    let all = [small, pair, large].concat();
    assert_eq!(all.len(), 30);
    for uuid in &all {
        cluster.site.wait_state(uuid, "Complete");
    }
    cluster.site.assert_once(&all);
    cluster.wait_until_nothing_is_left();

    let instances = cluster.ec2.moto.instances();
    let ours: Vec<&Instance> = instances.iter().filter(|instance| instance.id != foreign).collect();
    assert!(ours.len() >= 2 && ours.iter().any(|one| one.instance_type == "m5.xlarge"), "{ours:?}");
    ours.iter().for_each(|instance| check_instance(&cluster, instance));
    let theirs = cluster.ec2.moto.instance(&foreign);
    assert!(!theirs.state.is_gone() && theirs.tags["owner"] == "somebody", "{theirs:?}");
    assert_eq!(cluster.ec2.proxy.calls("ImportKeyPair").len(), 1, "one key for all");
    check_places_and_costs(&cluster, &all, &ours);
    cluster.assert_decent();
    cluster.site.stop();
}

/// Somebody else's instance in the same account.
fn run_foreign(cluster: &Cluster) -> String {
    let answer = cluster.ec2.moto.ok(
        "RunInstances",
        &[
            ("ImageId", &cluster.ec2.image),
            ("MinCount", "1"),
            ("MaxCount", "1"),
            ("InstanceType", "t3.small"),
            ("SubnetId", &cluster.ec2.subnets[0]),
            ("TagSpecification.1.ResourceType", "instance"),
            ("TagSpecification.1.Tag.1.Key", "owner"),
            ("TagSpecification.1.Tag.1.Value", "somebody"),
        ],
    );
    answer.list("instancesSet")[0].at("instanceId").expect("made").to_owned()
}

/// What an instance was created with.
fn check_instance(cluster: &Cluster, instance: &Instance) {
    let type_name = if instance.instance_type == "t3.small" { "small" } else { "large" };
    let secret = &instance.tags["ArvadosInstanceSecret"];
    assert!(secret.len() == 40 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let names: BTreeSet<&str> = instance.tags.keys().map(String::as_str).collect();
    let expected = ["ArvadosIdleBehavior", "ArvadosInstanceSecret", MARK, "ArvadosInstanceType", "site"];
    assert_eq!(names, BTreeSet::from(expected));
    let of = |name: &str| instance.tags[name].as_str();
    assert_eq!((of("ArvadosInstanceType"), of("ArvadosIdleBehavior"), of("site")), (type_name, "run", "lab"));
    assert_eq!(
        (instance.image.as_str(), instance.http_tokens.as_deref()),
        (cluster.ec2.image.as_str(), Some("required"))
    );
    assert_eq!((&instance.public_address, &instance.lifecycle), (&None, &None));
    assert_eq!(instance.security_groups, std::slice::from_ref(&cluster.ec2.security_group));
    assert!(instance.subnet.as_ref().is_some_and(|subnet| cluster.ec2.subnets.contains(subnet)));
    let data = cluster.ec2.moto.user_data(&instance.id).expect("answers").expect("there is some");
    assert!(data.starts_with("#!/bin/sh\n") && data.contains(&format!("printf %s \"{secret}\"")), "{data}");
}

/// Each job ran on an instance that is large enough, and cost that one's price for as long as it took.
fn check_places_and_costs(cluster: &Cluster, all: &[String], ours: &[&Instance]) {
    let prices: BTreeMap<&str, f64> =
        ours.iter().map(|one| (one.id.as_str(), if one.instance_type == "t3.small" { SMALL } else { LARGE })).collect();
    for uuid in all {
        let detail = cluster.site.show(uuid);
        let attempt = &detail["attempts"][0];
        let price = prices[attempt["instance"].as_str().expect("an instance")];
        let cost = cost_of(attempt);
        assert!((cost - price * hours_of(attempt)).abs() < 1e-9, "{detail:#}");
        assert!((cost_of(&detail["container"]) - cost).abs() < 1e-9 && cost > 0.0, "{detail:#}");
        if detail["container"]["runtime_constraints"]["vcpus"] == 2 {
            assert!((price - LARGE).abs() < 1e-9, "{detail:#}");
        }
    }
}

fn cost_of(record: &serde_json::Value) -> f64 {
    record["cost"].as_f64().expect("a number")
}

/// From its assignment to its end.
fn hours_of(attempt: &serde_json::Value) -> f64 {
    let time = |name: &str| attempt[name].as_i64().expect("milliseconds");
    #[expect(clippy::cast_precision_loss, reason = "a short time")]
    let hours = (time("finished_at") - time("assigned_at")) as f64 / 3_600_000.0;
    hours
}

/// What an operator says of an instance stands in its tags, and a restart goes by them.
#[test]
fn behaviours_are_tags() {
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", "");
    cluster.site.start();
    let gate = cluster.site.folder().join("runs/gate");
    let job = cluster.site.submit_counted(&[], &format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display()));
    cluster.site.wait_state(&job[0], "Running");
    let id = cluster.live()[0].id.clone();
    let tag = |cluster: &Cluster| cluster.ec2.moto.instance(&id).tags["ArvadosIdleBehavior"].clone();
    for behavior in ["hold", "run", "hold"] {
        cluster.site.ok(&["instance", behavior, &id]);
        let ec2 = &cluster.ec2;
        cluster.site.wait_until(&format!("the tag says {behavior}"), |_| {
            ec2.moto.instance(&id).tags["ArvadosIdleBehavior"] == behavior
        });
    }
    cluster.site.kill_9();
    std::fs::write(&gate, b"").expect("written");
    cluster.site.start();
    cluster.site.wait_state(&job[0], "Complete");
    cluster.site.assert_once(&job);
    // Idle for longer than TimeoutIdle, and yet there: lists go on.
    let lists = cluster.ec2.proxy.calls("DescribeInstances").len();
    let _ = cluster.ec2.proxy.wait_for_finished("DescribeInstances", lists + 4);
    assert!(!cluster.ec2.moto.instance(&id).state.is_gone());
    assert_eq!(tag(&cluster), "hold");
    assert_eq!(cluster.ec2.moto.instance(&id).tags["site"], "lab", "tags are not lost when others are set");
    cluster.site.ok(&["instance", "drain", &id]);
    cluster.wait_until_nothing_is_left();
    assert_eq!(cluster.ec2.proxy.calls("RunInstances").len(), 1);
    cluster.assert_decent();
    cluster.site.stop();
}

/// A spot instance that EC2 takes away costs its job an attempt, which goes on elsewhere.
#[test]
fn spot_instances_come_and_are_taken_away() {
    let spot = "  spot: {ProviderType: t3.small, VCPUs: 1, RAM: 1GiB, IncludedScratch: 10GB, AddedScratch: 20GB, Price: 0.02, \
                Preemptible: true}\n";
    let mut cluster = Cluster::new("    TimeoutIdle: 1s\n", spot);
    let price = |zone: &str| Spot {
        instance_type: "t3.small".to_owned(),
        zone: format!("{}{zone}", cluster.ec2.moto.region()),
        price: "0.0071".to_owned(),
        timestamp: "2026-01-31T12:00:00.000Z".to_owned(),
    };
    cluster.ec2.proxy.spot_prices(vec![price("a"), price("b")]);
    cluster.site.start();
    let gate = cluster.site.folder().join("runs/gate");
    let job = cluster
        .site
        .submit_counted(&["--preemptible"], &format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display()));
    cluster.site.wait_state(&job[0], "Running");
    cluster.site.wait_until("the job has begun", |site| site.runs_of(&job[0]) == 1);
    let first = cluster.live().remove(0);
    assert_eq!(first.lifecycle.as_deref(), Some("spot"));
    let create = cluster.ec2.proxy.calls("RunInstances").remove(0);
    for (name, value) in [
        ("InstanceMarketOptions.MarketType", "spot"),
        ("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate"),
        ("InstanceMarketOptions.SpotOptions.MaxPrice", "0.02"),
        ("BlockDeviceMapping.1.DeviceName", "/dev/xvdt"),
        ("BlockDeviceMapping.1.Ebs.VolumeSize", "19"),
    ] {
        assert_eq!(create.parameter(name), Some(value), "{name}");
    }
    let asked = cluster.ec2.proxy.wait_for_finished("DescribeSpotPriceHistory", 1).remove(0);
    for (name, value) in [
        ("Filter.1.Name", "instance-type"),
        ("Filter.1.Value.1", "t3.small"),
        ("Filter.2.Name", "product-description"),
        ("Filter.2.Value.1", "Linux/UNIX"),
    ] {
        assert_eq!(asked.parameter(name), Some(value), "{:?}", asked.parameters);
    }
    assert_eq!(asked.parameters.keys().filter(|name| name.contains("Value")).count(), 2, "{:?}", asked.parameters);
    cluster.ec2.moto.terminate(&first.id);
    let uuid = job[0].clone();
    cluster.site.wait_until("a second attempt runs", |site| site.runs_of(&uuid) == 2);
    assert!(cluster.live().iter().all(|instance| instance.id != first.id));
    std::fs::write(&gate, b"").expect("written");
    cluster.site.wait_state(&job[0], "Complete");
    // The second attempt began after a look-up: at the price of its zone, with what its volume of 19 GiB costs.
    let last = cluster.site.show(&job[0])["attempts"][1].clone();
    let price = 0.0071 + 0.1 * 19.0 / 30.0 / 24.0;
    assert!((cost_of(&last) - price * hours_of(&last)).abs() < 1e-9, "{last:#}");
    cluster.wait_until_nothing_is_left();
    assert_eq!(cluster.ec2.proxy.calls("DescribeSpotPriceHistory").len(), 1, "once in an interval");
    cluster.assert_decent();
    cluster.site.stop();
}
