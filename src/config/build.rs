//! A checked [`Config`] from the values of its keys: computed defaults, what must fit together, and paths made absolute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::Faults;
use super::files::read_key;
use super::load::{Cluster, LoadOptions, choose_cluster};
use super::values::Values;
use super::yaml::Node;
use super::{
    CloudConfig, CloudDriver, Config, ConfigSource, ContainersConfig, DeployRunner, DriverParameters, LogConfig,
    LogFormat, QueueConfig, QueueDriver, Secret, types,
};
use crate::core::ids::TypeName;
use crate::core::instance_type::InstanceType;
use crate::core::runner_file::is_plain_path;
use crate::core::settings::LOG_BYTES_MAX;

const BOOT_PROBE_OF_CLOUDS: &str = "systemctl is-system-running";

/// Everything is looked at, whatever is wrong before it.
pub(super) fn build(
    file: Option<&Path>,
    root: Option<&Node>,
    options: &LoadOptions<'_>,
    faults: &mut Faults,
) -> Option<Config> {
    let cluster = choose_cluster(root, options.cluster.as_deref(), faults)?;
    let values = Values::read(cluster.node, &cluster.prefix, faults);
    let mut builder = Builder { file, values: &values, cluster: &cluster, options, faults };
    let cluster_id = builder.cluster_id();
    let driver = builder.driver();
    let queue = builder.queue();
    let local = queue.driver == QueueDriver::Local;
    let instance_types = builder.instance_types(driver);
    let state_dir = builder.state_dir();
    let cloud = builder.cloud(driver, &state_dir, &instance_types);
    Some(Config {
        source: file.map_or(ConfigSource::BuiltIn, |path| ConfigSource::File(path.to_owned())),
        cluster_id,
        system_root_token: builder.token("SystemRootToken"),
        management_token: builder.token("ManagementToken"),
        listen: builder.listen(),
        controller_url: Some(values.text("Services.Controller.ExternalURL")).filter(|url| !url.is_empty()),
        tls_insecure: values.flag("TLS.Insecure"),
        state_dir,
        max_workers: builder.at_least_one("Muster.MaxWorkers"),
        runner: builder.runner(driver, local),
        log: builder.log(),
        metrics_prefix: builder.metrics_prefix(),
        containers: builder.containers(local),
        cloud,
        queue,
        instance_types,
    })
}

pub(super) struct Builder<'a, 'o> {
    pub(super) file: Option<&'a Path>,
    pub(super) values: &'a Values,
    pub(super) cluster: &'a Cluster<'a>,
    options: &'a LoadOptions<'o>,
    pub(super) faults: &'a mut Faults,
}

impl Builder<'_, '_> {
    pub(super) fn error(&mut self, path: &str, message: impl Into<String>) {
        let key = format!("{}{path}", self.values.prefix);
        self.faults.error(self.values.mark(path), &key, message);
    }

    pub(super) fn path(&self, text: &str) -> PathBuf {
        absolute(self.file, text)
    }

