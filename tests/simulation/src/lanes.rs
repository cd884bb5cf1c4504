//! Starts, kills, reaps and collections, as `shell/lanes` and `shell/containers` have them: one at a time in each lane of a worker.

use std::time::Duration;

use crate::core::effect::RunnerOrder;
use crate::core::ids::InstanceId;
use crate::core::lifecycle::{Assigned, AttemptEnd};
use crate::core::pool::invariants::Cause;
use crate::core::settings::{COLLECT_DEADLINE, COMMAND_DEADLINE};
use crate::core::worker::collect::{CollectReturn, StorageFault};
use crate::core::worker::kill::KillReturn;
use crate::core::worker::running::StartReturn;
use crate::faults::Fault;
use crate::store::StoreError;
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Action,
    Bulk,
}

#[derive(Clone, Debug)]
pub enum Work {
    Start(RunnerOrder),
    Kill(RunnerOrder),
    Reap(RunnerOrder),
    Collect(RunnerOrder),
    Forget(RunnerOrder),
}

impl Work {
    fn order(&self) -> &RunnerOrder {
        match self {
            Self::Start(order) | Self::Kill(order) | Self::Reap(order) | Self::Collect(order) | Self::Forget(order) => {
                order
            }
        }
    }

    fn lane(&self) -> (InstanceId, Lane) {
        let lane = if matches!(self, Self::Collect(_)) { Lane::Bulk } else { Lane::Action };
        (self.order().instance.clone(), lane)
    }
}

impl World {
    pub fn submit_work(&mut self, work: Work) {
        let lane = work.lane();
        let Some(process) = &mut self.process else { return };
        let waiting = process.lanes.entry(lane.clone()).or_default();
        // The first one in the lane is the one that is being done.
        waiting.push_back(work);
        if waiting.len() == 1 {
            self.begin_work(lane);
        }
    }

    fn begin_work(&mut self, lane: (InstanceId, Lane)) {
        let delay = self.turn_of_thread(5);
        self.in_process(delay, move |world| {
            let work = world.process.as_ref().and_then(|process| process.lanes.get(&lane)?.front().cloned());
            let Some(work) = work else { return };
            let watched = world.thread(&lane.0).is_some();
            match work {
                _ if !watched => world.work_done(&work),
                Work::Start(ref order) => world.start(order.clone(), work),
                Work::Kill(ref order) => world.kill(order.clone(), work),
                Work::Reap(ref order) => world.reap(order.clone(), work),
                Work::Collect(ref order) => world.collect(order.clone(), work),
                Work::Forget(ref order) => world.forget(order.clone(), work),
            }
        });
    }

    fn work_done(&mut self, work: &Work) {
        let lane = work.lane();
        let Some(process) = &mut self.process else { return };
        let Some(waiting) = process.lanes.get_mut(&lane) else { return };
        waiting.pop_front();
        if waiting.is_empty() {
            process.lanes.remove(&lane);
        } else {
            self.begin_work(lane);
        }
    }

    fn start_is_open(&self, order: &RunnerOrder) -> bool {
        self.process.as_ref().is_some_and(|process| process.pool.start_is_open(order))
    }

    fn refuse_start(&mut self, order: &RunnerOrder, work: &Work) {
        self.pool(Cause::Other, |pool, now, effects| pool.start_refused(order, now, effects));
        self.work_done(work);
    }

    fn start(&mut self, order: RunnerOrder, work: Work) {
        if !self.start_is_open(&order) {
            self.refuse_start(&order, &work);
            return;
        }
        let worker = self.process.as_ref().and_then(|process| process.pool.worker(&order.instance));
        let Some(type_name) = worker.map(|worker| worker.type_name.clone()) else {
            self.work_done(&work);
            return;
        };
        let commit = self.random.millis(1, 30);
        self.in_process(commit, move |world| {
            let mut repeated = false;
            let assigned = world.write(&order.uuid, |record| {
                let assigned = record.life.assign(order.attempt, &order.instance, &type_name);
                repeated = assigned == Ok(Assigned::Again);
                assigned.is_ok()
            });
            match assigned {
                Ok(()) if world.start_is_open(&order) => world.send_start(order, repeated, work),
                Err(StoreError::Storage) => {
                    world.in_process(Duration::from_secs(1), move |world| world.refuse_start(&order, &work));
                }
                Ok(()) | Err(StoreError::Refused) => world.refuse_start(&order, &work),
            }
        });
    }

    fn send_start(&mut self, order: RunnerOrder, repeated: bool, work: Work) {
        let (id, to) = (order.instance.clone(), order.clone());
        let there = move |world: &mut Self| Some(world.host_start(&to.instance, &to.uuid, to.attempt));
        self.command(&id, COMMAND_DEADLINE, there, move |world, answer| {
            let settled = answer.is_some_and(|started| started || !repeated);
            let answer = if settled { StartReturn::Settled } else { StartReturn::Unknown };
            world.pool(Cause::Other, |pool, now, effects| pool.start_returned(&order, answer, now, effects));
            world.work_done(&work);
        });
    }

