//! Deadlines as data: a table of what is to happen when. Setting a timer again moves it.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{ContainerUuid, InstanceId, OperationId, TypeName};
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
    /// The removal of a collected result's copy has not returned.
    ForgetDeadline(InstanceId, ContainerUuid),
    /// A reap has not returned.
    ReapDeadline(InstanceId, ContainerUuid, OperationId),
    /// A quota pause may have ended.
    Quota,
    /// A capacity pause may have ended.
    Capacity,
    /// The pause of a type whose instances do not boot ends.
    Breaker(TypeName),
    /// An instance was created whose address is not known: time for a list.
    Address,
    CreatesResume,
    ListsResume,
}

/// At most one entry per timer, cancelled with what it was set for: bounded by the operations that are open.
#[derive(Debug, Default, Clone)]
pub struct Timers {
    order: BTreeSet<(Moment, Timer)>,
    at: BTreeMap<Timer, Moment>,
}

impl Timers {
    /// Sets a timer, or moves it if it is set already.
    pub fn set(&mut self, at: Moment, timer: Timer) {
        self.cancel(&timer);
        self.order.insert((at, timer.clone()));
        self.at.insert(timer, at);
    }

    /// No effect if it is not set.
    pub fn cancel(&mut self, timer: &Timer) {
        if let Some((timer, at)) = self.at.remove_entry(timer) {
            self.order.remove(&(at, timer));
        }
    }

    /// When this timer fires; `None` if it is not set.
    pub fn when(&self, timer: &Timer) -> Option<Moment> {
        self.at.get(timer).copied()
    }

    /// When the next timer fires.
    pub fn next(&self) -> Option<Moment> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Every timer that is set, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Timer> {
        self.at.keys()
    }

    /// Takes the earliest timer that is due.
    pub fn pop_due(&mut self, now: Moment) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.order.pop_first()?;
        self.at.remove(&timer);
        Some(timer)
    }
}
