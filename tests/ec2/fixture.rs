//! A daemon, and EC2 for it.

use muster_ec2_cloud::{Call, Ec2Site, Instance, InstanceState, SiteOptions};
use muster_ssh_hosts::{ClientKey, client_key};

use crate::harness::Site;

pub(crate) const MARK: &str = "ArvadosInstanceSetID";

/// Lines of `CloudVMs`: machines here have no systemd, and tests do not want to wait.
const CLOUD: &str = "    BootProbeCommand: \"true\"\n    SyncInterval: 500ms\n    ResourceTags: {site: lab}\n";

/// The site comes last: what the daemon uses outlives it.
pub(crate) struct Cluster {
    pub(crate) site: Site,
    pub(crate) ec2: Ec2Site,
    key: ClientKey,
}

impl Cluster {
    /// `cloud`: further lines of `CloudVMs`, indented by four; `types`: of `InstanceTypes`, by two. The daemon is not started.
    pub(crate) fn new(cloud: &str, types: &str) -> Self {
        Self::with(SiteOptions::default(), cloud, types)
    }

    pub(crate) fn with(options: SiteOptions, cloud: &str, types: &str) -> Self {
        let key = client_key().expect("made");
        let ec2 = Ec2Site::with(options).expect("starts");
        let cluster = Self { site: Site::new(), ec2, key };
        cluster.configure(cloud, types);
        cluster
    }

    pub(crate) fn configure(&self, cloud: &str, types: &str) {
        self.site.configure(&self.ec2.config(&self.key.path(), &format!("{CLOUD}{cloud}"), types));
    }

    /// Instances that exist.
    pub(crate) fn live(&self) -> Vec<Instance> {
        self.ec2.moto.live()
    }

    /// Waits until EC2 has none of ours any more, whoever else's there are. The machines are gone with them.
    pub(crate) fn wait_until_nothing_is_left(&mut self) {
        let Self { site, ec2, .. } = self;
        site.wait_until("all instances are terminated", |_| {
            ec2.moto.live().iter().all(|instance| !instance.tags.contains_key(MARK))
        });
        for instance in ec2.moto.instances().iter().filter(|instance| instance.tags.contains_key(MARK)) {
            assert_eq!(instance.state, InstanceState::Terminated);
            ec2.machines.machine(&instance.id).wait_until_gone();
        }
        site.wait_until("none is shown", |site| site.ok(&["instance", "list"]).is_empty());
    }

    /// No create repeats another one's token, and nobody asked for what only somebody else may ask for.
    pub(crate) fn assert_decent(&self) {
        self.ec2.proxy.assert_fresh_client_tokens();
        let secrets: Vec<String> = self
            .ec2
            .moto
            .instances()
            .iter()
            .filter_map(|instance| instance.tags.get("ArvadosInstanceSecret").cloned())
            .collect();
        let log = self.site.log();
        assert!(secrets.iter().all(|secret| !log.contains(secret.as_str())), "a secret is in the log");
    }

    /// Creates so far: type and subnet of each.
    pub(crate) fn creates(&self) -> Vec<(String, String)> {
        let parameter = |call: &Call, name: &str| call.parameter(name).unwrap_or_default().to_owned();
        let calls = self.ec2.proxy.calls("RunInstances");
        calls
            .iter()
            .map(|call| (parameter(call, "InstanceType"), parameter(call, "NetworkInterface.1.SubnetId")))
            .collect()
    }

    /// Lines of the log that have all of these.
    pub(crate) fn lines(&self, parts: &[&str]) -> Vec<String> {
        let log = self.site.log();
        log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
    }
}
