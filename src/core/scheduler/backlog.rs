//! What waits for nothing but its turn, kept in order from pass to pass; and who has to be looked at in every pass.
//!
//! Most of a long queue is Queued and known to no worker: such an entry is decided by itself alone, so it stays where it is until it
//! changes. What changed is found by comparing the snapshots with those of the last pass, which costs what differs. Those that wait are
//! grouped by what they need and where they could go: what holds for one of a group in a pass holds for all that come after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::order::Turn;
use crate::core::entry::{QueueEntry, QueueSnapshot};
use crate::core::ids::ContainerUuid;
use crate::core::pool::view::{PoolView, Whereabouts};
use crate::core::resources::Resources;
use crate::core::time::WallMillis;
use crate::core::versioned::Versioned;
use crate::core::vocabulary::ContainerState;

/// Entries in the order of their turns.
pub(super) type Line = OrdMap<Turn, Versioned<QueueEntry>>;

/// What the members of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    /// Address of the list of eligible types: the group's members keep it alive.
    types: usize,
    pub(super) is_supervisor: bool,
    need: Resources,
}

impl Shape {
    fn of(entry: &QueueEntry) -> Self {
        Self {
            types: Arc::as_ptr(&entry.instance_types).addr(),
            is_supervisor: entry.container.request.supervisor,
            need: entry.resources,
        }
    }
}

/// Where an entry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// To be judged in each pass.
    Active,
    /// The pool knows it, the queue does not.
    Stranger,
    Waiting,
    OnHold,
    NotReady,
}

/// New members of groups.
type Arrivals = BTreeMap<Shape, Vec<(Turn, Versioned<QueueEntry>)>>;

#[derive(Clone, Debug, Default)]
pub(super) struct Backlog {
    entries: OrdMap<ContainerUuid, Versioned<QueueEntry>>,
    containers: OrdMap<ContainerUuid, Versioned<Whereabouts>>,
    pub(super) active: BTreeSet<ContainerUuid>,
    pub(super) strangers: BTreeSet<ContainerUuid>,
    /// Queued, ready, of priority 1 or more, known to no worker, and satisfiable. No group is empty.
    pub(super) groups: OrdMap<Shape, Line>,
    /// Queued and of priority 0.
    pub(super) on_hold: Line,
    /// Queued, with something in `after` that is not Complete.
    pub(super) not_ready: Line,
    /// How many of the groups' members were created when.
    created: BTreeMap<WallMillis, usize>,
}

fn class_of(entry: Option<&QueueEntry>, is_known: bool, keeps_attempts: bool) -> Option<Class> {
    let Some(entry) = entry else {
        return is_known.then_some(Class::Stranger);
    };
    let container = &entry.container;
    let is_quiet = container.state == ContainerState::Queued
        && !is_known
        && !container.cancel_requested
        && !entry.instance_types.is_empty();
    Some(match (is_quiet, container.priority < 1) {
        (false, _) => Class::Active,
        // A remote queue is told to forget it.
        (true, true) if !keeps_attempts => Class::Active,
        (true, true) => Class::OnHold,
        (true, false) if entry.ready => Class::Waiting,
        (true, false) => Class::NotReady,
    })
}

