//! Why containers wait, beyond the scheduler's text: machines that cannot be had, types that do not boot, and
//! instances that are held. For lists and the
//! status screen.

use std::time::Duration;

use super::DaemonBackend;
use crate::cloud::UnlistedInstance;
use crate::core::entry::{QueueEntry, QueueSnapshot};
use crate::core::ids::{ContainerUuid, InstanceId, TypeName};
use crate::core::pool::view::{InstanceView, PoolView};
use crate::core::time::Moment;
use crate::core::units::format_duration;
use crate::core::vocabulary::{IdleBehavior, WorkerState};
use crate::management::records::InstanceRow;
use crate::queue::ContainerQueue;

/// Named on the status screen.
const SHOWN_MAX: usize = 10;
/// Named in a container's status.
const HELD_SHOWN_MAX: usize = 3;
/// Part of the scheduler's text (spec 82 §3.2).
const AT_QUOTA: &str = "at cloud account limits";

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

/// What there is to know about machines, and who waits for which.
pub(super) struct Reasons {
    queue: QueueSnapshot,
    /// What the driver says of machines that are no instances.
    machines: Vec<UnlistedInstance>,
    pool: PoolView,
    now: Moment,
}

fn is_eligible(entry: &QueueEntry, name: &TypeName) -> bool {
    entry.instance_types.iter().any(|one| one.name == name.as_str())
}

impl Reasons {
    /// The text that a waiting container has from the scheduler, and behind it what people must know to change that.
    pub(super) fn explain(&self, uuid: &ContainerUuid, text: &str) -> String {
        let waits = text.starts_with("Waiting in queue") || text.starts_with("Waiting for a ");
        let Some(entry) = self.queue.entries.get(uuid).filter(|_| waits) else {
            return text.to_owned();
        };
        let reasons = [self.held(text), self.does_not_boot(entry, text), self.cannot_be_had(entry, text)];
        reasons.into_iter().flatten().fold(text.to_owned(), |text, reason| format!("{text}  {reason}"))
    }

    /// At quota: the instances that would go if nobody held them (spec 20 §2).
    fn held(&self, text: &str) -> Option<String> {
        if !self.pool.at_quota || !text.contains(AT_QUOTA) {
            return None;
        }
        let is_held = |one: &InstanceView| {
            one.idle_behavior == IdleBehavior::Hold && one.state != WorkerState::Shutdown && one.containers.is_empty()
        };
        let ids: Vec<&str> = self
            .pool
            .instances
            .values()
            .filter(|one| is_held(one))
            .filter_map(|one| one.id())
            .map(InstanceId::as_str)
            .collect();
        let names = ids.iter().take(HELD_SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
        match ids.len().saturating_sub(HELD_SHOWN_MAX) {
            _ if ids.is_empty() => None,
            0 => Some(format!("On hold, and counted: {names}.")),
            more => Some(format!("On hold, and counted: {names} and {more} more.")),
        }
    }

    /// The first of its types whose instances do not boot; while it waits for an instance only if that is of this type.
    fn does_not_boot(&self, entry: &QueueEntry, text: &str) -> Option<String> {
        let name_in_text = text.strip_prefix("Waiting for a ").map(|rest| rest.split(' ').next().unwrap_or_default());
        let mut names = entry.instance_types.iter().map(|one| one.name.as_str());
        let tripped = |name: &str| self.pool.breakers.get(name).filter(|breaker| breaker.is_tripped);
        let name = names.find(|name| name_in_text.is_none_or(|wanted| wanted == *name) && tripped(name).is_some())?;
        let breaker = tripped(name)?;
        let left = breaker.paused_until.map(|until| {
            let seconds = until.since(self.now).as_secs().saturating_add(1);
            format!("  The next one is tried in {}.", format_duration(Duration::from_secs(seconds)))
        });
        Some(format!("Of type {name} {breaker}.{}", left.unwrap_or_default()))
    }

    /// Nothing where an instance of one of its types runs, boots or is being created: then this container's turn comes.
    fn cannot_be_had(&self, entry: &QueueEntry, text: &str) -> Option<String> {
        let has_instance = self
            .pool
            .instances
            .values()
            .any(|one| one.state != WorkerState::Shutdown && is_eligible(entry, &one.type_name));
        if has_instance || !text.starts_with("Waiting in queue") {
            return None;
        }
        let mut unusable = self.machines.iter().filter(|machine| is_eligible(entry, &machine.type_name));
        let first = unusable.next()?;
        let more = match unusable.count() {
            0 => String::new(),
            more => format!("  So it is with {more} more: see `muster instance list`."),
        };
        Some(format!("{} is {}: {}.{more}", first.id, first.state, first.detail))
    }
}

impl DaemonBackend {
    pub(super) fn reasons(&self) -> Reasons {
        let pool = self.door.view();
        let machines = self.cloud.unlisted();
        Reasons { queue: self.queue.snapshot(), machines, pool, now: self.clock.now() }
    }

    /// The first few of those with a reason, and how many there are.
    pub(super) fn unusable_rows(&self) -> (Vec<InstanceRow>, usize) {
        let machines: Vec<_> = self.cloud.unlisted().into_iter().filter(|one| one.state != "cleaning").collect();
        let count = machines.len();
        (machines.into_iter().take(SHOWN_MAX).map(row).collect(), count)
    }
}
