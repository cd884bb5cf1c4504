//! The snapshot in memory: containers that are not final, and final ones that the scheduler has not forgotten yet.
//!
//! Owns the entries, the numbers by state and the subscribers, behind one lock that is never held over I/O. The writer thread changes
//! it after each commit, in the order of the commits; `forget` is the only other change.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};

use crate::core::container::{Container, ContainerRequest};
use crate::core::entry::{QueueEntry, QueueSnapshot};
use crate::core::ids::ContainerUuid;
use crate::core::instance_type::InstanceType;
use crate::core::resources::Resources;
use crate::core::time::Moment;
use crate::core::versioned::Versioned;
use crate::core::vocabulary::ContainerState;

use super::rows::Row;
use super::types::{Selection, Selector, WallClock};

/// What a container needs and where it can run.
pub(super) type Fit = (Resources, Arc<[Arc<InstanceType>]>);

/// What one committed step did to one container.
#[derive(Debug)]
pub(super) enum Change {
    /// It was submitted. As the snapshot will hold it: a large submission is in memory once.
    New(Versioned<QueueEntry>),
    Changed {
        row: Box<Row>,
        before: ContainerState,
        /// Needed when the entry is new to the snapshot.
        arrival: Option<(Arc<ContainerRequest>, Fit)>,
    },
}

/// What the writer, the readers and the callers share.
pub(super) struct Shared {
    pub(super) wall: WallClock,
    pub(super) memory: Mutex<Memory>,
    /// With the number of its replacements.
    selector: RwLock<(u64, Selector)>,
    /// Why the store cannot be written now.
    pub(super) trouble: Mutex<Option<String>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("trouble", &self.trouble).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(wall: WallClock, selector: Selector) -> Self {
        let selector = RwLock::new((0, selector));
        Self { wall, memory: Mutex::new(Memory::default()), selector, trouble: Mutex::new(None) }
    }

    pub(super) fn selector(&self) -> (u64, Selector) {
        self.selector.read().clone()
    }

    pub(super) fn replace_selector(&self, selector: Selector) {
        let mut current = self.selector.write();
        *current = (current.0 + 1, selector);
    }
}

/// Asks the selector, but not again for a request that needs the same machine as the one before (arrays).
pub(super) struct CachedSelector {
    selector: Selector,
    last: Option<(Arc<ContainerRequest>, Selection)>,
}

impl CachedSelector {
    pub(super) fn new(selector: Selector) -> Self {
        Self { selector, last: None }
    }

    pub(super) fn select(&mut self, request: &Arc<ContainerRequest>) -> Selection {
        if let Some((last, selection)) = &self.last
            && needs_same(last, request)
        {
            return selection.clone();
        }
        let selection = (self.selector)(request);
        self.last = Some((Arc::clone(request), selection.clone()));
        selection
    }
}

fn needs_same(a: &ContainerRequest, b: &ContainerRequest) -> bool {
    a.vcpus == b.vcpus
        && a.ram == b.ram
        && a.keep_cache_ram == b.keep_cache_ram
        && a.keep_cache_disk == b.keep_cache_disk
        && a.scratch == b.scratch
        && a.gpu == b.gpu
        && a.preemptible == b.preemptible
        && a.container_image == b.container_image
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: OrdMap<ContainerUuid, Versioned<QueueEntry>>,
    as_of: Moment,
    counts: BTreeMap<ContainerState, usize>,
    subscribers: Vec<Sender<()>>,
}

impl Memory {
    /// At the opening.
    pub(super) fn fill(&mut self, entries: Vec<QueueEntry>, counts: BTreeMap<ContainerState, usize>) {
        self.entries = entries.into_iter().map(|entry| (entry.container.uuid.clone(), Versioned::new(entry))).collect();
        self.counts = counts;
    }

    pub(super) fn snapshot(&self) -> QueueSnapshot {
        QueueSnapshot { entries: self.entries.clone(), as_of: self.as_of }
    }