    fn kill(&mut self, order: RunnerOrder, work: Work) {
        if !self.process.as_ref().is_some_and(|process| process.pool.kill_is_open(&order)) {
            self.work_done(&work);
            return;
        }
        let (id, to) = (order.instance.clone(), order.clone());
        let there = move |world: &mut Self| Some(world.host_kill(&to.instance, &to.uuid, to.attempt));
        self.command(&id, COMMAND_DEADLINE, there, move |world, answer| {
            let answer = answer.unwrap_or(KillReturn::Failed);
            world.pool(Cause::Other, |pool, now, effects| pool.kill_returned(&order, answer, now, effects));
            world.work_done(&work);
        });
    }

    fn reap(&mut self, order: RunnerOrder, work: Work) {
        let (id, to) = (order.instance.clone(), order.clone());
        let there = move |world: &mut Self| Some(world.host_reap(&to.instance, &to.uuid));
        self.command(&id, COMMAND_DEADLINE, there, move |world, answer| {
            let done = answer == Some(true);
            world.pool(Cause::Other, |pool, now, effects| pool.reap_returned(&order, done, now, effects));
            world.work_done(&work);
        });
    }

    fn collect(&mut self, order: RunnerOrder, work: Work) {
        // There already after a crash between the rename and the commit.
        if self.store.results.contains_key(&(order.uuid.clone(), order.attempt)) {
            self.record_result(order, work);
            return;
        }
        let (id, to) = (order.instance.clone(), order.clone());
        let there = move |world: &mut Self| {
            let host = world.cloud.host(&to.instance, world.now)?;
            host.results.get(&(to.uuid.clone(), to.attempt)).map(|(end, _)| end.clone())
        };
        let deadline = COLLECT_DEADLINE.saturating_sub(Duration::from_secs(60));
        self.command(&id, deadline, there, move |world, fetched| {
            let cut = world.fault(Fault::CollectFails);
            match fetched.filter(|_| !cut) {
                None => {
                    if cut {
                        world.counts.notice(Fault::CollectFails);
                    }
                    world.collected(&order, CollectReturn::Failed, &work);
                }
                Some(end) => world.store_result(order, end, work),
            }
        });
    }

    fn store_result(&mut self, order: RunnerOrder, end: AttemptEnd, work: Work) {
        let takes = self.random.millis(1, 500);
        self.in_process(takes, move |world| {
            if world.storage_fails() {
                world.counts.notice(Fault::StorageFails);
                world.collected(&order, CollectReturn::StorageFailed(Some(StorageFault::Full)), &work);
                return;
            }
            world.notice_end(&end);
            world.store.results.insert((order.uuid.clone(), order.attempt), end);
            world.record_result(order, work);
        });
    }

    fn notice_end(&mut self, end: &AttemptEnd) {
        match end {
            AttemptEnd::Killed => self.counts.notice(Fault::JobKilled),
            AttemptEnd::DiskFull(_) => self.counts.notice(Fault::HostDiskFull),
            _ => {}
        }
    }

    fn record_result(&mut self, order: RunnerOrder, work: Work) {
        let commit = self.random.millis(1, 30);
        self.in_process(commit, move |world| {
            let key = (order.uuid.clone(), order.attempt);
            let Some(end) = world.store.results.get(&key).cloned() else { return };
            let attempt = order.attempt;
            let written = world.write(&order.uuid, move |record| {
                record.finish(attempt, &end);
                true
            });
            let answer = if written == Err(StoreError::Storage) {
                CollectReturn::StorageFailed(None)
            } else {
                CollectReturn::Done
            };
            world.collected(&order, answer, &work);
        });
    }

    fn collected(&mut self, order: &RunnerOrder, answer: CollectReturn, work: &Work) {
        self.pool(Cause::Other, |pool, now, effects| pool.collect_returned(order, answer, now, effects));
        if answer == CollectReturn::Done {
            self.submit_work(Work::Forget(order.clone()));
        }
        self.work_done(work);
    }

    fn forget(&mut self, order: RunnerOrder, work: Work) {
        let (id, to) = (order.instance.clone(), order.clone());
        let there = move |world: &mut Self| {
            let host = world.cloud.host_mut(&to.instance, world.now)?;
            host.forget(&to.uuid, to.attempt);
            Some(())
        };
        self.command(&id, COMMAND_DEADLINE, there, move |world, answer| {
            // Without an answer the operation's deadline in the core has the next list decide.
            if answer.is_some() {
                world.pool(Cause::Other, |pool, now, effects| pool.forget_returned(&order, now, effects));
            }
            world.work_done(&work);
        });
    }
}
