//! One probe round: the plan it starts from, and what its report does to the worker (spec 10 §4–§6).

use std::time::Duration;

use super::facts::HostFacts;
use super::listing::{Listing, RunnerState};
use super::{Context, Evidence, Worker};
use crate::core::effect::{Effect, Fault, Figure, Level, seconds};
use crate::core::time::Moment;
use crate::core::vocabulary::{BootOutcome, IdleBehavior, WorkerState};

/// What a round has to do, by the state it began in (the table of spec 10 §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundPlan {
    pub state: WorkerState,
    /// The change counter at the start.
    pub changes: u64,
    /// Start of the round.
    pub began: Moment,
    pub boot_probe: bool,
    pub deploy: When,
    pub run_probe: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Never,
    Always,
    /// Only if everything before it in the round succeeded.
    IfSoFarGood,
}

/// What a round found.
#[derive(Clone, Debug, Default)]
pub struct RoundReport {
    /// The boot probe passed, or was not needed; and the runner is there, or was not needed.
    pub booted: bool,
    /// Standard error of a failed boot probe.
    pub boot_stderr: String,
    /// The last error of any part.
    pub last_error: Option<String>,
    /// What the host is, in the round that asked it.
    pub facts: Option<HostFacts>,
    /// The run probe's list; `None` if it failed or was not made.
    pub listing: Option<Listing>,
}

/// How the worker's thread goes on after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextRound {
    /// At once and without a known token: the list said nothing about something that changed meanwhile.
    AtOnce,
    /// At once as a long poll, if the runner can do that; else with the ticker.
    LongPoll,
    /// After this pause, or the ticker if that is earlier.
    After(Duration),
    /// No more rounds: the worker is shut down.
    Never,
}

impl Worker {
    /// The plan of a round that begins now; `None` in `shutdown`.
    pub fn plan_round(&self, now: Moment) -> Option<RoundPlan> {
        let (boot_probe, deploy, run_probe) = match self.state {
            WorkerState::Shutdown => return None,
            WorkerState::Unknown => (true, When::Always, When::Always),
            WorkerState::Booting => (true, When::IfSoFarGood, When::IfSoFarGood),
            WorkerState::Idle | WorkerState::Running => (false, When::Never, When::Always),
        };
        Some(RoundPlan { state: self.state, changes: self.changes, began: now, boot_probe, deploy, run_probe })
    }

    /// Applies what a round found, in the order of spec 10 §4.
    pub fn finish_round(&mut self, plan: &RoundPlan, report: &RoundReport, cx: &mut Context<'_>) -> NextRound {
        if self.state == WorkerState::Shutdown {
            return NextRound::Never;
        }
        // Whoever is in service has booted, whatever this round's boot probe said (spec 10 §4).
        let booted = report.booted || matches!(self.state, WorkerState::Idle | WorkerState::Running);
        if booted && !self.booted_logged {
            self.booted_logged = true;
            cx.note(self.note(Level::Info, "instance booted; will try run probe"));
        }
        if let Some(listing) = &report.listing
            && self.is_broken(listing, cx)
        {
            self.reported_broken(&listing.broken_because, cx);
        }
        if let Some(facts) = &report.facts {
            self.judge_facts(facts, cx);
        }
        if self.state == WorkerState::Shutdown {
            return NextRound::Never;
        }
        let Some(listing) = report.listing.as_ref().filter(|listing| booted || self.has_something(listing)) else {
            return self.round_failed(plan, booted, report, cx);
        };
        self.probed = cx.now;
        self.failed_rounds = 0;
        self.round_succeeded(plan, booted, listing, cx)
    }

    /// Something runs here, by the probe or by what we know.
    fn has_something(&self, listing: &Listing) -> bool {
        !listing.runners.is_empty() || self.occupied() || !self.collecting.is_empty()
    }

    /// The worker says it is broken, or a stale lock has resisted for too long.
    fn is_broken(&mut self, listing: &Listing, cx: &mut Context<'_>) -> bool {
        let stale = listing.runners.iter().find(|(_, listed)| listed.state == RunnerState::Stale).map(|(uuid, _)| uuid);
        let Some(uuid) = stale else {
            self.stale_since = None;
            return listing.broken;
        };
        let note = self.note(Level::Info, "probe reported stale run lock").with("ContainerUUID", uuid);
        if self.stale_since.is_none() && !self.reaping.contains_key(uuid) {
            cx.note(note);
            // With a runner that can reap, the time counts from a failed attempt to do so.
            if !cx.settings.runner_keeps_results {
                self.stale_since = Some(cx.now);
            }
        }
        let resisted = self.stale_lock_resists(cx);
        if resisted {
            if self.idle_behavior == IdleBehavior::Run {
                let note = self.note(Level::Warn, "stale run lock resists; treating the instance as broken");
                cx.note(note.with("ContainerUUID", uuid));
            }
            // Whatever the behavior: what cannot be ended must not keep a draining worker for ever.
            for uuid in
                listing.runners.iter().filter(|(_, listed)| listed.state == RunnerState::Stale).map(|(uuid, _)| uuid)
            {
                self.give_up(uuid, cx);
            }
        }
        listing.broken || resisted
    }

    fn stale_lock_resists(&self, cx: &Context<'_>) -> bool {
        self.stale_since.is_some_and(|since| cx.now.since(since) > cx.settings.timeout_stale_run_lock)
    }

