//! Why machines cannot be had: for waiting containers that could run nowhere else, and for the status screen.

use std::collections::BTreeSet;

use super::DaemonBackend;
use crate::cloud::UnlistedInstance;
use crate::core::entry::QueueSnapshot;
use crate::core::ids::{ContainerUuid, TypeName};
use crate::core::vocabulary::WorkerState;
use crate::management::records::InstanceRow;
use crate::queue::ContainerQueue;

/// Named on the status screen.
const SHOWN_MAX: usize = 10;

pub(super) fn row(one: UnlistedInstance) -> InstanceRow {
    InstanceRow {
        instance: one.id.to_string(),
        address: one.address,
        arvados_instance_type: one.type_name.to_string(),
        provider_instance_type: one.provider_type,
        worker_state: one.state.to_owned(),
        detail: one.detail,
        ..InstanceRow::default()
    }
}

/// What the driver says of machines that are no instances, which types have instances all the same, and who waits for which.
pub(super) struct Unusable {
    queue: QueueSnapshot,
    machines: Vec<UnlistedInstance>,
    types_with_instances: BTreeSet<TypeName>,
}

impl Unusable {
    /// The text that a waiting container has from the scheduler, and behind it why no machine of its types can be had. Nothing is
    /// added where one of them runs, boots or is being created: then this container's turn comes.
    pub(super) fn explain(&self, uuid: &ContainerUuid, text: &str) -> String {
        let concerned = !self.machines.is_empty() && text.starts_with("Waiting in queue");
        let Some(entry) = self.queue.entries.get(uuid).filter(|_| concerned) else {
            return text.to_owned();
        };
        let is_eligible = |name: &TypeName| entry.instance_types.iter().any(|one| one.name == name.as_str());
        if self.types_with_instances.iter().any(is_eligible) {
            return text.to_owned();
        }
        let mut unusable = self.machines.iter().filter(|machine| is_eligible(&machine.type_name));
        let Some(first) = unusable.next() else { return text.to_owned() };
        let more = match unusable.count() {
            0 => String::new(),
            more => format!("  So it is with {more} more: see `muster instance list`."),
        };
        format!("{text}  {} is {}: {}.{more}", first.id, first.state, first.detail)
    }
}

impl DaemonBackend {
    pub(super) fn unusable(&self) -> Unusable {
        let view = self.door.view();
        let machines = self.cloud.unlisted();
        let types_with_instances = view
            .instances
            .iter()
            .filter(|one| one.state != WorkerState::Shutdown)
            .map(|one| one.type_name.clone())
            .collect();
        Unusable { queue: self.queue.snapshot(), machines, types_with_instances }
    }

    /// The first few of those with a reason, and how many there are.
    pub(super) fn unusable_rows(&self) -> (Vec<InstanceRow>, usize) {
        let machines: Vec<_> = self.cloud.unlisted().into_iter().filter(|one| one.state != "cleaning").collect();
        let count = machines.len();
        (machines.into_iter().take(SHOWN_MAX).map(row).collect(), count)
    }
}
