//! What a reload changes: key by key, and whether a running daemon can take it over (spec 80 §3).

use super::dump::{effective, type_value};
use super::{Config, Secret, keys};

/// One key whose value in force differs. Secrets are not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub old: String,
    pub new: String,
    /// It takes effect at once; otherwise a restart is needed.
    pub live: bool,
}

fn text(value: &serde_yaml::Value) -> String {
    match value {
        serde_yaml::Value::String(text) => text.clone(),
        other => serde_yaml::to_string(other).unwrap_or_default().trim_end().replace('\n', "; "),
    }
}

/// All differences, in the order of the reference, then the instance types by name.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut found = Vec::new();
    for ((path, before), (_, after)) in effective(old).into_iter().zip(effective(new)) {
        if before != after {
            let live = keys::find(path).is_some_and(|info| info.live);
            found.push(Change { key: path.to_owned(), old: text(&before), new: text(&after), live });
        }
    }
    let secrets: [(&str, &Secret, &Secret); 3] = [
        ("SystemRootToken", &old.system_root_token, &new.system_root_token),
        ("ManagementToken", &old.management_token, &new.management_token),
        ("Containers.DispatchPrivateKey", &old.containers.dispatch_private_key, &new.containers.dispatch_private_key),
    ];
    for (key, before, after) in secrets {
        if before != after && !found.iter().any(|change| change.key == key) {
            found.push(Change { key: key.to_owned(), old: "***".to_owned(), new: "***".to_owned(), live: false });
        }
    }
    if old.cloud.driver_parameters != new.cloud.driver_parameters
        && !found.iter().any(|change| change.key.ends_with("DriverParameters"))
    {
        let key = "Containers.CloudVMs.DriverParameters".to_owned();
        found.push(Change { key, old: "***".to_owned(), new: "***".to_owned(), live: false });
    }
    let names: std::collections::BTreeSet<_> = old.instance_types.keys().chain(new.instance_types.keys()).collect();
    for name in names {
        let (before, after) = (old.instance_types.get(name), new.instance_types.get(name));
        if before != after {
            let shown =
                |one: Option<&std::sync::Arc<_>>| one.map_or_else(|| "none".to_owned(), |one| text(&type_value(one)));
            found.push(Change {
                key: format!("InstanceTypes.{name}"),
                old: shown(before),
                new: shown(after),
                live: true,
            });
        }
    }
    found
}

impl Config {
    /// `old` with what may change in a running daemon taken from `new`: the keys that are `live` in the table, and the types.
    pub fn with_live_part(old: &Self, new: &Self) -> Self {
        let mut config = old.clone();
        config.instance_types.clone_from(&new.instance_types);
        config.queue.retain_finished = new.queue.retain_finished;
        config.queue.timeout_collect = new.queue.timeout_collect;
        let (containers, from) = (&mut config.containers, &new.containers);
        containers.stale_lock_timeout = from.stale_lock_timeout;
        containers.reserve_extra_ram = from.reserve_extra_ram;
        containers.local_keep_blob_buffers_per_vcpu = from.local_keep_blob_buffers_per_vcpu;
        containers.maximum_price_factor = from.maximum_price_factor;
        let (cloud, from) = (&mut config.cloud, &new.cloud);
        // What a worker was told when its thread began stays: it must be asked often enough for that.
        if config.runner.self_destruct_after.is_none_or(|after| after >= from.probe_interval.saturating_mul(3)) {
            cloud.probe_interval = from.probe_interval;
        }
        cloud.max_probes_per_second = from.max_probes_per_second;
        cloud.timeout_signal = from.timeout_signal;
        cloud.timeout_term = from.timeout_term;
        cloud.timeout_stale_run_lock = from.timeout_stale_run_lock;
        cloud.max_concurrent_instance_create_ops = from.max_concurrent_instance_create_ops;
        cloud.max_instances = from.max_instances;
        cloud.max_running_containers_per_instance = from.max_running_containers_per_instance;
        cloud.initial_quota_estimate = from.initial_quota_estimate;
        cloud.supervisor_fraction = from.supervisor_fraction;
        cloud.sync_interval = from.sync_interval;
        cloud.timeout_idle = from.timeout_idle;
        cloud.timeout_booting = from.timeout_booting;
        cloud.timeout_probe = from.timeout_probe;
        cloud.timeout_shutdown = from.timeout_shutdown;
        config
    }
}
