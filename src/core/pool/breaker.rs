//! The circuit breaker: a type whose instances do not boot is not created again and again (spec 20 §6).
//!
//! Three failed boots in a row *trip* a type: no create of it for a pause. When the pause has ended one instance is tried, and only
//! one: until it has been in service, or failed, or has gone without a verdict, no other is created, since several at once would cost
//! several to learn the same thing. A success ends all that; another failure begins the next pause, twice as long.
//!
//! Every verdict counts that a worker reports, whoever created its instance: one that was found in the cloud's list and never
//! answers says the same of its image, and otherwise each restart would cost three more. What is no verdict (shut down or gone
//! before one) changes nothing, nor does a failure while we have no runner to put there: that is our own fault.
//!
//! Where machines of a type have no image in common (the driver static) there is no breaker.
//!
//! To the scheduler such a type looks like one without capacity: its containers use other types. The image is the type's
//! definition, as far as the configuration has one, so a reload that changes it begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Pool;
use super::view::BreakerView;
use crate::core::effect::{Effects, Level, Note, seconds};
use crate::core::ids::TypeName;
use crate::core::instance_type::InstanceType;
use crate::core::time::Moment;
use crate::core::timer::Timer;
use crate::core::vocabulary::{BootOutcome, IdleBehavior, WorkerState};

/// So many failures in a row trip it.
const FAILURES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(5 * 60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// The end of a boot error that people are shown.
const ERROR_CHARS_MAX: usize = 300;

/// What is known of one type's boots. There is an entry only while the last verdict was a failure: at most one for each
/// configured type.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaker {
    pub(super) failures_in_a_row: u32,
    /// How many there were since the last success.
    pub(super) pauses: u32,
    /// End of the last pause; `None` = not tripped. One that has passed means a trial.
    pub(super) paused_until: Option<Moment>,
    pub(super) last_error: String,
}

impl Breaker {
    pub(super) fn is_tripped(&self) -> bool {
        self.paused_until.is_some()
    }

    pub(super) fn is_paused(&self, now: Moment) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// 5 min, doubling to an hour.
    fn next_pause(&self) -> Duration {
        FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16)).min(LONGEST_PAUSE)
    }
}

impl Pool {
    /// No instance of this type may be created now.
    pub(super) fn breaker_blocks(&self, type_name: &str, now: Moment) -> bool {
        self.breakers
            .get(type_name)
            .is_some_and(|breaker| breaker.is_paused(now) || (breaker.is_tripped() && self.unproven(type_name) > 0))
    }

    /// Instances of a type that were asked for and have not booted yet. Not those that an operator holds: they may be kept as they
    /// are to be looked at, and no verdict would ever come.
    pub(super) fn unproven(&self, type_name: &str) -> usize {
        let booting = self.workers.values().filter(|worker| {
            worker.state == WorkerState::Booting
                && worker.boot_outcome.is_none()
                && worker.idle_behavior != IdleBehavior::Hold
                && worker.type_name.as_str() == type_name
        });
        let creates = self.creates.values().filter(|create| create.type_name.as_str() == type_name);
        booting.count() + creates.count()
    }

    /// A worker of this type has reported how its boot ended; `why` is for people.
    pub(super) fn boot_ended(
        &mut self,
        type_name: &TypeName,
        outcome: BootOutcome,
        why: &str,
        now: Moment,
        effects: &mut Effects,
    ) {
        match outcome {
            BootOutcome::Success => self.close_breaker(type_name, "instances of this type boot again", effects),
            BootOutcome::Failure => self.boot_failed(type_name, why, now, effects),
            BootOutcome::Aborted | BootOutcome::Disappeared => {}
        }
    }

