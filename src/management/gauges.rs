//! Counts and sums for the gauges of spec 82 §5, computed from core data by whoever fills
//! [`Gauges`](super::backend::Gauges). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::InstanceSum;
use crate::core::entry::QueueSnapshot;
use crate::core::instance_type::InstanceType;
use crate::core::pool::view::InstanceView;
use crate::core::vocabulary::{ContainerState, IdleBehavior, WorkerState};

/// Values of the label `category`.
pub const CATEGORIES: [&str; 5] = ["inuse", "hold", "booting", "unknown", "idle"];

/// Entries by state and name of the first candidate type (empty if there is none).
pub fn count_queue(snapshot: &QueueSnapshot) -> BTreeMap<(ContainerState, String), u64> {
    let mut counts = BTreeMap::new();
    for entry in snapshot.entries.values() {
        let first = entry.instance_types.first().map_or_else(String::new, |one| one.name.clone());
        *counts.entry((entry.container.state, first)).or_default() += 1;
    }
    counts
}

/// Sums by category and type: every configured type in every category, and the types that instances have beyond these.
pub fn sum_instances<'a>(
    instances: impl Iterator<Item = &'a InstanceView>,
    configured: &[Arc<InstanceType>],
) -> BTreeMap<(&'static str, String), InstanceSum> {
    let mut sums: BTreeMap<(&'static str, String), InstanceSum> = BTreeMap::new();
    for category in CATEGORIES {
        for instance_type in configured {
            sums.insert((category, instance_type.name.clone()), InstanceSum::default());
        }
    }
    for view in instances {
        let sum = sums.entry((category(view), view.type_name.to_string())).or_default();
        sum.instances += 1;
        if let Some(instance_type) = &view.instance_type {
            sum.price += instance_type.price;
            sum.vcpus = sum.vcpus.saturating_add(instance_type.vcpus);
            sum.ram = sum.ram.saturating_add(instance_type.ram);
        }
    }
    sums
}

fn category(view: &InstanceView) -> &'static str {
    match (view.containers.is_empty(), view.idle_behavior, view.state) {
        (false, ..) => "inuse",
        (_, IdleBehavior::Hold, _) => "hold",
        (.., WorkerState::Booting) => "booting",
        (.., WorkerState::Unknown) => "unknown",
        (.., WorkerState::Idle | WorkerState::Running | WorkerState::Shutdown) => "idle",
    }
}
