//! Why containers wait, beyond the scheduler's text: machines that cannot be had, types that do not boot, and
//! instances that are held. For lists and the
//! status screen.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::DaemonBackend;
use super::records::Waits;
use crate::cloud::UnlistedInstance;
use crate::core::entry::QueueEntry;
use crate::core::ids::{ContainerUuid, InstanceId, TypeName};
use crate::core::pool::view::{InstanceView, PoolView};
use crate::core::time::WallMillis;
use crate::core::versioned::Versioned;
use crate::core::vocabulary::{IdleBehavior, WorkerState};
use crate::management::records::InstanceRow;
use crate::shell::clock::Clock;
use crate::shell::scheduler::Report;

/// Named on the status screen.
const SHOWN_MAX: usize = 10;
/// Named in a container's status.
const HELD_SHOWN_MAX: usize = 3;

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

/// What there is to know about those that wait, and about machines. Made once for many containers.
pub(super) struct Reasons {
    report: Option<Arc<Report>>,
    /// What the driver says of machines that are no instances.
    machines: Vec<UnlistedInstance>,
    /// Types of the instances that there are; empty if nobody asks.
    present: BTreeSet<TypeName>,
    /// At quota: the instances that would go if nobody held them (spec 20 §2).
    held: Option<String>,
    /// Before the first list of the cloud nothing is decided: what it waits for, and why.
    not_listed: Option<Waits>,
    clock: Clock,
}

fn is_eligible(entry: &QueueEntry, name: &TypeName) -> bool {
    entry.instance_types.iter().any(|one| one.name == name.as_str())
}

/// `12:04:10Z`.
pub(super) fn time_of_day(at: WallMillis) -> String {
    jiff::Timestamp::from_millisecond(at).map_or_else(|_| "?".to_owned(), |time| time.strftime("%H:%M:%SZ").to_string())
}

impl Reasons {
    /// What the last pass said of a container, and what people must know to change that.
    pub(super) fn of(&self, uuid: &ContainerUuid) -> Option<Waits> {
        if self.not_listed.is_some() {
            return self.not_listed.clone();
        }
        let listing = self.report.as_ref()?.listing();
        let one = listing.find(uuid)?;
        let text = listing.text(one);
        let why = listing.explain(uuid, &|moment| time_of_day(self.clock.wall_of(moment)));
        let held = self.held.clone().filter(|_| listing.is_over_quota(one));
        let reasons = [why, held, self.cannot_be_had(&one.entry, &text)];
        let explanation = reasons.into_iter().flatten().collect::<Vec<_>>().join("; ");
        Some(Waits { text, explanation })
    }

    /// Nothing where an instance of one of its types runs, boots or is being created: then this container's turn comes.
    fn cannot_be_had(&self, entry: &QueueEntry, text: &str) -> Option<String> {
        if self.machines.is_empty() || !text.starts_with("Waiting in queue") {
            return None;
        }
        if entry.instance_types.iter().any(|one| self.present.contains(one.name.as_str())) {
            return None;
        }
        let mut unusable = self.machines.iter().filter(|machine| is_eligible(entry, &machine.type_name));
        let first = unusable.next()?;
        let more = match unusable.count() {
            0 => String::new(),
            more => format!("; so it is with {more} more: see `muster instance list`"),
        };
        Some(format!("{} is {}: {}{more}", first.id, first.state, first.detail))
    }
}

fn held(pool: &PoolView) -> Option<String> {
    let is_held = |one: &InstanceView| {
        one.idle_behavior == IdleBehavior::Hold && one.state != WorkerState::Shutdown && one.containers.is_empty()
    };
    let held = pool.instances.values().filter(|one| pool.at_quota && is_held(one));
    let ids: Vec<&str> = held.filter_map(|one| one.id()).map(InstanceId::as_str).collect();
    let names = ids.iter().take(HELD_SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
    match ids.len().saturating_sub(HELD_SHOWN_MAX) {
        _ if ids.is_empty() => None,
        0 => Some(format!("on hold, and counted: {names}")),
        more => Some(format!("on hold, and counted: {names} and {more} more")),
    }
}

impl DaemonBackend {
    pub(super) fn reasons(&self) -> Reasons {
        let report = self.scheduler.report.read().clone();
        let (machines, pool) = (self.cloud.unlisted(), self.door.view());
        let counts = |one: &&Versioned<InstanceView>| !machines.is_empty() && one.state != WorkerState::Shutdown;
        let present = pool.instances.values().filter(counts).map(|one| one.type_name.clone()).collect();
        let not_listed = (!pool.loaded).then(|| Waits {
            text: "Waiting until the cloud has listed its instances.".to_owned(),
            explanation: self.list_fault.get().map(|failing| failing.error).unwrap_or_default(),
        });
        Reasons { report, machines, present, held: held(&pool), not_listed, clock: self.clock }
    }

    /// The first few of those with a reason, and how many there are.
    pub(super) fn unusable_rows(&self) -> (Vec<InstanceRow>, usize) {
        let machines: Vec<_> = self.cloud.unlisted().into_iter().filter(|one| one.state != "cleaning").collect();
        let count = machines.len();
        (machines.into_iter().take(SHOWN_MAX).map(row).collect(), count)
    }
}
