//! The effective configuration as YAML, and the reference file (`etc/config.yml`), both made from the table of keys.

use serde_yaml::{Mapping, Value};

use super::keys::{KEYS, Kind};
use super::{CloudDriver, Config, DeployRunner, LogFormat, QueueDriver, Secret};
use crate::core::instance_type::{IdleLimit, InstanceType};
use crate::core::units::format_duration;

/// Stands for a secret that is set.
const MASKED: &str = "MASKED";

/// Every key with its value in force, in the order of the reference; secrets masked. In the plain form, so that it can be loaded.
pub(super) fn effective(config: &Config) -> Vec<(&'static str, Value)> {
    KEYS.iter().map(|info| (info.path, value_of(config, info.path))).collect()
}

fn masked(secret: &Secret) -> Value {
    if secret.is_empty() { "".into() } else { MASKED.into() }
}

fn count(number: usize) -> Value {
    u64::try_from(number).unwrap_or(u64::MAX).into()
}

fn span(duration: std::time::Duration) -> Value {
    format_duration(duration).into()
}

fn path_text(path: &std::path::Path) -> Value {
    path.to_string_lossy().into_owned().into()
}

fn texts(list: &[String]) -> Value {
    Value::Sequence(list.iter().map(|text| text.as_str().into()).collect())
}

fn value_of(config: &Config, path: &str) -> Value {
    match path.strip_prefix("Containers.CloudVMs.") {
        Some(name) => cloud_value(config, name),
        None => match path.strip_prefix("Muster.") {
            Some(name) => muster_value(config, name),
            None => general_value(config, path),
        },
    }
}

fn general_value(config: &Config, path: &str) -> Value {
    let containers = &config.containers;
    match path {
        "ClusterID" => config.cluster_id.as_str().into(),
        "SystemRootToken" => masked(&config.system_root_token),
        "ManagementToken" => masked(&config.management_token),
        "Services.Controller.ExternalURL" => config.controller_url.clone().unwrap_or_default().into(),
        "Services.DispatchCloud.InternalURLs" => {
            let url = |address: &String| (format!("http://{address}").into(), Value::Mapping(Mapping::new()));
            Value::Mapping(config.listen.iter().map(url).collect())
        }
        "TLS.Insecure" => config.tls_insecure.into(),
        "Containers.DispatchPrivateKey" => masked(&containers.dispatch_private_key),
        "Containers.StaleLockTimeout" => span(containers.stale_lock_timeout),
        "Containers.CrunchRunCommand" => containers.crunch_run_command.as_str().into(),
        "Containers.CrunchRunArgumentsList" => texts(&containers.crunch_run_arguments),
        "Containers.RuntimeEngine" => containers.runtime_engine.as_str().into(),
        "Containers.ReserveExtraRAM" => containers.reserve_extra_ram.into(),
        "Containers.LocalKeepBlobBuffersPerVCPU" => containers.local_keep_blob_buffers_per_vcpu.into(),
        "Containers.MaximumPriceFactor" => containers.maximum_price_factor.into(),
        // Its effect is in the instance types already.
        "Containers.PreemptiblePriceFactor" => 0.into(),
        _ => Value::Null,
    }
}

