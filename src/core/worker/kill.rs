//! Killing a container (spec 10 §13): SIGTERM at once, again every TimeoutSignal, given up after TimeoutTERM.

use super::{Context, Worker};
use crate::core::effect::{Effect, Level};
use crate::core::ids::{Attempt, ContainerUuid, OperationId};
use crate::core::settings::COMMAND_DEADLINE;
use crate::core::time::Moment;
use crate::core::timer::Timer;
use crate::core::vocabulary::{IdleBehavior, WorkerState};

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
    /// The same, and the attempt has been there: it may have run, whether or not a list has ever shown it.
    GoneAfterRun,
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
    /// In `shutdown` nothing is sent either: the connections are closed, and the instance goes with all that is on it.
    pub fn kill_step(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        if self.state == WorkerState::Shutdown {
            return;
        }
        let Some(runner) = self.running.get_mut(uuid).filter(|runner| runner.start.is_none()) else {
            return;
        };
        let KillState::Asked { since, in_flight, next, gone } = runner.kill else {
            return;
        };
        if gone {
            return;
        }
        let give_up_at = since + cx.settings.timeout_term;
        if cx.now >= give_up_at {
            self.give_up(uuid, cx);
            return;
        }
        let wake = match in_flight {
            Some((_, deadline)) if cx.now < deadline => deadline,
            _ if cx.now < next => next,
            _ => {
                let deadline = cx.now + COMMAND_DEADLINE;
                let operation = cx.operation();
                let in_flight = Some((operation, deadline));
                let next = cx.now + cx.settings.timeout_signal;
                let attempt = runner.attempt;
                runner.kill = KillState::Asked { since, in_flight, next, gone: false };
                cx.order(Effect::KillRunner(self.order_for(uuid, attempt, operation)));
                deadline
            }
        };
        cx.timer(wake.min(give_up_at), Timer::Kill(self.id.clone(), uuid.clone()));
    }

    /// An attempt that may have been sent here counts as running until a kill has ruled it out (spec 70 §3). If an earlier one
    /// is recorded, a kill for the later one covers both (52 §1, the tombstone).
    pub fn expect_attempt(&mut self, uuid: &ContainerUuid, attempt: Attempt, cx: &mut Context<'_>) {
        match self.runner_mut(uuid) {
            None => {
                self.adopt(uuid, attempt, (false, false), cx);
                self.settle(cx);
                cx.effects.notify();
            }
            Some(runner) if runner.attempt < attempt && runner.start.is_none() => {
                runner.attempt = attempt;
                runner.settled = false;
                self.kill_again(uuid, cx);
                cx.effects.notify();
            }
            Some(_) => {}
        }
    }

    /// Whatever is under way, the signal is due again now: it is for another attempt.
    fn kill_again(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        let now = cx.now;
        if let Some(runner) = self.runner_mut(uuid)
            && let KillState::Asked { since, .. } = runner.kill
        {
            runner.kill = KillState::Asked { since, in_flight: None, next: now, gone: false };
            self.kill_step(uuid, cx);
        }
    }

    /// Whether a kill's answer is still awaited.
    pub fn kill_is_open(&self, uuid: &ContainerUuid, operation: OperationId) -> bool {
        self.running.get(uuid).is_some_and(
            |runner| matches!(runner.kill, KillState::Asked { in_flight: Some((asked, _)), .. } if asked == operation),
        )
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
        let gone = answer != KillReturn::Failed;
        runner.has_run |= answer == KillReturn::GoneAfterRun;
        runner.kill = KillState::Asked { since, in_flight: None, next, gone };
        cx.order(Effect::ProbeSoon { instance: self.id.clone() });
        if !gone {
            self.kill_step(uuid, cx);
        } else if keeps_results {
            // Its result may be waiting: only a list that begins after this may close it, or collect it.
            self.changed(uuid);
        } else {
            self.close(uuid, cx);
            self.settle(cx);
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
