//! The driver `static`: hosts you already have, reached by SSH (spec 46 §1).
//!
//! A host is an instance while it is taken; its name is the instance's id. Who has it is said twice: in the state file here, which is
//! written before anything there is touched, and in an owner file there, for other dispatchers that know the same host. A host that
//! is given up is cleaned up before it is anybody's again, however long that takes.
//!
//! Reading order: [`host`] (the states of one host) and [`table`] (all of them): decisions without effects; [`record`] and
//! [`state_file`] (what survives); [`shared`] (table and file behind one lock); [`trust`] (host keys), [`claim`], [`cleanup`] (what
//! is done there); [`background`] (threads).

mod background;
mod claim;
mod cleanup;
mod host;
mod record;
mod shared;
mod state_file;
mod table;
mod trust;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use background::Background;
pub use background::Spawn;
pub use host::HostSpec;
use host::{Event, Host, Kind, Lease, Phase, Problem};
pub use shared::Clock;
use shared::{Shared, instance};
use state_file::StateFile;

use super::{Access, CloudError, CloudEvents, CloudInstance, InstanceSet, NewInstance, Traits, UnlistedInstance};
use crate::core::effect::{Ending, Level, Note, Tags};
use crate::core::errors::chain;
use crate::core::ids::{InstanceId, InstanceSecret, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::pool::limits::CapacityScope;
use crate::core::vocabulary::IdleBehavior;
use crate::log::write_note;
use crate::remote::Connector;
use crate::remote::runner::RunnerPlaces;

/// After this a create tries no further host: together with the last one's it stays within what the pool allows a create.
const CREATE_LIMIT: Duration = Duration::from_secs(300);

/// Where the runner's things are on a host.
pub type Places = Arc<dyn Fn(&InstanceId) -> RunnerPlaces + Send + Sync>;

/// What the driver is made from.
pub struct StaticOptions {
    /// Ids and addresses are different.
    pub hosts: Vec<HostSpec>,
    /// Its directory exists.
    pub state_file: PathBuf,
    /// Our instance set id.
    pub set: String,
    pub cluster_id: String,
    /// Begins the names of our tags.
    pub tag_prefix: String,
    /// Run as root, or with sudo, on each host that is taken; empty: nothing. It may run twice on one.
    pub init_command: String,
    pub places: Places,
    pub connector: Arc<dyn Connector>,
    pub events: CloudEvents,
    pub spawn: Spawn,
    pub clock: Clock,
}

impl std::fmt::Debug for StaticOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticOptions").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

/// See the module. Dropping it stops it.
pub struct StaticHosts {
    shared: Arc<Shared>,
    places: Places,
    init_command: String,
}

impl std::fmt::Debug for StaticHosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticHosts").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl StaticHosts {
    /// Reads what a predecessor left, and starts the background's thread. Hosts that were being taken or cleaned up are cleaned up.
    ///
    /// # Errors
    /// The state file cannot be read or written, is damaged, is another dispatcher's, or another daemon has it; or there is no
    /// thread. The text names the file and says what to do.
    pub fn open(options: StaticOptions) -> io::Result<Self> {
        let StaticOptions { hosts, state_file, set, cluster_id, tag_prefix, .. } = options;
        let (file, bytes) = StateFile::open(&state_file)?;
        let mut table = record::read(bytes.as_deref(), hosts, &set, (options.clock)())
            .map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, format!("{} {fault}", state_file.display())))?;
        for host in table.hosts.values_mut().filter(|host| !host.configured) {
            drain(host, &format!("{tag_prefix}IdleBehavior"));
        }
        let shared = Arc::new(Shared::new(set, options.connector, options.clock, options.events, (table, file)));
        // Now, so that a file that cannot be written is known before anything depends on it.
        shared.save().map_err(|error| io::Error::other(chain(&error)))?;
        let driver =
            Self { shared: shared.clone(), places: options.places.clone(), init_command: options.init_command };
        let background =
            Background { shared, places: options.places, cluster_id: cluster_id.into(), spawn: options.spawn };
        background.start()?;
        Ok(driver)
    }

    /// Has the background look for what is due by the clock that it was given; it does so by itself when real time passes.
    pub fn look(&self) {
        self.shared.look();
    }

    /// How often the state file was written: with many changes at once less often than there are changes.
    pub fn writes(&self) -> u64 {
        self.shared.writes()
    }

    /// Tries one host for a create. `false`: it cannot be had, and another may.
    fn try_host(&self, spec: &HostSpec) -> Result<bool, CloudError> {
        let session = self.shared.session(spec).map_err(|error| CloudError::other("cannot make a connection", error));
        let session = session.map_err(|error| self.give_up(spec, error))?;
        let places = (self.places)(&spec.id);
        match claim::claim(&*session.executor, &self.shared.set, &places, &self.init_command) {
            Ok(()) => {
                let written = self.shared.change(&spec.id, Event::Claimed);
                written.map(|()| true).map_err(|error| self.give_up(spec, error))
            }
            Err(claim::Refusal { problem, touched }) => {
                let note = Note::new(Level::Warn, "hosts", "host cannot be taken; another one is tried");
                let note = note.with("Instance", &spec.id).with("Address", &spec.address);
                write_note(&note.with("Reason", problem.kind.as_str()).with("error", &problem.detail));
                self.shared.note(&spec.id, Event::ClaimFailed { problem, touched });
                Ok(false)
            }
        }
    }

    /// For a create that ends for a reason of ours.
    fn give_up(&self, spec: &HostSpec, error: CloudError) -> CloudError {
        let problem = Problem { kind: Kind::Failed, detail: chain(&error) };
        self.shared.note(&spec.id, Event::ClaimFailed { problem, touched: true });
        error
    }
}

