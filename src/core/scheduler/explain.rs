//! Why a container waits, in words that an operator can act on: what it needs, what stands in its way, and until when.

use std::fmt::Write;

use super::outlook::{Listed, Listing};
use super::status::{Hold, Status};
use crate::core::entry::QueueEntry;
use crate::core::ids::ContainerUuid;
use crate::core::instance_type::InstanceType;
use crate::core::pool::view::PoolView;
use crate::core::time::Moment;
use crate::core::units::format_size;

/// Of a container's types, so many are told about.
const TYPES_SHOWN_MAX: usize = 3;
/// Of what it waits for in `after`.
const OTHERS_SHOWN_MAX: usize = 3;

/// What a pass was up against.
#[derive(Clone, Debug, Default)]
pub(super) struct Grounds {
    pub(super) pool: PoolView,
    /// The queue is in trouble, or results cannot be stored: nothing new is begun.
    pub(super) trouble: bool,
    /// Workers that may run what an earlier process locked are waited for.
    pub(super) stale: bool,
    pub(super) at_quota: bool,
    pub(super) api_limit: usize,
    pub(super) quota_limit: usize,
    pub(super) supervisors_max: usize,
    /// The first that no instance has room for, at quota.
    pub(super) first_over_quota: Option<ContainerUuid>,
}

/// Writes a time of the day.
pub(super) type Clock<'a> = &'a dyn Fn(Moment) -> String;

impl Listing {
    /// Sentences for one that waits, `None` for one that does not: `needs 8 VCPUs and 30.5 GiB; type c8 is at capacity until 12:04:10`.
    /// `clock` writes times.
    pub fn explain(&self, uuid: &ContainerUuid, clock: &dyn Fn(Moment) -> String) -> Option<String> {
        let one = self.find(uuid)?;
        let reasons = self.reasons(one, clock)?;
        let needs = needs(&one.entry);
        Some(if reasons.is_empty() { needs } else { format!("{needs}; {}", reasons.join("; ")) })
    }

    fn reasons(&self, one: &Listed, clock: Clock<'_>) -> Option<Vec<String>> {
        let entry = &one.entry;
        Some(match &one.status {
            Status::Nothing | Status::Allocated | Status::PreviousAttempt => return None,
            Status::OnHold => vec!["its priority is 0: raise it with `muster priority`".to_owned()],
            Status::AfterOthers => vec![after(entry)],
            Status::Supervisor => {
                let most = self.grounds.supervisors_max;
                let run = counted(most, "workflow container runs", "workflow containers run");
                vec![format!("at most {run} at a time (SupervisorFraction)")]
            }
            // It is on its way; unless those of its type do not boot, there is nothing to add.
            Status::ForInstance(name) => self.does_not_boot(name.as_str(), clock).into_iter().collect(),
            Status::AtCapacity => self.unavailable(entry, clock).into_iter().collect(),
            Status::Waiting(hold) => self.of_waiting(entry, *hold, clock),
        })
    }

    fn of_waiting(&self, entry: &QueueEntry, hold: Hold, clock: Clock<'_>) -> Vec<String> {
        let grounds = &*self.grounds;
        let one = match hold {
            Hold::Paused if grounds.trouble => {
                "nothing is started while our own storage is in trouble: see `muster status`".to_owned()
            }
            Hold::Paused | Hold::Settling if grounds.stale => {
                "instances that an earlier process used are asked first what they run".to_owned()
            }
            Hold::Paused | Hold::Settling => "an operation on it is in progress".to_owned(),
            Hold::OverQuota => return self.over_quota(entry, clock),
            Hold::ApiLimit => {
                let most = counted(grounds.api_limit, "container", "containers");
                format!("at most {most} at a time, since the API server had too many requests")
            }
            Hold::QuotaLimit => {
                let most = counted(grounds.quota_limit, "instance is", "instances are");
                format!("at most {most} asked for until it is known that more can be had")
            }
            Hold::Creates => self.no_create(clock),
            Hold::Capacity => String::new(),
        };
        let types = self.unavailable(entry, clock);
        [types.unwrap_or_default(), one].into_iter().filter(|text| !text.is_empty()).collect()
    }

