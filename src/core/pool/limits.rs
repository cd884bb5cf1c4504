//! Quota, capacity and rate limits: what the cloud refused, and until when we believe it (spec 20 §2–§4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use crate::core::effect::{Effects, Level, Note, seconds};
use crate::core::ids::TypeName;
use crate::core::instance_type::InstanceType;
use crate::core::time::Moment;
use crate::core::timer::Timer;

/// With no instance of ours nothing we do could free quota: so long no create.
const QUOTA_PAUSE: Duration = Duration::from_secs(60);
/// Others may have held the quota: after this one create is tried again.
const QUOTA_RETRY: Duration = Duration::from_secs(600);
/// Pauses after creates that failed for no known reason: one in ten may, on a bad day, and holds up the other nine for so long.
const FAILURE_PAUSE_FIRST: Duration = Duration::from_millis(125);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);
const CAPACITY_PAUSE: Duration = Duration::from_secs(60);

/// What the provider's lack of capacity concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityScope {
    Type,
    Group,
    Everything,
}

/// Error classes of a cloud call (spec 40 §3); each says what the pool must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudRefusal {
    /// Wait until then before the next call of this kind.
    RateLimit {
        until: Moment,
    },
    /// No more instances for this account.
    Quota,
    Capacity(CapacityScope),
    /// Unclassified: tried again after a pause. An instance may have been made all the same.
    Other,
}

/// Calls that have a throttle of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Create,
    List,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CapacityKey {
    Type { provider_type: String, preemptible: bool },
    Group { group: String, preemptible: bool },
    Everything,
}

#[derive(Debug, Default)]
pub struct Limits {
    /// At quota until fewer than this many instances remain, or the time has passed.
    fewer_than: Option<(usize, Moment)>,
    quota_pause_until: Option<Moment>,
    capacity_until: BTreeMap<CapacityKey, Moment>,
    /// When a machine became free; one entry at most for each configured type.
    freed_at: BTreeMap<CapacityKey, Moment>,
    creates_until: Option<Moment>,
    /// Until when it is the cloud that wants no creates, and not we who wait after failures.
    creates_throttled_until: Option<Moment>,
    /// Creates that failed for no known reason since the last that succeeded.
    failures_in_a_row: u32,
    /// When the last of them was counted.
    failed_at: Option<Moment>,
    lists_until: Option<Moment>,
    /// The driver's quota group of each configured type; a type that is missing is in the group `""`.
    quota_groups: BTreeMap<TypeName, String>,
}

/// A limit in force, for `muster status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitInForce {
    /// `quota`, `capacity`, `rate limit`, `failed creates`, `breaker`.
    pub what: &'static str,
    pub detail: String,
    pub until: Option<Moment>,
}

fn later(until: Option<Moment>, now: Moment) -> bool {
    until.is_some_and(|until| now < until)
}

impl Limits {
    /// Waiting for fewer instances, or in a quota pause. (MaxInstances is the pool's.)
    fn quota_in_force(&self, now: Moment) -> bool {
        self.fewer_than.is_some_and(|(_, until)| now < until) || later(self.quota_pause_until, now)
    }

    fn keys(&self, instance_type: &InstanceType) -> [CapacityKey; 3] {
        let group = self.quota_groups.get(instance_type.name.as_str()).cloned().unwrap_or_default();
        let preemptible = instance_type.preemptible;
        [
            CapacityKey::Type { provider_type: instance_type.provider_type.clone(), preemptible },
            CapacityKey::Group { group, preemptible },
            CapacityKey::Everything,
        ]
    }
}

impl Pool {
    pub fn set_quota_groups(&mut self, groups: BTreeMap<TypeName, String>) {
        self.limits.quota_groups = groups;
    }

    /// Spec 20 §2.
    pub fn at_quota(&self, now: Moment) -> bool {
        self.limits.quota_in_force(now) || self.quota_room() == 0
    }

    /// How many more instances MaxInstances allows; `usize::MAX` without a limit.
    pub fn quota_room(&self) -> usize {
        match self.settings.max_instances {
            0 => usize::MAX,
            max => max.saturating_sub(self.instance_count()),
        }
    }

    /// Spec 20 §3: true while any of the three keys that apply to the type is paused. Also while its instances do not boot (§6).
    pub fn at_capacity(&self, instance_type: &InstanceType, now: Moment) -> bool {
        let keys = self.limits.keys(instance_type);
        keys.iter().any(|key| later(self.limits.capacity_until.get(key).copied(), now))
            || self.breaker_blocks(&instance_type.name, now)
    }

