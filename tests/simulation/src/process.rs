//! One life of the dispatcher: the core's state, and what the shell keeps around it. A crash drops all of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::calls::{Changes, SyncState};
use crate::core::effect::{Effect, Figure};
use crate::core::ids::{ContainerUuid, InstanceId};
use crate::core::pool::Pool;
use crate::core::pool::invariants::Cause;
use crate::core::scheduler::Scheduler;
use crate::core::time::Moment;
use crate::core::vocabulary::BootOutcome;
use crate::core::worker::round::RoundPlan;
use crate::faults::Fault;
use crate::lanes::{Lane, Work};
use crate::rounds::Thread;
use crate::world::World;

#[derive(Debug)]
pub struct Process {
    pub id: u64,
    pub pool: Pool,
    pub scheduler: Scheduler,
    /// Effects that the central thread has not carried out yet.
    pub effects: VecDeque<Effect>,
    central_due: bool,
    timers_at: Option<Moment>,
    /// The scheduler's one-slot channels: it was told that something changed.
    pub told: bool,
    pub pass_at: Option<Moment>,
    pub last_pass: Moment,
    /// The queue's snapshot is as of then.
    pub as_of: Moment,
    /// The queue cannot be written.
    pub trouble: bool,
    /// Containers with an operation in progress (`None`), or left alone until then.
    pub busy: BTreeMap<ContainerUuid, Option<Moment>>,
    pub threads: BTreeMap<InstanceId, Thread>,
    /// The rounds in flight, with the generation of their thread.
    pub rounds: BTreeMap<InstanceId, RoundPlan>,
    pub lanes: BTreeMap<(InstanceId, Lane), VecDeque<Work>>,
    pub changes: Changes,
    pub sync: SyncState,
    pub generations: u64,
}

impl Process {
    /// Of workers that are the same record as when the round began.
    pub fn rounds_in_flight(&self) -> BTreeMap<InstanceId, usize> {
        let same = |(id, plan): &(&InstanceId, &RoundPlan)| {
            self.pool.worker(id).is_some_and(|worker| worker.appeared <= plan.began)
        };
        self.rounds.iter().filter(same).map(|(id, _)| (id.clone(), 1)).collect()
    }
}

impl World {
    /// The dispatcher starts, with nothing but what is on its disk and in the cloud.
    pub fn start_process(&mut self) {
        let id = self.next_process_id();
        // A new life knows of no verdicts.
        self.truth.tripped.clear();
        self.store.reload(&self.types);
        self.reselect();
        let pool = Pool::new(self.plan.settings.clone(), self.types.clone());
        self.process = Some(Process {
            id,
            pool,
            scheduler: Scheduler::new(self.plan.scheduler.clone()),
            effects: VecDeque::new(),
            central_due: false,
            timers_at: None,
            told: true,
            pass_at: None,
            last_pass: self.now,
            as_of: Moment::ZERO,
            trouble: false,
            busy: BTreeMap::new(),
            threads: BTreeMap::new(),
            rounds: BTreeMap::new(),
            lanes: BTreeMap::new(),
            changes: Changes::default(),
            sync: SyncState::default(),
            generations: 0,
        });
        self.say(|| format!("dispatcher: life {id} begins"));
        self.pass_soon(Duration::ZERO);
        self.list_after(Duration::ZERO);
    }

    /// `kill -9`; another life begins after a while.
    pub fn kill_process(&mut self) {
        if self.process.take().is_none() {
            return;
        }
        self.say(|| "dispatcher: killed".to_owned());
        let pause = self.random.millis(100, 120_000);
        self.after(pause, Self::start_process);
    }

    /// The central thread has something to carry out.
    pub fn central_soon(&mut self) {
        let Some(process) = self.process.as_mut().filter(|process| !process.central_due) else { return };
        process.central_due = true;
        let delay = self.turn_of_thread(5);
        self.in_process(delay, Self::central);
    }

    fn central(&mut self) {
        if let Some(process) = &mut self.process {
            process.central_due = false;
        }
        while let Some(effect) = self.process.as_mut().and_then(|process| process.effects.pop_front()) {
            if self.fault(Fault::KilledBetweenEffects) {
                self.kill_process();
                return;
            }
            // Nothing may stay open for ever because of it (20 §10.7). A notification has no other net than the poll.
            let may_be_lost = !matches!(
                effect,
                Effect::NotifySubscribers
                    | Effect::Log(_)
                    | Effect::Observe(_)
                    | Effect::Retarget { .. }
                    | Effect::CloseWorker { .. }
            );
            if may_be_lost && self.fault(Fault::EffectLost) {
                self.say(|| format!("lost: {effect:?}"));
                continue;
            }
            self.carry_out(effect);
            if self.violation.is_some() {
                return;
            }
        }
    }

    /// The core's timers are handled when the first of them is due.
    pub fn arm_timers(&mut self) {
        let Some(process) = &mut self.process else { return };
        let Some(next) = process.pool.next_deadline() else { return };
        if process.timers_at.is_some_and(|armed| armed <= next) {
            return;
        }
        process.timers_at = Some(next);
        self.in_process(next.since(self.now), |world| {
            let Some(process) = &mut world.process else { return };
            process.timers_at = None;
            if process.pool.next_deadline().is_some_and(|next| next <= world.now) {
                world.pool(Cause::Other, |pool, now, effects| pool.tick(now, effects));
            }
            world.arm_timers();
        });
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::NotifySubscribers => self.notify_scheduler(),
            Effect::Log(note) => {
                self.notice(&note);
                self.say(|| format!("log: {} {:?}", note.message, note.fields));
            }
            Effect::Observe(figure) => self.observe(&figure),
            Effect::CreateInstance { operation, instance_type, tags, secret: _ } => {
                self.call_create(operation, &instance_type, tags);
            }
            Effect::DestroyInstance { instance, ending, .. } => {
                self.check_destroy(&instance, ending);
                self.ask_destroy(&instance);
            }
            Effect::SaveTags { instance, tags } => self.ask_tags(&instance, tags),
            Effect::StartContainer(order) => self.submit_work(Work::Start(order)),
            Effect::KillRunner(order) => self.submit_work(Work::Kill(order)),
            Effect::CollectResult(order) => self.submit_work(Work::Collect(order)),
            Effect::ReapRunner(order) => self.submit_work(Work::Reap(order)),
            Effect::OpenWorker { instance, .. } => self.open_thread(&instance),
            Effect::Retarget { instance, address, .. } => self.retarget(&instance, &address),
            Effect::CutConnections { instance } => self.probe_soon(&instance),
            Effect::CloseWorker { instance } => self.close_thread(&instance),
            Effect::ProbeSoon { instance } => self.probe_soon(&instance),
            Effect::ListSoon => self.list_soon(),
        }
    }

    fn observe(&mut self, figure: &Figure) {
        if let Figure::BootOutcome(outcome) = figure {
            let outcome: BootOutcome = *outcome;
            self.say(|| format!("metric: boot outcome {outcome}"));
        }
    }
}
