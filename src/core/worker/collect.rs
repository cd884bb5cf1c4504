//! Fetching results: from `finished` in a list until the worker's copy is removed (spec 10 §2, §7; 70 §3–4).

use std::fmt;
use std::time::Duration;

use super::listing::Listing;
use super::running::is_older;
use super::{Context, Worker};
use crate::core::effect::{Effect, Level};
use crate::core::ids::{Attempt, ContainerUuid, OperationId};
use crate::core::pool::view::Exit;
use crate::core::settings::{COLLECT_DEADLINE, COMMAND_DEADLINE};
use crate::core::time::Moment;
use crate::core::timer::Timer;
use crate::core::vocabulary::WorkerState;

/// A result on its way.
#[derive(Clone, Copy, Debug)]
pub struct Collecting {
    pub attempt: Attempt,
    /// Start of the time for which it keeps the worker from a shutdown; restarts when our own storage failed.
    pub since: Moment,
    /// The fetch that is under way, and when it counts as failed.
    pub in_flight: Option<(OperationId, Moment)>,
    pub failures: u32,
    pub next: Moment,
    /// The last fetch found that we can store no result now.
    pub storage_fault: Option<StorageFault>,
}

/// A worker's copy of a committed result that is being removed.
#[derive(Clone, Copy, Debug)]
pub struct Forgetting {
    pub attempt: Attempt,
    /// The fetch that committed the result; the removal is answered with the same.
    pub operation: OperationId,
    /// When the removal counts as failed.
    pub deadline: Moment,
}

/// What a fetch came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectReturn {
    /// The result is committed in the queue; the worker's copy may go.
    Done,
    /// The worker or the connection failed.
    Failed,
    /// Our own disk or database failed: the worker is not to blame. With a fault, other results cannot be stored either.
    StorageFailed(Option<StorageFault>),
}

/// Why results cannot be stored, whosever they are. Ordered: the greatest of several is what people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorageFault {
    Full,
    Quota,
    ReadOnly,
    Io,
}

/// For people: what is wrong.
impl fmt::Display for StorageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "no space is left on its disk",
            Self::Quota => "the disk quota is used up",
            Self::ReadOnly => "its file system is read-only",
            Self::Io => "its disk has errors",
        })
    }
}

/// Pause before fetch number `failures + 1`: 1 s, doubling to 30 s.
fn pause_after(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(5)).min(Duration::from_secs(30))
}

impl Worker {
    /// A list shows that a result waits. True if that is news.
    pub(super) fn listed_finished(&mut self, uuid: &ContainerUuid, attempt: Attempt, cx: &mut Context<'_>) -> bool {
        if self.collecting.contains_key(uuid) || self.forgetting.contains_key(uuid) {
            return false;
        }
        if self.runner(uuid).is_some_and(|runner| is_older(attempt, runner.attempt)) {
            // Left from before: the attempt that is here now decides, and this result is fetched when that one has ended.
            return false;
        }
        if self.remove_runner(uuid, cx).is_some() {
            self.busy = cx.now;
            cx.note(self.note(Level::Info, "runner process ended").with("ContainerUUID", uuid));
        }
        // The result decides, unless it is an older attempt's than the one that was seen to end without any.
        if cx.exited.get(uuid).is_some_and(|exit| !is_older(attempt, exit.attempt)) {
            cx.exited.remove(uuid);
        }
        let collecting =
            Collecting { attempt, since: cx.now, in_flight: None, failures: 0, next: cx.now, storage_fault: None };
        self.collecting.insert(uuid.clone(), collecting);
        self.changed(uuid);
        self.collect_step(uuid, cx);
        true
    }

