//! What each operation does to a container of the local queue (spec 70 §3): pure rules, one function per operation.
//!
//! `Queued` → `Locked` → `Running` → final, back to `Queued` by an unlock or a lost attempt. Each function changes the record or
//! refuses and changes nothing; repeating any of them is safe. The store writes down what came of it.

use super::ids::{Attempt, ContainerUuid, InstanceId, TypeName};
use super::vocabulary::ContainerState::{self, Cancelled, Complete, Locked, Queued, Running};

/// What `runtime_status.error` says of a container that a user cancelled.
pub const CANCELLED_BY_USER: &str = "cancelled on request";

/// What the rules look at and change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    pub state: ContainerState,
    /// 0 = on hold.
    pub priority: i64,
    pub max_attempts: u32,
    /// Number of the last attempt whose start was decided; 0 = none yet.
    pub attempt: Attempt,
    /// Where the present attempt was sent; `None` = nothing of it can be running.
    pub instance: Option<InstanceId>,
    pub instance_type: Option<TypeName>,
    pub cancel_requested: bool,
    /// The attempt that an operator asked to kill; 0 = none.
    pub kill_asked: Attempt,
    /// Containers that must be Complete with exit code 0 first.
    pub waiting: i64,
}

/// The operation does not apply to the state the container is in; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub operation: &'static str,
    /// A state's name, or a condition that the name does not say.
    pub state: &'static str,
}

/// Where an unlock leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlocked {
    Queued,
    /// A cancel had been asked for.
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assigned {
    /// A new attempt.
    Now,
    /// The same attempt on the same instance: its start is repeated.
    Again,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelRequest {
    /// It had been asked for before.
    Known,
    /// The scheduler sees to it.
    Noted,
    /// Nothing of it was running.
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorityRefusal {
    Running,
    Final,
    BeingCancelled,
}

/// How an attempt ended, by its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal, of itself or someone else.
    Signaled(i32),
    /// Somebody ended its runner.
    Killed,
    MaxRunTime,
    Oom,
    /// With what the runner says about it.
    EngineError(String),
    DiskFull(String),
}

/// What the result of the present attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Complete(i32),
    Cancelled(&'static str),
    /// It has no result that counts; why.
    Lost(String, AfterLoss),
}

/// What follows a lost attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLoss {
    /// Queued again.
    Requeued,
    /// Cancelled: its end had been asked for.
    Cancelled,
    /// Cancelled: no attempt is left.
    Exhausted,
}

/// What the end of one that it waits for came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    Waits,
    Ready,
    Cancelled,
}

impl Lifecycle {
    fn refuse<T>(&self, operation: &'static str) -> Result<T, Refusal> {
        Err(Refusal { operation, state: self.state.as_str() })
    }

    /// An attempt was sent and has not ended as far as the queue knows. At most the present one can be open.
    pub fn is_open(&self, attempt: Attempt) -> bool {
        self.attempt == attempt && self.instance.is_some() && matches!(self.state, Locked | Running)
    }

    /// Queued → Locked.
    ///
    /// # Errors
    /// It is not Queued, on hold, or waits for others.
    pub fn lock(&mut self) -> Result<(), Refusal> {
        let operation = "lock";
        match self.state {
            Queued if self.priority <= 0 => Err(Refusal { operation, state: "on hold" }),
            Queued if self.waiting > 0 => Err(Refusal { operation, state: "waiting for others to complete" }),
            Queued => {
                self.state = Locked;
                Ok(())
            }
            _ => self.refuse(operation),
        }
    }

    /// Locked → Queued, or → Cancelled when a user wants that. Only for an attempt that was never sent, or that a kill has ruled out.
    ///
    /// # Errors
    /// It is not Locked.
    pub fn unlock(&mut self) -> Result<Unlocked, Refusal> {
        if self.state != Locked {
            return self.refuse("unlock");
        }
        if self.cancel_requested {
            self.state = Cancelled;
            return Ok(Unlocked::Cancelled);
        }
        self.requeue();
        Ok(Unlocked::Queued)
    }

    /// Any state that is not final → Cancelled.
    ///
    /// # Errors
    /// It is final.
    pub fn cancel(&mut self) -> Result<(), Refusal> {
        if self.state.is_final() {
            return self.refuse("cancel");
        }
        self.state = Cancelled;
        Ok(())
    }

    /// Where a Locked container goes, before its start is sent.
    ///
    /// # Errors
    /// It is not Locked, was sent elsewhere, is not wanted any more, or this is not its next attempt.
    pub fn assign(
        &mut self,
        attempt: Attempt,
        instance: &InstanceId,
        instance_type: &TypeName,
    ) -> Result<Assigned, Refusal> {
        let refused = |state| Err(Refusal { operation: "assign", state });
        match self.state {
            Locked | Running if self.instance.as_ref() == Some(instance) && self.attempt == attempt => {
                return Ok(Assigned::Again);
            }
            Locked | Running if self.instance.is_some() => return refused("assigned already"),
            Locked if self.cancel_requested => return refused("to be cancelled"),
            Locked if self.priority <= 0 => return refused("on hold"),
            Locked if Some(attempt) != self.attempt.checked_add(1) => {
                return Err(Refusal { operation: "assign that attempt", state: "at another attempt" });
            }
            Locked => {}
            _ => return self.refuse("assign"),
        }
        self.attempt = attempt;
        self.instance = Some(instance.clone());
        self.instance_type = Some(instance_type.clone());
        Ok(Assigned::Now)
    }

