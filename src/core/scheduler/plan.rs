//! Run queue: the steps for each container in order (spec 30 §3).

use std::sync::Arc;

use super::limits::DynamicLimits;
use super::order::{Item, Standing};
use super::slots::Slots;
use super::status::{Status, of_standing};
use super::sync::RuledOut;
use super::{Action, Draft};
use crate::core::ids::{InstanceId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::vocabulary::ContainerState;

/// What the walk over the containers keeps count of.
pub(super) struct Plan<'d, 'a> {
    pub(super) draft: &'d mut Draft<'a>,
    pub(super) slots: Slots,
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
    /// Indices of the items, in order.
    pub(super) over_quota: Vec<usize>,
    pub(super) over_supervisors: Vec<usize>,
    /// Got room on something that is not in service yet.
    pub(super) allocated_not_started: usize,
}

impl<'d, 'a> Plan<'d, 'a> {
    pub(super) fn new(
        draft: &'d mut Draft<'a>,
        limits: &DynamicLimits,
        supervisor_fraction: f64,
        max_containers: usize,
        running: usize,
        paused: bool,
    ) -> Self {
        let pool = draft.input.pool;
        Self {
            slots: Slots::new(pool, draft.input.queue, max_containers),
            api_limit: limits.api,
            quota_limit: limits.quota,
            supervisors_max: limits.supervisors(supervisor_fraction),
            paused,
            tried: running,
            claimed: pool.instances.len(),
            supervisors: 0,
            created: 0,
            over_quota: Vec::new(),
            over_supervisors: Vec::new(),
            allocated_not_started: 0,
            draft,
        }
    }

    /// Also once the creates of this pass have filled what MaxInstances leaves.
    pub(super) fn at_quota(&self) -> bool {
        self.draft.input.pool.at_quota || self.created >= self.draft.input.pool.quota_room
    }

    /// Decides about every container; the statuses come in the order of the items.
    pub(super) fn walk(&mut self, items: &[Item<'a>], ruled_out: &mut RuledOut) -> Vec<Status> {
        self.keep_expected(items);
        let mut statuses = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if item.is_supervisor() && item.is_placed() {
                self.supervisors += 1;
            }
            statuses.push(match item.standing {
                Standing::Sent(instance) => self.repeat_start(item, instance, ruled_out),
                Standing::Free if !self.paused => self.place(index, item),
                _ => of_standing(item),
            });
        }
        statuses
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

    /// A container that is to be locked or started.
    fn place(&mut self, index: usize, item: &Item<'a>) -> Status {
        // At quota the first one without room stops all that follow: otherwise small ones would keep it waiting for ever.
        if !self.over_quota.is_empty() {
            self.over_quota.push(index);
            return Status::Waiting;
        }
        if item.is_supervisor() && self.supervisors_max > 0 {
            if self.supervisors >= self.supervisors_max {
                self.over_supervisors.push(index);
                return Status::Supervisor;
            }
            self.supervisors += 1;
        }
        if self.api_limit > 0 && self.tried >= self.api_limit {
            return Status::Waiting;
        }
        let entry = item.entry;
        let best = self.slots.best(item.uuid(), &entry.instance_types, &entry.resources);
        match (best, item.state()) {
            (Some(slot), state) => self.take(item, slot, state == ContainerState::Locked),
            (None, _) if self.at_quota() => {
                self.over_quota.push(index);
                Status::Waiting
            }
            (None, ContainerState::Locked) => self.make_instance(item),
            (None, _) => self.lock_without_room(item),
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
    fn lock_without_room(&mut self, item: &Item<'a>) -> Status {
        if self.quota_reached() {
            return Status::Waiting;
        }
        let Some(instance_type) = self.available_type(item) else {
            return Status::Waiting;
        };
        self.tried += 1;
        self.claimed += 1;
        let uuid = item.uuid();
        self.draft.unless_busy(uuid, Action::Lock { uuid: uuid.clone() });
        Status::ForInstance(TypeName::new(&instance_type.name))
    }

    /// Step 4 without: make one, and keep room on it, so that the next ones can share it.
    fn make_instance(&mut self, item: &Item<'a>) -> Status {
        let reached = self.quota_reached();
        self.tried += 1;
        self.claimed += 1;
        let Some(instance_type) = self.available_type(item) else {
            return Status::AtCapacity;
        };
        if reached || self.created >= self.draft.input.pool.creates_accepted {
            return Status::Waiting;
        }
        if item.busy {
            // It may be being unlocked: an instance for it would be one too many.
            self.draft.pass.refused_because_busy = true;
            return Status::Waiting;
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
