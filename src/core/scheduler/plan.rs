//! Run queue: the steps for each container in order (spec 30 §3).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backlog::{Backlog, Shape};
use super::limits::DynamicLimits;
use super::lineup::{Lineup, Next};
use super::order::{Item, Rank, Standing, Turn};
use super::slots::Slots;
use super::status::{Hold, Status, of_standing};
use super::sync::RuledOut;
use super::{Action, Draft, SchedulerSettings};
use crate::core::ids::{InstanceId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::vocabulary::ContainerState;

/// What the walk over the containers keeps count of.
pub(super) struct Plan<'d, 'a> {
    pub(super) draft: &'d mut Draft<'a>,
    pub(super) slots: Slots,
    pub(super) lineup: Lineup<'a>,
    api_limit: usize,
    quota_limit: usize,
    supervisors_max: usize,
    /// Nothing may be locked, started or created now.
    paused: bool,
    /// Containers on workers + those tried in this pass.
    tried: usize,
    /// Instances + creates + Locked containers that no existing instance has room for.
    claimed: usize,
    supervisors: usize,
    created: usize,
    pub(super) over: Over<'a>,
    /// Got room on something that is not in service yet.
    pub(super) allocated_not_started: usize,
}

/// Who is above a limit.
#[derive(Debug, Default)]
pub(super) struct Over<'a> {
    /// The first that found no room at quota, and all that come after it: what is Locked of these, by index; then what the line-up
    /// still has, if it does not come to its end.
    pub(super) quota: Vec<usize>,
    pub(super) is_quota_reached: bool,
    /// Above the supervisors' share: what is Locked of them, by index, and the number of the others.
    pub(super) supervisors: Vec<usize>,
    pub(super) supervisors_queued: usize,
    /// Where these others could go.
    pub(super) supervisors_types: Vec<&'a Arc<[Arc<InstanceType>]>>,
}

/// What was decided about those that were looked at.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Of the items, in their order.
    pub(super) statuses: Vec<Status>,
    /// Of members of groups, in the order of their turns. All others wait.
    pub(super) told: Vec<(Turn, Status)>,
    /// From this turn on, Queued supervisors are above the supervisors' share…
    pub(super) supervisors_from: Option<Turn>,
    /// …until this one, from which on everything is over quota.
    pub(super) quota_from: Option<Turn>,
    /// What keeps all of a group that nothing was decided about.
    holds: BTreeMap<Shape, Hold>,
}

/// What a look at one container gave.
enum Verdict {
    Is(Status),
    /// Nothing for it now, nor for one that needs the same and comes later.
    Waits(Hold),
    OverSupervisors,
    OverQuota,
}

impl<'d, 'a> Plan<'d, 'a> {
    pub(super) fn new(
        draft: &'d mut Draft<'a>,
        backlog: &'a Backlog,
        limits: &DynamicLimits,
        settings: &SchedulerSettings,
        running: usize,
        paused: bool,
    ) -> Self {
        let pool = draft.input.pool;
        let mut lineup = Lineup::new(draft.input.busy);
        backlog.groups.iter().for_each(|(shape, line)| lineup.add_group(*shape, line));
        Self {
            slots: Slots::new(pool, draft.input.queue, settings.max_running_containers_per_instance),
            lineup,
            api_limit: limits.api,
            quota_limit: limits.quota,
            supervisors_max: limits.supervisors(settings.supervisor_fraction),
            paused,
            tried: running,
            claimed: pool.instances.len(),
            supervisors: 0,
            created: 0,
            over: Over::default(),
            allocated_not_started: 0,
            draft,
        }
    }

    /// Also once the creates of this pass have filled what MaxInstances leaves.
    pub(super) fn at_quota(&self) -> bool {
        self.draft.input.pool.at_quota || self.created >= self.draft.input.pool.quota_room
    }

    /// How many containers are over quota, or above the supervisors' share.
    pub(super) fn over_limits(&self) -> usize {
        let queued = if self.over.is_quota_reached { self.lineup.left() } else { 0 };
        self.over.quota.len() + queued + self.over.supervisors.len() + self.over.supervisors_queued
    }

