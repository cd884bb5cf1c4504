//! Destroying, for as long as that takes: no instance is left behind silently.

use std::collections::BTreeSet;
use std::time::Duration;

use super::create::LOOK_AGAIN;
use super::note;
use super::tester::{Created, Tester};
use crate::cloud::{CloudError, CloudInstance};
use crate::core::effect::{Ending, Level};
use crate::core::errors::chain;
use crate::core::ids::{InstanceId, InstanceSecret};
use crate::log::write_note;

/// After a call that failed: soon, but not as often as the machine can, and less often while it goes on failing.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A cloud that asks for a longer pause is asked all the same after this.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Whatever happens.
pub(super) fn pass(time: Duration) {
    let _ = crossbeam_channel::after(time).recv();
}

/// Before the next call, when so many in a row have failed.
pub(super) fn pause_after(error: &CloudError, errors: u32) -> Duration {
    match error {
        CloudError::RateLimit { retry_after, .. } => (*retry_after).clamp(RETRY, ASKED_PAUSE_MAX),
        _ => (RETRY * 2_u32.pow(errors.saturating_sub(1).min(16))).min(RETRY_MAX),
    }
}

/// The state of an instance that is being destroyed.
#[derive(Debug)]
enum Left {
    Nothing,
    Listed,
    /// It has never been listed, and may be yet: a destroy of what the cloud does not know succeeds.
    Unseen,
    /// No destroy has been accepted.
    Refused,
    /// Not listed, and not given back yet.
    GivenUp,
}

impl Tester<'_> {
    pub(super) fn ask_to_destroy(&self, instance: &CloudInstance) -> Result<(), CloudError> {
        let secret = instance.tags.get(&self.secret_tag_name());
        let secret = secret.map(|text| InstanceSecret::new(text));
        write_note(&note(Level::Info, "destroying instance").with("Instance", &instance.id));
        let result = self.cloud.destroy(&instance.id, secret.as_ref(), Ending::Unwanted);
        if let Err(error) = &result {
            write_note(&note(Level::Warn, "error destroying instance").with("error", chain(error)));
        }
        result
    }

    /// Returns when it is gone.
    pub(super) fn destroy(&self, made: &mut Created) {
        let id = made.instance.id.clone();
        let (mut accepted, mut list_errors, mut refusals) = (false, 0, 0);
        for tries in 1.. {
            // Before the call: what is not listed by now does not exist.
            let is_known = made.seen || self.cloud.traits().exact_list || made.at.elapsed() >= self.plan.appears_within;
            let refusal = self.ask_to_destroy(&made.instance).err();
            accepted |= refusal.is_none() && is_known;
            refusals = refusal.as_ref().map_or(0, |_| refusals + 1);
            // With its tags or without: a driver that loses them is tested, too.
            let listed = self.listed(&self.set_tag()).map(|found| found.iter().any(|one| one.id == id));
            let mut pause = match &listed {
                Ok(listed) => {
                    made.seen |= listed;
                    list_errors = 0;
                    let left = match listed {
                        true => Left::Listed,
                        false if accepted && self.given_up().contains(&id) => Left::GivenUp,
                        false if accepted => Left::Nothing,
                        false if is_known => Left::Refused,
                        false => Left::Unseen,
                    };
                    self.tell(&left, &id);
                    match left {
                        Left::Nothing => return,
                        Left::Unseen => self.plan.sync_interval.min(LOOK_AGAIN),
                        Left::Listed | Left::Refused | Left::GivenUp => self.between_looks(tries),
                    }
                }
                Err(error) => {
                    write_note(&note(Level::Warn, "error getting list of instances").with("error", chain(error)));
                    list_errors += 1;
                    pause_after(error, list_errors)
                }
            };
            if let Some(error) = &refusal
                && (listed.is_err() || matches!(error, CloudError::RateLimit { .. }))
            {
                pause = pause.max(pause_after(error, refusals));
            }
            pass(pause);
        }
    }

    /// Where a list costs little the end is seen soon, and what takes long fills no log.
    fn between_looks(&self, tries: u32) -> Duration {
        match self.cloud.traits().cheap_list {
            true => LOOK_AGAIN.saturating_mul(tries).min(self.plan.sync_interval),
            false => self.plan.sync_interval,
        }
    }

    fn tell(&self, left: &Left, id: &InstanceId) {
        let message = match left {
            Left::Nothing => "instance is gone",
            Left::Listed => "instance is still listed; waiting",
            Left::Unseen => "instance has not been listed yet; it is destroyed again until it must have been",
            Left::Refused => "instance is not listed, but no destroy has succeeded; trying again",
            Left::GivenUp => return self.tell_given_up(&BTreeSet::from([id.clone()])),
        };
        write_note(&note(Level::Info, message).with("Instance", id));
    }

    /// What the driver says of these, as far as it is not done with them.
    pub(super) fn tell_given_up(&self, ids: &BTreeSet<InstanceId>) {
        for one in self.cloud.unlisted().iter().filter(|one| one.being_given_up && ids.contains(&one.id)) {
            // A clean-up takes its time; one that has failed is trouble.
            let level = if one.state == "cleaning" { Level::Info } else { Level::Warn };
            let line = note(level, "instance is not given back yet; waiting").with("Instance", &one.id);
            write_note(&line.with("State", one.state).with("Reason", &one.detail));
        }
    }

    /// For what a failed create may have left with a driver that cleans up in the background. Of `before` nothing is this test's.
    pub(super) fn wait_until_given_back(&self, before: &BTreeSet<InstanceId>) {
        for tries in 1.. {
            let ours: BTreeSet<InstanceId> = self.given_up().difference(before).cloned().collect();
            if ours.is_empty() {
                return;
            }
            self.tell_given_up(&ours);
            pass(self.between_looks(tries));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_a_limit() {
        let other = CloudError::Other { message: "x".to_owned(), source: None };
        let seconds: Vec<u64> = [1, 2, 3, 7, 100].map(|errors| pause_after(&other, errors).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 60, 60]);
        for (asked, expected) in [(0, 1), (20, 20), (4000, 300)] {
            let limit = CloudError::RateLimit { message: "x".to_owned(), retry_after: Duration::from_secs(asked) };
            assert_eq!(pause_after(&limit, 9), Duration::from_secs(expected));
        }
    }
}
