//! Instances with the resources that are free on them, and the choice of the best one for a container (spec 30 §3).
//!
//! Of each type, the slots with any room are found by how many containers they have, those with the most first, and among these by the
//! order of the views. A need that found no room on a type is remembered: as free resources only shrink during a pass, whatever needs at
//! least as much finds none either. So a long queue of containers that cannot be placed costs no search each.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::first_fit::FirstFit;
use crate::core::entry::QueueSnapshot;
use crate::core::ids::{ContainerUuid, InstanceId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::pool::view::{InstanceView, PoolView};
use crate::core::resources::{Packing, Resources};
use crate::core::vocabulary::{IdleBehavior, WorkerState};

/// Remembered needs per type; more would cost more than the search they save.
const FAILED_NEEDS_MAX: usize = 8;

/// One instance or create that may take containers.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// `None` for a create.
    pub(super) instance: Option<InstanceId>,
    pub(super) instance_type: Arc<InstanceType>,
    pub(super) type_name: TypeName,
    pub(super) in_service: bool,
    /// Idle, with nothing collecting: may be shut down if nothing is mapped onto it.
    pub(super) idle: bool,
    /// Something of this pass is reserved on it.
    pub(super) mapped: bool,
    packing: Packing,
    /// Containers on it, with the reserved ones.
    count: usize,
    full: bool,
    of_type: TypeIndex,
    /// Its place among those of its type.
    place: usize,
}

impl Slot {
    /// In-service ones first, then those with more containers.
    fn level(&self) -> Level {
        (!self.in_service, Reverse(self.count))
    }

    /// Unused in this pass, and free to go.
    pub(super) fn is_unused(&self) -> bool {
        self.idle && !self.mapped && !self.full
    }
}

type Level = (bool, Reverse<usize>);
/// Where a type is in [`Slots::types`].
type TypeIndex = usize;

#[derive(Debug, Default)]
struct OfType {
    /// In the order of the views; those added in this pass come last.
    slots: Vec<usize>,
    /// None of them is empty.
    levels: BTreeMap<Level, FirstFit>,
    /// Empty ones that were needed before.
    spare: Vec<FirstFit>,
    failed: Vec<Resources>,
}

/// An idle instance without a container that has no room for one of its own type: its record or the type must be wrong.
#[derive(Debug)]
pub(super) struct TooSmall {
    pub(super) instance: InstanceId,
    pub(super) type_name: TypeName,
    pub(super) uuid: ContainerUuid,
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    /// By price ↑, VCPUs ↓, RAM ↓, scratch ↓, id ↑; those added in this pass come last.
    slots: Vec<Slot>,
    types: Vec<OfType>,
    by_name: BTreeMap<TypeName, TypeIndex>,
    /// Lists of eligible types that were asked for, by their address: the queue's snapshot keeps them during the pass.
    resolved: BTreeMap<usize, Arc<[TypeIndex]>>,
    by_instance: BTreeMap<InstanceId, usize>,
    /// 0 = no limit.
    max_containers: usize,
    pub(super) too_small: Vec<TooSmall>,
}

/// May get containers now or when it has booted; what "its resources" means must be known.
fn slot_of(view: &InstanceView, queue: &QueueSnapshot) -> Option<Slot> {
    let usable = view.state != WorkerState::Shutdown && view.idle_behavior == IdleBehavior::Run;
    let instance_type = view.instance_type.as_ref().filter(|_| usable)?;
    let mut packing = Packing::new(instance_type.capacity());
    let mut full = false;
    for uuid in &view.containers {
        match queue.entries.get(uuid) {
            Some(entry) => packing.place(&entry.resources),
            // What it takes is not known.
            None => full = true,
        }
    }
    Some(Slot {
        instance: view.id().cloned(),
        instance_type: instance_type.clone(),
        type_name: view.type_name.clone(),
        in_service: matches!(view.state, WorkerState::Idle | WorkerState::Running),
        idle: view.state == WorkerState::Idle && view.collecting.is_empty() && view.containers.is_empty(),
        mapped: false,
        packing,
        count: view.containers.len(),
        full,
        of_type: 0,
        place: 0,
    })
}

impl Slots {
    pub(super) fn new(pool: &PoolView, queue: &QueueSnapshot, max_containers: usize) -> Self {
        let mut slots: Vec<Slot> = pool.instances.values().filter_map(|view| slot_of(view, queue)).collect();
        // The views come sorted by id, and the sort is stable.
        slots.sort_by(|a, b| {
            let (first, second) = (&a.instance_type, &b.instance_type);
            let larger_first = |it: &InstanceType| Reverse((it.vcpus, it.ram, it.scratch()));
            first.price.total_cmp(&second.price).then_with(|| larger_first(first).cmp(&larger_first(second)))
        });
        let mut all = Self { max_containers, ..Self::default() };
        for slot in slots {
            all.push(slot);
        }
        (0..all.slots.len()).for_each(|index| all.open(index));
        all
    }

    fn type_index(&mut self, name: &TypeName) -> TypeIndex {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        self.types.push(OfType::default());
        self.by_name.insert(name.clone(), self.types.len() - 1);
        self.types.len() - 1
    }

    /// It is not open yet.
    fn push(&mut self, mut slot: Slot) -> usize {
        let index = self.slots.len();
        if let Some(instance) = &slot.instance {
            self.by_instance.insert(instance.clone(), index);
        }
        slot.of_type = self.type_index(&slot.type_name);
        let of_type = &mut self.types[slot.of_type];
        slot.place = of_type.slots.len();
        of_type.slots.push(index);
        self.slots.push(slot);
        index
    }

