//! Which workers have a container starting or running, by its uuid: so that a call about one container need not look at every
//! worker. Kept in step by the worker's own transitions ([`crate::core::worker::running`]); an invariant compares it with them.

use std::collections::BTreeMap;

use crate::core::ids::{ContainerUuid, InstanceId};

/// Normally one worker per uuid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunnerIndex(BTreeMap<ContainerUuid, Vec<InstanceId>>);

impl RunnerIndex {
    pub fn add(&mut self, uuid: &ContainerUuid, instance: &InstanceId) {
        let holders = self.0.entry(uuid.clone()).or_default();
        if !holders.contains(instance) {
            holders.push(instance.clone());
            holders.sort();
        }
    }

    pub fn remove(&mut self, uuid: &ContainerUuid, instance: &InstanceId) {
        if let Some(holders) = self.0.get_mut(uuid) {
            holders.retain(|holder| holder != instance);
            if holders.is_empty() {
                self.0.remove(uuid);
            }
        }
    }

    /// The workers that have it starting or running, sorted.
    pub fn holders(&self, uuid: &ContainerUuid) -> &[InstanceId] {
        self.0.get(uuid).map_or(&[], Vec::as_slice)
    }
}
