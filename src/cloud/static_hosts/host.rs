//! One host: what it is, what state it is in, and what each event makes of it. Plain data and one function of (state, event, now).
//!
//! ```text
//!         Chosen            Claimed          Destroyed
//!  free ──────────► claiming ──────► taken ───────────► cleaning (listed)
//!   ▲  ◄───────────────┤                                  │   │ CleaningFailed
//!   │  ClaimFailed     │ ClaimFailed, touched             │   ▼
//!   │                  └─────────────────────────► cleaning (not listed)
//!   └───────────────────────────── Cleaned ───────────────┴───┘
//! ```
//!
//! A free host may have a pause, in which it is not given out. Nor is it before a list has been made without it: whoever knows it as an
//! instance that goes must see it gone before it comes back under the same name. What is written to the state file is in [`super::record`].

use std::time::Duration;

use super::owner::LeaseId;
use crate::core::effect::{Ending, Tags};
use crate::core::ids::{InstanceId, TypeName};
use crate::core::time::Moment;
use crate::remote::address::HostAddress;
use crate::remote::identity::HostTrust;

/// A host that failed is not given out for so long, doubling with each failure that follows (spec 46 §1).
const PAUSE: Duration = Duration::from_secs(60);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Of one that somebody else has: nothing is wrong with it, and who gives it back does not tell us.
const TAKEN_PAUSE_MAX: Duration = Duration::from_secs(300);
/// A clean-up that failed is tried again after so long, doubling.
const RETRY: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// A host as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// Its name, which is the id of the instance that it becomes.
    pub id: InstanceId,
    pub address: HostAddress,
    pub user: String,
    /// Run commands with sudo where `user` is not root.
    pub sudo: bool,
    pub type_name: TypeName,
    pub provider_type: String,
    pub trust: HostTrust,
}

/// What a taken host is taken as.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    pub(super) type_name: TypeName,
    pub(super) provider_type: String,
    pub(super) tags: Tags,
}

impl Lease {
    /// It is meant, or whatever lease there is.
    fn is(&self, meant: Option<&LeaseId>) -> bool {
        meant.is_none_or(|id| *id == self.id)
    }
}

/// Why a host is of no use now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Unreachable,
    /// It answers, and is not the host it should be, or does not let us in: nobody can be asked there.
    Barred,
    Failed,
    /// Another dispatcher has it.
    Foreign,
    /// Another host of ours is the same machine, and in use.
    Busy,
}

impl Kind {
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Unreachable, Self::Failed, Self::Foreign, Self::Busy].into_iter().find(|kind| kind.as_str() == text)
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Barred | Self::Failed => "failed",
            Self::Foreign => "foreign",
            Self::Busy => "busy",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    /// For people.
    pub(super) detail: String,
}

impl Problem {
    /// Nothing is wrong with the host: it is another dispatcher's, or in use under another name.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.kind, Kind::Foreign | Kind::Busy)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    Free,
    /// Given to a create that has not ended. Not listed: the create may end with another host.
    Claiming(Lease),
    Taken(Lease),
    Cleaning(Cleaning),
}

/// What ran there is being ended, and what is ours removed: until that is done the host is nobody's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cleaning {
    pub(super) lease: Lease,
    /// Still shown as an instance: until it was found out of reach, since what ran there has not ended before.
    pub(super) listed: bool,
    pub(super) running: bool,
    /// When the next try begins, unless one is running.
    pub(super) due: Moment,
    pub(super) failures: u32,
    /// Why the last try failed.
    pub(super) problem: Option<Problem>,
}

impl Cleaning {
    pub(super) fn new(lease: Lease, listed: bool, now: Moment) -> Self {
        Self { lease, listed, running: false, due: now, failures: 0, problem: None }
    }
}

/// Why a free host is not given out, or was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) problem: Problem,
    /// Not given out before; `None`: may be tried again.
    pub(super) until: Option<Moment>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Host {
    pub(super) spec: HostSpec,
    /// Configured for it while it was in use: comes into force when it is clean, since what runs there is reached, and was started, as
    /// `spec` says.
    pub(super) next_spec: Option<HostSpec>,
    /// False for one that was removed from the configuration while it was in use: it is dropped when it is clean.
    pub(super) configured: bool,
    pub(super) phase: Phase,
    /// Failures since the last normal life.
    pub(super) strikes: u32,
    /// In milliseconds since the process began; negative: before.
    pub(super) last_failed: Option<i64>,
    pub(super) trouble: Option<Trouble>,
    /// It was listed, and no list has been made since that it was not in.
    pub(super) unseen: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// A create takes it.
    Chosen(Lease),
    /// Its owner file is ours, and the operator's init command has succeeded.
    Claimed,
    /// `left`: under this lease something of ours may be there.
    ClaimFailed {
        problem: Problem,
        left: Option<LeaseId>,
    },
    /// As for [`Event::Destroyed`].
    TagsSet {
        of: Option<LeaseId>,
        tags: Tags,
    },
    /// Of this lease, if that is known: it may come late, when the host has another.
    Destroyed {
        of: Option<LeaseId>,
        ending: Ending,
    },
    CleaningBegan,
    Cleaned,
    /// It turned out to be another's, or in use under another name: there was nothing of ours to clean up.
    NotOurs(Problem),
    CleaningFailed(Problem),
    /// A list has been made.
    ListMade,
    /// Time has passed.
    Tick,
    /// An operator has corrected what was wrong: no pause, and what is due later is due now.
    Corrected,
}

/// `first`, doubled with each failure after the first, and at most `most`.
pub(super) fn back_off(first: Duration, most: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (first * 2_u32.pow(doublings)).min(most)
}

