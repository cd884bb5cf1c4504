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
/// After so many in a row it is the type that cannot be had, and others need not wait for it.
const FAILURES_OF_ALL: u32 = 3;
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

/// Creates of a type that failed for no known reason, since the last that succeeded.
#[derive(Clone, Copy, Debug)]
struct Failing {
    in_a_row: u32,
    /// When the last of them was counted.
    at: Moment,
    until: Moment,
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
    /// The same, since creates have just failed for no known reason.
    failed_until: Option<Moment>,
    /// Types whose last create failed so.
    failing: BTreeMap<TypeName, Failing>,
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

impl Failing {
    fn blocks(&self, now: Moment) -> bool {
        self.in_a_row > FAILURES_OF_ALL && now < self.until
    }
}

impl Limits {
    /// A create of this type has succeeded.
    pub(super) fn failing_no_more(&mut self, name: &TypeName) {
        self.failing.remove(name);
    }

    /// Waiting for fewer instances, or in a quota pause. (MaxInstances is the pool's.)
    fn quota_in_force(&self, now: Moment) -> bool {
        self.fewer_than.is_some_and(|(_, until)| now < until) || later(self.quota_pause_until, now)
    }

    /// A refusal of this kind has been heard and counts still.
    pub(super) fn is_known(&self, instance_type: &InstanceType, refusal: &CloudRefusal, now: Moment) -> bool {
        match refusal {
            CloudRefusal::RateLimit { .. } => later(self.creates_until, now),
            CloudRefusal::Quota => self.quota_in_force(now),
            // Not a wider or narrower one: that is news.
            CloudRefusal::Capacity(scope) => {
                later(self.capacity_until.get(&self.key(instance_type, *scope)).copied(), now)
            }
            CloudRefusal::Other => false,
        }
    }

    fn keys(&self, instance_type: &InstanceType) -> [CapacityKey; 3] {
        [CapacityScope::Type, CapacityScope::Group, CapacityScope::Everything]
            .map(|scope| self.key(instance_type, scope))
    }

    /// What a refusal of this scope pauses.
    fn key(&self, instance_type: &InstanceType, scope: CapacityScope) -> CapacityKey {
        let preemptible = instance_type.preemptible;
        match scope {
            CapacityScope::Type => {
                CapacityKey::Type { provider_type: instance_type.provider_type.clone(), preemptible }
            }
            CapacityScope::Group => {
                let group = self.quota_groups.get(instance_type.name.as_str()).cloned().unwrap_or_default();
                CapacityKey::Group { group, preemptible }
            }
            CapacityScope::Everything => CapacityKey::Everything,
        }
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

    /// Spec 20 §3: true while any of the three keys that apply to the type is paused. Also while its instances do not boot (§6), and
    /// during the pause after creates of it have failed.
    pub fn at_capacity(&self, instance_type: &InstanceType, now: Moment) -> bool {
        let keys = self.limits.keys(instance_type);
        keys.iter().any(|key| later(self.limits.capacity_until.get(key).copied(), now))
            || self.breaker_blocks(&instance_type.name, now)
            || self.limits.failing.get(instance_type.name.as_str()).is_some_and(|failing| failing.blocks(now))
    }

    /// Types that no create is made of for now, since creates of them failed for no known reason, and until when.
    pub(super) fn failing_types(&self, now: Moment) -> BTreeMap<TypeName, Moment> {
        let blocked = self.limits.failing.iter().filter(|(_, failing)| failing.blocks(now));
        blocked.map(|(name, failing)| (name.clone(), failing.until)).collect()
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
            CallKind::Create => later(self.limits.creates_until, now) || later(self.limits.failed_until, now),
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
                let key = self.limits.key(instance_type, *scope);
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
            CloudRefusal::Other => self.pause_after_failure(instance_type, began, now),
        }
    }

    /// A machine of this type has become free: its own pause is over (spec 46 §1), and creates that began before set none.
    pub fn capacity_freed(&mut self, name: &TypeName, now: Moment, effects: &mut Effects) {
        let Some(instance_type) = self.types.get(name) else { return };
        let of_type = self.limits.key(instance_type, CapacityScope::Type);
        self.limits.freed_at.insert(of_type.clone(), now);
        if self.limits.capacity_until.remove(&of_type).is_some_and(|until| now < until) {
            effects.notify();
        }
    }

