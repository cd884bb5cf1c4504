//! After the pass (spec 30 §3): give back locks that cannot be used, and make room for those over quota.

use std::collections::BTreeMap;

use super::Action;
use super::order::{Item, Turn};
use super::plan::Plan;
use crate::core::ids::TypeName;
use crate::core::vocabulary::WorkerState;

/// The first over quota that could use an instance: a Locked one by its place, or a Queued one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FirstUser {
    Locked(usize),
    Queued(Turn),
    /// Supervisors above their share: none of them comes before the share grows.
    Later,
    Nobody,
}

/// Instances to shut down, those that are wanted last at the end: with the first who could use them.
type Unused = Vec<(FirstUser, usize)>;

impl<'a> Plan<'_, 'a> {
    /// Unlocks what is Locked and over quota, except the first: it is next in line and would only burn lock cycles. Without
    /// any instance it goes too, so that an impossible one ends instead of starving the rest. Excess supervisors always go.
    pub(super) fn unlock_excess(&mut self, items: &[Item<'a>]) {
        let spared = usize::from(!self.draft.input.pool.instances.is_empty());
        let over_quota = self.over.quota.iter().skip(spared);
        let excess: Vec<usize> = over_quota.chain(&self.over.supervisors).copied().collect();
        for index in excess {
            let uuid = items[index].uuid();
            self.draft.unless_busy(uuid, Action::Unlock { uuid: uuid.clone() });
        }
    }

    /// For each container over quota that no instance has room for, at most one idle, unused instance is shut down: one that
    /// no earlier container could use, and preferably one that no waiting container could use. An instance that is being shut
    /// down already, or that was given up for an earlier container and has room for two, counts.
    pub(super) fn make_room(&mut self, items: &[Item<'a>]) {
        if !self.over.is_quota_reached || self.slots.unused().next().is_none() {
            return;
        }
        let mut unused = self.unused_by_first_user(items);
        let instances = self.draft.input.pool.instances.values();
        let mut leaving = instances.filter(|view| view.state == WorkerState::Shutdown).count();
        for (position, index) in std::mem::take(&mut self.over.quota).into_iter().enumerate() {
            if !self.make_room_for(&items[index], &FirstUser::Locked(position), &mut leaving, &mut unused).goes_on() {
                return;
            }
        }
        while let Some(next) = self.lineup.pop() {
            let position = FirstUser::Queued(next.turn.clone());
            match self.make_room_for(&next.item, &position, &mut leaving, &mut unused) {
                Made::Room => self.lineup.advance(&next),
                // Nor can one be made for those that need the same.
                Made::NoneOfItsTypes => drop(self.lineup.close(&next)),
                Made::NoneToGive => return,
            }
        }
    }

    fn make_room_for(
        &mut self,
        item: &Item<'a>,
        position: &FirstUser,
        leaving: &mut usize,
        unused: &mut Unused,
    ) -> Made {
        let need = &item.entry.resources;
        if let Some(slot) = self.slots.best(item.uuid(), &item.entry.instance_types, need) {
            self.slots.reserve(slot, need);
            return Made::Room;
        }
        let Some(instance_type) = self.available_type(item) else {
            return Made::NoneOfItsTypes;
        };
        if *leaving > 0 {
            *leaving -= 1;
        } else if !self.shut_down_unused(position, unused) {
            return Made::NoneToGive;
        }
        let slot = self.slots.add(&instance_type);
        self.slots.reserve(slot, need);
        Made::Room
    }

    /// Of equals the last in the order of the views, which is the most expensive, comes last.
    fn unused_by_first_user(&self, items: &[Item<'a>]) -> Unused {
        let mut first: BTreeMap<TypeName, FirstUser> = BTreeMap::new();
        for index in self.slots.unused() {
            first.insert(self.slots.get(index).type_name.clone(), FirstUser::Nobody);
        }
        let locked = self.over.quota.iter().enumerate();
        let locked = locked.map(|(position, index)| (FirstUser::Locked(position), &items[*index]));
        // What a group's head could use is what all of it could use.
        let queued = self.lineup.heads().map(|(turn, item)| (FirstUser::Queued(turn.clone()), item));
        for (user, item) in locked.chain(queued) {
            for instance_type in item.entry.instance_types.iter() {
                if let Some(known) = first.get_mut(instance_type.name.as_str())
                    && user < *known
                {
                    *known = user.clone();
                }
            }
        }
        let locked = self.over.supervisors.iter().map(|index| &items[*index].entry.instance_types);
        let supervisors = locked.chain(self.over.supervisors_types.iter().copied());
        for instance_type in supervisors.flat_map(|types| types.iter()) {
            if let Some(known) = first.get_mut(instance_type.name.as_str()) {
                *known = std::mem::replace(known, FirstUser::Nobody).min(FirstUser::Later);
            }
        }
        let user_of = |index: usize| first.get(&self.slots.get(index).type_name).cloned();
        let mut unused: Unused =
            self.slots.unused().filter_map(|index| user_of(index).map(|user| (user, index))).collect();
        unused.sort();
        unused
    }

    /// False if there is none that the container at this position may have.
    fn shut_down_unused(&mut self, position: &FirstUser, unused: &mut Unused) -> bool {
        while let Some((_, index)) = unused.pop_if(|(user, _)| *user > *position) {
            // Meanwhile one that came before may have found room there.
            if !self.slots.get(index).is_unused() {
                continue;
            }
            if let Some(instance) = self.slots.get(index).instance.clone() {
                self.slots.retire(index);
                self.draft.push(Action::Shutdown { instance });
                return true;
            }
        }
        false
    }
}

/// Whether a container over quota will have an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Room,
    /// All of its types are at capacity.
    NoneOfItsTypes,
    /// Every instance is used, or is kept for one that comes earlier.
    NoneToGive,
}

impl Made {
    fn goes_on(self) -> bool {
        self != Self::NoneToGive
    }
}
