//! When a worker's thread does what: its ticks, its next round, and the least time between two rounds (spec 10 §3). What a round does
//! is not known here, and time only as far as it is asked for.

use super::guard::{ProbeGuard, Round};
use super::primitives::{Duration, Instant, Stop, Waited, Wake};

/// The thread's own; others reach it through the guard.
#[derive(Debug)]
pub struct Agenda<'a> {
    guard: &'a ProbeGuard,
    /// Two rounds are at least this far apart, however many events there are.
    spacing: Duration,
    next_tick: Instant,
    /// `None`: with the next tick.
    next_round: Option<Instant>,
    last_began: Option<Instant>,
    /// The last round ended with a request.
    asked: bool,
}

/// What became of a turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    NotDue,
    /// Another round is in flight.
    Taken,
    Done,
}

impl<'a> Agenda<'a> {
    /// The first round is due at once.
    pub fn new(guard: &'a ProbeGuard, spacing: Duration, first_tick: Instant) -> Self {
        Self { guard, spacing, next_tick: first_tick, next_round: Some(Instant::now()), last_began: None, asked: false }
    }

    /// Until a tick or a round is due, or a round is asked for. False: the worker is closing.
    pub fn wait(&mut self, closing: &Stop) -> bool {
        let until = self.next_round.map_or(self.next_tick, |round| round.min(self.next_tick));
        match self.guard.wait(closing, until) {
            Waited::Stopped => return false,
            Waited::Got(()) => self.next_round = Some(Instant::now()),
            Waited::TimeUp => {}
        }
        true
    }

    pub fn is_tick_due(&self, now: Instant) -> bool {
        now >= self.next_tick
    }

    pub fn set_next_tick(&mut self, at: Instant) {
        self.next_tick = at;
    }

    /// A tick restarts what is missing, and only that.
    pub fn has_round(&self) -> bool {
        self.next_round.is_some()
    }

    pub fn set_round(&mut self, at: Instant) {
        self.next_round = Some(at);
    }

    /// Runs a round if one is due and none is in flight. `body` is told whether an event has asked for it, and says when the next one is
    /// due; what is asked for meanwhile is due at once.
    pub fn round(&mut self, wake: &Wake, body: impl FnOnce(bool) -> Option<Instant>) -> Turn {
        let now = Instant::now();
        let Some(due) = self.next_round.filter(|due| now >= *due) else {
            return Turn::NotDue;
        };
        if let Some(earliest) = self.last_began.map(|began| began + self.spacing)
            && earliest > due.max(now)
        {
            self.next_round = Some(earliest);
            return Turn::NotDue;
        }
        let asked_before = self.asked;
        match self.guard.round(wake, |asked| (Instant::now(), body(asked || asked_before))) {
            Round::Taken => {
                self.next_round = None;
                Turn::Taken
            }
            Round::Done { result: (began, next), again } => {
                self.last_began = Some(began);
                self.asked = again;
                self.next_round = if again { Some(Instant::now()) } else { next };
                Turn::Done
            }
        }
    }
}
