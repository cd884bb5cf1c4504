//! What the core orders the shell to do, and the notes and figures it wants recorded.
//!
//! Effects are orders, in the order they were given. Notifications, destroys, tag saves, probes and lists may be lost:
//! they are asked for again. Creates, starts, kills, reaps, collects and forgets are operations with a deadline of their own in the
//! core (spec 20 §10.7).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use super::ids::{Attempt, ContainerUuid, InstanceId, InstanceSecret, OperationId};
use super::instance_type::InstanceType;
use super::time::Moment;
use super::vocabulary::{BootOutcome, WorkerState};

/// Instance tags by full name, prefix included. `Debug` hides the value of an instance secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a tag of this name, whatever its prefix, has an instance's secret for its value.
    pub fn is_secret(name: &str) -> bool {
        name.ends_with("InstanceSecret")
    }
}

impl Deref for Tags {
    type Target = BTreeMap<String, String>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Tags {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl From<BTreeMap<String, String>> for Tags {
    fn from(tags: BTreeMap<String, String>) -> Self {
        Self(tags)
    }
}

impl FromIterator<(String, String)> for Tags {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(tags: I) -> Self {
        Self(tags.into_iter().collect())
    }
}

impl IntoIterator for Tags {
    type Item = (String, String);
    type IntoIter = std::collections::btree_map::IntoIter<String, String>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Tags {
    type Item = (&'a String, &'a String);
    type IntoIter = std::collections::btree_map::Iter<'a, String, String>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |name: &str, value| if Self::is_secret(name) { "***" } else { value };
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, shown(name, value.as_str())))).finish()
    }
}

/// A command to the runner of one container on one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerOrder {
    pub operation: OperationId,
    pub instance: InstanceId,
    pub uuid: ContainerUuid,
    /// 0 = not known (a runner that does not tell): then no `--attempt` is passed.
    pub attempt: Attempt,
}

/// Why an instance is destroyed: a driver whose machines come back does not give out a faulty one at once (spec 46 §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Idle, drained, or an operator's wish.
    Unwanted,
    /// The same before it ever was in service: that says nothing of it.
    Unproven,
    Faulty(Fault),
}

/// What is wrong with an instance. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Not in service within TimeoutBooting.
    NotBooted,
    /// No answer for TimeoutProbe.
    Unresponsive,
    /// By its runner's word, or because a stale lock resists.
    Broken,
    /// Much less than its type says.
    TooSmall { cpus: i64, cpus_of_type: i64, ram: i64, ram_of_type: i64 },
}

/// For people: what is wrong, and what to do about it.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBooted => f.write_str("it was not in service within TimeoutBooting; the log says why"),
            Self::Unresponsive => f.write_str("it did not answer for TimeoutProbe"),
            Self::Broken => f.write_str("its runner reported it as broken; the log says more"),
            Self::TooSmall { cpus, cpus_of_type, ram, ram_of_type } => write!(
                f,
                "it has {cpus} CPUs and {} MiB RAM, its type says {cpus_of_type} CPUs and {} MiB: correct InstanceTypes, or give it \
                 another type",
                ram >> 20,
                ram_of_type >> 20
            ),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer with `Pool::create_finished`.
    CreateInstance {
        operation: OperationId,
        instance_type: Arc<InstanceType>,
        tags: Tags,
        secret: InstanceSecret,
    },
    /// Not answered: the next list shows it, or the sync asks again.
    DestroyInstance {
        instance: InstanceId,
        /// Tells which life of an instance is meant, where ids come again.
        secret: Option<InstanceSecret>,
        ending: Ending,
    },
    /// Not answered. The whole set of tags the instance shall have.
    SaveTags {
        instance: InstanceId,
        tags: Tags,
    },
    /// Answer with `Pool::start_returned` or `Pool::start_refused`.
    StartContainer(RunnerOrder),
    /// Answer with `Pool::kill_returned`.
    KillRunner(RunnerOrder),
    /// Answer with `Pool::collect_returned`, and after that with `Pool::forget_returned`.
    CollectResult(RunnerOrder),
    /// Answer with `Pool::reap_returned`.
    ReapRunner(RunnerOrder),
    /// A worker was added: give it an executor and a thread.
    OpenWorker {
        instance: InstanceId,
        secret: Option<InstanceSecret>,
    },
    /// The address or the user to connect to, for the next connection.
    Retarget {
        instance: InstanceId,
        address: String,
        remote_user: String,
    },
    /// The worker is being shut down: cancel what is in flight, close its connections.
    CutConnections {
        instance: InstanceId,
    },
    /// The instance is gone: end the thread, drop the executor.
    CloseWorker {
        instance: InstanceId,
    },
    /// Start a probe round of this worker now (or at the end of the present one).
    ProbeSoon {
        instance: InstanceId,
    },
    /// Make a list of instances now.
    ListSoon,
    /// Something changed that may matter for scheduling.
    NotifySubscribers,
    Log(Note),
    Observe(Figure),
}

/// Importance of a log line, as spec 80 §4 defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// One log line: the shell writes it as it stands. Secrets are never part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub level: Level,
    pub target: &'static str,
    pub message: &'static str,
    /// In the order they are to be written; names as in spec 80 §4.
    pub fields: Vec<(&'static str, String)>,
    /// When something goes on again: the shell, which knows the time of day, writes it as `ResumeTime`.
    pub resumes_at: Option<Moment>,
}

impl Note {
    pub fn new(level: Level, target: &'static str, message: &'static str) -> Self {
        Self { level, target, message, fields: Vec::new(), resumes_at: None }
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }

    #[must_use]
    pub fn resuming_at(mut self, at: Moment) -> Self {
        self.resumes_at = Some(at);
        self
    }
}

/// One observation for the metrics (spec 82 §5).
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    BootOutcome(BootOutcome),
    Disappeared(WorkerState),
    TimeToSsh(Duration),
    TimeToReady(Duration),
    TimeFromShutdownToDisappearance(Duration),
    /// A start returned: the shell adds the time since the container's creation.
    StartReturned(ContainerUuid),
}

/// Effects in the order they were given.
#[must_use = "effects that are dropped never happen"]
#[derive(Debug, Default)]
pub struct Effects(Vec<Effect>);

impl Effects {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    pub fn log(&mut self, note: Note) {
        self.0.push(Effect::Log(note));
    }

    pub fn notify(&mut self) {
        self.0.push(Effect::NotifySubscribers);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_vec(self) -> Vec<Effect> {
        self.0
    }
}

/// A duration for people: seconds with three decimals.
pub fn seconds(duration: Duration) -> String {
    format!("{:.3}s", duration.as_secs_f64())
}
