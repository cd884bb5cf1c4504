//! Killing a container (spec 10 §13): SIGTERM at once, again every TimeoutSignal, given up after TimeoutTERM.

use std::time::Duration;

use super::{Context, Worker};
use crate::core::effect::{Effect, Level};
use crate::core::ids::{ContainerUuid, OperationId};
use crate::core::settings::COMMAND_DEADLINE;
use crate::core::time::Moment;
use crate::core::timer::Timer;
use crate::core::vocabulary::IdleBehavior;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillState {
    None,
    Asked {
        since: Moment,
        /// The signal that is under way, and when it counts as failed.
        in_flight: Option<(OperationId, Moment)>,
        /// When the next signal is due.
        next: Moment,
        /// The runner said that the process is gone; a list that begins later decides what it left.
        gone: bool,
    },
    /// TimeoutTERM has passed: unkillable.
    GivenUp,
}

/// What a kill command came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReturn {
    /// Exit status 0: there is no such process (any more), and the attempt cannot start any more.
    Gone,
    /// Anything else, including no answer: it may be alive.
    Failed,
}

impl Worker {
    /// Asks for the end of a container. False if it is not here; asking again changes nothing.
    pub fn kill(&mut self, uuid: &ContainerUuid, reason: &str, cx: &mut Context<'_>) -> bool {
        let now = cx.now;
        let Some(runner) = self.runner_mut(uuid) else {
            return false;
        };
        if runner.kill != KillState::None {
            return true;
        }
        runner.kill = KillState::Asked { since: now, in_flight: None, next: now, gone: false };
        cx.note(self.note(Level::Info, "killing container").with("ContainerUUID", uuid).with("Reason", reason));
        self.kill_step(uuid, cx);
        true
    }

    /// Does what is due for a kill: a signal, another one, or giving up. Called on every event that can make it due.
    ///
    /// For a uuid whose start has not returned nothing is sent: a kill would find nothing, report success, and the container
    /// would come up behind it.
    pub fn kill_step(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        let Some(runner) = self.running.get_mut(uuid) else {
            return;
        };
        let KillState::Asked { since, in_flight, next, gone } = runner.kill else {
            return;
        };
        if runner.start.is_some() || gone && cx.settings.runner_keeps_results {
            return;
        }
        if cx.now.since(since) >= cx.settings.timeout_term {
            self.give_up(uuid, cx);
            return;
        }
        let waiting = in_flight.is_some_and(|(_, deadline)| cx.now < deadline);
        if waiting || cx.now < next {
            return;
        }
        let attempt = runner.attempt;
        let operation = cx.operation();
        let again: Duration = cx.settings.timeout_signal;
        runner.kill = KillState::Asked {
            since,
            in_flight: Some((operation, cx.now + COMMAND_DEADLINE)),
            next: cx.now + again,
            gone: false,
        };
        for at in [cx.now + again, cx.now + COMMAND_DEADLINE, since + cx.settings.timeout_term] {
            cx.timer(at, Timer::Kill(self.id.clone(), uuid.clone()));
        }
        cx.order(Effect::KillRunner(self.order_for(uuid, attempt, operation)));
    }

    /// A kill command came back.
    pub fn kill_returned(
        &mut self,
        uuid: &ContainerUuid,
        operation: OperationId,
        answer: KillReturn,
        cx: &mut Context<'_>,
    ) {
        let keeps_results = cx.settings.runner_keeps_results;
        let Some(runner) = self.runner_mut(uuid) else {
            return;
        };
        let KillState::Asked { since, in_flight: Some((asked, _)), next, .. } = runner.kill else {
            return;
        };
        if asked != operation {
            return;
        }
        let gone = answer == KillReturn::Gone;
        runner.kill = KillState::Asked { since, in_flight: None, next, gone };
        if !gone {
            self.kill_step(uuid, cx);
        } else if keeps_results {
            // Its result may be waiting: only a list that begins after this may close it, or collect it.
            self.changed(uuid);
            cx.order(Effect::ProbeSoon { instance: self.id.clone() });
        } else {
            self.close(uuid, cx);
            cx.order(Effect::ProbeSoon { instance: self.id.clone() });
            self.shut_down_if_eligible(cx);
            cx.effects.notify();
        }
    }

    /// Makes a runner unkillable for good, and drains the worker unless it is held.
    pub(super) fn give_up(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        let Some(runner) = self.runner_mut(uuid) else {
            return;
        };
        if runner.kill == KillState::GivenUp {
            return;
        }
        runner.kill = KillState::GivenUp;
        let note = if self.idle_behavior == IdleBehavior::Hold {
            "unkillable container; instance is on hold, not draining it"
        } else {
            "unkillable container; draining the instance"
        };
        cx.note(self.note(Level::Warn, note).with("ContainerUUID", uuid));
        if self.idle_behavior != IdleBehavior::Hold {
            self.set_idle_behavior(IdleBehavior::Drain, cx);
            self.shut_down_if_eligible(cx);
        }
        cx.effects.notify();
    }
}