    /// The list is evidence that nothing of ours runs here. A waiting result protects by itself and not for ever (spec 10 §9),
    /// nor may a stale lock that resists: it is the reason to shut down.
    fn shows_nothing(&self, listing: &Listing, cx: &Context<'_>) -> bool {
        listing.runners.values().all(|listed| match listed.state {
            RunnerState::Alive => false,
            RunnerState::Stale => self.stale_lock_resists(cx),
            RunnerState::Finished => true,
        })
    }

    fn reported_broken(&mut self, why: &str, cx: &mut Context<'_>) {
        self.fault.get_or_insert(Fault::Broken);
        if self.idle_behavior != IdleBehavior::Run {
            return;
        }
        let note = self.note(Level::Warn, "instance reports itself broken; draining it");
        cx.note(if why.is_empty() { note } else { note.with("Reason", why) });
        self.report_boot_outcome(BootOutcome::Failure, cx);
        self.set_idle_behavior(IdleBehavior::Drain, cx);
        self.shut_down_if_eligible(cx);
    }

    fn round_failed(
        &mut self,
        plan: &RoundPlan,
        booted: bool,
        report: &RoundReport,
        cx: &mut Context<'_>,
    ) -> NextRound {
        // From the round's start, not from now: so one whole round is always tried after the limit has passed.
        let unresponsive_for = plan.began.since(self.probed);
        if self.shut_down_if_unresponsive(unresponsive_for, cx) {
            // Also if it has booted and its runner cannot list: it never was of any use.
            if !booted || matches!(plan.state, WorkerState::Unknown | WorkerState::Booting) {
                self.last_error.clone_from(&report.last_error);
                self.report_boot_outcome(BootOutcome::Failure, cx);
                cx.note(
                    self.note(Level::Info, "boot failed")
                        .with("Duration", seconds(unresponsive_for))
                        .with("stderr", &report.boot_stderr)
                        .with("error", report.last_error.as_deref().unwrap_or("")),
                );
            }
            return NextRound::Never;
        }
        self.failed_rounds = self.failed_rounds.saturating_add(1);
        NextRound::After(self.retry_pause(cx.settings.probe_interval))
    }

    /// 250 ms, 500 ms, 1 s … up to ProbeInterval: while booting, and after a failed round of a worker that is in service, which must
    /// not be blind for longer than its connection needs to come back (spec 10 §3).
    fn retry_pause(&self, probe_interval: Duration) -> Duration {
        let doublings = self.failed_rounds.saturating_sub(1).min(16);
        Duration::from_millis(250).saturating_mul(1 << doublings).min(probe_interval)
    }

    fn round_succeeded(
        &mut self,
        plan: &RoundPlan,
        booted: bool,
        listing: &Listing,
        cx: &mut Context<'_>,
    ) -> NextRound {
        let listed_first = listing.runners.iter().find(|(_, listed)| listed.state == RunnerState::Alive);
        if let Some((uuid, _)) = listed_first {
            self.last_container = Some(uuid.clone());
        }
        if listed_first.is_some() || !self.running.is_empty() {
            self.busy = cx.now;
        }
        let (mut changed, late) = self.reconcile(listing, plan.changes, cx);
        self.evidence = Some(Evidence {
            began: plan.began,
            changes: plan.changes,
            empty: late.is_empty() && self.shows_nothing(listing, cx),
        });
        if booted && matches!(self.state, WorkerState::Unknown | WorkerState::Booting) {
            self.enter_service(cx);
            changed = true;
        }
        if changed {
            self.after_change(plan, booted, cx);
        }
        // A tick may have waited for just this list.
        self.shut_down_if_proven_eligible(cx);
        if self.state == WorkerState::Shutdown {
            return NextRound::Never;
        }
        if late.is_empty() {
            return if self.state == WorkerState::Unknown {
                self.failed_rounds = self.failed_rounds.saturating_add(1);
                NextRound::After(self.retry_pause(cx.settings.probe_interval))
            } else {
                NextRound::LongPoll
            };
        }
        let note = self.note(Level::Debug, "passed over containers that changed during the probe");
        cx.note(note.with("Containers", late.len()));
        NextRound::AtOnce
    }

    fn enter_service(&mut self, cx: &mut Context<'_>) {
        if let (WorkerState::Booting, Some(connected)) = (self.state, self.first_connection) {
            cx.order(Effect::Observe(Figure::TimeToReady(cx.now.since(connected))));
        }
        // Booting is not idling: one that took longer than TimeoutIdle would be shut down before it could get anything to do.
        self.busy = cx.now;
        // With containers it goes on to `running` in the same step.
        let state = if self.occupied() { WorkerState::Running } else { WorkerState::Idle };
        self.set_state_logged_elsewhere(state, cx);
    }

    fn after_change(&mut self, plan: &RoundPlan, booted: bool, cx: &mut Context<'_>) {
        if self.state == WorkerState::Unknown {
            let note = self.note(Level::Info, "run probe succeeded, but boot probe is still failing");
            cx.note(note.with("Containers", self.running.len()));
        }
        self.settle(cx);
        if booted && matches!(plan.state, WorkerState::Unknown | WorkerState::Booting) {
            self.report_boot_outcome(BootOutcome::Success, cx);
            let note = self.note(Level::Info, "probes succeeded, instance is in service");
            let note = note.with("State", self.state).with("Containers", self.running.len());
            cx.note(note.with("InstanceType", &self.type_name));
        }
        self.shut_down_if_eligible(cx);
        cx.effects.notify();
    }
}
