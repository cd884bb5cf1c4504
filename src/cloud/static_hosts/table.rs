//! All hosts: which one to give out, what to say when there is none, what is due. No clock, no I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::host::{Host, Kind, Phase, Trouble};
use super::owner::LeaseId;
use crate::cloud::UnlistedInstance;
use crate::core::ids::{InstanceId, TypeName};
use crate::core::time::{Moment, WallMillis};
use crate::remote::identity::HostKey;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    pub(super) hosts: BTreeMap<InstanceId, Host>,
    /// Keys of hosts that are trusted on first use.
    pub(super) pins: BTreeMap<InstanceId, HostKey>,
    /// The wall clock at the moment 0: for what the file says of times.
    pub(super) began: WallMillis,
    /// Hosts with a change that is being written, as they are when that is on disk (see [`super::commit`]).
    pub(super) planned: BTreeMap<InstanceId, Host>,
    pub(super) planned_pins: BTreeMap<InstanceId, HostKey>,
}

/// What the hosts of a type are doing when none can be given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) busy: usize,
    pub(super) cleaning: usize,
    pub(super) failed: usize,
    pub(super) unreachable: usize,
    pub(super) foreign: usize,
    /// Free, and not tried in this create.
    pub(super) free: usize,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.busy, "busy"),
            (self.cleaning, "being cleaned up"),
            (self.failed, "failed"),
            (self.unreachable, "unreachable"),
            (self.foreign, "used by another dispatcher"),
            (self.free, "not tried"),
        ];
        let words: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
        if words.is_empty() { f.write_str("no host has this type") } else { f.write_str(&words.join(", ")) }
    }
}

impl Table {
    /// The least recently failed free host of the type.
    pub(super) fn free_host(&self, type_name: &TypeName) -> Option<InstanceId> {
        let unplanned = self.hosts.iter().filter(|(id, _)| !self.planned.contains_key(*id)).map(|(_, host)| host);
        let free = unplanned.filter(|host| host.can_be_taken() && host.spec.type_name == *type_name);
        free.min_by_key(|host| (host.last_failed, &host.spec.id)).map(|host| host.spec.id.clone())
    }

    /// The host, other than `asking`, that has a lease.
    pub(super) fn holder(&self, lease: &LeaseId, asking: &InstanceId) -> Option<&InstanceId> {
        let others = self.hosts.values().filter(|host| host.spec.id != *asking);
        others.into_iter().find(|host| host.lease().is_some_and(|held| held.id == *lease)).map(|host| &host.spec.id)
    }

    pub(super) fn shortage(&self, type_name: &TypeName) -> Shortage {
        let mut shortage = Shortage::default();
        let hosts = self.hosts.iter().map(|(id, host)| self.planned.get(id).unwrap_or(host));
        for host in hosts.filter(|host| host.configured && host.spec.type_name == *type_name) {
            let kind = match (&host.phase, &host.trouble) {
                (Phase::Claiming(_) | Phase::Taken(_), _) => {
                    shortage.busy += 1;
                    continue;
                }
                (Phase::Cleaning(cleaning), _) => cleaning.problem.as_ref().map(|problem| problem.kind),
                (Phase::Free, Some(Trouble { problem, until: Some(_) })) => Some(problem.kind),
                (Phase::Free, _) if host.unseen => None,
                (Phase::Free, _) => {
                    shortage.free += 1;
                    continue;
                }
            };
            match kind {
                None => shortage.cleaning += 1,
                Some(Kind::Barred | Kind::Failed) => shortage.failed += 1,
                Some(Kind::Unreachable) => shortage.unreachable += 1,
                Some(Kind::Foreign) => shortage.foreign += 1,
                Some(Kind::Busy) => shortage.busy += 1,
            }
        }
        shortage
    }

    /// Hosts whose clean-up is to begin now, with those that run at most `at_once`. What failed before waits for what has not been
    /// tried, and has half of the places: hosts that are dead, each of which is waited for, hold up none that lives.
    pub(super) fn due_cleanings(&self, at_once: usize, now: Moment) -> Vec<InstanceId> {
        let cleanings = || {
            self.hosts.values().filter_map(|host| match &host.phase {
                Phase::Cleaning(cleaning) => Some((&host.spec.id, cleaning)),
                _ => None,
            })
        };
        let running = cleanings().filter(|(_, cleaning)| cleaning.running).count();
        let retries = cleanings().filter(|(_, cleaning)| cleaning.running && cleaning.failures > 0).count();
        let due = || cleanings().filter(|(_, cleaning)| !cleaning.running && cleaning.due <= now);
        let (mut first, mut again): (Vec<_>, Vec<_>) = due().partition(|(_, cleaning)| cleaning.failures == 0);
        first.sort_by_key(|(id, cleaning)| (cleaning.due, *id));
        again.sort_by_key(|(id, cleaning)| (cleaning.due, *id));
        again.truncate(at_once.div_ceil(2).saturating_sub(retries));
        first.into_iter().chain(again).map(|(id, _)| id.clone()).take(at_once.saturating_sub(running)).collect()
    }

    /// Hosts whose pause is over at `now`.
    pub(super) fn ended_pauses(&self, now: Moment) -> Vec<InstanceId> {
        let ended = self.hosts.values().filter(|host| host.pause_end().is_some_and(|end| end <= now));
        ended.map(|host| host.spec.id.clone()).collect()
    }

    /// The next moment after `now` at which something is due. What is due already waits for a clean-up's end, not for a time.
    pub(super) fn next_due(&self, now: Moment) -> Option<Moment> {
        self.hosts.values().flat_map(Host::dues).filter(|due| *due > now).min()
    }

    pub(super) fn unlisted(&self, now: Moment) -> Vec<UnlistedInstance> {
        self.hosts.values().filter_map(|host| unlisted(host, now)).collect()
    }
}

/// Rounded up: nobody wants to be told to wait for 0.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn unlisted(host: &Host, now: Moment) -> Option<UnlistedInstance> {
    let (lease, state, detail) = match (&host.phase, &host.trouble) {
        (Phase::Cleaning(cleaning), _) if !cleaning.listed => {
            let next = match cleaning.running {
                true => "clean-up is being tried".to_owned(),
                false => format!("clean-up is tried in {} s", whole_seconds(cleaning.due.since(now))),
            };
            let (state, why) = match &cleaning.problem {
                Some(problem) => (problem.kind.as_str(), format!("{}; ", problem.detail)),
                None => ("cleaning", String::new()),
            };
            (Some(&cleaning.lease), state, format!("{why}{next}"))
        }
        (Phase::Free, Some(Trouble { problem, until })) => {
            let next = match until {
                Some(until) => format!("not used for {} s", whole_seconds(until.since(now))),
                None => "tried again when it is needed".to_owned(),
            };
            (None, problem.kind.as_str(), format!("{}; {next}", problem.detail))
        }
        _ => return None,
    };
    Some(UnlistedInstance {
        id: host.spec.id.clone(),
        address: host.spec.address.to_string(),
        type_name: lease.map_or_else(|| host.spec.type_name.clone(), |lease| lease.type_name.clone()),
        provider_type: lease.map_or_else(|| host.spec.provider_type.clone(), |lease| lease.provider_type.clone()),
        state,
        detail,
        being_given_up: matches!(host.phase, Phase::Cleaning(_)),
    })
}

#[cfg(test)]
mod tests;
