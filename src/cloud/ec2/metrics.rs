//! The driver's series (spec 42 §11). Without a registry they are counted and shown nowhere.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use prometheus::{GaugeVec, IntCounterVec, Opts};

use super::options::Ec2Options;

/// `ec2_instances` and `ec2_instance_starts_total`.
#[derive(Debug)]
pub(super) struct Metrics {
    instances: GaugeVec,
    starts: IntCounterVec,
    /// Subnets that have a gauge: one that is not seen any more falls to 0.
    subnets: Mutex<BTreeSet<String>>,
}

impl Metrics {
    /// Registers the series, if there is a registry. All configured subnets have theirs from the start, so that rates work.
    ///
    /// # Errors
    /// The registry has other series of these names.
    pub(super) fn new(options: &Ec2Options) -> Result<Self, prometheus::Error> {
        let prefix = options.metrics.as_ref().map(|(_, prefix)| prefix.as_str()).unwrap_or_default();
        let named = |name: &str, help: &str| Opts::new(format!("{prefix}{name}"), help);
        let instances =
            GaugeVec::new(named("ec2_instances", "Live instances at the last list, by subnet."), &["subnet_id"])?;
        let starts = named("ec2_instance_starts_total", "Calls of RunInstances, by subnet and success.");
        let starts = IntCounterVec::new(starts, &["subnet_id", "success"])?;
        if let Some((registry, _)) = &options.metrics {
            registry.register(Box::new(instances.clone()))?;
            registry.register(Box::new(starts.clone()))?;
        }
        let subnets = BTreeSet::from_iter(options.subnets.iter().cloned().chain([String::new()]));
        let metrics = Self { instances, starts, subnets: Mutex::new(subnets) };
        metrics.listed(&BTreeMap::new());
        let unnamed = [String::new()];
        for subnet in if options.subnets.is_empty() { &unnamed } else { options.subnets.as_slice() } {
            for success in ["0", "1"] {
                metrics.starts.with_label_values(&[subnet.as_str(), success]).inc_by(0);
            }
        }
        Ok(metrics)
    }

    /// RunInstances was called with this subnet (`""`: with none).
    pub(super) fn started(&self, subnet: &str, success: bool) {
        self.starts.with_label_values(&[subnet, if success { "1" } else { "0" }]).inc();
    }

    /// How many instances a list has shown, by subnet (`""`: without one).
    pub(super) fn listed(&self, counts: &BTreeMap<String, u32>) {
        let mut subnets = self.subnets.lock();
        subnets.extend(counts.keys().cloned());
        for subnet in subnets.iter() {
            let count = counts.get(subnet).copied().unwrap_or(0);
            self.instances.with_label_values(&[subnet.as_str()]).set(f64::from(count));
        }
    }
}