    /// Drops those whose result a complete list does not show any more (the host lost it, or an earlier fetch's removal came
    /// late), unless a fetch is under way. They have exited without a result, as far as this worker can tell.
    pub(super) fn drop_vanished_results(&mut self, listing: &Listing, began: u64, cx: &mut Context<'_>) -> bool {
        let fetching = |collecting: &Collecting| collecting.in_flight.is_some_and(|(_, deadline)| cx.now < deadline);
        let vanished: Vec<(ContainerUuid, Attempt)> = self
            .collecting
            .iter()
            .filter(|(uuid, _)| !listing.runners.contains_key(*uuid) && !self.changed_after(uuid, began))
            .filter(|(_, collecting)| !fetching(collecting))
            .map(|(uuid, collecting)| (uuid.clone(), collecting.attempt))
            .collect();
        for (uuid, attempt) in &vanished {
            self.collecting.remove(uuid);
            cx.timers.cancel(&Timer::Collect(self.id.clone(), uuid.clone()));
            let newest = cx.exited.get(uuid).map_or(*attempt, |exit| exit.attempt.max(*attempt));
            cx.exited.insert(uuid.clone(), Exit { at: cx.now, attempt: newest, has_run: true });
            self.changed(uuid);
            let note = self.note(Level::Warn, "result is not on the worker any more").with("ContainerUUID", uuid);
            cx.note(note.with("Attempt", attempt));
        }
        !vanished.is_empty()
    }

    /// Orders a fetch if one is due.
    pub fn collect_step(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        if self.state == WorkerState::Shutdown {
            return;
        }
        let Some(collecting) = self.collecting.get_mut(uuid) else {
            return;
        };
        let waiting = collecting.in_flight.is_some_and(|(_, deadline)| cx.now < deadline);
        if waiting || cx.now < collecting.next {
            return;
        }
        let operation = cx.operation();
        let deadline = cx.now + COLLECT_DEADLINE;
        collecting.in_flight = Some((operation, deadline));
        let attempt = collecting.attempt;
        cx.timer(deadline, Timer::Collect(self.id.clone(), uuid.clone()));
        cx.order(Effect::CollectResult(self.order_for(uuid, attempt, operation)));
    }

    /// A fetch came back.
    pub fn collect_returned(
        &mut self,
        uuid: &ContainerUuid,
        operation: OperationId,
        answer: CollectReturn,
        cx: &mut Context<'_>,
    ) {
        let now = cx.now;
        let Some(collecting) = self.collecting.get_mut(uuid) else {
            return;
        };
        if collecting.in_flight.is_none_or(|(asked, _)| asked != operation) {
            return;
        }
        if answer == CollectReturn::Done {
            let deadline = now + COMMAND_DEADLINE;
            let forgetting = Forgetting { attempt: collecting.attempt, operation, deadline };
            self.collecting.remove(uuid);
            self.forgetting.insert(uuid.clone(), forgetting);
            cx.timers.cancel(&Timer::Collect(self.id.clone(), uuid.clone()));
            cx.timer(deadline, Timer::ForgetDeadline(self.id.clone(), uuid.clone()));
            self.changed(uuid);
            cx.effects.notify();
            return;
        }
        collecting.in_flight = None;
        collecting.failures += 1;
        collecting.next = now + pause_after(collecting.failures);
        let fault = match answer {
            CollectReturn::StorageFailed(fault) => {
                collecting.since = now;
                fault
            }
            // One that cannot be fetched must not hold up everything with what was true a while ago.
            _ => None,
        };
        let next = collecting.next;
        if std::mem::replace(&mut collecting.storage_fault, fault) != fault {
            // It decides whether new work may start.
            cx.effects.notify();
        }
        cx.timer(next, Timer::Collect(self.id.clone(), uuid.clone()));
    }

    /// The worker's copy was removed, or that failed, or its deadline passed: then the next list shows it again and it is
    /// fetched and removed again.
    pub fn forget_returned(&mut self, uuid: &ContainerUuid, operation: OperationId, cx: &mut Context<'_>) {
        if self.forgetting.get(uuid).is_some_and(|forgetting| forgetting.operation == operation) {
            self.forgetting.remove(uuid);
            cx.timers.cancel(&Timer::ForgetDeadline(self.id.clone(), uuid.clone()));
            self.changed(uuid);
            cx.order(Effect::ProbeSoon { instance: self.id.clone() });
            self.shut_down_if_eligible(cx);
        }
    }

    /// The removal has not returned in time.
    pub fn forget_deadline_passed(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        if let Some(forgetting) = self.forgetting.get(uuid).filter(|forgetting| forgetting.deadline <= cx.now) {
            self.forget_returned(uuid, forgetting.operation, cx);
        }
    }

    /// Something to collect keeps the worker from being shut down, for at most TimeoutCollect each.
    pub(super) fn collecting_protects(&self, cx: &Context<'_>) -> bool {
        !self.forgetting.is_empty()
            || self.collecting.values().any(|collecting| cx.now.since(collecting.since) < cx.settings.timeout_collect)
    }
}