fn muster_value(config: &Config, name: &str) -> Value {
    let (queue, runner) = (&config.queue, &config.runner);
    match name {
        "StateDir" => path_text(&config.state_dir),
        "MaxWorkers" => count(config.max_workers),
        "Queue.Driver" => match queue.driver {
            QueueDriver::Local => "local".into(),
            QueueDriver::Arvados => "arvados".into(),
        },
        "Queue.MaxQueued" => count(queue.max_queued),
        "Queue.MaxAttempts" => queue.max_attempts.into(),
        "Queue.RetainFinished" => span(queue.retain_finished.unwrap_or_default()),
        "Queue.MaxLogBytes" => queue.max_log_bytes.into(),
        "Queue.MaxOutputBytes" => queue.max_output_bytes.into(),
        "Queue.TimeoutCollect" => span(queue.timeout_collect),
        "Runner.User" => runner.user.as_str().into(),
        "Runner.Engine" => runner.engine.as_str().into(),
        "Runner.EngineArguments" => texts(&runner.engine_arguments),
        "Runner.Binaries" => {
            let entries = runner.binaries.iter().map(|(name, path)| (name.as_str().into(), path_text(path)));
            Value::Mapping(entries.collect())
        }
        "Runner.SelfDestructAfter" => span(runner.self_destruct_after.unwrap_or_default()),
        "Log.File" => config.log.file.as_deref().map_or_else(|| "".into(), path_text),
        "Log.Level" => config.log.level.as_str().into(),
        "Log.Format" => match config.log.format {
            LogFormat::Logfmt => "logfmt".into(),
            LogFormat::Json => "json".into(),
        },
        "Metrics.Prefix" => config.metrics_prefix.as_str().into(),
        _ => Value::Null,
    }
}

fn cloud_value(config: &Config, name: &str) -> Value {
    let cloud = &config.cloud;
    match name {
        "Enable" => true.into(),
        "Driver" => match cloud.driver {
            CloudDriver::Loopback => "loopback".into(),
            CloudDriver::Static => "static".into(),
            CloudDriver::Exec => "exec".into(),
            CloudDriver::Ec2 => "ec2".into(),
            CloudDriver::Azure => "azure".into(),
        },
        // No secrets.
        "DriverParameters" if cloud.static_hosts.is_some() => {
            serde_yaml::to_value(&cloud.driver_parameters.0).unwrap_or(Value::Null)
        }
        // May hold secrets that only the driver knows as such.
        "DriverParameters" => {
            let names = cloud.driver_parameters.0.keys();
            Value::Mapping(names.map(|name| (name.as_str().into(), MASKED.into())).collect())
        }
        "ImageID" => cloud.image_id.as_str().into(),
        "SSHPort" => cloud.ssh_port.as_str().into(),
        "PollInterval" => span(cloud.poll_interval),
        "BootProbeCommand" => cloud.boot_probe_command.as_str().into(),
        "ProbeInterval" => span(cloud.probe_interval),
        "MaxProbesPerSecond" => cloud.max_probes_per_second.unwrap_or(0.0).into(),
        "TimeoutSignal" => span(cloud.timeout_signal),
        "TimeoutTERM" => span(cloud.timeout_term),
        "TimeoutStaleRunLock" => span(cloud.timeout_stale_run_lock),
        "MaxCloudOpsPerSecond" => count(cloud.max_cloud_ops_per_second),
        "MaxConcurrentInstanceCreateOps" => count(cloud.max_concurrent_instance_create_ops),
        "MaxInstances" => count(cloud.max_instances),
        "MaxRunningContainersPerInstance" => count(cloud.max_running_containers_per_instance),
        "InitialQuotaEstimate" => count(cloud.initial_quota_estimate),
        "SupervisorFraction" => cloud.supervisor_fraction.into(),
        "SyncInterval" => span(cloud.sync_interval),
        "TimeoutIdle" => span(cloud.timeout_idle),
        "TimeoutBooting" => span(cloud.timeout_booting),
        "TimeoutProbe" => span(cloud.timeout_probe),
        "TimeoutShutdown" => span(cloud.timeout_shutdown),
        "InstanceInitCommand" => cloud.instance_init_command.as_str().into(),
        "DeployRunnerBinary" => match &cloud.deploy_runner_binary {
            DeployRunner::Default => "/proc/self/exe".into(),
            DeployRunner::PreInstalled => "".into(),
            DeployRunner::File(path) => path_text(path),
        },
        "DeployRunnerDirectory" => cloud.deploy_runner_directory.clone().unwrap_or_default().into(),
        "DeployPublicKey" => cloud.deploy_public_key.into(),
        "ResourceTags" => {
            let tags = cloud.resource_tags.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into()));
            Value::Mapping(tags.collect())
        }
        "TagKeyPrefix" => cloud.tag_key_prefix.as_str().into(),
        _ => Value::Null,
    }
}