    /// The configured types that the provider has none of, as far as it said, and until when it is not asked again.
    pub(super) fn capacity_pauses(&self, now: Moment) -> BTreeMap<TypeName, Moment> {
        if self.limits.capacity_until.values().all(|until| *until <= now) {
            return BTreeMap::new();
        }
        let pause = |one: &Arc<InstanceType>| {
            let keys = self.limits.keys(one);
            let pauses = keys.iter().filter_map(|key| self.limits.capacity_until.get(key).copied());
            Some((TypeName::new(&one.name), pauses.filter(|until| now < *until).max()?))
        };
        self.types.values().filter_map(pause).collect()
    }

    pub fn calls_suspended(&self, kind: CallKind, now: Moment) -> bool {
        match kind {
            CallKind::Create => later(self.limits.creates_until, now),
            CallKind::List => later(self.limits.lists_until, now),
        }
    }

    /// A create was refused that began at `began`; `others` counts workers and *other* unfinished creates.
    pub(super) fn create_refused(
        &mut self,
        (instance_type, began): (&InstanceType, Moment),
        refusal: &CloudRefusal,
        others: usize,
        now: Moment,
        effects: &mut Effects,
    ) {
        match refusal {
            CloudRefusal::Quota => self.hold_at_quota(others, now, effects),
            CloudRefusal::Capacity(scope) => {
                let [of_type, of_group, of_all] = self.limits.keys(instance_type);
                let key = match scope {
                    CapacityScope::Type => of_type,
                    CapacityScope::Group => of_group,
                    CapacityScope::Everything => of_all,
                };
                // The refusal is older than the machine that became free meanwhile.
                if self.limits.freed_at.get(&key).is_some_and(|freed| began <= *freed) {
                    return;
                }
                let until = now + CAPACITY_PAUSE;
                self.limits.capacity_until.retain(|_, until| *until > now);
                self.limits.capacity_until.insert(key, until);
                self.arm_capacity(now);
            }
            CloudRefusal::RateLimit { until } => self.suspend_calls(CallKind::Create, *until, now, effects),
            CloudRefusal::Other => self.pause_after_failure(began, now),
        }
    }

    /// A machine of this type has become free: its own pause is over (spec 46 §1), and creates that began before set none.
    pub fn capacity_freed(&mut self, name: &TypeName, now: Moment, effects: &mut Effects) {
        let Some(instance_type) = self.types.get(name) else {
            return;
        };
        let [of_type, ..] = self.limits.keys(instance_type);
        self.limits.freed_at.insert(of_type.clone(), now);
        if self.limits.capacity_until.remove(&of_type).is_some_and(|until| now < until) {
            effects.notify();
        }
    }

    /// A create that fails at once, again and again, must not become a busy loop: an eighth of a second, doubling to a minute. Those
    /// that were under way together (`began`) fail for one reason: they count as one.
    fn pause_after_failure(&mut self, began: Moment, now: Moment) {
        if self.limits.failed_at.is_some_and(|failed| began <= failed) {
            return;
        }
        self.limits.failed_at = Some(now);
        let pause =
            FAILURE_PAUSE_FIRST.saturating_mul(1 << self.limits.failures_in_a_row.min(9)).min(FAILURE_PAUSE_MAX);
        self.limits.failures_in_a_row = self.limits.failures_in_a_row.saturating_add(1);
        let until = self.limits.creates_until.map_or(now + pause, |known| known.max(now + pause));
        self.limits.creates_until = Some(until);
        self.timers.set(until, Timer::CreatesResume);
    }

    /// A create has succeeded.
    pub(super) fn creates_work(&mut self) {
        self.limits.failures_in_a_row = 0;
    }

    fn hold_at_quota(&mut self, others: usize, now: Moment, effects: &mut Effects) {
        if others < 1 {
            let until = now + QUOTA_PAUSE;
            self.limits.quota_pause_until = Some(until);
            self.arm_quota(now);
            effects.log(Note::new(Level::Info, "pool", "at quota with no instance of ours; pausing creates"));
            return;
        }
        let smaller = match self.limits.fewer_than {
            Some((known, until)) if now < until => known.min(others),
            _ => others,
        };
        let until = now + QUOTA_RETRY;
        self.limits.fewer_than = Some((smaller, until));
        self.arm_quota(now);
        let note = Note::new(Level::Info, "pool", "at quota until fewer instances remain");
        effects.log(note.with("Instances", others).with("FewerThan", smaller));
    }

