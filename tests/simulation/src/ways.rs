//! How commands travel to hosts, and what happens to them on the way.

use std::time::Duration;

use crate::core::ids::InstanceId;
use crate::faults::Fault;
use crate::world::World;

/// How a command fares.
#[derive(Debug)]
pub enum Way {
    /// It arrives, and its answer comes back.
    Good { there: Duration, back: Duration },
    /// It never arrives.
    Lost { fails_in: Duration },
    /// It arrives, perhaps after we gave it up; its answer does not come back.
    Mute { there: Duration, fails_in: Duration },
}

impl World {
    /// How a command to this host fares that is given up after `deadline`.
    pub fn way(&mut self, id: &InstanceId, deadline: Duration) -> Way {
        let quick = |world: &mut Self| world.random.millis(1, 300);
        let no_address = self.thread(id).is_none_or(|thread| thread.address.is_empty());
        let host = self.cloud.host(id, self.now);
        let booted = host.is_some_and(|host| host.boots_at.is_some_and(|at| at <= self.now));
        let trouble = host.and_then(|host| host.trouble).filter(|(_, until)| self.now < *until && self.faults_on);
        if no_address || !booted {
            return Way::Lost { fails_in: quick(self) };
        }
        if let Some((fault, _)) = trouble {
            self.counts.notice(fault);
            let hangs = fault == Fault::Hangs;
            return Way::Lost { fails_in: if hangs { deadline } else { quick(self) } };
        }
        let there = self.random.millis(1, 60);
        for (fault, arrives) in [(Fault::CutBefore, false), (Fault::CutAfter, true)] {
            if self.fault(fault) {
                self.counts.notice(fault);
                let fails_in = there + quick(self);
                return if arrives { Way::Mute { there, fails_in } } else { Way::Lost { fails_in } };
            }
        }
        if self.fault(Fault::Late) {
            self.counts.notice(Fault::Late);
            let fails_in = if self.random.chance(0.5) { deadline } else { self.random.millis(5, 5000) };
            return Way::Mute { there: self.random.seconds(1, 300), fails_in };
        }
        Way::Good { there, back: self.random.millis(1, 60) }
    }

    /// A command: what it does there, and what is done with its answer. `None`: there is none.
    pub fn command<T: 'static>(
        &mut self,
        id: &InstanceId,
        deadline: Duration,
        there: impl FnOnce(&mut Self) -> Option<T> + 'static,
        then: impl FnOnce(&mut Self, Option<T>) + 'static,
    ) {
        match self.way(id, deadline) {
            Way::Lost { fails_in } => self.in_process(fails_in, move |world| then(world, None)),
            Way::Mute { there: arrives, fails_in } => {
                self.after(arrives, move |world| drop(there(world)));
                self.in_process(fails_in, move |world| then(world, None));
            }
            Way::Good { there: arrives, back } => {
                let process = self.process_id();
                self.after(arrives, move |world| {
                    let answer = there(world);
                    if process.is_some() && world.process_id() == process {
                        world.in_process(back, move |world| then(world, answer));
                    }
                });
            }
        }
    }
}
