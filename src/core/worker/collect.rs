//! Fetching results: from `finished` in a list until the worker's copy is removed (spec 10 §2, §7; 70 §3–4).

use std::time::Duration;

use super::{Context, Worker};
use crate::core::effect::{Effect, Level};
use crate::core::ids::{Attempt, ContainerUuid, OperationId};
use crate::core::settings::COLLECT_DEADLINE;
use crate::core::time::Moment;
use crate::core::timer::Timer;

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
}

/// What a fetch came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectReturn {
    /// The result is committed in the queue; the worker's copy may go.
    Done,
    /// The worker or the connection failed.
    Failed,
    /// Our own disk or database failed: the worker is not to blame.
    StorageFailed,
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
        if self.running.remove(uuid).or_else(|| self.starting.remove(uuid)).is_some() {
            cx.note(self.note(Level::Info, "runner process ended").with("ContainerUUID", uuid));
        }
        self.reaping.remove(uuid);
        cx.exited.remove(uuid);
        let collecting = Collecting { attempt, since: cx.now, in_flight: None, failures: 0, next: cx.now };
        self.collecting.insert(uuid.clone(), collecting);
        self.changed(uuid);
        self.settle(cx);
        self.collect_step(uuid, cx);
        true
    }

    /// Orders a fetch if one is due.
    pub fn collect_step(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        let operation = OperationId(*cx.next_operation + 1);
        let Some(collecting) = self.collecting.get_mut(uuid) else {
            return;
        };
        let waiting = collecting.in_flight.is_some_and(|(_, deadline)| cx.now < deadline);
        if waiting || cx.now < collecting.next {
            return;
        }
        *cx.next_operation += 1;
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
            let attempt = collecting.attempt;
            self.collecting.remove(uuid);
            self.forgetting.insert(uuid.clone(), attempt);
            self.changed(uuid);
            self.busy = now;
            cx.effects.notify();
            return;
        }
        collecting.in_flight = None;
        collecting.failures += 1;
        collecting.next = now + pause_after(collecting.failures);
        if answer == CollectReturn::StorageFailed {
            collecting.since = now;
        }
        let next = collecting.next;
        cx.timer(next, Timer::Collect(self.id.clone(), uuid.clone()));
    }

    /// The worker's copy was removed, or that failed: then the next list shows it again and it is fetched and removed again.
    pub fn forget_returned(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        if self.forgetting.remove(uuid).is_some() {
            self.changed(uuid);
            cx.order(Effect::ProbeSoon { instance: self.id.clone() });
            self.shut_down_if_eligible(cx);
        }
    }

    /// Something to collect keeps the worker from being shut down, for at most TimeoutCollect each.
    pub(super) fn collecting_protects(&self, cx: &Context<'_>) -> bool {
        !self.forgetting.is_empty()
            || self.collecting.values().any(|collecting| cx.now.since(collecting.since) < cx.settings.timeout_collect)
    }
}