    /// Decides about every container: the items, sorted, and what the line-up has.
    pub(super) fn walk(&mut self, items: &[Item<'a>], ruled_out: &mut RuledOut) -> Walked {
        self.keep_expected(items);
        let mut walked = Walked { statuses: Vec::with_capacity(items.len()), ..Walked::default() };
        let mut singles: Vec<(Turn, usize)> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            if item.is_supervisor() && item.is_placed() {
                self.supervisors += 1;
            }
            walked.statuses.push(match item.standing {
                Standing::Sent(instance) => self.repeat_start(item, instance, ruled_out),
                Standing::Free if !self.paused && item.rank() == Rank::Locked => self.place_locked(index, item),
                Standing::Free if !self.paused => {
                    self.lineup.add_single(*item);
                    singles.push((Turn::of(item.entry), index));
                    Status::Waiting(Hold::Settling)
                }
                _ => of_standing(item),
            });
        }
        if !self.paused {
            self.walk_queued(&mut walked);
        }
        for (turn, index) in singles {
            walked.statuses[index] = match walked.told.binary_search_by(|(told, _)| told.cmp(&turn)) {
                Ok(found) => walked.told[found].1.clone(),
                Err(_) => walked.of_waiting(&turn, None, items[index].is_supervisor()),
            };
        }
        walked
    }

