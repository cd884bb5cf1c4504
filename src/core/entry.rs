//! The queue as the scheduler sees it: containers with what was computed for them, in one snapshot.

use std::sync::Arc;

use imbl::OrdMap;

use super::container::Container;
use super::ids::ContainerUuid;
use super::instance_type::InstanceType;
use super::resources::Resources;
use super::time::Moment;
use super::versioned::Versioned;

/// What the scheduler works on: a container and what was computed once when it was first seen.
#[derive(Clone, Debug)]
pub struct QueueEntry {
    pub container: Container,
    pub resources: Resources,
    /// Eligible types, cheapest first. Empty only for a container that is Running although no configured type fits any more.
    pub instance_types: Arc<[Arc<InstanceType>]>,
    /// Order of arrival: smaller came earlier. The local queue uses its row number, which survives a restart.
    pub first_seen: u64,
    /// False while something in `after` is not Complete yet: the entry is listed but not scheduled.
    pub ready: bool,
}

/// A snapshot of the queue.
#[derive(Clone, Debug, Default)]
pub struct QueueSnapshot {
    /// Sorted by uuid. Persistent: taking a snapshot costs the same whatever its size, and a change while one is held copies a path.
    pub entries: OrdMap<ContainerUuid, Versioned<QueueEntry>>,
    /// When the last complete refresh *began*: a decision based on an exit that was seen at T is valid only if this is later
    /// than T (spec 20 §6).
    pub as_of: Moment,
}