impl Host {
    pub(super) fn new(spec: HostSpec, configured: bool, phase: Phase) -> Self {
        Self { spec, next_spec: None, configured, phase, strikes: 0, last_failed: None, trouble: None, unseen: false }
    }

    /// An event that does not fit the state changes nothing: it is late, or comes twice.
    pub(super) fn apply(&mut self, event: Event, now: Moment) {
        let (can_be_taken, was_listed) = (self.can_be_taken(), self.listed().is_some());
        match (&mut self.phase, event) {
            (Phase::Free, Event::Chosen(lease)) if can_be_taken => self.phase = Phase::Claiming(lease),
            (Phase::Claiming(lease), Event::Claimed) => {
                self.phase = Phase::Taken(lease.clone());
                // It was another's, or in use under another name: that is over, and was no failure.
                if self.trouble.as_ref().is_some_and(|trouble| trouble.problem.is_elsewhere()) {
                    self.strikes = 0;
                    self.last_failed = None;
                }
                self.trouble = None;
            }
            (Phase::Claiming(lease), Event::ClaimFailed { problem, left }) => {
                self.phase = match left {
                    Some(id) => Phase::Cleaning(Cleaning::new(Lease { id, ..lease.clone() }, false, now)),
                    None => Phase::Free,
                };
                self.strike(problem, now);
            }
            (Phase::Taken(lease), Event::TagsSet { of, tags }) if lease.is(of.as_ref()) => lease.tags = tags,
            (Phase::Taken(lease), Event::Destroyed { of, ending }) if lease.is(of.as_ref()) => {
                self.phase = Phase::Cleaning(Cleaning::new(lease.clone(), true, now));
                self.ended(ending, now);
            }
            (Phase::Cleaning(cleaning), Event::CleaningBegan) => cleaning.running = true,
            (Phase::Cleaning(cleaning), Event::Cleaned) if cleaning.running => self.free(),
            (Phase::Cleaning(cleaning), Event::NotOurs(problem)) if cleaning.running => {
                self.free();
                // Whatever was wrong with it, that is why.
                self.strikes = 0;
                self.strike(problem, now);
            }
            (Phase::Cleaning(cleaning), Event::CleaningFailed(problem)) if cleaning.running => {
                cleaning.failures += 1;
                cleaning.due = now + back_off(RETRY, RETRY_MAX, cleaning.failures);
                cleaning.running = false;
                // One that can be asked is not clean yet, but what ran there is not lost (spec 70 §3).
                cleaning.listed &= !matches!(problem.kind, Kind::Unreachable | Kind::Barred);
                cleaning.problem = Some(problem);
            }
            (_, Event::ListMade) => self.unseen = false,
            (_, Event::Tick) => {
                if let Some(trouble) = &mut self.trouble
                    && trouble.until.is_some_and(|until| until <= now)
                {
                    trouble.until = None;
                }
            }
            (phase, Event::Corrected) => {
                if let Phase::Cleaning(cleaning) = phase {
                    cleaning.due = cleaning.due.min(now);
                    cleaning.failures = 0;
                }
                if let Some(trouble) = &mut self.trouble {
                    trouble.until = None;
                }
                self.strikes = 0;
            }
            _ => {}
        }
        self.unseen |= was_listed && self.listed().is_none();
    }

    fn free(&mut self) {
        self.phase = Phase::Free;
        if let Some(spec) = self.next_spec.take() {
            self.spec = spec;
        }
    }

    fn ended(&mut self, ending: Ending, now: Moment) {
        match ending {
            Ending::Unwanted => {
                self.strikes = 0;
                self.trouble = None;
            }
            // It says nothing of the host that it was not wanted before it had booted.
            Ending::Unproven => {}
            Ending::Faulty(fault) => self.strike(Problem { kind: Kind::Failed, detail: fault.to_string() }, now),
        }
    }

    fn strike(&mut self, problem: Problem, now: Moment) {
        self.strikes += 1;
        self.last_failed = Some(i64::try_from(now.elapsed_since_start().as_millis()).unwrap_or(i64::MAX));
        let most = match problem.kind {
            _ if problem.is_elsewhere() => TAKEN_PAUSE_MAX,
            _ => PAUSE_MAX,
        };
        self.trouble = Some(Trouble { problem, until: Some(now + back_off(PAUSE, most, self.strikes)) });
    }

    /// A create may have it.
    pub(super) fn can_be_taken(&self) -> bool {
        self.configured && self.phase == Phase::Free && self.pause_end().is_none() && !self.unseen
    }

    /// Nothing is left to be done for one that is not configured any more.
    pub(super) fn is_over(&self) -> bool {
        !self.configured && self.phase == Phase::Free
    }

    /// Whose the host is, or may be: nobody else of ours may end what is there.
    pub(super) fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Free => None,
            Phase::Claiming(lease) | Phase::Taken(lease) => Some(lease),
            Phase::Cleaning(cleaning) => Some(&cleaning.lease),
        }
    }

    /// The instance that it is shown as.
    pub(super) fn listed(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Taken(lease) => Some(lease),
            Phase::Cleaning(cleaning) if cleaning.listed => Some(&cleaning.lease),
            _ => None,
        }
    }

    /// When a pause ends ([`Event::Tick`]), and when a clean-up is due that is not running.
    pub(super) fn dues(&self) -> impl Iterator<Item = Moment> {
        let cleaning = match &self.phase {
            Phase::Cleaning(cleaning) if !cleaning.running => Some(cleaning.due),
            _ => None,
        };
        self.pause_end().into_iter().chain(cleaning)
    }

    pub(super) fn pause_end(&self) -> Option<Moment> {
        self.trouble.as_ref().and_then(|trouble| trouble.until)
    }
}

#[cfg(test)]
pub(super) mod tests;
