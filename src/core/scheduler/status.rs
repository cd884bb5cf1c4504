//! What people are told about a waiting container. These texts are part of the API (spec 82 §3.2).

use super::order::{Item, Standing};
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
    Waiting,
    /// Not ready: something in `after`. (Only the local queue has that.)
    AfterOthers,
}

/// Writes the texts in order. Two counters: one for supervisors, one for all others; of these, the ones that name their types
/// take their numbers first (a walk), then the rest in list order.
pub(super) fn texts(items: &[Item<'_>], statuses: &[Status], at_quota: bool) -> Vec<String> {
    let mut supervisors = 0;
    let mut waiting = statuses.iter().filter(|status| **status == Status::AtCapacity).count();
    let mut at_capacity = 0;
    let next = |counter: &mut usize| {
        *counter += 1;
        *counter
    };
    let mut text = |item: &Item<'_>, status: &Status| match status {
        Status::Nothing => String::new(),
        Status::Allocated => "Container is allocated to an instance and preparing to run.".to_owned(),
        Status::OnHold => format!(
            "This container will not be scheduled to run because its priority is 0 and state is {}.",
            item.state()
        ),
        Status::Supervisor => format!(
            "Waiting in workflow queue at position {}.  Cluster is at capacity and cannot start any new workflows right now.",
            next(&mut supervisors)
        ),
        Status::PreviousAttempt => "Waiting for previous container attempt to exit.".to_owned(),
        Status::ForInstance(type_name) => {
            format!("Waiting for a {type_name} instance to boot and be ready to accept work.")
        }
        Status::AtCapacity => {
            let names: Vec<&str> = item.entry.instance_types.iter().map(|it| it.name.as_str()).collect();
            format!(
                "Waiting in queue at position {}.  Cluster is at capacity for all eligible instance types ({}) and cannot start a new instance right now.",
                next(&mut at_capacity),
                names.join(", ")
            )
        }
        Status::Waiting => {
            let why = if at_quota { "at cloud account limits" } else { "at capacity" };
            format!(
                "Waiting in queue at position {}.  Cluster is {why} and cannot start any new instances right now.",
                next(&mut waiting)
            )
        }
        Status::AfterOthers => "Waiting for other containers to finish first.".to_owned(),
    };
    items.iter().zip(statuses).map(|(item, status)| text(item, status)).collect()
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
        Standing::Settling | Standing::Free => Status::Waiting,
    }
}
