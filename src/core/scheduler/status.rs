//! What people are told about a waiting container. These texts are part of the API (spec 82 §3.2).

use super::order::{Item, Standing};
use crate::core::entry::QueueEntry;
use crate::core::ids::TypeName;
use crate::core::vocabulary::ContainerState;

/// How a container's situation is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Running, or ended.
    Nothing,
    Allocated,
    OnHold,
    /// Above the supervisors' share.
    Supervisor,
    PreviousAttempt,
    ForInstance(TypeName),
    /// Locked, and every eligible type is at capacity.
    AtCapacity,
    /// Everything else that waits.
    Waiting(Hold),
    /// Not ready: something in `after`. (Only the local queue has that.)
    AfterOthers,
}

/// What keeps one that waits; the text of the API does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing is begun now.
    Paused,
    /// An operation on it, or something awaited, decides what comes next.
    Settling,
    /// At quota, with no room on any instance, or behind one like that.
    OverQuota,
    ApiLimit,
    QuotaLimit,
    /// No create would be accepted.
    Creates,
    /// Every eligible type is at capacity.
    Capacity,
}

/// Counts the positions, from 1. Two counters: one for supervisors, one for all others; of these, the ones that name their types
/// take their numbers first (a walk), then the rest in list order.
#[derive(Debug)]
pub(super) struct Positions {
    supervisors: usize,
    at_capacity: usize,
    waiting: usize,
}

impl Positions {
    /// `at_capacity`: how many name their types.
    pub(super) fn new(at_capacity: usize) -> Self {
        Self { supervisors: 0, at_capacity: 0, waiting: at_capacity }
    }

    /// 0 for a status without a position.
    pub(super) fn next(&mut self, status: &Status) -> usize {
        let counter = match status {
            Status::Supervisor => &mut self.supervisors,
            Status::AtCapacity => &mut self.at_capacity,
            Status::Waiting(_) => &mut self.waiting,
            _ => return 0,
        };
        *counter += 1;
        *counter
    }
}

pub(super) fn text(entry: &QueueEntry, status: &Status, position: usize, at_quota: bool) -> String {
    match status {
        Status::Nothing => String::new(),
        Status::Allocated => "Container is allocated to an instance and preparing to run.".to_owned(),
        Status::OnHold => format!(
            "This container will not be scheduled to run because its priority is 0 and state is {}.",
            entry.container.state
        ),
        Status::Supervisor => format!(
            "Waiting in workflow queue at position {position}.  Cluster is at capacity and cannot start any new workflows right now."
        ),
        Status::PreviousAttempt => "Waiting for previous container attempt to exit.".to_owned(),
        Status::ForInstance(type_name) => {
            format!("Waiting for a {type_name} instance to boot and be ready to accept work.")
        }
        Status::AtCapacity => {
            let names: Vec<&str> = entry.instance_types.iter().map(|it| it.name.as_str()).collect();
            let names = names.join(", ");
            format!(
                "Waiting in queue at position {position}.  Cluster is at capacity for all eligible instance types ({names}) and cannot start a new instance right now."
            )
        }
        Status::Waiting(_) => {
            let why = if at_quota { "at cloud account limits" } else { "at capacity" };
            format!(
                "Waiting in queue at position {position}.  Cluster is {why} and cannot start any new instances right now."
            )
        }
        Status::AfterOthers => "Waiting for other containers to finish first.".to_owned(),
    }
}

/// The status of an entry that the steps of §3 do not concern.
pub(super) fn of_standing(item: &Item<'_>) -> Status {
    if item.state() == ContainerState::Running {
        return Status::Nothing;
    }
    match item.standing {
        Standing::Ended => Status::Nothing,
        Standing::OnWorker => Status::Allocated,
        Standing::Expected(_) => {
            item.sent_type().map_or(Status::PreviousAttempt, |name| Status::ForInstance(name.clone()))
        }
        Standing::Sent(_) | Standing::PreviousAlive => Status::PreviousAttempt,
        Standing::NotReady => Status::AfterOthers,
        Standing::OnHold => Status::OnHold,
        Standing::Settling | Standing::Free if item.entry.container.priority < 1 => Status::OnHold,
        Standing::Settling => Status::Waiting(Hold::Settling),
        Standing::Free => Status::Waiting(Hold::Paused),
    }
}
