//! The states of a worker and what leads from one to another, as data (spec 10). The architecture page shows it as text.
//!
//! The rules themselves are in the other files of this module. Tests hold that this table is true: every change that any of their
//! histories makes is one of its rows, and each row is met.

use std::fmt;

use crate::core::vocabulary::WorkerState;
use WorkerState::{Booting, Idle, Running, Shutdown, Unknown};

/// What can change a worker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Listed,
    NotListed,
    CreateReturned,
    /// With a list of runners.
    Probed,
    /// Without one; or the instance has not booted, and nothing runs there.
    ProbeFailed,
    Started,
    /// The start was not sent: the queue did not allow it any more.
    StartRefused,
    RuledOut,
    KillReturned,
    /// A result was fetched, and removed there.
    Collected,
    BehaviorSet,
    Tick,
    /// Of a start, a kill or a removal.
    DeadlinePassed,
    RoomWanted,
    InstanceKilled,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Listed => "the cloud lists it",
            Self::NotListed => "the cloud lists it no more",
            Self::CreateReturned => "its create returns",
            Self::Probed => "a probe lists runners",
            Self::ProbeFailed => "a probe fails",
            Self::Started => "a container is started",
            Self::StartRefused => "a start is not sent",
            Self::RuledOut => "an attempt is ruled out",
            Self::KillReturned => "a kill returns",
            Self::Collected => "a result is collected",
            Self::BehaviorSet => "its behavior is set",
            Self::Tick => "its ticker",
            Self::DeadlinePassed => "a deadline passes",
            Self::RoomWanted => "the scheduler wants room",
            Self::InstanceKilled => "it is killed",
        })
    }
}

/// A change of state. `None` is no worker: not yet, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    pub from: Option<WorkerState>,
    pub event: Event,
    pub to: Option<WorkerState>,
}

/// An arrow with its reason, for people, and the section of the specification that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub arrow: Arrow,
    pub why: &'static str,
    pub section: &'static str,
}

const fn row(
    from: Option<WorkerState>,
    event: Event,
    to: Option<WorkerState>,
    why: &'static str,
    section: &'static str,
) -> Row {
    Row { arrow: Arrow { from, event, to }, why, section }
}

/// Every change of state there is, by the state it begins in.
pub const DIAGRAM: &[Row] = &[
    row(None, Event::Listed, Some(Unknown), "nobody asked for it", "20 §5"),
    row(None, Event::Listed, Some(Booting), "by the secret of a create", "20 §5"),
    row(None, Event::CreateReturned, Some(Booting), "", "20 §1"),
    row(None, Event::CreateReturned, Some(Unknown), "that create was over", "20 §1"),
    row(Some(Unknown), Event::Probed, Some(Idle), "booted", "10 §4.7"),
    row(Some(Unknown), Event::Probed, Some(Running), "booted, with containers", "10 §4.10"),
    row(Some(Unknown), Event::Probed, Some(Shutdown), "booted, drained or broken", "10 §4.1, §9"),
    row(Some(Unknown), Event::ProbeFailed, Some(Shutdown), "for TimeoutBooting", "10 §8"),
    row(Some(Unknown), Event::InstanceKilled, Some(Shutdown), "", "20 §6"),
    row(Some(Unknown), Event::NotListed, None, "", "10 §14"),
    row(Some(Booting), Event::Probed, Some(Idle), "booted", "10 §4.7"),
    row(Some(Booting), Event::Probed, Some(Running), "booted, with containers", "10 §4.10"),
    row(Some(Booting), Event::Probed, Some(Shutdown), "booted, broken or too small", "10 §4.1, 52 §1"),
    row(Some(Booting), Event::ProbeFailed, Some(Shutdown), "for TimeoutBooting", "10 §8"),
    row(Some(Booting), Event::BehaviorSet, Some(Shutdown), "drain", "10 §9"),
    row(Some(Booting), Event::Tick, Some(Shutdown), "drain, by its tag", "10 §9"),
    row(Some(Booting), Event::RoomWanted, Some(Shutdown), "", "20 §6"),
    row(Some(Booting), Event::InstanceKilled, Some(Shutdown), "", "20 §6"),
    row(Some(Booting), Event::NotListed, None, "", "10 §14"),
    row(Some(Idle), Event::Started, Some(Running), "", "10 §12"),
    row(Some(Idle), Event::Probed, Some(Running), "runners of an earlier process", "10 §7"),
    row(Some(Idle), Event::RuledOut, Some(Running), "it counts until a kill returned", "70 §3"),
    row(Some(Idle), Event::Probed, Some(Shutdown), "idle too long, drained, broken", "10 §4.1, §9"),
    row(Some(Idle), Event::ProbeFailed, Some(Shutdown), "for TimeoutProbe", "10 §8"),
    row(Some(Idle), Event::BehaviorSet, Some(Shutdown), "drain; or run, and idle too long", "10 §9"),
    row(Some(Idle), Event::Tick, Some(Shutdown), "idle too long, or drained", "10 §9"),
    row(Some(Idle), Event::RoomWanted, Some(Shutdown), "", "20 §6"),
    row(Some(Idle), Event::InstanceKilled, Some(Shutdown), "", "20 §6"),
    row(Some(Idle), Event::NotListed, None, "", "10 §14"),
    row(Some(Running), Event::Probed, Some(Idle), "the last one has ended", "10 §7"),
    row(Some(Running), Event::StartRefused, Some(Idle), "it was the only one", "10 §12"),
    row(Some(Running), Event::KillReturned, Some(Idle), "the last one is gone", "10 §13"),
    row(Some(Running), Event::Probed, Some(Shutdown), "only unkillable ones are left", "10 §9, §13"),
    row(Some(Running), Event::ProbeFailed, Some(Shutdown), "for TimeoutProbe", "10 §8"),
    row(Some(Running), Event::StartRefused, Some(Shutdown), "only unkillable ones are left", "10 §9, §13"),
    row(Some(Running), Event::RuledOut, Some(Shutdown), "only unkillable ones are left", "10 §9, §13"),
    row(Some(Running), Event::KillReturned, Some(Shutdown), "only unkillable ones are left", "10 §9, §13"),
    row(Some(Running), Event::Collected, Some(Shutdown), "only unkillable ones are left", "10 §9, §13"),
    row(Some(Running), Event::BehaviorSet, Some(Shutdown), "drain, only unkillable ones left", "10 §9, §13"),
    row(Some(Running), Event::Tick, Some(Shutdown), "only unkillable ones are left", "10 §9, §13"),
    row(Some(Running), Event::DeadlinePassed, Some(Shutdown), "only unkillable ones are left", "10 §9, §13"),
    row(Some(Running), Event::InstanceKilled, Some(Shutdown), "", "20 §6"),
    row(Some(Running), Event::NotListed, None, "", "10 §14"),
    row(Some(Shutdown), Event::NotListed, None, "", "20 §5"),
];

/// The table as lines of text.
pub fn text() -> String {
    let name = |state: Option<WorkerState>| state.map_or("–", WorkerState::as_str);
    let line = |row: &Row| {
        let Row { arrow: Arrow { from, event, to }, why, section } = row;
        format!("{:<9} {event:<27} → {:<9} {why:<33} {section}\n", name(*from), name(*to))
    };
    DIAGRAM.iter().map(line).collect()
}