impl Backlog {
    /// Takes over what has changed since the last call.
    pub(super) fn refresh(&mut self, queue: &QueueSnapshot, pool: &PoolView, keeps_attempts: bool) {
        let (old_entries, old_places) = (
            std::mem::replace(&mut self.entries, queue.entries.clone()),
            std::mem::replace(&mut self.containers, pool.containers.clone()),
        );
        let was_known = |uuid: &ContainerUuid| old_places.contains_key(uuid);
        // Changes come in the order of the uuids, and so do these.
        let mut known = pool.containers.keys().peekable();
        let mut is_known = |uuid: &ContainerUuid| {
            while known.next_if(|next| *next < uuid).is_some() {}
            known.peek() == Some(&uuid)
        };
        let mut arrivals = Arrivals::new();
        for item in old_entries.diff(&queue.entries) {
            let (uuid, old, new) = match item {
                DiffItem::Add(uuid, new) => (uuid, None, Some(new)),
                DiffItem::Update { old: (uuid, old), new: (_, new) } => (uuid, Some(old), Some(new)),
                DiffItem::Remove(uuid, old) => (uuid, Some(old), None),
            };
            self.leave(uuid, old, class_of(old.map(|old| &**old), was_known(uuid), keeps_attempts));
            self.enter(uuid, new, class_of(new.map(|new| &**new), is_known(uuid), keeps_attempts), &mut arrivals);
        }
        for item in old_places.diff(&pool.containers) {
            let (uuid, was_known, is_known) = match item {
                DiffItem::Add(uuid, _) => (uuid, false, true),
                DiffItem::Remove(uuid, _) => (uuid, true, false),
                DiffItem::Update { .. } => continue,
            };
            let entry = queue.entries.get(uuid);
            if old_entries.get(uuid) == entry {
                self.leave(uuid, entry, class_of(entry.map(|entry| &**entry), was_known, keeps_attempts));
                self.enter(uuid, entry, class_of(entry.map(|entry| &**entry), is_known, keeps_attempts), &mut arrivals);
            }
        }
        self.add_to_groups(arrivals);
    }

    fn leave(&mut self, uuid: &ContainerUuid, entry: Option<&Versioned<QueueEntry>>, class: Option<Class>) {
        match (class, entry) {
            (Some(Class::Active), _) => drop(self.active.remove(uuid)),
            (Some(Class::Stranger), _) => drop(self.strangers.remove(uuid)),
            (Some(Class::OnHold), Some(entry)) => drop(self.on_hold.remove(&Turn::of(entry))),
            (Some(Class::NotReady), Some(entry)) => drop(self.not_ready.remove(&Turn::of(entry))),
            (Some(Class::Waiting), Some(entry)) => {
                let shape = Shape::of(entry);
                if let Some(line) = self.groups.get_mut(&shape) {
                    line.remove(&Turn::of(entry));
                    if line.is_empty() {
                        self.groups.remove(&shape);
                    }
                }
                if let Some(count) = self.created.get_mut(&entry.container.created_at) {
                    *count -= 1;
                    if *count == 0 {
                        self.created.remove(&entry.container.created_at);
                    }
                }
            }
            (_, None) | (None, _) => {}
        }
    }

    /// In order: many at once, at the start or from one submission, are then added end to end.
    fn add_to_groups(&mut self, arrivals: Arrivals) {
        for (shape, mut members) in arrivals {
            members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            let line = self.groups.entry(shape).or_default();
            for (turn, entry) in members {
                line.insert(turn, entry);
            }
        }
    }

    fn enter(
        &mut self,
        uuid: &ContainerUuid,
        entry: Option<&Versioned<QueueEntry>>,
        class: Option<Class>,
        arrivals: &mut Arrivals,
    ) {
        match (class, entry) {
            (Some(Class::Active), _) => drop(self.active.insert(uuid.clone())),
            (Some(Class::Stranger), _) => drop(self.strangers.insert(uuid.clone())),
            (Some(Class::OnHold), Some(entry)) => drop(self.on_hold.insert(Turn::of(entry), entry.clone())),
            (Some(Class::NotReady), Some(entry)) => drop(self.not_ready.insert(Turn::of(entry), entry.clone())),
            (Some(Class::Waiting), Some(entry)) => {
                arrivals.entry(Shape::of(entry)).or_default().push((Turn::of(entry), entry.clone()));
                *self.created.entry(entry.container.created_at).or_default() += 1;
            }
            (_, None) | (None, _) => {}
        }
    }

    /// When the oldest of those that wait was created.
    pub(super) fn oldest(&self) -> Option<WallMillis> {
        self.created.keys().next().copied()
    }
}
