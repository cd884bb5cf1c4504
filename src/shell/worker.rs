//! A worker's thread: its ticker, the event-driven wake-ups and the probe guard are its whole logic (spec 10 §3).
//!
//! It asks the core for a plan, carries it out ([`super::round`]), gives the report back, and is told how to go on.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};

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
    /// One slot: full means that the thread has been told.
    kicks: Sender<()>,
    kicked: Receiver<()>,
}

impl WorkerHandle {
    /// # Errors
    /// No descriptor is left.
    pub fn new(instance: InstanceId, runner: Runner) -> std::io::Result<Self> {
        let (kicks, kicked) = bounded(1);
        Ok(Self { instance, runner, guard: ProbeGuard::default(), wake: Wake::new()?, kicks, kicked })
    }

    /// A round that begins after this call: now, or as soon as the present one has ended, which a long poll does at once.
    pub fn probe_soon(&self) {
        self.guard.want();
        let _ = self.kicks.try_send(());
        self.wake.wake();
    }
}

/// The thread's own state.
struct Rounds<'a> {
    worker: &'a WorkerHandle,
    door: &'a PoolDoor,
    context: RoundContext,
    /// The list that the last round saw; a long poll waits until there is another.
    known: Option<String>,
    next_tick: Instant,
    /// `None`: with the next tick.
    next_round: Option<Instant>,
    last_began: Option<Instant>,
    ticks: u64,
}

/// The body of a worker's thread: until `closing`.
pub fn run(worker: &Arc<WorkerHandle>, door: &PoolDoor, context: RoundContext, closing: &Stop) {
    let now = Instant::now();
    let mut rounds = Rounds {
        worker,
        door,
        context,
        known: None,
        next_tick: now,
        next_round: Some(now),
        last_began: None,
        ticks: 0,
    };
    rounds.next_tick = now + rounds.tick_interval();
    loop {
        let until = rounds.next_round.map_or(rounds.next_tick, |round| round.min(rounds.next_tick));
        select_biased! {
            recv(closing.channel()) -> _ => return,
            recv(worker.kicked) -> _ => rounds.next_round = Some(Instant::now()),
            default(until.saturating_duration_since(Instant::now())) => {}
        }
        rounds.turn(closing);
    }
}

impl Rounds<'_> {
    fn turn(&mut self, closing: &Stop) {
        let now = Instant::now();
        if now >= self.next_tick {
            self.tick(now);
        }
        let Some(due) = self.next_round.filter(|due| now >= *due) else {
            return;
        };
        // Two rounds of one worker are at least this far apart, however many events there are.
        if let Some(earliest) = self.last_began.map(|began| began + ROUND_SPACING)
            && earliest > due.max(now)
        {
            self.next_round = Some(earliest);
            return;
        }
        self.round(closing);
    }

    /// Whether or not the guard is free: a shutdown may be due.
    fn tick(&mut self, now: Instant) {
        self.door.tick_worker(&self.worker.instance);
        self.worker.runner.executor.tend();
        self.ticks += 1;
        self.next_tick = now + self.tick_interval();
        if self.next_round.is_none() {
            self.next_round = Some(now + self.door.reserve_probe());
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

    fn round(&mut self, closing: &Stop) {
        let Some(_held) = self.worker.guard.try_lock() else {
            let note = Note::new(Level::Debug, "worker", "still waiting for last probe to finish");
            write_note(&note.with("Instance", &self.worker.instance));
            self.next_round = None;
            return;
        };
        // In this order: an event between the two costs a needless round at most, and is never lost.
        self.worker.wake.clear();
        if self.worker.guard.take_wanted() {
            self.known = None;
        }
        let _ = self.worker.kicked.try_recv();
        self.last_began = Some(Instant::now());
        let Some(plan) = self.door.begin_round(&self.worker.instance) else {
            self.next_round = None;
            return;
        };
        let known = self.known.take();
        let report = carry_out(&mut self.context, self.door, &plan, known.as_deref(), &self.worker.wake);
        let token = report.listing.as_ref().and_then(|listing| listing.token.clone());
        let next = self.door.finish_round(&self.worker.instance, &plan, &report);
        if !closing.is_stopped() {
            self.schedule(next, token);
        }
    }

    fn schedule(&mut self, next: NextRound, token: Option<String>) {
        let now = Instant::now();
        self.next_round = match next {
            NextRound::AtOnce => Some(now),
            NextRound::LongPoll if token.is_some() => {
                self.known = token;
                Some(now)
            }
            NextRound::After(pause) => Some(now + pause + self.door.reserve_probe()),
            NextRound::LongPoll | NextRound::Never => None,
        };
        if self.worker.guard.take_wanted() {
            self.known = None;
            self.next_round = Some(now);
        }
    }
}