    /// What may be running on an instance that cannot be asked yet keeps its resources there.
    fn keep_expected(&mut self, items: &[Item<'a>]) {
        for item in items {
            if let Standing::Expected(instance) = item.standing
                && let Some(slot) = self.slots.index_of(instance)
            {
                self.slots.reserve(slot, &item.entry.resources);
            }
        }
    }

    /// An attempt that may have been sent to an instance in service, and is not known there: sent again (the runner does not
    /// execute one attempt twice), or made impossible, if it is not wanted there any more.
    fn repeat_start(&mut self, item: &Item<'a>, instance: &InstanceId, ruled_out: &mut RuledOut) -> Status {
        let container = &item.entry.container;
        let (uuid, attempt) = (container.uuid.clone(), container.attempt);
        let wanted = container.priority >= 1 && !container.cancel_requested;
        let slot = self.slots.index_of(instance).filter(|slot| self.slots.fits(*slot, &item.entry.resources));
        if let (Some(slot), true) = (slot, wanted) {
            self.slots.reserve(slot, &item.entry.resources);
            if !self.paused {
                // An order to rule it out may have been refused by the pool: now it may run after all.
                ruled_out.remove(&uuid);
                let instance_type = self.slots.get(slot).type_name.clone();
                let start = Action::Start { uuid, attempt, instance: instance.clone(), instance_type };
                self.draft.unless_busy(item.uuid(), start);
            }
            return Status::Allocated;
        }
        if !item.busy {
            ruled_out.insert(uuid.clone(), attempt);
        }
        self.draft.unless_busy(item.uuid(), Action::RuleOut { uuid, attempt, instance: instance.clone() });
        if container.priority < 1 { Status::OnHold } else { Status::PreviousAttempt }
    }

    fn place_locked(&mut self, index: usize, item: &Item<'a>) -> Status {
        match self.place(item) {
            Verdict::Is(status) => status,
            Verdict::Waits(hold) => Status::Waiting(hold),
            Verdict::OverSupervisors => {
                self.over.supervisors.push(index);
                Status::Supervisor
            }
            Verdict::OverQuota => {
                self.over.quota.push(index);
                Status::Waiting(Hold::OverQuota)
            }
        }
    }

    /// Until the line-up is empty, or everything that is left is over quota.
    fn walk_queued(&mut self, walked: &mut Walked) {
        while let Some(next) = self.lineup.pop() {
            match self.place(&next.item) {
                Verdict::Is(status) => {
                    self.lineup.advance(&next);
                    walked.told.push((next.turn, status));
                }
                Verdict::Waits(hold) => match next.shape {
                    // Each takes its part of the share, also those that wait.
                    Some(shape) if !self.is_limited_supervisor(&next) => {
                        self.lineup.close(&next);
                        walked.holds.insert(shape, hold);
                    }
                    _ => {
                        self.lineup.advance(&next);
                        walked.told.push((next.turn, Status::Waiting(hold)));
                    }
                },
                Verdict::OverSupervisors => {
                    self.over.supervisors_queued += self.lineup.close(&next);
                    self.over.supervisors_types.push(&next.item.entry.instance_types);
                    walked.supervisors_from.get_or_insert(next.turn);
                }
                Verdict::OverQuota => {
                    walked.quota_from = Some(next.turn.clone());
                    self.lineup.put_back(next);
                    return;
                }
            }
        }
    }

    fn is_limited_supervisor(&self, next: &Next<'a>) -> bool {
        next.item.is_supervisor() && self.supervisors_max > 0
    }

    /// A container that is to be locked or started.
    fn place(&mut self, item: &Item<'a>) -> Verdict {
        // At quota the first one without room stops all that follow: otherwise small ones would keep it waiting for ever.
        if self.over.is_quota_reached {
            return Verdict::OverQuota;
        }
        if item.is_supervisor() && self.supervisors_max > 0 {
            if self.supervisors >= self.supervisors_max {
                return Verdict::OverSupervisors;
            }
            self.supervisors += 1;
        }
        if self.api_limit > 0 && self.tried >= self.api_limit {
            return Verdict::Waits(Hold::ApiLimit);
        }
        let entry = item.entry;
        let best = self.slots.best(item.uuid(), &entry.instance_types, &entry.resources);
        match (best, item.state()) {
            (Some(slot), state) => Verdict::Is(self.take(item, slot, state == ContainerState::Locked)),
            (None, _) if self.at_quota() => {
                self.over.is_quota_reached = true;
                Verdict::OverQuota
            }
            (None, ContainerState::Locked) => Verdict::Is(self.make_instance(item)),
            (None, _) => self.lock_without_room(item).map_or_else(Verdict::Waits, Verdict::Is),
        }
    }

    /// Step 3 and 4 with a best instance: reserve; lock, or start if it is in service.
    fn take(&mut self, item: &Item<'a>, slot: usize, locked: bool) -> Status {
        self.tried += 1;
        self.slots.reserve(slot, &item.entry.resources);
        let uuid = item.uuid();
        if !locked {
            self.draft.unless_busy(uuid, Action::Lock { uuid: uuid.clone() });
        }
        let slot = self.slots.get(slot);
        let instance_type = slot.type_name.clone();
        let Some(instance) = slot.instance.clone().filter(|_| slot.in_service) else {
            self.allocated_not_started += 1;
            return Status::ForInstance(instance_type);
        };
        if locked {
            let attempt = if self.draft.keeps_attempts { item.entry.container.attempt.saturating_add(1) } else { 0 };
            self.draft.unless_busy(uuid, Action::Start { uuid: uuid.clone(), attempt, instance, instance_type });
        }
        Status::Allocated
    }

    /// Step 3 without: a lock claims the instance that will be made for it.
    fn lock_without_room(&mut self, item: &Item<'a>) -> Result<Status, Hold> {
        if self.quota_reached() {
            return Err(Hold::QuotaLimit);
        }
        let instance_type = self.available_type(item).ok_or(Hold::Capacity)?;
        self.tried += 1;
        self.claimed += 1;
        let uuid = item.uuid();
        self.draft.unless_busy(uuid, Action::Lock { uuid: uuid.clone() });
        Ok(Status::ForInstance(TypeName::new(&instance_type.name)))
    }

    /// Step 4 without: make one, and keep room on it, so that the next ones can share it.
    fn make_instance(&mut self, item: &Item<'a>) -> Status {
        let reached = self.quota_reached();
        self.tried += 1;
        self.claimed += 1;
        let Some(instance_type) = self.available_type(item) else {
            return Status::AtCapacity;
        };
        if reached {
            return Status::Waiting(Hold::QuotaLimit);
        }
        if self.created >= self.draft.input.pool.creates_accepted {
            return Status::Waiting(Hold::Creates);
        }
        if item.busy {
            // It may be being unlocked: an instance for it would be one too many.
            self.draft.pass.refused_because_busy = true;
            return Status::Waiting(Hold::Settling);
        }
        self.created += 1;
        self.allocated_not_started += 1;
        let slot = self.slots.add(&instance_type);
        self.slots.reserve(slot, &item.entry.resources);
        let name = TypeName::new(&instance_type.name);
        self.draft.push(Action::Create { instance_type: name.clone() });
        Status::ForInstance(name)
    }

    fn quota_reached(&self) -> bool {
        self.quota_limit > 0 && self.claimed >= self.quota_limit
    }

    /// The cheapest eligible type that is not at capacity. The view holds the answers for the whole pass.
    pub(super) fn available_type(&self, item: &Item<'a>) -> Option<Arc<InstanceType>> {
        let at_capacity = &self.draft.input.pool.at_capacity;
        item.entry.instance_types.iter().find(|it| !at_capacity.contains(it.name.as_str())).cloned()
    }
}

impl Walked {
    /// The status of a Queued one that nothing was decided about; `shape` of its group, if it is in one.
    pub(super) fn of_waiting(&self, turn: &Turn, shape: Option<&Shape>, is_supervisor: bool) -> Status {
        let reached = |from: &Option<Turn>| from.as_ref().is_some_and(|from| turn >= from);
        if reached(&self.quota_from) {
            return Status::Waiting(Hold::OverQuota);
        }
        if is_supervisor && reached(&self.supervisors_from) {
            return Status::Supervisor;
        }
        // Without a reason of its group: nothing was looked at.
        let hold = shape.and_then(|shape| self.holds.get(shape)).copied();
        Status::Waiting(hold.unwrap_or(Hold::Paused))
    }
}
