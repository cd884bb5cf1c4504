//! Instances with the resources that are free on them, and the choice of the best one for a container (spec 30 §3).
//!
//! Per type, the slots with any room are kept in order of preference, so the first that fits is the best of its type. A need
//! that found no room on a type is remembered: as free resources only shrink during a pass, whatever needs at least as much
//! finds none either. So a long queue of containers that cannot be placed costs no search each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
}

/// In-service ones first, then those with more containers, then by the order of the views.
type Preference = (bool, Reverse<usize>, usize);

#[derive(Debug, Default)]
struct OfType {
    open: BTreeSet<Preference>,
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
    by_type: BTreeMap<TypeName, OfType>,
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
    })
}

fn at_least(larger: &Resources, smaller: &Resources) -> bool {
    larger.vcpus >= smaller.vcpus
        && larger.ram >= smaller.ram
        && larger.scratch >= smaller.scratch
        && larger.gpus >= smaller.gpus
        && larger.gpu_vram >= smaller.gpu_vram
}

impl Slots {
    pub(super) fn new(pool: &PoolView, queue: &QueueSnapshot, max_containers: usize) -> Self {
        let mut slots: Vec<Slot> = pool.instances.iter().filter_map(|view| slot_of(view, queue)).collect();
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
        all
    }

    fn push(&mut self, slot: Slot) -> usize {
        let index = self.slots.len();
        if let Some(instance) = &slot.instance {
            self.by_instance.insert(instance.clone(), index);
        }
        self.by_type.entry(slot.type_name.clone()).or_default().failed.clear();
        self.slots.push(slot);
        self.open(index);
        index
    }

    /// Room on an instance that does not exist yet.
    pub(super) fn add(&mut self, instance_type: &Arc<InstanceType>) -> usize {
        self.push(Slot {
            instance: None,
            instance_type: instance_type.clone(),
            type_name: TypeName::new(&instance_type.name),
            in_service: false,
            idle: false,
            mapped: false,
            packing: Packing::new(instance_type.capacity()),
            count: 0,
            full: false,
        })
    }

    pub(super) fn get(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    pub(super) fn index_of(&self, instance: &InstanceId) -> Option<usize> {
        self.by_instance.get(instance).copied()
    }

    /// Indices of idle instances that nothing is mapped onto, in the order of the views.
    pub(super) fn unused(&self) -> impl Iterator<Item = usize> + '_ {
        let unused = |(index, slot): (usize, &Slot)| (slot.idle && !slot.mapped && !slot.full).then_some(index);
        self.slots.iter().enumerate().filter_map(unused)
    }

    fn preference(&self, index: usize) -> Preference {
        let slot = &self.slots[index];
        (!slot.in_service, Reverse(slot.count), index)
    }

    fn has_room(&self, slot: &Slot, need: &Resources) -> bool {
        let below_limit = self.max_containers == 0 || slot.count < self.max_containers;
        !slot.full && below_limit && slot.packing.fits(need)
    }

    /// Lists the slot among those of its type if it could take anything at all.
    fn open(&mut self, index: usize) {
        if !self.has_room(&self.slots[index], &Resources::default()) {
            return;
        }
        let preference = self.preference(index);
        if let Some(of_type) = self.by_type.get_mut(&self.slots[index].type_name) {
            of_type.open.insert(preference);
        }
    }

    fn close(&mut self, index: usize) {
        let preference = self.preference(index);
        if let Some(of_type) = self.by_type.get_mut(&self.slots[index].type_name) {
            of_type.open.remove(&preference);
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
        self.has_room(&self.slots[index], need)
    }

    /// The best slot for this need among instances of these types.
    pub(super) fn best(
        &mut self,
        uuid: &ContainerUuid,
        types: &[Arc<InstanceType>],
        need: &Resources,
    ) -> Option<usize> {
        let mut best: Option<Preference> = None;
        for instance_type in types {
            if let Some(found) = self.best_of_type(uuid, &instance_type.name, need)
                && best.is_none_or(|known| found < known)
            {
                best = Some(found);
            }
        }
        best.map(|(_, _, index)| index)
    }

    fn best_of_type(&mut self, uuid: &ContainerUuid, name: &str, need: &Resources) -> Option<Preference> {
        let of_type = self.by_type.get(name)?;
        if of_type.failed.iter().any(|failed| at_least(need, failed)) {
            return None;
        }
        let mut too_small = None;
        let found = of_type.open.iter().find(|(_, _, index)| {
            let slot = &self.slots[*index];
            let fits = self.has_room(slot, need);
            if !fits && slot.idle && !slot.mapped {
                too_small = slot.instance.clone().map(|instance| (instance, slot.type_name.clone()));
            }
            fits
        });
        let found = found.copied();
        if let Some((instance, type_name)) = too_small {
            self.too_small.push(TooSmall { instance, type_name, uuid: uuid.clone() });
        }
        if found.is_none()
            && let Some(of_type) = self.by_type.get_mut(name)
            && of_type.failed.len() < FAILED_NEEDS_MAX
        {
            of_type.failed.push(*need);
        }
        found
    }
}