    fn over_quota(&self, entry: &QueueEntry, clock: Clock<'_>) -> Vec<String> {
        let limits = self.grounds.pool.limits.iter().filter(|limit| limit.what == "quota");
        let limits = limits.map(|limit| match limit.until {
            Some(at) => format!("{} (tried again at {})", limit.detail, clock(at)),
            None => limit.detail.clone(),
        });
        let limits: Vec<String> = limits.collect();
        let why = if limits.is_empty() { "MaxInstances is reached".to_owned() } else { limits.join(", ") };
        // Also without the quota it could not have one.
        let mut reasons: Vec<String> = self.unavailable(entry, clock).into_iter().collect();
        match self.grounds.first_over_quota.as_ref().filter(|first| **first != entry.container.uuid) {
            None => reasons.push(format!("no instance has room for it and no more are created: {why}")),
            Some(first) => {
                reasons.push(format!("no more instances are created: {why}"));
                reasons.push(format!("{first} comes first"));
            }
        }
        reasons
    }

    fn no_create(&self, clock: Clock<'_>) -> String {
        let pool = &self.grounds.pool;
        let paused = pool.limits.iter().find(|limit| limit.detail == "create calls");
        match (paused.and_then(|limit| limit.until), &pool.creates_refused) {
            (Some(until), _) => format!("no instance is created until {}", clock(until)),
            (None, Some(why)) => format!("no instance is created now: {why}"),
            (None, None) => "no more instances may be created at a time than are being created now".to_owned(),
        }
    }

    fn does_not_boot(&self, name: &str, clock: Clock<'_>) -> Option<String> {
        let breaker = self.grounds.pool.breakers.get(name).filter(|breaker| breaker.is_tripped)?;
        let next = breaker.paused_until.map(|until| format!(", the next is tried at {}", clock(until)));
        Some(format!("of type {name} {breaker}{}", next.unwrap_or_default()))
    }

    /// The types that cannot be had now, if that are all it may run on.
    fn unavailable(&self, entry: &QueueEntry, clock: Clock<'_>) -> Option<String> {
        let pool = &self.grounds.pool;
        let why = |one: &InstanceType| {
            let name = &one.name;
            if let Some(until) = pool.capacity_until.get(name.as_str()) {
                return Some(format!("type {name} is at capacity until {}", clock(*until)));
            }
            if let Some(until) = pool.failing_until.get(name.as_str()) {
                return Some(format!("creates of type {name} failed, the next is tried at {}", clock(*until)));
            }
            self.does_not_boot(name, clock)
        };
        let types = &entry.instance_types;
        let reasons: Vec<String> = types.iter().filter_map(|one| why(one)).collect();
        if reasons.is_empty() || reasons.len() < types.len() {
            return None;
        }
        let shown = reasons.iter().take(TYPES_SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
        Some(match reasons.len().saturating_sub(TYPES_SHOWN_MAX) {
            0 => shown,
            more => format!("{shown}, and so on with {more} more"),
        })
    }
}

/// `needs 8 VCPUs and 30.5 GiB`, with scratch and GPUs if it needs any.
fn needs(entry: &QueueEntry) -> String {
    let need = &entry.resources;
    let amount = |number: i64, one, several| counted(usize::try_from(number).unwrap_or(0), one, several);
    let mut parts = vec![amount(need.vcpus, "VCPU", "VCPUs"), size(need.ram)];
    if need.scratch > 0 {
        parts.push(format!("{} of scratch", size(need.scratch)));
    }
    if need.gpus > 0 {
        parts.push(format!("{} of {}", amount(need.gpus, "GPU", "GPUs"), size(need.gpu_vram)));
    }
    let last = parts.pop().unwrap_or_default();
    format!("needs {} and {last}", parts.join(", "))
}

fn counted(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// `30.5 GiB`.
fn size(bytes: i64) -> String {
    let text = format_size(bytes);
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    format!("{} {}", &text[..unit], &text[unit..])
}

fn after(entry: &QueueEntry) -> String {
    let after = &entry.container.request.after;
    let mut text = "it runs after".to_owned();
    for (index, other) in after.iter().take(OTHERS_SHOWN_MAX).enumerate() {
        let _ = write!(text, "{} {other}", if index == 0 { "" } else { "," });
    }
    match after.len().saturating_sub(OTHERS_SHOWN_MAX) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