    fn cluster_id(&mut self) -> String {
        let id = self.cluster.id.clone().unwrap_or_else(|| self.values.text("ClusterID"));
        if let Some(wanted) = self.options.cluster.as_ref().filter(|wanted| **wanted != id) {
            self.error("ClusterID", format!("there is no cluster {wanted:?}, but {id}"));
        }
        if id.len() != 5 || !id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()) {
            let message = format!("{id:?}: cluster ID should be 5 lowercase alphanumeric characters");
            self.error("ClusterID", message);
        }
        id
    }

    fn token(&mut self, path: &str) -> Secret {
        let token = self.values.text(path);
        let key = format!("{}{path}", self.values.prefix);
        let mark = self.values.mark(path);
        if !token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            self.error(path, "unacceptable characters in token (only a-z, A-Z, 0-9 are acceptable)");
        } else if token.is_empty() && self.cluster.arvados_form {
            self.faults.warn(mark, &key, "secret token is not set (use 32+ random characters from a-z, A-Z, 0-9)");
        } else if !token.is_empty() && token.len() < 32 {
            self.faults.warn(mark, &key, "token is too short (should be at least 32 characters)");
        }
        Secret::new(&token)
    }

    pub(super) fn one_of<T: Copy>(&mut self, path: &str, choices: &[(&str, T)], default: T) -> T {
        self.one_of_named("unacceptable value", path, choices, default)
    }

    /// `fault` is what any other value is called.
    fn one_of_named<T: Copy>(&mut self, fault: &str, path: &str, choices: &[(&str, T)], default: T) -> T {
        let text = self.values.text(path);
        if text.is_empty() {
            return default;
        }
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return *value;
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let near = super::fault::nearest(&text, names.iter().copied());
        let hint = near.map(|name| format!(" (perhaps you meant {name}?)")).unwrap_or_default();
        self.error(path, format!("{fault} {text:?}: must be one of {}{hint}", names.join(", ")));
        default
    }

    fn driver(&mut self) -> CloudDriver {
        let choices = [
            ("loopback", CloudDriver::Loopback),
            ("static", CloudDriver::Static),
            ("exec", CloudDriver::Exec),
            ("ec2", CloudDriver::Ec2),
            ("azure", CloudDriver::Azure),
        ];
        let default = if self.cluster.arvados_form { CloudDriver::Ec2 } else { CloudDriver::Loopback };
        let path = "Containers.CloudVMs.Driver";
        let driver = self.one_of_named("unsupported cloud driver", path, &choices, default);
        let text = self.values.text(path);
        // Of an unknown one the parameters are not judged: this one reads none.
        if text.is_empty() || choices.iter().any(|(name, _)| *name == text) { driver } else { CloudDriver::Azure }
    }

    fn queue(&mut self) -> QueueConfig {
        let choices = [("local", QueueDriver::Local), ("arvados", QueueDriver::Arvados)];
        let with_api = !self.values.text("Services.Controller.ExternalURL").is_empty();
        let default = if with_api { QueueDriver::Arvados } else { QueueDriver::Local };
        let driver = self.one_of("Muster.Queue.Driver", &choices, default);
        let retain = self.values.duration("Muster.Queue.RetainFinished");
        let log_bytes = "Muster.Queue.MaxLogBytes";
        let bytes = |path| u64::try_from(self.values.bytes(path)).unwrap_or(0);
        let (max_log_bytes, max_output_bytes) = (bytes(log_bytes), bytes("Muster.Queue.MaxOutputBytes"));
        if max_log_bytes > LOG_BYTES_MAX {
            self.error(log_bytes, format!("at most {} GiB", LOG_BYTES_MAX >> 30));
        }
        QueueConfig {
            driver,
            max_queued: self.values.count("Muster.Queue.MaxQueued"),
            max_log_bytes,
            max_output_bytes,
            max_attempts: u32::try_from(self.at_least_one("Muster.Queue.MaxAttempts")).unwrap_or(u32::MAX),
            retain_finished: (!retain.is_zero()).then_some(retain),
            timeout_collect: self.values.duration("Muster.Queue.TimeoutCollect"),
        }
    }

    fn at_least_one(&mut self, path: &str) -> usize {
        let count = self.values.count(path);
        if count == 0 {
            self.error(path, "must be at least 1");
        }
        count.max(1)
    }

    fn state_dir(&mut self) -> PathBuf {
        let text = self.values.text("Muster.StateDir");
        if !text.is_empty() {
            return self.path(&text);
        }
        if self.options.host.is_root {
            return "/var/lib/muster".into();
        }
        let variable = |name| (self.options.env)(name).filter(|text| text.starts_with('/')).map(PathBuf::from);
        match (variable("XDG_STATE_HOME"), variable("HOME")) {
            (Some(state), _) => state.join("muster"),
            (None, Some(home)) => home.join(".local/state/muster"),
            (None, None) => {
                self.error("Muster.StateDir", "neither XDG_STATE_HOME nor HOME is set: set this key");
                PathBuf::new()
            }
        }
    }

    fn listen(&mut self) -> Vec<String> {
        let root = self.cluster.node;
        let urls = root.and_then(|root| super::values::find(root, "Services.DispatchCloud.InternalURLs"));
        let mut addresses = Vec::new();
        for (key, node) in urls.map(Node::entries).unwrap_or_default() {
            let listen = node.get("ListenURL").and_then(|node| super::values::text_of(node).ok());
            let url = listen.filter(|url| !url.is_empty()).unwrap_or(&key.name);
            match host_and_port(url) {
                Ok(address) => addresses.push(address),
                Err(message) => {
                    let path = format!("{}Services.DispatchCloud.InternalURLs", self.values.prefix);
                    self.faults.error(Some(key.mark), &path, format!("{url:?}: {message}"));
                }
            }
        }
        if addresses.is_empty() { vec!["127.0.0.1:9006".to_owned()] } else { addresses }
    }

    /// Checked here as far as that can be done: the rest is on the workers (spec 62 §3).
    fn runner_directory(&mut self) -> Option<String> {
        let key = "Containers.CloudVMs.DeployRunnerDirectory";
        let directory = self.values.text(key);
        if !directory.is_empty() && !is_plain_path(&directory) {
            let message = format!(
                "{directory:?} must be an absolute path of letters, digits and . _ - / without .. (a directory on the workers)"
            );
            self.error(key, message);
        }
        (!directory.is_empty()).then_some(directory)
    }

    fn log(&mut self) -> LogConfig {
        let file = self.values.text("Muster.Log.File");
        let levels = ["error", "warn", "info", "debug", "trace"].map(|name| (name, name));
        let formats = [("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)];
        LogConfig {
            file: (!file.is_empty()).then(|| self.path(&file)),
            level: self.one_of("Muster.Log.Level", &levels, "info").to_owned(),
            format: self.one_of("Muster.Log.Format", &formats, LogFormat::Logfmt),
        }
    }

    fn metrics_prefix(&mut self) -> String {
        let prefix = self.values.text("Muster.Metrics.Prefix");
        let first = prefix.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !first || !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            self.error(
                "Muster.Metrics.Prefix",
                format!("{prefix:?} is no metric name: letters, digits and _, a letter first"),
            );
        }
        prefix
    }

    fn containers(&mut self, local: bool) -> ContainersConfig {
        let values = self.values;
        let reserve = "Containers.ReserveExtraRAM";
        let buffers = "Containers.LocalKeepBlobBuffersPerVCPU";
        let default_reserve = if local { 0 } else { 550 << 20 };
        let count = i64::try_from(values.count(buffers)).unwrap_or(i64::MAX);
        ContainersConfig {
            dispatch_private_key: self.private_key(),
            stale_lock_timeout: values.duration("Containers.StaleLockTimeout"),
            crunch_run_command: values.text("Containers.CrunchRunCommand"),
            crunch_run_arguments: values.texts("Containers.CrunchRunArgumentsList"),
            runtime_engine: values.text("Containers.RuntimeEngine"),
            reserve_extra_ram: if values.is_set(reserve) { values.bytes(reserve) } else { default_reserve },
            local_keep_blob_buffers_per_vcpu: if values.is_set(buffers) { count } else { i64::from(!local) },
            maximum_price_factor: values.number("Containers.MaximumPriceFactor"),
        }
    }

    fn private_key(&mut self) -> Secret {
        let path = "Containers.DispatchPrivateKey";
        let text = self.values.text(path);
        let (key, origin) = match text.strip_prefix("file://") {
            None if text.is_empty() => return Secret::default(),
            None => (text, String::new()),
            Some(file) => match read_key(Path::new(file)) {
                Ok(key) => (key, format!("{file}: ")),
                Err(why) => {
                    self.error(path, format!("cannot read {file}: {why}"));
                    return Secret::default();
                }
            },
        };
        if let Some(fault) = (self.options.private_key_fault)(&key) {
            // The words of spec 60 §3.2, which name the key by themselves.
            let message = format!("error parsing configured {path}: {origin}{fault}");
            self.faults.error(self.values.mark(path), "", message);
        }
        Secret::new(&key)
    }

    fn cloud(
        &mut self,
        driver: CloudDriver,
        state_dir: &Path,
        types: &BTreeMap<TypeName, Arc<InstanceType>>,
    ) -> CloudConfig {
        let static_hosts = self.static_hosts(driver, state_dir, types);
        let (exec, ec2) = (self.exec(driver), self.ec2(driver));
        let values = self.values;
        let at = |name: &str| format!("Containers.CloudVMs.{name}");
        let count = |name: &str| values.count(&at(name));
        let duration = |name: &str| values.duration(&at(name));
        let text = |name: &str| values.text(&at(name));
        let boot_probe = text("BootProbeCommand");
        let is_cloud = matches!(driver, CloudDriver::Ec2 | CloudDriver::Azure);
        let default_probe = if is_cloud { BOOT_PROBE_OF_CLOUDS } else { "true" };
        let set_probe = values.is_set(&at("BootProbeCommand"));
        let probes = values.number(&at("MaxProbesPerSecond"));
        CloudConfig {
            driver,
            driver_parameters: DriverParameters(values.free(&at("DriverParameters"))),
            static_hosts,
            exec,
            ec2,
            image_id: text("ImageID"),
            ssh_port: Some(text("SSHPort")).filter(|port| !port.is_empty()).unwrap_or_else(|| "ssh".to_owned()),
            poll_interval: duration("PollInterval"),
            boot_probe_command: match (set_probe, boot_probe.is_empty()) {
                (true, true) => "true".to_owned(),
                (true, false) => boot_probe,
                (false, _) => default_probe.to_owned(),
            },
            probe_interval: duration("ProbeInterval"),
            max_probes_per_second: (probes > 0.0).then_some(probes),
            timeout_signal: duration("TimeoutSignal"),
            timeout_term: duration("TimeoutTERM"),
            timeout_stale_run_lock: duration("TimeoutStaleRunLock"),
            max_cloud_ops_per_second: count("MaxCloudOpsPerSecond"),
            max_concurrent_instance_create_ops: count("MaxConcurrentInstanceCreateOps"),
            max_instances: count("MaxInstances"),
            max_running_containers_per_instance: count("MaxRunningContainersPerInstance"),
            initial_quota_estimate: count("InitialQuotaEstimate"),
            supervisor_fraction: self.fraction("Containers.CloudVMs.SupervisorFraction"),
            sync_interval: duration("SyncInterval"),
            timeout_idle: duration("TimeoutIdle"),
            timeout_booting: duration("TimeoutBooting"),
            timeout_probe: duration("TimeoutProbe"),
            timeout_shutdown: duration("TimeoutShutdown"),
            instance_init_command: text("InstanceInitCommand"),
            deploy_runner_binary: self.deploy_runner(),
            deploy_runner_directory: self.runner_directory(),
            deploy_public_key: values.flag(&at("DeployPublicKey")),
            resource_tags: values.text_map(&at("ResourceTags")),
            tag_key_prefix: text("TagKeyPrefix"),
        }
    }

    fn fraction(&mut self, path: &str) -> f64 {
        let fraction = self.values.number(path);
        if fraction > 1.0 {
            self.error(path, format!("{fraction} is more than all: a fraction is from 0 to 1"));
        }
        fraction.min(1.0)
    }

    pub(super) fn deploy_runner(&self) -> DeployRunner {
        match self.values.text("Containers.CloudVMs.DeployRunnerBinary").as_str() {
            "/proc/self/exe" => DeployRunner::Default,
            "" => DeployRunner::PreInstalled,
            path => DeployRunner::File(self.path(path)),
        }
    }

    fn instance_types(&mut self, driver: CloudDriver) -> BTreeMap<TypeName, Arc<InstanceType>> {
        let prefix = self.cluster.prefix.clone();
        let mut types = types::read(self.cluster.node, &prefix, self.faults);
        let key = format!("{prefix}InstanceTypes");
        let enable = "Containers.CloudVMs.Enable";
        let enabled = if self.values.is_set(enable) { self.values.flag(enable) } else { !self.cluster.arvados_form };
        if driver == CloudDriver::Loopback && enabled {
            // Generated variants, which a dump contains, do not count.
            if types.values().filter(|one| !one.preemptible).count() > 1 {
                let mark = self.cluster.node.and_then(|node| node.get("InstanceTypes")).map(|node| node.mark);
                self.faults.error(mark, &key, "cannot use multiple InstanceTypes with loopback driver");
            }
            if types.is_empty() {
                let this = self.options.host.instance_type();
                types.insert(TypeName::new(&this.name), Arc::new(this));
            }
        } else if types.is_empty() {
            self.faults.warn(None, &key, "no instance types are configured: no container can run");
        }
        for one in types.values().filter(|one| one.vcpus == 0 || one.ram == 0) {
            let message = "VCPUs or RAM is 0: hardly any container fits";
            self.faults.warn(None, &format!("{key}.{}", one.name), message);
        }
        let factor = self.values.number("Containers.PreemptiblePriceFactor");
        types::finish(&mut types, (driver, factor), &prefix, self.faults);
        types
    }
}

/// Relative paths begin at the configuration file.
pub(super) fn absolute(file: Option<&Path>, text: &str) -> PathBuf {
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    std::path::absolute(base.join(text)).unwrap_or_else(|_| base.join(text))
}

/// `http://host:port/` as `host:port`; the scheme's port if there is none.
fn host_and_port(url: &str) -> Result<String, String> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(match url.split_once("://") {
            Some(("https", _)) => "https is not built yet: use http on a private address".to_owned(),
            _ => "not an URL such as http://127.0.0.1:9006".to_owned(),
        });
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (authority.is_empty() || authority.starts_with(':'), has_port) {
        (true, _) => Err("it has no host".to_owned()),
        (false, true) => Ok(authority.to_owned()),
        (false, false) if authority.contains(':') && !authority.ends_with(']') => {
            Err("its port is no number".to_owned())
        }
        (false, false) => Ok(format!("{authority}:80")),
    }
}
