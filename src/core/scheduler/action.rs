//! What a pass may order.

use crate::core::container::LostReason;
use crate::core::ids::{Attempt, ContainerUuid, InstanceId, TypeName};

/// One thing to do. Those on the pool (create, start, kill, rule out, shutdown, forget in pool) are carried out at once and in
/// order, under the pool's lock; those on the queue by threads in the background, at most one per container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Queue: Queued → Locked.
    Lock { uuid: ContainerUuid },
    /// Queue: Locked → Queued.
    Unlock { uuid: ContainerUuid },
    /// Pool: start it there. With a queue that keeps attempts, the start's thread first commits `assign`.
    Start { uuid: ContainerUuid, attempt: Attempt, instance: InstanceId, instance_type: TypeName },
    /// Pool: `kill_container`; `None` = wherever it is. (A pass always names the instance.)
    Kill { uuid: ContainerUuid, instance: Option<InstanceId>, reason: &'static str },
    /// Pool: make sure that an attempt which may have been sent there can never run.
    RuleOut { uuid: ContainerUuid, attempt: Attempt, instance: InstanceId },
    /// Pool: one more instance of this type.
    Create { instance_type: TypeName },
    /// Pool: drop an idle instance to make room for another type.
    Shutdown { instance: InstanceId },
    /// Queue: any state that is not final → Cancelled.
    Cancel { uuid: ContainerUuid, why: String },
    /// Queue: a probe listed this attempt: Locked → Running.
    SeenRunning { uuid: ContainerUuid, attempt: Attempt },
    /// Queue: the attempt ended without a result.
    AttemptLost { uuid: ContainerUuid, attempt: Attempt, reason: LostReason },
    /// Pool: `forget_container`.
    ForgetInPool { uuid: ContainerUuid },
    /// Queue: `forget`.
    ForgetInQueue { uuid: ContainerUuid },
}

impl Action {
    /// The container it is about, if any.
    pub fn uuid(&self) -> Option<&ContainerUuid> {
        match self {
            Self::Lock { uuid }
            | Self::Unlock { uuid }
            | Self::Start { uuid, .. }
            | Self::Kill { uuid, .. }
            | Self::RuleOut { uuid, .. }
            | Self::Cancel { uuid, .. }
            | Self::SeenRunning { uuid, .. }
            | Self::AttemptLost { uuid, .. }
            | Self::ForgetInPool { uuid }
            | Self::ForgetInQueue { uuid } => Some(uuid),
            Self::Create { .. } | Self::Shutdown { .. } => None,
        }
    }

    /// An operation on the queue, to be carried out in the background; all others are the pool's.
    pub fn is_on_queue(&self) -> bool {
        matches!(
            self,
            Self::Lock { .. }
                | Self::Unlock { .. }
                | Self::Cancel { .. }
                | Self::SeenRunning { .. }
                | Self::AttemptLost { .. }
                | Self::ForgetInQueue { .. }
        )
    }
}
