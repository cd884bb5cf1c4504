//! When a worker goes: eligibility, unresponsive ones, the shutdown itself, idle behavior and tags (spec 10 §8–§11).

use std::time::Duration;

use super::{Context, Worker};
use crate::core::effect::{Effect, Ending, Fault, Level, Tags, seconds};
use crate::core::instance_type::IdleLimit;
use crate::core::settings::Settings;
use crate::core::time::Moment;
use crate::core::vocabulary::{BootOutcome, IdleBehavior, WorkerState};

/// What is to be done about a worker's idleness (spec 10 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligibility {
    No,
    Yes,
    /// It would be, but the evidence that nothing of ours is here is old: probe first.
    ProbeFirst,
}

impl Worker {
    /// Shuts down if the worker cannot be reached for too long (`unresponsive_for`, counted to the start of a failed round).
    pub fn shut_down_if_unresponsive(&mut self, unresponsive_for: Duration, cx: &mut Context<'_>) -> bool {
        let limit = match self.state {
            WorkerState::Unknown | WorkerState::Booting => cx.settings.timeout_booting,
            _ => cx.settings.timeout_probe,
        };
        if self.idle_behavior == IdleBehavior::Hold || unresponsive_for < limit {
            return false;
        }
        let message = if self.boot_outcome.is_none() {
            "new instance unresponsive, shutting down"
        } else {
            "instance unresponsive, shutting down"
        };
        let note = self.note(Level::Warn, message);
        cx.note(
            note.with("Duration", seconds(unresponsive_for))
                .with("LastProbeAgo", seconds(cx.now.since(self.probed)))
                .with("State", self.state),
        );
        let in_service = !matches!(self.state, WorkerState::Unknown | WorkerState::Booting);
        self.fault.get_or_insert(if in_service { Fault::Unresponsive } else { Fault::NotBooted });
        self.shut_down(cx);
        true
    }

    /// The table of spec 10 §9.
    pub fn eligibility(&self, now: Moment, settings: &Settings) -> Eligibility {
        match (self.state, self.idle_behavior) {
            (_, IdleBehavior::Hold) => Eligibility::No,
            (WorkerState::Booting, IdleBehavior::Drain) => Eligibility::Yes,
            (WorkerState::Idle, IdleBehavior::Drain) => self.unless_evidence_is_old(now, settings),
            (WorkerState::Idle, IdleBehavior::Run) if self.idle_limit_passed(now, settings) => {
                self.unless_evidence_is_old(now, settings)
            }
            (WorkerState::Running, IdleBehavior::Drain) if self.only_unkillable() => Eligibility::Yes,
            _ => Eligibility::No,
        }
    }

    fn idle_limit_passed(&self, now: Moment, settings: &Settings) -> bool {
        let own_limit = self.instance_type.as_ref().and_then(|instance_type| instance_type.timeout_idle);
        match own_limit.unwrap_or(IdleLimit::After(settings.timeout_idle)) {
            IdleLimit::After(limit) => now.since(self.busy) >= limit,
            IdleLimit::Never => false,
        }
    }

    fn only_unkillable(&self) -> bool {
        self.starting.values().chain(self.running.values()).all(|runner| runner.kill == super::kill::KillState::GivenUp)
    }

    /// The last good list began after the last change, is recent, and shows nothing of ours.
    fn unless_evidence_is_old(&self, now: Moment, settings: &Settings) -> Eligibility {
        // Twice the interval, and once more for the wait of a long poll, which is one ProbeInterval.
        let recent = settings.probe_interval * 3;
        let fresh = self.evidence.is_some_and(|evidence| {
            evidence.empty && evidence.changes >= self.changes && now.since(evidence.began) <= recent
        });
        if fresh { Eligibility::Yes } else { Eligibility::ProbeFirst }
    }

    /// Checked on every tick, when a container ends, and when idle behavior changes. True if it was shut down.
    pub fn shut_down_if_eligible(&mut self, cx: &mut Context<'_>) -> bool {
        if self.eligibility(cx.now, cx.settings) == Eligibility::ProbeFirst && !self.collecting_protects(cx) {
            cx.order(Effect::ProbeSoon { instance: self.id.clone() });
        }
        self.shut_down_if_proven_eligible(cx)
    }

    /// The same without asking for a probe: at the end of one, where asking again could go on for ever.
    pub(super) fn shut_down_if_proven_eligible(&mut self, cx: &mut Context<'_>) -> bool {
        if self.eligibility(cx.now, cx.settings) != Eligibility::Yes || self.collecting_protects(cx) {
            return false;
        }
        let note = self.note(Level::Info, "shutdown worker").with("State", self.state);
        let idle = seconds(cx.now.since(self.busy));
        cx.note(note.with("Duration", idle).with("IdleBehavior", self.idle_behavior));
        self.report_boot_outcome(BootOutcome::Aborted, cx);
        self.shut_down(cx);
        true
    }

    /// State `shutdown`, and the order to destroy the instance (spec 10 §10). Final.
    pub fn shut_down(&mut self, cx: &mut Context<'_>) {
        self.set_state_logged_elsewhere(WorkerState::Shutdown, cx);
        self.destroyed.get_or_insert(cx.now);
        self.changes += 1;
        cx.order(Effect::CutConnections { instance: self.id.clone() });
        self.destroy(cx);
        cx.effects.notify();
    }

    /// Asks the cloud to remove the instance; the sync repeats it until the instance is not listed any more.
    pub fn destroy(&mut self, cx: &mut Context<'_>) {
        self.last_destroy = Some(cx.now);
        let ending = match (self.fault, self.boot_outcome) {
            (Some(fault), _) => Ending::Faulty(fault),
            (None, Some(BootOutcome::Success)) => Ending::Unwanted,
            (None, _) => Ending::Unproven,
        };
        cx.order(Effect::DestroyInstance { instance: self.id.clone(), secret: self.secret.clone(), ending });
    }

    /// Changes what the operator wants of this worker. False in `shutdown`, where it means nothing any more.
    pub fn set_idle_behavior(&mut self, behavior: IdleBehavior, cx: &mut Context<'_>) -> bool {
        if self.state == WorkerState::Shutdown {
            return false;
        }
        if self.idle_behavior != behavior {
            self.idle_behavior = behavior;
            cx.note(self.note(Level::Info, "set idle behavior").with("IdleBehavior", behavior));
            cx.effects.notify();
        }
        self.save_tags_if_different(cx);
        true
    }

    /// Saves the tags of spec 10 §11 if the instance reports others. After a save it may report the old ones for a while: what was
    /// saved last counts as well, so that `hold`, `run`, `hold` in a row end with a saved `hold`.
    pub fn save_tags_if_different(&mut self, cx: &mut Context<'_>) {
        let prefix = &cx.settings.tag_key_prefix;
        let wanted = [
            (format!("{prefix}InstanceType"), self.type_name.as_str()),
            (format!("{prefix}IdleBehavior"), self.idle_behavior.as_str()),
        ];
        let shows_wanted =
            |tags: &Tags| wanted.iter().all(|(key, value)| tags.get(key).is_some_and(|known| known == value));
        if shows_wanted(&self.tags) && self.saved_tags.as_ref().is_none_or(shows_wanted) {
            return;
        }
        let mut tags: Tags = self.tags.clone();
        tags.extend(wanted.map(|(key, value)| (key, value.to_owned())));
        self.saved_tags = Some(tags.clone());
        cx.order(Effect::SaveTags { instance: self.id.clone(), tags });
    }
}
