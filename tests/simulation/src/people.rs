//! Users who submit, cancel and change priorities; operators with their commands; and who kills the dispatcher.

use std::time::Duration;

use crate::core::ids::{ContainerUuid, InstanceId};
use crate::core::pool::invariants::Cause;
use crate::core::vocabulary::IdleBehavior;
use crate::faults::Fault;
use crate::world::World;

impl World {
    /// Everything that people will do, from now on.
    pub fn begin_people(&mut self) {
        for _ in 0..self.plan.containers {
            let early = self.random.chance(0.5);
            let length = self.plan.faults_for.as_secs();
            let when =
                if early { self.random.millis(1, 5000) } else { Duration::from_secs(self.random.between(0, length)) };
            self.after(when, Self::user_submits);
        }
        if self.random.chance(0.3) {
            self.foreign_instance();
        }
        self.next_command();
        self.next_kill();
        self.next_reload();
    }

    /// Tried again while the dispatcher is down.
    fn user_submits(&mut self) {
        if self.process.is_some() {
            self.submit();
        } else {
            self.after(Duration::from_secs(5), Self::user_submits);
        }
    }

    fn next_command(&mut self) {
        let pause = self.random.seconds(5, 600);
        self.after(pause, |world| {
            if world.faults_on {
                if world.process.is_some() && world.fault(Fault::Operator) {
                    world.command_of_operator();
                }
                world.next_command();
            }
        });
    }

    fn command_of_operator(&mut self) {
        let Some(process) = &self.process else { return };
        let instances: Vec<InstanceId> = process.pool.workers().map(|worker| worker.id.clone()).collect();
        let containers: Vec<ContainerUuid> = self.store.open_containers().into_iter().cloned().collect();
        let kind = self.random.index(10);
        if kind < 5 {
            if !instances.is_empty() {
                let id = self.random.pick(&instances).clone();
                self.about_instance(kind, &id);
            }
        } else if !containers.is_empty() {
            let uuid = self.random.pick(&containers).clone();
            self.about_container(kind, &uuid);
        }
    }

    fn about_instance(&mut self, kind: usize, id: &InstanceId) {
        let behavior = match kind {
            0 => IdleBehavior::Hold,
            1 => IdleBehavior::Drain,
            2 | 3 => IdleBehavior::Run,
            _ => {
                self.say(|| format!("operator: kills {id}"));
                self.truth.asked_to_kill.insert(id.clone());
                self.pool(Cause::InstanceKilled, |pool, now, effects| pool.kill_instance(id, "asked", now, effects));
                return;
            }
        };
        self.say(|| format!("operator: {behavior} {id}"));
        self.pool(Cause::Other, |pool, now, effects| pool.set_idle_behavior(id, behavior, now, effects));
    }

    fn about_container(&mut self, kind: usize, uuid: &ContainerUuid) {
        self.say(|| format!("user: command {kind} about {uuid}"));
        let noted = match kind {
            5 => {
                // Recorded before it is sent.
                let noted = self.write(uuid, |record| record.life.note_kill());
                self.pool(Cause::Other, |pool, now, effects| {
                    pool.kill_container(uuid, None, "asked by an operator", now, effects)
                });
                noted
            }
            6 => self.write(uuid, |record| record.life.request_cancel().is_ok()),
            7 => self.write(uuid, |record| record.life.set_priority(0).is_ok()),
            _ => self.write(uuid, |record| record.life.set_priority(7).is_ok()),
        };
        if noted.is_ok() {
            self.counts.notice(Fault::Operator);
        }
    }

    fn next_kill(&mut self) {
        let pause = self.random.seconds(10, 1200);
        self.after(pause, |world| {
            if world.faults_on {
                if world.process.is_some() && world.fault(Fault::KilledAtRandom) {
                    world.kill_process();
                }
                world.next_kill();
            }
        });
    }

    fn next_reload(&mut self) {
        let pause = self.random.seconds(60, 1200);
        self.after(pause, |world| {
            if world.faults_on {
                if world.process.is_some() && world.fault(Fault::TypesRemoved) {
                    let keep = world.random.index(world.plan.types.len()) + 1;
                    let names: Vec<_> = world.plan.types.keys().cloned().collect();
                    let removed = names.iter().skip(keep).cloned().collect::<Vec<_>>();
                    world.types = world.plan.types.clone();
                    world.types.retain(|name, _| !removed.contains(name));
                    world.counts.notice(Fault::TypesRemoved);
                    world.reload();
                }
                world.next_reload();
            }
        });
    }

    /// The dispatcher reads its configuration again.
    pub fn reload(&mut self) {
        let (settings, types, scheduler) =
            (self.plan.settings.clone(), self.types.clone(), self.plan.scheduler.clone());
        self.truth.tripped.clear();
        self.say(|| format!("operator: reloads with {:?}", types.keys().collect::<Vec<_>>()));
        self.pool(Cause::Other, |pool, _, effects| pool.reconfigure(settings, types, effects));
        if let Some(process) = &mut self.process {
            process.scheduler.reconfigure(scheduler);
        }
        self.reselect();
    }

    /// Faults end: what people have done is taken back, and what cannot end by itself on a held machine ends.
    pub fn end_faults(&mut self) {
        self.faults_on = false;
        self.say(|| "faults end".to_owned());
        self.storage_fails_until = self.now;
        self.types = self.plan.types.clone();
        if self.process.is_none() {
            // Its restart is planned already; it will find all types.
            return;
        }
        self.reload();
    }

    /// Whoever holds machines and containers lets go of them, as far as the dispatcher lives and shows them.
    pub fn let_go(&mut self) {
        let Some(process) = &self.process else { return };
        let held: Vec<InstanceId> = process
            .pool
            .workers()
            .filter(|worker| worker.idle_behavior == IdleBehavior::Hold)
            .map(|worker| worker.id.clone())
            .collect();
        for id in held {
            self.pool(Cause::Other, |pool, now, effects| pool.set_idle_behavior(&id, IdleBehavior::Run, now, effects));
        }
        let on_hold: Vec<ContainerUuid> = self
            .store
            .records
            .iter()
            .filter(|(_, record)| !record.life.state.is_final() && record.life.priority == 0)
            .filter(|(_, record)| !record.life.cancel_requested)
            .map(|(uuid, _)| uuid.clone())
            .collect();
        for uuid in on_hold {
            self.commit(&uuid, |record| record.life.set_priority(1).is_ok());
        }
    }
}