    /// Sets the timer for the next end of a quota hold, if any is in force.
    pub(super) fn arm_quota(&mut self, now: Moment) {
        let held = self.limits.fewer_than.map(|(_, until)| until);
        if let Some(at) = [held, self.limits.quota_pause_until].into_iter().flatten().filter(|at| *at > now).min() {
            self.timers.set(at, Timer::Quota);
        }
    }

    /// The same for capacity pauses.
    pub(super) fn arm_capacity(&mut self, now: Moment) {
        if let Some(at) = self.limits.capacity_until.values().copied().filter(|at| *at > now).min() {
            self.timers.set(at, Timer::Capacity);
        }
    }

    /// A quota hold has run out of time, and no create has shown yet that there is room.
    pub(super) fn tries_quota(&self, now: Moment) -> bool {
        self.limits.fewer_than.is_some_and(|(_, until)| until <= now)
    }

    /// A create made an instance: a hold that has run out is over for good.
    pub(super) fn quota_has_room(&mut self, now: Moment) {
        if self.tries_quota(now) {
            self.limits.fewer_than = None;
        }
    }

    /// After a sync: fewer instances than the number waited for lift the hold.
    pub(super) fn release_quota_if_fewer(&mut self, effects: &mut Effects) {
        if self.limits.fewer_than.is_some_and(|(fewer_than, _)| self.instance_count() < fewer_than) {
            self.limits.fewer_than = None;
            effects.notify();
        }
    }

    /// A call was rate-limited: no call of its kind before `until`. A time in the past is ignored.
    pub fn suspend_calls(&mut self, kind: CallKind, until: Moment, now: Moment, effects: &mut Effects) {
        if until <= now {
            return;
        }
        let (slot, timer, name) = match kind {
            CallKind::Create => (&mut self.limits.creates_until, Timer::CreatesResume, "Create"),
            CallKind::List => (&mut self.limits.lists_until, Timer::ListsResume, "List"),
        };
        let already = later(*slot, now);
        *slot = Some(slot.map_or(until, |known| known.max(until)));
        if kind == CallKind::Create {
            self.limits.creates_throttled_until = self.limits.creates_throttled_until.max(Some(until));
        }
        // A later time never shortens the pause.
        self.timers.set(slot.unwrap_or(until), timer);
        effects.notify();
        if !already {
            let note = Note::new(Level::Warn, "pool", "suspending remote calls due to rate-limit error");
            effects.log(note.with("CallType", name).with("Duration", seconds(until.since(now))).resuming_at(until));
        }
    }

    /// The limits in force now, for people.
    pub fn limits_in_force(&self, now: Moment) -> Vec<LimitInForce> {
        let limits = &self.limits;
        let mut found = Vec::new();
        let mut add = |what, detail: String, until| found.push(LimitInForce { what, detail, until });
        if let Some((fewer_than, until)) = limits.fewer_than.filter(|(_, until)| now < *until) {
            add("quota", format!("until fewer than {fewer_than} instances remain"), Some(until));
        }
        if let Some(until) = limits.quota_pause_until.filter(|until| now < *until) {
            add("quota", "the account has no room for an instance".to_owned(), Some(until));
        }
        if self.quota_room() == 0 {
            add("quota", format!("MaxInstances is {}", self.settings.max_instances), None);
        }
        for (key, until) in limits.capacity_until.iter().filter(|(_, until)| now < **until) {
            let detail = match key {
                CapacityKey::Type { provider_type, preemptible: false } => format!("provider type {provider_type}"),
                CapacityKey::Type { provider_type, preemptible: true } => {
                    format!("provider type {provider_type}, preemptible")
                }
                CapacityKey::Group { group, .. } => format!("quota group {group}"),
                CapacityKey::Everything => "every type".to_owned(),
            };
            add("capacity", detail, Some(*until));
        }
        let creates = if later(limits.creates_throttled_until, now) { "rate limit" } else { "failed creates" };
        let calls = [(creates, "create calls", limits.creates_until), ("rate limit", "list calls", limits.lists_until)];
        for (what, calls, until) in calls.into_iter().filter(|(.., until)| later(*until, now)) {
            add(what, calls.to_owned(), until);
        }
        for (name, breaker) in self.breaker_views(now) {
            if breaker.is_tripped {
                add("breaker", format!("type {name}: {breaker}"), breaker.paused_until);
            }
        }
        found
    }
}