    pub(super) fn entry(&self, uuid: &ContainerUuid) -> Option<Versioned<QueueEntry>> {
        self.entries.get(uuid).cloned()
    }

    pub(super) fn set_as_of(&mut self, now: Moment) {
        self.as_of = self.as_of.max(now);
    }

    pub(super) fn counts(&self) -> BTreeMap<ContainerState, usize> {
        ContainerState::ALL.iter().map(|state| (*state, self.count(*state))).collect()
    }

    pub(super) fn count(&self, state: ContainerState) -> usize {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    /// Shows what was committed, and wakes the subscribers.
    pub(super) fn publish(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            match change {
                Change::New(entry) => {
                    let (uuid, state) = (entry.container.uuid.clone(), entry.container.state);
                    *self.counts.entry(state).or_default() += 1;
                    // One that was final from the beginning is nobody's to schedule: its row in the database is enough.
                    if !state.is_final() {
                        self.entries.insert(uuid, entry);
                    }
                }
                Change::Changed { row, before, arrival } => self.publish_changed(*row, before, arrival),
            }
        }
        self.notify();
    }

    fn publish_changed(&mut self, row: Row, before: ContainerState, arrival: Option<(Arc<ContainerRequest>, Fit)>) {
        if before != row.life.state {
            *self.counts.entry(row.life.state).or_default() += 1;
            if let Some(count) = self.counts.get_mut(&before) {
                *count = count.saturating_sub(1);
            }
        }
        let entry = match (self.entries.get(&row.uuid), arrival) {
            (Some(known), _) => changed_entry(known, &row),
            (None, Some((request, fit))) if !row.life.state.is_final() => new_entry(&row, request, fit),
            // It was forgotten, so nobody schedules it: its row in the database is enough.
            (None, _) => return,
        };
        self.entries.insert(row.uuid, Versioned::new(entry));
    }

    /// Puts newly computed types in place (a reload).
    pub(super) fn refit(&mut self, fits: Vec<(ContainerUuid, Fit)>) {
        for (uuid, (resources, instance_types)) in fits {
            if let Some(entry) = self.entries.get_mut(&uuid) {
                let entry = entry.make_mut();
                (entry.resources, entry.instance_types) = (resources, instance_types);
            }
        }
        self.notify();
    }

    pub(super) fn forget(&mut self, uuid: &ContainerUuid) {
        let forgettable = self.entries.get(uuid).is_some_and(|entry| {
            let container = &entry.container;
            container.state.is_final() || container.state == ContainerState::Queued && container.priority == 0
        });
        if forgettable {
            self.entries.remove(uuid);
            self.notify();
        }
    }

    /// A purged container is gone from the database.
    pub(super) fn purged(&mut self, uuid: &ContainerUuid, state: ContainerState) {
        self.entries.remove(uuid);
        if let Some(count) = self.counts.get_mut(&state) {
            *count = count.saturating_sub(1);
        }
    }

    pub(super) fn subscribe(&mut self) -> Receiver<()> {
        let (sender, receiver) = bounded(1);
        self.subscribers.push(sender);
        receiver
    }

    /// A full slot means "already told"; a subscriber that is gone is dropped, so that none leaks.
    pub(super) fn notify(&mut self) {
        self.subscribers.retain(|sender| !matches!(sender.try_send(()), Err(TrySendError::Disconnected(()))));
    }
}

pub(super) fn new_entry(row: &Row, request: Arc<ContainerRequest>, fit: Fit) -> QueueEntry {
    let (resources, instance_types) = fit;
    let first_seen = u64::try_from(row.id).unwrap_or(0);
    QueueEntry {
        container: row.container(request),
        resources,
        instance_types,
        first_seen,
        ready: row.life.waiting == 0,
    }
}

fn changed_entry(known: &QueueEntry, row: &Row) -> QueueEntry {
    let container: Container = row.container(Arc::clone(&known.container.request));
    QueueEntry {
        container,
        resources: known.resources,
        instance_types: Arc::clone(&known.instance_types),
        first_seen: known.first_seen,
        ready: row.life.waiting == 0,
    }
}
