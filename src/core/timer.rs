//! Deadlines as data: a table of (when, what). A timer that is not needed any more stays and does nothing when it fires.

use std::collections::BTreeSet;

use super::ids::{ContainerUuid, InstanceId, OperationId};
use super::time::Moment;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The create has not returned.
    CreateDeadline(OperationId),
    /// The start has not returned.
    StartDeadline(InstanceId, ContainerUuid, OperationId),
    /// A kill is due (again), has not returned, or must be given up.
    Kill(InstanceId, ContainerUuid),
    /// A fetch of a result is due again, or has not returned.
    Collect(InstanceId, ContainerUuid),
    /// A reap has not returned.
    ReapDeadline(InstanceId, ContainerUuid, OperationId),
    /// A quota pause may have ended.
    Quota,
    /// A capacity pause may have ended.
    Capacity,
    CreatesResume,
    ListsResume,
}

/// At most one entry per (moment, timer). Bounded by the operations that are open: each sets a constant number.
#[derive(Debug, Default, Clone)]
pub struct Timers(BTreeSet<(Moment, Timer)>);

impl Timers {
    pub fn set(&mut self, at: Moment, timer: Timer) {
        self.0.insert((at, timer));
    }

    /// When the next timer fires.
    pub fn next(&self) -> Option<Moment> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub fn pop_due(&mut self, now: Moment) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }

    /// Drops the timers of an instance that is gone.
    pub fn drop_instance(&mut self, gone: &InstanceId) {
        self.0.retain(|(_, timer)| match timer {
            Timer::StartDeadline(instance, ..)
            | Timer::Kill(instance, _)
            | Timer::Collect(instance, _)
            | Timer::ReapDeadline(instance, ..) => instance != gone,
            _ => true,
        });
    }
}