/// A host that is not configured any more goes on until it is idle. An operator's hold stays.
fn drain(host: &mut Host, tag: &str) {
    let Phase::Taken(lease) = &mut host.phase else { return };
    let behavior = lease.tags.get(tag).map(String::as_str).unwrap_or_default();
    if behavior != IdleBehavior::Hold.as_str() {
        let message = "host is not configured any more; it is drained, and given back when nothing runs there";
        write_note(&Note::new(Level::Warn, "hosts", message).with("Instance", &host.spec.id));
        lease.tags.insert(tag.to_owned(), IdleBehavior::Drain.as_str().to_owned());
    }
}

impl InstanceSet for StaticHosts {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        let lease = Lease {
            type_name: TypeName::new(&new.instance_type.name),
            provider_type: new.instance_type.provider_type.clone(),
            tags: new.tags.clone(),
        };
        let began = Instant::now();
        while began.elapsed() < CREATE_LIMIT {
            match self.shared.take(&lease)? {
                Ok(spec) if self.try_host(&spec)? => return Ok(instance(&spec, &lease)),
                Ok(_) => {}
                Err(shortage) => return Err(no_host(&lease.type_name, &shortage)),
            }
        }
        Err(no_host(&lease.type_name, &self.shared.shortage(&lease.type_name)))
    }

    fn list(&self, _tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        Ok(self.shared.list())
    }

    /// The clean-up goes on in the background; until it has been tried once the instance is listed.
    fn destroy(&self, id: &InstanceId, ending: Ending) -> Result<(), CloudError> {
        self.shared.change(id, Event::Destroyed(ending))
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        self.shared.change(id, Event::TagsSet(tags.clone()))
    }

    /// No two types share hosts.
    fn quota_group(&self, instance_type: &InstanceType) -> String {
        instance_type.name.clone()
    }

    fn traits(&self) -> Traits {
        Traits { cheap_list: true, exact_list: true, instances_max: None }
    }

    /// The secret is of no use: it would be written over the same connection that it is to prove.
    fn open(&self, id: &InstanceId, _secret: Option<&InstanceSecret>) -> io::Result<Access> {
        let spec = self.shared.spec(id).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("the host {id} is neither configured nor in use"))
        })?;
        Ok(Access { executor: self.shared.executor(&spec)?, places: (self.places)(id) })
    }

    fn unlisted(&self) -> Vec<UnlistedInstance> {
        self.shared.read(table::Table::unlisted)
    }

    fn stop(&self) {
        self.shared.stop();
    }
}

fn no_host(type_name: &TypeName, shortage: &table::Shortage) -> CloudError {
    let message = format!("no free host of the type {type_name}: {shortage}");
    CloudError::Capacity { message, scope: CapacityScope::Type }
}

impl Drop for StaticHosts {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