    fn boot_failed(&mut self, type_name: &TypeName, why: &str, now: Moment, effects: &mut Effects) {
        let says_nothing = !self.settings.instances_alike || self.runner_fault.is_some();
        if says_nothing || !self.types.contains_key(type_name) {
            return;
        }
        let breaker = self.breakers.entry(type_name.clone()).or_default();
        breaker.failures_in_a_row = breaker.failures_in_a_row.saturating_add(1);
        breaker.last_error = short(why);
        // What fails during a pause was asked for before it: it tells nothing new.
        if breaker.failures_in_a_row < FAILURES || breaker.is_paused(now) {
            return;
        }
        let pause = breaker.next_pause();
        breaker.pauses = breaker.pauses.saturating_add(1);
        breaker.paused_until = Some(now + pause);
        self.timers.set(now + pause, Timer::Breaker(type_name.clone()));
        let text = "instances of this type do not boot; none is created during a pause";
        let note = Note::new(Level::Warn, "pool", text).with("InstanceType", type_name);
        let note = note.with("Failures", breaker.failures_in_a_row).with("Duration", seconds(pause));
        effects.log(note.with("error", &breaker.last_error).resuming_at(now + pause));
        effects.notify();
    }

    /// A pause has ended: the type can be had again, once.
    pub(super) fn breaker_pause_ended(&self, type_name: &TypeName, effects: &mut Effects) {
        let text = "the pause after failed boots has ended; one instance is tried";
        effects.log(Note::new(Level::Info, "pool", text).with("InstanceType", type_name));
        effects.notify();
    }

    /// Forgets the failures of a type; a word about it only if it was tripped.
    fn close_breaker(&mut self, type_name: &TypeName, message: &'static str, effects: &mut Effects) {
        if self.breakers.remove(type_name).is_some_and(|breaker| breaker.is_tripped()) {
            self.timers.cancel(&Timer::Breaker(type_name.clone()));
            effects.log(Note::new(Level::Info, "pool", message).with("InstanceType", type_name));
            effects.notify();
        }
    }

    /// An operator says that what was wrong is corrected. No effect for a type whose instances boot.
    pub fn reset_breaker(&mut self, type_name: &TypeName, effects: &mut Effects) {
        self.close_breaker(type_name, "the failed boots of this type are forgotten, as asked", effects);
    }

    /// After a reload: a type that is another one now, or none, has not failed yet.
    pub(super) fn keep_breakers_of(
        &mut self,
        types: &BTreeMap<TypeName, std::sync::Arc<InstanceType>>,
        effects: &mut Effects,
    ) {
        let changed = |name: &&TypeName| types.get(*name) != self.types.get(*name);
        let names: Vec<TypeName> = self.breakers.keys().filter(changed).cloned().collect();
        for name in names {
            self.close_breaker(
                &name,
                "the failed boots of this type are forgotten: its definition has changed",
                effects,
            );
        }
    }

    /// What people are told, of each type whose last boot failed.
    pub(super) fn breaker_views(&self, now: Moment) -> BTreeMap<TypeName, BreakerView> {
        let view = |breaker: &Breaker| BreakerView {
            failures_in_a_row: breaker.failures_in_a_row,
            is_tripped: breaker.is_tripped(),
            paused_until: breaker.paused_until.filter(|until| now < *until),
            last_error: breaker.last_error.clone(),
        };
        self.breakers.iter().map(|(name, breaker)| (name.clone(), view(breaker))).collect()
    }
}

/// One line, not too long: it is part of a sentence. The end of an error is where its cause is.
fn short(error: &str) -> String {
    let line: String = error.trim().chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let skipped = line.chars().count().saturating_sub(ERROR_CHARS_MAX);
    if skipped == 0 { line } else { format!("…{}", line.chars().skip(skipped).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_an_hour() {
        let minutes = |pauses| Breaker { pauses, ..Breaker::default() }.next_pause().as_secs() / 60;
        assert_eq!([0, 1, 2, 3, 4, 5, 1000].map(minutes), [5, 10, 20, 40, 60, 60, 60]);
    }

    #[test]
    fn an_error_is_one_line_and_its_end_is_kept() {
        assert_eq!(short(" refused\nby  sshd\n"), "refused by  sshd");
        let long = format!("{}{}", "x".repeat(400), "the cause");
        assert_eq!(short(&long).chars().count(), ERROR_CHARS_MAX + 1);
        assert!(short(&long).starts_with('…') && short(&long).ends_with("the cause"));
    }
}