    /// Room on an instance that does not exist yet.
    pub(super) fn add(&mut self, instance_type: &Arc<InstanceType>) -> usize {
        let index = self.push(Slot {
            instance: None,
            instance_type: instance_type.clone(),
            type_name: TypeName::new(&instance_type.name),
            in_service: false,
            idle: false,
            mapped: false,
            packing: Packing::new(instance_type.capacity()),
            count: 0,
            full: false,
            of_type: 0,
            place: 0,
        });
        self.types[self.slots[index].of_type].failed.clear();
        self.open(index);
        index
    }

    pub(super) fn get(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    pub(super) fn index_of(&self, instance: &InstanceId) -> Option<usize> {
        self.by_instance.get(instance).copied()
    }

    /// Indices of idle instances that nothing is mapped onto, in the order of the views.
    pub(super) fn unused(&self) -> impl Iterator<Item = usize> + '_ {
        self.slots.iter().enumerate().filter_map(|(index, slot)| slot.is_unused().then_some(index))
    }

    /// What a need is compared with; `None` if nothing more can go there.
    fn free(&self, slot: &Slot) -> Option<Resources> {
        let below_limit = self.max_containers == 0 || slot.count < self.max_containers;
        slot.packing.free().filter(|_| !slot.full && below_limit)
    }

    /// Lists the slot among those of its type, if anything can still go there.
    fn open(&mut self, index: usize) {
        let slot = &self.slots[index];
        let Some(free) = self.free(slot) else {
            return;
        };
        let (level, place) = (slot.level(), slot.place);
        let of_type = &mut self.types[slot.of_type];
        let places = of_type.slots.len();
        let spare = &mut of_type.spare;
        let row = of_type.levels.entry(level).or_insert_with(|| spare.pop().unwrap_or_else(|| FirstFit::new(places)));
        row.set(place, Some(free));
    }

    fn close(&mut self, index: usize) {
        let slot = &self.slots[index];
        let of_type = &mut self.types[slot.of_type];
        let Some(row) = of_type.levels.get_mut(&slot.level()) else {
            return;
        };
        row.set(slot.place, None);
        if row.is_empty() {
            of_type.spare.extend(of_type.levels.remove(&slot.level()));
        }
    }

    /// Takes resources, whether or not they are free.
    pub(super) fn reserve(&mut self, index: usize, need: &Resources) {
        self.close(index);
        let slot = &mut self.slots[index];
        slot.packing.place(need);
        slot.count += 1;
        slot.mapped = true;
        self.open(index);
    }

    /// Nothing more goes there.
    pub(super) fn retire(&mut self, index: usize) {
        self.close(index);
        self.slots[index].full = true;
    }

    pub(super) fn fits(&self, index: usize, need: &Resources) -> bool {
        self.free(&self.slots[index]).is_some_and(|free| free.covers(need))
    }

    fn resolve(&mut self, types: &Arc<[Arc<InstanceType>]>) -> Arc<[TypeIndex]> {
        let address = Arc::as_ptr(types).addr();
        if let Some(known) = self.resolved.get(&address) {
            return known.clone();
        }
        let found: Arc<[TypeIndex]> = types.iter().map(|it| self.type_index(&TypeName::new(&it.name))).collect();
        self.resolved.insert(address, found.clone());
        found
    }

    /// The best slot for this need among instances of these types: in service, then with more containers, then in the order of the views.
    pub(super) fn best(
        &mut self,
        uuid: &ContainerUuid,
        types: &Arc<[Arc<InstanceType>]>,
        need: &Resources,
    ) -> Option<usize> {
        let mut best: Option<(Level, usize)> = None;
        for of_type in &*self.resolve(types) {
            if let Some(found) = self.best_of_type(uuid, *of_type, need)
                && best.is_none_or(|known| found < known)
            {
                best = Some(found);
            }
        }
        best.map(|(_, index)| index)
    }

    fn best_of_type(&mut self, uuid: &ContainerUuid, of_type: TypeIndex, need: &Resources) -> Option<(Level, usize)> {
        let known = &self.types[of_type];
        if known.levels.is_empty() || known.failed.iter().any(|failed| need.covers(failed)) {
            return None;
        }
        let in_level = |(level, row): (&Level, &FirstFit)| Some((*level, known.slots[row.find(need)?]));
        if let Some(found) = known.levels.iter().find_map(in_level) {
            return Some(found);
        }
        self.has_failed(uuid, of_type, need);
        None
    }

    fn has_failed(&mut self, uuid: &ContainerUuid, of_type: TypeIndex, need: &Resources) {
        let of_type = &mut self.types[of_type];
        let empty = of_type.levels.get(&(false, Reverse(0))).and_then(|row| row.find(&Resources::default()));
        let idle = empty.map(|place| &self.slots[of_type.slots[place]]).filter(|slot| slot.is_unused());
        if let Some((slot, instance)) = idle.and_then(|slot| Some((slot, slot.instance.clone()?))) {
            self.too_small.push(TooSmall { instance, type_name: slot.type_name.clone(), uuid: uuid.clone() });
        }
        // What covered them is covered by this one.
        of_type.failed.retain(|known| !known.covers(need));
        if of_type.failed.len() < FAILED_NEEDS_MAX {
            of_type.failed.push(*need);
        }
    }
}
