//! All hosts: which one to give out, what to say when there is none, what is due. No clock, no I/O.

use std::collections::BTreeMap;
use std::fmt;

use super::host::{Host, Kind, Phase, Trouble};
use crate::cloud::UnlistedInstance;
use crate::core::effect::seconds;
use crate::core::ids::{InstanceId, TypeName};
use crate::core::time::Moment;
use crate::remote::identity::HostKey;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    pub(super) hosts: BTreeMap<InstanceId, Host>,
    /// Keys of hosts that are trusted on first use.
    pub(super) pins: BTreeMap<InstanceId, HostKey>,
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
    /// The least recently failed free host of the type. `pending`: those that are just being taken.
    pub(super) fn free_host(&self, type_name: &TypeName, pending: impl Fn(&InstanceId) -> bool) -> Option<InstanceId> {
        let free = self
            .hosts
            .values()
            .filter(|host| host.can_be_taken() && host.spec.type_name == *type_name && !pending(&host.spec.id));
        free.min_by_key(|host| (host.last_failed, &host.spec.id)).map(|host| host.spec.id.clone())
    }

    pub(super) fn shortage(&self, type_name: &TypeName, pending: impl Fn(&InstanceId) -> bool) -> Shortage {
        let mut shortage = Shortage::default();
        for host in self.hosts.values().filter(|host| host.configured && host.spec.type_name == *type_name) {
            let kind = match (&host.phase, &host.trouble) {
                (Phase::Claiming(_) | Phase::Taken(_), _) => {
                    shortage.busy += 1;
                    continue;
                }
                (Phase::Cleaning(cleaning), _) => cleaning.problem.as_ref().map(|problem| problem.kind),
                (Phase::Free, Some(Trouble { problem, until: Some(_) })) => Some(problem.kind),
                (Phase::Free, _) if pending(&host.spec.id) => {
                    shortage.busy += 1;
                    continue;
                }
                (Phase::Free, _) if host.unseen => None,
                (Phase::Free, _) => {
                    shortage.free += 1;
                    continue;
                }
            };
            match kind {
                None => shortage.cleaning += 1,
                Some(Kind::Failed) => shortage.failed += 1,
                Some(Kind::Unreachable) => shortage.unreachable += 1,
                Some(Kind::Foreign) => shortage.foreign += 1,
            }
        }
        shortage
    }

    /// Hosts whose clean-up is to begin now, with those that run at most `at_once`.
    pub(super) fn due_cleanings(&self, at_once: usize, now: Moment) -> Vec<InstanceId> {
        let cleanings = || {
            self.hosts.values().filter_map(|host| match &host.phase {
                Phase::Cleaning(cleaning) => Some((&host.spec.id, cleaning)),
                _ => None,
            })
        };
        let running = cleanings().filter(|(_, cleaning)| cleaning.running).count();
        let mut due: Vec<_> = cleanings().filter(|(_, cleaning)| !cleaning.running && cleaning.due <= now).collect();
        due.sort_by_key(|(id, cleaning)| (cleaning.due, *id));
        due.into_iter().map(|(id, _)| id.clone()).take(at_once.saturating_sub(running)).collect()
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

fn unlisted(host: &Host, now: Moment) -> Option<UnlistedInstance> {
    let (lease, state, detail) = match (&host.phase, &host.trouble) {
        (Phase::Cleaning(cleaning), _) if !cleaning.listed => {
            let next = match cleaning.running {
                true => "clean-up is being tried".to_owned(),
                false => format!("clean-up is tried in {}", seconds(cleaning.due.since(now))),
            };
            let (state, why) = match &cleaning.problem {
                Some(problem) => (problem.kind.as_str(), format!("{}; ", problem.detail)),
                None => ("cleaning", String::new()),
            };
            (Some(&cleaning.lease), state, format!("{why}{next}"))
        }
        (Phase::Free, Some(Trouble { problem, until })) => {
            let next = match until {
                Some(until) => format!("not used for {}", seconds(until.since(now))),
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
    })
}

#[cfg(test)]
mod tests;
