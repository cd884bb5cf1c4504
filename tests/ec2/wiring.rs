//! What the configuration says reaches EC2 and the daemon's own answers: every parameter of the driver, its series, credentials of a role.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use muster_ec2_cloud::{Credentials, Fault, Metadata, Rule, Spot};

use crate::fixture::Cluster;

const GATED: &str = "    TimeoutIdle: 1s\n    ProbeInterval: 100ms\n";

/// Rewrites the configuration file.
fn rewrite(cluster: &Cluster, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(cluster.site.config()).expect("there");
    std::fs::write(cluster.site.config(), change(text)).expect("written");
}

/// Adds to `DriverParameters`.
fn add_parameters(cluster: &Cluster, more: &str) {
    rewrite(cluster, |text| {
        assert_eq!(text.matches("DriverParameters: {").count(), 1);
        text.replace("DriverParameters: {", &format!("DriverParameters: {{{more}, "))
    });
}

/// The daemon's series, one to a line.
fn series(cluster: &Cluster) -> String {
    let log = cluster.site.log();
    let line = log.lines().rev().find(|line| line.contains("muster daemon ready")).expect("it is ready");
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("Address=")).expect("named");
    let token = std::fs::read_to_string(cluster.site.state_dir().join("management-token")).expect("made");
    let mut stream = TcpStream::connect(address).expect("listens");
    let token = token.trim();
    let head = format!(
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

fn assert_series(cluster: &Cluster, expected: &[(&str, &str, u32)]) {
    let found = series(cluster);
    for (name, labels, value) in expected {
        let line = format!("arvados_dispatchcloud_ec2_{name}{{{labels}}} {value}");
        assert!(found.lines().any(|one| one == line), "{line}: {found}");
    }
}

/// EBSVolumeType, EBSPrice, IAMInstanceProfile, SpotPriceUpdateInterval, and the series, of one spot instance with scratch.
#[test]
fn parameters_and_series() {
    let spot = "  spot: {ProviderType: t3.small, VCPUs: 1, RAM: 1GiB, IncludedScratch: 10GB, AddedScratch: 20GB, Price: 0.02, \
                Preemptible: true}\n";
    let mut cluster = Cluster::new(GATED, spot);
    // 0.01 for a GiB and hour.
    let parameters = "EBSVolumeType: gp3, EBSPrice: 7.2, IAMInstanceProfile: worker, SpotPriceUpdateInterval: 1s";
    add_parameters(&cluster, parameters);
    cluster.ec2.moto.create_instance_profile("worker");
    let price = |zone: &str| Spot {
        instance_type: "t3.small".to_owned(),
        zone: format!("{}{zone}", cluster.ec2.moto.region()),
        price: "0.0071".to_owned(),
        timestamp: "2020-01-31T12:00:00.000Z".to_owned(),
    };
    cluster.ec2.proxy.spot_prices(vec![price("a"), price("b")]);
    let [full, other] = [cluster.ec2.subnets[0].clone(), cluster.ec2.subnets[1].clone()];
    let no_address = Fault::error("InsufficientFreeAddressesInSubnet", "There are not enough free addresses.");
    cluster.ec2.proxy.rule(Rule::on("RunInstances", no_address).with("SubnetId", &full));
    cluster.site.start();
    let [of_full, of_other] = [&full, &other].map(|subnet| format!("subnet_id=\"{subnet}\""));
    let starts = |subnet: &str, success: u32| format!("{subnet},success=\"{success}\"");
    let by_outcome = [starts(&of_full, 0), starts(&of_full, 1), starts(&of_other, 0), starts(&of_other, 1)];
    let [full_0, full_1, other_0, other_1] = by_outcome.each_ref().map(String::as_str);
    let started = |counts: [u32; 4]| {
        [full_0, full_1, other_0, other_1]
            .into_iter()
            .zip(counts)
            .map(|(labels, count)| ("instance_starts_total", labels, count))
    };
    let shown = |count: u32| [("instances", of_full.as_str(), 0), ("instances", of_other.as_str(), count)];
    assert_series(
        &cluster,
        &started([0; 4]).chain(shown(0)).chain([("instances", "subnet_id=\"\"", 0)]).collect::<Vec<_>>(),
    );

    let gate = cluster.site.folder().join("runs/gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let job = cluster.site.submit_counted(&["--preemptible"], &script);
    cluster.site.wait_state(&job[0], "Running");
    let instance = cluster.live().remove(0);
    assert_eq!(instance.profile.as_deref(), Some("worker"));
    assert_eq!(cluster.ec2.moto.volumes(&instance.id)["/dev/xvdt"], (19, "gp3".to_owned(), true));
    // Again and again, as it gets too old each second; the runner is told what it costs, with 19 GiB.
    let _ = cluster.ec2.proxy.wait_for_finished("DescribeSpotPriceHistory", 3);
    let machine = cluster.ec2.machines.machine(&instance.id);
    let told = || {
        let find = "cat /run/lock/crunch-run-prices.json || cat /tmp/muster-runner-$(id -u)/crunch-run-prices.json";
        let output = machine.with_host(|host| host.command_inside("sh").args(["-c", find]).output());
        String::from_utf8_lossy(&output.expect("runs").stdout).into_owned()
    };
    cluster.site.wait_until("the runner knows the price", |_| told().contains("StartTime"));
    let told: serde_json::Value = serde_json::from_str(&told()).expect("JSON");
    let price = told[0]["Price"].as_f64().expect("a price");
    assert!((price - 0.1971).abs() < 1e-9 && told[0]["StartTime"] == "2020-01-31T12:00:00Z", "{told}");
    assert_series(&cluster, &started([1, 0, 0, 1]).chain(shown(1)).collect::<Vec<_>>());

    std::fs::write(&gate, b"").expect("written");
    cluster.site.wait_state(&job[0], "Complete");
    cluster.wait_until_nothing_is_left();
    // The next list after that.
    let lists = cluster.ec2.proxy.calls("DescribeInstances").len();
    let _ = cluster.ec2.proxy.wait_for_finished("DescribeInstances", lists + 2);
    assert_series(&cluster, &started([1, 0, 0, 1]).chain(shown(0)).collect::<Vec<_>>());
    cluster.assert_decent();
    cluster.site.stop();
}

/// By default types t3, r5 and m5 share one quota. Here t3 and r5 have one of their own: when it is used up, only m5 can be taken.
#[test]
fn quota_groups() {
    let types = "  roomy: {ProviderType: r5.large, VCPUs: 1, RAM: 1GiB, IncludedScratch: 10GB, Price: 0.025}\n  \
                 medium: {ProviderType: m5.large, VCPUs: 1, RAM: 1GiB, IncludedScratch: 10GB, Price: 0.03}\n";
    let mut cluster = Cluster::new(GATED, types);
    add_parameters(&cluster, "InstanceTypeQuotaGroups: {t: tiny, r: tiny}");
    let none = Fault::error("VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit.");
    cluster.ec2.proxy.rule(Rule::on("RunInstances", none).with("InstanceType", "t3.small"));
    cluster.site.start();
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&job[0], "Complete");
    let types: Vec<String> = cluster.creates().into_iter().map(|(name, _)| name).collect();
    assert_eq!(types, ["t3.small", "m5.large"]);
    cluster.wait_until_nothing_is_left();
    cluster.site.stop();
}

/// A look-up of prices that fails is said, and everything else goes on.
#[test]
fn prices_that_cannot_be_had() {
    let spot = "  spot: {ProviderType: t3.small, VCPUs: 1, RAM: 1GiB, IncludedScratch: 10GB, Price: 0.02, Preemptible: true}\n";
    let mut cluster = Cluster::new(GATED, spot);
    let rule = cluster.ec2.proxy.rule(Rule::on("DescribeSpotPriceHistory", Fault::error("InternalError", "An error")));
    cluster.site.start();
    let gate = cluster.site.folder().join("runs/gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let job = cluster.site.submit_counted(&["--preemptible"], &script);
    cluster.site.wait_state(&job[0], "Running");
    let said = ["error retrieving spot instance prices", "InternalError"];
    cluster.site.wait_until("it is said", |site| site.has_logged(&said));
    std::fs::write(&gate, b"").expect("written");
    cluster.site.wait_state(&job[0], "Complete");
    cluster.wait_until_nothing_is_left();
    assert_eq!((cluster.lines(&said).len(), rule.hits()), (1, 1), "it is not tried at every list");
    cluster.site.stop();
}

/// The instance on which the daemon runs has a role; its credentials are renewed before they end.
#[test]
fn credentials_of_a_role() {
    let mut cluster = Cluster::new(GATED, "");
    let keys = [("AccessKeyID", Credentials::STATIC.id), ("SecretAccessKey", Credentials::STATIC.secret)];
    rewrite(&cluster, |text| {
        let without = text.replace(&format!("{}: {}, ", keys[0].0, keys[0].1), "");
        without.replace(&format!("{}: {:?}, ", keys[1].0, keys[1].1), "")
    });
    let configured = std::fs::read_to_string(cluster.site.config()).expect("there");
    assert!(!configured.contains("AccessKey"), "{configured}");
    // They end so soon that new ones are looked for ten seconds later.
    let metadata = Metadata::start(Credentials::ROLE, Duration::from_secs(240)).expect("starts");
    let url = metadata.url();
    let home = cluster.site.folder().to_str().expect("text").to_owned();
    cluster.site.start_with(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str()), ("HOME", &home)]);
    let _ = cluster.ec2.proxy.wait_for_finished("DescribeInstances", 1);
    metadata.renew(Credentials::RENEWED, Duration::from_secs(3600));
    let tokens = |cluster: &Cluster| {
        let mut calls = cluster.ec2.proxy.calls("*");
        // One that was under way when the daemon stopped has no answer.
        calls.retain(|call| call.finished);
        assert!(calls.iter().all(|call| call.status == Some(200)), "{calls:#?}");
        let mut tokens: Vec<_> = calls.into_iter().map(|call| call.token).collect();
        tokens.dedup();
        tokens
    };
    let both = [Credentials::ROLE, Credentials::RENEWED].map(|one| one.token.map(str::to_owned));
    let ec2 = &cluster.ec2;
    cluster.site.wait_until("a call has the new token", |_| {
        ec2.proxy.calls("*").last().is_some_and(|call| call.token == both[1] && call.finished)
    });
    let job = cluster.site.submit_counted(&[], "true");
    cluster.site.wait_state(&job[0], "Complete");
    cluster.wait_until_nothing_is_left();
    cluster.site.stop();
    assert_eq!(tokens(&cluster), both);
    cluster.assert_decent();
    let log = cluster.site.log();
    for secret in
        [Credentials::ROLE, Credentials::RENEWED].iter().flat_map(|one| [Some(one.secret), one.token]).flatten()
    {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}
