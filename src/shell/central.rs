//! The central thread: receives the core's effects in order and carries them out, or hands out what may take long. It also fires
//! the core's timers. Nothing here waits for the cloud, a worker or a disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::clock::Clock;
use super::lanes::{Lanes, Work};
use super::operations::Operations;
use super::outbox::next_turn;
use super::pool::PoolDoor;
use super::stop::Stop;
use super::wakeups::Subscribers;
use super::work_pool::Refused;
use super::workers::Workers;
use crate::cloud::boot::Boot;
use crate::core::effect::{Effect, Figure, Level, Note, seconds};
use crate::log::{time_of_day, write_note};
use crate::management::metrics::Metrics;
use crate::queue::ContainerQueue;
use crate::remote::Lane;

/// Batches of effects that are handled before subscribers are told.
const BATCHES_PER_TURN: usize = 256;
/// With no deadline the thread still looks this often.
const IDLE_WAIT: Duration = Duration::from_secs(60);
/// A turn that takes longer is logged: everything else waits for it.
const SLOW_TURN: Duration = Duration::from_millis(500);

/// What the thread uses.
#[derive(Debug)]
pub struct Central {
    pub door: Arc<PoolDoor>,
    pub clock: Clock,
    pub workers: Arc<Workers>,
    pub lanes: Lanes,
    pub operations: Arc<Operations>,
    /// What new instances have in common.
    pub boot: Boot,
    pub queue: Arc<dyn ContainerQueue>,
    pub metrics: Arc<Metrics>,
    pub subscribers: Arc<Subscribers>,
    /// One slot: asks the sync thread for a list.
    pub list_soon: Sender<()>,
}

impl Central {
    /// The thread's body: until `stop`.
    pub fn run(&self, batches: &Receiver<Vec<Effect>>, stop: &Stop) {
        let mut lost = 0;
        let deadline = || self.door.next_deadline().map(|moment| self.clock.instant_of(moment));
        while let Some(turn) = next_turn(deadline, batches, IDLE_WAIT, stop) {
            let began = Instant::now();
            if turn.is_due {
                self.door.tick();
            }
            let mut notify = turn.batch.is_some_and(|batch| self.carry_out(batch));
            for batch in batches.try_iter().take(BATCHES_PER_TURN) {
                notify |= self.carry_out(batch);
            }
            if notify {
                self.subscribers.notify();
            }
            if self.door.overflowed() > lost {
                lost += 1;
                self.metrics.effects_overflow();
                write_note(&Note::new(
                    Level::Error,
                    "central",
                    "effects were lost: the channel is full; please report this",
                ));
            }
            let took = began.elapsed();
            if took > SLOW_TURN {
                let note = Note::new(Level::Warn, "central", "a turn of the central thread was slow");
                write_note(&note.with("Duration", seconds(took)));
            }
        }
    }

    /// True if subscribers are to be told.
    fn carry_out(&self, batch: Vec<Effect>) -> bool {
        let mut notify = false;
        for effect in batch {
            match effect {
                Effect::NotifySubscribers => notify = true,
                other => self.effect(other),
            }
        }
        notify
    }

    fn effect(&self, effect: Effect) {
        match effect {
            Effect::NotifySubscribers => {}
            Effect::Log(note) => self.log(note),
            Effect::Observe(figure) => self.observe(&figure),
            Effect::CreateInstance { operation, instance_type, tags, secret } => {
                self.operations.create(operation, self.boot.order(instance_type, tags, secret));
            }
            Effect::DestroyInstance { instance, secret, ending } => self.operations.destroy(&instance, secret, ending),
            Effect::SaveTags { instance, tags } => self.operations.save_tags(&instance, tags),
            Effect::StartContainer(order) => self.hand_out(Work::Start(order)),
            Effect::KillRunner(order) => self.hand_out(Work::Kill(order)),
            Effect::CollectResult(order) => self.hand_out(Work::Collect(order)),
            Effect::ReapRunner(order) => self.hand_out(Work::Reap(order)),
            Effect::OpenWorker { instance, secret } => self.workers.open(&instance, secret.as_ref()),
            Effect::Retarget { instance, address, remote_user } => {
                self.workers.retarget(&instance, &address, &remote_user);
            }
            Effect::CutConnections { instance } => self.workers.cut(&instance),
            Effect::CloseWorker { instance } => self.workers.close(&instance),
            Effect::ProbeSoon { instance } => self.workers.probe_soon(&instance),
            Effect::ListSoon => {
                let _ = self.list_soon.try_send(());
            }
        }
    }

    fn log(&self, note: Note) {
        match note.resumes_at {
            None => write_note(&note),
            Some(at) => write_note(&note.with("ResumeTime", time_of_day(self.clock.wall_of(at)))),
        }
    }

    fn hand_out(&self, work: Work) {
        let lane = if matches!(work, Work::Collect(_)) { Lane::Bulk } else { Lane::Action };
        let width = self.workers.get(&work.order().instance).map_or(1, |handle| handle.runner.executor.width(lane));
        if let Err(refused) = self.lanes.submit(work, width)
            && refused != Refused::Stopped
        {
            let note = Note::new(Level::Error, "central", "an operation on an instance is dropped");
            write_note(&note.with("Reason", format!("{refused:?}")));
        }
    }

    fn observe(&self, figure: &Figure) {
        match figure {
            Figure::StartReturned(uuid) => {
                if let Some(container) = self.queue.get(uuid) {
                    let waited = super::clock::wall_now().saturating_sub(container.created_at);
                    self.metrics.queue_to_crunch_run(Duration::from_millis(u64::try_from(waited).unwrap_or(0)));
                }
            }
            other => self.metrics.observe(other),
        }
    }
}