    /// Locked → Running. False: that was known, or is about another attempt.
    pub fn seen_running(&mut self, attempt: Attempt) -> bool {
        let news = self.state == Locked && self.is_open(attempt);
        if news {
            self.state = Running;
        }
        news
    }

    /// An operator asked to kill the present attempt. False: that was known, or nothing of it may be running.
    pub fn note_kill(&mut self) -> bool {
        let news = self.is_open(self.attempt) && self.kill_asked != self.attempt;
        if news {
            self.kill_asked = self.attempt;
        }
        news
    }

    /// A user's cancel.
    ///
    /// # Errors
    /// It is final.
    pub fn request_cancel(&mut self) -> Result<CancelRequest, Refusal> {
        if self.state.is_final() {
            return self.refuse("cancel");
        }
        if self.cancel_requested {
            return Ok(CancelRequest::Known);
        }
        self.cancel_requested = true;
        self.priority = 0;
        if self.state != Queued {
            return Ok(CancelRequest::Noted);
        }
        self.state = Cancelled;
        Ok(CancelRequest::Cancelled)
    }

    /// A user's new priority. False: it is that already.
    ///
    /// # Errors
    /// It has no effect (any more).
    pub fn set_priority(&mut self, priority: i64) -> Result<bool, PriorityRefusal> {
        match self.state {
            Running => return Err(PriorityRefusal::Running),
            Complete | Cancelled => return Err(PriorityRefusal::Final),
            Queued | Locked if self.cancel_requested => return Err(PriorityRefusal::BeingCancelled),
            Queued | Locked => {}
        }
        let news = self.priority != priority;
        self.priority = priority;
        Ok(news)
    }

    /// The result of an attempt is here. `None`: it is late, the attempt was closed before, and nothing changes.
    pub fn result(&mut self, attempt: Attempt, end: &AttemptEnd) -> Option<Verdict> {
        if !self.is_open(attempt) {
            return None;
        }
        let kill_asked = self.cancel_requested || self.kill_asked == self.attempt;
        // We killed it to put it on hold: that must not use up its attempts.
        let was_held = *end == AttemptEnd::Killed && self.priority == 0;
        Some(match judge(end, kill_asked) {
            Judgement::Complete(code) => {
                self.state = Complete;
                Verdict::Complete(code)
            }
            Judgement::Cancelled(why) => {
                self.state = Cancelled;
                Verdict::Cancelled(why)
            }
            Judgement::Lost(why) => Verdict::Lost(why, self.lose(was_held)),
        })
    }

    /// The attempt ended without a result. `None`: it is not the present one, or was closed before.
    pub fn lost(&mut self, attempt: Attempt) -> Option<AfterLoss> {
        self.is_open(attempt).then(|| self.lose(false))
    }

    fn lose(&mut self, was_held: bool) -> AfterLoss {
        if self.cancel_requested || self.kill_asked == self.attempt {
            self.state = Cancelled;
            return AfterLoss::Cancelled;
        }
        if self.attempt < self.max_attempts || was_held {
            self.requeue();
            return AfterLoss::Requeued;
        }
        self.state = Cancelled;
        AfterLoss::Exhausted
    }

    /// One of those that it waits for has ended: its success brings this one nearer, anything else cancels it.
    pub fn predecessor_ended(&mut self, succeeded: bool) -> Followed {
        if !succeeded {
            self.state = Cancelled;
            return Followed::Cancelled;
        }
        self.waiting = (self.waiting - 1).max(0);
        if self.waiting == 0 { Followed::Ready } else { Followed::Waits }
    }

    /// → Queued, as if it had never been sent, except that its attempts are counted.
    fn requeue(&mut self) {
        self.state = Queued;
        self.instance = None;
        self.instance_type = None;
    }
}

enum Judgement {
    Complete(i32),
    Cancelled(&'static str),
    Lost(String),
}

/// The table of spec 70 §3. `kill_asked`: a user's cancel or an operator's kill was recorded before the result.
fn judge(end: &AttemptEnd, kill_asked: bool) -> Judgement {
    match end {
        AttemptEnd::Exited(code) => Judgement::Complete(*code),
        AttemptEnd::Signaled(signal) => Judgement::Complete(128 + signal),
        AttemptEnd::Killed if kill_asked => Judgement::Cancelled(CANCELLED_BY_USER),
        AttemptEnd::Killed => Judgement::Lost("it was killed on its instance without our asking".to_owned()),
        AttemptEnd::MaxRunTime => Judgement::Cancelled("it ran longer than its max_run_time"),
        AttemptEnd::Oom => Judgement::Cancelled("it used more memory than its ram allows"),
        AttemptEnd::EngineError(detail) => Judgement::Lost(with_detail("the engine could not run it", detail)),
        AttemptEnd::DiskFull(detail) => Judgement::Lost(with_detail("the disk of its instance was full", detail)),
    }
}

fn with_detail(text: &str, detail: &str) -> String {
    if detail.is_empty() { text.to_owned() } else { format!("{text}: {detail}") }
}

/// Why those that wait for this final container cannot run; `None` if it succeeded.
pub fn failure(uuid: &ContainerUuid, state: ContainerState, exit_code: Option<i32>) -> Option<String> {
    match (state, exit_code) {
        (Complete, Some(0)) => None,
        (Complete, code) => {
            Some(format!("{uuid}, which had to succeed first, ended with exit code {}", code.unwrap_or(-1)))
        }
        _ => Some(format!("{uuid}, which had to succeed first, was cancelled")),
    }
}