pub(super) fn type_value(one: &InstanceType) -> Value {
    let mut fields = Mapping::new();
    let mut set = |name: &str, value: Value| drop(fields.insert(name.into(), value));
    set("ProviderType", one.provider_type.as_str().into());
    set("VCPUs", one.vcpus.into());
    set("RAM", one.ram.into());
    set("IncludedScratch", one.included_scratch.into());
    set("AddedScratch", one.added_scratch.into());
    set("Price", one.price.into());
    set("Preemptible", one.preemptible.into());
    match one.timeout_idle {
        None => {}
        Some(IdleLimit::Never) => set("TimeoutIdle", "never".into()),
        Some(IdleLimit::After(limit)) => set("TimeoutIdle", span(limit)),
    }
    if one.gpu.device_count > 0 || !one.gpu.stack.is_empty() {
        let mut gpu = Mapping::new();
        gpu.insert("Stack".into(), one.gpu.stack.as_str().into());
        gpu.insert("DriverVersion".into(), one.gpu.driver_version.as_str().into());
        gpu.insert("HardwareTarget".into(), one.gpu.hardware_target.as_str().into());
        gpu.insert("DeviceCount".into(), one.gpu.device_count.into());
        gpu.insert("VRAM".into(), one.gpu.vram.into());
        set("GPU", Value::Mapping(gpu));
    }
    Value::Mapping(fields)
}

/// `muster check --dump`: the effective configuration, with every default filled in and secrets masked.
pub fn dump(config: &Config) -> String {
    let mut root = Mapping::new();
    for (path, value) in effective(config) {
        insert(&mut root, path, value);
    }
    let types = config.instance_types.values().map(|one| (one.name.as_str().into(), type_value(one)));
    root.insert("InstanceTypes".into(), Value::Mapping(types.collect()));
    serde_yaml::to_string(&root).unwrap_or_else(|error| format!("# cannot be written: {error}\n"))
}

fn insert(root: &mut Mapping, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(root.insert(path.into(), value)),
        Some((first, rest)) => {
            let below = root.entry(first.into()).or_insert_with(|| Value::Mapping(Mapping::new()));
            if let Value::Mapping(below) = below {
                insert(below, rest, value);
            }
        }
    }
}

/// Commented out twice, so that the file is one configuration when its comment signs are taken away.
const STATIC_EXAMPLE: &str = "
# # Hosts you already have, reached by SSH. `muster check` shows the public key that they must accept;
# # `muster status` says why one cannot be used.
# # Containers:
# #   CloudVMs:
# #     Driver: static
# #     DriverParameters:
# #       User: muster              # login name, default root; a host may have its own, as of the keys up to Hosts
# #       UseSudo: true             # run commands with sudo where the user is not root; false: without root
# #       KnownHosts: /etc/ssh/ssh_known_hosts   # for hosts without a HostKey; names may be hashed
# #       TrustOnFirstUse: false    # true: take the key that a host shows first, and no other after that
# #       StateFile: \"\"             # which hosts are taken; default StateDir/static-hosts.json
# #       Hosts:
# #         - {Name: node1, Address: \"10.0.0.5:22\", InstanceType: big, HostKey: \"ssh-ed25519 AAAA…\"}
# #         - {Name: node2, Address: node2.lab, InstanceType: big}
# # InstanceTypes:
# #   # What a host of the type has at least: with fewer CPUs, or less than 80 % of the RAM, it is not used.
# #   # Idle hosts cost nothing: never keeps them taken, and saves doing the same again for the next job.
# #   big: {VCPUs: 16, RAM: 64GiB, IncludedScratch: 500GB, TimeoutIdle: never}
";

