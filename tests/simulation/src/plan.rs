//! What one seed is like: configuration, length, work, and which faults it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::ids::TypeName;
use crate::core::instance_type::InstanceType;
use crate::core::resources::Resources;
use crate::core::scheduler::SchedulerSettings;
use crate::core::settings::Settings;
use crate::faults::Fault;
use crate::random::Random;

pub type Types = BTreeMap<TypeName, Arc<InstanceType>>;

#[derive(Clone, Debug)]
pub struct Plan {
    pub settings: Settings,
    pub scheduler: SchedulerSettings,
    pub poll_interval: Duration,
    pub types: Types,
    /// How long faults are injected; then everything must settle.
    pub faults_for: Duration,
    /// Containers submitted, in several goes.
    pub containers: usize,
    /// Instances that the account may have.
    pub cloud_quota: usize,
    likelihoods: Vec<f64>,
}

impl Plan {
    pub fn of(random: &mut Random) -> Self {
        let settings = settings(random);
        let scheduler = SchedulerSettings {
            max_running_containers_per_instance: *random.pick(&[0, 0, 2]),
            initial_quota_estimate: *random.pick(&[0, 0, 0, 2]),
            max_instances: settings.max_instances,
            ..SchedulerSettings::default()
        };
        Self {
            scheduler,
            poll_interval: Duration::from_secs(*random.pick(&[1, 10, 10, 10])),
            types: types(),
            faults_for: random.seconds(300, 4000),
            containers: random.index(32) + 1,
            cloud_quota: *random.pick(&[3, 6, 100, 100]),
            likelihoods: likelihoods(random),
            settings,
        }
    }

    pub fn likelihood(&self, fault: Fault) -> f64 {
        self.likelihoods[fault as usize]
    }
}

/// Each kind is off in a part of the seeds; one seed in thirty has none at all.
fn likelihoods(random: &mut Random) -> Vec<f64> {
    let quiet = random.chance(0.03);
    let share = *random.pick(&[0.15, 0.4, 0.8]);
    let strength = *random.pick(&[0.5, 1.0, 2.0, 4.0]);
    let of = |fault: &Fault| {
        let on = random.chance(share) && !quiet;
        if on { (fault.likelihood() * strength).min(0.9) } else { 0.0 }
    };
    Fault::ALL.iter().map(of).collect()
}

fn settings(random: &mut Random) -> Settings {
    let mut seconds = |choices: &[u64]| Duration::from_secs(*random.pick(choices));
    let mut settings = Settings {
        probe_interval: seconds(&[1, 10, 10]),
        sync_interval: seconds(&[10, 60]),
        timeout_idle: seconds(&[1, 60, 60, 300]),
        timeout_booting: seconds(&[60, 180, 600]),
        timeout_probe: seconds(&[60, 180, 600]),
        timeout_shutdown: seconds(&[10, 30]),
        timeout_term: seconds(&[20, 120]),
        timeout_stale_run_lock: seconds(&[5, 30]),
        timeout_collect: seconds(&[60, 300]),
        ..Settings::default()
    };
    settings.max_instances = *random.pick(&[0, 1, 2, 4, 8]);
    settings.max_concurrent_create_ops = *random.pick(&[0, 1, 3, 10]);
    settings.max_probes_per_second = *random.pick(&[None, None, Some(2.0)]);
    settings.cheap_list = random.chance(0.3);
    settings
}

fn types() -> Types {
    let of_type = |name: &str, provider_type: &str, vcpus: i64, price: f64| InstanceType {
        name: name.to_owned(),
        provider_type: provider_type.to_owned(),
        vcpus,
        ram: vcpus << 30,
        included_scratch: 100 << 30,
        price,
        ..InstanceType::default()
    };
    // Two of one provider type: their capacity pauses are shared.
    [
        of_type("t1", "p1", 1, 1.0),
        of_type("t2", "p2", 2, 2.0),
        of_type("t2x", "p2", 2, 2.5),
        of_type("t4", "p4", 4, 4.0),
    ]
    .into_iter()
    .map(|instance_type| (TypeName::new(&instance_type.name), Arc::new(instance_type)))
    .collect()
}

/// The types that a container may run on, cheapest first.
pub fn eligible(types: &Types, need: &Resources) -> Arc<[Arc<InstanceType>]> {
    let fits = |it: &&Arc<InstanceType>| it.vcpus >= need.vcpus && it.ram >= need.ram;
    let mut found: Vec<_> = types.values().filter(fits).cloned().collect();
    found.sort_by(|a, b| a.price.total_cmp(&b.price));
    found.into()
}
