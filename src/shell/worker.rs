//! A worker's thread: its ticker, the event-driven wake-ups and the probe guard are its whole logic (spec 10 §3). When it does what is
//! in [`super::agenda`].
//!
//! It asks the core for a plan, carries it out ([`super::round`]), gives the report back, and is told how to go on.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::agenda::{Agenda, Turn};
use super::guard::ProbeGuard;
use super::pool::PoolDoor;
use super::round::{RoundContext, carry_out};
use super::stop::Stop;
use crate::core::effect::{Level, Note};
use crate::core::ids::InstanceId;
use crate::core::settings::ROUND_SPACING;
use crate::core::worker::round::NextRound;
use crate::log::write_note;
use crate::remote::runner::Runner;
use crate::remote::wake::Wake;

/// What others know of a worker's thread: how to talk to its host, and how to wake it.
#[derive(Debug)]
pub struct WorkerHandle {
    pub instance: InstanceId,
    pub runner: Runner,
    guard: ProbeGuard,
    /// Ends a long poll that is under way.
    wake: Wake,
}

impl WorkerHandle {
    /// # Errors
    /// No descriptor is left.
    pub fn new(instance: InstanceId, runner: Runner) -> std::io::Result<Self> {
        Ok(Self { instance, runner, guard: ProbeGuard::default(), wake: Wake::new()? })
    }

    /// A round that begins after this call: now, or as soon as the present one has ended, which a long poll does at once.
    pub fn probe_soon(&self) {
        self.guard.ask(&self.wake);
    }
}

/// What the thread remembers from one round to the next.
struct Rounds<'a> {
    worker: &'a WorkerHandle,
    door: &'a PoolDoor,
    context: RoundContext,
    /// The list that the last round saw; a long poll waits until there is another.
    known: Option<String>,
    ticks: u64,
}

/// The body of a worker's thread: until `closing`.
pub fn run(worker: &Arc<WorkerHandle>, door: &PoolDoor, context: RoundContext, closing: &Stop) {
    let mut rounds = Rounds { worker, door, context, known: None, ticks: 0 };
    let mut agenda = Agenda::new(&worker.guard, ROUND_SPACING, Instant::now() + rounds.tick_interval());
    while agenda.wait(closing) {
        let now = Instant::now();
        if agenda.is_tick_due(now) {
            rounds.tick(&mut agenda, now);
        }
        if agenda.round(&worker.wake, |asked| rounds.round(asked, closing)) == Turn::Taken {
            let note = Note::new(Level::Debug, "worker", "still waiting for last probe to finish");
            write_note(&note.with("Instance", &worker.instance));
        }
    }
}

impl Rounds<'_> {
    /// Whether or not the guard is free: a shutdown may be due.
    fn tick(&mut self, agenda: &mut Agenda<'_>, now: Instant) {
        self.door.tick_worker(&self.worker.instance);
        self.worker.runner.executor.tend();
        self.ticks += 1;
        agenda.set_next_tick(now + self.tick_interval());
        if !agenda.has_round() {
            agenda.set_round(now + self.door.reserve_probe());
        }
    }

    /// ProbeInterval, up to a twenty-third longer, so that workers drift apart.
    fn tick_interval(&self) -> Duration {
        let mut hasher = DefaultHasher::new();
        (&self.worker.instance, self.ticks).hash(&mut hasher);
        let share = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
        let interval = self.door.settings().probe_interval;
        interval + interval * share / 23_000
    }

    /// When the next one is due; `None`: with the next tick. One that was asked for waits for nothing.
    fn round(&mut self, asked: bool, closing: &Stop) -> Option<Instant> {
        let known = self.known.take().filter(|_| !asked);
        let plan = self.door.begin_round(&self.worker.instance)?;
        let report = carry_out(&mut self.context, self.door, &plan, known.as_deref(), &self.worker.wake);
        let token = report.listing.as_ref().and_then(|listing| listing.token.clone());
        let next = self.door.finish_round(&self.worker.instance, &plan, &report);
        if closing.is_stopped() {
            return None;
        }
        let now = Instant::now();
        match next {
            NextRound::AtOnce => Some(now),
            NextRound::LongPoll if token.is_some() => {
                self.known = token;
                Some(now)
            }
            NextRound::After(pause) => Some(now + pause + self.door.reserve_probe()),
            NextRound::LongPoll | NextRound::Never => None,
        }
    }
}