    /// A create that fails at once, again and again, must not become a busy loop: an eighth of a second, doubling to a minute. Those
    /// that were under way together (`began`) fail for one reason: they count as one. At first all creates pause, so that one
    /// failure does not lead to a dearer type; then this type alone.
    fn pause_after_failure(&mut self, instance_type: &InstanceType, began: Moment, now: Moment) {
        let name = TypeName::new(&instance_type.name);
        let known = self.limits.failing.get(&name).copied();
        if known.is_some_and(|failing| began <= failing.at) {
            return;
        }
        let before = known.map_or(0, |failing| failing.in_a_row);
        let until = now + FAILURE_PAUSE_FIRST.saturating_mul(1 << before.min(9)).min(FAILURE_PAUSE_MAX);
        let in_a_row = before.saturating_add(1);
        // Types that are not configured any more.
        let types = &self.types;
        self.limits.failing.retain(|name, _| types.contains_key(name));
        self.limits.failing.insert(name, Failing { in_a_row, at: now, until });
        if in_a_row > FAILURES_OF_ALL {
            self.arm_capacity(now);
            return;
        }
        let until = self.limits.failed_until.map_or(until, |known| known.max(until));
        self.limits.failed_until = Some(until);
        self.arm_creates(now);
    }

    /// Sets the timer for the next time that creates may go on.
    pub(super) fn arm_creates(&mut self, now: Moment) {
        let pauses = [self.limits.creates_until, self.limits.failed_until];
        if let Some(at) = pauses.into_iter().flatten().filter(|at| *at > now).min() {
            self.timers.set(at, Timer::CreatesResume);
        }
    }

    fn hold_at_quota(&mut self, others: usize, now: Moment, effects: &mut Effects) {
        // Of several that are refused together only the first is news; what is in force in the end is in the status.
        let level = if self.limits.quota_in_force(now) { Level::Debug } else { Level::Info };
        if others < 1 {
            let until = now + QUOTA_PAUSE;
            self.limits.quota_pause_until = Some(until);
            self.arm_quota(now);
            effects.log(Note::new(level, "pool", "at quota with no instance of ours; pausing creates"));
            return;
        }
        let smaller = match self.limits.fewer_than {
            Some((known, until)) if now < until => known.min(others),
            _ => others,
        };
        let until = now + QUOTA_RETRY;
        self.limits.fewer_than = Some((smaller, until));
        self.arm_quota(now);
        let note = Note::new(level, "pool", "at quota until fewer instances remain");
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
        let failing = self.limits.failing.values().map(|failing| failing.until);
        if let Some(at) = self.limits.capacity_until.values().copied().chain(failing).filter(|at| *at > now).min() {
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
        let (slot, name) = match kind {
            CallKind::Create => (&mut self.limits.creates_until, "Create"),
            CallKind::List => (&mut self.limits.lists_until, "List"),
        };
        let already = later(*slot, now);
        // A later time never shortens the pause.
        let until = slot.map_or(until, |known| known.max(until));
        *slot = Some(until);
        match kind {
            CallKind::Create => self.arm_creates(now),
            CallKind::List => self.timers.set(until, Timer::ListsResume),
        }
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
        let calls = [
            ("rate limit", "create calls", limits.creates_until),
            ("failed creates", "create calls", limits.failed_until),
            ("rate limit", "list calls", limits.lists_until),
        ];
        for (what, calls, until) in calls.into_iter().filter(|(.., until)| later(*until, now)) {
            add(what, calls.to_owned(), until);
        }
        for (name, until) in self.failing_types(now) {
            add("failed creates", format!("type {name}"), Some(until));
        }
        for (name, breaker) in self.breaker_views(now) {
            if breaker.is_tripped {
                add("breaker", format!("type {name}: {breaker}"), breaker.paused_until);
            }
        }
        found
    }
}
