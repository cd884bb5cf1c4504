//! The configuration as its readers in core and queue take it: at the start, and again at a reload.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::process;
use crate::cloud::InstanceSet;
use crate::config::{Config, QueueDriver};
use crate::core::ids::TypeName;
use crate::core::instance_type;
use crate::core::resources;
use crate::core::scheduler::SchedulerSettings;
use crate::core::settings::Settings;
use crate::queue::local::Selector;

/// What a container needs, and the types that offer it.
pub(super) fn selector(config: &Arc<Config>) -> Selector {
    let config = config.clone();
    let lists = Mutex::new(instance_type::TypeLists::default());
    Arc::new(move |request| {
        let containers = &config.containers;
        let need = resources::resources_needed(
            request,
            containers.reserve_extra_ram,
            containers.local_keep_blob_buffers_per_vcpu,
        );
        let types = config.instance_types.values();
        instance_type::choose(types, &need, request, containers.maximum_price_factor)
            .map(|types| (need, lists.lock().share(types)))
            .map_err(|unsatisfiable| unsatisfiable.for_people())
    })
}

/// The core's settings, within what driver and process allow.
pub(super) fn settings(config: &Config, set: &str, cloud: &dyn InstanceSet) -> Settings {
    let traits = cloud.traits();
    let mut settings = config.settings(set);
    settings.cheap_list = traits.cheap_list;
    settings.instances_alike = !traits.each_its_own;
    if traits.exact_list {
        settings.list_delay = std::time::Duration::ZERO;
    }
    settings.max_workers = process::workers_max(settings.max_workers);
    if let Some(most) = traits.instances_max {
        settings.max_instances = if settings.max_instances == 0 { most } else { settings.max_instances.min(most) };
    }
    settings
}

/// Which configured types share a quota of the provider's.
pub(super) fn quota_groups(config: &Config, cloud: &dyn InstanceSet) -> BTreeMap<TypeName, String> {
    config.instance_types.iter().map(|(name, one)| (name.clone(), cloud.quota_group(one))).collect()
}

pub(super) fn scheduler_settings(config: &Config, settings: &Settings) -> SchedulerSettings {
    let cloud = &config.cloud;
    SchedulerSettings {
        max_running_containers_per_instance: cloud.max_running_containers_per_instance,
        initial_quota_estimate: cloud.initial_quota_estimate,
        max_instances: settings.max_instances,
        supervisor_fraction: cloud.supervisor_fraction,
        stale_lock_timeout: config.containers.stale_lock_timeout,
        keeps_attempts: config.queue.driver == QueueDriver::Local,
    }
}
