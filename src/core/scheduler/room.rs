//! After the pass (spec 30 §3): give back locks that cannot be used, and make room for those over quota.

use std::collections::BTreeMap;

use super::Action;
use super::order::Item;
use super::plan::Plan;
use crate::core::ids::TypeName;
use crate::core::vocabulary::{ContainerState, WorkerState};

impl<'a> Plan<'_, 'a> {
    /// Unlocks what is Locked and over quota, except the first: it is next in line and would only burn lock cycles. Without
    /// any instance it goes too, so that an impossible one ends instead of starving the rest. Excess supervisors always go.
    pub(super) fn unlock_excess(&mut self, items: &[Item<'a>]) {
        let is_locked = |index: &&usize| items[**index].state() == ContainerState::Locked;
        let spared = usize::from(!self.draft.input.pool.instances.is_empty());
        let over_quota = self.over_quota.iter().filter(is_locked).skip(spared);
        let excess: Vec<usize> = over_quota.chain(self.over_supervisors.iter().filter(is_locked)).copied().collect();
        for index in excess {
            let uuid = items[index].uuid();
            self.draft.unless_busy(uuid, Action::Unlock { uuid: uuid.clone() });
        }
    }

    /// For each container over quota that no instance has room for, at most one idle, unused instance is shut down: one that
    /// no earlier container could use, and preferably one that no waiting container could use. An instance that is being shut
    /// down already, or that was given up for an earlier container and has room for two, counts.
    pub(super) fn make_room(&mut self, items: &[Item<'a>]) {
        if self.over_quota.is_empty() || self.slots.unused().next().is_none() {
            return;
        }
        let first_users = self.first_users(items);
        let going = |state| state == WorkerState::Shutdown;
        let mut leaving = self.draft.input.pool.instances.values().filter(|view| going(view.state)).count();
        for (position, index) in std::mem::take(&mut self.over_quota).iter().enumerate() {
            let item = &items[*index];
            let need = &item.entry.resources;
            if let Some(slot) = self.slots.best(item.uuid(), &item.entry.instance_types, need) {
                self.slots.reserve(slot, need);
                continue;
            }
            let Some(instance_type) = self.available_type(item) else {
                continue;
            };
            if leaving > 0 {
                leaving -= 1;
            } else if !self.shut_down_unused(position, &first_users) {
                return;
            }
            let slot = self.slots.add(&instance_type);
            self.slots.reserve(slot, need);
        }
    }

    /// For each type of an unused instance, the first position over quota whose container could use it.
    fn first_users(&self, items: &[Item<'a>]) -> BTreeMap<TypeName, usize> {
        let mut first: BTreeMap<TypeName, usize> = BTreeMap::new();
        for index in self.slots.unused() {
            first.insert(self.slots.get(index).type_name.clone(), usize::MAX);
        }
        let mut missing = first.len();
        for (position, index) in self.over_quota.iter().enumerate() {
            if missing == 0 {
                break;
            }
            for instance_type in items[*index].entry.instance_types.iter() {
                if let Some(known) = first.get_mut(instance_type.name.as_str())
                    && *known == usize::MAX
                {
                    *known = position;
                    missing -= 1;
                }
            }
        }
        first
    }

    /// False if there is none that the container at this position may have.
    fn shut_down_unused(&mut self, position: usize, first_users: &BTreeMap<TypeName, usize>) -> bool {
        let first_user = |index: &usize| first_users.get(&self.slots.get(*index).type_name).copied().unwrap_or(0);
        let candidates = self.slots.unused().filter(|index| first_user(index) > position);
        // Of equals the last in the order of the views, which is the most expensive.
        let Some(index) = candidates.max_by_key(|index| (first_user(index), *index)) else {
            return false;
        };
        let Some(instance) = self.slots.get(index).instance.clone() else {
            return false;
        };
        self.slots.retire(index);
        self.draft.push(Action::Shutdown { instance });
        true
    }
}