/// Of the drivers that create instances.
const CLOUD_EXAMPLES: &str = r#"
# # Amazon EC2. `muster cloudtest` tries it with one instance.
# # Containers:
# #   CloudVMs:
# #     Driver: ec2
# #     ImageID: ami-0123456789abcdef0   # AdminUsername can log in there and use sudo without a password
# #     DriverParameters:
# #       Region: us-east-1
# #       AccessKeyID: ""           # with SecretAccessKey; empty: environment, ~/.aws, or the role of this machine
# #       SecretAccessKey: ""
# #       SubnetID: ""              # one, or a list: the next is tried when one is full
# #       SecurityGroupIDs: []      # the dispatcher must reach the private address on SSHPort
# #       AdminUsername: crunch
# #       IAMInstanceProfile: ""    # name of a profile for the instances
# #       EBSVolumeType: gp2        # of the volume that a type's AddedScratch asks for, as /dev/xvdt
# #       EBSPrice: 0.10            # of that, per GiB and month: for estimates of cost
# #       SpotPriceUpdateInterval: 24h   # of preemptible types; 0: prices are not looked up
# #       InstanceTypeQuotaGroups: {im: standard}   # prefix of a type to the quota that it counts for, beside the usual ones
# # InstanceTypes:
# #   # Name in the cloud, what it has, and its price for an hour.
# #   small: {ProviderType: m6i.large, VCPUs: 2, RAM: 8GiB, AddedScratch: 50GB, Price: 0.096}
# #   small.spot: {ProviderType: m6i.large, VCPUs: 2, RAM: 8GiB, AddedScratch: 50GB, Price: 0.096, Preemptible: true}

# # Any other cloud, through a program of yours: etc/examples/exec-cloud has two.
# # Containers:
# #   CloudVMs:
# #     Driver: exec
# #     DriverParameters:
# #       Program: /usr/local/bin/my-cloud
# #       Timeout: 5m               # of one operation (of a list 1m55s at most); then the program and its children are killed
# #       Parameters: {}            # given to the program, as JSON on its standard input
"#;

/// The reference file: every key with its meaning and default, commented out, so that as installed it changes nothing.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration of Muster: every key with its default, commented out. `muster check` finds what is wrong in it.\n\
         # An Arvados configuration (Clusters: {ID: {…}}) is read as well.\n\
         # Sizes: 512MiB, 1.5GiB, 10GB. Durations: 90s, 1m30s, 2h, 30d.\n",
    );
    let mut open: Vec<&str> = Vec::new();
    for info in KEYS {
        let parts: Vec<&str> = info.path.split('.').collect();
        let (name, sections) = parts.split_last().map_or(("", &[][..]), |(name, sections)| (*name, sections));
        let shared = open.iter().zip(sections).take_while(|(one, other)| one == other).count();
        open.truncate(shared);
        for section in &sections[shared..] {
            if open.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("# {}{section}:\n", "  ".repeat(open.len())));
            open.push(section);
        }
        let indent = "  ".repeat(open.len());
        let default = match info.kind {
            Kind::Texts => "[]".to_owned(),
            Kind::TextMap | Kind::Free => "{}".to_owned(),
            // Nothing = the default that the meaning describes.
            Kind::Count | Kind::Number | Kind::Size if info.default.is_empty() => String::new(),
            _ if info.default.is_empty() => "\"\"".to_owned(),
            _ => info.default.to_owned(),
        };
        text.push_str(&format!(
            "# {indent}# {}\n{}\n",
            info.meaning,
            format!("# {indent}{name}: {default}").trim_end()
        ));
    }
    text.push_str(
        "\n# InstanceTypes:\n#   # One entry a type; with the loopback driver at most one: this host, by default with all it has.\n\
         #   localhost: {VCPUs: 4, RAM: 16GiB, IncludedScratch: 100GB, Price: 0, TimeoutIdle: never}\n",
    );
    text.push_str(STATIC_EXAMPLE);
    text.push_str(CLOUD_EXAMPLES);
    text
}
