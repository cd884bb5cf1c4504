//! How each entry of the queue stands, and who comes first (spec 30 §3, "order of containers").

use std::cmp::Reverse;

use crate::core::entry::QueueEntry;
use crate::core::ids::{ContainerUuid, InstanceId, TypeName};
use crate::core::versioned::Versioned;
use crate::core::vocabulary::ContainerState;

/// What the table of §4 leaves for the steps of §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    /// In a final state.
    Ended,
    /// Its current attempt is on a worker, or its result is being fetched from there.
    OnWorker,
    /// Its current attempt may be on this instance, which cannot be asked yet; its resources are kept there.
    Expected(&'a InstanceId),
    /// Its current attempt may have been sent to this instance, which is in service and does not know it.
    Sent(&'a InstanceId),
    /// The runner of an older attempt has to end first, or a kill of an attempt that was never seen.
    PreviousAlive,
    /// An operation of this pass, or something that is awaited, decides what comes next.
    Settling,
    /// Priority below 1.
    OnHold,
    /// Something in `after` is not Complete yet.
    NotReady,
    /// To be locked (Queued) or started (Locked).
    Free,
}

/// The place among others of the same rank: priority ↓, then first seen ↑.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: Reverse<i64>,
    first_seen: u64,
    uuid: ContainerUuid,
}

impl Turn {
    pub(super) fn of(entry: &QueueEntry) -> Self {
        let container = &entry.container;
        Self { priority: Reverse(container.priority), first_seen: entry.first_seen, uuid: container.uuid.clone() }
    }

    pub(super) fn uuid(&self) -> &ContainerUuid {
        &self.uuid
    }
}

/// Those on a worker come first, then Locked ones (a lock that waits is not given back because something more urgent arrives), then
/// Queued ones; what has ended is listed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Placed,
    Locked,
    Queued,
    Ended,
}

/// One entry in scheduling order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) entry: &'a Versioned<QueueEntry>,
    pub(super) standing: Standing<'a>,
    pub(super) busy: bool,
}

impl Item<'_> {
    pub(super) fn uuid(&self) -> &ContainerUuid {
        &self.entry.container.uuid
    }

    pub(super) fn state(&self) -> ContainerState {
        self.entry.container.state
    }

    pub(super) fn is_supervisor(&self) -> bool {
        self.entry.container.request.supervisor
    }

    /// The type of the instance that its last attempt was sent to.
    pub(super) fn sent_type(&self) -> Option<&TypeName> {
        self.entry.container.instance_type.as_ref()
    }

    /// On a worker, as far as can be known.
    pub(super) fn is_placed(&self) -> bool {
        self.state() == ContainerState::Running
            || matches!(self.standing, Standing::OnWorker | Standing::Expected(_) | Standing::Sent(_))
    }

    pub(super) fn rank(&self) -> Rank {
        match self.state() {
            _ if self.standing == Standing::Ended => Rank::Ended,
            _ if self.is_placed() => Rank::Placed,
            ContainerState::Locked => Rank::Locked,
            _ => Rank::Queued,
        }
    }
}

pub(super) fn sort(items: &mut [Item<'_>]) {
    items.sort_by_cached_key(|item| (item.rank(), Turn::of(item.entry)));
}
