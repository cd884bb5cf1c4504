//! What the scheduler and the management API see of the pool: a snapshot without any reference into it (spec 20 §6).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use crate::core::ids::{Attempt, ContainerUuid, InstanceId, OperationId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::pool::limits::LimitInForce;
use crate::core::time::Moment;
use crate::core::versioned::Versioned;
use crate::core::vocabulary::{IdleBehavior, WorkerState};
use crate::core::worker::collect::StorageFault;

/// After a restart an instance must be missing from lists at least this far apart before its attempts are lost (spec 70 §3).
pub const GONE_AFTER: Duration = Duration::from_secs(30);

/// An existing instance, or a create that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceKey {
    /// The create that will make it. Sorts before all instances, like the empty id it is shown with.
    Create(OperationId),
    Instance(InstanceId),
}

/// One worker or one unfinished create.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceView {
    pub key: InstanceKey,
    /// `host` or `host:port`; empty while unknown.
    pub address: String,
    pub type_name: TypeName,
    /// `None` if the type is not configured any more.
    pub instance_type: Option<Arc<InstanceType>>,
    pub state: WorkerState,
    pub idle_behavior: IdleBehavior,
    /// Starting and running containers, sorted; without the collecting ones, which hold no resources.
    pub containers: Vec<ContainerUuid>,
    /// Containers whose result is being fetched, sorted.
    pub collecting: Vec<ContainerUuid>,
    pub last_container: Option<ContainerUuid>,
    /// `None` for an unfinished create.
    pub last_busy: Option<Moment>,
    /// Why a result that waits there cannot be stored here, if so.
    pub storage_fault: Option<StorageFault>,
}

impl InstanceView {
    /// The instance's id; `None` while it is being created.
    pub fn id(&self) -> Option<&InstanceId> {
        match &self.key {
            InstanceKey::Instance(id) => Some(id),
            InstanceKey::Create(_) => None,
        }
    }

    /// Per hour; 0 for a type that is not configured any more.
    pub fn price(&self) -> f64 {
        self.instance_type.as_ref().map_or(0.0, |instance_type| instance_type.price)
    }
}

/// How far a container is on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its start was asked for and no probe has listed it. (After the start returned the worker counts it as running.)
    Starting,
    /// A probe has listed it.
    Running,
    /// Its runner has ended and its result is being fetched.
    Collecting,
}

/// A container on a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub instance: InstanceId,
    /// 0 = not known (a runner that does not tell).
    pub attempt: Attempt,
    pub phase: Phase,
    /// A kill was asked for and has not been given up.
    pub killing: bool,
    /// Killing it was given up (TimeoutTERM).
    pub given_up: bool,
}

/// Where a container is, or was last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// Every worker that has it starting, running or collecting, sorted by instance; normally one.
    pub places: Vec<Place>,
    /// When its runner was seen to have ended without a result waiting; `None` while it has a place or was never here.
    pub exited: Option<Exit>,
}

/// A runner that ended (spec 20 §6, the *exited* map).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub at: Moment,
    /// 0 = not known.
    pub attempt: Attempt,
    /// It is known to have run there: seen, or told by the host.
    pub has_run: bool,
}

impl Whereabouts {
    /// A runner of it may be alive somewhere.
    pub fn is_alive(&self) -> bool {
        self.places.iter().any(|place| place.phase != Phase::Collecting)
    }

    pub fn is_collecting(&self) -> bool {
        self.places.iter().any(|place| place.phase == Phase::Collecting)
    }
}

/// What failed boots mean for a type (spec 20 §6, circuit breaker).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerView {
    pub failures_in_a_row: u32,
    /// It takes a success to create more than one at a time.
    pub is_tripped: bool,
    /// No create before this; `None`: the pause is over, or there was none.
    pub paused_until: Option<Moment>,
    /// One line.
    pub last_error: String,
}

/// For people, without the time of the pause's end.
impl fmt::Display for BreakerView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.failures_in_a_row == 1 { "" } else { "s" };
        write!(f, "{} instance{plural} in a row failed to boot", self.failures_in_a_row)?;
        match (self.is_tripped, self.paused_until) {
            (true, Some(_)) => f.write_str(", none is created")?,
            (true, None) => f.write_str(", one at a time is tried")?,
            (false, _) => {}
        }
        if self.last_error.is_empty() { Ok(()) } else { write!(f, ": {}", self.last_error) }
    }
}

/// The whole pool at one instant. Persistent: taking it costs the same however many workers and containers there are (while no type is
/// on trial after failed boots), and something for each configured type.
#[derive(Clone, Debug, Default)]
pub struct PoolView {
    pub instances: OrdMap<InstanceKey, Versioned<InstanceView>>,
    /// Containers that are somewhere, or were seen to have exited and are not forgotten yet.
    pub containers: OrdMap<ContainerUuid, Versioned<Whereabouts>>,
    pub at_quota: bool,
    /// Creates that would be accepted now, whatever the type: what MaxInstances and MaxConcurrentInstanceCreateOps leave; 0
    /// while creates are suspended or the runner cannot be loaded.
    pub creates_accepted: usize,
    /// Why no create would be accepted, if it is not the quota, a pause, or the number of creates under way. For people.
    pub creates_refused: Option<String>,
    /// How many more instances until MaxInstances puts the pool at quota; `usize::MAX` without a limit.
    pub quota_room: usize,
    /// Configured types that `at_capacity` is true for.
    pub at_capacity: BTreeSet<TypeName>,
    /// Until when the provider is not asked for these.
    pub capacity_until: BTreeMap<TypeName, Moment>,
    /// Until when no create of these is tried, since creates of them failed for no known reason.
    pub failing_until: BTreeMap<TypeName, Moment>,
    /// For people.
    pub limits: Vec<LimitInForce>,
    /// Types whose last boot failed.
    pub breakers: BTreeMap<TypeName, BreakerView>,
    /// The first list of the cloud was applied.
    pub loaded: bool,
    /// Start times of the first and the last list that were applied.
    pub first_list: Option<Moment>,
    pub last_list: Option<Moment>,
    /// Instances that this process saw and that then disappeared.
    pub departed: OrdSet<InstanceId>,
    /// When a worker last stopped being `unknown`; `None` = never one.
    pub last_unknown_resolved: Option<Moment>,
    /// Results cannot be stored now: nothing new may start (spec 70 §3, disk full). Ends when none that waits has failed for that at the last try.
    pub storage_fault: Option<StorageFault>,
}

impl PoolView {
    pub fn has_unknown(&self) -> bool {
        self.instances.values().any(|view| view.state == WorkerState::Unknown)
    }

    pub fn instance(&self, id: &InstanceId) -> Option<&InstanceView> {
        self.instances.get(&InstanceKey::Instance(id.clone())).map(|view| &**view)
    }

    /// The instance does not exist any more, as far as can be known: it left while we watched, or lists
    /// [`GONE_AFTER`] apart lacked it.
    pub fn is_gone(&self, id: &InstanceId) -> bool {
        if self.instance(id).is_some() {
            return false;
        }
        let lists_apart = match (self.first_list, self.last_list) {
            (Some(first), Some(last)) => last.since(first) >= GONE_AFTER,
            _ => false,
        };
        lists_apart || self.departed.contains(id)
    }
}
